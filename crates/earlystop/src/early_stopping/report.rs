//! Reports on why a run ended and what it cost.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Best, Metric};

/// The reason to stop a run: which rule, and the numbers that it saw.
///
/// Prints as `rule: why`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReason {
    /// The kind of reason, for a program to act on.
    pub kind: StopKind,
    /// The rule's name; for [`StopKind::Requested`] who asked: "signal", "callback".
    pub rule: String,
    /// A sentence with numbers, for people.
    pub why: String,
}

/// The kinds of reasons to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StopKind {
    /// There was no improvement within the patience.
    NoImprovement,
    /// The validation loss is rising.
    Overfitting,
    /// The iterations or the time are used up.
    Budget,
    /// The accuracy asked for is reached.
    Target,
    /// The accuracy collapsed.
    Divergence,
    /// A [rule of the program's own](super::OwnRule) has decided so.
    Own,
    /// A loss, an accuracy or a weight is NaN or infinite. This stops every run at once, whatever its rule.
    NotFinite,
    /// The rule needs a value that the observation does not have, or an argument of the rule is out of range: an error
    /// of the program, not of the run.
    CannotJudge,
    /// A caller, a signal or a stop button asked for the stop; no rule did.
    Requested,
}

/// Why a run ended, its best evaluation, and what it cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StopReport {
    /// Why the run was stopped, or nothing if it was not stopped.
    pub reason: Option<StopReason>,
    /// The evaluation to go back to, or nothing if there was none.
    pub best: Option<Best>,
    /// The score that the rule monitored.
    #[serde(default)]
    pub metric: Metric,
    /// The number of iterations of the run.
    pub iterations: u64,
    /// The duration of the run, if it was measured.
    pub elapsed: Option<Duration>,
}

impl StopReason {
    /// A request of a [callback](crate::trainer::Callback) to stop; prints as `callback: why`.
    pub fn requested(why: impl Into<String>) -> Self {
        Self { kind: StopKind::Requested, rule: "callback".to_owned(), why: why.into() }
    }

    /// Formats the reason as a sentence: `Stopped by patience(1000): no improvement for ….` A value that is not finite
    /// stops every run, so the sentence does not blame the rule.
    pub(crate) fn sentence(&self) -> String {
        match self.kind {
            StopKind::NotFinite => format!("Stopped: {}.", self.why),
            _ => format!("Stopped by {self}."),
        }
    }
}

impl StopReport {
    /// Returns the number of iterations after the best evaluation.
    pub fn iterations_after_best(&self) -> Option<u64> {
        Some(self.iterations.saturating_sub(self.best?.iteration))
    }

    /// Returns the time spent after the best evaluation.
    pub fn time_after_best(&self) -> Option<Duration> {
        Some(self.elapsed?.saturating_sub(self.best?.elapsed?))
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.why)
    }
}

impl fmt::Display for StopReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => writeln!(f, "{}", reason.sentence())?,
            None => writeln!(f, "Not stopped by any rule.")?,
        }
        match self.best {
            Some(Best { iteration, score, .. }) => {
                let metric = &self.metric;
                writeln!(f, "Best: {metric} {} at iteration {iteration}.", metric.format(score))?;
            }
            None => writeln!(f, "Best: none.")?,
        }
        write!(f, "Used: {} iterations", self.iterations)?;
        if let Some(elapsed) = self.elapsed {
            write!(f, " in {}", clock(elapsed))?;
        }
        if let Some(after) = self.iterations_after_best() {
            write!(f, ", {after} of them")?;
            if let Some(time) = self.time_after_best() {
                write!(f, " ({})", clock(time))?;
            }
            write!(f, " after the best")?;
        }
        write!(f, ".")
    }
}

/// Hours, minutes and whole seconds, as Python prints a `timedelta`: 0:00:28.
pub(super) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// The same, with as many digits of a second as there are: 0:00:28.25.
pub(super) fn exact_clock(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    let whole = format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if nanos == 0 { whole } else { format!("{whole}.{}", format!("{nanos:09}").trim_end_matches('0')) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_tells_the_tutorials_run() {
        let reason = StopReason { kind: StopKind::NoImprovement, rule: "patience(1000)".into(), why: "enough".into() };
        let best = Best { iteration: 4800, score: 0.988, elapsed: Some(Duration::from_millis(23_200)) };
        let elapsed = Some(Duration::from_millis(28_000));
        let report =
            StopReport { reason: Some(reason), best: Some(best), metric: Metric::default(), iterations: 5801, elapsed };
        let expected = "Stopped by patience(1000): enough.\n\
            Best: validation accuracy 98.80% at iteration 4800.\n\
            Used: 5801 iterations in 0:00:28, 1001 of them (0:00:05) after the best.";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn the_report_of_a_run_without_anything_says_so() {
        let report = StopReport { reason: None, best: None, metric: Metric::default(), iterations: 50, elapsed: None };
        assert_eq!(report.to_string(), "Not stopped by any rule.\nBest: none.\nUsed: 50 iterations.");
    }

    #[test]
    fn a_requested_stop_can_be_saved() {
        let reason = StopReason { kind: StopKind::Requested, rule: "signal".into(), why: "SIGINT".into() };
        let json = serde_json::to_string(&reason).unwrap();
        assert_eq!(json, r#"{"kind":"Requested","rule":"signal","why":"SIGINT"}"#);
        assert_eq!(serde_json::from_str::<StopReason>(&json).unwrap(), reason);
    }

    #[test]
    fn a_stop_that_is_not_by_the_rule_does_not_blame_it() {
        let report = |kind, rule: &str, why: &str| {
            let reason = StopReason { kind, rule: rule.into(), why: why.into() };
            let report = StopReport {
                reason: Some(reason),
                best: None,
                metric: Metric::default(),
                iterations: 50,
                elapsed: None,
            };
            report.to_string().lines().next().unwrap().to_owned()
        };
        let nan = "the validation loss is NaN at iteration 50";
        assert_eq!(
            report(StopKind::NotFinite, "patience(1000)", nan),
            "Stopped: the validation loss is NaN at iteration 50."
        );
        assert_eq!(report(StopKind::Requested, "signal", "SIGINT"), "Stopped by signal: SIGINT.");
        assert_eq!(report(StopKind::Target, "target(0.99)", "reached"), "Stopped by target(0.99): reached.");
    }

    #[test]
    fn the_clock_rounds_to_seconds() {
        assert_eq!(clock(Duration::from_millis(3_599_500)), "1:00:00");
        assert_eq!(clock(Duration::from_secs(90_061)), "25:01:01");
    }
}
