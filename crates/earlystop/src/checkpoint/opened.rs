//! Finds the files of a checkpoint and reads their headers.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::data_file::DataFile;
use super::files::{folder_of, follow_links};
use super::header::{Header, HeaderTensor, Seal};
use super::index::{Index, Part};
use super::layout::{index_of, is_index};
use super::{CheckpointPart, Metadata};
use crate::error::io_error;
use crate::{Error, Result};

/// A checkpoint whose files are open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) files: Vec<DataFile>,
    /// Each with the place of its file in `files`, in the order of the files and their data.
    pub(super) tensors: Vec<(usize, HeaderTensor)>,
    /// The caller's own entries.
    pub(super) metadata: Metadata,
    /// This module's entries, by their keys without the prefix.
    pub(super) internal: Metadata,
    /// What the checksums in the headers and the index are worth.
    pub(super) seal: Seal,
}

/// A path leads to one file, or to the index of several ones.
enum Place {
    File(PathBuf),
    Index(PathBuf),
}

fn place_of(path: &Path) -> Result<Place> {
    if is_index(path) {
        return Ok(Place::Index(path.to_owned()));
    }
    // Several times: between the two looks a saver may replace an index by a single file, or the other way round.
    const LOOKS: usize = 10;
    for look in 1.. {
        match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => match index_of(&follow_links(path)?) {
                index if index.exists() => return Ok(Place::Index(index)),
                _ if look < LOOKS => {}
                _ => return Err(io_error(path, "open")(error)),
            },
            _ => break,
        }
    }
    Ok(Place::File(path.to_owned()))
}

/// Opens all files and reads their headers.
pub(super) fn open(path: &Path) -> Result<Opened> {
    find_and(path, open_one, open_several)
}

/// Reads what the header or the index says, without the headers of the parts. Returns this module's entries.
///
/// That all parts are there, and their sizes, is checked.
pub(super) fn describe(path: &Path) -> Result<Metadata> {
    let one = |path: &Path| Ok(DataFile::open(path)?.1.internal);
    find_and(path, one, |index| {
        index.parts.iter().try_for_each(|part| find(index, part).map(|_| ()))?;
        Ok(index.internal.clone())
    })
}

/// Finds a checkpoint and reads it, once more if another process has replaced it by one in other files meanwhile.
fn find_and<T>(path: &Path, one: impl Fn(&Path) -> Result<T>, several: impl Fn(&Index) -> Result<T>) -> Result<T> {
    const MAX_ATTEMPTS: usize = 100;
    let is_absent = |error: &Error| matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::NotFound);
    let (mut before, mut attempts) = (None, 0);
    loop {
        attempts += 1;
        let result = match place_of(path)? {
            Place::File(path) => one(&path),
            Place::Index(place) => match Index::read(&place) {
                // An index that is the same twice is not being replaced.
                Ok(index) => match several(&index) {
                    Err(_) if before.as_ref() != Some(&index.sha256) && attempts < MAX_ATTEMPTS => {
                        before = Some(index.sha256);
                        continue;
                    }
                    Err(error) if is_absent(&error) => return Err(explain(error, &index)),
                    result => return result,
                },
                Err(error) if place == path => return Err(error),
                Err(error) => Err(error),
            },
        };
        match result {
            Err(error) if is_absent(&error) && attempts < MAX_ATTEMPTS => {}
            result => return result,
        }
    }
}

fn open_one(path: &Path) -> Result<Opened> {
    let (file, header) = DataFile::open(path)?;
    let Header { tensors, metadata, internal, seal, .. } = header;
    let tensors = tensors.into_iter().map(|tensor| (0, tensor)).collect();
    Ok(Opened { files: vec![file], tensors, metadata, internal, seal })
}

fn open_several(index: &Index) -> Result<Opened> {
    let (mut files, mut tensors, mut metadata) = (Vec::new(), Vec::new(), Metadata::new());
    let mut seal = if index.is_sealed { Seal::Whole } else { Seal::None };
    let mut found = BTreeSet::new();
    for (place, part) in index.parts.iter().enumerate() {
        let (file, header) = DataFile::open(&find(index, part)?)?;
        if let Some((_, expected)) = &part.expected {
            let sum = header.internal.get("sha256").filter(|_| header.seal != Seal::None);
            if sum != Some(expected) {
                let problem = format!(
                    "it belongs to another save than {}: the SHA-256 of its header is {}, expected {expected:?}",
                    index.path.display(),
                    sum.map_or("missing", String::as_str),
                );
                return Err(file.problem(CheckpointPart::File, problem));
            }
        }
        if header.seal == Seal::Kept && seal == Seal::Whole {
            seal = Seal::Kept;
        }
        for tensor in header.tensors {
            let name = tensor.content.name();
            match index.tensors.get(name) {
                Some(it) if *it == place => {
                    found.insert(name.to_owned());
                    tensors.push((place, tensor));
                }
                // Of a tensor that another program has put into several files, the index tells which one counts.
                _ if !index.is_sealed => {}
                _ => return Err(file.damaged(name, format!("{} does not name it", index.path.display()))),
            }
        }
        files.push(file);
        if !index.is_sealed {
            header.metadata.into_iter().for_each(|(key, value)| {
                metadata.entry(key).or_insert(value);
            });
        }
    }
    if let Some((name, place)) = index.tensors.iter().find(|(name, _)| !found.contains(*name)) {
        let file = &index.parts[*place].name;
        return Err(index.refuse(format!("it says that the tensor {name:?} is in {file:?}, which does not hold it")));
    }
    metadata.extend(index.metadata.clone());
    Ok(Opened { files, tensors, metadata, internal: index.internal.clone(), seal })
}

/// Returns the path of a part: next to the index, or next to the file that the index is a symbolic link to.
fn find(index: &Index, part: &Part) -> Result<PathBuf> {
    let beside = |index: &Path| folder_of(index).join(&part.name);
    let mut path = beside(&index.path);
    if !path.exists() {
        path = Some(beside(&follow_links(&index.path)?)).filter(|path| path.exists()).unwrap_or(path);
    }
    let metadata = fs::metadata(&path).map_err(io_error(&path, "open"))?;
    match part.expected {
        Some((expected, _)) if metadata.is_file() && metadata.len() != expected => {
            let found = metadata.len();
            let how = if found < expected { "cut short" } else { "something was appended" };
            let problem = format!("expected {expected} bytes, found {found}: {how}");
            Err(Error::Checkpoint { path, part: CheckpointPart::File, problem })
        }
        _ => Ok(path),
    }
}

/// Says of a part that is missing why it is needed. Then the checkpoint is damaged, while one without an index is absent.
fn explain(error: Error, index: &Index) -> Error {
    match error {
        Error::Io { path, source, .. } if source.kind() == ErrorKind::NotFound => {
            let problem = format!("missing: {} needs it", index.path.display());
            Error::Checkpoint { path, part: CheckpointPart::File, problem }
        }
        error => error,
    }
}
