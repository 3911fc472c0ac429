//! What a file says before its data, read without trust.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::TensorInfo as Stored;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use tch::Kind;

use super::files::io_error;
use super::format::{
    FORMAT, KINDS, MAX_FILE_BYTES, MAX_HEADER_BYTES, RESERVED, SUM_DIGITS, SUM_PREFIX, TENSOR_SUM, hex_sha256,
};
use super::{CheckpointPart, Metadata, TensorInfo};
use crate::{Error, Result};

/// libtorch takes no tensor of more dimensions.
const MAX_DIMENSIONS: usize = 64;

/// What a file says before its data: all names, kinds and shapes, in the order of the data.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) tensors: Vec<HeaderTensor>,
    /// The writer's own entries.
    pub(super) metadata: Metadata,
    /// This room's entries, by their keys without [`RESERVED`].
    pub(super) internal: Metadata,
    /// Whether a checksum covers the whole file.
    pub(super) is_verified: bool,
    data_bytes: usize,
}

#[derive(Debug)]
pub(super) struct HeaderTensor {
    pub(super) info: TensorInfo,
    /// Where its bytes lie in the data.
    pub(super) range: Range<usize>,
    sha256: Option<String>,
}

impl Header {
    /// Reads and checks the header of a file of `file_bytes` bytes. Allocates no more than the header's size limit and a
    /// small multiple of it.
    pub(super) fn read(path: &Path, reader: &mut impl Read, file_bytes: u64) -> Result<Self> {
        let file = |problem: String| Error::Checkpoint { path: path.to_owned(), part: CheckpointPart::File, problem };
        let header =
            |problem: String| Error::Checkpoint { path: path.to_owned(), part: CheckpointPart::Header, problem };
        let read_error = io_error(path, "read");

        if file_bytes < 8 {
            return Err(file(format!("{file_bytes} bytes are too few for a safetensors file: cut short")));
        }
        if file_bytes > MAX_FILE_BYTES {
            return Err(file(format!("{file_bytes} bytes are more than the limit of {MAX_FILE_BYTES}")));
        }
        let mut length = [0; 8];
        let mut raw = Vec::new();
        let read = reader.read_exact(&mut length).and_then(|()| {
            let header_bytes = u64::from_le_bytes(length);
            if header_bytes <= MAX_HEADER_BYTES.min(file_bytes - 8) {
                raw.resize(header_bytes as usize, 0);
                reader.read_exact(&mut raw)?;
            }
            Ok(header_bytes)
        });
        let header_bytes = read.map_err(read_error)?;
        if header_bytes > MAX_HEADER_BYTES {
            let problem = format!("a length of {header_bytes} bytes is above the limit of {MAX_HEADER_BYTES}");
            return Err(header(format!("{problem}: damaged, or not a safetensors file")));
        }
        if header_bytes > file_bytes - 8 {
            let follow = file_bytes - 8;
            return Err(file(format!("its header is to have {header_bytes} bytes, but {follow} follow: cut short")));
        }

        let is_verified = raw.starts_with(SUM_PREFIX) && raw.len() >= SUM_DIGITS.end;
        if is_verified {
            let expected = String::from_utf8_lossy(&raw[SUM_DIGITS]).into_owned();
            raw[SUM_DIGITS].fill(b'0');
            let found = hex_sha256(&raw);
            if found != expected {
                return Err(header(format!("damaged: its SHA-256 is {found}, expected {expected:?}")));
            }
        }
        let Entries { metadata, tensors } =
            serde_json::from_slice(&raw).map_err(|error| header(format!("damaged, or not safetensors: {error}")))?;
        let (mut internal, metadata): (Metadata, Metadata) =
            metadata.into_iter().partition(|(key, _)| key.starts_with(RESERVED));
        if !is_verified && !internal.is_empty() {
            return Err(header("damaged: its own checksum is missing".to_owned()));
        }
        if is_verified && internal.get(FORMAT).is_none_or(|format| format != "1") {
            let found = internal.get(FORMAT);
            return Err(header(format!("written by another version: expected {FORMAT:?} \"1\", found {found:?}")));
        }

        let mut parsed =
            Header { tensors: Vec::new(), metadata, internal: BTreeMap::new(), is_verified, data_bytes: 0 };
        for (name, stored) in tensors {
            let sha256 = internal.remove(&format!("{TENSOR_SUM}{name}"));
            parsed.push(name, stored, sha256).map_err(header)?;
        }
        parsed.internal = internal.into_iter().map(|(key, value)| (key[RESERVED.len()..].to_owned(), value)).collect();
        let expected = 8 + header_bytes + parsed.data_bytes as u64;
        if expected != file_bytes {
            let how = if file_bytes < expected { "cut short" } else { "something was appended" };
            return Err(file(format!("expected {expected} bytes, found {file_bytes}: {how}")));
        }
        Ok(parsed)
    }

    /// Adds the next tensor; the message of an error names it.
    fn push(&mut self, name: String, stored: Stored, sha256: Option<String>) -> Result<(), String> {
        let Stored { dtype, shape, data_offsets: (start, end) } = stored;
        let Some((kind, _)) = KINDS.iter().find(|(_, known)| *known == dtype) else {
            return Err(format!("tensor {name:?}: libtorch has no kind for {dtype}"));
        };
        if start != self.data_bytes || end < start {
            let before = self.data_bytes;
            return Err(format!("tensor {name:?}: its data is at {start}..{end}, but the one before ends at {before}"));
        }
        if shape.len() > MAX_DIMENSIONS {
            return Err(format!("tensor {name:?}: {} dimensions, more than {MAX_DIMENSIONS}", shape.len()));
        }
        // Zeros are left out, so that no huge size hides behind one.
        let bytes = shape.iter().filter(|&&size| size > 0).try_fold(dtype.bitsize() / 8, |a, &b| a.checked_mul(b));
        let bytes = bytes.filter(|&bytes| i64::try_from(bytes).is_ok());
        let expected = if shape.contains(&0) { bytes.map(|_| 0) } else { bytes };
        if expected != Some(end - start) {
            let found = end - start;
            return Err(format!("tensor {name:?}: {dtype} {shape:?} does not take the {found} bytes given to it"));
        }
        if self.is_verified && sha256.is_none() {
            return Err(format!("tensor {name:?}: its checksum is missing"));
        }
        let shape = shape.into_iter().map(|size| size as i64).collect();
        let info = TensorInfo { name, kind: *kind, shape };
        self.tensors.push(HeaderTensor { info, range: start..end, sha256 });
        self.data_bytes = end;
        Ok(())
    }

    /// Reads and checks the data, which follows the header.
    pub(super) fn read_data(&self, path: &Path, reader: &mut impl Read) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        data.try_reserve_exact(self.data_bytes).map_err(|error| Error::Checkpoint {
            path: path.to_owned(),
            part: CheckpointPart::File,
            problem: format!("no memory for its {} bytes of data: {error}", self.data_bytes),
        })?;
        data.resize(self.data_bytes, 0);
        reader.read_exact(&mut data).map_err(io_error(path, "read"))?;
        for HeaderTensor { info, range, sha256 } in &self.tensors {
            let bytes = &data[range.clone()];
            let damaged = |problem: String| Error::Checkpoint {
                path: path.to_owned(),
                part: CheckpointPart::Tensor(info.name.clone()),
                problem,
            };
            if let Some(expected) = sha256 {
                let found = hex_sha256(bytes);
                if found != *expected {
                    return Err(damaged(format!("damaged: its SHA-256 is {found}, expected {expected:?}")));
                }
            }
            if info.kind == Kind::Bool && bytes.iter().any(|&byte| byte > 1) {
                return Err(damaged("a Bool is neither 0 nor 1".to_owned()));
            }
        }
        Ok(data)
    }
}

/// A header's JSON: an object whose names may not repeat, its tensors sorted by their place in the data.
struct Entries {
    metadata: Metadata,
    tensors: Vec<(String, Stored)>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut metadata = None;
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let is_new = if name == "__metadata__" {
                        metadata.replace(map.next_value::<UniqueStrings>()?.0).is_none()
                    } else {
                        let stored =
                            map.next_value().map_err(|error| A::Error::custom(format!("{name:?}: {error}")))?;
                        tensors.insert(name.clone(), stored).is_none()
                    };
                    if !is_new {
                        return Err(A::Error::custom(format!("the name {name:?} is there twice")));
                    }
                }
                let mut tensors: Vec<(String, Stored)> = tensors.into_iter().collect();
                tensors.sort_by_key(|(_, stored)| stored.data_offsets);
                Ok(Entries { metadata: metadata.unwrap_or_default(), tensors })
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// An object of strings whose keys may not repeat.
struct UniqueStrings(Metadata);

impl<'de> Deserialize<'de> for UniqueStrings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UniqueStringsVisitor;
        impl<'de> Visitor<'de> for UniqueStringsVisitor {
            type Value = UniqueStrings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueStrings, A::Error> {
                let mut strings = Metadata::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if strings.contains_key(&key) {
                        return Err(A::Error::custom(format!("the metadata key {key:?} is there twice")));
                    }
                    strings.insert(key, value);
                }
                Ok(UniqueStrings(strings))
            }
        }
        deserializer.deserialize_map(UniqueStringsVisitor)
    }
}
