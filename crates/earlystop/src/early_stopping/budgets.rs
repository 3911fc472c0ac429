//! Rules without a notion of the best evaluation: budgets, a target, a collapse.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::evaluation::Evaluation;
use super::report::clock;
use super::{Metric, json_float, score};

/// Why a budget of iterations stops a run. It needs no evaluation and has no state.
pub(super) fn iterations_used_up(budget: u64) -> String {
    format!("the budget of {budget} iterations is used up")
}

/// The last evaluation came after the end of a budget of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Spent {
    pub(super) iteration: u64,
    elapsed: Duration,
}

impl Spent {
    pub(super) fn find(budget: Duration, evaluation: &Evaluation) -> Option<Self> {
        let elapsed = evaluation.observation.elapsed.filter(|&elapsed| elapsed >= budget)?;
        Some(Self { iteration: evaluation.observation.iteration, elapsed })
    }

    pub(super) fn why(&self, budget: Duration) -> String {
        format!("{} of {} are used up", clock(self.elapsed), clock(budget))
    }
}

/// The last evaluation reached the target.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Reached {
    pub(super) iteration: u64,
    #[serde(with = "json_float", alias = "accuracy")]
    score: f64,
}

impl Reached {
    pub(super) fn find(target: f64, evaluation: &Evaluation) -> Option<Self> {
        let Evaluation { metric, kept, .. } = evaluation;
        let score = kept.best.score;
        let is_reached = metric.upwards(score) >= metric.upwards(target);
        is_reached.then_some(Self { iteration: evaluation.observation.iteration, score })
    }

    pub(super) fn why(&self, target: f64, metric: &Metric) -> String {
        format!("the {metric} {} reaches {}", metric.format(self.score), metric.format(target))
    }
}

/// The score of the last evaluation is too much worse than the best.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Fall {
    pub(super) iteration: u64,
    #[serde(with = "json_float")]
    from: f64,
    #[serde(with = "json_float")]
    to: f64,
}

impl Fall {
    pub(super) fn find(drop: f64, evaluation: &Evaluation) -> Option<Self> {
        let (from, to) = (evaluation.highest.best.score, evaluation.kept.best.score);
        let upwards = |score| evaluation.metric.upwards(score);
        (upwards(to) < upwards(from) - drop).then_some(Self { iteration: evaluation.observation.iteration, from, to })
    }

    pub(super) fn why(&self, drop: f64, metric: &Metric) -> String {
        let Self { from, to, .. } = *self;
        if metric.is_accuracy() {
            let [from, to, drop] = [from, to, drop].map(|part| 100.0 * part);
            return format!("the {metric} fell from {from:.1}% to {to:.1}%, by more than {drop:.1} points");
        }
        let moved = if metric.lower_is_better() { "rose" } else { "fell" };
        let [from, to, drop] = [from, to, drop].map(score::digits);
        format!("the {metric} {moved} from {from} to {to}, by more than {drop}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::early_stopping::judge::Judge;
    use crate::early_stopping::{Observation, Rule};

    fn why(judge: &Judge) -> Option<String> {
        judge.reason().map(|reason| reason.why)
    }

    #[test]
    fn the_iterations_budget_ends_with_its_last_iteration() {
        let judge = Judge::after(Rule::iterations(500), &[]);
        assert_eq!(judge.stop_at(), Some(500));
        assert_eq!(why(&judge).as_deref(), Some("the budget of 500 iterations is used up"));
    }

    #[test]
    fn of_equal_accuracies_the_first_is_kept() {
        let history = [(100, 0.8), (200, 0.9), (300, 0.9)].map(|(at, accuracy)| Observation::new(at, accuracy));
        assert_eq!(Judge::after(Rule::iterations(500), &history).kept().map(|kept| kept.index), Some(1));
    }

    #[test]
    fn the_time_budget_counts_the_time_before_a_resume() {
        let at = |seconds| Observation { elapsed: Some(Duration::from_secs(seconds)), ..Observation::new(100, 0.9) };
        let rule = Rule::time(Duration::from_secs(60));
        assert_eq!(why(&Judge::after(rule.clone(), &[at(59)])), None);
        assert_eq!(why(&Judge::after(rule, &[at(60)])).as_deref(), Some("0:01:00 of 0:01:00 are used up"));
    }

    #[test]
    fn a_target_is_reached_when_it_is_equalled() {
        let history = [Observation::new(100, 0.98), Observation::new(200, 0.99)];
        assert_eq!(Judge::after(Rule::target(0.99), &history[..1]).stop_at(), None);
        assert_eq!(Judge::after(Rule::target(0.99), &history).stop_at(), Some(200));
    }

    #[test]
    fn a_collapse_stops_and_keeps_what_was_before_it() {
        let history = [Observation::new(100, 0.9), Observation::new(200, 0.7), Observation::new(300, 0.1)];
        assert_eq!(Judge::after(Rule::divergence(0.3), &history[..2]).stop_at(), None);
        let judge = Judge::after(Rule::divergence(0.3), &history);
        assert_eq!(judge.kept().map(|kept| kept.index), Some(0));
        let expected = "the validation accuracy fell from 90.0% to 10.0%, by more than 30.0 points";
        assert_eq!(why(&judge).as_deref(), Some(expected));
    }
}
