//! What a file system does not guarantee.

use std::fmt;
use std::path::PathBuf;

/// A guarantee that could not be given, although the checkpoint was saved: the file system does not offer what it takes.
///
/// From [`Saver::save`](super::Saver::save) and [`Store::warnings`](super::Store::warnings).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The file system has no locks, so another machine could save into the folder at the same time.
    NotLocked {
        /// The folder of the store.
        folder: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// A file or a folder could not be synced to the disk, so a power failure may lose the newest checkpoint.
    NotSynced {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The file that was replaced had permissions that the new one could not be given. Only its owner can read it now.
    PermissionsChanged {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::NotLocked { folder, reason } => write!(
                f,
                "{}: this file system has no locks, so make sure that nobody else saves into this folder ({reason})",
                folder.display()
            ),
            Warning::NotSynced { path, reason } => write!(
                f,
                "{}: cannot be synced to the disk, so a power failure may lose the newest checkpoint ({reason})",
                path.display()
            ),
            Warning::PermissionsChanged { path, reason } => {
                write!(f, "{}: the permissions of the file that was replaced cannot be kept ({reason})", path.display())
            }
        }
    }
}
