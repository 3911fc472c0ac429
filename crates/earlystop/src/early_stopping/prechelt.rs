//! Prechelt's three classes of stopping criteria, from ["Early Stopping - But When?"][paper] (1998).
//!
//! `E_va(t)` is the validation loss at evaluation `t`, `E_tr(t)` the training loss, and `E_opt(t)` the lowest `E_va` up
//! to `t`. Prechelt counts epochs; this module counts evaluations. A strip is `k` consecutive evaluations that end at a
//! multiple of `k`. All three rules keep the evaluation with the lowest validation loss.
//!
//! [paper]: https://doi.org/10.1007/3-540-49430-8_3

use serde::{Deserialize, Serialize};

use super::evaluation::{Evaluation, Kept};
use super::json_float;
use super::score::{TRAIN_LOSS, VALIDATION_LOSS};

/// The evaluation with the lowest validation loss so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Lowest(Option<Loss>);

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Loss {
    #[serde(with = "json_float")]
    loss: f64,
    kept: Kept,
}

impl Lowest {
    /// Takes in an evaluation and returns `GL` at it: how far its validation loss is above the lowest, in percent.
    fn step(&mut self, evaluation: &Evaluation) -> f64 {
        let loss = evaluation.observation.score(VALIDATION_LOSS).unwrap_or(f64::INFINITY);
        let lowest = match self.0 {
            Some(lowest) if !loss.total_cmp(&lowest.loss).is_lt() => lowest,
            _ => Loss { loss, kept: evaluation.kept },
        };
        self.0 = Some(lowest);
        100.0 * (loss / lowest.loss - 1.0)
    }

    pub(super) fn kept(&self) -> Option<Kept> {
        Some(self.0?.kept)
    }
}

/// A value above the rule's `alpha`, and the iteration at which it was found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Exceeded {
    pub(super) iteration: u64,
    #[serde(with = "json_float")]
    value: f64,
}

impl Exceeded {
    fn find(value: f64, alpha: f64, evaluation: &Evaluation) -> Option<Self> {
        (value > alpha).then_some(Self { iteration: evaluation.observation.iteration, value })
    }
}

/// The state of `GL_α`, which stops once `GL(t) = 100 * (E_va(t) / E_opt(t) - 1) > α`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Overshoot {
    pub(super) lowest: Lowest,
    /// Set if the last evaluation calls for a stop.
    pub(super) stop: Option<Exceeded>,
}

impl Overshoot {
    pub(super) fn step(&mut self, alpha: f64, evaluation: &Evaluation) {
        self.stop = Exceeded::find(self.lowest.step(evaluation), alpha, evaluation);
    }

    pub(super) fn why(&self, alpha: f64) -> Option<String> {
        let loss = self.stop?.value;
        Some(format!("the validation loss is {loss:.1}% above its lowest, more than {alpha}%"))
    }
}

/// The state of `PQ_α`, which stops at the end of a strip once `GL(t) / P_k(t) > α`. The training progress `P_k(t)` is
/// by how many per mille the mean training loss of the strip is above the lowest of the strip.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Quotient {
    pub(super) lowest: Lowest,
    strip: TrainLosses,
    /// Set if the end of the last complete strip calls for a stop.
    pub(super) stop: Option<Exceeded>,
}

/// The training losses of the strip that is not yet complete.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct TrainLosses {
    count: usize,
    #[serde(with = "json_float")]
    sum: f64,
    #[serde(with = "json_float::optional")]
    lowest: Option<f64>,
}

impl TrainLosses {
    fn add(&mut self, loss: f64) {
        self.count += 1;
        self.sum += loss;
        self.lowest = Some(self.lowest.map_or(loss, |lowest| lowest.min(loss)));
    }

    fn progress(&self) -> f64 {
        let mean = self.sum / self.count as f64;
        // Rounding can take the mean of equal losses below them.
        1000.0 * (mean / self.lowest.unwrap_or(f64::INFINITY) - 1.0).max(0.0)
    }
}

impl Quotient {
    pub(super) fn step(&mut self, alpha: f64, strip: usize, evaluation: &Evaluation) {
        let above_lowest = self.lowest.step(evaluation);
        self.strip.add(evaluation.observation.score(TRAIN_LOSS).unwrap_or(f64::INFINITY));
        if self.strip.count >= strip {
            let quotient = above_lowest / std::mem::take(&mut self.strip).progress();
            self.stop = Exceeded::find(quotient, alpha, evaluation);
        }
    }

    pub(super) fn why(&self, alpha: f64) -> Option<String> {
        let quotient = self.stop?.value;
        Some(format!("generalization loss over training progress is {quotient:.2}, more than {alpha}"))
    }
}

/// The state of `UP_s`, which stops once the validation loss has risen, from strip's end to strip's end, `s` times in
/// succession.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Rises {
    pub(super) lowest: Lowest,
    /// Evaluations in the strip that is not yet complete.
    evaluations: usize,
    last_end: Option<StripEnd>,
    /// The number of rises in succession up to the end of the last complete strip.
    rises: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct StripEnd {
    iteration: u64,
    #[serde(with = "json_float")]
    loss: f64,
}

impl Rises {
    pub(super) fn step(&mut self, strip: usize, evaluation: &Evaluation) {
        self.lowest.step(evaluation);
        self.evaluations += 1;
        if self.evaluations >= strip {
            self.evaluations = 0;
            let loss = evaluation.observation.score(VALIDATION_LOSS).unwrap_or(f64::INFINITY);
            let rose = self.last_end.is_some_and(|last| loss > last.loss);
            self.rises = if rose { self.rises + 1 } else { 0 };
            self.last_end = Some(StripEnd { iteration: evaluation.observation.iteration, loss });
        }
    }

    pub(super) fn stop_at(&self, strips: usize) -> Option<u64> {
        self.last_end.filter(|_| self.rises >= strips.max(1)).map(|end| end.iteration)
    }

    pub(super) fn why(&self, strip: usize) -> String {
        format!("the validation loss rose in {} successive strips of {strip} evaluations", self.rises)
    }
}

#[cfg(test)]
mod tests {
    use crate::early_stopping::judge::Judge;
    use crate::early_stopping::{Observation, Rule};

    /// An evaluation each 100 iterations.
    fn history(validation: &[f64], training: &[f64]) -> Vec<Observation> {
        let losses = validation.iter().zip(training);
        let observe = |(iteration, (&validation, &training))| {
            Observation::new(iteration, 0.9).with("validation_loss", validation).with("train_loss", training)
        };
        (100..).step_by(100).zip(losses).map(observe).collect()
    }

    /// The iteration of the first stop, and what is kept then.
    fn stop(rule: &Rule, history: &[Observation]) -> Option<(u64, u64)> {
        (1..=history.len())
            .map(|end| Judge::after(rule.clone(), &history[..end]))
            .find_map(|judge| Some((judge.stop_at()?, judge.kept()?.best.iteration)))
    }

    #[test]
    fn generalization_loss_by_hand() {
        // t      1     2     3     4     5     6
        // E_va   1.00  0.80  0.84  0.80  0.82  0.90
        // E_opt  1.00  0.80  0.80  0.80  0.80  0.80
        // GL     0     0     5     0     2.5   12.5
        let history = history(&[1.00, 0.80, 0.84, 0.80, 0.82, 0.90], &[0.5; 6]);
        for (alpha, expected) in
            [(2.0, Some((300, 200))), (6.0, Some((600, 200))), (12.0, Some((600, 200))), (13.0, None)]
        {
            assert_eq!(stop(&Rule::generalization_loss(alpha), &history), expected, "alpha {alpha}");
        }
    }

    #[test]
    fn progress_quotient_by_hand() {
        // strips of 2     |------------|  |------------|  |------------|
        // t               1     2         3     4         5     6
        // E_tr            0.6   0.4       0.33  0.30      0.202 0.200
        // E_va            1.00  0.80      0.70  0.77      0.80  0.84
        // E_opt                 0.80            0.70            0.70
        // mean, lowest          0.5, 0.4        0.315, 0.3      0.201, 0.2
        // P_2                   250             50              5
        // GL                    0               10              20
        // GL / P_2              0               0.2             4
        let history = history(&[1.00, 0.80, 0.70, 0.77, 0.80, 0.84], &[0.6, 0.4, 0.33, 0.30, 0.202, 0.200]);
        for (alpha, expected) in
            [(0.1, Some((400, 300))), (0.3, Some((600, 300))), (3.9, Some((600, 300))), (4.1, None)]
        {
            assert_eq!(stop(&Rule::progress_quotient(alpha, 2), &history), expected, "alpha {alpha}");
        }
    }

    #[test]
    fn within_a_strip_the_verdict_is_that_of_the_last_one() {
        let history = history(&[1.0, 1.5, 0.5], &[0.6, 0.4, 0.3]);
        let judge = Judge::after(Rule::progress_quotient(0.1, 2), &history);
        assert_eq!(judge.kept().map(|kept| kept.index), Some(2));
        let why = "generalization loss over training progress is 0.20, more than 0.1";
        assert_eq!(judge.reason().unwrap().why, why);
    }

    #[test]
    fn training_without_progress_stops_at_the_first_generalization_loss() {
        // E_tr stands still, so P_10 = 0: any loss over no progress is infinitely too much, but 0 / 0 is no verdict.
        // The mean of ten times 0.1 is rounded to just below 0.1.
        let mut validation = [1.0; 20];
        validation[18] = 0.8;
        let history = history(&validation, &[0.1; 20]);
        assert_eq!(stop(&Rule::progress_quotient(1e9, 10), &history), Some((2000, 1900)));
    }

    #[test]
    fn successive_rises_by_hand() {
        // strips of 2     |--------|  |--------|  |--------|  |--------|  |--------|  |---
        // t               1     2     3     4     5     6     7     8     9     10    11
        // E_va            1.0   0.9   0.5   0.95  0.9   0.8   0.9   0.85  0.8   0.86  0.1
        // at strips' ends       0.9         0.95        0.8         0.85        0.86
        // rises in a row        -           1           0           1           2
        let history = history(&[1.0, 0.9, 0.5, 0.95, 0.9, 0.8, 0.9, 0.85, 0.8, 0.86, 0.1], &[0.5; 11]);
        for (strips, expected) in [(1, Some((400, 300))), (2, Some((1000, 300))), (3, None)] {
            assert_eq!(stop(&Rule::successive_rises(strips, 2), &history), expected, "UP_{strips}");
        }
    }

    #[test]
    fn the_same_loss_again_is_no_rise() {
        let history = history(&[0.5; 6], &[0.5; 6]);
        assert_eq!(stop(&Rule::successive_rises(1, 1), &history), None);
    }
}
