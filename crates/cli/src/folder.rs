//! Finds the checkpoints of a folder, while a training may be writing to it.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use earlystop::Error;
use earlystop::checkpoint::{Saved, Valid};

use crate::failure::{Failure, Result, note};
use crate::opened::{Opened, is_url, store};
use crate::text;

/// The metadata's key of a trainer's state.
pub(crate) const TRAINER: &str = "trainer";

const EXTENSION: &[u8] = b".safetensors";
const INDEX: &[u8] = b".safetensors.index.json";

/// How often a folder is looked at again if files disappear meanwhile.
pub(crate) const ATTEMPTS: usize = 100;

/// A checkpoint, as its header describes it.
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    /// What a store recorded.
    pub(crate) saved: Option<Saved>,
    /// The size of its files; not known at a URL.
    pub(crate) bytes: Option<u64>,
    pub(crate) modified: Option<SystemTime>,
    /// Whether it has checksums.
    pub(crate) is_sealed: bool,
    /// Whether it has the state of a trainer.
    pub(crate) has_run: bool,
}

/// A file that cannot be read, and why.
pub(crate) struct Damaged {
    pub(crate) path: PathBuf,
    pub(crate) error: Error,
}

/// The checkpoints of a folder.
pub(crate) struct Folder {
    /// In the order of saving, and by their names where no store saved them.
    pub(crate) entries: Vec<Entry>,
    pub(crate) damaged: Vec<Damaged>,
}

impl Folder {
    /// Reads the headers of all checkpoints in a folder. Files that disappear meanwhile are left out. At a URL, reads what the
    /// store has recorded about them.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        if is_url(folder) {
            let entries = store(folder)?.list()?.into_iter().map(Entry::recorded).collect();
            return Ok(Folder { entries, damaged: Vec::new() });
        }
        let mut read = Folder::read_once(folder)?;
        for _ in 1..ATTEMPTS {
            match read {
                (Folder { entries, .. }, true) if entries.is_empty() => read = Folder::read_once(folder)?,
                _ => break,
            }
        }
        Ok(read.0)
    }

    /// Also returns whether files have disappeared.
    fn read_once(folder: &Path) -> Result<(Self, bool)> {
        let mut has_lost = false;
        let (mut entries, mut damaged, mut parts) = (Vec::new(), Vec::new(), BTreeSet::new());
        for path in files(folder)? {
            match Opened::open(&path) {
                Ok(checkpoint) => {
                    parts.extend(checkpoint.files().filter(|file| *file != path));
                    entries.push(Entry::of(&checkpoint));
                }
                Err(error) if is_gone(&error) => has_lost = true,
                Err(error) => damaged.push(Damaged { path, error }),
            }
        }
        entries.retain(|entry| !parts.contains(&entry.path));
        damaged.retain(|damaged| !parts.contains(&damaged.path));
        entries.sort_by(|a, b| (a.order(), &a.path).cmp(&(b.order(), &b.path)));
        damaged.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((Folder { entries, damaged }, has_lost))
    }

    /// The checkpoint that was saved last. Where no store saved one: the file that was written last.
    pub(crate) fn latest(&self) -> Option<&Entry> {
        self.entries.iter().rfind(|entry| entry.saved.is_some()).or(self.entries.iter().max_by_key(|it| it.modified))
    }

    /// The checkpoint of the highest score; of equal scores the earliest.
    pub(crate) fn best(&self) -> Option<&Entry> {
        let scored = self.entries.iter().filter_map(|entry| Some((entry, entry.score()?)));
        let better =
            |best: (&'_ Entry, f64), next: (&'_ Entry, f64)| next.1.partial_cmp(&best.1) == Some(Ordering::Greater);
        scored.reduce(|best, next| if better(best, next) { next } else { best }).map(|(entry, _)| entry)
    }
}

impl Entry {
    pub(crate) fn of(checkpoint: &Opened) -> Self {
        Entry {
            path: checkpoint.path().to_owned(),
            saved: checkpoint.saved(),
            bytes: Some(checkpoint.file_bytes()),
            modified: checkpoint.modified(),
            is_sealed: checkpoint.is_verified(),
            has_run: checkpoint.metadata().contains_key(TRAINER),
        }
    }

    /// A checkpoint at a URL, which was not looked into.
    fn recorded(saved: Saved) -> Self {
        let path = saved.path.clone();
        Entry { path, saved: Some(saved), bytes: None, modified: None, is_sealed: true, has_run: false }
    }

    pub(crate) fn step(&self) -> Option<u64> {
        self.saved.as_ref().map(|saved| saved.step)
    }

    /// The score that a store recorded, unless it is not a number.
    pub(crate) fn score(&self) -> Option<f64> {
        self.saved.as_ref()?.score.filter(|score| !score.is_nan())
    }

    fn order(&self) -> Option<(u64, u64)> {
        self.saved.as_ref().map(|saved| (saved.commit, saved.step))
    }
}

/// Says whether an error means that a file was deleted.
pub(crate) fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::NotFound)
}

/// The files in a folder that may be checkpoints.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = |error: std::io::Error| Failure::message(format!("{}: cannot list: {error}", text::path(folder)));
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let is_candidate = name.ends_with(EXTENSION) || name.ends_with(INDEX);
        if is_candidate && !name.starts_with(b".") && !is_part(name) && !path.is_dir() {
            files.push(path);
        }
    }
    // Where there is a single file, an index is left over from a save that was killed.
    let names: BTreeSet<PathBuf> = files.iter().cloned().collect();
    files.retain(|path| {
        let is_index = path.as_os_str().as_encoded_bytes().ends_with(INDEX);
        !is_index || !names.contains(&path.with_extension("").with_extension(""))
    });
    Ok(files)
}

/// Says whether a file is a part that this library wrote: `NAME-0123456789abcdef-00001-of-00003.safetensors`.
///
/// A part whose index does not exist yet, or no longer, is no checkpoint.
fn is_part(name: &[u8]) -> bool {
    const PATTERN: &[u8] = b"-xxxxxxxxxxxxxxxx-00000-of-00000";
    let Some(stem) = name.strip_suffix(EXTENSION) else { return false };
    let mark = &stem[stem.len().saturating_sub(PATTERN.len())..];
    mark.len() == PATTERN.len()
        && mark.iter().zip(PATTERN).all(|(byte, pattern)| match pattern {
            b'x' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            b'0' => byte.is_ascii_digit(),
            _ => byte == pattern,
        })
}

/// Returns whether a path is that of a folder, or a URL that does not end in the name of a checkpoint.
pub(crate) fn is_folder(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    if is_url(path) { !name.ends_with(EXTENSION) && !name.ends_with(INDEX) } else { path.is_dir() }
}

/// Opens a file, or the latest checkpoint of a folder.
pub(crate) fn open_latest(path: &Path) -> Result<Opened> {
    if !is_folder(path) {
        return Ok(Opened::open(path)?);
    }
    if is_url(path) {
        return download_latest(path);
    }
    // A training may delete the latest checkpoint between the two looks.
    for _ in 0..ATTEMPTS {
        let folder = Folder::read(path)?;
        let Some(latest) = folder.latest() else { return Err(nothing_in(path, &folder)) };
        match Opened::open(&latest.path) {
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error.into()),
            Ok(checkpoint) => {
                for Damaged { error, .. } in &folder.damaged {
                    note(&format!("passed over: {}", text::escaped(&error.to_string())));
                }
                return Ok(checkpoint);
            }
        }
    }
    Err(Failure::message(format!("{}: its checkpoints are deleted faster than they are read", text::path(path))))
}

/// Downloads the latest valid checkpoint at a URL.
fn download_latest(url: &Path) -> Result<Opened> {
    let store = store(url)?;
    let Valid { saved, skipped, .. } = store.latest_valid()?;
    let damaged: Vec<_> = skipped.into_iter().map(|it| Damaged { path: it.path, error: it.error }).collect();
    let Some(saved) = saved else { return Err(nothing_in(url, &Folder { entries: Vec::new(), damaged })) };
    for Damaged { error, .. } in &damaged {
        note(&format!("passed over: {}", text::escaped(&error.to_string())));
    }
    let original = store.folder().join(saved.path.file_name().unwrap_or_default());
    Ok(Opened::copy(&saved.path, original, store)?)
}

/// Says that a folder has no checkpoint that can be read.
pub(crate) fn nothing_in(path: &Path, folder: &Folder) -> Failure {
    let path = text::path(path);
    Failure::Nothing(match &folder.damaged[..] {
        [] => format!("{path}: no checkpoints in this folder"),
        [Damaged { error, .. }, ..] => {
            format!("{path}: no checkpoint in this folder can be read: {}", text::escaped(&error.to_string()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_from_checkpoints() {
        assert!(is_part(b"step-000100-39a298b440a785ba-00001-of-00002.safetensors"));
        assert!(!is_part(b"model-00001-of-00002.safetensors"), "of others, the index tells");
        assert!(!is_part(b"step-000100.safetensors"));
        assert!(!is_part(b"x.safetensors"));
    }
}
