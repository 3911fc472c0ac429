//! What can go wrong, in one enum.
//!
//! Every message carries all there is to know (path, name, what was expected, what was found and the cause below it),
//! because a notebook's `?` prints the outer message alone.

use std::path::PathBuf;

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read, written or renamed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb: "read", "create the folder".
        action: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// libtorch refused an operation.
    #[error("{context}: libtorch: {source}")]
    Torch {
        /// What was being done.
        context: String,
        /// What libtorch said.
        source: tch::TchError,
    },
}
