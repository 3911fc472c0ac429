//! What a rule sees of an evaluation.

use serde::{Deserialize, Serialize};

use super::{Best, Metric, Observation};

/// An evaluation that a rule may keep.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Its position in the history.
    pub(super) index: usize,
    pub(super) best: Best,
}

impl Kept {
    pub(super) fn new(index: usize, &Observation { iteration, elapsed, .. }: &Observation, score: f64) -> Self {
        Self { index, best: Best { iteration, score, elapsed } }
    }
}

/// An evaluation as a rule sees it: all values are finite, and none that the rule needs is missing.
pub(super) struct Evaluation<'a> {
    pub(super) observation: &'a Observation,
    /// The score that the rule monitors.
    pub(super) metric: &'a Metric,
    /// This evaluation, should the rule keep it.
    pub(super) kept: Kept,
    /// The evaluation with the best score so far, this one included.
    pub(super) highest: Kept,
}
