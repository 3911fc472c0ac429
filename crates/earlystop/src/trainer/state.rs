//! What a run is, beside its tensors: kept as JSON in its checkpoints.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::early_stopping::{EarlyStopping, Rule};
use crate::network::{Description, Precision};

/// The state of a run beside its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RunState {
    /// What the run was told.
    pub(super) settings: Settings,
    /// How many iterations were made; with the seeds, this is the place in the data.
    pub(super) iteration: u64,
    /// The stopping rule and all evaluations so far.
    pub(super) stopping: EarlyStopping,
    /// The time spent so far.
    pub(super) elapsed: Duration,
    /// What computed it.
    pub(super) environment: Environment,
}

/// What a run was told, and what decides every bit of it together with its [`Environment`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// The layers.
    pub(super) network: Description,
    /// The seed of initial values and dropout.
    pub(super) network_seed: u64,
    /// Adam's learning rate.
    pub(super) learning_rate: f64,
    /// Examples in a batch.
    pub(super) batch_size: usize,
    /// The seed of the order of the training examples.
    pub(super) seed: u64,
    /// The number of training examples.
    pub(super) training_examples: usize,
    /// Iterations from one evaluation to the next.
    pub(super) evaluate_every: u64,
    /// The numbers that evaluations compute in.
    #[serde(default)]
    pub(super) evaluation_precision: Precision,
    /// The stopping rule.
    pub(super) rule: Rule,
}

/// What computed a run: where these differ, the same operations may round differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Environment {
    /// The number of threads of libtorch.
    pub(super) threads: i32,
    /// The version of this crate.
    pub(super) earlystop: String,
    /// The version of the crate `tch`.
    pub(super) tch: String,
    /// The version of libtorch.
    pub(super) libtorch: String,
    /// The device's kind.
    pub(super) device: String,
}

impl Environment {
    /// Describes this process.
    pub(super) fn here(device: tch::Device) -> Self {
        let [earlystop, tch, libtorch] =
            [crate::VERSION, crate::TCH_VERSION, crate::LIBTORCH_VERSION].map(str::to_owned);
        Self { threads: tch::get_num_threads(), earlystop, tch, libtorch, device: format!("{device:?}") }
    }
}

/// Lists where two values of one type differ, by the names of their fields: `batch_size: 64 in the checkpoint, 32 now`.
pub(super) fn differences<T: Serialize>(checkpoint: &T, now: &T) -> Vec<String> {
    let mut found = Vec::new();
    if let (Ok(checkpoint), Ok(now)) = (serde_json::to_value(checkpoint), serde_json::to_value(now)) {
        compare("", &checkpoint, &now, &mut found);
    }
    found
}

fn compare(path: &str, checkpoint: &Value, now: &Value, found: &mut Vec<String>) {
    match (checkpoint, now) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            for (key, value) in a {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, value, &b[key], found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{index}]"), a, b, found);
            }
        }
        _ if checkpoint == now => {}
        _ => found.push(format!("{path}: {checkpoint} in the checkpoint, {now} now")),
    }
}
