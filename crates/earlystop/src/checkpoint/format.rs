//! The file: [safetensors](https://github.com/huggingface/safetensors#format), with checksums in its metadata.
//!
//! The header's first entry is the SHA-256 of the header itself, taken with 64 zeros in its place. The header holds the
//! SHA-256 of every tensor, and the tensors fill the rest of the file without a gap: so the first sum covers the whole
//! file, and one pass over the data is enough to tell which part is damaged.

use std::cmp::Reverse;
use std::ops::Range;

use safetensors::tensor::{Dtype, TensorInfo as Stored};

use super::checksum::hex_sha256;
use super::output::Output;
use super::{Metadata, NamedTensor, TensorInfo};
use crate::{Error, Result};

/// No header above this size is written or read: the limit of the libraries of safetensors.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The metadata's keys that belong to this module.
pub(super) const RESERVED: &str = "checkpoint.";
/// What a header with a checksum starts with; 64 hexadecimal digits follow.
pub(super) const SUM_PREFIX: &[u8] = br#"{"__metadata__":{"checkpoint.sha256":""#;
pub(super) const SUM_DIGITS: Range<usize> = SUM_PREFIX.len()..SUM_PREFIX.len() + 64;
/// The placeholder of a checksum that is not computed yet.
const NO_SUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";
pub(super) const HEADER_SUM: &str = "checkpoint.sha256";
pub(super) const TENSOR_SUM: &str = "checkpoint.sha256/";
pub(super) const FORMAT: &str = "checkpoint.format";

/// What a header says about a tensor, except where its data is.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
}

impl Entry {
    /// Wide elements first, as in every safetensors file: then each tensor is aligned.
    pub(super) fn order(&self) -> (Reverse<usize>, &str) {
        (Reverse(self.dtype.bitsize()), &self.name)
    }

    /// The size in bytes. A header that was read may name impossible ones.
    pub(super) fn bytes(&self) -> usize {
        let count = self.shape.iter().fold(1, |count: usize, &size| count.saturating_mul(size));
        count.saturating_mul(self.dtype.bitsize()) / 8
    }
}

/// A state that is ready to be written.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// In the order of the file.
    tensors: Vec<(&'a NamedTensor<'a>, Entry)>,
    /// The metadata, without the checksums.
    strings: Metadata,
    /// The size of the data.
    data_bytes: u64,
}

impl<'a> Plan<'a> {
    /// Plans a file. `tensors` are in the order of the file; the metadata contains no checksums yet.
    pub(super) fn new(tensors: Vec<(&'a NamedTensor<'a>, Entry)>, strings: Metadata) -> Result<Self> {
        let data_bytes = tensors.iter().map(|(_, entry)| entry.bytes() as u64).sum();
        let plan = Plan { tensors, strings, data_bytes };
        expect_header_size(plan.header(&plan.no_sums()).len())?;
        Ok(plan)
    }

    /// The size of the file.
    pub(super) fn file_bytes(&self) -> u64 {
        8 + self.header(&self.no_sums()).len() as u64 + self.data_bytes
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.tensors.iter().map(|(tensor, _)| tensor.name.as_str())
    }

    fn no_sums(&self) -> Vec<String> {
        vec![NO_SUM.to_owned(); self.tensors.len()]
    }

    /// Writes the file. The same state always gives the same bytes.
    ///
    /// The header is written last, because it contains the checksums of the data. Its size is known in advance. Returns the
    /// checksum of the header, which thereby covers the whole file.
    pub(super) fn write(&self, output: &Output<'_>) -> Result<String> {
        let start = |header: Vec<u8>| [&(header.len() as u64).to_le_bytes()[..], &header].concat();
        let placeholder = start(self.header(&self.no_sums()));
        output.write(&placeholder, 0)?;
        let tensors = self.tensors.iter().map(|(tensor, entry)| (tensor.share(), entry.bytes() as u64));
        let sums = output.write_tensors(placeholder.len() as u64, tensors)?;
        let header = self.header(&sums);
        let sum = String::from_utf8_lossy(&header[SUM_DIGITS]).into_owned();
        output.write(&start(header), 0)?;
        Ok(sum)
    }

    fn header(&self, sums: &[String]) -> Vec<u8> {
        let mut strings = self.strings.clone();
        let names = self.tensors.iter().map(|(tensor, _)| format!("{TENSOR_SUM}{}", tensor.name));
        strings.extend(names.zip(sums.iter().cloned()));
        sealed(unsealed_header(self.tensors.iter().map(|(_, entry)| entry), &strings))
    }
}

/// Checks everything that can be refused before the disk is touched, and returns the tensors in the order of a file and
/// its metadata without checksums.
///
/// `internal` holds this module's own entries, by their keys without [`RESERVED`].
pub(super) fn prepare<'a>(
    tensors: &'a [NamedTensor<'a>],
    metadata: &Metadata,
    internal: &[(&str, String)],
) -> Result<(Vec<(&'a NamedTensor<'a>, Entry)>, Metadata)> {
    if let Some(key) = metadata.keys().find(|key| key.starts_with(RESERVED)) {
        return Err(Error::state(key, format!("metadata keys that start with {RESERVED:?} are reserved")));
    }
    let mut tensors: Vec<(&NamedTensor, Entry)> =
        tensors.iter().map(|tensor| Ok((tensor, entry_of(tensor)?))).collect::<Result<_>>()?;
    tensors.sort_by(|(_, a), (_, b)| a.order().cmp(&b.order()));
    let mut strings = metadata.clone();
    strings.insert(FORMAT.to_owned(), "1".to_owned());
    strings.extend(internal.iter().map(|(key, value)| (format!("{RESERVED}{key}"), value.clone())));
    Ok((tensors, strings))
}

pub(super) fn expect_header_size(bytes: usize) -> Result<()> {
    if bytes as u64 <= MAX_HEADER_BYTES {
        return Ok(());
    }
    let problem = format!("it takes {bytes} bytes, more than the limit of {MAX_HEADER_BYTES}");
    Err(Error::state("header", problem))
}

/// Puts the checksum into text that starts with [`SUM_PREFIX`] and zeros.
pub(super) fn sealed(mut text: Vec<u8>) -> Vec<u8> {
    let sum = hex_sha256(&text);
    text[SUM_DIGITS].copy_from_slice(sum.as_bytes());
    text
}

/// Returns text of metadata that starts with [`SUM_PREFIX`] and zeros. The last brace is missing, so that more can follow.
pub(super) fn unsealed_start(strings: &Metadata) -> Vec<u8> {
    let mut text = SUM_PREFIX.to_vec();
    text.extend(NO_SUM.bytes());
    // The map's own opening brace gives way to a comma.
    text.extend(format!("\",{}", &json(strings)[1..]).bytes());
    text
}

/// Returns the checksum that stands in a text, and the one that it should be; `None` where no checksum belongs.
pub(super) fn seal_of(raw: &mut [u8]) -> Option<(String, String)> {
    (raw.starts_with(SUM_PREFIX) && raw.len() >= SUM_DIGITS.end).then(|| {
        let expected = String::from_utf8_lossy(&raw[SUM_DIGITS]).into_owned();
        raw[SUM_DIGITS].fill(b'0');
        (hex_sha256(raw), expected)
    })
}

/// Returns the header of tensors in the order of a file, with zeros in place of its own checksum.
pub(super) fn unsealed_header<'a>(entries: impl Iterator<Item = &'a Entry>, strings: &Metadata) -> Vec<u8> {
    let mut header = unsealed_start(strings);
    let mut start = 0usize;
    for entry in entries {
        let end = start.saturating_add(entry.bytes());
        let stored = Stored { dtype: entry.dtype, shape: entry.shape.clone(), data_offsets: (start, end) };
        header.extend(format!(",{}:{}", json(&entry.name), json(&stored)).bytes());
        start = end;
    }
    header.push(b'}');
    header.resize(header.len().next_multiple_of(8), b' ');
    header
}

fn entry_of(tensor: &NamedTensor) -> Result<Entry> {
    let TensorInfo { name, dtype, shape } = tensor.info()?;
    if name == "__metadata__" {
        return Err(Error::state(&name, "safetensors uses this name itself"));
    }
    tensor.expect_elements()?;
    Ok(Entry { name, dtype, shape: shape.iter().map(|&size| size as usize).collect() })
}

pub(super) fn json(value: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(value).expect("strings and numbers always become JSON")
}
