//! A learning rate that falls where a score no longer improves.

use serde::{Deserialize, Serialize};

use super::patience::MinDelta;
use super::{Metric, Observation};
use crate::error::{Error, Result};

/// Reduces the learning rate after more than a number of evaluations in a row without an improvement of a score.
///
/// The learning rate of a step is that of the [`Schedule`](crate::optimizer::Schedule), multiplied by all reductions so far. They are a
/// function of the evaluations, so a resumed run has the same ones, and [`rate_factor`](Self::rate_factor) computes them from any
/// history. See [`TrainerBuilder::reduce_on_plateau`](crate::trainer::TrainerBuilder::reduce_on_plateau).
///
/// By default it watches the score that the stopping rule monitors, every improvement counts, and there is no cooldown and no lowest
/// rate.
///
/// It decides as PyTorch's [`ReduceLROnPlateau`][torch] with `eps=0`; PyTorch's default threshold is a
/// [relative](Self::min_relative_delta) `1e-4`. Where the best score is negative, PyTorch's relative threshold is on its other side.
///
/// [torch]: https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ReduceLROnPlateau.html
///
/// ```
/// use earlystop::early_stopping::{Metric, Observation, Plateau};
///
/// let plateau = Plateau::new(2, 0.1).on(Metric::validation_loss()).min_factor(0.01);
/// let losses = [0.9, 0.7, 0.8, 0.7, 0.7, 0.6];
/// let history: Vec<_> =
///     (1..).zip(losses).map(|(i, loss)| Observation::of(100 * i, [("validation_loss", loss)])).collect();
/// assert_eq!(plateau.rate_factor(&history[..4])?, 1.0);
/// assert_eq!(plateau.rate_factor(&history[..5])?, 0.1); // the third evaluation in a row that is no improvement
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[must_use]
pub struct Plateau {
    evaluations: u64,
    factor: f64,
    /// The score, if it is not the one that the stopping rule monitors.
    metric: Option<Metric>,
    min_delta: MinDelta,
    cooldown: u64,
    min_factor: f64,
}

/// What the evaluations so far have led to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reductions {
    /// What the learning rate is multiplied by.
    pub(crate) factor: f64,
    best: Option<f64>,
    /// How many evaluations in a row were no improvement.
    waited: u64,
    /// How many evaluations will not be counted.
    cooldown: u64,
}

/// Before the first evaluation.
impl Default for Reductions {
    fn default() -> Self {
        Self { factor: 1.0, best: None, waited: 0, cooldown: 0 }
    }
}

impl Plateau {
    /// Multiplies the learning rate by `factor`, above 0.0 and below 1.0, after more than `evaluations` evaluations in a row without
    /// an improvement.
    pub fn new(evaluations: u64, factor: f64) -> Self {
        let min_delta = MinDelta::Absolute(0.0);
        Self { evaluations, factor, metric: None, min_delta, cooldown: 0, min_factor: 0.0 }
    }

    /// Watches this score.
    pub fn on(self, metric: Metric) -> Self {
        Self { metric: Some(metric), ..self }
    }

    /// Ignores improvements that are not larger than `min_delta`, at least 0.0.
    pub fn min_delta(self, min_delta: f64) -> Self {
        Self { min_delta: MinDelta::Absolute(min_delta), ..self }
    }

    /// Ignores improvements that are not larger than this fraction of the best value, at least 0.0 and below 1.0.
    pub fn min_relative_delta(self, part: f64) -> Self {
        Self { min_delta: MinDelta::Relative(part), ..self }
    }

    /// Does not count so many evaluations after each reduction. An improvement among them still is the new best.
    pub fn cooldown(self, evaluations: u64) -> Self {
        Self { cooldown: evaluations, ..self }
    }

    /// Sets the lowest product of all reductions, 0.0 to 1.0: the learning rate does not fall below that part of the schedule's.
    pub fn min_factor(self, min_factor: f64) -> Self {
        Self { min_factor, ..self }
    }

    /// Returns what the learning rate is multiplied by after these evaluations.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if an argument is out of range; [`Error::History`] if an evaluation lacks the score.
    pub fn rate_factor(&self, history: &[Observation]) -> Result<f64> {
        self.check()?;
        Ok(self.after(history)?.factor)
    }

    /// Names the score, where it has no name yet.
    pub(crate) fn or_on(self, metric: Metric) -> Self {
        Self { metric: self.metric.or(Some(metric)), ..self }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |what: &str, expected, found| Err(Error::setting(format!("plateau, {what}"), expected, found));
        let (what, delta, is_in_range) = match self.min_delta {
            MinDelta::Absolute(delta) => ("min_delta", delta, delta.is_finite()),
            MinDelta::Relative(part) => ("min_relative_delta", part, part < 1.0),
        };
        if !(self.factor > 0.0 && self.factor < 1.0) {
            return refuse("factor", "more than 0 and less than 1", self.factor);
        }
        if !(delta >= 0.0 && is_in_range) {
            return refuse(what, "at least 0, and below 1 if it is relative", delta);
        }
        if !(0.0..=1.0).contains(&self.min_factor) {
            return refuse("min_factor", "0 to 1", self.min_factor);
        }
        Ok(())
    }

    /// Takes in a history from its start.
    pub(crate) fn after(&self, history: &[Observation]) -> Result<Reductions> {
        history.iter().try_fold(Reductions::default(), |reductions, seen| self.next(reductions, seen))
    }

    /// Takes in an evaluation.
    pub(crate) fn next(&self, before: Reductions, seen: &Observation) -> Result<Reductions> {
        let metric = self.metric.clone().unwrap_or_default();
        let Some(score) = metric.of(seen) else {
            let known = seen.scores.keys().cloned().collect::<Vec<_>>().join(", ");
            let what = format!("score of the plateau at iteration {}", seen.iteration);
            return Err(Error::history(what, metric.name(), format!("only {known}")));
        };
        let mut after = before;
        if self.is_better(&metric, score, before.best) {
            (after.best, after.waited) = (Some(score), 0);
        } else {
            after.waited += 1;
        }
        if after.cooldown > 0 {
            (after.cooldown, after.waited) = (after.cooldown - 1, 0);
        }
        if after.waited > self.evaluations {
            after.factor = (after.factor * self.factor).max(self.min_factor);
            (after.cooldown, after.waited) = (self.cooldown, 0);
        }
        Ok(after)
    }

    fn is_better(&self, metric: &Metric, score: f64, best: Option<f64>) -> bool {
        let Some(best) = best else { return score.is_finite() };
        let [score, best] = [score, best].map(|value| metric.upwards(value));
        let least = match self.min_delta {
            MinDelta::Absolute(delta) => best + delta,
            MinDelta::Relative(part) => best * (1.0 + best.signum() * part),
        };
        score.is_finite() && score > least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Case {
        mode: String,
        factor: f64,
        patience: u64,
        threshold: f64,
        threshold_mode: String,
        cooldown: u64,
        min_lr: f64,
        scores: Vec<f64>,
        rates: Vec<f64>,
    }

    fn history(scores: &[f64]) -> Vec<Observation> {
        (1..).zip(scores).map(|(iteration, &score)| Observation::of(iteration, [("validation_score", score)])).collect()
    }

    fn lower() -> Metric {
        Metric::lower("validation_score")
    }

    /// The rates of `torch.optim.lr_scheduler.ReduceLROnPlateau` in PyTorch 2.13, bit for bit.
    #[test]
    fn reductions_are_pytorchs() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/pytorch/plateau.json")).unwrap();
        assert_eq!(cases.len(), 40);
        for case in cases {
            let metric = if case.mode == "min" { lower() } else { Metric::higher("validation_score") };
            let plateau =
                Plateau::new(case.patience, case.factor).on(metric).cooldown(case.cooldown).min_factor(case.min_lr);
            let plateau = match &*case.threshold_mode {
                "rel" => plateau.min_relative_delta(case.threshold),
                _ => plateau.min_delta(case.threshold),
            };
            let history = history(&case.scores);
            let factors = (1..=history.len()).map(|end| plateau.rate_factor(&history[..end]).unwrap());
            assert_eq!(factors.collect::<Vec<_>>(), case.rates, "{plateau:?}");
        }
    }

    #[test]
    fn of_negative_scores_the_better_ones_are_improvements() {
        let plateau = Plateau::new(0, 0.5).on(lower()).min_relative_delta(0.1);
        let factor = |scores: &[f64]| plateau.rate_factor(&history(scores)).unwrap();
        assert_eq!([factor(&[-1.0, -1.05]), factor(&[-1.0, -1.2]), factor(&[-1.0, -0.9])], [0.5, 1.0, 0.5]);
    }

    #[test]
    fn a_state_can_be_saved_between_evaluations() {
        let plateau = Plateau::new(1, 0.5).on(lower()).cooldown(2);
        let history = history(&[1.0, 0.5, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6, 0.3, 0.4]);
        let whole = plateau.after(&history).unwrap();
        assert_eq!(whole.factor, 0.25);
        let through_json = history.iter().fold(Reductions::default(), |reductions, seen| {
            let json = serde_json::to_string(&plateau.next(reductions, seen).unwrap()).unwrap();
            serde_json::from_str(&json).unwrap()
        });
        assert_eq!(through_json, whole);
    }

    #[test]
    fn arguments_and_histories_that_mean_nothing_are_refused() {
        let refused = [
            Plateau::new(5, 1.0),
            Plateau::new(5, 0.0),
            Plateau::new(5, f64::NAN),
            Plateau::new(5, 0.1).min_delta(-1.0),
            Plateau::new(5, 0.1).min_delta(f64::INFINITY),
            Plateau::new(5, 0.1).min_relative_delta(1.0),
            Plateau::new(5, 0.1).min_factor(2.0),
        ];
        for plateau in refused {
            let error = plateau.rate_factor(&[]).unwrap_err().to_string();
            assert!(error.starts_with("plateau, "), "{error}");
        }
        let error = Plateau::new(5, 0.1).rate_factor(&history(&[1.0])).unwrap_err().to_string();
        let expected = "score of the plateau at iteration 1: expected validation_accuracy, found only validation_score";
        assert_eq!(error, expected);
    }
}
