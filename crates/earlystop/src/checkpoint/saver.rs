//! Saves to a path and restores from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use safetensors::tensor::Dtype;

use super::commit::{self, Committed};
use super::files::{Disk, Files};
use super::header::HeaderTensor;
use super::mismatch::compare;
use super::read::Checkpoint;
use super::threads::run_on_threads;
use super::{Metadata, Mismatch, NamedTensor, Savable, TensorInfo, Warning};
use crate::{Error, Result};

/// Saves tensors to a file and restores them from it. Stands in for `tf.train.Saver`.
///
/// A save is atomic and durable. At any instant, even if the process is killed or power fails, the path holds either the
/// complete old checkpoint or the complete new one. When `save` has returned, the new one is on the disk. Any number of
/// savers may save to one path: the last one wins.
///
/// Tensors are handled in blocks of a megabyte, on several threads, so a save or restore needs little memory in addition to the state. Do not
/// change the tensors from another thread meanwhile.
///
/// # Examples
///
/// ```
/// use earlystop::checkpoint::{Metadata, NamedTensor, Saver};
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let save_path = dir.path().join("best_validation.safetensors");
/// let mut bias = [1.0f32, 2.0];
/// let saver = Saver::new();
/// saver.save(&save_path, &[&vec![NamedTensor::new("layer_fc1.bias", &bias[..])]], &Metadata::new())?;
///
/// bias.fill(0.0);
/// saver.restore(&save_path, &[&vec![NamedTensor::new("layer_fc1.bias", &mut bias[..])]])?;
/// assert_eq!(bias, [1.0, 2.0]);
/// # Ok::<(), earlystop::Error>(())
/// ```
///
/// The variables of libtorch are passed together: `saver.save(&save_path, &[&network], &metadata)`, where
/// `network` is a `tch::nn::VarStore` or a `Network`.
#[derive(Debug, Clone)]
pub struct Saver {
    files: Arc<dyn Files>,
    /// The size of a file's data above which a state is split.
    split_above: u64,
    ignores_extra: bool,
    converts_floats: bool,
}

impl Default for Saver {
    fn default() -> Self {
        Saver::new()
    }
}

impl Saver {
    /// Creates a saver.
    pub fn new() -> Self {
        Saver::with_files(Arc::new(Disk))
    }

    pub(super) fn with_files(files: Arc<dyn Files>) -> Self {
        Saver { files, split_above: 5_000_000_000, ignores_extra: false, converts_floats: false }
    }

    pub(super) fn files(&self) -> &dyn Files {
        &*self.files
    }

    /// Sets the size in bytes above which a state is saved in several files: 5 GB unless set. `u64::MAX` means never.
    ///
    /// The size is that of the tensors' data. Each file has at most as much, or a single tensor that is larger. The layout is
    /// that of Hugging Face: a state that is saved to `model.safetensors` becomes `model.safetensors.index.json`, and next to
    /// it `model-ID-00001-of-00003.safetensors` and so on, where `ID` is new with every save. Renaming the index commits all
    /// files as one. To copy or move such a checkpoint, copy or move the index with all its parts.
    ///
    /// ```
    /// use earlystop::checkpoint::{Metadata, NamedTensor, Saver};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("model.safetensors");
    /// let (mut bias1, mut bias2) = ([1.0f32, 2.0], [3.0f32, 4.0]);
    /// let bias1 = NamedTensor::new("layer_fc1.bias", &mut bias1[..]);
    /// let network = vec![bias1, NamedTensor::new("layer_fc2.bias", &mut bias2[..])];
    /// Saver::new().split_above(8).save(&path, &[&network], &Metadata::new())?;
    /// assert!(!path.exists() && path.with_extension("safetensors.index.json").exists());
    ///
    /// Saver::new().restore(&path, &[&network])?;
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn split_above(self, bytes: u64) -> Self {
        Saver { split_above: bytes, ..self }
    }

    /// Lets [`restore`](Self::restore) ignore tensors that are only in the file: to use a trained network without its
    /// optimizer, or a file with tensors whose type is not supported.
    pub fn ignore_extra(self) -> Self {
        Saver { ignores_extra: true, ..self }
    }

    /// Lets [`restore`](Self::restore) and [`restore_matching`](Self::restore_matching) convert between floating-point
    /// types: half, bfloat16, single and double precision.
    ///
    /// Without this, a tensor of another type is a [`Mismatch`]. A conversion to a smaller type rounds to the nearest value,
    /// and to infinity beyond its range.
    ///
    /// ```
    /// use earlystop::checkpoint::{Metadata, NamedTensor, Saver};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("half.safetensors");
    /// let double = vec![NamedTensor::new("w", &[0.5f64, 2.0][..])];
    /// Saver::new().save(&path, &[&double], &Metadata::new())?;
    ///
    /// let mut weights = [0.0f32; 2];
    /// let network = vec![NamedTensor::new("w", &mut weights[..])];
    /// assert!(Saver::new().restore(&path, &[&network]).is_err());
    /// Saver::new().convert_floats().restore(&path, &[&network])?;
    /// # drop(network);
    /// assert_eq!(weights, [0.5, 2.0]);
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn convert_floats(self) -> Self {
        Saver { converts_floats: true, ..self }
    }

    /// Writes all tensors and the metadata to `path`, replacing what is there, and returns what the file system could not
    /// guarantee: usually nothing.
    ///
    /// A large state is saved in [several files](Self::split_above), and [`restore`](Self::restore) finds them by the same
    /// path. If `path` is a symbolic link, the file that it points to is replaced. A replaced file passes on its mode and, if
    /// the system permits, its owner and group.
    ///
    /// # Errors
    ///
    /// [`Error::State`] if two tensors share a name, a type cannot be stored or a metadata key is reserved;
    /// [`Error::Setting`] if `path` is that of an index (`.index.json`); `Error::Torch` if libtorch does not
    /// return the values; [`Error::Io`], naming the step, if the disk does not take them. The old file is untouched
    /// then. (Except if the last step fails, the sync of the folder: the new file is in place, but a power failure
    /// may bring the old one back.)
    pub fn save(&self, path: impl AsRef<Path>, state: &[&dyn Savable], metadata: &Metadata) -> Result<Vec<Warning>> {
        Ok(self.save_with(path.as_ref(), state, metadata, &[])?.warnings)
    }

    /// [`save`](Self::save) with entries of this module's own.
    pub(super) fn save_with(
        &self,
        path: &Path,
        state: &[&dyn Savable],
        metadata: &Metadata,
        internal: &[(&str, String)],
    ) -> Result<Committed> {
        let tensors = all_tensors(state)?;
        commit::save(&*self.files, path, &tensors, metadata, internal, self.split_above)
    }

    /// Copies all tensors of a file into those of `state`, and returns the file's metadata: all or nothing.
    ///
    /// Names, element types and shapes must be the same on both sides, and the file must be valid, before the first value is
    /// changed. The file is read twice, in pieces: once to compare the checksums and once to copy. Little memory is needed.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`], with everything that is missing, extra or different; [`Error::Checkpoint`] or [`Error::Io`] if
    /// the file is damaged or cannot be read; [`Error::State`] if two tensors of `state` share a name, or values cannot be
    /// written to one. Nothing is changed then. (Except if another program writes to the file meanwhile, the disk fails
    /// between the first and the second reading, or the device of a tensor fails.)
    pub fn restore(&self, path: impl AsRef<Path>, state: &[&dyn Savable]) -> Result<Metadata> {
        let path = path.as_ref();
        let tensors = all_tensors(state)?;
        let mut checkpoint = Checkpoint::open(path)?;
        let mut mismatches = self.differences(&tensors, &checkpoint)?;
        if self.ignores_extra {
            mismatches.retain(|mismatch| !mismatch.is_extra());
        }
        if !mismatches.is_empty() {
            return Err(Error::Mismatch { path: path.to_owned(), mismatches });
        }
        checkpoint.verify()?;
        copy_all(&checkpoint, tensors)?;
        Ok(checkpoint.metadata().clone())
    }

    /// Copies the tensors that fit by name, element type and shape, leaves the others unchanged, and returns both lists.
    ///
    /// For a network that was changed after its checkpoint was written.
    ///
    /// # Errors
    ///
    /// As [`restore`](Self::restore), but for [`Error::Mismatch`]; nothing is changed then.
    pub fn restore_matching(&self, path: impl AsRef<Path>, state: &[&dyn Savable]) -> Result<PartialRestore> {
        let path = path.as_ref();
        let mut tensors = all_tensors(state)?;
        let mut checkpoint = Checkpoint::open(path)?;
        let mismatches = self.differences(&tensors, &checkpoint)?;
        checkpoint.verify()?;
        let unfit: BTreeSet<&str> = mismatches.iter().filter_map(Mismatch::expected).map(|info| &*info.name).collect();
        tensors.retain(|tensor| !unfit.contains(&*tensor.name));
        let restored = tensors.iter().map(|tensor| tensor.name.clone()).collect();
        copy_all(&checkpoint, tensors)?;
        Ok(PartialRestore { restored, mismatches, metadata: checkpoint.metadata().clone() })
    }

    fn differences(&self, tensors: &[NamedTensor<'_>], checkpoint: &Checkpoint) -> Result<Vec<Mismatch>> {
        let expected: Vec<TensorInfo> = tensors.iter().map(NamedTensor::info).collect::<Result<_>>()?;
        let found = checkpoint.tensors().map(|(_, tensor)| &tensor.content);
        Ok(compare(&expected, found, self.converts_floats))
    }
}

/// What a partial restore did. From [`Saver::restore_matching`].
#[derive(Debug)]
#[non_exhaustive]
pub struct PartialRestore {
    /// The names of the tensors that were restored.
    pub restored: Vec<String>,
    /// What was not restored, and why.
    pub mismatches: Vec<Mismatch>,
    /// The file's metadata.
    pub metadata: Metadata,
}

fn all_tensors<'a>(state: &[&'a dyn Savable]) -> Result<Vec<NamedTensor<'a>>> {
    let tensors: Vec<NamedTensor> = state.iter().flat_map(|part| part.tensors()).collect();
    let mut names = BTreeSet::new();
    match tensors.iter().find(|tensor| !names.insert(&*tensor.name)) {
        Some(twice) => Err(Error::state(&twice.name, "two tensors share this name")),
        None => Ok(tensors),
    }
}

/// Copies the values of a checkpoint that was verified into the tensors, on several threads if there are many.
fn copy_all(checkpoint: &Checkpoint, tensors: Vec<NamedTensor>) -> Result<()> {
    // What cannot be written to must be known before the first change.
    for tensor in &tensors {
        tensor.expect_writable()?;
        tensor.expect_elements()?;
    }
    let stored: BTreeMap<&str, (usize, &HeaderTensor)> =
        checkpoint.tensors().map(|(file, tensor)| (tensor.content.name(), (file, tensor))).collect();
    let count = tensors.len();
    let jobs = tensors.into_iter().map(|live| {
        let found = stored.get(&*live.name).and_then(|(file, it)| Some((*file, it.content.info()?, it.range.start)));
        let (file, info, start) =
            found.ok_or_else(|| Error::state(&live.name, "no tensor of this name was compared"))?;
        Ok(CopyJob { live, file, dtype: info.dtype, start })
    });
    let jobs = Mutex::new(jobs.collect::<Result<Vec<_>>>()?.into_iter());
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
    run_on_threads(checkpoint.data_bytes(), count, |failed| {
        let mut buffer = Vec::new();
        while !failed.is_set()
            && let Some(CopyJob { live, file, dtype, start }) = next()
        {
            let mut read = |bytes: &mut [u8], from: u64| checkpoint.read_data(file, bytes, start + from);
            live.overwrite(dtype, &mut buffer, &mut read)?;
        }
        Ok(())
    })?;
    checkpoint.expect_unchanged()
}

/// The values of a tensor that are to be copied from a file.
struct CopyJob<'a> {
    live: NamedTensor<'a>,
    /// The place of its file in the checkpoint.
    file: usize,
    /// The type in the file.
    dtype: Dtype,
    /// Where its data begins in the file.
    start: u64,
}
