//! Writes a file so that a crash at any instant leaves the old one or the new one.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// The operations that a save consists of, so that tests can let each of them fail.
pub(super) trait Files: Debug + Send + Sync {
    /// Creates a file that did not exist.
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).open(path)
    }
    /// Writes as many of the bytes as the system takes at once.
    fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut file, bytes)
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
}

/// The real disk.
#[derive(Debug)]
pub(super) struct Disk;

impl Files for Disk {}

/// An [`Error::Io`] that says what could not be done to `path`.
pub(super) fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { path: path.to_owned(), action, source }
}

/// The folder that holds `path`.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes `parts`, one after another, to `path` by way of a temporary file beside it.
///
/// After an error before the last step the old file is untouched; when only the last step fails, the new file is in
/// place, but a power failure may still bring the old one back.
pub(super) fn write_atomically(files: &dyn Files, path: &Path, parts: &[Vec<u8>]) -> Result<()> {
    let (temporary, file) = create_temporary(files, path)?;
    let written = write_and_move(files, &temporary, file, path, parts);
    if written.is_err() {
        // The first error counts; what cannot be deleted now is a leftover for the next save.
        let _ = files.remove(&temporary);
        return written;
    }
    files.sync_folder(folder_of(path)).map_err(io_error(path, "sync its folder to the disk"))
}

fn write_and_move(files: &dyn Files, temporary: &Path, file: File, path: &Path, parts: &[Vec<u8>]) -> Result<()> {
    // A lock tells a temporary file in the making from one that a dead process left. Where a file system has no locks,
    // none is ever taken for dead.
    let _ = file.lock();
    for mut rest in parts.iter().map(Vec::as_slice) {
        while !rest.is_empty() {
            match files.write(&file, rest) {
                Ok(0) => return Err(io_error(path, "write its temporary file")(ErrorKind::WriteZero.into())),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(io_error(path, "write its temporary file")(error)),
            }
        }
    }
    files.sync(&file).map_err(io_error(path, "sync its temporary file to the disk"))?;
    files.rename(temporary, path).map_err(io_error(path, "move its temporary file into place"))
}

/// `.NAME.PID-NANOSECONDS.tmp`: no two savers ever share one, and no name comes again. Else one that is just found to be
/// abandoned could be another saver's when it is deleted.
fn create_temporary(files: &dyn Files, path: &Path) -> Result<(PathBuf, File)> {
    let mut prefix = temporary_prefix(path)?;
    prefix.push(std::process::id().to_string());
    loop {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut name = prefix.clone();
        name.push(format!("-{}.tmp", time.as_nanos()));
        let temporary = path.with_file_name(name);
        match files.create(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error(path, "create a temporary file beside it")(error)),
        }
    }
}

fn temporary_prefix(path: &Path) -> Result<OsString> {
    let no_name = || io::Error::new(ErrorKind::InvalidInput, "the path does not end in a file name");
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().ok_or_else(no_name).map_err(io_error(path, "save"))?);
    prefix.push(".");
    Ok(prefix)
}

/// Deletes the temporary files that savers to `path` left behind when they were killed.
pub(super) fn remove_leftovers(files: &dyn Files, path: &Path) {
    let Ok(prefix) = temporary_prefix(path) else { return };
    for temporary in temporaries(folder_of(path), prefix.as_encoded_bytes()) {
        if is_abandoned(&temporary) {
            let _ = files.remove(&temporary);
        }
    }
}

/// The files in the folder that [`write_atomically`] may have left there, by what their names start with.
pub(super) fn temporaries(folder: &Path, prefix: &[u8]) -> Vec<PathBuf> {
    let is_temporary = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.as_encoded_bytes().starts_with(prefix) && name.as_encoded_bytes().ends_with(b".tmp")
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(is_temporary).map(|entry| entry.path()).collect()
}

/// Whether nobody writes the file any more. A saver locks its file before the first byte, so an empty one may be
/// anybody's.
fn is_abandoned(path: &Path) -> bool {
    let Ok(file) = OpenOptions::new().write(true).open(path) else {
        return false;
    };
    file.try_lock().is_ok() && file.metadata().is_ok_and(|metadata| metadata.len() > 0)
}
