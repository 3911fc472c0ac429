//! Saves and restores named tensors: one state, one file.

use std::collections::BTreeMap;
use std::fmt;

use tch::{Kind, Tensor};

#[cfg(test)]
mod faults;
mod files;
mod format;
mod header;
mod keep;
mod lock;
mod mismatch;
mod read;
mod saver;
mod store;

pub use keep::Keep;
pub use mismatch::Mismatch;
pub use read::Checkpoint;
pub use saver::{PartialRestore, Saver};
pub use store::{Saved, Skipped, Store, Valid, latest_checkpoint};

/// What a checkpoint carries beside tensors: strings by name, for the caller to fill.
///
/// They lie in the `__metadata__` of the file. Keys that start with `checkpoint.` are taken.
pub type Metadata = BTreeMap<String, String>;

/// A tensor with the name under which it is stored.
#[derive(Debug)]
pub struct NamedTensor {
    /// The name, unique in a file: `"layer_conv1.weight"`.
    pub name: String,
    /// The logical shape: `[out, in, height, width]` for convolutional weights, `[out, in]` for dense ones.
    pub shape: Vec<i64>,
    /// A live variable, or a view that shares its memory: a restore writes into it. Any layout in memory and any
    /// dimensions that hold the elements of `shape` in the same row-major order.
    pub tensor: Tensor,
}

impl NamedTensor {
    /// Names a tensor whose dimensions are the logical ones.
    pub fn new(name: impl Into<String>, tensor: Tensor) -> Self {
        let shape = if tensor.defined() { tensor.size() } else { Vec::new() };
        NamedTensor { name: name.into(), shape, tensor }
    }
}

/// Has tensors to save and to restore: a network, an optimizer.
///
/// A list of tensors has them too. This imports a file whose author chose other names:
///
/// ```
/// use earlystop::checkpoint::{Metadata, NamedTensor, Savable, Saver};
/// use tch::{Device, Kind, Tensor};
///
/// let network = vec![NamedTensor::new("layer_fc1.weight", Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)))];
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("python.safetensors");
/// # let foreign = vec![NamedTensor::new("fc1.weight", Tensor::ones([2, 3], (Kind::Float, Device::Cpu)))];
/// # Saver::new().save(&path, &[&foreign], &Metadata::new())?;
/// let renamed: Vec<NamedTensor> =
///     network.tensors().into_iter().map(|t| NamedTensor { name: t.name.replace("layer_", ""), ..t }).collect();
/// Saver::new().restore(&path, &[&renamed])?;
/// assert_eq!(network[0].tensor.sum(Kind::Float).double_value(&[]), 6.0);
/// # Ok::<(), earlystop::Error>(())
/// ```
pub trait Savable {
    /// Returns all tensors, sharing memory with the live ones.
    fn tensors(&self) -> Vec<NamedTensor>;
}

impl Savable for Vec<NamedTensor> {
    fn tensors(&self) -> Vec<NamedTensor> {
        let share = |t: &NamedTensor| NamedTensor {
            name: t.name.clone(),
            shape: t.shape.clone(),
            tensor: t.tensor.shallow_clone(),
        };
        self.iter().map(share).collect()
    }
}

/// A tensor as a file or a network describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name.
    pub name: String,
    /// The kind of its elements.
    pub kind: Kind,
    /// The logical shape.
    pub shape: Vec<i64>,
}

/// `Float [16, 1, 5, 5]`: what two tensors of one name must have in common.
impl fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.kind, self.shape)
    }
}

/// The part of a file in which something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointPart {
    /// The file as a whole: its size.
    File,
    /// The header: the names, kinds, shapes and metadata.
    Header,
    /// The data of the tensor of this name.
    Tensor(String),
}

impl fmt::Display for CheckpointPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointPart::File => write!(f, "file"),
            CheckpointPart::Header => write!(f, "header"),
            CheckpointPart::Tensor(name) => write!(f, "tensor {name:?}"),
        }
    }
}
