//! Prechelt's three classes of stopping criteria, from ["Early Stopping - But When?"][paper] (1998).
//!
//! `E_va(t)` is the validation loss at evaluation `t`, `E_tr(t)` the training loss, `E_opt(t)` the lowest `E_va` up to
//! `t`. Prechelt counts epochs, here evaluations are counted. A strip is `k` evaluations in a row, ending at a multiple
//! of `k`. All three keep the evaluation with the lowest validation loss.
//!
//! [paper]: https://doi.org/10.1007/3-540-49430-8_3

use std::fmt::Display;

use super::{Judgement, Observation, StopKind};

/// `GL_α`: stops once `GL(t) = 100 * (E_va(t) / E_opt(t) - 1) > α`.
pub(super) fn generalization_loss(name: &impl Display, alpha: f64, history: &[Observation]) -> Judgement {
    let judgement = Judgement::keeping(lowest(history));
    let Some(last) = history.last() else { return judgement };
    let loss = above_lowest(history);
    if loss > alpha {
        let why = format!("the validation loss is {loss:.1}% above its lowest, more than {alpha}%");
        return judgement.stopping_at(last.iteration, StopKind::Overfitting, name, why);
    }
    judgement
}

/// `PQ_α`: stops at the end of a strip once `GL(t) / P_k(t) > α`, where the progress of training `P_k(t)` says by how
/// many per mille the strip's mean training loss lies above its lowest.
pub(super) fn progress_quotient(name: &impl Display, alpha: f64, strip: usize, history: &[Observation]) -> Judgement {
    let judgement = Judgement::keeping(lowest(history));
    let Some((strip, complete)) = last_strip(strip, history) else {
        return judgement;
    };
    let train_losses = || strip.iter().filter_map(|observation| observation.train_loss);
    let mean = train_losses().sum::<f64>() / strip.len() as f64;
    let lowest = train_losses().fold(f64::INFINITY, f64::min);
    // Rounding can take the mean of equal losses below them.
    let progress = 1000.0 * (mean / lowest - 1.0).max(0.0);
    let quotient = above_lowest(complete) / progress;
    if quotient > alpha {
        let why = format!("generalization loss over training progress is {quotient:.2}, more than {alpha}");
        return judgement.stopping_at(strip[strip.len() - 1].iteration, StopKind::Overfitting, name, why);
    }
    judgement
}

/// `UP_s`: stops once the validation loss has risen, from strip's end to strip's end, `s` times in succession.
pub(super) fn successive_rises(name: &impl Display, strips: usize, strip: usize, history: &[Observation]) -> Judgement {
    let judgement = Judgement::keeping(lowest(history));
    let strips = strips.max(1);
    let ends: Vec<_> = history.chunks_exact(strip.max(1)).filter_map(|strip| strip.last()).collect();
    let rises = ends.windows(2).rev().take_while(|pair| pair[1].validation_loss > pair[0].validation_loss).count();
    match ends.last() {
        Some(last) if rises >= strips => {
            let why = format!("the validation loss rose in {rises} successive strips of {strip} evaluations");
            judgement.stopping_at(last.iteration, StopKind::Overfitting, name, why)
        }
        _ => judgement,
    }
}

/// `GL` at the last evaluation: how far its validation loss lies above the lowest, in percent.
fn above_lowest(history: &[Observation]) -> f64 {
    let losses = || history.iter().filter_map(|observation| observation.validation_loss);
    100.0 * (losses().next_back().unwrap_or(f64::NAN) / losses().fold(f64::INFINITY, f64::min) - 1.0)
}

/// The last complete strip, and the history up to its end.
fn last_strip(strip: usize, history: &[Observation]) -> Option<(&[Observation], &[Observation])> {
    let last = history.chunks_exact(strip.max(1)).next_back()?;
    let complete = history.len() - history.len() % strip.max(1);
    Some((last, &history[..complete]))
}

/// The index of the first evaluation with the lowest validation loss.
fn lowest(history: &[Observation]) -> Option<usize> {
    let losses = history.iter().map(|observation| observation.validation_loss.unwrap_or(f64::INFINITY));
    losses.enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An evaluation each 100 iterations.
    fn history(validation: &[f64], training: &[f64]) -> Vec<Observation> {
        let losses = validation.iter().zip(training);
        let observe = |(iteration, (&validation, &training))| Observation {
            validation_loss: Some(validation),
            train_loss: Some(training),
            ..Observation::new(iteration, 0.9)
        };
        (100..).step_by(100).zip(losses).map(observe).collect()
    }

    /// The iteration of the first stop, and what is kept then.
    fn stop(judge: impl Fn(&[Observation]) -> Judgement, history: &[Observation]) -> Option<(u64, u64)> {
        (1..=history.len())
            .map(|end| judge(&history[..end]))
            .find_map(|judgement| Some((judgement.stop?.at, history[judgement.best?].iteration)))
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
            assert_eq!(stop(|history| generalization_loss(&"GL", alpha, history), &history), expected, "alpha {alpha}");
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
            assert_eq!(
                stop(|history| progress_quotient(&"PQ", alpha, 2, history), &history),
                expected,
                "alpha {alpha}"
            );
        }
    }

    #[test]
    fn within_a_strip_the_verdict_is_that_of_the_last_one() {
        let history = history(&[1.0, 1.5, 0.5], &[0.6, 0.4, 0.3]);
        let judgement = progress_quotient(&"PQ", 0.1, 2, &history);
        assert_eq!(judgement.best, Some(2));
        assert_eq!(
            judgement.stop.unwrap().reason.why,
            "generalization loss over training progress is 0.20, more than 0.1"
        );
    }

    #[test]
    fn training_without_progress_stops_at_the_first_generalization_loss() {
        // E_tr stands still, so P_10 = 0: any loss over no progress is infinitely too much, but 0 / 0 is no verdict.
        // The mean of ten times 0.1 is rounded to just below 0.1.
        let mut validation = [1.0; 20];
        validation[18] = 0.8;
        let history = history(&validation, &[0.1; 20]);
        let judge = |history: &[Observation]| progress_quotient(&"PQ", 1e9, 10, history);
        assert_eq!(stop(judge, &history), Some((2000, 1900)));
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
            assert_eq!(stop(|history| successive_rises(&"UP", strips, 2, history), &history), expected, "UP_{strips}");
        }
    }

    #[test]
    fn the_same_loss_again_is_no_rise() {
        let history = history(&[0.5; 6], &[0.5; 6]);
        assert_eq!(stop(|history| successive_rises(&"UP", 1, 1, history), &history), None);
    }
}
