//! Significant improvements: McNemar's paired test on the validation images whose classification changed.

use serde::{Deserialize, Serialize};

use super::Mistakes;
use super::evaluation::{Evaluation, Kept};

/// Returns the p-value of [McNemar's test][paper] (1947), exact and one-sided, between 0.0 and 1.0.
///
/// Two classifiers are compared on the same images: `gained` images are correct only with the second, `lost` only with
/// the first. If neither classifier were better, each of these images would be gained or lost with equal probability.
/// The p-value is therefore the probability of at least `gained` heads in `gained + lost` tosses of a fair coin.
///
/// ```
/// use earlystop::early_stopping::mcnemar;
///
/// assert!((mcnemar(4, 1) - 6.0 / 32.0).abs() < 1e-12); // 5 + 1 of the 32 ways that five coins can fall
/// assert!(mcnemar(20, 5) < 0.01);
/// ```
///
/// [paper]: https://doi.org/10.1007/BF02295996
pub fn mcnemar(gained: usize, lost: usize) -> f64 {
    if gained == 0 {
        return 1.0;
    }
    if gained <= lost {
        return 1.0 - mcnemar(lost + 1, gained - 1); // the other tail, where the terms below do not underflow
    }
    let tosses = gained + lost;
    let ln_ways: f64 = (1..=lost).map(|i| ((gained + i) as f64 / i as f64).ln()).sum();
    let mut term = (ln_ways - tosses as f64 * std::f64::consts::LN_2).exp();
    let mut sum = term;
    for heads in gained..tosses {
        term *= (tosses - heads) as f64 / (heads + 1) as f64;
        sum += term;
    }
    sum
}

/// The best evaluation of a noise-aware rule, with which the following ones are compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Reference {
    pub(super) kept: Kept,
    mistakes: Mistakes,
}

/// Takes in an evaluation, which is an improvement only if chance would give it with a probability below
/// `significance`.
pub(super) fn step(state: &mut Option<Reference>, significance: f64, evaluation: &Evaluation) {
    let Some(mistakes) = &evaluation.observation.mistakes else { return };
    let improved = match state {
        Some(best) => mcnemar(best.mistakes.not_in(mistakes), mistakes.not_in(&best.mistakes)) < significance,
        None => true,
    };
    if improved {
        *state = Some(Reference { kept: evaluation.kept, mistakes: mistakes.clone() });
    }
}

pub(super) fn stop_at(best: &Reference, patience: u64) -> Option<u64> {
    Some(best.kept.best.iteration.saturating_add(patience).saturating_add(1))
}

pub(super) fn why(best: &Reference, patience: u64, significance: f64) -> String {
    let iteration = best.kept.best.iteration;
    format!(
        "no significant improvement (p < {significance}) for more than {patience} iterations since iteration {iteration}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::early_stopping::judge::Judge;
    use crate::early_stopping::{Mistakes, Observation, Rule};

    fn wrong(iteration: u64, wrong: &[usize]) -> Observation {
        let mistakes = Mistakes::new((0..100).map(|image| !wrong.contains(&image)));
        Observation { mistakes: Some(mistakes), ..Observation::new(iteration, 1.0 - wrong.len() as f64 / 100.0) }
    }

    #[test]
    fn mcnemar_by_hand() {
        // The ways that n coins can fall with at least so many heads, of 2^n.
        let cases = [
            (0, 0, 1.0),
            (1, 0, 0.5),
            (1, 1, 0.75),
            (0, 4, 1.0),
            (4, 0, 1.0 / 16.0),
            (4, 1, 6.0 / 32.0),
            (1, 4, 31.0 / 32.0),
        ];
        for (gained, lost, expected) in cases {
            assert!((mcnemar(gained, lost) - expected).abs() < 1e-12, "{gained} gained, {lost} lost");
        }
    }

    #[test]
    fn thousands_of_changed_images_neither_overflow_nor_underflow() {
        assert!((mcnemar(2500, 2500) - 0.5).abs() < 0.01);
        assert_eq!(mcnemar(5000, 0), 0.0); // 2^-5000
        assert_eq!(mcnemar(1, 5000), 1.0);
        // One standard deviation of 10,000 tosses above the middle: 15.9%, by the normal approximation with continuity.
        assert!((mcnemar(5050, 4950) - 0.1611).abs() < 0.001);
    }

    fn noise_aware(significance: f64, history: &[Observation]) -> (Option<usize>, Option<u64>) {
        let judge = Judge::after(Rule::NoiseAware { patience: 150, significance }, history);
        (judge.kept().map(|kept| kept.index), judge.stop_at())
    }

    #[test]
    fn a_better_accuracy_within_the_noise_is_no_improvement() {
        let history = [wrong(100, &[1, 2, 3, 4]), wrong(200, &[1, 2]), wrong(300, &[])];
        assert_eq!(noise_aware(0.07, &history[..2]), (Some(0), Some(251))); // 2 gained, 0 lost: p = 1/4
        assert_eq!(noise_aware(0.07, &history), (Some(2), Some(451))); // 4 gained against the best: p = 1/16
    }

    #[test]
    fn the_same_gain_with_many_changes_is_noise() {
        // Five images better in both, but of 5 changed images in the first and of 15 in the second.
        let calm = [wrong(100, &[0, 1, 2, 3, 4]), wrong(200, &[])];
        let restless = [wrong(100, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), wrong(200, &[10, 11, 12, 13, 14])];
        assert_eq!(noise_aware(0.05, &calm).0, Some(1)); // p = 1/32
        assert_eq!(noise_aware(0.05, &restless).0, Some(0)); // p = 0.15
    }
}
