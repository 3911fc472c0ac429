//! What happens while data is loaded.

use std::fmt;
use std::path::PathBuf;

/// Progress of [`Mnist::load`](super::Mnist::load). Its `Display` is one line for the user.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LoadEvent {
    /// A download starts.
    Downloading {
        /// The address.
        source: String,
        /// The length in bytes, if the source reports it.
        bytes: Option<u64>,
    },
    /// A file was found in a folder of this machine, and is copied.
    Copying {
        /// The file.
        path: PathBuf,
    },
    /// Another part was downloaded.
    Received {
        /// The bytes downloaded so far.
        bytes: u64,
        /// The length in bytes, if the source reports it.
        total: Option<u64>,
    },
    /// A source failed. The next one is tried.
    Unavailable {
        /// The source and the reason.
        reason: String,
    },
    /// A file is read.
    Extracting {
        /// The file, below the folder as the caller named it.
        path: PathBuf,
    },
}

impl fmt::Display for LoadEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        match self {
            LoadEvent::Downloading { source, bytes: Some(bytes @ ..1_000_000) } => {
                write!(f, "Downloading {source} ({} kB)", bytes / 1000)
            }
            LoadEvent::Downloading { source, bytes: Some(bytes) } => {
                write!(f, "Downloading {source} ({:.1} MB)", megabytes(*bytes))
            }
            LoadEvent::Downloading { source, bytes: None } => write!(f, "Downloading {source}"),
            LoadEvent::Copying { path } => write!(f, "Copying {}", path.display()),
            LoadEvent::Received { bytes, total: Some(total) } => {
                write!(f, "- {:.1} of {:.1} MB", megabytes(*bytes), megabytes(*total))
            }
            LoadEvent::Received { bytes, total: None } => write!(f, "- {:.1} MB", megabytes(*bytes)),
            LoadEvent::Unavailable { reason } => write!(f, "Unavailable: {reason}"),
            LoadEvent::Extracting { path } => write!(f, "Extracting {}", path.display()),
        }
    }
}
