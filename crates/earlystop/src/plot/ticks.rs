//! Round numbers along an axis.

/// Round numbers from `low` to `high`, at most `at_most` of them, evenly spaced.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ticks {
    pub(super) values: Vec<f64>,
    /// The distance between two.
    pub(super) step: f64,
    decimals: usize,
}

impl Ticks {
    pub(super) fn new(low: f64, high: f64, at_most: usize) -> Self {
        if !(low.is_finite() && high.is_finite()) || low >= high {
            return Self { values: vec![low], step: 0.0, decimals: 1 };
        }
        let exponent = ((high - low) / at_most as f64).log10().floor() as i32;
        let decimals = |exponent: i32| usize::try_from(-exponent).unwrap_or(0);
        let steps = (exponent..)
            .flat_map(|exponent| [1.0, 2.0, 5.0].map(|digit| (digit * 10_f64.powi(exponent), decimals(exponent))));
        for (step, decimals) in steps {
            // The slack keeps an end that is itself round in spite of rounding errors.
            let first = (low / step - 1e-9).ceil() as i64;
            let last = (high / step + 1e-9).floor() as i64;
            if last - first < at_most as i64 {
                return Self { values: (first..=last).map(|i| i as f64 * step).collect(), step, decimals };
            }
        }
        unreachable!("steps grow without end")
    }

    /// Writes the values, all with the same number of decimals, thousands apart.
    pub(super) fn labels(&self) -> Vec<String> {
        self.values.iter().map(|value| number(*value, self.decimals)).collect()
    }
}

/// Writes a number with a true minus sign and commas between thousands.
pub(super) fn number(value: f64, decimals: usize) -> String {
    let digits = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut text = String::new();
    if value < 0.0 {
        text.push('\u{2212}');
    }
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_range() {
        assert_eq!(Ticks::new(-0.73, 0.73, 7).labels(), ["−0.6", "−0.4", "−0.2", "0.0", "0.2", "0.4", "0.6"]);
        assert_eq!(Ticks::new(0.0, 5_800.0, 7).labels(), ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]);
        assert_eq!(Ticks::new(0.0, 0.05, 3).labels(), ["0.00", "0.02", "0.04"]);
        assert_eq!(Ticks::new(80.0, 100.0, 5).labels(), ["80", "85", "90", "95", "100"]);
    }

    #[test]
    fn a_range_without_extent_has_one_tick() {
        assert_eq!(Ticks::new(3.0, 3.0, 5).values, [3.0]);
        assert_eq!(Ticks::new(f64::NAN, 1.0, 5).values.len(), 1);
    }
}
