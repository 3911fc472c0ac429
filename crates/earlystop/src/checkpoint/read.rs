//! A file in memory, read whole and checked.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tch::Tensor;

use super::files::io_error;
use super::format::torch_error;
use super::header::{Header, HeaderTensor};
use super::{Metadata, TensorInfo};
use crate::{Error, Result};

/// A checkpoint that was read from its file, whole and checked.
///
/// Reads every [safetensors](https://github.com/huggingface/safetensors) file whose kinds libtorch has, so those that
/// Python wrote too.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    header: Header,
    data: Vec<u8>,
}

impl Checkpoint {
    /// Reads a file and compares all its checksums.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be read; [`Error::Checkpoint`], naming the tensor or the header, if it is
    /// damaged, cut short or no safetensors file.
    ///
    /// # Example
    ///
    /// ```
    /// use earlystop::checkpoint::{Checkpoint, Metadata, NamedTensor, Saver};
    /// use tch::Tensor;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("best_validation.safetensors");
    /// let network = vec![NamedTensor::new("layer_fc1.bias", Tensor::from_slice(&[1.0f32, 2.0]))];
    /// let metadata = Metadata::from([("note".to_owned(), "before the holidays".to_owned())]);
    /// Saver::new().save(&path, &[&network], &metadata)?;
    ///
    /// let checkpoint = Checkpoint::read(&path)?;
    /// assert!(checkpoint.is_verified());
    /// assert_eq!(checkpoint.metadata()["note"], "before the holidays");
    /// assert_eq!(checkpoint.tensor("layer_fc1.bias")?, network[0].tensor);
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, header) = open(path)?;
        Self::read_rest(path, file, header)
    }

    /// Reads what follows a header that [`open`] returned.
    pub(super) fn read_rest(path: &Path, mut file: File, header: Header) -> Result<Self> {
        let data = header.read_data(path, &mut file)?;
        Ok(Checkpoint { path: path.to_owned(), header, data })
    }

    /// Returns what the writer put beside the tensors.
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// Returns whether checksums covered the whole file. Files that other programs wrote have none.
    pub fn is_verified(&self) -> bool {
        self.header.is_verified
    }

    /// Returns names, kinds and shapes, in the file's order.
    pub fn infos(&self) -> impl Iterator<Item = &TensorInfo> {
        self.header.tensors.iter().map(|tensor| &tensor.info)
    }

    /// Returns a copy of a tensor, contiguous and on the CPU.
    ///
    /// # Errors
    ///
    /// [`Error::State`] if there is none of this name; [`Error::Torch`] if libtorch refuses it.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let HeaderTensor { info, range, .. } =
            self.header.tensors.iter().find(|tensor| tensor.info.name == name).ok_or_else(|| Error::State {
                name: name.to_owned(),
                problem: format!("{} holds no tensor of this name", self.path.display()),
            })?;
        Tensor::f_from_data_size(&self.data[range.clone()], &info.shape, info.kind).map_err(torch_error(name))
    }
}

/// Opens a file, reads and checks its header, and leaves the file at the first byte of its data.
pub(super) fn open(path: &Path) -> Result<(File, Header)> {
    // Before the file is opened: opening a pipe would wait for its writer.
    let metadata = fs::metadata(path).map_err(io_error(path, "open"))?;
    if !metadata.is_file() {
        let problem = "it is a directory or a device, not a file";
        return Err(io_error(path, "read")(io::Error::new(ErrorKind::InvalidInput, problem)));
    }
    let mut file = File::open(path).map_err(io_error(path, "open"))?;
    let bytes = file.metadata().map_err(io_error(path, "read the size"))?.len();
    let header = Header::read(path, &mut file, bytes)?;
    Ok((file, header))
}
