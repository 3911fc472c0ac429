//! A rule together with its state: takes in one evaluation after the other, each in constant time and memory.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::evaluation::{Evaluation, Kept};
use super::state::RuleState;
use super::{Metric, Observation, Rule, StopKind, StopReason};
use crate::error::{Error, Result};

/// Judges a run by a rule, without keeping its history.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Judge {
    rule: Rule,
    /// The score that the rule monitors.
    metric: Metric,
    state: State,
}

/// All that is needed to continue after an evaluation as if there had been no break.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// The number of evaluations so far.
    evaluations: usize,
    last: Option<Last>,
    highest: Option<Kept>,
    rule: RuleState,
    trouble: Option<Trouble>,
}

/// What the next evaluation must not contradict.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Last {
    iteration: u64,
    /// The last elapsed time that was recorded.
    elapsed: Option<Duration>,
    /// The last number of epochs that was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epochs: Option<u64>,
    /// The number of images of the last mistakes that were recorded.
    images: Option<usize>,
}

/// An evaluation that no rule can judge. It stops the run, and nothing after it counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Trouble {
    iteration: u64,
    kind: StopKind,
    why: String,
}

impl State {
    pub(super) fn evaluations(&self) -> usize {
        self.evaluations
    }

    /// Says whether this can be the state of such a rule.
    pub(super) fn fits(&self, rule: &Rule) -> bool {
        self.rule.fits(rule)
    }
}

impl Judge {
    /// Starts before the first evaluation.
    ///
    /// # Errors
    ///
    /// If the rule is not [valid](Rule::check).
    pub(super) fn new(rule: Rule) -> Result<Self> {
        rule.check()?;
        Ok(Self::unchecked(rule))
    }

    /// Starts with a rule that is known to be valid.
    pub(super) fn unchecked(rule: Rule) -> Self {
        let state = State { evaluations: 0, last: None, highest: None, rule: RuleState::new(&rule), trouble: None };
        Self { metric: rule.monitored(), rule, state }
    }

    /// Continues from a state that [fits](State::fits) the rule.
    ///
    /// # Errors
    ///
    /// If the rule is not [valid](Rule::check).
    pub(super) fn resume(rule: Rule, state: State) -> Result<Self> {
        rule.check()?;
        Ok(Self { metric: rule.monitored(), rule, state })
    }

    /// Takes in the next evaluation, and says whether it is the best so far.
    ///
    /// # Errors
    ///
    /// If a value is out of range or contradicts the evaluations before it. Then nothing is taken in.
    pub(super) fn take_in(&mut self, observation: &Observation) -> Result<bool> {
        observation.check()?;
        let last = Last::after(self.state.last, observation)?;
        let index = self.state.evaluations;
        self.state.evaluations += 1;
        self.state.last = Some(last);
        if self.state.trouble.is_none() {
            self.state.trouble = Trouble::find(&self.rule, &self.metric, observation);
        }
        if self.state.trouble.is_some() {
            return Ok(false);
        }
        let score = self.metric.of(observation);
        let kept = Kept::new(index, observation, score.unwrap_or(f64::NAN));
        let upwards = |kept: Kept| self.metric.upwards(kept.best.score);
        let is_higher = |highest: Kept| upwards(kept).total_cmp(&upwards(highest)).is_gt();
        let highest = match score {
            Some(_) => self.state.highest.filter(|&highest| !is_higher(highest)).or(Some(kept)),
            None => self.state.highest,
        };
        // A step that fails leaves half of a state.
        let mut rule = self.state.rule.clone();
        let evaluation = Evaluation { observation, metric: &self.metric, kept, highest: highest.unwrap_or(kept) };
        if let Err(error) = rule.step(&self.rule, &evaluation) {
            let iteration = observation.iteration;
            let why = format!("cannot judge iteration {iteration}: {error}");
            self.state.trouble = Some(Trouble { iteration, kind: StopKind::CannotJudge, why });
            return Ok(false);
        }
        self.state.rule = rule;
        self.state.highest = highest;
        Ok(self.kept().is_some_and(|best| best.index == index))
    }

    /// Returns the best evaluation as the rule sees it, or the one with the best score if it has no opinion.
    pub(super) fn kept(&self) -> Option<Kept> {
        self.state.rule.kept().or(self.state.highest)
    }

    /// Returns the first iteration after which to stop, if no evaluation comes before it.
    pub(super) fn stop_at(&self) -> Option<u64> {
        match &self.state.trouble {
            Some(trouble) => Some(trouble.iteration),
            None => self.state.rule.stop_at(&self.rule),
        }
    }

    /// Says why to stop after that iteration.
    pub(super) fn reason(&self) -> Option<StopReason> {
        match &self.state.trouble {
            Some(Trouble { kind, why, .. }) => {
                Some(StopReason { kind: *kind, rule: self.rule.to_string(), why: why.clone() })
            }
            None => self.state.rule.reason(&self.rule, &self.metric),
        }
    }

    /// Returns the iteration of the last evaluation, and the epochs recorded last.
    pub(super) fn last_epochs(&self) -> Option<(u64, u64)> {
        let last = self.state.last?;
        Some((last.iteration, last.epochs?))
    }

    pub(super) fn rule(&self) -> &Rule {
        &self.rule
    }

    pub(super) fn metric(&self) -> &Metric {
        &self.metric
    }

    pub(super) fn into_parts(self) -> (Rule, State) {
        (self.rule, self.state)
    }

    #[cfg(test)]
    pub(super) fn after(rule: impl Into<Rule>, history: &[Observation]) -> Self {
        let mut judge = Self::new(rule.into()).unwrap();
        for observation in history {
            judge.take_in(observation).unwrap();
        }
        judge
    }
}

impl Last {
    /// Refuses an observation that cannot follow the last one.
    fn after(last: Option<Self>, observation: &Observation) -> Result<Self> {
        let images = observation.mistakes.as_ref().map(|mistakes| mistakes.images());
        let &Observation { iteration, elapsed, epochs, .. } = observation;
        let Some(last) = last else { return Ok(Self { iteration, elapsed, epochs, images }) };
        if iteration <= last.iteration {
            let expected = format!("more than {}, the iteration of the evaluation before it", last.iteration);
            return Err(Error::history("iteration of an evaluation", expected, iteration));
        }
        if let (Some(before), Some(now)) = (last.elapsed, elapsed)
            && now < before
        {
            let what = format!("elapsed time at iteration {iteration}");
            return Err(Error::history(what, format!("at least {before:?}, as before"), format!("{now:?}")));
        }
        if let (Some(before), Some(now)) = (last.epochs, epochs)
            && now < before
        {
            let what = format!("epochs at iteration {iteration}");
            return Err(Error::history(what, format!("at least {before}, as before"), now));
        }
        if let (Some(before), Some(now)) = (last.images, images)
            && now != before
        {
            let what = format!("mistakes at iteration {iteration}");
            return Err(Error::history(what, format!("{before} images, as before"), format!("{now} images")));
        }
        let (elapsed, epochs, images) = (elapsed.or(last.elapsed), epochs.or(last.epochs), images.or(last.images));
        Ok(Self { iteration, elapsed, epochs, images })
    }
}

impl Trouble {
    fn find(rule: &Rule, metric: &Metric, observation: &Observation) -> Option<Self> {
        let iteration = observation.iteration;
        if let Some(what) = observation.not_finite() {
            return Some(Self {
                iteration,
                kind: StopKind::NotFinite,
                why: format!("{what} at iteration {iteration}"),
            });
        }
        let what = rule.lacks(metric, observation)?;
        let why = format!("cannot judge iteration {iteration} without {what}");
        Some(Self { iteration, kind: StopKind::CannotJudge, why })
    }
}
