//! Keeps several checkpoints in a folder and finds them again.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::files::{Disk, Files, folder_of, io_error, temporaries};
use super::keep::by_score;
use super::lock::Lock;
use super::read::{Checkpoint, open};
use super::{Keep, Metadata, Savable, Saver};
use crate::{Error, Result};

const PREFIX: &str = "step-";
const EXTENSION: &str = ".safetensors";

/// Keeps checkpoints in a folder: `step-000100.safetensors`, `step-000200.safetensors`, …
///
/// All that it knows it reads from the files themselves, so it finds everything again after a restart, in a copy of the
/// folder, and when files were deleted by hand. Looking is free to all; to save, a store locks the folder, until it is
/// dropped or its process ends.
///
/// A step that is saved again replaces its file, unless that one has a better score: then the new one becomes
/// `step-000100.2.safetensors`. So going back to an earlier checkpoint and on from there loses no better one.
///
/// # Example
///
/// ```
/// use earlystop::checkpoint::{Keep, Metadata, NamedTensor, Saver, Store};
/// use tch::Tensor;
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let folder = dir.path().join("checkpoints");
/// let network = vec![NamedTensor::new("layer_fc1.bias", Tensor::from_slice(&[1.0f32, 2.0]))];
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
    folder: PathBuf,
    keep: Keep,
    saver: Saver,
    writer: Option<Writer>,
}

/// What a store that saves has beside the others. While it holds the lock, nobody else adds files.
#[derive(Debug)]
struct Writer {
    _lock: Lock,
    /// The sound ones, the earliest first. The others neither count for [`Keep`] nor are they deleted.
    saved: Vec<Saved>,
    last_commit: u64,
}

/// A checkpoint in a folder, as its header describes it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Saved {
    /// The file.
    pub path: PathBuf,
    /// The training step (iteration) at which it was saved.
    pub step: u64,
    /// How good it is, if that was told: higher is better.
    pub score: Option<f64>,
    /// Counts the saves into the folder, from 1; 0 for a file that no store wrote. The highest is the latest, also where
    /// training went back to an earlier step.
    pub commit: u64,
}

impl Saved {
    /// The score, unless it is no number.
    pub(super) fn rank(&self) -> Option<f64> {
        self.score.filter(|score| !score.is_nan())
    }
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

impl Store {
    /// Opens the store of a folder, which need not exist yet. Changes nothing on the disk.
    ///
    /// Keeps all checkpoints, unless [`keep`](Self::keep) says otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if `folder` is no folder or cannot be listed.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref().to_owned();
        files(&folder)?;
        Ok(Store { folder, keep: Keep::all(), saver: Saver::new(), writer: None })
    }

    /// Says which checkpoints stay when another is saved.
    pub fn keep(self, keep: Keep) -> Self {
        Store { keep, ..self }
    }

    #[cfg(test)]
    pub(super) fn with_saver(self, saver: Saver) -> Self {
        Store { saver, ..self }
    }

    /// Locks the folder for this store alone, creates it if it is absent, and deletes what killed processes left half
    /// written. The first [`save`](Self::save) does the same; call it earlier to learn earlier that the folder is taken.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if another store has the lock; [`Error::Io`] if the folder cannot be created, locked or listed.
    pub fn lock(&mut self) -> Result<()> {
        self.writer().map(|_| ())
    }

    fn writer(&mut self) -> Result<&mut Writer> {
        if self.writer.is_none() {
            create_folder(&self.folder)?;
            let lock = Lock::take(&self.folder)?;
            for temporary in temporaries(&self.folder, format!(".{PREFIX}").as_bytes()) {
                let _ = fs::remove_file(&temporary);
            }
            let mut writer = Writer { _lock: lock, saved: Vec::new(), last_commit: 0 };
            writer.look(&self.folder)?;
            self.writer = Some(writer);
        }
        Ok(self.writer.as_mut().expect("it was just set"))
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
        let (folder, saver, keep) = (self.folder.clone(), self.saver.clone(), self.keep.clone());
        let writer = self.writer()?;
        let commit = writer.last_commit.saturating_add(1);
        let mut new = Saved { path: PathBuf::new(), step, score, commit };
        new.path = writer.path_for(&folder, &new);
        let mut internal = vec![("step", step.to_string()), ("commit", new.commit.to_string())];
        internal.extend(score.map(|score| ("score", score.to_string())));
        if let Err(error) = saver.save_with(&new.path, state, metadata, &internal) {
            // After the failure of the last step the file is in place all the same.
            writer.look(&folder)?;
            return Err(error);
        }

        writer.last_commit = commit;
        writer.saved.retain(|saved| saved.path != new.path);
        writer.saved.push(new.clone());
        let (kept, deleted) = keep.split(std::mem::take(&mut writer.saved));
        writer.saved = kept;
        for Saved { path, .. } in deleted {
            match saver.files().remove(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    writer.look(&folder)?; // the next save tries again
                    return Err(io_error(&path, "delete the old checkpoint (the new one is saved)")(error));
                }
                _ => {}
            }
        }
        Ok(new)
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Deletes all checkpoints in the folder, the latest last.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); [`Error::Io`] if a file cannot be deleted.
    pub fn clear(&mut self) -> Result<()> {
        let (folder, saver) = (self.folder.clone(), self.saver.clone());
        let writer = self.writer()?;
        for (path, _) in files(&folder)? {
            saver.files().remove(&path).map_err(io_error(&path, "delete"))?;
        }
        writer.saved.clear();
        Ok(())
    }

    /// Moves every checkpoint committed after `saved` into a new subfolder, and returns that folder if there were any.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); [`Error::Io`] if a file cannot be moved.
    pub fn archive_after(&mut self, saved: &Saved) -> Result<Option<PathBuf>> {
        let (folder, saver) = (self.folder.clone(), self.saver.clone());
        let writer = self.writer()?;
        let later: Vec<Saved> = scan(&folder)?.0.into_iter().filter(|it| it.commit > saved.commit).rev().collect();
        if later.is_empty() {
            return Ok(None);
        }
        let archive = new_subfolder(&folder, &format!("after-{PREFIX}{:06}", saved.step))?;
        for Saved { path, .. } in later {
            let moved = archive.join(path.file_name().unwrap_or_default());
            saver.files().rename(&path, &moved).map_err(io_error(&path, "move to the archive"))?;
        }
        writer.look(&folder)?;
        Ok(Some(archive))
    }

    /// Lists the checkpoints whose headers are sound, the earliest save first. Reads headers only.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn list(&self) -> Result<Vec<Saved>> {
        Ok(scan(&self.folder)?.0)
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
        let (mut saved, skipped) = scan(&self.folder)?;
        saved.reverse();
        Ok(first_valid(saved, skipped))
    }

    /// Returns the best checkpoint that is whole, and says which better ones are not, and why.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn best_valid(&self) -> Result<Valid> {
        let (saved, skipped) = scan(&self.folder)?;
        Ok(first_valid(by_score(&saved).into_iter().cloned().collect(), skipped))
    }
}

impl Writer {
    /// Reads all that lies in the folder.
    fn look(&mut self, folder: &Path) -> Result<()> {
        self.saved = scan(folder)?.0;
        self.last_commit = self.saved.last().map_or(0, |saved| saved.commit);
        self.saved.retain(|saved| Checkpoint::read(&saved.path).is_ok());
        Ok(())
    }

    /// Where to save: over the file of the same step, unless that one is better.
    fn path_for(&self, folder: &Path, new: &Saved) -> PathBuf {
        let is_better = |path: &Path| self.saved.iter().any(|old| old.path == path && old.rank() > new.rank());
        let mut path = folder.join(format!("{PREFIX}{:06}{EXTENSION}", new.step));
        let mut count = 1;
        while is_better(&path) {
            count += 1;
            path.set_file_name(format!("{PREFIX}{:06}.{count}{EXTENSION}", new.step));
        }
        path
    }
}

/// Reads all headers: the sound ones by their order of saving, and the others, of which no order is known.
fn scan(folder: &Path) -> Result<(Vec<Saved>, Vec<Skipped>)> {
    let mut saved = Vec::new();
    let mut skipped = Vec::new();
    for (path, step) in files(folder)? {
        match open(&path) {
            Ok((_, header)) => {
                let number = |key: &str| header.internal.get(key).and_then(|value| value.parse().ok());
                saved.push(Saved {
                    step: number("step").unwrap_or(step),
                    commit: number("commit").unwrap_or(0),
                    score: header.internal.get("score").and_then(|value| value.parse().ok()),
                    path,
                });
            }
            Err(error) => skipped.push(Skipped { path, error }),
        }
    }
    saved.sort_by(|a, b| (a.commit, a.step, &a.path).cmp(&(b.commit, b.step, &b.path)));
    skipped.sort_by(|a, b| b.path.cmp(&a.path));
    Ok((saved, skipped))
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
    Ok(files)
}

/// Creates a folder with those above it, so that it outlasts a power failure.
fn create_folder(folder: &Path) -> Result<()> {
    let absent: Vec<&Path> = folder.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    fs::create_dir_all(folder).map_err(io_error(folder, "create the folder"))?;
    for created in absent {
        Disk.sync_folder(folder_of(created)).map_err(io_error(created, "sync its folder to the disk"))?;
    }
    Ok(())
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
    let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?.strip_suffix(EXTENSION)?;
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
