//! A score, which way it is better, and how its values are printed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Observation;
use super::score::{TEST, VALIDATION_ACCURACY, VALIDATION_LOSS, digits, in_words, is_accuracy};
use super::words::{ends_a_name, quoted};

/// A score of an [`Observation`], by its name, and which way it is better.
///
/// A score whose name ends in `accuracy` is a fraction, 0.0 to 1.0, and is printed in percent.
///
/// ```
/// use earlystop::early_stopping::{EarlyStopping, Metric, Observation, Patience};
///
/// let rmse = Metric::lower("validation_rmse");
/// let mut stopping = EarlyStopping::with(Patience::new(1000).on(rmse))?;
/// stopping.record(Observation::of(100, [("validation_rmse", 3.5)]))?;
/// let verdict = stopping.record(Observation::of(200, [("validation_rmse", 2.25)]))?;
/// assert!(verdict.improved);
/// assert_eq!(stopping.best().map(|best| best.score), Some(2.25));
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Metric {
    name: String,
    lower_is_better: bool,
}

impl Metric {
    /// A score of which higher values are better, such as an accuracy.
    pub fn higher(name: impl Into<String>) -> Self {
        Self { name: name.into(), lower_is_better: false }
    }

    /// A score of which lower values are better, such as a loss.
    pub fn lower(name: impl Into<String>) -> Self {
        Self { name: name.into(), lower_is_better: true }
    }

    /// `validation_accuracy`, where higher is better: the default.
    pub fn validation_accuracy() -> Self {
        Self::higher(VALIDATION_ACCURACY)
    }

    /// `validation_loss`, where lower is better.
    pub fn validation_loss() -> Self {
        Self::lower(VALIDATION_LOSS)
    }

    /// Returns the name of the score.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says whether lower values are better.
    pub fn lower_is_better(&self) -> bool {
        self.lower_is_better
    }

    /// Formats a value: in percent if it is an accuracy, else with about four digits.
    pub fn format(&self, value: f64) -> String {
        if is_accuracy(&self.name) { format!("{:.2}%", 100.0 * value) } else { digits(value) }
    }

    /// Returns the value in an observation.
    pub fn of(&self, observation: &Observation) -> Option<f64> {
        observation.score(&self.name)
    }

    /// Returns the name of the same score on the test set.
    pub(crate) fn on_test_set(&self) -> String {
        self.name.replacen("validation_", TEST, 1)
    }

    /// Formats it as the names of rules have it: `lower validation_rmse`.
    pub(super) fn in_rules(&self) -> String {
        let direction = if self.lower_is_better { "lower" } else { "higher" };
        let is_plain = !self.name.is_empty() && !self.name.contains(ends_a_name);
        let name = if is_plain { self.name.clone() } else { quoted(&self.name) };
        format!("{direction} {name}")
    }

    /// Turns a value so that higher is better.
    pub(crate) fn upwards(&self, value: f64) -> f64 {
        if self.lower_is_better { -value } else { value }
    }

    pub(crate) fn is_accuracy(&self) -> bool {
        is_accuracy(&self.name)
    }
}

/// `validation_accuracy`.
impl Default for Metric {
    fn default() -> Self {
        Self::validation_accuracy()
    }
}

/// Prints the name in words: `validation accuracy`.
impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", in_words(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_printed_with_the_digits_that_matter() {
        let loss = Metric::validation_loss();
        let printed =
            [0.05214, -0.5, 3.0, 48.123, 1234.5, 1.5e9, 2.5e-7, 0.0, f64::NAN].map(|value| loss.format(value));
        assert_eq!(printed, ["0.0521", "-0.5000", "3.0000", "48.12", "1234", "1.500e9", "2.500e-7", "0.0000", "NaN"]);
        assert_eq!(Metric::default().format(0.988), "98.80%");
    }

    #[test]
    fn names_read_as_words() {
        assert_eq!(Metric::default().to_string(), "validation accuracy");
        assert_eq!(in_words("train_mean_error"), "training mean error");
    }
}
