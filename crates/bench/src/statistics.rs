//! Medians and their spread.

use serde::Serialize;

/// A median with what lies around it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Gives the median with the lower and the upper quartile. There is at least one value.
    pub(crate) fn quartiles(values: &[f64]) -> Self {
        Self { median: quantile(values, 0.5), low: quantile(values, 0.25), high: quantile(values, 0.75) }
    }

    /// Gives the median with the least and the greatest value. There is at least one value.
    pub(crate) fn range(values: &[f64]) -> Self {
        Self { median: quantile(values, 0.5), low: quantile(values, 0.0), high: quantile(values, 1.0) }
    }
}

/// Gives the median of at least one value.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Gives how many times as long one took as the other, of each round by itself.
pub(crate) fn ratios(yardstick: &[f64], values: &[f64]) -> Vec<f64> {
    yardstick.iter().zip(values).map(|(yardstick, value)| yardstick / value).collect()
}

/// Gives the value below which a share of the values lies, in between two of them where it must.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    below + (above - below) * position.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn the_spread_is_that_of_the_quartiles_or_of_all() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(Spread::quartiles(&values), Spread { median: 3.0, low: 2.0, high: 4.0 });
        assert_eq!(Spread::range(&values), Spread { median: 3.0, low: 1.0, high: 5.0 });
    }

    #[test]
    fn ratios_compare_what_was_measured_in_one_round() {
        assert_eq!(ratios(&[10.0, 30.0], &[5.0, 10.0]), [2.0, 3.0]);
    }
}
