//! When to stop training, and which evaluation was the best: plain numbers in, verdict out.
//!
//! - [`EarlyStopping`] watches a run. [`EarlyStopping::new`] is the tutorial's rule; [`EarlyStopping::with`] takes any
//!   other.
//! - [`Rule`] says when to stop and what counts as better: patience and its refinements, a test against luck,
//!   Prechelt's criteria, budgets, and combinations.
//! - [`Observation`] is what an evaluation found. All the state there is are the observations made so far, so a run's
//!   history is enough to resume a watch, with the same rule or another, or to [`replay`] it through any number of
//!   rules.
//! - [`StopReport`] tells afterwards why a run ended and what it cost.
//!
//! A NaN or an infinity, in a loss, an accuracy or the weights, ends every run at once: it is never the best and never
//! renews a patience.

mod budgets;
mod noise;
mod number;
mod observation;
mod patience;
mod prechelt;
mod replay;
mod report;
mod rule;

use std::fmt::Display;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use noise::mcnemar;
pub use observation::{Mistakes, Observation};
pub use patience::Patience;
pub use replay::{Comparison, Outcome, replay};
pub use report::{StopKind, StopReason, StopReport};
pub use rule::Rule;

/// Watches a run: takes in evaluations, knows the best one, and says when to stop.
///
/// The tutorial's loop evaluates every 100 iterations, but asks after *every* iteration whether to stop. So its run
/// that improved last at 4,800 printed its last line at 5,800, where the difference is 1,000 and not yet more than the
/// patience, and stopped at 5,801. Ask [`should_stop`](Self::should_stop) after every iteration for the same.
///
/// Saved and loaded (by `serde`) it goes on as if nothing had happened.
///
/// ```
/// use earlystop::early_stopping::EarlyStopping;
///
/// let mut stopping = EarlyStopping::new(1000);
/// assert!(stopping.observe(4800, 0.988).improved);
/// for iteration in (4900..=5800).step_by(100) {
///     assert!(!stopping.observe(iteration, 0.988).improved); // equal is not better
/// }
/// assert!(!stopping.should_stop(5800));
/// assert!(stopping.should_stop(5801));
/// assert_eq!(stopping.best().map(|best| best.iteration), Some(4800));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Saved")]
pub struct EarlyStopping {
    rule: Rule,
    history: Vec<Observation>,
    #[serde(skip)]
    judgement: Judgement,
}

#[derive(Deserialize)]
struct Saved {
    rule: Rule,
    history: Vec<Observation>,
}

/// The evaluation to go back to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The iteration after which it was made.
    pub iteration: u64,
    /// Its validation accuracy, 0.0 to 1.0.
    pub accuracy: f64,
    /// The time of the run until then, if it was told.
    pub elapsed: Option<Duration>,
}

/// What one evaluation means.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Whether this evaluation is the best so far, as the rule sees it: the moment to save.
    pub improved: bool,
    /// Why to stop, if it is time.
    pub stop: Option<StopReason>,
}

impl EarlyStopping {
    /// Starts to watch by the tutorial's rule: stop when the validation accuracy has not improved for more than
    /// `patience` iterations.
    ///
    /// An improvement is an accuracy strictly greater than the best so far; the first one always is, NaN never.
    pub fn new(patience: u64) -> Self {
        Self::with(Patience::new(patience))
    }

    /// Starts to watch by any rule.
    pub fn with(rule: impl Into<Rule>) -> Self {
        Self::resume(rule, Vec::new())
    }

    /// Goes on to watch a run with this history, by the same rule as before or by another.
    pub fn resume(rule: impl Into<Rule>, history: Vec<Observation>) -> Self {
        let rule = rule.into();
        let judgement = Judgement::of(&rule, &history);
        Self { rule, history, judgement }
    }

    /// Takes in the validation accuracy (0.0 to 1.0) found after an iteration.
    pub fn observe(&mut self, iteration: u64, validation_accuracy: f64) -> Verdict {
        self.record(Observation::new(iteration, validation_accuracy))
    }

    /// Takes in all that an evaluation found. Iterations are expected to grow from one to the next.
    pub fn record(&mut self, observation: Observation) -> Verdict {
        let iteration = observation.iteration;
        self.history.push(observation);
        self.judgement = Judgement::of(&self.rule, &self.history);
        let improved = self.judgement.best == Some(self.history.len() - 1);
        Verdict { improved, stop: self.stop_reason(iteration) }
    }

    /// Says whether to stop after this iteration; cheap enough to ask after every one.
    pub fn should_stop(&self, iteration: u64) -> bool {
        self.judgement.stop.as_ref().is_some_and(|stop| iteration >= stop.at)
    }

    /// Says why to stop after this iteration, or nothing while training should go on.
    pub fn stop_reason(&self, iteration: u64) -> Option<StopReason> {
        self.judgement.stop.as_ref().filter(|_| self.should_stop(iteration)).map(|stop| stop.reason.clone())
    }

    /// The best evaluation so far, as the rule sees it, or nothing before the first.
    pub fn best(&self) -> Option<Best> {
        let best = &self.history[self.judgement.best?];
        Some(Best { iteration: best.iteration, accuracy: best.validation_accuracy, elapsed: best.elapsed })
    }

    /// The rule.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// All that was taken in so far, in order.
    pub fn history(&self) -> &[Observation] {
        &self.history
    }

    /// Reports on a run that ended after this iteration and, if it was measured, this time.
    ///
    /// ```
    /// # use earlystop::early_stopping::EarlyStopping;
    /// let mut stopping = EarlyStopping::new(1000);
    /// stopping.observe(4800, 0.988);
    /// let report = "\
    /// Stopped by patience(1000): no improvement for more than 1000 iterations since iteration 4800.
    /// Best: validation accuracy 98.80% at iteration 4800.
    /// Used: 5801 iterations, 1001 of them after the best.";
    /// assert_eq!(stopping.report(5801, None).to_string(), report);
    /// ```
    pub fn report(&self, iterations: u64, elapsed: impl Into<Option<Duration>>) -> StopReport {
        StopReport { reason: self.stop_reason(iterations), best: self.best(), iterations, elapsed: elapsed.into() }
    }
}

impl From<Saved> for EarlyStopping {
    fn from(saved: Saved) -> Self {
        Self::resume(saved.rule, saved.history)
    }
}

/// What a rule makes of a history.
#[derive(Debug, Clone, Default, PartialEq)]
struct Judgement {
    /// The index of the best evaluation.
    best: Option<usize>,
    stop: Option<Stop>,
}

/// The first iteration after which to stop, should no evaluation come before it, and why.
///
/// A patience knows it beforehand. So a run can be asked after every iteration, and a replay need not step through
/// them.
#[derive(Debug, Clone, PartialEq)]
struct Stop {
    at: u64,
    reason: StopReason,
}

impl Judgement {
    /// Judges by a rule what comes before the first evaluation that no rule can judge.
    fn of(rule: &Rule, history: &[Observation]) -> Self {
        let trouble = |(index, it): (usize, &Observation)| {
            if let Some(what) = it.not_finite() {
                return Some((index, StopKind::NotFinite, format!("{what} at iteration {}", it.iteration)));
            }
            let what = rule.lacks(it, &history[0])?;
            Some((index, StopKind::CannotJudge, format!("cannot judge iteration {} without {what}", it.iteration)))
        };
        match history.iter().enumerate().find_map(trouble) {
            None => rule.judge(history),
            Some((index, kind, why)) => {
                Self::keeping(rule.judge(&history[..index]).best).stopping_at(history[index].iteration, kind, rule, why)
            }
        }
    }

    fn keeping(best: Option<usize>) -> Self {
        Self { best, stop: None }
    }

    fn stopping_at(self, iteration: u64, kind: StopKind, rule: &impl Display, why: String) -> Self {
        Self { stop: Some(Stop { at: iteration, reason: StopReason { kind, rule: rule.to_string(), why } }), ..self }
    }

    fn stopping_after(self, iteration: u64, kind: StopKind, rule: &impl Display, why: String) -> Self {
        self.stopping_at(iteration.saturating_add(1), kind, rule, why)
    }
}

/// The index of the first evaluation with the highest validation accuracy.
fn highest_accuracy(history: &[Observation]) -> Option<usize> {
    // From the end, as `max_by` takes the last of equals.
    let from_the_end = history.iter().enumerate().rev();
    from_the_end
        .max_by(|(_, a), (_, b)| a.validation_accuracy.total_cmp(&b.validation_accuracy))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests;
