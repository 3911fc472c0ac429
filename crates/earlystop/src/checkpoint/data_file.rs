//! One file of a checkpoint, from which data is read.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use safetensors::tensor::Dtype;
use sha2::{Digest, Sha256};

use super::CheckpointPart;
use super::checksum::hex;
use super::files::{open_regular, read_at};
use super::header::{Header, HeaderTensor, Seal};
use crate::error::io_error;
use crate::{Error, Result};

/// How much is read and hashed at once: it stays in the processor's cache.
pub(super) const VERIFY_BYTES: usize = 256 << 10;

/// A file that stays open, so it may be replaced or deleted meanwhile.
#[derive(Debug)]
pub(super) struct DataFile {
    path: PathBuf,
    file: File,
    /// Where the data begins.
    data_start: u64,
    pub(super) seal: Seal,
    /// The size and the time of the last change when the file was opened.
    version: (u64, Option<SystemTime>),
}

impl DataFile {
    /// Opens a file and reads its header.
    pub(super) fn open(path: &Path) -> Result<(Self, Header)> {
        let mut file = open_regular(path)?;
        let version = version(&file).map_err(io_error(path, "read the size"))?;
        let header = Header::read(path, &mut file, version.0)?;
        let (path, data_start, seal) = (path.to_owned(), header.data_start, header.seal);
        Ok((DataFile { path, file, data_start, seal, version }, header))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The size of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.version.0
    }

    pub(super) fn modified(&self) -> Option<SystemTime> {
        self.version.1
    }

    /// Reads the data of a tensor in pieces, and returns whether its checksum is right or there is none.
    pub(super) fn check(&self, tensor: &HeaderTensor, buffer: &mut [u8]) -> Result<bool> {
        let HeaderTensor { content, range, sha256 } = tensor;
        let is_bool = content.info().is_some_and(|info| info.dtype == Dtype::BOOL);
        if sha256.is_none() && !is_bool {
            return Ok(true);
        }
        let mut sum = Sha256::new();
        for start in range.clone().step_by(VERIFY_BYTES) {
            let length = (range.end - start).min(VERIFY_BYTES as u64) as usize;
            let bytes = &mut buffer[..length];
            self.read(bytes, start)?;
            sum.update(&*bytes);
            if is_bool && bytes.iter().any(|&byte| byte > 1) {
                return Err(self.damaged(content.name(), "a Bool is neither 0 nor 1".to_owned()));
            }
        }
        let found = hex(&sum.finalize());
        self.compare(content.name(), &found, sha256.as_deref())
    }

    /// Compares a checksum with the expected one. If another program rewrote the file, the expected one may be outdated.
    fn compare(&self, name: &str, found: &str, expected: Option<&str>) -> Result<bool> {
        match expected {
            Some(expected) if found != expected => match self.seal {
                Seal::Whole => {
                    Err(self.damaged(name, format!("damaged: its SHA-256 is {found}, expected {expected:?}")))
                }
                Seal::Kept | Seal::None => Ok(false),
            },
            _ => Ok(true),
        }
    }

    /// Fills a buffer with the data from a position on.
    pub(super) fn read(&self, buffer: &mut [u8], start: u64) -> Result<()> {
        let length = read_at(&self.file, buffer, self.data_start + start);
        match length.map_err(io_error(&self.path, "read"))? {
            length if length == buffer.len() => Ok(()),
            _ => Err(self.changed()),
        }
    }

    /// Returns an error if the file was changed since it was opened.
    pub(super) fn expect_unchanged(&self) -> Result<()> {
        let now = version(&self.file).map_err(io_error(&self.path, "read the size"))?;
        if now == self.version { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> Error {
        self.problem(CheckpointPart::File, "another program changed it while it was being read".to_owned())
    }

    pub(super) fn damaged(&self, name: &str, problem: String) -> Error {
        self.problem(CheckpointPart::Tensor(name.to_owned()), problem)
    }

    pub(super) fn problem(&self, part: CheckpointPart, problem: String) -> Error {
        Error::Checkpoint { path: self.path.clone(), part, problem }
    }
}

fn version(file: &File) -> io::Result<(u64, Option<SystemTime>)> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.modified().ok()))
}
