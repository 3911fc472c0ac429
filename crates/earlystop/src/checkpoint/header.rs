//! Reads the header of a file, which is not trusted.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::Dtype;
use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{self, Deserializer, Error as _, MapAccess, Visitor};

use super::checksum::hex_sha256;
use super::format::{Entry, FORMAT, HEADER_SUM, MAX_HEADER_BYTES, RESERVED, TENSOR_SUM, seal_of, unsealed_header};
use super::{CheckpointPart, Metadata, TensorInfo, UnsupportedTensor};
use crate::error::io_error;
use crate::{Error, Result};

/// libtorch takes no tensor of more dimensions.
const MAX_DIMENSIONS: usize = 64;

/// What a file says before its data: all names, kinds and shapes, in the order of the data.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) tensors: Vec<HeaderTensor>,
    /// The caller's own entries.
    pub(super) metadata: Metadata,
    /// This module's entries, by their keys without [`RESERVED`].
    pub(super) internal: Metadata,
    pub(super) seal: Seal,
    /// Where the data begins.
    pub(super) data_start: u64,
    pub(super) data_bytes: u64,
}

/// What the checksums in a header are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    /// There are none, or they belong to other content: another program wrote the file.
    None,
    /// Another program wrote the file and kept the checksums. They cover the header, and perhaps the data too.
    Kept,
    /// They cover the whole file, byte for byte.
    Whole,
}

#[derive(Debug)]
pub(super) struct HeaderTensor {
    pub(super) content: Content,
    /// Where its bytes are in the data.
    pub(super) range: Range<u64>,
    /// Its checksum, unless the seal is [`Seal::None`].
    pub(super) sha256: Option<String>,
}

/// A tensor of a known or an unknown element type.
#[derive(Debug)]
pub(super) enum Content {
    Known(TensorInfo),
    Unsupported(UnsupportedTensor),
}

impl Content {
    pub(super) fn name(&self) -> &str {
        match self {
            Content::Known(info) => &info.name,
            Content::Unsupported(tensor) => &tensor.name,
        }
    }

    pub(super) fn info(&self) -> Option<&TensorInfo> {
        match self {
            Content::Known(info) => Some(info),
            Content::Unsupported(_) => None,
        }
    }
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

        let parsed = Header::parse(&mut raw, 8 + header_bytes).map_err(header)?;
        let expected = parsed.data_start + parsed.data_bytes;
        if expected != file_bytes {
            let how = if file_bytes < expected { "cut short" } else { "something was appended" };
            return Err(file(format!("expected {expected} bytes, found {file_bytes}: {how}")));
        }
        Ok(parsed)
    }

    /// Parses the header's JSON; the message of an error says what is wrong with it.
    fn parse(raw: &mut [u8], data_start: u64) -> Result<Self, String> {
        // As this library writes a header. A mismatch is judged below, when the content is known.
        let sum = seal_of(raw);
        let damage = match &sum {
            Some((found, expected)) if found != expected => {
                Some(format!("damaged: its SHA-256 is {found}, expected {expected:?}"))
            }
            _ => None,
        };
        let Entries { mut metadata, is_reordered, tensors } = serde_json::from_slice(raw)
            .map_err(|error| damage.clone().unwrap_or_else(|| format!("damaged, or not safetensors: {error}")))?;
        if let Some((_, expected)) = &sum {
            metadata.insert(HEADER_SUM.to_owned(), expected.clone());
        }
        let seal = match &damage {
            None if sum.is_some() => Seal::Whole,
            _ if is_kept(&metadata, &tensors) => Seal::Kept,
            // A flipped bit leaves the order of the entries nearly as it was. Other programs use any order.
            Some(damage) if !is_reordered => return Err(damage.clone()),
            _ => Seal::None,
        };
        let has_own_sum = metadata.contains_key(HEADER_SUM);
        let (mut internal, metadata): (Metadata, Metadata) =
            metadata.into_iter().partition(|(key, _)| key.starts_with(RESERVED));
        if !has_own_sum && !internal.is_empty() {
            return Err("damaged: its own checksum is missing".to_owned());
        }
        if seal == Seal::Whole && internal.get(FORMAT).is_none_or(|format| format != "1") {
            let found = internal.get(FORMAT);
            return Err(format!("written by another version: expected {FORMAT:?} \"1\", found {found:?}"));
        }

        let mut parsed =
            Header { tensors: Vec::new(), metadata, internal: BTreeMap::new(), seal, data_start, data_bytes: 0 };
        for (name, stored) in tensors {
            let sha256 = internal.remove(&format!("{TENSOR_SUM}{name}")).filter(|_| seal != Seal::None);
            parsed.push(name, stored, sha256)?;
        }
        parsed.internal = internal.into_iter().map(|(key, value)| (key[RESERVED.len()..].to_owned(), value)).collect();
        Ok(parsed)
    }

    /// Adds the next tensor; the message of an error names it.
    fn push(&mut self, name: String, stored: Stored, sha256: Option<String>) -> Result<(), String> {
        let Stored { dtype, shape, data_offsets: (start, end) } = stored;
        if start != self.data_bytes || end < start {
            let before = self.data_bytes;
            return Err(format!("tensor {name:?}: its data is at {start}..{end}, but the one before ends at {before}"));
        }
        if shape.len() > MAX_DIMENSIONS {
            return Err(format!("tensor {name:?}: {} dimensions, more than {MAX_DIMENSIONS}", shape.len()));
        }
        let known = dtype_of(&dtype);
        // A type that is not known has elements of any size.
        if known.is_some_and(|known| byte_count(&shape, known) != Some(end - start)) {
            let found = end - start;
            return Err(format!("tensor {name:?}: {dtype} {shape:?} does not take the {found} bytes given to it"));
        }
        if self.seal == Seal::Whole && sha256.is_none() {
            return Err(format!("tensor {name:?}: its checksum is missing"));
        }
        let shape = shape.into_iter().map(|size| size as i64).collect();
        let content = match known {
            Some(dtype) => Content::Known(TensorInfo { name, dtype, shape }),
            None => Content::Unsupported(UnsupportedTensor { name, dtype, shape }),
        };
        self.tensors.push(HeaderTensor { content, range: start..end, sha256 });
        self.data_bytes = end;
        Ok(())
    }
}

/// Returns whether another program rewrote the header with the same contents, in another order or layout.
///
/// The checksum is that of the header as this library writes it, so it is taken of the header written like that again.
fn is_kept(metadata: &Metadata, tensors: &[(String, Stored)]) -> bool {
    let entry = |(name, stored): &(String, Stored)| {
        let shape = stored.shape.iter().map(|&size| size as usize).collect();
        Some(Entry { name: name.clone(), dtype: dtype_of(&stored.dtype)?, shape })
    };
    let Some(mut entries) = tensors.iter().map(entry).collect::<Option<Vec<Entry>>>() else { return false };
    let Some(sum) = metadata.get(HEADER_SUM) else { return false };
    entries.sort_by(|a, b| a.order().cmp(&b.order()));
    let mut strings = metadata.clone();
    strings.remove(HEADER_SUM);
    strings.get(FORMAT).is_some_and(|format| format == "1")
        && hex_sha256(&unsealed_header(entries.iter(), &strings)) == *sum
}

fn dtype_of(name: &str) -> Option<Dtype> {
    Dtype::deserialize(StrDeserializer::<de::value::Error>::new(name)).ok()
}

/// Returns the size of a tensor in bytes, or `None` if no tensor can have it.
fn byte_count(shape: &[u64], dtype: Dtype) -> Option<u64> {
    // Zeros are left out, so that no huge size hides behind one.
    let bits = shape.iter().filter(|&&size| size > 0).try_fold(dtype.bitsize() as u128, |a, &b| {
        a.checked_mul(u128::from(b)).filter(|bits| *bits <= 8 * i64::MAX as u128)
    })?;
    if shape.contains(&0) { Some(0) } else { bits.is_multiple_of(8).then_some((bits / 8) as u64) }
}

/// A tensor's entry in the JSON.
#[derive(Deserialize)]
struct Stored {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// A header's JSON: an object whose names may not repeat, its tensors sorted by their place in the data.
struct Entries {
    metadata: Metadata,
    /// Whether the keys of the metadata come in an order that this library does not write.
    is_reordered: bool,
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
                        metadata.replace(map.next_value::<UniqueStrings>()?).is_none()
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
                let UniqueStrings { strings, descents } = metadata.unwrap_or_default();
                Ok(Entries { metadata: strings, is_reordered: descents > 1, tensors })
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// An object of strings whose keys may not repeat.
#[derive(Default)]
pub(super) struct UniqueStrings {
    pub(super) strings: Metadata,
    /// How often a key is smaller than the one before it. The very first key is left out: this library's own checksum,
    /// which all others follow in ascending order.
    descents: usize,
}

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
                let (mut before, mut descents) = (None::<String>, 0);
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if strings.contains_key(&key) {
                        return Err(A::Error::custom(format!("the metadata key {key:?} is there twice")));
                    }
                    descents += usize::from(before.as_ref().is_some_and(|before| key < *before));
                    before = (!strings.is_empty()).then(|| key.clone());
                    strings.insert(key, value);
                }
                Ok(UniqueStrings { strings, descents })
            }
        }
        deserializer.deserialize_map(UniqueStringsVisitor)
    }
}
