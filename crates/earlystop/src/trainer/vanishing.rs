//! Reads a folder from which another process deletes files.

use std::io::ErrorKind;

use crate::error::{Error, Result};

/// How often a folder is read where files are deleted since they were listed.
const TRIES: u32 = 20;

/// Reads from a folder, again where a file was deleted since it was listed: another process that trains in the folder deletes
/// old checkpoints. `read` learns whether it is the last try, in which a file that is not there is one that cannot be used, such
/// as a link that leads nowhere.
pub(super) fn while_files_go<T>(mut read: impl FnMut(bool) -> Result<T>) -> Result<T> {
    for _ in 1..TRIES {
        match read(false) {
            Err(error) if is_gone(&error) => {}
            outcome => return outcome,
        }
    }
    read(true)
}

/// Returns whether a file was deleted since it was listed.
pub(super) fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::NotFound)
}
