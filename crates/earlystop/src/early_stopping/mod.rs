//! When to stop training, and which evaluation was the best: plain numbers in, verdict out.

mod report;

use serde::{Deserialize, Serialize};

pub use report::{StopKind, StopReason};

/// Stops when the validation accuracy has not improved for more than `patience` iterations.
///
/// An improvement is an accuracy strictly greater than the best so far; the first one is always an improvement, NaN never.
///
/// The tutorial's loop evaluates every 100 iterations, but asks after *every* iteration whether to stop. So its run that
/// improved last at 4,800 printed its last line at 5,800, where the difference is 1,000 and not yet more than the
/// patience, and stopped at 5,801. Ask [`should_stop`](Self::should_stop) after every iteration for the same.
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
pub struct EarlyStopping {
    patience: u64,
    best: Option<Best>,
}

/// The evaluation to go back to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The iteration after which it was made.
    pub iteration: u64,
    /// Its validation accuracy, 0.0 to 1.0.
    pub accuracy: f64,
}

/// What one evaluation means.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Whether this evaluation is the best so far: the moment to save.
    pub improved: bool,
    /// Why to stop, if it is time.
    pub stop: Option<StopReason>,
}

impl EarlyStopping {
    /// Starts to watch, with a patience in iterations (the tutorial's `require_improvement`).
    pub fn new(patience: u64) -> Self {
        Self { patience, best: None }
    }

    /// Takes in the validation accuracy (0.0 to 1.0) found after an iteration.
    pub fn observe(&mut self, iteration: u64, validation_accuracy: f64) -> Verdict {
        let improved =
            !validation_accuracy.is_nan() && self.best.is_none_or(|best| validation_accuracy > best.accuracy);
        if improved {
            self.best = Some(Best {
                iteration,
                accuracy: validation_accuracy,
            });
        }
        Verdict {
            improved,
            stop: self.stop_reason(iteration),
        }
    }

    /// Says whether to stop after this iteration; cheap enough to ask after every one.
    ///
    /// Before the first evaluation there is nothing to judge, and the answer is no.
    pub fn should_stop(&self, iteration: u64) -> bool {
        self.best
            .is_some_and(|best| iteration.saturating_sub(best.iteration) > self.patience)
    }

    /// Says why to stop after this iteration, or nothing while training should go on.
    pub fn stop_reason(&self, iteration: u64) -> Option<StopReason> {
        let best = self.best.filter(|_| self.should_stop(iteration))?;
        Some(StopReason {
            kind: StopKind::NoImprovement,
            rule: format!("patience({})", self.patience),
            why: format!(
                "no improvement for more than {} iterations since {}",
                self.patience, best.iteration
            ),
        })
    }

    /// The best evaluation so far, or nothing before the first.
    pub fn best(&self) -> Option<Best> {
        self.best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tutorials_run_stops_at_5801_and_keeps_4800() {
        let mut stopping = EarlyStopping::new(1000);
        let mut stopped_at = None;
        for iteration in 1..=10_000 {
            if iteration % 100 == 0 {
                let accuracy = if iteration < 4800 {
                    0.9 + iteration as f64 * 1e-5
                } else {
                    0.988
                };
                assert_eq!(stopping.observe(iteration, accuracy).improved, iteration <= 4800);
            }
            if stopping.should_stop(iteration) {
                stopped_at = Some(iteration);
                break;
            }
        }
        assert_eq!(stopped_at, Some(5801));
        assert_eq!(
            stopping.best(),
            Some(Best {
                iteration: 4800,
                accuracy: 0.988
            })
        );
    }

    #[test]
    fn nan_never_improves_and_never_resets_the_patience() {
        let mut stopping = EarlyStopping::new(100);
        assert!(!stopping.observe(100, f64::NAN).improved);
        assert!(stopping.observe(200, 0.5).improved);
        assert!(!stopping.observe(300, f64::NAN).improved);
        assert!(stopping.should_stop(301));
    }
}
