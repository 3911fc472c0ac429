//! Why a run ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a run should stop: which rule says so, and the numbers it saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReason {
    /// The family of reasons, for a program to act on.
    pub kind: StopKind,
    /// The rule's name.
    pub rule: String,
    /// A sentence with numbers, for a reader.
    pub why: String,
}

/// The families of reasons to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StopKind {
    /// No improvement within the patience.
    NoImprovement,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.why)
    }
}
