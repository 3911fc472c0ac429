//! Keeps several checkpoints in a folder and finds them again.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::super::files::{Files, folder_of, sync_folder};
use super::super::keep::by_score;
use super::super::layout::{EXTENSION, base_of, base_of_part, is_index};
use super::super::lock::{Lock, State};
use super::super::opened::describe;
use super::super::parts::{move_checkpoint, parts_in, remove_checkpoint, remove_leftovers, remove_stale_index};
use super::super::read::Checkpoint;
use super::super::threads::run_on_threads;
use super::super::writing::{is_abandoned, temporaries};
use super::super::{Keep, Metadata, Savable, Saver, Warning};
use super::history::{clear_history, copy_history};
use super::{PREFIX, Position, Saved, Skipped, Valid, internal_entries, next_saved};
use crate::error::io_error;
use crate::{Error, Result};

/// The store of a folder.
#[derive(Debug)]
pub(super) struct FolderStore {
    /// As it was given.
    folder: PathBuf,
    /// The same place, whatever becomes of the working directory.
    pub(super) absolute: PathBuf,
    keep: Keep,
    pub(super) saver: Saver,
    writer: Option<Writer>,
    warnings: Vec<Warning>,
}

/// What only a store that saves has. While it holds the lock, no other process adds files.
#[derive(Debug)]
pub(super) struct Writer {
    lock: Lock,
    /// The earliest first. Those that turn out to be damaged neither count for [`Keep`] nor are they deleted.
    saved: Vec<Saved>,
    /// Those that this store wrote, or read completely.
    checked: BTreeSet<PathBuf>,
    last_commit: u64,
    /// Whether a part of a deleted checkpoint could not be deleted.
    has_leftovers: bool,
}

impl FolderStore {
    /// Opens the store of a folder, which need not exist yet. Changes nothing on the disk.
    pub(super) fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref().to_owned();
        let absolute = std::path::absolute(&folder).map_err(io_error(&folder, "find the folder"))?;
        files(&folder)?;
        let (saver, warnings) = (Saver::new(), Vec::new());
        Ok(FolderStore { folder, absolute, keep: Keep::all(), saver, writer: None, warnings })
    }

    /// Says which checkpoints stay when another is saved.
    pub(super) fn keep(self, keep: Keep) -> Self {
        FolderStore { keep, ..self }
    }

    /// Sets the size in bytes above which a state is saved in several files: 5 GB unless set. See [`Saver::split_above`].
    pub(super) fn split_above(self, bytes: u64) -> Self {
        FolderStore { saver: self.saver.split_above(bytes), ..self }
    }

    #[cfg(any(test, feature = "object-store"))]
    pub(super) fn with_saver(self, saver: Saver) -> Self {
        FolderStore { saver, ..self }
    }

    /// Locks the folder for this store, creates it if it does not exist, and deletes temporary files of processes that
    /// were killed.
    pub(super) fn lock(&mut self) -> Result<()> {
        self.writer().map(|_| ())
    }

    pub(super) fn writer(&mut self) -> Result<&mut Writer> {
        if let Some(writer) = &self.writer
            && writer.lock.check(self.saver.files())? == State::Lost
        {
            self.writer = None;
        }
        if self.writer.is_none() {
            let files = self.saver.files();
            let mut warnings = create_folder(files, &self.absolute)?;
            let lock = Lock::take(files, &self.absolute)?;
            warnings.extend(lock.warning().cloned());
            for temporary in temporaries(&self.absolute, format!(".{PREFIX}").as_bytes()) {
                if is_abandoned(files, &temporary) {
                    let _ = fs::remove_file(&temporary);
                }
            }
            remove_leftover_parts(files, &self.absolute);
            let mut writer =
                Writer { lock, saved: Vec::new(), checked: BTreeSet::new(), last_commit: 0, has_leftovers: false };
            writer.look(&self.absolute)?;
            self.writer = Some(writer);
            self.warn(warnings);
        }
        Ok(self.writer.as_mut().expect("it was just set"))
    }

    /// Returns what the file system could not guarantee so far, each warning once.
    pub(super) fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    pub(super) fn warn(&mut self, warnings: Vec<Warning>) {
        for warning in warnings {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    /// Saves a checkpoint, then deletes those that [`keep`](Self::keep) does not hold.
    pub(super) fn save(
        &mut self,
        step: u64,
        score: Option<f64>,
        state: &[&dyn Savable],
        metadata: &Metadata,
        history: Option<&Position>,
    ) -> Result<Saved> {
        let (folder, saver, keep) = (self.absolute.clone(), self.saver.clone(), self.keep.clone());
        let writer = self.writer()?;
        let mut new = next_saved(&folder, &writer.saved, writer.last_commit, step, score);
        let internal = internal_entries(&new, history);
        let warnings = match saver.save_with(&new.path, state, metadata, &internal) {
            Ok(committed) => {
                new.path = committed.path;
                committed.warnings
            }
            Err(error) => {
                // After the failure of the last step the file is in place all the same.
                writer.look(&folder)?;
                return Err(error);
            }
        };

        writer.last_commit = new.commit;
        writer.saved.retain(|saved| base_of(&saved.path) != base_of(&new.path));
        writer.saved.push(new.clone());
        writer.checked.insert(new.path.clone());
        writer.prune(saver.files(), &folder, &keep, "delete the old checkpoint (the new one is saved)")?;
        self.warn(warnings);
        new.path = self.reported(&new.path);
        Ok(new)
    }

    /// Deletes the checkpoints that are not kept according to [`keep`](Self::keep), and returns them. Each save does this too.
    pub(super) fn prune(&mut self) -> Result<Vec<Saved>> {
        let (folder, saver, keep) = (self.absolute.clone(), self.saver.clone(), self.keep.clone());
        let mut deleted = self.writer()?.prune(saver.files(), &folder, &keep, "delete")?;
        deleted.iter_mut().for_each(|saved| saved.path = self.reported(&saved.path));
        Ok(deleted)
    }

    /// Returns the checkpoints that [`prune`](Self::prune) would delete, without deleting them or locking the folder.
    pub(super) fn prunable(&self) -> Result<Vec<Saved>> {
        let (mut saved, mut checked) = (self.list()?, BTreeSet::new());
        Ok(split(&mut saved, &mut checked, &self.keep).1)
    }

    /// Returns the folder: as it was given, or as an absolute path if the working directory has changed since.
    pub(super) fn folder(&self) -> &Path {
        let is_unchanged = std::path::absolute(&self.folder).is_ok_and(|now| now == self.absolute);
        if is_unchanged { &self.folder } else { &self.absolute }
    }

    /// The path of a file in the folder, as reported to the caller.
    fn reported(&self, path: &Path) -> PathBuf {
        path.file_name().map_or_else(|| path.to_owned(), |name| self.folder().join(name))
    }

    /// Deletes all checkpoints in the folder, the latest last, and the history next to them.
    pub(super) fn clear(&mut self) -> Result<()> {
        let (folder, saver) = (self.absolute.clone(), self.saver.clone());
        let writer = self.writer()?;
        for (path, _) in files(&folder)? {
            remove_checkpoint(saver.files(), &path).map_err(io_error(&path, "delete"))?;
        }
        remove_leftover_parts(saver.files(), &folder);
        writer.saved.clear();
        clear_history(saver.files(), &folder)
    }

    /// Moves every checkpoint committed after `saved` into a new subfolder, `after-step-000200`, and returns that folder.
    /// Returns `None` if there is nothing to move.
    pub(super) fn archive_after(&mut self, saved: &Saved) -> Result<Option<PathBuf>> {
        let (folder, saver) = (self.absolute.clone(), self.saver.clone());
        let writer = self.writer()?;
        let (mut checkpoints, unreadable) = scan(&folder)?;
        if !checkpoints.iter().any(|it| it.path.file_name() == saved.path.file_name() && it.commit == saved.commit) {
            let expected = format!("one of those in {}", folder.display());
            return Err(Error::setting("checkpoint", expected, saved.path.display()));
        }
        checkpoints.retain(|it| it.commit > saved.commit);
        let unreadable = unreadable.into_iter().map(|it| it.path).filter(|path| step_of(path) > Some(saved.step));
        let later: Vec<PathBuf> = unreadable.chain(checkpoints.into_iter().rev().map(|it| it.path)).collect();
        if later.is_empty() {
            return Ok(None);
        }
        let archive = new_subfolder(&folder, &format!("after-{PREFIX}{:06}", saved.step))?;
        copy_history(saver.files(), &folder, &archive)?;
        let moved = later.iter().try_for_each(|path| move_checkpoint(saver.files(), &archive, path));
        writer.look(&folder)?;
        moved?;
        for changed in [&archive, &folder] {
            let synced = sync_folder(saver.files(), changed);
            let warning = synced.map_err(io_error(changed, "sync the folder to the disk"))?;
            self.warn(warning.into_iter().collect());
        }
        Ok(Some(self.reported(&archive)))
    }

    /// Lists the checkpoints whose headers are valid, the earliest save first. Reads headers only.
    pub(super) fn list(&self) -> Result<Vec<Saved>> {
        Ok(scan(self.folder())?.0)
    }

    /// Returns the last saved checkpoint that is valid, and says which later ones are not, and why.
    pub(super) fn latest_valid(&self) -> Result<Valid> {
        let (mut saved, skipped) = scan(self.folder())?;
        saved.reverse();
        Ok(first_valid(saved, skipped))
    }

    /// Returns the best checkpoint that is valid, and says which better ones are not, and why.
    pub(super) fn best_valid(&self) -> Result<Valid> {
        let (saved, skipped) = scan(self.folder())?;
        Ok(first_valid(by_score(&saved).into_iter().cloned().collect(), skipped))
    }

    /// Returns the checkpoint itself.
    pub(super) fn local_copy(&self, saved: Saved) -> Result<Saved> {
        Ok(saved)
    }
}

impl Writer {
    /// Reads all that is in the folder.
    fn look(&mut self, folder: &Path) -> Result<()> {
        self.saved = scan(folder)?.0;
        self.last_commit = self.saved.last().map_or(0, |saved| saved.commit);
        Ok(())
    }

    /// Deletes the checkpoints that are not to be kept, and returns them.
    fn prune(&mut self, files: &dyn Files, folder: &Path, keep: &Keep, action: &'static str) -> Result<Vec<Saved>> {
        let (kept, deleted) = split(&mut self.saved, &mut self.checked, keep);
        self.saved = kept;
        if std::mem::take(&mut self.has_leftovers) {
            remove_leftover_parts(files, folder);
        }
        for Saved { path, .. } in &deleted {
            match remove_checkpoint(files, path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    self.has_leftovers = true;
                    self.look(folder)?; // the next save tries again
                    return Err(io_error(path, action)(error));
                }
                _ => {}
            }
        }
        Ok(deleted)
    }
}

/// Splits checkpoints into those to keep and those to delete.
///
/// A damaged file must never be the reason why a valid one is deleted, and listing them has read headers only. So the files that
/// decide, and those to be deleted, are first read completely, unless they are among the checked ones.
fn split(saved: &mut Vec<Saved>, checked: &mut BTreeSet<PathBuf>, keep: &Keep) -> (Vec<Saved>, Vec<Saved>) {
    loop {
        let (kept, deleted) = keep.split(saved.clone());
        if deleted.is_empty() {
            return (kept, deleted);
        }
        let deciding = keep.deciding(saved).into_iter().chain(&deleted).map(|saved| saved.path.clone());
        let unchecked: Vec<PathBuf> = deciding.filter(|path| !checked.contains(path)).collect();
        if unchecked.is_empty() {
            return (kept, deleted);
        }
        for path in unchecked {
            if Checkpoint::read(&path).is_ok() {
                checked.insert(path);
            } else {
                saved.retain(|saved| saved.path != path);
            }
        }
    }
}

/// Deletes what killed saves in several files have left. What cannot be deleted stays for the next time.
fn remove_leftover_parts(files: &dyn Files, folder: &Path) {
    let parts = parts_in(folder, |stem| stem.starts_with(PREFIX));
    let bases: BTreeSet<PathBuf> = parts.iter().filter_map(|part| base_of_part(part)).collect();
    let stale = bases.iter().filter_map(|base| remove_stale_index(files, base).ok()).flatten();
    let _ = remove_leftovers(files, parts, &stale.collect::<Vec<_>>());
}

/// Reads all headers: the valid ones by their order of saving, and the others, of which no order is known.
fn scan(folder: &Path) -> Result<(Vec<Saved>, Vec<Skipped>)> {
    /// About the size of a header. With many of them, several threads are faster.
    const HEADER_BYTES: u64 = 64 << 10;
    let files = files(folder)?;
    let count = files.len();
    let (files, found) = (Mutex::new(files.into_iter()), Mutex::new((Vec::new(), Vec::new())));
    let next = || files.lock().unwrap_or_else(PoisonError::into_inner).next();
    run_on_threads(count as u64 * HEADER_BYTES, count, |_| {
        while let Some((path, step)) = next() {
            let read = read_saved(path, step);
            let (saved, skipped) = &mut *found.lock().unwrap_or_else(PoisonError::into_inner);
            match read {
                Ok(checkpoint) => saved.push(checkpoint),
                Err(damaged) => skipped.push(damaged),
            }
        }
        Ok(())
    })?;
    let (mut saved, mut skipped) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    saved.sort_by(|a, b| (a.commit, a.step, &a.path).cmp(&(b.commit, b.step, &b.path)));
    skipped.sort_by(|a, b| b.path.cmp(&a.path));
    Ok((saved, skipped))
}

/// Reads the header of a file whose name carries a step.
fn read_saved(path: PathBuf, step: u64) -> Result<Saved, Skipped> {
    match describe(&path) {
        Ok(internal) => Ok(Saved::of(path, step, &internal)),
        Err(error) => Err(Skipped { path, error }),
    }
}

/// The checkpoints' paths with the steps of their names; none if there is no folder.
pub(super) fn files(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error(folder, "list the folder"))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_error(folder, "list the folder"))?.path();
        if let Some(step) = step_of(&path) {
            files.push((path, step));
        }
    }
    // Where there is a single file, an index is left over from a save that was killed.
    files.retain(|(path, _)| !is_index(path) || !base_of(path).exists());
    Ok(files)
}

/// Creates a folder with those above it, so that it outlasts a power failure.
fn create_folder(files: &dyn Files, folder: &Path) -> Result<Vec<Warning>> {
    let absent: Vec<&Path> = folder.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    fs::create_dir_all(folder).map_err(io_error(folder, "create the folder"))?;
    let sync = |created: &&Path| {
        let synced = sync_folder(files, folder_of(created));
        synced.map_err(io_error(created, "sync its folder to the disk")).transpose()
    };
    absent.iter().filter_map(sync).collect()
}

/// Creates `NAME`, `NAME.2`, `NAME.3`, …: the first that does not exist.
fn new_subfolder(folder: &Path, name: &str) -> Result<PathBuf> {
    let mut path = folder.join(name);
    for count in 2.. {
        match fs::create_dir(&path) {
            Ok(()) => break,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => path.set_file_name(format!("{name}.{count}")),
            Err(error) => return Err(io_error(&path, "create the folder")(error)),
        }
    }
    Ok(path)
}

/// The step in a name: 100 in `step-000100.safetensors` and in `step-000100.2.safetensors`.
pub(super) fn step_of(path: &Path) -> Option<u64> {
    let base = base_of(path);
    let name = base.file_name()?.to_str()?.strip_prefix(PREFIX)?.strip_suffix(EXTENSION)?;
    let (step, count) = name.split_once('.').unwrap_or((name, "2"));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(step) && is_number(count)).then(|| step.parse().ok())?
}

fn first_valid(candidates: Vec<Saved>, mut skipped: Vec<Skipped>) -> Valid {
    for saved in candidates {
        match Checkpoint::read(&saved.path) {
            Ok(_) => {
                return Valid { saved: Some(saved), skipped };
            }
            Err(error) => skipped.push(Skipped { path: saved.path, error }),
        }
    }
    Valid { saved: None, skipped }
}
