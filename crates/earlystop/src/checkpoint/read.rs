//! Reads a checkpoint: the headers at once, the data in pieces.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::data_file::{DataFile, VERIFY_BYTES};
use super::header::{Content, HeaderTensor, Seal};
use super::opened::{Opened, open};
use super::threads::run_on_threads;
#[cfg(feature = "torch")]
use super::torch;
use super::{Metadata, TensorInfo, UnsupportedTensor};
use crate::{Error, Result};

/// A checkpoint that is read from its file, or from its several files.
///
/// Reads every [safetensors](https://github.com/huggingface/safetensors) file, including those of other programs, and states
/// in several files by their index (`model.safetensors.index.json`). Tensors are read from the files when they are asked
/// for. The files stay open, so they may be replaced or deleted meanwhile.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    opened: Opened,
    data_bytes: u64,
    is_verified: bool,
}

impl Checkpoint {
    /// Reads a checkpoint completely, once, and compares all its checksums.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if the file cannot be read;
    /// [`Error::Checkpoint`](crate::Error::Checkpoint), naming the tensor or the header, if it is
    /// damaged, cut short or not a safetensors file.
    ///
    /// # Examples
    ///
    /// ```
    /// use earlystop::checkpoint::{Checkpoint, Metadata, NamedTensor, Saver};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("best_validation.safetensors");
    /// let network = vec![NamedTensor::new("layer_fc1.bias", &[1.0f32, 2.0][..])];
    /// let metadata = Metadata::from([("note".to_owned(), "before the holidays".to_owned())]);
    /// Saver::new().save(&path, &[&network], &metadata)?;
    ///
    /// let checkpoint = Checkpoint::read(&path)?;
    /// assert!(checkpoint.is_verified());
    /// assert_eq!(checkpoint.metadata()["note"], "before the holidays");
    /// assert_eq!(checkpoint.bytes("layer_fc1.bias")?, [1.0f32, 2.0].map(f32::to_le_bytes).concat());
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let mut checkpoint = Self::open(path)?;
        checkpoint.verify()?;
        Ok(checkpoint)
    }

    /// Reads only the header, or the index and all headers if there are several files: names, element types, shapes and metadata.
    ///
    /// `path` is that of the only file, that of the index, or where a state in several files was [saved](super::Saver::save):
    /// if there is no such file, but an index of that name, the index is read. The checksums of headers and index are
    /// compared. That of a tensor is compared when the tensor is read.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), except that damage of the tensors is not found yet.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let opened = open(&path)?;
        let data_bytes = opened.tensors.iter().map(|(_, tensor)| tensor.range.end - tensor.range.start).sum();
        let is_verified = opened.seal == Seal::Whole;
        Ok(Checkpoint { path, opened, data_bytes, is_verified })
    }

    /// Reads all data and compares the checksums, on several threads if there is much: [`open`](Self::open) and then `verify` are
    /// [`read`](Self::read).
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn verify(&mut self) -> Result<()> {
        let Opened { files, tensors, .. } = &self.opened;
        let next = AtomicUsize::new(0);
        let findings = Mutex::new(Vec::new());
        run_on_threads(self.data_bytes, tensors.len(), |_| {
            let mut buffer = vec![0; VERIFY_BYTES.min(self.data_bytes as usize)];
            while let Some((index, (file, tensor))) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                tensors.get(index).map(|tensor| (index, tensor))
            } {
                let found = files[*file].check(tensor, &mut buffer);
                if found.is_err() {
                    next.store(tensors.len(), Ordering::Relaxed); // the others may stop
                }
                findings.lock().unwrap_or_else(PoisonError::into_inner).push((index, found));
            }
            Ok(())
        })?;
        // Of several damaged tensors the first one is reported, whichever was found first.
        let mut findings = findings.into_inner().unwrap_or_else(PoisonError::into_inner);
        findings.sort_by_key(|(index, _)| *index);
        let matching: Vec<bool> = findings.into_iter().map(|(_, found)| found).collect::<Result<_>>()?;
        self.is_verified = matching.into_iter().all(|matches| matches) && self.opened.seal != Seal::None;
        Ok(())
    }

    /// Fills a buffer with the data of a file from a position on.
    pub(super) fn read_data(&self, file: usize, buffer: &mut [u8], start: u64) -> Result<()> {
        self.opened.files[file].read(buffer, start)
    }

    /// Returns an error if one of the files was changed since it was opened.
    pub(super) fn expect_unchanged(&self) -> Result<()> {
        self.opened.files.iter().try_for_each(|file| file.expect_unchanged())
    }

    pub(super) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// All tensors, each with the place of its file.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (usize, &HeaderTensor)> {
        self.opened.tensors.iter().map(|(file, tensor)| (*file, tensor))
    }

    /// This module's entries, by their keys without the prefix.
    pub(super) fn internal(&self) -> &Metadata {
        &self.opened.internal
    }

    /// Returns the path by which the checkpoint was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the paths of the files that contain the tensors: one, or the parts of a state in several files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.opened.files.iter().map(DataFile::path)
    }

    /// Returns the size in bytes of all files with tensors.
    pub fn file_bytes(&self) -> u64 {
        self.opened.files.iter().map(DataFile::bytes).sum()
    }

    /// Returns when the last of these files was written, if the file system records it.
    pub fn modified(&self) -> Option<SystemTime> {
        self.opened.files.iter().filter_map(DataFile::modified).max()
    }

    /// Returns what the writer stored in addition to the tensors.
    pub fn metadata(&self) -> &Metadata {
        &self.opened.metadata
    }

    /// Returns whether checksums cover the whole file, or all files.
    ///
    /// Files of other programs have none. If another program rewrote a checkpoint and kept its metadata, this is `true`
    /// after [`read`](Self::read) if the checksums still match.
    pub fn is_verified(&self) -> bool {
        self.is_verified
    }

    /// Returns the name, element type and shape of each tensor in the order of the file, except for [`unsupported`](Self::unsupported).
    pub fn infos(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors().filter_map(|(_, tensor)| tensor.content.info())
    }

    /// Returns the tensors of unknown element types. Only their bytes can be read.
    pub fn unsupported(&self) -> impl Iterator<Item = &UnsupportedTensor> {
        self.tensors().filter_map(|(_, tensor)| match &tensor.content {
            Content::Known(_) => None,
            Content::Unsupported(tensor) => Some(tensor),
        })
    }

    /// Reads the bytes of a tensor: the little-endian elements in row-major order.
    ///
    /// # Errors
    ///
    /// [`Error::State`](crate::Error::State) if there is none of this name;
    /// [`Error::Checkpoint`](crate::Error::Checkpoint) if it is damaged; [`Error::Io`](crate::Error::Io) if it cannot be read.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let (file, tensor) = self.find(name)?;
        self.bytes_of(file, tensor)
    }

    fn bytes_of(&self, file: usize, tensor: &HeaderTensor) -> Result<Vec<u8>> {
        let Range { start, end } = tensor.range;
        self.opened.files[file].check(tensor, &mut vec![0; VERIFY_BYTES.min((end - start) as usize)])?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact((end - start) as usize).map_err(|error| {
            self.opened.files[file]
                .damaged(tensor.content.name(), format!("no memory for its {} bytes of data: {error}", end - start))
        })?;
        bytes.resize((end - start) as usize, 0);
        self.read_data(file, &mut bytes, start)?;
        Ok(bytes)
    }

    /// Fills `buffer` with the bytes of a tensor from position `start` on, for tensors that are too large for the memory.
    ///
    /// Does not compare the tensor's checksum: [`read`](Self::read) the checkpoint first.
    ///
    /// ```
    /// # use earlystop::checkpoint::{Checkpoint, Metadata, NamedTensor, Saver};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("model.safetensors");
    /// # Saver::new().save(&path, &[&vec![NamedTensor::new("w", &[1.0f32, 2.0][..])]], &Metadata::new())?;
    /// let mut second = [0; 4];
    /// Checkpoint::read(&path)?.read_range("w", 4, &mut second)?;
    /// assert_eq!(f32::from_le_bytes(second), 2.0);
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::State`](crate::Error::State) if there is no tensor of this name, or it ends before the buffer is full;
    /// [`Error::Io`](crate::Error::Io) or [`Error::Checkpoint`](crate::Error::Checkpoint) if the file cannot be read.
    pub fn read_range(&self, name: &str, start: u64, buffer: &mut [u8]) -> Result<()> {
        let (file, tensor) = self.find(name)?;
        let bytes = tensor.range.end - tensor.range.start;
        if start.checked_add(buffer.len() as u64).is_none_or(|end| end > bytes) {
            let expected = format!("{} bytes from byte {start} on were asked for, but it has {bytes}", buffer.len());
            return Err(Error::state(name, expected));
        }
        self.read_data(file, buffer, tensor.range.start + start)
    }

    /// Reads a tensor into contiguous memory on the CPU.
    ///
    /// # Errors
    ///
    /// As [`bytes`](Self::bytes). Also [`Error::State`](crate::Error::State) if libtorch has no such element type, such as
    /// `U32`, `F8_E4M3` or `C64`, and [`Error::Torch`](crate::Error::Torch) if it refuses the tensor.
    #[cfg(feature = "torch")]
    pub fn tensor(&self, name: &str) -> Result<tch::Tensor> {
        let refused = |dtype: &dyn std::fmt::Display| {
            let path = self.path.display();
            Err(Error::state(name, format!("{path} holds it as {dtype}, which libtorch has no kind for here")))
        };
        let (file, tensor) = self.find(name)?;
        match &tensor.content {
            Content::Unsupported(UnsupportedTensor { dtype, .. }) => refused(dtype),
            Content::Known(TensorInfo { dtype, .. }) if !torch::has(*dtype) => refused(dtype),
            Content::Known(TensorInfo { dtype, shape, .. }) => {
                torch::from_bytes(name, &self.bytes_of(file, tensor)?, shape, *dtype)
            }
        }
    }

    fn find(&self, name: &str) -> Result<(usize, &HeaderTensor)> {
        let found = self.tensors().find(|(_, tensor)| tensor.content.name() == name);
        found.ok_or_else(|| Error::state(name, format!("{} holds no tensor of this name", self.path.display())))
    }
}
