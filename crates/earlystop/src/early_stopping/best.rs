//! The best evaluation.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::json_float;

/// The evaluation to go back to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The iteration after which the network was evaluated.
    pub iteration: u64,
    /// The score that the rule [monitors](super::Rule::monitored): the validation accuracy, 0.0 to 1.0, unless the rule says otherwise.
    #[serde(with = "json_float", alias = "accuracy")]
    pub score: f64,
    /// The time of the run until then, if it was recorded.
    pub elapsed: Option<Duration>,
}
