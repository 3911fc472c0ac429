//! Keeps several checkpoints in a folder or in object storage, and finds them again.

use std::path::{Path, PathBuf};

#[cfg(test)]
use super::Saver;
use super::keep::by_score;
use super::layout::{EXTENSION, base_of};
use super::{Checkpoint, Keep, Metadata, Savable, Saved, Warning};
use crate::{Error, Result};
use folder::{FolderStore, step_of};
use place::Place;
#[cfg(feature = "object-store")]
use remote::RemoteStore;

mod appending;
mod folder;
mod history;
mod place;
#[cfg(feature = "object-store")]
mod remote;

pub use history::History;
pub(crate) use history::{FoundHistory, Position, read_history};
pub(crate) use place::is_url;

const PREFIX: &str = "step-";

/// Keeps checkpoints in a folder: `step-000100.safetensors`, `step-000200.safetensors`, …
///
/// With the feature `object-store`, the folder may also be the URL of a place in object storage, such as
/// `s3://bucket/runs/1`: see [Object storage](crate::checkpoint#object-storage).
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
pub struct Store(Backing);

/// Where the checkpoints are. Both have the same methods.
#[derive(Debug)]
enum Backing {
    Folder(Box<FolderStore>),
    #[cfg(feature = "object-store")]
    Remote(Box<RemoteStore>),
}

/// Evaluates an expression with the store of a folder or that of a URL.
macro_rules! with {
    ($store:expr, $backing:ident => $result:expr) => {
        match $store {
            Backing::Folder($backing) => $result,
            #[cfg(feature = "object-store")]
            Backing::Remote($backing) => $result,
        }
    };
}

/// Turns both kinds of store into others.
macro_rules! map {
    ($store:expr, $backing:ident => $result:expr) => {
        match $store {
            Backing::Folder($backing) => Backing::Folder($result.into()),
            #[cfg(feature = "object-store")]
            Backing::Remote($backing) => Backing::Remote($result.into()),
        }
    };
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

/// A checkpoint that was read completely and found valid. From [`Store::latest_valid`] and [`Store::best_valid`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Valid {
    /// The first valid checkpoint, if there is one.
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
        match Place::of(folder.as_ref())? {
            Place::Folder(folder) => Ok(Store(Backing::Folder(FolderStore::open(folder)?.into()))),
            #[cfg(feature = "object-store")]
            Place::Remote(url) => Ok(Store(Backing::Remote(RemoteStore::open(url)?.into()))),
        }
    }

    /// Says which checkpoints stay when another is saved.
    pub fn keep(self, keep: Keep) -> Self {
        Store(map!(self.0, store => store.keep(keep)))
    }

    /// Sets the size in bytes above which a state is saved in several files: 5 GB unless set. See [`Saver::split_above`](super::Saver::split_above).
    ///
    /// Such a checkpoint is listed by the path of its index, `step-000100.safetensors.index.json`.
    pub fn split_above(self, bytes: u64) -> Self {
        Store(map!(self.0, store => store.split_above(bytes)))
    }

    #[cfg(test)]
    pub(super) fn with_saver(self, saver: Saver) -> Self {
        Store(map!(self.0, store => store.with_saver(saver)))
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
        with!(&mut self.0, store => store.lock())
    }

    /// Returns what the file system could not guarantee so far, each warning once.
    ///
    /// For example, a network file system without locks cannot keep another machine from saving into the folder.
    pub fn warnings(&self) -> &[Warning] {
        with!(&self.0, store => store.warnings())
    }

    /// Saves a checkpoint, then deletes those that [`keep`](Self::keep) does not hold.
    ///
    /// `score` says how good it is, for instance the validation accuracy: higher is better (negate a loss).
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock) and [`Saver::save`](super::Saver::save); the old checkpoints are all there then. [`Error::Io`] with "delete"
    /// if only that failed: the new checkpoint is saved.
    pub fn save(
        &mut self,
        step: u64,
        score: Option<f64>,
        state: &[&dyn Savable],
        metadata: &Metadata,
    ) -> Result<Saved> {
        self.save_with_history(step, score, state, metadata, None)
    }

    /// Saves a checkpoint that records a position of the history.
    pub(crate) fn save_with_history(
        &mut self,
        step: u64,
        score: Option<f64>,
        state: &[&dyn Savable],
        metadata: &Metadata,
        history: Option<&Position>,
    ) -> Result<Saved> {
        with!(&mut self.0, store => store.save(step, score, state, metadata, history))
    }

    /// Appends lines after a position and waits until they are on the disk. Returns the position after them, or nothing if the
    /// segment is gone or shorter than it was.
    ///
    /// Lines after the position that no checkpoint in the folder needs are cut off: a save that failed or was killed left
    /// them. Else a new segment begins, and also if the segment takes no more lines. In object storage the lines appear with
    /// the next checkpoint.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); [`Error::Io`] if the lines cannot be written.
    pub(crate) fn append_history(&mut self, at: &Position, lines: &[Vec<u8>]) -> Result<Option<Position>> {
        with!(&mut self.0, store => store.append_history(at, lines))
    }

    /// Begins a new segment, with these lines, that continues another one from a position or stands for itself. Waits until
    /// it is on the disk. Returns the position after the lines.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); [`Error::Io`] if the segment cannot be written.
    pub(crate) fn begin_history(&mut self, parent: Option<&Position>, lines: &[Vec<u8>]) -> Result<Position> {
        with!(&mut self.0, store => store.begin_history(parent, lines))
    }

    /// Deletes the checkpoints that are not kept according to [`keep`](Self::keep), and returns them. Each save does this too.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); [`Error::Io`] if a file cannot be deleted.
    pub fn prune(&mut self) -> Result<Vec<Saved>> {
        with!(&mut self.0, store => store.prune())
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
        with!(&self.0, store => store.prunable())
    }

    /// Returns the folder: as it was given, or as an absolute path if the working directory has changed since; or the URL.
    pub fn folder(&self) -> &Path {
        with!(&self.0, store => store.folder())
    }

    /// Deletes all checkpoints in the folder, the latest last, and the history next to them.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); [`Error::Io`] if a file cannot be deleted.
    pub fn clear(&mut self) -> Result<()> {
        with!(&mut self.0, store => store.clear())
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
        with!(&mut self.0, store => store.archive_after(saved))
    }

    /// Lists the checkpoints whose headers are valid, the earliest save first. Reads headers only.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn list(&self) -> Result<Vec<Saved>> {
        with!(&self.0, store => store.list())
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

    /// Returns the last saved checkpoint that is valid, and says which later ones are not, and why.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn latest_valid(&self) -> Result<Valid> {
        with!(&self.0, store => store.latest_valid())
    }

    /// Returns the best checkpoint that is valid, and says which better ones are not, and why.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn best_valid(&self) -> Result<Valid> {
        with!(&self.0, store => store.best_valid())
    }

    /// Returns a listed checkpoint with a path at which it can be read: from object storage, that of a copy.
    ///
    /// The copy may be damaged, which reading it finds. It is deleted with the store, and earlier if the checkpoint is deleted. In a
    /// folder, the checkpoint itself is returned.
    ///
    /// ```
    /// use earlystop::checkpoint::{Checkpoint, Metadata, Store};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// let mut store = Store::open(dir.path())?;
    /// store.save(100, Some(0.5), &[], &Metadata::new())?;
    /// let best = store.best()?.expect("one was saved");
    /// assert!(Checkpoint::read(store.local_copy(best)?.path)?.is_verified());
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if it is gone; [`Error::Io`] if it cannot be copied.
    pub fn local_copy(&self, saved: Saved) -> Result<Saved> {
        with!(&self.0, store => store.local_copy(saved))
    }
}

/// This module's entries in a checkpoint.
fn internal_entries(new: &Saved, history: Option<&Position>) -> Vec<(&'static str, String)> {
    let json = |position| serde_json::to_string(position).expect("strings and numbers always become JSON");
    let mut entries: Vec<_> = history.map(|position| (history::KEY, json(position))).into_iter().collect();
    entries.extend([("step", new.step.to_string()), ("commit", new.commit.to_string())]);
    entries.extend(new.score.map(|score| ("score", score.to_string())));
    entries
}

/// Returns the checkpoint that is saved next, given those that are listed: over the one of the same step, unless that one is better.
fn next_saved(folder: &Path, listed: &[Saved], last_commit: u64, step: u64, score: Option<f64>) -> Saved {
    let mut new = Saved { path: PathBuf::new(), step, score, commit: last_commit.saturating_add(1) };
    let is_better = |name: &str| {
        let is_it = |old: &Saved| base_of(&old.path).file_name().is_some_and(|it| it == name);
        listed.iter().any(|old| is_it(old) && old.rank() > new.rank())
    };
    let mut name = format!("{PREFIX}{:06}{EXTENSION}", new.step);
    let mut count = 1;
    while is_better(&name) {
        count += 1;
        name = format!("{PREFIX}{:06}.{count}{EXTENSION}", new.step);
    }
    new.path = folder.join(name);
    new
}

/// Returns the path of the last checkpoint that a [`Store`] saved into the folder and that is valid; none if there is no
/// checkpoint. Stands in for `tf.train.latest_checkpoint`.
///
/// # Errors
///
/// [`Error::Io`] if the folder cannot be listed; the first file's error if there are checkpoints, but none is valid;
/// [`Error::Setting`] for a URL.
pub fn latest_checkpoint(folder: impl AsRef<Path>) -> Result<Option<PathBuf>> {
    let folder = folder.as_ref();
    if is_url(folder) {
        let expected =
            "a folder: from a URL, Store::latest_valid returns a copy, which the store keeps as long as it exists";
        return Err(Error::setting("folder", expected, "a URL"));
    }
    let Valid { saved, skipped } = Store::open(folder)?.latest_valid()?;
    match (saved, skipped.into_iter().next()) {
        (Some(saved), _) => Ok(Some(saved.path)),
        (None, Some(Skipped { error, .. })) => Err(error),
        (None, None) => Ok(None),
    }
}
