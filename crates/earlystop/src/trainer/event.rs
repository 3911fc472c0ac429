//! The events that a trainer reports while it works. Each is printed as one line, with the tutorial's words where possible.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::checkpoint::Warning;
use crate::early_stopping::score::{TRAIN_ACCURACY, VALIDATION_ACCURACY, in_words};
use crate::early_stopping::{Metric, Observation, StopKind, StopReason};

/// What happened in training.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The network was evaluated.
    Evaluated {
        /// What was found.
        observation: Observation,
        /// Whether this is the best evaluation so far.
        improved: bool,
    },
    /// The learning rate was reduced after an evaluation: see
    /// [`TrainerBuilder::reduce_on_plateau`](super::TrainerBuilder::reduce_on_plateau).
    LearningRateReduced {
        /// The iteration of the evaluation.
        iteration: u64,
        /// The learning rate of the next step.
        learning_rate: f64,
    },
    /// libtorch's threads wait by spinning, which slows the training of a model of your own down many times while other processes
    /// are busy.
    SpinningThreads,
    /// The stopping rule or a [request](crate::stop) ended the training.
    Stopped(StopReason),
    /// The call is over: all iterations were made, or the training was stopped.
    Finished {
        /// How long the call took.
        time: Duration,
    },
    /// A checkpoint could not be written. The trainer tries again at the next evaluation; see
    /// [`TrainerBuilder::stop_on_failed_save`](super::TrainerBuilder::stop_on_failed_save).
    SaveFailed {
        /// The iteration whose state is not saved.
        iteration: u64,
        /// Why.
        reason: String,
    },
    /// Checkpoints are saved, but their file system does not guarantee something. Each warning is reported once.
    NotGuaranteed(Warning),
    /// The run was resumed from a checkpoint.
    Resumed {
        /// The checkpoint.
        path: PathBuf,
        /// The iteration after which it was written.
        iteration: u64,
        /// Why results may differ from those of an uninterrupted run: other instructions, other versions, new settings. Also what
        /// is missing of its history.
        notes: Vec<String>,
    },
    /// The run went back to an earlier checkpoint, and the later ones were moved away.
    Archived {
        /// The folder that they were moved to.
        folder: PathBuf,
    },
    /// A checkpoint is damaged, so another one is used.
    Skipped {
        /// The damaged checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Prints the tutorial's line: `Iter:    100, Train-Batch Accuracy:  84.4%, Validation Acc:  85.2% *`.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evaluated { observation, improved } => {
                let (iteration, star) = (observation.iteration, if *improved { "*" } else { "" });
                write!(f, "Iter: {iteration:>6}, ")?;
                match observation.score(VALIDATION_ACCURACY) {
                    Some(validation) => {
                        let percent = |part: f64| format!("{:.1}%", 100.0 * part);
                        let train = percent(observation.score(TRAIN_ACCURACY).unwrap_or(f64::NAN));
                        let validation = percent(validation);
                        write!(f, "Train-Batch Accuracy: {train:>6}, Validation Acc: {validation:>6} {star}")
                    }
                    None => {
                        for (name, &value) in &observation.scores {
                            write!(f, "{}: {}, ", in_words(name), Metric::higher(name).format(value))?;
                        }
                        write!(f, "{}", if *improved { "improved *" } else { "not improved" })
                    }
                }
            }
            Self::LearningRateReduced { iteration, learning_rate } => {
                write!(f, "Learning rate reduced to {learning_rate:.3e} after iteration {iteration}")
            }
            Self::SpinningThreads => write!(
                f,
                "Note: libtorch's threads wait by spinning, which slows training down many times while other processes \
                 are busy. Set the environment variable GOMP_SPINCOUNT=1000 when you start this program."
            ),
            Self::Stopped(StopReason { kind: StopKind::NoImprovement, .. }) => {
                write!(f, "No improvement found in a while, stopping optimization.")
            }
            Self::Stopped(reason) => write!(f, "{}", reason.sentence()),
            Self::Finished { time } => write!(f, "Time usage: {}", time_usage(*time)),
            Self::Resumed { path, iteration, notes } => {
                write!(f, "Resumed from {} after iteration {iteration}", path.display())?;
                notes.iter().try_for_each(|note| write!(f, "\nNote: {note}"))
            }
            Self::SaveFailed { iteration, reason } => {
                write!(f, "Could not save iteration {iteration}, trying again at the next evaluation: {reason}")
            }
            Self::NotGuaranteed(warning) => write!(f, "Note: {warning}"),
            Self::Archived { folder } => write!(f, "Moved the later checkpoints to {}", folder.display()),
            Self::Skipped { path, reason } => write!(f, "Skipped {}: {reason}", path.display()),
        }
    }
}

/// Writes a duration as hours, minutes and whole seconds: `0:00:28`.
pub fn time_usage(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(iteration: u64, train: f64, validation: f64, improved: bool) -> String {
        let observation = Observation::new(iteration, validation).with("train_accuracy", train);
        Event::Evaluated { observation, improved }.to_string()
    }

    #[test]
    fn lines_are_the_tutorials() {
        let first = "Iter:    100, Train-Batch Accuracy:  84.4%, Validation Acc:  85.2% *";
        assert_eq!(line(100, 0.84375, 0.852, true), first);
        let later = "Iter:   1800, Train-Batch Accuracy: 100.0%, Validation Acc:  97.7% ";
        assert_eq!(line(1800, 1.0, 0.9768, false), later);
    }

    #[test]
    fn only_patience_that_ran_out_prints_the_tutorials_sentence() {
        let line = |kind, rule: &str, why: &str| {
            Event::Stopped(StopReason { kind, rule: rule.to_owned(), why: why.to_owned() }).to_string()
        };
        let tutorial = "No improvement found in a while, stopping optimization.";
        assert_eq!(line(StopKind::NoImprovement, "patience(1000)", "no improvement"), tutorial);
        let target = line(StopKind::Target, "target(0.99)", "validation accuracy 0.991 at iteration 300");
        assert_eq!(target, "Stopped by target(0.99): validation accuracy 0.991 at iteration 300.");
        assert_eq!(line(StopKind::NotFinite, "patience(1000)", "the loss is NaN"), "Stopped: the loss is NaN.");
        for kind in [StopKind::Budget, StopKind::Divergence, StopKind::Overfitting] {
            assert_eq!(line(kind, "rule", "reason"), "Stopped by rule: reason.");
        }
    }

    #[test]
    fn time_is_rounded_to_seconds() {
        assert_eq!(time_usage(Duration::from_millis(28_400)), "0:00:28");
        assert_eq!(time_usage(Duration::from_millis(59_500)), "0:01:00");
        assert_eq!(time_usage(Duration::from_secs(36_000 + 61)), "10:01:01");
    }
}
