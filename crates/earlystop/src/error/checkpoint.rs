//! What errors say about checkpoints: tensors, the parts of a file, and who has the lock of a folder.

use std::fmt;

use safetensors::tensor::Dtype;

/// A tensor as a file or a network describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// The logical shape.
    pub shape: Vec<i64>,
}

/// `F32 [16, 1, 5, 5]`: what two tensors of one name must have in common.
impl fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.shape)
    }
}

/// A tensor in a file whose element type this library does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnsupportedTensor {
    /// The name.
    pub name: String,
    /// The element type, as the file names it.
    pub dtype: String,
    /// The logical shape.
    pub shape: Vec<i64>,
}

/// `F3_E1M1 [16, 5]`.
impl fmt::Display for UnsupportedTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.shape)
    }
}

/// The part of a file in which something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointPart {
    /// The file itself: its size.
    File,
    /// The header: the names, kinds, shapes and metadata.
    Header,
    /// The index of a checkpoint in several files, `….index.json`.
    Index,
    /// The data of the tensor of this name.
    Tensor(String),
}

impl fmt::Display for CheckpointPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointPart::File => write!(f, "file"),
            CheckpointPart::Header => write!(f, "header"),
            CheckpointPart::Index => write!(f, "index"),
            CheckpointPart::Tensor(name) => write!(f, "tensor {name:?}"),
        }
    }
}

/// One way in which a file does not fit the tensors to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mismatch {
    /// The file has no tensor of this name.
    Missing {
        /// The tensor to restore.
        expected: TensorInfo,
        /// The most similar name in the file that is not requested.
        near: Option<String>,
    },
    /// The tensor is in the file, but not requested.
    Extra {
        /// The tensor in the file.
        found: TensorInfo,
    },
    /// The tensor has another shape or kind in the file.
    Different {
        /// The tensor to restore.
        expected: TensorInfo,
        /// The tensor in the file.
        found: TensorInfo,
    },
    /// The tensor has an element type in the file that is not supported.
    Unsupported {
        /// The tensor to restore; `None` if it is not requested.
        expected: Option<TensorInfo>,
        /// The tensor in the file.
        found: UnsupportedTensor,
    },
}

impl Mismatch {
    /// Returns the tensor to restore, if there is one.
    pub(crate) fn expected(&self) -> Option<&TensorInfo> {
        match self {
            Mismatch::Missing { expected, .. } | Mismatch::Different { expected, .. } => Some(expected),
            Mismatch::Extra { .. } => None,
            Mismatch::Unsupported { expected, .. } => expected.as_ref(),
        }
    }

    /// Returns whether the tensor is not requested.
    pub(crate) fn is_extra(&self) -> bool {
        self.expected().is_none()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Missing { expected, near } => {
                write!(f, "missing from the file: {:?} {expected}", expected.name)?;
                near.as_ref().map_or(Ok(()), |near| write!(f, " (the file has {near:?})"))
            }
            Mismatch::Extra { found } => write!(f, "only in the file: {:?} {found}", found.name),
            Mismatch::Different { expected, found } => {
                write!(f, "different: {:?}: expected {expected}, found {found}", expected.name)?;
                if is_convertible(expected, found) { write!(f, " (convert_floats() converts it)") } else { Ok(()) }
            }
            Mismatch::Unsupported { expected: Some(expected), found } => {
                write!(f, "not supported: {:?}: expected {expected}, found {found}", found.name)
            }
            Mismatch::Unsupported { expected: None, found } => {
                write!(f, "only in the file, and not supported: {:?} {found}", found.name)
            }
        }
    }
}

/// Returns whether only the element types differ and both are floating-point types.
pub(crate) fn is_convertible(expected: &TensorInfo, found: &TensorInfo) -> bool {
    expected.shape == found.shape && expected.dtype != found.dtype && is_float(expected.dtype) && is_float(found.dtype)
}

/// Returns whether this is a floating-point type that [`convert`] supports.
pub(crate) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
}

/// The process that holds the lock of a folder, as the lock file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockHolder {
    /// The process id.
    pub pid: u32,
    /// The host name, if the process runs on another machine or in another container. Its id means nothing here then.
    pub elsewhere: Option<String>,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.elsewhere {
            Some(host) => write!(f, "process {} on another machine or in another container ({host})", self.pid),
            None => write!(f, "process {}", self.pid),
        }
    }
}
