//! Keeps several checkpoints in a folder and finds them again.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::files::{Files, folder_of, sync_folder};
use super::keep::by_score;
use super::layout::{EXTENSION, base_of, base_of_part, is_index};
use super::lock::{Lock, State};
use super::opened::describe;
use super::parts::{move_checkpoint, parts_in, remove_checkpoint, remove_leftovers, remove_stale_index};
use super::read::Checkpoint;
use super::saved::Saved;
use super::threads::run_on_threads;
use super::writing::{is_abandoned, temporaries};
use super::{Keep, Metadata, Savable, Saver, Warning};
use crate::error::io_error;
use crate::{Error, Result};

mod history;

pub use history::History;
pub(crate) use history::{FoundHistory, Position, read_history};

const PREFIX: &str = "step-";

/// Keeps checkpoints in a folder: `step-000100.safetensors`, `step-000200.safetensors`, …
///
/// A store reads everything from the checkpoints themselves. So it finds all checkpoints again after a
/// restart, in a copy of the folder, and after files were deleted by hand.
///
/// Reading needs neither a lock nor write permission. To save, a store locks the folder until it is dropped or its process
/// ends; see [`lock`](Self::lock).
///
/// If a step is saved again, the new file replaces the old one, unless the old one has a better score. Then the new one
/// becomes `step-000100.2.safetensors`. So continuing from an earlier checkpoint never loses a better one. To set the
/// later checkpoints aside first, use [`archive_after`](Self::archive_after).
///
/// # Example
///
/// ```
/// use earlystop::checkpoint::{Keep, Metadata, NamedTensor, Saver, Store};
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let folder = dir.path().join("checkpoints");
/// let mut bias = [1.0f32, 2.0];
/// let network = vec![NamedTensor::new("layer_fc1.bias", &mut bias[..])];
/// let mut store = Store::open(&folder)?.keep(Keep::last(2).best(1));
/// for (step, accuracy) in [(100, 0.84), (200, 0.91), (300, 0.90), (400, 0.89)] {
///     store.save(step, Some(accuracy), &[&network], &Metadata::new())?;
/// }
/// let steps: Vec<u64> = store.list()?.iter().map(|saved| saved.step).collect();
/// assert_eq!(steps, [200, 300, 400]);
/// assert_eq!(store.best()?.map(|saved| saved.step), Some(200));
///
/// let latest = store.latest_valid()?.saved.expect("four checkpoints were saved");
/// assert_eq!(latest.step, 400);
/// Saver::new().restore(&latest.path, &[&network])?;
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug)]
pub struct Store {
    /// As it was given.
    folder: PathBuf,
    /// The same place, whatever becomes of the working directory.
    absolute: PathBuf,
    keep: Keep,
    saver: Saver,
    writer: Option<Writer>,
    warnings: Vec<Warning>,
}

/// What a store that saves has beside the others. While it holds the lock, nobody else adds files.
#[derive(Debug)]
struct Writer {
    lock: Lock,
    /// The earliest first. Those that turn out to be damaged neither count for [`Keep`] nor are they deleted.
    saved: Vec<Saved>,
    /// Those that this store wrote, or read as a whole.
    checked: BTreeSet<PathBuf>,
    last_commit: u64,
    /// Whether a part of a deleted checkpoint could not be deleted.
    has_leftovers: bool,
}

/// A file that was passed over, and why.
#[derive(Debug)]
#[non_exhaustive]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: Error,
}

/// A checkpoint that was read whole and found sound. From [`Store::latest_valid`] and [`Store::best_valid`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Valid {
    /// The first sound one, if there is any.
    pub saved: Option<Saved>,
    /// Those that should have come before it.
    pub skipped: Vec<Skipped>,
}

impl Checkpoint {
    /// Returns the step, the score and the number of the save, if a [`Store`] saved the checkpoint, or else the step in its name.
    ///
    /// ```
    /// use earlystop::checkpoint::{Checkpoint, Metadata, Store};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// let path = Store::open(dir.path())?.save(100, Some(0.5), &[], &Metadata::new())?.path;
    /// let saved = Checkpoint::open(&path)?.saved().expect("a store saved it");
    /// assert_eq!((saved.step, saved.score, saved.commit), (100, Some(0.5), 1));
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn saved(&self) -> Option<Saved> {
        let recorded = self.internal().get("step").and_then(|step| step.parse().ok());
        let step = recorded.or_else(|| step_of(self.path()))?;
        Some(Saved::of(self.path().to_owned(), step, self.internal()))
    }
}

impl Store {
    /// Opens the store of a folder, which need not exist yet. Changes nothing on the disk.
    ///
    /// A relative path is resolved now: the store keeps its folder if the working directory changes later. Keeps all
    /// checkpoints, unless [`keep`](Self::keep) says otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if `folder` is not a folder or cannot be listed.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref().to_owned();
        let absolute = std::path::absolute(&folder).map_err(io_error(&folder, "find the folder"))?;
        files(&folder)?;
        let (saver, warnings) = (Saver::new(), Vec::new());
        Ok(Store { folder, absolute, keep: Keep::all(), saver, writer: None, warnings })
    }

    /// Says which checkpoints stay when another is saved.
    pub fn keep(self, keep: Keep) -> Self {
        Store { keep, ..self }
    }

    /// Sets the size in bytes above which a state is saved in several files: 5 GB unless set. See [`Saver::split_above`].
    ///
    /// Such a checkpoint is listed by the path of its index, `step-000100.safetensors.index.json`.
    pub fn split_above(self, bytes: u64) -> Self {
        Store { saver: self.saver.split_above(bytes), ..self }
    }

    #[cfg(test)]
    pub(super) fn with_saver(self, saver: Saver) -> Self {
        Store { saver, ..self }
    }

    /// Locks the folder for this store, creates it if it does not exist, and deletes temporary files of processes that
    /// were killed.
    ///
    /// The first [`save`](Self::save) does the same. Call it earlier to find out earlier whether the folder is in use.
    ///
    /// Another process is refused. From an older store of the same process, this one takes over: a notebook cell can be
    /// run again while the old store still exists. (Not on Windows, where the older store must be dropped first.)
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if another process has the lock; [`Error::TakenOver`] if this store had it, and a newer one has
    /// taken over; [`Error::Io`] if the folder cannot be created, locked or listed.
    pub fn lock(&mut self) -> Result<()> {
        self.writer().map(|_| ())
    }

    fn writer(&mut self) -> Result<&mut Writer> {
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
    ///
    /// For example, a network file system without locks cannot keep another machine from saving into the folder.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    fn warn(&mut self, warnings: Vec<Warning>) {
        for warning in warnings {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    /// Saves a checkpoint, then deletes those that [`keep`](Self::keep) does not hold.
    ///
    /// `score` says how good it is, for instance the validation accuracy: higher is better (negate a loss).
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock) and [`Saver::save`]; the old checkpoints are all there then. [`Error::Io`] with "delete"
    /// if only that failed: the new checkpoint is saved.
    pub fn save(
        &mut self,
        step: u64,
        score: Option<f64>,
        state: &[&dyn Savable],
        metadata: &Metadata,
    ) -> Result<Saved> {
        self.save_internal(step, score, state, metadata, Vec::new())
    }

    /// [`save`](Self::save) with entries of this room's own.
    fn save_internal(
        &mut self,
        step: u64,
        score: Option<f64>,
        state: &[&dyn Savable],
        metadata: &Metadata,
        mut internal: Vec<(&'static str, String)>,
    ) -> Result<Saved> {
        let (folder, saver, keep) = (self.absolute.clone(), self.saver.clone(), self.keep.clone());
        let writer = self.writer()?;
        let commit = writer.last_commit.saturating_add(1);
        let mut new = Saved { path: PathBuf::new(), step, score, commit };
        new.path = writer.path_for(&folder, &new);
        internal.extend([("step", step.to_string()), ("commit", new.commit.to_string())]);
        internal.extend(score.map(|score| ("score", score.to_string())));
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

        writer.last_commit = commit;
        writer.saved.retain(|saved| base_of(&saved.path) != base_of(&new.path));
        writer.saved.push(new.clone());
        writer.checked.insert(new.path.clone());
        writer.prune(saver.files(), &folder, &keep, "delete the old checkpoint (the new one is saved)")?;
        self.warn(warnings);
        new.path = self.reported(&new.path);
        Ok(new)
    }

    /// Deletes the checkpoints that are not kept according to [`keep`](Self::keep), and returns them. Each save does this too.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); [`Error::Io`] if a file cannot be deleted.
    pub fn prune(&mut self) -> Result<Vec<Saved>> {
        let (folder, saver, keep) = (self.absolute.clone(), self.saver.clone(), self.keep.clone());
        let mut deleted = self.writer()?.prune(saver.files(), &folder, &keep, "delete")?;
        deleted.iter_mut().for_each(|saved| saved.path = self.reported(&saved.path));
        Ok(deleted)
    }

    /// Returns the checkpoints that [`prune`](Self::prune) would delete, without deleting them or locking the folder.
    ///
    /// ```
    /// use earlystop::checkpoint::{Keep, Metadata, Store};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let folder = dir.path().join("checkpoints");
    /// let mut store = Store::open(&folder)?;
    /// for step in [100, 200, 300] {
    ///     store.save(step, None, &[], &Metadata::new())?;
    /// }
    /// let mut store = store.keep(Keep::last(1));
    /// assert_eq!(store.prunable()?.len(), 2);
    /// assert_eq!(store.prune()?.len(), 2);
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn prunable(&self) -> Result<Vec<Saved>> {
        let (mut saved, mut checked) = (self.list()?, BTreeSet::new());
        Ok(split(&mut saved, &mut checked, &self.keep).1)
    }

    /// Returns the folder: as it was given, or as an absolute path if the working directory has changed since.
    pub fn folder(&self) -> &Path {
        let is_unchanged = std::path::absolute(&self.folder).is_ok_and(|now| now == self.absolute);
        if is_unchanged { &self.folder } else { &self.absolute }
    }

    /// The path of a file in the folder, as the caller is told.
    fn reported(&self, path: &Path) -> PathBuf {
        path.file_name().map_or_else(|| path.to_owned(), |name| self.folder().join(name))
    }

    /// Deletes all checkpoints in the folder, the latest last, and the history beside them.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); [`Error::Io`] if a file cannot be deleted.
    pub fn clear(&mut self) -> Result<()> {
        let (folder, saver) = (self.absolute.clone(), self.saver.clone());
        let writer = self.writer()?;
        for (path, _) in files(&folder)? {
            remove_checkpoint(saver.files(), &path).map_err(io_error(&path, "delete"))?;
        }
        remove_leftover_parts(saver.files(), &folder);
        writer.saved.clear();
        Writer::clear_history(saver.files(), &folder)
    }

    /// Moves every checkpoint committed after `saved` into a new subfolder, `after-step-000200`, and returns that folder.
    /// Returns `None` if there is nothing to move.
    ///
    /// Use it to continue from an earlier checkpoint: the discarded part of the run stays available as a store of its own
    /// in the subfolder, with a copy of the history. Nothing is overwritten: if the name is taken, the subfolder becomes `after-step-000200.2`. The
    /// latest checkpoint moves first, so an interruption never leaves a gap. Files without a readable header move if their
    /// names carry a later step.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if `saved` is not in the folder; the errors of [`lock`](Self::lock); [`Error::Io`] if a file
    /// cannot be moved.
    pub fn archive_after(&mut self, saved: &Saved) -> Result<Option<PathBuf>> {
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
        Writer::copy_history(saver.files(), &folder, &archive)?;
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
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn list(&self) -> Result<Vec<Saved>> {
        Ok(scan(self.folder())?.0)
    }

    /// Returns the checkpoint that was saved last. Reads headers only.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn latest(&self) -> Result<Option<Saved>> {
        Ok(self.list()?.pop())
    }

    /// Returns the checkpoint of the highest score, and of equal scores the earliest. Reads headers only.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn best(&self) -> Result<Option<Saved>> {
        Ok(by_score(&self.list()?).first().copied().cloned())
    }

    /// Returns the last saved checkpoint that is whole, and says which later ones are not, and why.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn latest_valid(&self) -> Result<Valid> {
        let (mut saved, skipped) = scan(self.folder())?;
        saved.reverse();
        Ok(first_valid(saved, skipped))
    }

    /// Returns the best checkpoint that is whole, and says which better ones are not, and why.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn best_valid(&self) -> Result<Valid> {
        let (saved, skipped) = scan(self.folder())?;
        Ok(first_valid(by_score(&saved).into_iter().cloned().collect(), skipped))
    }
}

impl Writer {
    /// Reads all that lies in the folder.
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

    /// Where to save: over the file of the same step, unless that one is better.
    fn path_for(&self, folder: &Path, new: &Saved) -> PathBuf {
        let is_better =
            |path: &Path| self.saved.iter().any(|old| base_of(&old.path) == path && old.rank() > new.rank());
        let mut path = folder.join(format!("{PREFIX}{:06}{EXTENSION}", new.step));
        let mut count = 1;
        while is_better(&path) {
            count += 1;
            path.set_file_name(format!("{PREFIX}{:06}.{count}{EXTENSION}", new.step));
        }
        path
    }
}

/// Splits checkpoints into those to keep and those to delete.
///
/// A damaged file must never be the reason why a valid one is deleted, and listing them has read headers only. So the files that
/// decide, and those to be deleted, are read first as a whole, unless they are among the checked ones.
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
    run_on_threads(count as u64 * HEADER_BYTES, count, || {
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
fn files(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
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
fn step_of(path: &Path) -> Option<u64> {
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

/// Returns the path of the last checkpoint that a [`Store`] saved into the folder and that is whole; none if there is no
/// checkpoint. Stands in for `tf.train.latest_checkpoint`.
///
/// # Errors
///
/// [`Error::Io`] if the folder cannot be listed; the first file's error if there are checkpoints, but none is whole.
pub fn latest_checkpoint(folder: impl AsRef<Path>) -> Result<Option<PathBuf>> {
    let Valid { saved, skipped } = Store::open(folder)?.latest_valid()?;
    match (saved, skipped.into_iter().next()) {
        (Some(saved), _) => Ok(Some(saved.path)),
        (None, Some(Skipped { error, .. })) => Err(error),
        (None, None) => Ok(None),
    }
}
