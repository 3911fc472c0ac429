//! The state of a run without its tensors, kept as JSON in its checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::checkpoint::Metadata;
use crate::data::Order;
use crate::early_stopping::{Plateau, Reductions, Rule, SavedStopping};
use crate::error::{Error, Result};
use crate::kernels::{self, Processor};
use crate::optimizer::{self, Schedule};

/// The state of a run without its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RunState {
    /// What was chosen for the run.
    pub(super) settings: Settings,
    /// The number of iterations made; with the seeds, this is the position in the data.
    pub(super) iteration: u64,
    /// The stopping rule and its state; in files of versions up to 0.1 all evaluations too.
    pub(super) stopping: SavedStopping,
    /// The reductions of the learning rate on plateaus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reductions: Option<Reductions>,
    /// The training losses since the last evaluation.
    #[serde(default)]
    pub(super) losses: Losses,
    /// The time spent so far.
    pub(super) elapsed: Duration,
    /// The machine and the versions.
    pub(super) environment: Environment,
    /// The test set, which decides nothing.
    #[serde(default)]
    pub(super) test_data: Option<Fingerprint>,
}

/// What was chosen for a run. Together with the [`Environment`] it determines every bit of the results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// What the model says of itself, see [`Model::settings`](super::Model::settings).
    #[serde(flatten)]
    pub(super) model: Map<String, Value>,
    /// The learning rate of each iteration.
    pub(super) learning_rate: Schedule,
    /// What else reduces the learning rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reduce_on_plateau: Option<Plateau>,
    /// The optimizer.
    #[serde(default)]
    pub(super) optimizer: optimizer::Settings,
    /// Examples in a batch.
    pub(super) batch_size: usize,
    /// How batches are drawn.
    #[serde(default)]
    pub(super) order: Order,
    /// Parts of a batch whose gradients are added; one in earlier versions.
    #[serde(default = "one")]
    pub(super) parts: usize,
    /// The seed of the order of the training examples.
    pub(super) seed: u64,
    /// The number of training examples.
    pub(super) training_examples: usize,
    /// The training examples; unknown in checkpoints of earlier versions.
    #[serde(default)]
    pub(super) training_data: Option<Fingerprint>,
    /// The validation examples; unknown in checkpoints of earlier versions.
    #[serde(default)]
    pub(super) validation_data: Option<Fingerprint>,
    /// Iterations from one evaluation to the next.
    pub(super) evaluate_every: u64,
    /// The other held-out sets, but for the test set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) held_out_data: BTreeMap<String, Option<Fingerprint>>,
    /// The stopping rule.
    pub(super) rule: Rule,
}

fn one() -> usize {
    1
}

/// The names of the settings that are not the model's.
const OWN_NAMES: [&str; 13] = [
    "learning_rate",
    "reduce_on_plateau",
    "optimizer",
    "batch_size",
    "order",
    "parts",
    "seed",
    "training_examples",
    "training_data",
    "validation_data",
    "held_out_data",
    "evaluate_every",
    "rule",
];

impl Settings {
    /// Refuses a model whose settings have the names of others.
    pub(super) fn check_model(settings: &Metadata) -> Result<()> {
        match settings.keys().find(|name| OWN_NAMES.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let expected = format!("none of {}, which the trainer uses", OWN_NAMES.join(", "));
                Err(Error::setting("name of a model's setting", expected, name))
            }
        }
    }

    /// Reads what a model says of itself.
    pub(super) fn of_model(settings: Metadata) -> Map<String, Value> {
        settings.into_iter().map(|(name, value)| (name, json_or_text(value))).collect()
    }

    /// Takes out the precisions in which a network computes. In earlier versions, `bf16` could be chosen instead of `f32`, for
    /// the network and for its evaluations.
    fn take_precisions(&mut self) -> Value {
        let mut precisions = json!({"precision": "f32", "evaluation_precision": "f32"});
        if !self.model.contains_key("network_seed") {
            return precisions; // a model of the user's own, whose settings may have any name
        }
        let network = self.model.get_mut("network").and_then(Value::as_object_mut);
        if let Some(precision) = network.and_then(|network| network.remove("precision")) {
            precisions["precision"] = precision;
        }
        if let Some(precision) = self.model.remove("evaluation_precision") {
            precisions["evaluation_precision"] = precision;
        }
        precisions
    }
}

/// Reads a value as JSON, or else as text.
pub(super) fn json_or_text(value: String) -> Value {
    serde_json::from_str(&value).unwrap_or(Value::String(value))
}

/// Identifies a data set: the JSON value, or else the text, that [`fingerprint`](crate::data::Data::fingerprint) returns.
pub(super) type Fingerprint = Value;

/// Identifies all examples of a run.
#[derive(Debug)]
pub(super) struct Fingerprints {
    pub(super) train: Option<Fingerprint>,
    /// The held-out sets by their names.
    pub(super) held_out: BTreeMap<String, Option<Fingerprint>>,
}

/// The sum and number of the training losses since the last evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Losses {
    sum: f64,
    count: u64,
}

impl Losses {
    pub(super) fn add(&mut self, loss: f64) {
        self.sum += loss;
        self.count += 1;
    }

    pub(super) fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// What computed a run: where these differ, the same operations may round differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Environment {
    /// The number of threads of libtorch.
    threads: i32,
    /// The processor's instructions that are used; unknown in checkpoints of earlier versions.
    #[serde(default)]
    instructions: Option<Instructions>,
    /// The version of this crate.
    earlystop: String,
    /// The version of the crate `tch`.
    tch: String,
    /// The version of libtorch.
    libtorch: String,
    /// The device's kind.
    device: String,
}

/// The processor's instructions that the kernels use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Instructions {
    /// By the convolutions of this crate.
    earlystop: String,
    /// By libtorch.
    libtorch: String,
}

impl Instructions {
    /// Replaces the name that earlier versions gave to AVX-512 with bf16 instructions. The bits of results in `f32` are the same.
    fn rename(&mut self) {
        if self.earlystop == "AVX-512 with bf16" {
            Processor::Avx512.name().clone_into(&mut self.earlystop);
        }
    }
}

impl Environment {
    /// Describes this process, where libtorch may compute on one thread.
    pub(super) fn here(device: tch::Device, on_one_thread: bool) -> Self {
        let [earlystop, tch, libtorch] =
            [crate::VERSION, crate::TCH_VERSION, crate::LIBTORCH_VERSION].map(str::to_owned);
        let instructions = Instructions {
            earlystop: Processor::detect().map_or("portable", Processor::name).to_owned(),
            libtorch: kernels::libtorch_instructions(),
        };
        let instructions = Some(instructions);
        let threads = if on_one_thread { 1 } else { tch::get_num_threads() };
        Self { threads, instructions, earlystop, tch, libtorch, device: format!("{device:?}") }
    }
}

/// How a checkpoint's run differs from the one that is to continue it.
#[derive(Debug, Default)]
pub(super) struct Differences {
    /// What leads to other results.
    pub(super) settings: Vec<String>,
    /// What may change bits, decides nothing, or cannot be compared.
    pub(super) notes: Vec<String>,
}

impl Differences {
    /// Compares the state in a checkpoint with the state as the trainer would save it now. Says nothing of the number of threads
    /// where results do not depend on it.
    pub(super) fn between(checkpoint: &RunState, now: &RunState, depends_on_threads: bool) -> Self {
        let (mut checkpoint, mut now) = (checkpoint.clone(), now.clone());
        let precisions = [&mut checkpoint, &mut now].map(|state| state.settings.take_precisions());
        if let Some(instructions) = &mut checkpoint.environment.instructions {
            instructions.rename();
        }
        if !depends_on_threads {
            checkpoint.environment.threads = now.environment.threads;
        }
        let mut notes = Vec::new();
        let mut unknown = |what: &str| notes.push(format!("{what}: unknown in the checkpoint, so not compared"));
        let is_earlier = checkpoint.settings.training_data.is_none();
        adopt(&mut checkpoint.settings.training_data, &now.settings.training_data, || unknown("training_data"));
        adopt(&mut checkpoint.settings.validation_data, &now.settings.validation_data, || unknown("validation_data"));
        adopt(&mut checkpoint.environment.instructions, &now.environment.instructions, || unknown("instructions"));
        if is_earlier {
            adopt(&mut checkpoint.test_data, &now.test_data, || unknown("test_data"));
        }
        let nobody_knows = |what: &str, data: [&Option<Fingerprint>; 2]| {
            data.iter().all(|data| data.is_none()).then(|| format!("{what}: has no fingerprint, so not compared"))
        };
        let [then, new] = [&checkpoint.settings, &now.settings];
        notes.extend(nobody_knows("training_data", [&then.training_data, &new.training_data]));
        notes.extend(nobody_knows("validation_data", [&then.validation_data, &new.validation_data]));
        compare("", &checkpoint.environment, &now.environment, &mut notes);
        compare("test_data", &checkpoint.test_data, &now.test_data, &mut notes);
        let mut settings = Vec::new();
        compare("", &precisions[0], &precisions[1], &mut settings);
        compare("", &checkpoint.settings, &now.settings, &mut settings);
        Self { settings, notes }
    }
}

/// Fills in what the checkpoint does not know, and reports it.
fn adopt<T: Clone>(checkpoint: &mut Option<T>, now: &Option<T>, report: impl FnOnce()) {
    if checkpoint.is_none() && now.is_some() {
        checkpoint.clone_from(now);
        report();
    }
}

/// Lists where the values of another process differ from those of the first one: `batch_size: 64 in process 0, 32 in process 2`.
pub(super) fn difference_of_processes(first: &Value, process: usize, other: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let places = ["in process 0", &format!("in process {process}")];
    // The parts of the state have names that say more than where they lie.
    let parts = |value: &Value| {
        let mut parts = Map::new();
        for (name, part) in value.as_object().cloned().unwrap_or_default() {
            match part {
                Value::Object(part) => parts.extend(part),
                part => drop(parts.insert(name, part)),
            }
        }
        Value::Object(parts)
    };
    compare_values("", &parts(first), &parts(other), places, &mut found);
    found
}

/// Lists where two values differ, by the names of their fields: `batch_size: 64 in the checkpoint, 32 now`.
fn compare<T: Serialize>(path: &str, checkpoint: &T, now: &T, found: &mut Vec<String>) {
    if let (Ok(checkpoint), Ok(now)) = (serde_json::to_value(checkpoint), serde_json::to_value(now)) {
        compare_values(path, &checkpoint, &now, ["in the checkpoint", "now"], found);
    }
}

fn compare_values(path: &str, a: &Value, b: &Value, places: [&str; 2], found: &mut Vec<String>) {
    match (a, b) {
        // Another kind of model has other settings.
        (Value::Object(a), Value::Object(b)) if path.is_empty() => {
            for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let value = |object: &Map<String, Value>| object.get(key).cloned().unwrap_or_default();
                compare_values(key, &value(a), &value(b), places, found);
            }
        }
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            for (key, value) in a {
                compare_values(&format!("{path}.{key}"), value, &b[key], places, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare_values(&format!("{path}[{index}]"), a, b, places, found);
            }
        }
        _ if a == b => {}
        _ => found.push(format!("{path}: {} {}, {} {}", shown(a), places[0], shown(b), places[1])),
    }
}

fn shown(value: &Value) -> String {
    if value.is_null() { "none".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_names_are_those_of_the_fields() {
        let settings = Settings {
            model: Map::new(),
            learning_rate: Schedule::from(1e-3),
            reduce_on_plateau: Some(Plateau::new(1, 0.5)),
            optimizer: optimizer::Settings::default(),
            batch_size: 1,
            order: Order::default(),
            parts: 1,
            seed: 0,
            training_examples: 1,
            training_data: None,
            validation_data: None,
            held_out_data: BTreeMap::from([("other".to_owned(), None)]),
            evaluate_every: 1,
            rule: Rule::never(),
        };
        let Value::Object(fields) = serde_json::to_value(&settings).unwrap() else { panic!("not an object") };
        let mut names = OWN_NAMES.map(str::to_owned);
        names.sort();
        assert_eq!(fields.keys().collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    }
}
