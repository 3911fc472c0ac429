//! File operations: those that tests can make fail, and reading and writing at a position.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::Warning;
use crate::Result;
use crate::error::io_error;

/// The operations that a save consists of, so that tests can let each of them fail.
pub(super) trait Files: Debug + Send + Sync {
    /// Creates a file that did not exist. A private one can be read by its owner alone.
    fn create(&self, path: &Path, is_private: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        #[cfg(unix)]
        if is_private {
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        }
        options.write(true).create_new(true).open(path)
    }
    /// Writes at a position as many of the bytes as the system takes at once.
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
        write_at(file, bytes, at)
    }
    /// Gives a file the mode of another and, if the system permits, its owner and group.
    fn copy_permissions(&self, file: &File, from: &fs::Metadata) -> io::Result<()> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
            // Only a privileged process may give a file away. The mode comes last: a change of owner clears bits of it.
            let _ = fchown(file, Some(from.uid()), Some(from.gid())).or_else(|_| fchown(file, None, Some(from.gid())));
            file.set_permissions(fs::Permissions::from_mode(from.mode() & 0o7777))
        }
        #[cfg(not(unix))]
        Ok(())
    }
    /// Waits until a file's content is on the disk.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }
    /// Gives a file another name, replacing what bore it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
    /// Waits until a folder's names are on the disk.
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        // Windows has no such operation; NTFS journals names by itself.
        if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
    }
    /// Deletes a file.
    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    /// Locks a file, or says that somebody else has locked it.
    fn try_lock(&self, file: &File) -> Result<(), TryLockError> {
        file.try_lock()
    }
    /// Locks a file, and waits until it is no longer locked.
    fn lock(&self, file: &File) -> io::Result<()> {
        file.lock()
    }
}

/// The real disk.
#[derive(Debug)]
pub(super) struct Disk;

impl Files for Disk {}

/// Returns whether the file system does not offer an operation, as opposed to one that failed.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    #[cfg(unix)]
    let is_code = matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOLCK | libc::ENOTTY));
    #[cfg(not(unix))]
    let is_code = false;
    is_code || error.kind() == ErrorKind::Unsupported // ENOSYS, EOPNOTSUPP
}

/// The folder that holds `path`.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Syncs a folder. Some file systems have no such operation, and a folder that cannot be listed cannot be synced either.
pub(super) fn sync_folder(files: &dyn Files, folder: &Path) -> io::Result<Option<Warning>> {
    match files.sync_folder(folder) {
        Err(error) if is_unsupported(&error) || error.kind() == ErrorKind::PermissionDenied => {
            Ok(Some(Warning::NotSynced { path: folder.to_owned(), reason: error.to_string() }))
        }
        synced => synced.map(|()| None),
    }
}

/// Returns the path of the file that a save replaces: the end of a chain of symbolic links. It need not exist.
pub(super) fn follow_links(path: &Path) -> Result<PathBuf> {
    const MAX_LINKS: usize = 40; // as on Linux
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&target) {
            Ok(link) => target = folder_of(&target).join(link),
            Err(_) => return Ok(target),
        }
    }
    let error = io::Error::new(ErrorKind::InvalidInput, "they form a loop");
    Err(io_error(path, "follow its symbolic links")(error))
}

/// Opens a file for reading, and refuses directories and devices.
pub(super) fn open_regular(path: &Path) -> Result<File> {
    // Before the file is opened: opening a pipe would wait for its writer.
    let metadata = fs::metadata(path).map_err(io_error(path, "open"))?;
    if !metadata.is_file() {
        let problem = "it is a directory or a device, not a file";
        return Err(io_error(path, "read")(io::Error::new(ErrorKind::InvalidInput, problem)));
    }
    File::open(path).map_err(io_error(path, "open"))
}

/// Reads at a position until the buffer is full or the file ends. Returns how much it read.
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        let (rest, at) = (&mut buffer[length..], offset + length as u64);
        #[cfg(unix)]
        let result = std::os::unix::fs::FileExt::read_at(file, rest, at);
        #[cfg(windows)]
        let result = std::os::windows::fs::FileExt::seek_read(file, rest, at);
        match result {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Writes at a position as many of the bytes as the system takes at once.
pub(super) fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_at(file, bytes, at);
    #[cfg(windows)]
    return std::os::windows::fs::FileExt::seek_write(file, bytes, at);
}

/// Writes all bytes at a position.
pub(super) fn write_all_at(files: &dyn Files, file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match files.write_at(file, bytes, at) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => (bytes, at) = (&bytes[count..], at + count as u64),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
