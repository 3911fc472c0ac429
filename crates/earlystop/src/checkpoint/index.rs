//! The index of a checkpoint in several files: which tensor is in which one.
//!
//! The layout is that of Hugging Face: a JSON object with `weight_map`, from the names of the tensors to those of the
//! files, and `metadata` with `total_size`. One more entry, `__metadata__`, is that of a safetensors header. Its checksum
//! covers the whole index, and it holds the size and the header's checksum of every part. So the index matches only
//! the parts of its own save.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Take};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::checksum::hex_sha256;
use super::files::open_regular;
use super::format::{FORMAT, HEADER_SUM, MAX_HEADER_BYTES, RESERVED, json, seal_of, sealed, unsealed_start};
use super::header::UniqueStrings;
use super::{CheckpointPart, Metadata};
use crate::error::io_error;
use crate::{Error, Result};

/// Starts a key with the size and the checksum of a part: `checkpoint.file/NAME`.
const PART: &str = "file/";

/// An index, read without trust.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) path: PathBuf,
    /// The names of the files, in ascending order.
    pub(super) parts: Vec<Part>,
    /// The place in `parts` for the name of each tensor.
    pub(super) tensors: BTreeMap<String, usize>,
    /// The caller's own entries.
    pub(super) metadata: Metadata,
    /// This module's entries, by their keys without [`RESERVED`].
    pub(super) internal: Metadata,
    /// Whether checksums cover the index and its parts. Those of other programs have none.
    pub(super) is_sealed: bool,
    /// The checksum of the file's bytes.
    pub(super) sha256: String,
}

/// A file that an index names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    /// Its size and the checksum of its header, if the index is sealed.
    pub(super) expected: Option<(u64, String)>,
}

/// Returns the text of an index. `strings` is the metadata without checksums.
pub(super) fn index_text(
    mut strings: Metadata,
    parts: &[Part],
    total_bytes: u64,
    tensors: &BTreeMap<&str, &str>,
) -> Vec<u8> {
    strings.extend(parts.iter().filter_map(|Part { name, expected }| {
        let (bytes, sha256) = expected.as_ref()?;
        Some((format!("{RESERVED}{PART}{name}"), format!("{bytes} {sha256}")))
    }));
    let mut text = unsealed_start(&strings);
    let map = json(tensors);
    text.extend(format!(r#","metadata":{{"total_size":{total_bytes}}},"weight_map":{map}}}"#).bytes());
    sealed(text)
}

impl Index {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let refuse = |problem| Error::Checkpoint { path: path.to_owned(), part: CheckpointPart::Index, problem };
        let file = open_regular(path)?;
        let mut raw = Vec::new();
        let mut limited: Take<File> = file.take(MAX_HEADER_BYTES + 1);
        limited.read_to_end(&mut raw).map_err(io_error(path, "read"))?;
        if raw.len() as u64 > MAX_HEADER_BYTES {
            return Err(refuse(format!("it has more bytes than the limit of {MAX_HEADER_BYTES}")));
        }
        Index::parse(path, raw).map_err(refuse)
    }

    /// Parses the JSON; the message of an error says what is wrong with it.
    fn parse(path: &Path, mut raw: Vec<u8>) -> Result<Self, String> {
        let sha256 = hex_sha256(&raw);
        let sum = seal_of(&mut raw);
        if let Some((found, expected)) = &sum
            && found != expected
        {
            return Err(format!("damaged: its SHA-256 is {found}, expected {expected:?}"));
        }
        let Entries { strings, weight_map } =
            serde_json::from_slice(&raw).map_err(|error| format!("damaged, or no index: {error}"))?;
        let (internal, metadata): (Metadata, Metadata) =
            strings.into_iter().partition(|(key, _)| key.starts_with(RESERVED));
        // One whose checksum has become illegible must not be taken for another program's.
        if sum.is_none() && (!internal.is_empty() || String::from_utf8_lossy(&raw).contains(HEADER_SUM)) {
            let remedy = "without its \"__metadata__\", it is read as one without checksums";
            return Err(format!("damaged, or rewritten by another program that kept its checksum ({remedy})"));
        }
        let mut internal: Metadata =
            internal.into_iter().map(|(key, value)| (key[RESERVED.len()..].to_owned(), value)).collect();
        if sum.is_some() && internal.get(&FORMAT[RESERVED.len()..]).is_none_or(|format| format != "1") {
            let found = internal.get(&FORMAT[RESERVED.len()..]);
            return Err(format!("written by another version: expected {FORMAT:?} \"1\", found {found:?}"));
        }

        let mut places: BTreeMap<String, usize> = weight_map.values().map(|name| (name.clone(), 0)).collect();
        let mut parts = Vec::new();
        for (name, place) in &mut places {
            *place = parts.len();
            if !is_file_name(name) {
                return Err(format!("it names the file {name:?}, which does not lie beside it"));
            }
            let expected = internal.remove(&format!("{PART}{name}")).and_then(|text| {
                let (bytes, sha256) = text.split_once(' ')?;
                Some((bytes.parse().ok()?, sha256.to_owned()))
            });
            if sum.is_some() && expected.is_none() {
                return Err(format!("the checksum of the file {name:?} is missing"));
            }
            parts.push(Part { name: name.clone(), expected: expected.filter(|_| sum.is_some()) });
        }
        let tensors = weight_map.into_iter().map(|(tensor, file)| (tensor, places[&file])).collect();
        Ok(Index { path: path.to_owned(), parts, tensors, metadata, internal, is_sealed: sum.is_some(), sha256 })
    }

    /// Refuses the index as such.
    pub(super) fn refuse(&self, problem: String) -> Error {
        Error::Checkpoint { path: self.path.clone(), part: CheckpointPart::Index, problem }
    }
}

/// Returns whether a name stays in the folder, on every system.
fn is_file_name(name: &str) -> bool {
    let components: Vec<Component<'_>> = Path::new(name).components().collect();
    matches!(components[..], [Component::Normal(_)]) && !name.contains(['/', '\\', '\0', ':'])
}

/// The JSON of an index: an object whose names may not repeat.
struct Entries {
    strings: Metadata,
    weight_map: Metadata,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a \"weight_map\"")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let (mut strings, mut weight_map) = (None::<UniqueStrings>, None::<UniqueStrings>);
                while let Some(name) = map.next_key::<String>()? {
                    let is_new = match name.as_str() {
                        "__metadata__" => strings.replace(map.next_value()?).is_none(),
                        "weight_map" => weight_map.replace(map.next_value()?).is_none(),
                        _ => map.next_value::<IgnoredAny>().map(|_| true)?,
                    };
                    if !is_new {
                        return Err(A::Error::custom(format!("the name {name:?} is there twice")));
                    }
                }
                let weight_map = weight_map.ok_or_else(|| A::Error::missing_field("weight_map"))?.strings;
                Ok(Entries { strings: strings.unwrap_or_default().strings, weight_map })
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}
