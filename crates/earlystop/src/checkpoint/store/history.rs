//! The history next to the checkpoints: lines that are only ever appended. A checkpoint records how far they go.
//!
//! The lines are in segments: `history-0001.jsonl`, `history-0002.jsonl`, … The first line of a segment is its head. It names
//! the position in an earlier segment from which this one continues, if there is one. A run that goes back to an earlier
//! checkpoint begins a new segment.
//!
//! The running checksum of a segment is the SHA-256 of its head; after each line, it is the SHA-256 of the checksum before it,
//! as 64 hexadecimal digits, and the line. So it continues from a position in time proportional to the new lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

#[cfg(test)]
use super::super::Saved;
use super::super::checksum::{hex, hex_sha256};
use super::super::files::{Files, folder_of, is_unsupported, write_all_at};
use super::super::{Checkpoint, CheckpointPart, Metadata};
#[cfg(test)]
use super::Store;
use crate::error::io_error;
use crate::{Error, Result};

const PREFIX: &str = "history-";
const EXTENSION: &str = ".jsonl";
/// The version of the files' layout.
const FORMAT: u32 = 1;
/// The position's key in a checkpoint, without the prefix of reserved keys.
pub(super) const KEY: &str = "history";

/// A place between two lines of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The name of the segment's file.
    pub(super) file: String,
    /// The size of the segment up to here.
    pub(super) bytes: u64,
    /// The number of lines up to here, with those of the earlier segments and without heads.
    lines: u64,
    /// The running checksum.
    sha256: String,
}

impl Position {
    /// Returns the first line of a new segment, and the position after it.
    pub(super) fn begin(path: &Path, parent: Option<&Self>) -> (Vec<u8>, Self) {
        let head = Head { history: FORMAT, parent: parent.cloned() }.to_line();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lines = parent.map_or(0, |parent| parent.lines);
        let start = Self { file, bytes: head.len() as u64, lines, sha256: hex_sha256(&head) };
        (head, start)
    }

    /// Returns the position after one more line, which ends in a line break.
    pub(super) fn after(mut self, line: &[u8]) -> Self {
        let sum = Sha256::new().chain_update(&self.sha256).chain_update(line);
        self.sha256 = hex(&sum.finalize());
        self.bytes += line.len() as u64;
        self.lines += 1;
        self
    }
}

/// The first line of a segment.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    history: u32,
    /// Where the lines before the first one are.
    parent: Option<Position>,
}

impl Head {
    fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("strings and numbers always become JSON");
        line.push(b'\n');
        line
    }
}

/// The history of a run up to a checkpoint, as far as it is next to it. From [`Checkpoint::history`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct History {
    /// One line of JSON for each evaluation: an [`Observation`](crate::early_stopping::Observation) of the trainer's.
    pub lines: Vec<String>,
    /// Why the beginning is missing, if it is.
    pub missing: Option<String>,
}

impl Checkpoint {
    /// Reads the history that was next to the checkpoint when a trainer saved it, and checks every byte. It is empty if no trainer
    /// did, or one of version 0.1, which stored it within the file.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if the checkpoint's record of it cannot be read. A history that is damaged or gone is no error.
    pub fn history(&self) -> Result<History> {
        let Some(position) = self.position()? else { return Ok(History { lines: Vec::new(), missing: None }) };
        let found = read_history(folder_of(self.path()), &position);
        let lines = found.lines().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        Ok(History { lines, missing: found.missing.map(|(_, why)| why) })
    }

    /// Returns the position of the history when the checkpoint was saved, if it is recorded.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if the entry cannot be read.
    pub(crate) fn position(&self) -> Result<Option<Position>> {
        position_in(self.internal(), self.path())
    }
}

/// The lines of a history that could be read.
#[derive(Debug)]
pub(crate) struct FoundHistory {
    /// The segments, the earliest first, each with its head.
    segments: Vec<Vec<u8>>,
    /// What could not be read: all lines up to a position, and why.
    pub(crate) missing: Option<(Position, String)>,
}

impl FoundHistory {
    /// Iterates over the lines without their line breaks.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let lines = self.segments.iter().flat_map(|segment| segment.split_inclusive(|&byte| byte == b'\n').skip(1));
        lines.map(<[u8]>::trim_ascii_end)
    }
}

/// Deletes the history.
pub(super) fn clear_history(files: &dyn Files, folder: &Path) -> Result<()> {
    segments(folder)?.iter().try_for_each(|(_, path)| files.remove(path).map_err(io_error(path, "delete")))
}

/// Copies the history into an archive of checkpoints, since both parts of the run continue from it.
pub(super) fn copy_history(files: &dyn Files, folder: &Path, archive: &Path) -> Result<()> {
    segments(folder)?.iter().try_for_each(|(_, path)| {
        let copied = archive.join(path.file_name().unwrap_or_default());
        let copy = || {
            fs::copy(path, &copied)?;
            let file = OpenOptions::new().append(true).open(&copied)?;
            write_lines(files, &file, &[], 0).map(drop)
        };
        copy().map_err(io_error(path, "copy to the archive"))
    })
}

/// Returns the position of the history among the entries of the checkpoint at `path`, if it is recorded.
pub(super) fn position_in(internal: &Metadata, path: &Path) -> Result<Option<Position>> {
    let json = internal.get(KEY);
    json.map(|json| serde_json::from_str(json)).transpose().map_err(|error| Error::Checkpoint {
        path: path.to_owned(),
        part: CheckpointPart::Header,
        problem: format!("the position of the history: {error}"),
    })
}

/// Reads the history in a folder up to a position, and checks every byte of it.
///
/// A history need not be complete: a checkpoint may have been copied without it. What is missing is always its beginning.
pub(crate) fn read_history(folder: &Path, position: &Position) -> FoundHistory {
    let mut found = FoundHistory { segments: Vec::new(), missing: None };
    let mut next = Some(position.clone());
    while let Some(at) = next.take() {
        match read_segment(folder, &at) {
            Ok((head, bytes)) => {
                found.segments.push(bytes);
                next = head.parent;
            }
            Err(why) => found.missing = Some((at, why)),
        }
    }
    found.segments.reverse();
    found
}

/// Reads a segment up to a position; the message of an error says what is wrong with it.
fn read_segment(folder: &Path, at: &Position) -> Result<(Head, Vec<u8>), String> {
    if number_of(&at.file).is_none() {
        return Err(format!("{:?} is not the name of a segment", at.file));
    }
    let path = folder.join(&at.file);
    let problem = |problem: String| format!("{}: {problem}", path.display());
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(at.bytes).read_to_end(&mut bytes));
    read.map_err(|error| problem(format!("cannot read: {error}")))?;
    if (bytes.len() as u64) < at.bytes {
        return Err(problem(format!("expected at least {} bytes, found {}: cut short", at.bytes, bytes.len())));
    }
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let head = serde_json::from_slice::<Head>(first).map_err(|error| problem(format!("its first line: {error}")))?;
    if head.history != FORMAT {
        return Err(problem(format!("written by another version: expected format {FORMAT}, found {}", head.history)));
    }
    let start = Position {
        file: at.file.clone(),
        bytes: first.len() as u64,
        lines: head.parent.as_ref().map_or(0, |parent| parent.lines),
        sha256: hex_sha256(first),
    };
    let end = lines.fold(start, Position::after);
    if end != *at {
        let (sum, expected) = (end.sha256, &at.sha256);
        return Err(problem(format!("changed since it was written: its SHA-256 is {sum}, expected {expected}")));
    }
    Ok((head, bytes))
}

/// Returns where the lines before a segment are, if its first line says so.
#[cfg(feature = "object-store")]
pub(super) fn parent_of(path: &Path) -> Option<Position> {
    let mut first = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(File::open(path).ok()?), &mut first).ok()?;
    serde_json::from_str::<Head>(&first).ok()?.parent
}

/// Writes all bytes at a position and waits until they are on the disk; returns why they cannot be synced on a file system without
/// sync.
pub(super) fn write_lines(files: &dyn Files, file: &File, bytes: &[u8], at: u64) -> io::Result<Option<String>> {
    write_all_at(files, file, bytes, at)?;
    match files.sync(file) {
        Err(error) if is_unsupported(&error) => Ok(Some(error.to_string())),
        synced => synced.map(|()| None),
    }
}

/// Creates the segment that follows all others and number `last`, and its parent also if that is missing: it may be put back.
pub(super) fn create_segment(
    files: &dyn Files,
    folder: &Path,
    last: u64,
    parent: Option<&Position>,
) -> Result<(PathBuf, File)> {
    let parent = parent.and_then(|parent| number_of(&parent.file));
    let numbers = segments(folder)?.into_iter().map(|(number, _)| number);
    let mut number = numbers.chain(parent).fold(last, u64::max);
    loop {
        number = number.saturating_add(1);
        let path = folder.join(format!("{PREFIX}{number:04}{EXTENSION}"));
        match files.create(&path, false) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && number < u64::MAX => {}
            Err(error) => return Err(io_error(&path, "create")(error)),
        }
    }
}

/// The numbers and paths of all segments in a folder.
pub(super) fn segments(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let error = || io_error(folder, "list the folder");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(error())? {
        let entry = entry.map_err(error())?;
        let number = entry.file_name().to_str().and_then(number_of);
        found.extend(number.map(|number| (number, entry.path())));
    }
    Ok(found)
}

/// The number in a segment's name: 1 in `history-0001.jsonl`.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(EXTENSION)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests;
