//! The result of an evaluation: everything that a stopping rule may look at.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Mistakes, number};

/// The result of one evaluation.
///
/// Only the iteration and the validation accuracy are required. A rule that needs a value that is missing stops the run
/// with [`StopKind::CannotJudge`](super::StopKind::CannotJudge). The observations of a run, ordered by iteration, are its
/// history.
///
/// ```
/// use earlystop::early_stopping::Observation;
///
/// let observation = Observation { validation_loss: Some(0.052), ..Observation::new(4800, 0.988) };
/// # assert_eq!(observation.train_loss, None);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The iteration after which the network was evaluated.
    pub iteration: u64,
    /// The fraction of the validation set that is classified correctly, 0.0 to 1.0.
    #[serde(with = "number")]
    pub validation_accuracy: f64,
    /// The mean loss over the validation set.
    #[serde(with = "number::optional", default)]
    pub validation_loss: Option<f64>,
    /// The mean loss over the training batches since the last evaluation; the loss of a single batch is noisy.
    #[serde(with = "number::optional", default)]
    pub train_loss: Option<f64>,
    /// The accuracy on training images, 0.0 to 1.0.
    #[serde(with = "number::optional", default)]
    pub train_accuracy: Option<f64>,
    /// The accuracy on the test set, 0.0 to 1.0, to compare rules afterwards. No rule uses it.
    #[serde(with = "number::optional", default)]
    pub test_accuracy: Option<f64>,
    /// The time spent on the run so far, including the time before a resume.
    #[serde(default)]
    pub elapsed: Option<Duration>,
    /// The validation images that are classified wrongly.
    #[serde(default)]
    pub mistakes: Option<Mistakes>,
    /// Whether every weight of the network is finite, as far as the caller has checked.
    pub weights_finite: bool,
}

impl Observation {
    /// Creates an observation with a validation accuracy, 0.0 to 1.0. Nothing else is set; the weights count as finite.
    pub fn new(iteration: u64, validation_accuracy: f64) -> Self {
        Self {
            iteration,
            validation_accuracy,
            validation_loss: None,
            train_loss: None,
            train_accuracy: None,
            test_accuracy: None,
            elapsed: None,
            mistakes: None,
            weights_finite: true,
        }
    }

    /// Describes the first value that is NaN or infinite, or returns nothing if all values are finite.
    ///
    /// Ignores the test accuracy, which takes no part in any decision.
    pub fn not_finite(&self) -> Option<String> {
        let numbers = [
            ("validation accuracy", Some(self.validation_accuracy)),
            ("validation loss", self.validation_loss),
            ("training loss", self.train_loss),
            ("training accuracy", self.train_accuracy),
        ];
        let number = numbers.into_iter().find_map(|(name, number)| Some((name, number.filter(|n| !n.is_finite())?)));
        match number {
            Some((name, number)) => Some(format!("the {name} is {number}")),
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
        let fine = Observation { validation_loss: Some(0.3), ..Observation::new(100, 0.9) };
        assert_eq!(fine.not_finite(), None);
        let nan = Observation { validation_loss: Some(f64::NAN), ..Observation::new(100, 0.9) };
        assert_eq!(nan.not_finite().as_deref(), Some("the validation loss is NaN"));
        let infinite = Observation { train_loss: Some(f64::INFINITY), ..Observation::new(100, 0.9) };
        assert_eq!(infinite.not_finite().as_deref(), Some("the training loss is inf"));
        let broken = Observation { weights_finite: false, ..Observation::new(100, 0.9) };
        assert_eq!(broken.not_finite().as_deref(), Some("a weight is NaN or infinite"));
        let test_set = Observation { test_accuracy: Some(f64::NAN), ..Observation::new(100, 0.9) };
        assert_eq!(test_set.not_finite(), None);
    }

    proptest! {
        #[test]
        fn json_keeps_every_bit(accuracy in any::<f64>(), loss in any::<Option<f64>>(), nanos in any::<Option<u64>>()) {
            let observation = Observation {
                validation_loss: loss,
                elapsed: nanos.map(Duration::from_nanos),
                mistakes: Some(Mistakes::new([true, false])),
                ..Observation::new(7, accuracy)
            };
            let json = serde_json::to_string(&observation).unwrap();
            let back: Observation = serde_json::from_str(&json).unwrap();
            // One NaN is as good as another.
            let bits = |number: f64| if number.is_nan() { f64::NAN.to_bits() } else { number.to_bits() };
            prop_assert_eq!(bits(back.validation_accuracy), bits(accuracy));
            prop_assert_eq!(back.validation_loss.map(bits), loss.map(bits));
            prop_assert_eq!((back.elapsed, back.mistakes), (observation.elapsed, observation.mistakes));
        }
    }
}
