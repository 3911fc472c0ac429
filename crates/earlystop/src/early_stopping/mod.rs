//! Early stopping: when to stop training, and which evaluation was the best.
//!
//! - [`EarlyStopping`] watches a run. [`EarlyStopping::new`] uses the tutorial's rule, [`EarlyStopping::with`] any other.
//! - [`Rule`] decides when to stop and what counts as better: patience and its refinements, a significance test,
//!   Prechelt's criteria, budgets, and combinations of rules.
//! - [`OwnRule`] is for rules of your own, which are combined, replayed and resumed as the built-in ones are.
//! - [`Metric`] names the score that a rule watches: the validation accuracy unless it says otherwise.
//! - [`Observation`] is the result of an evaluation. The observations of a run are its history. A history is enough to
//!   [resume](EarlyStopping::resume) a run with the same or another rule, or to [`replay`] it with any number of rules.
//! - [`Plateau`] reduces the learning rate where a score no longer improves.
//! - [`StopReport`] says why a run ended and what it cost.
//!
//! Each evaluation takes constant time and memory, whatever the length of the run; the noise-aware rule takes time and
//! memory linear in the size of the validation set.
//!
//! A value out of its range is an error. NaN or infinity in a loss, an accuracy or the weights is not: it stops every
//! run at once, and is never the best evaluation.

mod best;
mod budgets;
mod check;
mod evaluation;
mod json_float;
mod judge;
mod metric;
mod mistakes;
mod noise;
mod observation;
mod own;
mod parse;
mod patience;
mod plateau;
mod prechelt;
#[cfg(test)]
mod reference;
mod replay;
mod report;
mod rule;
pub(crate) mod score;
mod state;
mod words;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use judge::{Judge, State};

pub use best::Best;
pub use metric::Metric;
pub use mistakes::Mistakes;
pub use noise::mcnemar;
pub use observation::Observation;
pub use own::{Decision, OwnRule};
pub use patience::Patience;
pub use plateau::Plateau;
pub(crate) use plateau::Reductions;
pub use replay::{Comparison, Outcome, replay};
pub use report::{StopKind, StopReason, StopReport};
pub use rule::Rule;

/// Watches a run: records evaluations, knows the best one, and says when to stop.
///
/// The tutorial evaluates every 100 iterations but checks after *every* iteration whether to stop. Its run improved last
/// at iteration 4,800, printed its last line at 5,800, where the difference is 1,000 and not yet more than the patience,
/// and stopped at 5,801. Call [`should_stop`](Self::should_stop) after every iteration for the same behaviour.
///
/// Serialize and deserialize it to continue after a break exactly as without one. Of a [rule of your own](OwnRule) only the name is
/// saved: continue with [`EarlyStopping::resume`].
///
/// ```
/// use earlystop::early_stopping::EarlyStopping;
///
/// let mut stopping = EarlyStopping::new(1000);
/// assert!(stopping.observe(4800, 0.988)?.improved);
/// for iteration in (4900..=5800).step_by(100) {
///     assert!(!stopping.observe(iteration, 0.988)?.improved); // equal is not better
/// }
/// assert!(!stopping.should_stop(5800));
/// assert!(stopping.should_stop(5801));
/// assert_eq!(stopping.best().map(|best| best.iteration), Some(4800));
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "SavedStopping", into = "SavedStopping")]
pub struct EarlyStopping {
    judge: Judge,
    history: Vec<Observation>,
}

/// The serialized form of [`EarlyStopping`], not yet checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedStopping {
    rule: Rule,
    /// Nothing where the history is stored elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    history: Option<Vec<Observation>>,
    /// Versions up to 0.1 have no state; the history replaces it.
    #[serde(default)]
    state: Option<State>,
}

/// The result of recording an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Whether this evaluation is the best so far, as the rule sees it: the moment to save.
    pub improved: bool,
    /// Why to stop, if it is time.
    pub stop: Option<StopReason>,
}

impl EarlyStopping {
    /// Watches a run with the tutorial's rule: stop when the validation accuracy has not improved for more than
    /// `patience` iterations.
    ///
    /// An improvement is an accuracy strictly greater than the best so far. The first accuracy always is one, NaN never.
    pub fn new(patience: u64) -> Self {
        let rule = Patience::new(patience).into();
        Self { judge: Judge::unchecked(rule), history: Vec::new() } // every number of iterations is valid
    }

    /// Watches a run with any rule.
    ///
    /// # Errors
    ///
    /// If an argument of the rule is [out of range](Rule::check).
    pub fn with(rule: impl Into<Rule>) -> Result<Self> {
        Ok(Self { judge: Judge::new(rule.into())?, history: Vec::new() })
    }

    /// Continues to watch a run with this history, with the same rule as before or another.
    ///
    /// # Errors
    ///
    /// If an argument of the rule is [out of range](Rule::check), or if [`record`](Self::record) refuses an observation.
    pub fn resume(rule: impl Into<Rule>, history: Vec<Observation>) -> Result<Self> {
        let mut judge = Judge::new(rule.into())?;
        history.iter().try_for_each(|observation| judge.take_in(observation).map(drop))?;
        Ok(Self { judge, history })
    }

    /// Records the validation accuracy (0.0 to 1.0) after an iteration.
    ///
    /// # Errors
    ///
    /// As for [`record`](Self::record).
    pub fn observe(&mut self, iteration: u64, validation_accuracy: f64) -> Result<Verdict> {
        self.record(Observation::new(iteration, validation_accuracy))
    }

    /// Records an evaluation.
    ///
    /// ```
    /// # use earlystop::early_stopping::EarlyStopping;
    /// let mut stopping = EarlyStopping::new(1000);
    /// let error = stopping.observe(100, 98.8).unwrap_err().to_string();
    /// let expected = "expected at least 0 and at most 1 (1 is 100%), found 98.8";
    /// assert_eq!(error, format!("validation accuracy at iteration 100: {expected}"));
    /// assert!(stopping.history().is_empty());
    /// ```
    ///
    /// # Errors
    ///
    /// If an accuracy is [out of range](Observation::check), the iteration is not greater than that of the evaluation
    /// before it, the elapsed time or the epochs are less than before, or the mistakes are on another number of images than before. The
    /// observation is then not recorded. NaN and infinity are not errors: they stop the run.
    pub fn record(&mut self, observation: Observation) -> Result<Verdict> {
        let improved = self.judge.take_in(&observation)?;
        let stop = self.stop_reason(observation.iteration);
        self.history.push(observation);
        Ok(Verdict { improved, stop })
    }

    /// Says whether to stop after this iteration. Cheap enough to call after every iteration.
    pub fn should_stop(&self, iteration: u64) -> bool {
        self.judge.stop_at().is_some_and(|at| iteration >= at)
    }

    /// Returns the reason to stop after this iteration, or nothing while training should go on.
    pub fn stop_reason(&self, iteration: u64) -> Option<StopReason> {
        if self.should_stop(iteration) { self.judge.reason() } else { None }
    }

    /// Returns the iteration after which the rule stops the run unless a later evaluation changes that, or nothing if it cannot
    /// know it yet.
    ///
    /// ```
    /// use earlystop::early_stopping::EarlyStopping;
    ///
    /// let mut stopping = EarlyStopping::new(1000);
    /// assert_eq!(stopping.stop_at(), None);
    /// stopping.observe(4800, 0.988)?;
    /// assert_eq!(stopping.stop_at(), Some(5801));
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn stop_at(&self) -> Option<u64> {
        self.judge.stop_at()
    }

    /// Returns the score that the rule monitors.
    pub(crate) fn metric(&self) -> &Metric {
        self.judge.metric()
    }

    /// Returns the best evaluation so far, as the rule sees it, or nothing before the first one.
    pub fn best(&self) -> Option<Best> {
        self.judge.kept().map(|kept| kept.best)
    }

    /// Returns the rule.
    pub fn rule(&self) -> &Rule {
        self.judge.rule()
    }

    /// Returns all recorded evaluations, in order.
    pub fn history(&self) -> &[Observation] {
        &self.history
    }

    /// Returns the iteration of the last evaluation, and the number of epochs that was recorded last.
    pub(crate) fn last_epochs(&self) -> Option<(u64, u64)> {
        self.judge.last_epochs()
    }

    /// Reports on a run that ended after this iteration and, if it was measured, this time.
    ///
    /// ```
    /// # use earlystop::early_stopping::EarlyStopping;
    /// let mut stopping = EarlyStopping::new(1000);
    /// stopping.observe(4800, 0.988)?;
    /// let report = "\
    /// Stopped by patience(1000): no improvement for more than 1000 iterations since iteration 4800.
    /// Best: validation accuracy 98.80% at iteration 4800.
    /// Used: 5801 iterations, 1001 of them after the best.";
    /// assert_eq!(stopping.report(5801, None).to_string(), report);
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn report(&self, iterations: u64, elapsed: impl Into<Option<Duration>>) -> StopReport {
        StopReport {
            reason: self.stop_reason(iterations),
            best: self.best(),
            metric: self.judge.metric().clone(),
            iterations,
            elapsed: elapsed.into(),
        }
    }
}

impl SavedStopping {
    /// Returns the state without the history.
    pub(crate) fn without_history(stopping: &EarlyStopping) -> Self {
        let (rule, state) = stopping.judge.clone().into_parts();
        Self { rule, history: None, state: Some(state) }
    }

    /// Returns the history, if it is stored here, and leaves none.
    pub(crate) fn take_history(&mut self) -> Option<Vec<Observation>> {
        self.history.take()
    }

    /// Returns the number of evaluations; nothing in files of versions up to 0.1.
    pub(crate) fn evaluations(&self) -> Option<usize> {
        self.state.as_ref().map(State::evaluations)
    }

    /// Continues with a rule: from the state if it is that of the rule, else from the history.
    ///
    /// # Errors
    ///
    /// As [`EarlyStopping::resume`]; and if the rule needs evaluations that `missing` says are not there.
    pub(crate) fn resume(self, rule: Rule, history: Vec<Observation>, missing: Option<&str>) -> Result<EarlyStopping> {
        let Self { rule: saved, state, .. } = self;
        let is_valid = |state: &State| {
            saved == rule && state.fits(&rule) && (missing.is_some() || state.evaluations() == history.len())
        };
        match (state.filter(is_valid), missing) {
            (Some(state), _) => Ok(EarlyStopping { judge: Judge::resume(rule, state)?, history }),
            (None, None) => EarlyStopping::resume(rule, history),
            (None, Some(missing)) => {
                let expected = format!("{saved}, since another rule must judge the whole history, and {missing}");
                Err(crate::Error::setting("stopping rule", expected, rule))
            }
        }
    }
}

impl TryFrom<SavedStopping> for EarlyStopping {
    type Error = crate::Error;

    fn try_from(mut saved: SavedStopping) -> Result<Self> {
        let rule = saved.rule.clone();
        let history = saved.take_history();
        let history = history.ok_or_else(|| crate::Error::history("history", "a list of observations", "none"))?;
        saved.resume(rule, history, None)
    }
}

impl From<EarlyStopping> for SavedStopping {
    fn from(stopping: EarlyStopping) -> Self {
        let (rule, state) = stopping.judge.into_parts();
        Self { rule, history: Some(stopping.history), state: Some(state) }
    }
}

#[cfg(test)]
mod tests;
