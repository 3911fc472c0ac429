//! Damaged and hostile files: every one is refused with the name of the part that is wrong, and none costs memory.
#![cfg(feature = "torch")]

#[path = "common/long.rs"]
mod long;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use earlystop::Error;
use earlystop::checkpoint::{Checkpoint, CheckpointPart, Metadata, NamedTensor, Saver, TensorInfo};
use proptest::prelude::*;
use proptest::sample::Index;
use sha2::{Digest, Sha256};
use tch::Tensor;

use long::is_long;

/// A file to spoil, in a folder of its own.
struct Scratch {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spoilt.safetensors");
        Scratch { _dir: dir, path }
    }

    fn read(&self, bytes: &[u8]) -> Result<Checkpoint, Error> {
        fs::write(&self.path, bytes).unwrap();
        Checkpoint::read(&self.path)
    }

    /// The bytes of a small checkpoint; its tensors follow the header in the order a, b, c.
    fn small(&self) -> Vec<u8> {
        let state = vec![
            NamedTensor::new("a", Tensor::from_slice(&[1.5f64])),
            NamedTensor::new("b", Tensor::from_slice(&[1.0f32, -2.0]).reshape([2, 1])),
            NamedTensor::new("c", Tensor::from_slice(&[true, false, true])),
        ];
        let metadata = Metadata::from([("step".to_owned(), "100".to_owned())]);
        Saver::new().save(&self.path, &[&state], &metadata).unwrap();
        fs::read(&self.path).unwrap()
    }
}

fn part(result: Result<Checkpoint, Error>) -> CheckpointPart {
    match result {
        Err(Error::Checkpoint { part, .. }) => part,
        other => panic!("expected a damaged checkpoint, found {other:?}"),
    }
}

#[test]
fn every_flipped_bit_is_found_and_its_place_is_named() {
    let scratch = Scratch::new();
    let whole = scratch.small();
    let data = whole.len() - (8 + 8 + 3);
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let part = part(scratch.read(&bytes));
        let expected = match (bit / 8).checked_sub(data) {
            None if bit / 8 < 8 => {
                assert!(matches!(part, CheckpointPart::File | CheckpointPart::Header), "bit {bit}: {part}");
                continue;
            }
            None => CheckpointPart::Header,
            Some(0..8) => CheckpointPart::Tensor("a".to_owned()),
            Some(8..16) => CheckpointPart::Tensor("b".to_owned()),
            Some(_) => CheckpointPart::Tensor("c".to_owned()),
        };
        assert_eq!(part, expected, "bit {bit}");
    }
}

#[test]
fn every_other_length_is_found() {
    let scratch = Scratch::new();
    let mut bytes = scratch.small();
    let whole = bytes.clone();
    for length in (0..whole.len()).rev() {
        assert_eq!(part(scratch.read(&whole[..length])), CheckpointPart::File, "{length} bytes");
    }
    for length in whole.len() + 1..whole.len() + 20 {
        bytes.push(0);
        assert_eq!(part(scratch.read(&bytes)), CheckpointPart::File, "{length} bytes");
    }
    assert!(scratch.read(&whole).unwrap().is_verified());
}

/// A file of a header and as many zeros.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn hostile_headers_are_refused_with_the_reason() {
    let scratch = Scratch::new();
    let deep = format!(r#"{{"a":{}"#, "[".repeat(100_000));
    let dimensions = format!(r#"{{"a":{{"dtype":"U8","shape":{:?},"data_offsets":[0,1]}}}}"#, [1; 65]);
    let cases: &[(&str, usize, &str)] = &[
        ("", 0, "header: damaged, or not safetensors: EOF"),
        ("[]", 0, "invalid type"),
        ("7", 0, "invalid type"),
        ("{}{}", 0, "trailing characters"),
        (&deep, 0, "header: damaged"),
        (r#"{"a":{}}"#, 0, r#""a": missing field `dtype`"#),
        (r#"{"__metadata__":{"k":1}}"#, 0, "expected a string"),
        (r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0, r#"the metadata key "k" is there twice"#),
        (r#"{"__metadata__":{},"__metadata__":{}}"#, 0, r#"the name "__metadata__" is there twice"#),
        (
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
            1,
            r#"the name "a" is there twice"#,
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
            3,
            r#"tensor "b": its data is at 1..3, but the one before ends at 2"#,
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}"#,
            3,
            r#"tensor "b": its data is at 2..3, but the one before ends at 1"#,
        ),
        (r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}"#, 1, r#"tensor "a": its data is at 1..0"#),
        (r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,-1]}}"#, 1, r#""a": invalid value"#),
        (r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#, 1, r#""a": invalid value"#),
        (r#"{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}"#, 1, r#""a": invalid type"#),
        (r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551615]}}"#, 1, "does not take"),
        (
            r#"{"a":{"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807]}}"#,
            1,
            "cut short",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#,
            0,
            "does not take the 0 bytes",
        ),
        (r#"{"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}}"#, 0, "does not take the 0 bytes"),
        (
            r#"{"a":{"dtype":"U8","shape":[0,18446744073709551615],"data_offsets":[0,0]}}"#,
            0,
            "does not take the 0 bytes",
        ),
        (r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}"#, 1, "U8 [2] does not take the 1 bytes"),
        (&dimensions, 1, "65 dimensions, more than 64"),
        (r#"{"a":{"dtype":"U32","shape":[1],"data_offsets":[0,1]}}"#, 1, r#"U32 [1] does not take the 1 bytes"#),
        (r#"{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,2]}}"#, 2, r#"F4 [2] does not take the 2 bytes"#),
        (r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#, 1, r#"F4 [3] does not take the 1 bytes"#),
        (r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#, 2, r#"F4 [3] does not take the 2 bytes"#),
        (r#"{"a":{"dtype":7,"shape":[3],"data_offsets":[0,2]}}"#, 2, r#""a": invalid type"#),
        (r#"{"__metadata__":{"checkpoint.format":"1"}}"#, 0, "its own checksum is missing"),
    ];
    for (header, data, expected) in cases {
        let error = scratch.read(&file(header, *data)).unwrap_err().to_string();
        assert!(error.contains(expected), "{header:.200}: expected {expected:?}, found {error}");
    }
    assert!(scratch.read(&file("{}", 0)).unwrap().infos().next().is_none());
}

#[test]
fn impossible_sizes_are_refused_before_anything_is_allocated() {
    let scratch = Scratch::new();
    let with_length = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    for length in [u64::MAX, i64::MAX as u64, 1 << 40, 100_000_001] {
        let error = scratch.read(&with_length(length)).unwrap_err().to_string();
        assert!(error.contains("header: a length of"), "{length}: {error}");
    }
    for length in [3, 1000, 100_000_000] {
        let error = scratch.read(&with_length(length)).unwrap_err().to_string();
        assert!(error.contains("but 2 follow: cut short"), "{length}: {error}");
    }
    // A sparse file of zeros, larger than the memory.
    let file = fs::File::create(&scratch.path).unwrap();
    if file.set_len(1 << 40).is_ok() {
        let error = Checkpoint::read(&scratch.path).unwrap_err().to_string();
        assert!(error.contains("header: damaged, or not safetensors: EOF"), "{error}");
    }
}

#[test]
#[cfg(unix)]
fn a_device_and_a_pipe_are_no_files() {
    let scratch = Scratch::new();
    assert!(std::process::Command::new("mkfifo").arg(&scratch.path).status().unwrap().success());
    for path in [&scratch.path, Path::new("/dev/zero"), Path::new("/")] {
        let error = Checkpoint::read(path).unwrap_err().to_string();
        assert!(error.contains("cannot read: it is a directory or a device"), "{error}");
    }
}

#[test]
fn a_bool_that_is_neither_is_refused() {
    let mut bytes = file(r#"{"a":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}}"#, 2);
    let scratch = Scratch::new();
    assert!(!scratch.read(&bytes).unwrap().is_verified());
    *bytes.last_mut().unwrap() = 2;
    assert_eq!(part(scratch.read(&bytes)), CheckpointPart::Tensor("a".to_owned()));
}

/// Where the header's own checksum lies.
fn sum_digits(bytes: &[u8]) -> Option<Range<usize>> {
    let prefix = br#"{"__metadata__":{"checkpoint.sha256":""#;
    let start = 8 + prefix.len();
    (bytes.get(8..start)? == prefix && bytes.len() >= start + 64).then_some(start..start + 64)
}

/// Gives a changed header the checksum it claims, as an attacker would, so that what comes after is reached.
fn reseal(bytes: &mut [u8]) {
    let Some(digits) = sum_digits(bytes) else { return };
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let Some(end) = length.checked_add(8).filter(|&end| end <= bytes.len() as u64) else {
        return;
    };
    bytes[digits.clone()].fill(b'0');
    let sum = format!("{:x}", Sha256::digest(&bytes[8..end as usize]));
    bytes[digits].copy_from_slice(sum.as_bytes());
}

#[test]
fn a_header_with_a_right_checksum_is_not_trusted_either() {
    let scratch = Scratch::new();
    let whole = scratch.small();
    let edits = [
        (r#""checkpoint.format":"1""#, r#""checkpoint.format":"9""#, "written by another version"),
        (r#"checkpoint.sha256/a""#, r#"checkpoint.sha256/z""#, "tensor \"a\": its checksum is missing"),
        (r#""shape":[2,1]"#, r#""shape":[2,9]"#, "tensor \"b\": F32 [2, 9] does not take"),
    ];
    for (from, to, expected) in edits {
        let at = whole.windows(from.len()).position(|window| window == from.as_bytes()).expect(from);
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        reseal(&mut bytes);
        let error = scratch.read(&bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
}

/// One change to a file.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, Index),
    Repeat(Index, Index, Index),
    Length(u64),
}

/// Pieces that turn one valid header into another, or nearly.
const PIECES: [&str; 14] = [
    "0",
    "-1",
    "9223372036854775807",
    "18446744073709551615",
    "1e9",
    "[",
    "]",
    "{",
    "}",
    "\"",
    ",",
    r#""a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"#,
    r#""__metadata__":{},"#,
    r#"\u0000"#,
];

fn change() -> impl Strategy<Value = Change> {
    let piece = prop_oneof![
        proptest::sample::select(&PIECES[..]).prop_map(|piece| piece.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 1..9),
    ];
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        2 => (any::<Index>(), piece).prop_map(|(at, piece)| Change::Insert(at, piece)),
        2 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Remove(from, to)),
        2 => (any::<Index>(), any::<Index>(), any::<Index>()).prop_map(|(a, b, to)| Change::Repeat(a, b, to)),
        1 => prop_oneof![any::<u64>(), 0..2000u64].prop_map(Change::Length),
    ]
}

fn apply(change: &Change, bytes: &mut Vec<u8>) {
    let at = |index: &Index| index.index(bytes.len());
    let between = |a: &Index, b: &Index| at(a).min(at(b))..at(a).max(at(b));
    match change {
        _ if bytes.is_empty() => {}
        Change::Set(index, byte) => {
            let at = at(index);
            bytes[at] = *byte;
        }
        Change::Insert(index, piece) => {
            let at = at(index);
            bytes.splice(at..at, piece.iter().copied());
        }
        Change::Remove(a, b) => {
            let range = between(a, b);
            bytes.drain(range);
        }
        Change::Repeat(a, b, to) => {
            let (range, to) = (between(a, b), at(to));
            let piece = bytes[range].to_vec();
            bytes.splice(to..to, piece);
        }
        Change::Length(length) => {
            let end = bytes.len().min(8);
            bytes[..end].copy_from_slice(&length.to_le_bytes()[..end]);
        }
    }
}

/// All that a checkpoint holds: the metadata, and each tensor's kind, shape and bytes by its name.
fn content(checkpoint: &Checkpoint) -> (Metadata, BTreeMap<String, (String, Vec<u8>)>) {
    let tensor = |info: &TensorInfo| {
        let tensor = checkpoint.tensor(&info.name).unwrap();
        let mut bytes = vec![0; tensor.numel() * info.dtype.bitsize() / 8];
        if !bytes.is_empty() {
            tensor.copy_data_u8(&mut bytes, tensor.numel());
        }
        (info.name.clone(), (info.to_string(), bytes))
    };
    assert!(checkpoint.unsupported().next().is_none());
    (checkpoint.metadata().clone(), checkpoint.infos().map(tensor).collect())
}

/// Sets the length field to what a header that grew or shrank now has.
fn fix_length(bytes: &mut [u8], data: usize) {
    if let Some(length) = bytes.len().checked_sub(8 + data) {
        bytes[..8].copy_from_slice(&(length as u64).to_le_bytes());
    }
}

static SMALL: LazyLock<Vec<u8>> = LazyLock::new(|| Scratch::new().small());

fn cases() -> u32 {
    if is_long() { 200_000 } else { 3_000 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to a file, reading it ends in an error or in tensors that libtorch takes.
    #[test]
    fn no_change_of_a_file_makes_the_reader_fall(
        changes in proptest::collection::vec(change(), 1..4),
        is_resealed: bool,
        is_foreign: bool,
        has_length_fixed: bool,
    ) {
        let scratch = Scratch::new();
        let whole = if is_foreign {
            file(r#"{"b":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"c":{"dtype":"BOOL","shape":[3],"data_offsets":[8,11]}}"#, 11)
        } else {
            SMALL.clone()
        };
        let mut bytes = whole.clone();
        for change in &changes {
            apply(change, &mut bytes);
        }
        if has_length_fixed {
            fix_length(&mut bytes, if is_foreign { 11 } else { 19 });
        }
        if is_resealed {
            reseal(&mut bytes);
        }
        if let Ok(checkpoint) = scratch.read(&bytes) {
            let mut total = 0;
            for info in checkpoint.infos() {
                let bytes = checkpoint.bytes(&info.name).unwrap();
                if let Ok(tensor) = checkpoint.tensor(&info.name) {
                    prop_assert_eq!(tensor.size(), info.shape.clone());
                    prop_assert_eq!(tensor.kind().elt_size_in_bytes() * 8, info.dtype.bitsize());
                }
                total += bytes.len();
            }
            prop_assert!(total <= bytes.len());
            for unsupported in checkpoint.unsupported() {
                prop_assert!(checkpoint.tensor(&unsupported.name).is_err());
            }
            // A program may write the header anew, but what the checksums cover is what was saved.
            if checkpoint.is_verified() && !is_resealed {
                prop_assert_eq!(content(&checkpoint), content(&scratch.read(&whole).unwrap()));
            }
        }
    }
}
