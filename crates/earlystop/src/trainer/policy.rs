//! When a trainer saves.

use std::time::Duration;

use crate::error::{Error, Result};

/// When a trainer with a checkpoint folder saves its state: see
/// [`TrainerBuilder::save_policy`](super::TrainerBuilder::save_policy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SavePolicy {
    /// At every evaluation.
    #[default]
    EveryEvaluation,
    /// Every so many iterations, also between evaluations.
    EveryIterations(u64),
    /// As soon as so much time of the run has passed since the last save, also between evaluations. The time before a resume
    /// counts.
    EveryTime(Duration),
    /// At every evaluation that the stopping rule considers the best so far.
    OnImprovement,
}

/// The moment after an iteration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) iteration: u64,
    pub(super) is_evaluated: bool,
    pub(super) is_improved: bool,
    /// The time of the run since its last save.
    pub(super) unsaved: Duration,
}

impl SavePolicy {
    /// Refuses an interval of nothing.
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::EveryIterations(0) => Err(Error::setting("save policy", "at least every iteration", "0 iterations")),
            Self::EveryTime(Duration::ZERO) => Err(Error::setting("save policy", "more than no time", "0 seconds")),
            _ => Ok(()),
        }
    }

    /// Says whether to save now.
    pub(super) fn is_due(self, now: Moment) -> bool {
        match self {
            Self::EveryEvaluation => now.is_evaluated,
            Self::EveryIterations(interval) => now.iteration.is_multiple_of(interval),
            Self::EveryTime(interval) => now.unsaved >= interval,
            Self::OnImprovement => now.is_improved,
        }
    }
}

/// What a trainer does if it cannot write a checkpoint, because the disk is full for example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailedSave {
    /// Train on and try again at the next evaluation, with the event [`Event::SaveFailed`](super::Event::SaveFailed).
    /// If the last save of a call fails, the call returns the error at its end.
    #[default]
    Retry,
    /// Return the error at once.
    Stop,
}
