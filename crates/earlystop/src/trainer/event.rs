//! What a trainer tells while it works; each event prints as the tutorial's line.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::early_stopping::{Observation, StopReason};

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
    /// The network computes in numbers that this processor has no instructions for.
    SlowPrecision,
    /// The stopping rule ended the training.
    Stopped(StopReason),
    /// The call is over: all iterations were made, or the rule stopped it.
    Finished {
        /// How long the call took.
        time: Duration,
    },
    /// Training goes on from a checkpoint.
    Resumed {
        /// The checkpoint.
        path: PathBuf,
        /// The iteration after which it was written.
        iteration: u64,
        /// Why the bits may differ from those of a run that nobody interrupted: other threads, other versions.
        notes: Vec<String>,
    },
    /// A checkpoint was damaged and an older one is used.
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
                let percent = |part: f64| format!("{:.1}%", 100.0 * part);
                let (iteration, star) = (observation.iteration, if *improved { "*" } else { "" });
                let train = percent(observation.train_accuracy.unwrap_or(f64::NAN));
                let validation = percent(observation.validation_accuracy);
                write!(
                    f,
                    "Iter: {iteration:>6}, Train-Batch Accuracy: {train:>6}, Validation Acc: {validation:>6} {star}"
                )
            }
            Self::SlowPrecision => {
                write!(f, "Note: this processor has no instructions for bf16, which makes it slower than f32.")
            }
            Self::Stopped(_) => write!(f, "No improvement found in a while, stopping optimization."),
            Self::Finished { time } => write!(f, "Time usage: {}", time_usage(*time)),
            Self::Resumed { path, iteration, notes } => {
                write!(f, "Resumed from {} after iteration {iteration}", path.display())?;
                notes.iter().try_for_each(|note| write!(f, "\nNote: {note}"))
            }
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
        let observation = Observation { train_accuracy: Some(train), ..Observation::new(iteration, validation) };
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
    fn time_is_rounded_to_seconds() {
        assert_eq!(time_usage(Duration::from_millis(28_400)), "0:00:28");
        assert_eq!(time_usage(Duration::from_millis(59_500)), "0:01:00");
        assert_eq!(time_usage(Duration::from_secs(36_000 + 61)), "10:01:01");
    }
}
