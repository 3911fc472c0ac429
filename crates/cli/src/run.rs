//! What a trainer stores in a checkpoint in addition to the tensors, and the evaluations of its run.

use std::path::Path;

use earlystop::checkpoint::Metadata;
use earlystop::early_stopping::{EarlyStopping, Metric, Observation, Rule};
use serde_json::{Map, Value};

use crate::failure::{Failure, Result, note};
use crate::folder::{Folder, TRAINER, is_folder, open_latest};
use crate::opened::Opened;
use crate::text;

/// What the names of an optimizer's tensors begin with.
const OPTIMIZERS: [&str; 4] = ["adam.", "adam_w.", "sgd.", "rms_prop."];

/// Says whether a tensor belongs to the state of an optimizer.
pub(crate) fn is_of_optimizer(name: &str) -> bool {
    OPTIMIZERS.iter().any(|prefix| name.starts_with(prefix))
}

/// The part of a trainer's state that describes the run.
#[derive(Default)]
pub(crate) struct Run {
    /// The settings of the run.
    pub(crate) settings: Map<String, Value>,
    /// The machine and the versions.
    pub(crate) environment: Map<String, Value>,
    pub(crate) rule: Option<Rule>,
    /// The evaluations, which versions up to 0.1 stored here.
    history: Option<Vec<Observation>>,
}

impl Run {
    /// Reads the state of a trainer; `None` if there is none, or none that can be read.
    pub(crate) fn of(metadata: &Metadata) -> Option<Self> {
        let state: Value = serde_json::from_str(metadata.get(TRAINER)?).ok()?;
        let object = |name: &str| state.get(name).and_then(Value::as_object).cloned();
        let settings = object("settings")?;
        let rule = settings.get("rule").and_then(|rule| serde_json::from_value(rule.clone()).ok());
        let history = state.get("stopping").and_then(history_in);
        Some(Run { settings, environment: object("environment").unwrap_or_default(), rule, history })
    }
}

/// Reads the evaluations in the state of a stopping rule.
fn history_in(stopping: &Value) -> Option<Vec<Observation>> {
    serde_json::from_value(stopping.get("history")?.clone()).ok()
}

/// The evaluations of a run.
pub(crate) struct Evaluations {
    pub(crate) observations: Vec<Observation>,
    /// Why the beginning is missing, if it is.
    pub(crate) missing: Option<String>,
    /// The stopping rule of the run, if it is known.
    pub(crate) rule: Option<Rule>,
}

impl Evaluations {
    /// Reads the evaluations that a checkpoint, or what is next to it, has.
    ///
    /// A trainer stores them next to its checkpoints, and versions up to 0.1 did in them. Your own loop may store an
    /// `EarlyStopping` as JSON under the key `stopping`.
    pub(crate) fn of(checkpoint: &Opened) -> Result<Self> {
        let run = Run::of(checkpoint.metadata()).unwrap_or_default();
        let history = checkpoint.history()?;
        if !history.lines.is_empty() || history.missing.is_some() {
            let read = |line: &String| {
                serde_json::from_str(line).map_err(|error| {
                    Failure::message(format!("{}: a line of its history: {error}", text::path(checkpoint.path())))
                })
            };
            let observations = history.lines.iter().map(read).collect::<Result<_>>()?;
            return Ok(Evaluations { observations, missing: history.missing, rule: run.rule });
        }
        if let Some(observations) = run.history {
            return Ok(Evaluations { observations, missing: None, rule: run.rule });
        }
        let own = checkpoint.metadata().get("stopping").and_then(|json| serde_json::from_str::<Value>(json).ok());
        let own = own.as_ref().and_then(|stopping| {
            let rule = stopping.get("rule").and_then(|rule| serde_json::from_value(rule.clone()).ok());
            Some(Evaluations { observations: history_in(stopping)?, missing: None, rule })
        });
        Ok(own.unwrap_or(Evaluations { observations: Vec::new(), missing: None, rule: run.rule }))
    }

    /// Reads the evaluations of a file, or those of the latest checkpoint of a folder. A folder without any has at least the
    /// scores of the checkpoints that are there.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let checkpoint = open_latest(path)?;
        let mut evaluations = Evaluations::of(&checkpoint)?;
        if evaluations.observations.is_empty() && evaluations.missing.is_none() && is_folder(path) {
            let saved = Folder::read(path)?.entries.into_iter().filter(|entry| !entry.has_run);
            let mut scores: Vec<(u64, f64)> = saved.filter_map(|entry| Some((entry.step()?, entry.score()?))).collect();
            scores.sort_by_key(|(step, _)| *step);
            scores.dedup_by_key(|(step, _)| *step);
            evaluations.observations =
                scores.into_iter().map(|(step, score)| Observation::of(step, [("score", score)])).collect();
            if !evaluations.observations.is_empty() {
                note(
                    "no history is recorded: these are the scores of the checkpoints, of which higher ones are better",
                );
            }
        }
        match &evaluations {
            Evaluations { observations, missing: None, .. } if observations.is_empty() => {
                let checkpoint = text::path(checkpoint.path());
                Err(Failure::Nothing(format!(
                    "{checkpoint}: no history: no trainer saved it, and no evaluation is recorded"
                )))
            }
            Evaluations { observations, missing: Some(why), .. } if observations.is_empty() => {
                Err(Failure::message(format!("the history is missing: {why}")))
            }
            Evaluations { missing: Some(why), .. } => {
                note(&format!("the beginning of the history is missing: {}", text::escaped(why)));
                Ok(evaluations)
            }
            _ => Ok(evaluations),
        }
    }

    /// The names of all scores, in alphabetical order.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.observations.iter().flat_map(|it| it.scores.keys()).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The score that tells which evaluation is the best: that of the rule, if it is recorded, or else the most likely one.
    pub(crate) fn metric(&self) -> Option<Metric> {
        let names = self.names();
        let of_rule = self.rule.as_ref().map(Rule::monitored).filter(|metric| names.contains(&metric.name()));
        let usual = || {
            let validation = names.iter().find(|name| name.starts_with("validation_"));
            let name = names.iter().find(|name| **name == Metric::default().name()).or(validation).or(names.first());
            name.map(|name| metric_of(name))
        };
        of_rule.or_else(usual)
    }

    /// Returns a score by its name, which may begin with `lower ` or `higher ` to say which is better.
    pub(crate) fn metric_named(&self, name: &str) -> Result<Metric> {
        let metric = match (name.strip_prefix("lower "), name.strip_prefix("higher ")) {
            (Some(name), _) => Metric::lower(name),
            (_, Some(name)) => Metric::higher(name),
            _ => {
                let of_rule = self.rule.as_ref().map(Rule::monitored);
                of_rule.filter(|metric| metric.name() == name).unwrap_or_else(|| metric_of(name))
            }
        };
        let names = self.names();
        if names.contains(&metric.name()) {
            return Ok(metric);
        }
        Err(Failure::message(format!("no score {:?} in the history: known are {}", metric.name(), names.join(", "))))
    }

    /// The iteration of the best evaluation, as the rule sees it, if it monitors the score.
    pub(crate) fn best(&self, metric: &Metric) -> Option<u64> {
        let rule = self.rule.clone().filter(|rule| rule.monitored() == *metric);
        let rule = rule.unwrap_or_else(|| Rule::never().on(metric.clone()));
        EarlyStopping::resume(rule, self.observations.clone()).ok()?.best().map(|best| best.iteration)
    }
}

/// Guesses which way a score is better.
fn metric_of(name: &str) -> Metric {
    const LOWER: [&str; 6] = ["loss", "error", "rmse", "mse", "mae", "perplexity"];
    if LOWER.iter().any(|end| name.ends_with(end)) { Metric::lower(name) } else { Metric::higher(name) }
}

/// Names each value of a JSON object by its path: `optimizer.weight_decay`. Rules are shown as text.
pub(crate) fn flat(object: &Map<String, Value>) -> Vec<(String, String)> {
    fn add(path: String, value: &Value, all: &mut Vec<(String, String)>) {
        match value {
            Value::Object(object) if !object.is_empty() => {
                object.iter().for_each(|(name, value)| add(format!("{path}.{name}"), value, all));
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                items.iter().enumerate().for_each(|(index, item)| all.push((format!("{path}.{index}"), plain(item))));
            }
            value => all.push((path, plain(value))),
        }
    }
    let mut all = Vec::new();
    for (name, value) in object {
        let rule = (name == "rule").then(|| serde_json::from_value::<Rule>(value.clone()).ok()).flatten();
        match rule {
            Some(rule) => all.push((name.clone(), format!("{rule:#}"))),
            None => add(name.clone(), value, &mut all),
        }
    }
    all
}

/// Formats a JSON value compactly: `layer conv2d, kernel 5`.
fn plain(value: &Value) -> String {
    let join = |items: Vec<String>| items.join(", ");
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", join(items.iter().map(plain).collect())),
        Value::Object(object) => {
            // What a layer is comes first.
            let mut items: Vec<_> = object.iter().filter(|(_, value)| !value.is_null()).collect();
            items.sort_by_key(|(name, _)| !["layer", "name"].contains(&name.as_str()));
            join(items.into_iter().map(|(name, value)| format!("{name} {}", plain(value))).collect())
        }
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_flat_and_a_rule_is_text() {
        let rule = Rule::any_of([Rule::patience(1000), Rule::generalization_loss(5.0)]);
        let settings = json!({
            "batch_size": 64, "rule": rule, "clip": null,
            "network": {"input": [28, 28, 1], "layers": [{"activation": null, "kernel": 5, "layer": "conv2d"}]},
        });
        let flat = flat(settings.as_object().unwrap());
        let lines: Vec<String> = flat.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = [
            "batch_size=64",
            "clip=none",
            "network.input=[28, 28, 1]",
            "network.layers.0=layer conv2d, kernel 5",
            "rule=patience(1000) or GL(5)",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_loss_is_better_if_it_is_lower() {
        assert!(metric_of("validation_rmse").lower_is_better() && metric_of("train_loss").lower_is_better());
        assert!(!metric_of("validation_f1").lower_is_better());
    }
}
