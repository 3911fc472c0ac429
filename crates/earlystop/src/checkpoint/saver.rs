//! Saves to a path and restores from it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tch::Tensor;

use super::files::{Disk, Files, write_atomically};
use super::format::{encode, state_error, torch_error};
use super::header::Header;
use super::mismatch::compare;
use super::read::{Checkpoint, open};
use super::{Metadata, Mismatch, NamedTensor, Savable, TensorInfo, Warning};
use crate::{Error, Result};

/// Saves tensors to a file and restores them from it. Stands in for `tf.train.Saver`.
///
/// A save is atomic and lasting: at any instant, also if the process is killed or power fails, the path holds the old
/// checkpoint or the new one, whole; and when `save` has returned, the new one is on the disk. Any number of savers may
/// save to one path: the last one wins.
///
/// # Example
///
/// ```
/// use earlystop::checkpoint::{Metadata, NamedTensor, Saver};
/// use tch::Tensor;
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let save_path = dir.path().join("best_validation.safetensors");
/// let mut network = vec![NamedTensor::new("layer_fc1.bias", Tensor::from_slice(&[1.0f32, 2.0]))];
/// let saver = Saver::new();
/// saver.save(&save_path, &[&network], &Metadata::new())?;
///
/// let _ = network[0].tensor.zero_();
/// saver.restore(&save_path, &[&network])?;
/// assert_eq!(network[0].tensor, Tensor::from_slice(&[1.0f32, 2.0]));
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Saver {
    files: Arc<dyn Files>,
    ignores_extra: bool,
}

impl Default for Saver {
    fn default() -> Self {
        Saver::new()
    }
}

impl Saver {
    /// Makes a saver.
    pub fn new() -> Self {
        Saver::with_files(Arc::new(Disk))
    }

    pub(super) fn with_files(files: Arc<dyn Files>) -> Self {
        Saver { files, ignores_extra: false }
    }

    pub(super) fn files(&self) -> &dyn Files {
        &*self.files
    }

    /// Lets [`restore`](Self::restore) pass over tensors that are only in the file: to use a trained network without
    /// its optimizer.
    pub fn ignore_extra(self) -> Self {
        Saver { ignores_extra: true, ..self }
    }

    /// Writes all tensors and the metadata to `path`, replacing what is there, and returns what the file system could not
    /// guarantee: usually nothing.
    ///
    /// If `path` is a symbolic link, the file that it points to is replaced. A replaced file passes on its mode and, if
    /// the system permits, its owner and group.
    ///
    /// # Errors
    ///
    /// [`Error::State`] if two tensors share a name, a kind cannot be stored or a metadata key is taken;
    /// [`Error::Torch`] if libtorch does not give the values; [`Error::Io`], naming the step, if the disk does not take
    /// them. The old file is untouched then. (Except if the last step fails, the sync of the folder: the new file is in
    /// place, but a power failure may bring the old one back.)
    pub fn save(&self, path: impl AsRef<Path>, state: &[&dyn Savable], metadata: &Metadata) -> Result<Vec<Warning>> {
        self.save_with(path.as_ref(), state, metadata, &[])
    }

    /// [`save`](Self::save) with entries of this room's own.
    pub(super) fn save_with(
        &self,
        path: &Path,
        state: &[&dyn Savable],
        metadata: &Metadata,
        internal: &[(&str, String)],
    ) -> Result<Vec<Warning>> {
        let parts = encode(&all_tensors(state)?, metadata, internal)?;
        write_atomically(&*self.files, path, |output| parts.iter().try_for_each(|part| output.write(part)))
    }

    /// Copies all tensors of a file into those of `state`, and returns the file's metadata: all or nothing.
    ///
    /// Names, kinds and shapes must be the same on both sides, and the file must be sound, before the first value is
    /// changed.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`], with all that is missing, extra or different; [`Error::Checkpoint`] or [`Error::Io`] if the
    /// file is damaged or cannot be read; [`Error::State`] if two tensors of `state` share a name; [`Error::Torch`] if
    /// libtorch refuses a copy. Nothing is changed then.
    pub fn restore(&self, path: impl AsRef<Path>, state: &[&dyn Savable]) -> Result<Metadata> {
        let path = path.as_ref();
        let tensors = all_tensors(state)?;
        let (file, header) = open(path)?;
        let mut mismatches = differences(&tensors, &header)?;
        if self.ignores_extra {
            mismatches.retain(|mismatch| !matches!(mismatch, Mismatch::Extra { .. }));
        }
        if !mismatches.is_empty() {
            return Err(Error::Mismatch { path: path.to_owned(), mismatches });
        }
        let checkpoint = Checkpoint::read_rest(path, file, header)?;
        copy_all(&checkpoint, tensors)?;
        Ok(checkpoint.metadata().clone())
    }

    /// Copies the tensors that fit by name, kind and shape, leaves the others as they are, and tells which are which.
    ///
    /// For a network that was changed after its checkpoint was written.
    ///
    /// # Errors
    ///
    /// As [`restore`](Self::restore), but for [`Error::Mismatch`]; nothing is changed then.
    pub fn restore_matching(&self, path: impl AsRef<Path>, state: &[&dyn Savable]) -> Result<PartialRestore> {
        let path = path.as_ref();
        let mut tensors = all_tensors(state)?;
        let (file, header) = open(path)?;
        let mismatches = differences(&tensors, &header)?;
        let checkpoint = Checkpoint::read_rest(path, file, header)?;
        let unfit: BTreeSet<&str> = mismatches
            .iter()
            .filter_map(|mismatch| match mismatch {
                Mismatch::Missing { expected, .. } | Mismatch::Different { expected, .. } => Some(&*expected.name),
                Mismatch::Extra { .. } => None,
            })
            .collect();
        tensors.retain(|tensor| !unfit.contains(&*tensor.name));
        let restored = tensors.iter().map(|tensor| tensor.name.clone()).collect();
        copy_all(&checkpoint, tensors)?;
        Ok(PartialRestore { restored, mismatches, metadata: checkpoint.metadata().clone() })
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

fn all_tensors(state: &[&dyn Savable]) -> Result<Vec<NamedTensor>> {
    let tensors: Vec<NamedTensor> = state.iter().flat_map(|part| part.tensors()).collect();
    let mut names = BTreeSet::new();
    match tensors.iter().find(|tensor| !names.insert(&*tensor.name)) {
        Some(twice) => Err(state_error(&twice.name, "two tensors share this name".to_owned())),
        None => Ok(tensors),
    }
}

fn differences(tensors: &[NamedTensor], header: &Header) -> Result<Vec<Mismatch>> {
    let info = |NamedTensor { name, shape, tensor }: &NamedTensor| {
        let kind = tensor.f_kind().map_err(torch_error(name))?;
        Ok(TensorInfo { name: name.clone(), kind, shape: shape.clone() })
    };
    let expected: Vec<TensorInfo> = tensors.iter().map(info).collect::<Result<_>>()?;
    Ok(compare(&expected, header.tensors.iter().map(|tensor| &tensor.info)))
}

/// Copies the values of the checkpoint into the tensors. If one refuses, those before it get their old values back.
fn copy_all(checkpoint: &Checkpoint, tensors: Vec<NamedTensor>) -> Result<()> {
    // All that needs memory comes before the first change.
    let mut copies = Vec::with_capacity(tensors.len());
    for NamedTensor { name, tensor, .. } in tensors {
        let prepare = |value: Tensor| {
            let new = value.f_reshape(tensor.size())?.f_to_device(tensor.device())?;
            let mut old = tensor.f_detach()?.f_empty_like()?;
            old.f_copy_(&tensor.f_detach()?)?;
            Ok((new, old))
        };
        let (new, old) = prepare(checkpoint.tensor(&name)?).map_err(torch_error(&name))?;
        copies.push((name, tensor, new, old));
    }
    let _no_grad = tch::no_grad_guard();
    for i in 0..copies.len() {
        let (name, tensor, new, _) = &mut copies[i];
        if let Err(error) = tensor.f_copy_(new).map_err(torch_error(name)) {
            for (_, tensor, _, old) in &mut copies[..i] {
                let _ = tensor.f_copy_(old); // it took a value of this shape a moment ago
            }
            return Err(error);
        }
    }
    Ok(())
}
