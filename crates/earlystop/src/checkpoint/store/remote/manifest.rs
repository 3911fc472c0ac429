//! The manifest: what a store contains as of one commit.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::super::process::Process;
use super::super::{Keep, Saved};
use super::objects::Content;
use crate::checkpoint::layout::base_of;

/// The version of the layout.
pub(super) const FORMAT: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u32,
    /// Random: shows whether an attempt to commit has succeeded.
    pub(super) token: String,
    pub(super) writer: Owner,
    #[serde(flatten)]
    pub(super) contents: Contents,
}

/// Who has committed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) process: Process,
    /// Random: distinguishes the stores of a process.
    pub(super) token: String,
}

/// All that lasts from one commit to the next.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Contents {
    /// The earliest save first.
    pub(super) checkpoints: Vec<Entry>,
    #[serde(default)]
    pub(super) history: Vec<Segment>,
    #[serde(default)]
    pub(super) archives: Vec<Archive>,
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The name of the only file, or of the index.
    pub(super) name: String,
    pub(super) step: u64,
    /// As text, since JSON has no infinity.
    #[serde(default)]
    pub(super) score: Option<String>,
    pub(super) commit: u64,
    pub(super) files: Vec<FileEntry>,
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) object: Object,
}

/// An object, by its name below the store's prefix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Object {
    #[serde(rename = "object")]
    pub(super) key: String,
    #[serde(flatten)]
    pub(super) content: Content,
}

/// A file of the history. Its objects follow one another in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) chunks: Vec<Object>,
}

/// Checkpoints behind which the run went back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Archive {
    pub(super) name: String,
    pub(super) checkpoints: Vec<Entry>,
    pub(super) history: Vec<Segment>,
}

impl Manifest {
    /// Reads a manifest. Names that could lead out of a folder are refused.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(json).map_err(|error| format!("not a manifest: {error}"))?;
        if version.format != FORMAT {
            let found = version.format;
            return Err(format!("written by another version: expected format {FORMAT}, found {found}"));
        }
        let manifest: Manifest = serde_json::from_slice(json).map_err(|error| format!("not a manifest: {error}"))?;
        let Contents { checkpoints, history, archives } = &manifest.contents;
        check(checkpoints, history)?;
        archives.iter().try_for_each(|archive| check(&archive.checkpoints, &archive.history))?;
        Ok(manifest)
    }
}

fn check(checkpoints: &[Entry], history: &[Segment]) -> Result<(), String> {
    let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let files = checkpoints.iter().flat_map(|entry| entry.files.iter());
    let mut names = checkpoints.iter().map(|entry| &entry.name).chain(files.map(|file| &file.name));
    if let Some(name) = names.find(|name| !name.starts_with("step-") || !plain(name)) {
        return Err(format!("{name:?} is not the name of a checkpoint's file"));
    }
    if let Some(segment) = history.iter().find(|segment| !segment.name.starts_with("history-") || !plain(&segment.name))
    {
        return Err(format!("{:?} is not the name of a history's file", segment.name));
    }
    let is_key = |key: &&str| key.strip_prefix("data/").is_some_and(|name| !name.is_empty() && plain(name));
    match keys(checkpoints, history).find(|key| !is_key(key)) {
        Some(key) => Err(format!("{key:?} is not the name of an object with data")),
        None => Ok(()),
    }
}

impl Entry {
    /// As reported to the caller, with a path in this folder.
    pub(super) fn saved(&self, folder: &Path) -> Saved {
        let score = self.score.as_ref().and_then(|score| score.parse().ok());
        Saved { path: folder.join(&self.name), step: self.step, score, commit: self.commit }
    }

    /// Without the ending of an index: two checkpoints with the same base replace one another.
    pub(super) fn base(&self) -> std::path::PathBuf {
        base_of(Path::new(&self.name))
    }
}

impl Segment {
    pub(super) fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.content.bytes).sum()
    }
}

impl Contents {
    /// Returns the names of all objects.
    pub(super) fn keys(&self) -> BTreeSet<&str> {
        let archived = self.archives.iter().flat_map(|archive| keys(&archive.checkpoints, &archive.history));
        keys(&self.checkpoints, &self.history).chain(archived).collect()
    }

    /// Splits the checkpoints into those to keep and those to delete.
    pub(super) fn split(&self, keep: &Keep) -> (Vec<Entry>, Vec<Entry>) {
        let saved = self.checkpoints.iter().map(|entry| entry.saved(Path::new(""))).collect();
        let kept: BTreeSet<_> = keep.split(saved).0.into_iter().map(|saved| saved.path).collect();
        self.checkpoints.iter().cloned().partition(|entry| kept.contains(Path::new(&entry.name)))
    }

    pub(super) fn last_commit(&self) -> u64 {
        self.checkpoints.iter().map(|entry| entry.commit).max().unwrap_or(0)
    }
}

fn keys<'a>(checkpoints: &'a [Entry], history: &'a [Segment]) -> impl Iterator<Item = &'a str> {
    let files = checkpoints.iter().flat_map(|entry| entry.files.iter().map(|file| &*file.object.key));
    files.chain(history.iter().flat_map(|segment| segment.chunks.iter().map(|chunk| &*chunk.key)))
}
