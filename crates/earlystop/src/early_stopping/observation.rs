//! The result of an evaluation: everything that a stopping rule may look at.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::score::{self, VALIDATION_ACCURACY};
use super::{Mistakes, json_float};

/// The result of one evaluation: named scores, and what else a rule may need.
///
/// A name says on which set the score was measured, then what it is: `validation_accuracy`, `validation_loss`, `train_loss`,
/// `test_accuracy`, `validation_rmse`. Scores on the test set only inform: no rule stops because of them.
///
/// A rule that needs a value that is missing stops the run with [`StopKind::CannotJudge`](super::StopKind::CannotJudge). The
/// observations of a run, ordered by iteration, are its history.
///
/// ```
/// use earlystop::early_stopping::Observation;
///
/// let observation = Observation::new(4800, 0.988).with("validation_loss", 0.052);
/// assert_eq!(observation.score("validation_accuracy"), Some(0.988));
/// assert_eq!(observation.score("train_loss"), None);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The iteration after which the network was evaluated.
    pub iteration: u64,
    /// The scores by their names.
    #[serde(flatten, with = "json_float::map")]
    pub scores: BTreeMap<String, f64>,
    /// The time spent on the run so far, including the time before a resume.
    #[serde(default)]
    pub elapsed: Option<Duration>,
    /// The number of completed passes over the training data, for a patience in [epochs](super::Patience::epochs). A
    /// [`Trainer`](crate::Trainer) records it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// The validation images that are classified wrongly.
    #[serde(default)]
    pub mistakes: Option<Mistakes>,
    /// Whether every weight of the network is finite, as far as the caller has checked.
    pub weights_finite: bool,
}

/// The names of an observation's other fields, which no score may have.
pub(super) const RESERVED: [&str; 5] = ["iteration", "elapsed", "epochs", "mistakes", "weights_finite"];

impl Observation {
    /// Creates an observation with a validation accuracy, 0.0 to 1.0. Nothing else is set; the weights count as finite.
    pub fn new(iteration: u64, validation_accuracy: f64) -> Self {
        Self::of(iteration, [(VALIDATION_ACCURACY, validation_accuracy)])
    }

    /// Creates an observation with any scores. Nothing else is set; the weights count as finite.
    pub fn of<N: Into<String>>(iteration: u64, scores: impl IntoIterator<Item = (N, f64)>) -> Self {
        let scores = scores.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Self { iteration, scores, elapsed: None, epochs: None, mistakes: None, weights_finite: true }
    }

    /// Adds a score, or replaces it.
    pub fn with(mut self, name: impl Into<String>, value: f64) -> Self {
        self.scores.insert(name.into(), value);
        self
    }

    /// Returns a score by its name.
    pub fn score(&self, name: &str) -> Option<f64> {
        self.scores.get(name).copied()
    }

    /// Describes the first value that is NaN or infinite, or returns nothing if all values are finite.
    ///
    /// Ignores the scores on the test set, which take no part in any decision.
    pub fn not_finite(&self) -> Option<String> {
        // The validation set first: that is what people look at.
        let (validation, others): (Vec<_>, Vec<_>) =
            self.scores.iter().partition(|(name, _)| name.starts_with("validation_"));
        let mut judged = validation.into_iter().chain(others).filter(|(name, _)| !score::is_of_test_set(name));
        match judged.find(|(_, value)| !value.is_finite()) {
            Some((name, value)) => Some(format!("the {} is {value}", score::in_words(name))),
            None if !self.weights_finite => Some("a weight is NaN or infinite".to_owned()),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_number_that_is_not_finite_is_named() {
        let seen = || Observation::new(100, 0.9);
        assert_eq!(seen().with("validation_loss", 0.3).not_finite(), None);
        let nan = seen().with("validation_loss", f64::NAN).with("train_loss", f64::NAN);
        assert_eq!(nan.not_finite().as_deref(), Some("the validation loss is NaN"));
        let infinite = seen().with("train_loss", f64::INFINITY);
        assert_eq!(infinite.not_finite().as_deref(), Some("the training loss is inf"));
        let broken = Observation { weights_finite: false, ..seen() };
        assert_eq!(broken.not_finite().as_deref(), Some("a weight is NaN or infinite"));
        assert_eq!(seen().with("test_accuracy", f64::NAN).not_finite(), None);
    }

    #[test]
    fn a_line_of_an_earlier_version_is_read() {
        let line = r#"{"iteration":100,"validation_accuracy":0.5,"validation_loss":"NaN","train_loss":null,
            "elapsed":null,"mistakes":null,"weights_finite":false}"#;
        let read: Observation = serde_json::from_str(line).unwrap();
        assert_eq!(read.scores.keys().collect::<Vec<_>>(), ["validation_accuracy", "validation_loss"]);
        assert!(read.scores["validation_loss"].is_nan() && !read.weights_finite);
    }

    proptest! {
        #[test]
        fn json_keeps_every_bit(accuracy in any::<f64>(), rmse in any::<Option<f64>>(), nanos in any::<Option<u64>>(), epochs in any::<Option<u64>>()) {
            let observation = Observation {
                elapsed: nanos.map(Duration::from_nanos),
                epochs,
                mistakes: Some(Mistakes::new([true, false])),
                ..Observation::new(7, accuracy)
            };
            let observation = rmse.into_iter().fold(observation, |seen, rmse| seen.with("validation_rmse", rmse));
            let json = serde_json::to_string(&observation).unwrap();
            let back: Observation = serde_json::from_str(&json).unwrap();
            // One NaN is as good as another.
            let bits = |number: f64| if number.is_nan() { f64::NAN.to_bits() } else { number.to_bits() };
            let all = |seen: &Observation| {
                seen.scores.iter().map(|(name, &score)| (name.clone(), bits(score))).collect::<Vec<_>>()
            };
            prop_assert_eq!(all(&back), all(&observation));
            prop_assert_eq!((back.elapsed, back.epochs), (observation.elapsed, observation.epochs));
            prop_assert_eq!(back.mistakes, observation.mistakes);
        }
    }
}
