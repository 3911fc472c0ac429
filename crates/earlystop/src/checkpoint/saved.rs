//! A checkpoint as a store lists it.

use std::path::PathBuf;

use super::Metadata;

/// A checkpoint in a folder, as its header describes it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Saved {
    /// The file, or the index of several files.
    pub path: PathBuf,
    /// The training step (iteration) at which it was saved.
    pub step: u64,
    /// How good it is, if it is known: higher is better.
    pub score: Option<f64>,
    /// Counts the saves into the folder, from 1; 0 for a file that no store wrote. The highest is the latest, also where
    /// training went back to an earlier step.
    pub commit: u64,
}

impl Saved {
    /// Uses the values that a store recorded, and the given step if it recorded none.
    pub(super) fn of(path: PathBuf, step: u64, internal: &Metadata) -> Self {
        let number = |key: &str| internal.get(key).and_then(|value| value.parse().ok());
        let score = internal.get("score").and_then(|value| value.parse().ok());
        let (step, commit) = (number("step").unwrap_or(step), number("commit").unwrap_or(0));
        Saved { path, step, score, commit }
    }

    /// The score, unless it is NaN.
    pub(super) fn rank(&self) -> Option<f64> {
        self.score.filter(|score| !score.is_nan())
    }
}
