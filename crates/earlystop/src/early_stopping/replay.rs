//! Replays a history with several rules: where each would have stopped, without training again.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::evaluation::Kept;
use super::judge::Judge;
use super::{Metric, Observation, Rule, StopKind, StopReason};
use crate::error::Error;

/// The result of [`replay`]: where each of several rules would have stopped a run.
///
/// Prints as an aligned table. [`plot::stopping_rules`](crate::plot::stopping_rules) draws it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The score that the table shows: the validation accuracy if the run has it, else what the first rule monitors.
    #[serde(default)]
    pub metric: Metric,
    /// The length of the whole run, in iterations.
    pub iterations: u64,
    /// One row for each rule, in the order of the rules.
    pub rows: Vec<Outcome>,
}

/// Where one rule would have stopped the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The rule's name.
    pub rule: String,
    /// The iteration after which the rule would have stopped the run, or the last one if the rule does not stop it.
    pub stopped_at: u64,
    /// Why the rule would have stopped the run, or nothing if it does not stop it.
    pub reason: Option<StopReason>,
    /// The evaluation whose variables the rule would have kept, or nothing if it stops before the first one.
    pub kept: Option<Observation>,
    /// The number of iterations saved, compared with the whole run.
    pub saved: u64,
}

/// Applies each rule to a history from its start, as if it had been asked after every iteration whether to stop.
///
/// The history should come from a run that was not stopped, or not before the most patient of the rules would have
/// stopped it.
///
/// A rule with an argument [out of range](Rule::check) and an observation that [`EarlyStopping::record`] refuses are
/// reported in the rows, as a stop of the kind [`StopKind::CannotJudge`] with the error as its reason.
///
/// [`EarlyStopping::record`]: super::EarlyStopping::record
///
/// ```
/// use earlystop::early_stopping::{Observation, Rule, replay};
///
/// let accuracies = [0.90, 0.95, 0.94, 0.95, 0.96, 0.95];
/// let history: Vec<_> = (1..).zip(accuracies).map(|(i, accuracy)| Observation::new(100 * i, accuracy)).collect();
/// let comparison = replay(&history, [Rule::patience(100), Rule::patience(1000)]);
/// assert_eq!(comparison.rows[0].stopped_at, 301);
/// assert_eq!(comparison.rows[0].saved, 299);
/// println!("{comparison}");
/// ```
pub fn replay(history: &[Observation], rules: impl IntoIterator<Item = Rule>) -> Comparison {
    let iterations = history.last().map_or(0, |last| last.iteration);
    let outcome = |rule: Rule| {
        let name = rule.to_string();
        let (stop, best) = first_stop(rule, history);
        let stopped_at = stop.as_ref().map_or(iterations, |&(at, _)| at);
        Outcome {
            rule: name,
            stopped_at,
            reason: stop.map(|(_, reason)| reason),
            kept: best.map(|best| history[best.index].clone()),
            saved: iterations.saturating_sub(stopped_at),
        }
    };
    let rules: Vec<Rule> = rules.into_iter().collect();
    let has_accuracy = history.iter().any(|seen| Metric::default().of(seen).is_some());
    let metric = rules.first().filter(|_| !has_accuracy).map(Rule::monitored).unwrap_or_default();
    Comparison { metric, iterations, rows: rules.into_iter().map(outcome).collect() }
}

/// The iteration of the first stop and its reason, and the best evaluation until then.
fn first_stop(rule: Rule, history: &[Observation]) -> (Option<(u64, StopReason)>, Option<Kept>) {
    let name = rule.to_string();
    let refused = |error: Error| StopReason { kind: StopKind::CannotJudge, rule: name, why: error.to_string() };
    let mut judge = match Judge::new(rule) {
        Ok(judge) => judge,
        Err(error) => return (Some((history.first().map_or(0, |first| first.iteration), refused(error))), None),
    };
    let mut now = 1; // nobody asks before the first iteration is done
    for observation in history {
        if let Some(at) = judge.stop_at().map(|at| at.max(now)).filter(|&at| at < observation.iteration) {
            return (judge.reason().map(|reason| (at, reason)), judge.kept());
        }
        now = now.max(observation.iteration);
        if let Err(error) = judge.take_in(observation) {
            return (Some((now, refused(error))), judge.kept());
        }
    }
    // The run ends with its last evaluation, and `now` is that iteration.
    let stops = judge.stop_at().is_some_and(|at| at <= now) && !history.is_empty();
    (judge.reason().filter(|_| stops).map(|reason| (now, reason)), judge.kept())
}

impl Comparison {
    /// Formats the table in Markdown.
    pub fn to_markdown(&self) -> String {
        let line = |cells: &[String; 6]| format!("| {} |\n", cells.join(" | "));
        let rule = "|---|---:|---:|---:|---:|---:|\n".to_owned();
        let rows = self.rows.iter().map(|row| line(&self.cells(row)));
        [line(&HEADER.map(String::from)), rule].into_iter().chain(rows).collect()
    }

    fn cells(&self, row: &Outcome) -> [String; 6] {
        let shown = |score: Option<f64>| score.map_or("-".to_owned(), |score| self.metric.format(score));
        let on_test_set = self.metric.on_test_set();
        [
            row.rule.clone(),
            if row.reason.is_some() { row.stopped_at.to_string() } else { "-".to_owned() },
            row.kept.as_ref().map_or("-".to_owned(), |kept| kept.iteration.to_string()),
            shown(row.kept.as_ref().and_then(|kept| self.metric.of(kept))),
            shown(row.kept.as_ref().and_then(|kept| kept.score(&on_test_set))),
            format!("{} ({:.0}%)", row.saved, 100.0 * row.saved as f64 / self.iterations.max(1) as f64),
        ]
    }
}

const HEADER: [&str; 6] = ["rule", "stops at", "keeps", "validation", "test", "iterations saved"];

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![HEADER.map(String::from)];
        lines.extend(self.rows.iter().map(|row| self.cells(row)));
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        for (index, line) in lines.iter().enumerate() {
            let end = if index + 1 < lines.len() { "\n" } else { "" };
            write!(f, "{:<width$}", line[0], width = widths[0])?;
            for (cell, width) in line.iter().zip(widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            write!(f, "{end}")?;
        }
        // A rule that could not judge the run must not look like one that did.
        for Outcome { rule, reason, .. } in &self.rows {
            if let Some(StopReason { kind: StopKind::CannotJudge | StopKind::NotFinite, why, .. }) = reason {
                write!(f, "\n{rule}: {why}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> Vec<Observation> {
        let accuracies = [0.90, 0.95, 0.94, 0.95, 0.96, 0.95];
        let observe = |(iteration, accuracy): (u64, f64)| {
            Observation::new(iteration, accuracy).with("test_accuracy", accuracy - 0.01)
        };
        (100..).step_by(100).zip(accuracies).map(observe).collect()
    }

    #[test]
    fn the_table_shows_what_each_rule_would_have_cost() {
        let rules = [Rule::patience(100), Rule::patience(1000), Rule::iterations(50), Rule::target(0.95).named("95%")];
        let expected = "\
rule            stops at  keeps  validation    test  iterations saved
patience(100)        301    200      95.00%  94.00%         299 (50%)
patience(1000)         -    500      96.00%  95.00%            0 (0%)
iterations(50)        50      -           -       -         550 (92%)
95%                  200    200      95.00%  94.00%         400 (67%)";
        assert_eq!(replay(&history(), rules).to_string(), expected);
    }

    #[test]
    fn the_table_can_be_had_in_markdown() {
        let expected = "\
| rule | stops at | keeps | validation | test | iterations saved |
|---|---:|---:|---:|---:|---:|
| never | - | 500 | 96.00% | 95.00% | 0 (0%) |
";
        assert_eq!(replay(&history(), [Rule::never()]).to_markdown(), expected);
    }

    #[test]
    fn a_rule_that_lacks_a_number_says_so_below_the_table() {
        let comparison = replay(&history(), [Rule::generalization_loss(5.0)]);
        assert_eq!(comparison.rows[0].kept, None);
        let last_line = "GL(5): cannot judge iteration 100 without the validation loss; known are test_accuracy, validation_accuracy";
        assert_eq!(comparison.to_string().lines().last(), Some(last_line));
    }

    #[test]
    fn nothing_can_be_replayed_of_nothing() {
        assert_eq!(replay(&[], [Rule::patience(5)]).rows[0].stopped_at, 0);
    }
}
