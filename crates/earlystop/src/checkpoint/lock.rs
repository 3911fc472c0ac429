//! One writer for each folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use super::files::io_error;
use crate::{Error, Result};

/// Held by the store that saves into a folder. The system takes it back when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of a folder, or says at once who has it.
    ///
    /// The lock is on the file `.lock`, which stays there: a file that is deleted could be locked twice.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(".lock");
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(io_error(&path, "open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Locked { folder: folder.to_owned(), holder: read_holder(&mut file) });
            }
            Err(TryLockError::Error(error)) => return Err(io_error(&path, "lock")(error)),
        }
        // For the message of the next one only, so a full disk is no reason to give up.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Lock { file })
    }
}

/// Lets go by name: a child that another thread is just starting has a copy of the descriptor until it runs its program, and
/// closing ours alone would leave the lock with it.
impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

fn read_holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_the_lock_until_the_first_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap();
        let error = Lock::take(dir.path()).unwrap_err();
        let expected = "another store of this process saves into this folder: drop that one first";
        assert_eq!(error.to_string(), format!("{}: {expected}", dir.path().display()));
        drop(first);
        Lock::take(dir.path()).unwrap();
    }
}
