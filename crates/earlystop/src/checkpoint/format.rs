//! The file: [safetensors](https://github.com/huggingface/safetensors#format), with checksums in its metadata.
//!
//! The header's first entry is the SHA-256 of the header itself, taken with 64 zeros in its place. The header holds the
//! SHA-256 of every tensor, and the tensors fill the rest of the file without a gap: so the first sum covers the whole
//! file, and one pass over the data is enough to tell which part is damaged.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::tensor::{Dtype, TensorInfo as Stored};
use sha2::{Digest, Sha256};
use tch::Kind;

use super::{Metadata, NamedTensor};
use crate::{Error, Result};

/// No file above this size is written or read: 4 GiB.
pub(super) const MAX_FILE_BYTES: u64 = 4 << 30;
/// No header above this size is written or read: 16 MiB, a hundred thousand tensors.
pub(super) const MAX_HEADER_BYTES: u64 = 16 << 20;

/// The metadata's keys that belong to this room.
pub(super) const RESERVED: &str = "checkpoint.";
/// What a header with a checksum starts with; 64 hexadecimal digits follow.
pub(super) const SUM_PREFIX: &[u8] = br#"{"__metadata__":{"checkpoint.sha256":""#;
pub(super) const SUM_DIGITS: Range<usize> = SUM_PREFIX.len()..SUM_PREFIX.len() + 64;
pub(super) const TENSOR_SUM: &str = "checkpoint.sha256/";
pub(super) const FORMAT: &str = "checkpoint.format";

pub(super) const KINDS: [(Kind, Dtype); 10] = [
    (Kind::Double, Dtype::F64),
    (Kind::Int64, Dtype::I64),
    (Kind::Float, Dtype::F32),
    (Kind::Int, Dtype::I32),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Int16, Dtype::I16),
    (Kind::Uint8, Dtype::U8),
    (Kind::Int8, Dtype::I8),
    (Kind::Bool, Dtype::BOOL),
];

/// Returns the bytes of a whole file, in two parts: up to the data, and the data. The same state always gives the same.
///
/// `internal` holds this room's own entries, by their keys without [`RESERVED`].
pub(super) fn encode(
    tensors: &[NamedTensor],
    metadata: &Metadata,
    internal: &[(&str, String)],
) -> Result<[Vec<u8>; 2]> {
    if let Some(key) = metadata.keys().find(|key| key.starts_with(RESERVED)) {
        return Err(state_error(key, format!("metadata keys that start with {RESERVED:?} are taken")));
    }
    let mut order: Vec<(&NamedTensor, Dtype)> =
        tensors.iter().map(|tensor| Ok((tensor, dtype_of(tensor)?))).collect::<Result<_>>()?;
    // Wide elements first, as in every safetensors file: then each tensor is aligned.
    order.sort_by_key(|(tensor, dtype)| (Reverse(dtype.bitsize()), &tensor.name));

    let total = order.iter().map(|(tensor, dtype)| byte_count(&tensor.shape, *dtype)).sum();
    check_size("state", total, MAX_FILE_BYTES - MAX_HEADER_BYTES - 8)?;

    let mut data = vec![0; total as usize];
    let mut sums_and_more: BTreeMap<String, String> = metadata.clone();
    let mut tensor_entries = String::new();
    let mut start = 0;
    for (NamedTensor { name, shape, tensor }, dtype) in order {
        let end = start + byte_count(shape, dtype) as usize;
        let bytes = &mut data[start..end];
        tensor.f_copy_data_u8(bytes, tensor.numel()).map_err(torch_error(name))?;
        sums_and_more.insert(format!("{TENSOR_SUM}{name}"), hex_sha256(bytes));
        let shape = shape.iter().map(|&size| size as usize).collect();
        tensor_entries += &format!(",{}:{}", json(name), json(&Stored { dtype, shape, data_offsets: (start, end) }));
        start = end;
    }
    sums_and_more.insert(FORMAT.to_owned(), "1".to_owned());
    for (key, value) in internal {
        sums_and_more.insert(format!("{RESERVED}{key}"), value.clone());
    }

    let mut header = SUM_PREFIX.to_vec();
    header.extend([b'0'; 64]);
    // The map's own opening brace gives way to a comma.
    header.extend(format!("\",{}{tensor_entries}}}", &json(&sums_and_more)[1..]).bytes());
    header.resize(header.len().next_multiple_of(8), b' ');
    check_size("header", header.len() as u64, MAX_HEADER_BYTES)?;
    let sum = hex_sha256(&header);
    header[SUM_DIGITS].copy_from_slice(sum.as_bytes());
    let length = (header.len() as u64).to_le_bytes();
    header.splice(0..0, length);
    Ok([header, data])
}

fn byte_count(shape: &[i64], dtype: Dtype) -> u64 {
    shape.iter().product::<i64>() as u64 * dtype.bitsize() as u64 / 8
}

fn dtype_of(NamedTensor { name, shape, tensor }: &NamedTensor) -> Result<Dtype> {
    if !tensor.defined() || tensor.is_sparse() {
        return Err(state_error(name, "the tensor is undefined or sparse".to_owned()));
    }
    if name == "__metadata__" {
        return Err(state_error(name, "safetensors uses this name itself".to_owned()));
    }
    let size = tensor.size();
    let count = shape.iter().try_fold(1i64, |count, &size| count.checked_mul(size).filter(|_| size >= 0));
    if count != Some(tensor.numel() as i64) {
        return Err(state_error(name, format!("its logical shape {shape:?} does not hold the elements of {size:?}")));
    }
    let kind = tensor.kind();
    let known = KINDS.iter().find(|(known, _)| *known == kind);
    Ok(known.ok_or_else(|| state_error(name, format!("the kind {kind:?} cannot be stored")))?.1)
}

fn check_size(what: &str, found: u64, limit: u64) -> Result<()> {
    let problem = || format!("it takes {found} bytes, more than the limit of {limit}");
    if found > limit { Err(state_error(what, problem())) } else { Ok(()) }
}

pub(super) fn state_error(name: &str, problem: String) -> Error {
    Error::State { name: name.to_owned(), problem }
}

pub(super) fn torch_error(name: &str) -> impl FnOnce(tch::TchError) -> Error {
    move |source| Error::Torch { context: format!("tensor {name:?}"), source }
}

fn json(value: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(value).expect("strings and numbers always become JSON")
}

pub(super) fn hex_sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
