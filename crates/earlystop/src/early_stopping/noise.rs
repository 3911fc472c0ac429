//! An improvement that is more than luck: McNemar's paired test on which validation images changed.

use std::fmt::Display;

use super::{Judgement, Observation, StopKind};

/// Says how likely chance alone is to give so uneven a change, 0.0 to 1.0: [McNemar's test][paper] (1947), exact and
/// one-sided.
///
/// Of two classifiers of the same images, `gained` images are right only by the second, `lost` only by the first. If
/// neither were better, each of these images would be as likely to be gained as to be lost. So the answer is the
/// probability of at least `gained` heads in `gained + lost` tosses of a coin.
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

/// Patience in which an improvement counts only if chance would give it with a probability below `significance`.
pub(super) fn noise_aware(name: &impl Display, patience: u64, significance: f64, history: &[Observation]) -> Judgement {
    let mut best: Option<usize> = None;
    for (index, observation) in history.iter().enumerate() {
        let Some(mistakes) = &observation.mistakes else {
            continue;
        };
        let improved = match best.and_then(|best| history[best].mistakes.as_ref()) {
            Some(before) => mcnemar(before.not_in(mistakes), mistakes.not_in(before)) < significance,
            None => true,
        };
        if improved {
            best = Some(index);
        }
    }
    let judgement = Judgement::keeping(best);
    let Some(best) = best.map(|best| &history[best]) else {
        return judgement;
    };
    let why = format!(
        "nothing better than iteration {}, by more than luck (p < {significance}), for more than {patience} iterations",
        best.iteration
    );
    judgement.stopping_after(best.iteration.saturating_add(patience), StopKind::NoImprovement, name, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::early_stopping::Mistakes;

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

    #[test]
    fn a_better_accuracy_within_the_noise_is_no_improvement() {
        let history = [wrong(100, &[1, 2, 3, 4]), wrong(200, &[1, 2]), wrong(300, &[])];
        let judge = |end: usize| noise_aware(&"noise", 150, 0.07, &history[..end]);
        assert_eq!(judge(2).best, Some(0)); // 2 gained, 0 lost: p = 1/4
        assert_eq!(judge(2).stop.map(|stop| stop.at), Some(251));
        assert_eq!(judge(3).best, Some(2)); // 4 gained against the best: p = 1/16
    }

    #[test]
    fn the_same_gain_with_many_changes_is_noise() {
        // Five images better in both, but of 5 changed images in the first and of 15 in the second.
        let calm = [wrong(100, &[0, 1, 2, 3, 4]), wrong(200, &[])];
        let restless = [wrong(100, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), wrong(200, &[10, 11, 12, 13, 14])];
        assert_eq!(noise_aware(&"noise", 100, 0.05, &calm).best, Some(1)); // p = 1/32
        assert_eq!(noise_aware(&"noise", 100, 0.05, &restless).best, Some(0)); // p = 0.15
    }
}
