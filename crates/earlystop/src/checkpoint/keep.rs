//! Which checkpoints of a folder are kept.

use super::Saved;

/// Which checkpoints a [`Store`](super::Store) keeps; the others it deletes after the next save.
///
/// The rules add up: a checkpoint stays as long as any of them holds it. Damaged files do not count and are not deleted.
/// To know them, a store reads a file of an earlier process completely, once, before it deletes it or deletes others because
/// of it.
///
/// # Examples
///
/// The last three, the best one, and every thousandth step:
///
/// ```
/// use earlystop::checkpoint::Keep;
///
/// let keep = Keep::last(3).best(1).every(1000);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    last: usize,
    best: usize,
    every: u64,
}

impl Keep {
    /// Keeps everything.
    pub fn all() -> Self {
        Keep::last(usize::MAX)
    }

    /// Keeps the `count` checkpoints that were saved last; at least the very last one.
    pub fn last(count: usize) -> Self {
        Keep { last: count.max(1), best: 0, every: 0 }
    }

    /// Keeps the `count` best ones as well: of the highest scores, and of equal scores the earlier.
    pub fn best(self, count: usize) -> Self {
        Keep { best: count, ..self }
    }

    /// Keeps those as well whose step is a multiple of `steps`; 0 means none.
    pub fn every(self, steps: u64) -> Self {
        Keep { every: steps, ..self }
    }

    /// Says whether the best checkpoint stays.
    pub(crate) fn keeps_best(&self) -> bool {
        self.best > 0 || self.last == usize::MAX || self.every == 1
    }

    /// Returns the checkpoints that hold a place which another one would have without them.
    pub(super) fn deciding<'a>(&self, saved: &'a [Saved]) -> Vec<&'a Saved> {
        let last = saved.iter().rev().take(self.last);
        last.chain(by_score(saved).into_iter().take(self.best)).collect()
    }

    /// Splits checkpoints, the earliest first, into those to keep and those to delete.
    pub(super) fn split(&self, saved: Vec<Saved>) -> (Vec<Saved>, Vec<Saved>) {
        let first_of_last = saved.len().saturating_sub(self.last);
        let best: Vec<_> = by_score(&saved).into_iter().take(self.best).map(|saved| saved.path.clone()).collect();
        let mut index = 0..;
        saved.into_iter().partition(|saved| {
            let is_last = index.next() >= Some(first_of_last);
            is_last || best.contains(&saved.path) || (self.every > 0 && saved.step.is_multiple_of(self.every))
        })
    }
}

/// Those that have a score, the best first, and of equal ones the earliest.
pub(super) fn by_score(saved: &[Saved]) -> Vec<&Saved> {
    let mut scored: Vec<&Saved> = saved.iter().filter(|saved| saved.rank().is_some()).collect();
    scored.sort_by(|a, b| b.rank().partial_cmp(&a.rank()).expect("a rank is a number"));
    scored
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores of the steps 1, 2, 3, …; then the steps that a rule keeps.
    fn kept(keep: &Keep, scores: &[f64]) -> Vec<u64> {
        let saved = scores.iter().zip(1..).map(|(&score, step)| Saved {
            path: format!("step-{step}").into(),
            step,
            score: Some(score),
            commit: step,
        });
        keep.split(saved.collect()).0.iter().map(|saved| saved.step).collect()
    }

    #[test]
    fn rules_add_up() {
        let scores = [0.1, 0.9, 0.3, 0.9, 0.2, 0.4];
        assert_eq!(kept(&Keep::all(), &scores), [1, 2, 3, 4, 5, 6]);
        assert_eq!(kept(&Keep::last(2), &scores), [5, 6]);
        assert_eq!(kept(&Keep::last(1).best(1), &scores), [2, 6]);
        assert_eq!(kept(&Keep::last(1).best(3), &scores), [2, 4, 6]);
        assert_eq!(kept(&Keep::last(1).every(3), &scores), [3, 6]);
        assert_eq!(kept(&Keep::last(2).best(1).every(3), &scores), [2, 3, 5, 6]);
    }

    #[test]
    fn the_very_last_is_always_kept() {
        assert_eq!(kept(&Keep::last(0), &[0.5, 0.1]), [2]);
        assert_eq!(kept(&Keep::last(0).every(0), &[0.5, 0.1]), [2]);
    }

    #[test]
    fn no_number_is_no_best() {
        assert_eq!(kept(&Keep::last(1).best(2), &[f64::NAN, -1.0, f64::NEG_INFINITY, f64::NAN]), [2, 3, 4]);
        assert_eq!(kept(&Keep::last(1).best(9), &[]), [0; 0]);
        assert_eq!(kept(&Keep::last(1).best(1), &[0.0, -0.0]), [1, 2]);
        assert_eq!(kept(&Keep::last(1).best(1), &[-0.0, 0.0, -1.0]), [1, 3]);
    }
}
