//! Reads a file: its header at once, its data in pieces.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use super::files::{io_error, read_at};
use super::format::{hex, state_error, torch_error};
use super::header::{Content, Header, HeaderTensor, Seal};
use super::threads::run_on_threads;
use super::{CheckpointPart, Metadata, TensorInfo, UnsupportedTensor};
use crate::{Error, Result};

/// A checkpoint that is read from its file.
///
/// Reads every [safetensors](https://github.com/huggingface/safetensors) file, including those of other programs. Tensors
/// are read from the file when they are asked for. The file stays open, so it may be replaced or deleted meanwhile.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    file: File,
    header: Header,
    /// The size and the time of the last change when the file was opened.
    version: (u64, Option<SystemTime>),
    is_verified: bool,
}

impl Checkpoint {
    /// Reads a file once as a whole and compares all its checksums.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the file cannot be read; [`Error::Checkpoint`], naming the tensor or the header, if it is
    /// damaged, cut short or not a safetensors file.
    ///
    /// # Examples
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
        let mut checkpoint = Self::open(path)?;
        checkpoint.verify()?;
        Ok(checkpoint)
    }

    /// Reads the header only: the names, kinds, shapes and metadata.
    ///
    /// The checksum of the header is compared. That of a tensor is compared when the tensor is read.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), except that damage of the tensors is not found yet.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // Before the file is opened: opening a pipe would wait for its writer.
        let metadata = fs::metadata(path).map_err(io_error(path, "open"))?;
        if !metadata.is_file() {
            let problem = "it is a directory or a device, not a file";
            return Err(io_error(path, "read")(io::Error::new(ErrorKind::InvalidInput, problem)));
        }
        let mut file = File::open(path).map_err(io_error(path, "open"))?;
        let version = version(&file).map_err(io_error(path, "read the size"))?;
        let header = Header::read(path, &mut file, version.0)?;
        let is_verified = header.seal == Seal::Whole;
        Ok(Checkpoint { path: path.to_owned(), file, header, version, is_verified })
    }

    /// Reads all data and compares the checksums, on several threads if there is much.
    pub(super) fn verify(&mut self) -> Result<()> {
        let next = AtomicUsize::new(0);
        let findings = Mutex::new(Vec::new());
        run_on_threads(self.header.data_bytes, self.header.tensors.len(), || {
            let mut buffer = vec![0; VERIFY_BYTES.min(self.header.data_bytes as usize)];
            while let Some((index, tensor)) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                self.header.tensors.get(index).map(|tensor| (index, tensor))
            } {
                let found = self.check(tensor, &mut buffer);
                if found.is_err() {
                    next.store(self.header.tensors.len(), Ordering::Relaxed); // the others may stop
                }
                findings.lock().unwrap_or_else(PoisonError::into_inner).push((index, found));
            }
            Ok(())
        })?;
        // Of several damaged tensors the first one is reported, whichever was found first.
        let mut findings = findings.into_inner().unwrap_or_else(PoisonError::into_inner);
        findings.sort_by_key(|(index, _)| *index);
        let matching: Vec<bool> = findings.into_iter().map(|(_, found)| found).collect::<Result<_>>()?;
        self.is_verified = matching.into_iter().all(|matches| matches) && self.header.seal != Seal::None;
        Ok(())
    }

    /// Reads the data of a tensor in pieces, and returns whether its checksum is right or there is none.
    fn check(&self, tensor: &HeaderTensor, buffer: &mut [u8]) -> Result<bool> {
        let HeaderTensor { content, range, sha256 } = tensor;
        let is_bool = content.info().is_some_and(|info| info.kind == Kind::Bool);
        if sha256.is_none() && !is_bool {
            return Ok(true);
        }
        let mut sum = Sha256::new();
        for start in range.clone().step_by(VERIFY_BYTES) {
            let length = (range.end - start).min(VERIFY_BYTES as u64) as usize;
            let bytes = &mut buffer[..length];
            self.read_data(bytes, start)?;
            sum.update(&*bytes);
            if is_bool && bytes.iter().any(|&byte| byte > 1) {
                return Err(self.damaged(content.name(), "a Bool is neither 0 nor 1".to_owned()));
            }
        }
        let found = hex(&sum.finalize());
        self.compare(content.name(), &found, sha256.as_deref())
    }

    /// Compares a checksum. That of a file which another program wrote may belong to older content.
    fn compare(&self, name: &str, found: &str, expected: Option<&str>) -> Result<bool> {
        match expected {
            Some(expected) if found != expected => match self.header.seal {
                Seal::Whole => {
                    Err(self.damaged(name, format!("damaged: its SHA-256 is {found}, expected {expected:?}")))
                }
                Seal::Kept | Seal::None => Ok(false),
            },
            _ => Ok(true),
        }
    }

    /// Fills a buffer with the data from a position on.
    pub(super) fn read_data(&self, buffer: &mut [u8], start: u64) -> Result<()> {
        let length = read_at(&self.file, buffer, self.header.data_start + start);
        match length.map_err(io_error(&self.path, "read"))? {
            length if length == buffer.len() => Ok(()),
            _ => Err(self.changed()),
        }
    }

    /// Makes sure that nobody has written to the file since it was opened.
    pub(super) fn expect_unchanged(&self) -> Result<()> {
        let now = version(&self.file).map_err(io_error(&self.path, "read the size"))?;
        if now == self.version { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> Error {
        self.problem(CheckpointPart::File, "another program changed it while it was being read".to_owned())
    }

    fn damaged(&self, name: &str, problem: String) -> Error {
        self.problem(CheckpointPart::Tensor(name.to_owned()), problem)
    }

    fn problem(&self, part: CheckpointPart, problem: String) -> Error {
        Error::Checkpoint { path: self.path.clone(), part, problem }
    }

    /// Returns what the writer stored beside the tensors.
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// Returns whether checksums cover the whole file.
    ///
    /// Files of other programs have none. If another program rewrote a checkpoint and kept its metadata, this is `true`
    /// after [`read`](Self::read) if the checksums still match.
    pub fn is_verified(&self) -> bool {
        self.is_verified
    }

    /// Returns names, kinds and shapes, in the file's order, without those of [`unsupported`](Self::unsupported).
    pub fn infos(&self) -> impl Iterator<Item = &TensorInfo> {
        self.header.tensors.iter().filter_map(|tensor| tensor.content.info())
    }

    /// Returns the tensors that cannot be read, because libtorch or `tch` has no such element type.
    pub fn unsupported(&self) -> impl Iterator<Item = &UnsupportedTensor> {
        self.header.tensors.iter().filter_map(|tensor| match &tensor.content {
            Content::Known(_) => None,
            Content::Unsupported(tensor) => Some(tensor),
        })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Reads a tensor, contiguous and on the CPU.
    ///
    /// # Errors
    ///
    /// [`Error::State`] if there is none of this name, or its type is [unsupported](Self::unsupported);
    /// [`Error::Checkpoint`] if it is damaged; [`Error::Io`] if it cannot be read; [`Error::Torch`] if libtorch refuses it.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let problem = |problem: &str| state_error(name, format!("{} {problem}", self.path.display()));
        let found = self.header.tensors.iter().find(|tensor| tensor.content.name() == name);
        let tensor = found.ok_or_else(|| problem("holds no tensor of this name"))?;
        let info = match &tensor.content {
            Content::Known(info) => info,
            Content::Unsupported(UnsupportedTensor { dtype, .. }) => {
                return Err(problem(&format!("holds it as {dtype}, which libtorch has no kind for here")));
            }
        };
        let Range { start, end } = tensor.range;
        self.check(tensor, &mut vec![0; VERIFY_BYTES.min((end - start) as usize)])?;
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact((end - start) as usize)
            .map_err(|error| self.damaged(name, format!("no memory for its {} bytes of data: {error}", end - start)))?;
        bytes.resize((end - start) as usize, 0);
        self.read_data(&mut bytes, start)?;
        if bytes.is_empty() {
            // An empty slice has no address that libtorch could read from.
            return Tensor::f_zeros(&info.shape, (info.kind, tch::Device::Cpu)).map_err(torch_error(name));
        }
        Tensor::f_from_data_size(&bytes, &info.shape, info.kind).map_err(torch_error(name))
    }
}

/// How much is read and hashed at once: it stays in the processor's cache.
const VERIFY_BYTES: usize = 256 << 10;

fn version(file: &File) -> io::Result<(u64, Option<SystemTime>)> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.modified().ok()))
}
