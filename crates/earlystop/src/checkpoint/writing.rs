//! Writes temporary files and gives them their names, so that a crash leaves no half-written file under a name that counts.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Warning;
use super::files::{Files, folder_of, is_unsupported, sync_folder};
use super::layout::temporary_prefix;
use super::output::Output;
use crate::Result;
use crate::error::io_error;

/// A save of one or several files.
pub(super) struct Writing<'a> {
    pub(super) files: &'a dyn Files,
    /// What the caller saves to, for messages.
    pub(super) path: &'a Path,
    /// Names the temporary files and their folder.
    pub(super) base: &'a Path,
    /// The file that is replaced. It passes its mode on.
    pub(super) replaced: Option<fs::Metadata>,
    /// What the file system could not guarantee, each warning once.
    pub(super) warnings: Vec<Warning>,
}

impl<'a> Writing<'a> {
    /// Writes a temporary file and syncs it to the disk.
    pub(super) fn write<T>(&mut self, content: impl FnOnce(&Output<'_>) -> Result<T>) -> Result<(Temporary<'a>, T)> {
        let (files, path) = (self.files, self.path);
        let (temporary, file) = create_temporary(files, path, self.base, self.replaced.is_some())?;
        let temporary = Temporary { files, path: Some(temporary), file };
        let file = &temporary.file;
        // A lock tells a file in the making from one that a dead process left.
        let _ = files.lock(file);
        let written = content(&Output { files, file, path })?;
        if let Some(error) = self.replaced.as_ref().and_then(|replaced| files.copy_permissions(file, replaced).err()) {
            self.warn(Warning::PermissionsChanged { path: path.to_owned(), reason: error.to_string() });
        }
        match files.sync(file) {
            Err(error) if is_unsupported(&error) => {
                self.warn(Warning::NotSynced { path: path.to_owned(), reason: error.to_string() });
            }
            synced => synced.map_err(io_error(path, "sync its temporary file to the disk"))?,
        }
        Ok((temporary, written))
    }

    /// Gives a temporary file its name. Returns the file, which is locked as long as it is open.
    pub(super) fn place(&self, mut temporary: Temporary<'a>, target: &Path) -> Result<Placed<'a>> {
        let from = temporary.path.as_deref().expect("a temporary file is placed once");
        self.files.rename(from, target).map_err(io_error(self.path, "move its temporary file into place"))?;
        temporary.path = None;
        Ok(Placed(temporary))
    }

    /// Syncs the folder of a file.
    pub(super) fn sync_folder(&mut self, file: &Path) -> Result<()> {
        let synced = sync_folder(self.files, folder_of(file));
        let warning = synced.map_err(io_error(self.path, "sync its folder to the disk"))?;
        warning.into_iter().for_each(|warning| self.warn(warning));
        Ok(())
    }

    fn warn(&mut self, warning: Warning) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// A complete file without its final name. Deleted when it is dropped.
pub(super) struct Temporary<'a> {
    files: &'a dyn Files,
    /// Where it is, unless it has got its name.
    path: Option<PathBuf>,
    file: File,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What cannot be deleted now is a leftover for the next save.
            let _ = self.files.remove(path);
        }
        // Closing is not enough: a child that another thread is just starting has a copy of the descriptor for a moment.
        let _ = self.file.unlock();
    }
}

/// A file that has got its name. Locked until it is dropped.
pub(super) struct Placed<'a>(#[expect(dead_code, reason = "holds the lock")] Temporary<'a>);

/// Keeps other savers from changing the set of files of a checkpoint in a folder, as long as the result lives.
///
/// The steps of a change are few and short. Where a folder cannot be locked, or is locked for long by a program that
/// has nothing to do with checkpoints, this returns `None`: then only savers that save to one path at the same moment,
/// the one a single file and the other one several, could disturb each other.
pub(super) fn lock_folder(files: &dyn Files, folder: &Path) -> Option<File> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let folder = File::open(folder).ok()?;
    let start = Instant::now();
    loop {
        match files.try_lock(&folder) {
            Ok(()) => return Some(folder),
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => return None,
        }
    }
}

/// `.NAME.PID-NANOSECONDS.tmp`: no two savers ever share one, and no name comes again. Else one that is just found to be
/// abandoned could be another saver's when it is deleted.
fn create_temporary(files: &dyn Files, path: &Path, target: &Path, is_private: bool) -> Result<(PathBuf, File)> {
    let no_name = || io::Error::new(ErrorKind::InvalidInput, "the path does not end in a file name");
    let mut prefix = temporary_prefix(target).ok_or_else(no_name).map_err(io_error(path, "save"))?;
    prefix.push(std::process::id().to_string());
    loop {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut name = prefix.clone();
        name.push(format!("-{}.tmp", time.as_nanos()));
        let temporary = target.with_file_name(name);
        match files.create(&temporary, is_private) {
            Ok(file) => return Ok((temporary, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error(path, "create a temporary file beside it")(error)),
        }
    }
}

/// Deletes the temporary files that savers to `path` left behind when they were killed.
pub(super) fn remove_temporaries(files: &dyn Files, path: &Path) {
    let Some(prefix) = temporary_prefix(path) else { return };
    for temporary in temporaries(folder_of(path), prefix.as_encoded_bytes()) {
        // In this order: a file that has bytes was locked before, so without a lock now it is nobody's. The other way round a
        // saver could lock it and write in between.
        let is_begun_or_old = fs::metadata(&temporary).is_ok_and(|metadata| is_begun_or_old(&metadata));
        if is_begun_or_old && is_abandoned(files, &temporary) {
            let _ = files.remove(&temporary);
        }
    }
}

/// Returns whether a temporary file without a lock was left behind. A saver locks its file before the first byte, so an empty one
/// may have been created just now.
fn is_begun_or_old(metadata: &fs::Metadata) -> bool {
    const MAX_AGE: Duration = Duration::from_secs(60);
    let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
    metadata.len() > 0 || age.is_some_and(|age| age > MAX_AGE)
}

/// The files in the folder that a save may have left there, by what their names start with.
pub(super) fn temporaries(folder: &Path, prefix: &[u8]) -> Vec<PathBuf> {
    let is_temporary = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.as_encoded_bytes().starts_with(prefix) && name.as_encoded_bytes().ends_with(b".tmp")
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(is_temporary).map(|entry| entry.path()).collect()
}

/// Returns whether no process writes a temporary file any more.
pub(super) fn is_abandoned(files: &dyn Files, path: &Path) -> bool {
    /// Without locks, the age decides. A saver that lives has written to its file since.
    const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
    let Ok(file) = OpenOptions::new().write(true).open(path) else {
        return false;
    };
    match files.try_lock(&file) {
        Ok(()) => true,
        Err(TryLockError::Error(error)) if is_unsupported(&error) => {
            let modified = file.metadata().and_then(|metadata| metadata.modified());
            modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > MAX_AGE))
        }
        Err(_) => false,
    }
}
