//! The order of the training examples, as a pure function of (seed, iteration).

use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::random::{Purpose, stream};

/// How the examples of the batches are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Each epoch in a new random order, without replacement.
    #[default]
    ShuffledEpochs,
    /// Each example drawn at random from all of them, so that one may come several times before another comes at all.
    WithReplacement,
    /// By their indices, again and again: for data that is already in a random order, or whose order matters.
    Sequential,
}

/// Chooses the examples of each batch: every epoch is a new random order of all examples, without replacement, unless
/// [`with_order`](Self::with_order) says otherwise.
///
/// If the batch size does not divide the number of examples, one batch contains the end of an epoch and the start of the next.
/// The examples of an iteration are a function of the seed and its number, so a resumed run continues with the same batches
/// although nothing about them was saved. Stands in for `data.train.next_batch(batch_size)`.
///
/// ```
/// use earlystop::Batches;
///
/// let mut batches = Batches::new(10, 4, 7)?; // 10 examples, 4 in a batch, seed 7
/// let first_epoch = [1, 2, 3].map(|iteration| batches.indices(iteration)).concat();
/// let mut examples = first_epoch[..10].to_vec();
/// examples.sort();
/// assert_eq!(examples, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Batches {
    num_examples: usize,
    batch_size: usize,
    seed: u64,
    order: Order,
    /// The epoch drawn last and its order: what is remembered changes the cost of a call, never its result.
    epoch: Option<(u64, Vec<usize>)>,
}

impl Batches {
    /// Prepares batches of `batch_size` out of `num_examples` examples.
    ///
    /// # Errors
    ///
    /// If there is no example, or the batch size is not 1 to `num_examples`.
    pub fn new(num_examples: usize, batch_size: usize, seed: u64) -> Result<Self> {
        if !(1..=num_examples).contains(&batch_size) {
            let expected = format!("1 to the number of training examples, {num_examples}");
            return Err(Error::setting("batch size", expected, batch_size));
        }
        Ok(Self { num_examples, batch_size, seed, order: Order::default(), epoch: None })
    }

    /// Chooses the examples in another order.
    pub fn with_order(self, order: Order) -> Self {
        Self { order, epoch: None, ..self }
    }

    /// Returns the order.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Returns the number of examples in a batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Returns the seed of the order.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns how many passes over the examples are complete after an iteration; of examples [drawn](Order::WithReplacement) at
    /// random, as many as there are make a pass.
    pub fn epochs(&self, iteration: u64) -> u64 {
        let examples = u128::from(iteration) * self.batch_size as u128;
        (examples / self.num_examples as u128).min(u64::MAX.into()) as u64
    }

    /// Returns the indices of the examples in the batch of an iteration. The first iteration is 1.
    pub fn indices(&mut self, iteration: u64) -> Vec<usize> {
        if self.order == Order::WithReplacement {
            let mut random = stream(self.seed, Purpose::Drawing, iteration);
            return (0..self.batch_size).map(|_| random.gen_range(0..self.num_examples)).collect();
        }
        let size = self.num_examples as u128;
        let begin = u128::from(iteration.saturating_sub(1)) * self.batch_size as u128;
        let place = |position: u128| ((position / size) as u64, (position % size) as usize);
        (begin..begin + self.batch_size as u128).map(place).map(|(epoch, index)| self.example(epoch, index)).collect()
    }

    fn example(&mut self, epoch: u64, index: usize) -> usize {
        if self.order == Order::Sequential {
            return index;
        }
        if self.epoch.as_ref().is_none_or(|(drawn, _)| *drawn != epoch) {
            let mut order = (0..self.num_examples).collect::<Vec<_>>();
            order.shuffle(&mut stream(self.seed, Purpose::Shuffling, epoch));
            self.epoch = Some((epoch, order));
        }
        self.epoch.as_ref().map_or(index, |(_, order)| order[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_iteration_gives_the_same_batch_whatever_was_asked_before() {
        let mut straight = Batches::new(55_000, 64, 1).unwrap();
        let all = (1..=900).map(|iteration| straight.indices(iteration)).collect::<Vec<_>>();
        let mut anew = Batches::new(55_000, 64, 1).unwrap();
        for iteration in [900, 860, 859, 1] {
            assert_eq!(anew.indices(iteration), all[iteration as usize - 1]);
        }
    }

    #[test]
    fn seeds_and_epochs_have_orders_of_their_own() {
        let epoch = |seed, iteration| Batches::new(50, 50, seed).unwrap().indices(iteration);
        assert_ne!(epoch(1, 1), epoch(2, 1));
        assert_ne!(epoch(1, 1), epoch(1, 2));
    }

    #[test]
    fn the_order_is_the_one_of_older_releases() {
        assert_eq!(Batches::new(10, 10, 42).unwrap().indices(1), [5, 7, 8, 6, 1, 3, 2, 9, 4, 0]);
    }

    #[test]
    fn an_epoch_ends_with_its_last_example() {
        let batches = Batches::new(10, 4, 0).unwrap();
        assert_eq!([0, 2, 3, 4, 5, 8].map(|iteration| batches.epochs(iteration)), [0, 0, 1, 1, 2, 3]);
        assert_eq!(Batches::new(1, 1, 0).unwrap().epochs(u64::MAX), u64::MAX);
    }

    #[test]
    fn impossible_batch_sizes_are_refused() {
        let message = Batches::new(10, 11, 0).unwrap_err().to_string();
        assert_eq!(message, "batch size: expected 1 to the number of training examples, 10, found 11");
        assert!(Batches::new(10, 0, 0).is_err());
        assert!(Batches::new(0, 1, 0).is_err());
    }

    proptest! {
        #[test]
        fn every_epoch_sees_every_example_once(num_examples in 1_usize..40, batch in 1_usize..40, seed: u64) {
            let batch = batch.min(num_examples);
            let mut batches = Batches::new(num_examples, batch, seed).unwrap();
            let seen = (1..=num_examples as u64).flat_map(|iteration| batches.indices(iteration)).collect::<Vec<_>>();
            for epoch in seen.chunks_exact(num_examples) {
                let mut epoch = epoch.to_vec();
                epoch.sort();
                prop_assert_eq!(epoch, (0..num_examples).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn each_order_is_a_function_of_seed_and_iteration() {
        for order in [Order::ShuffledEpochs, Order::WithReplacement, Order::Sequential] {
            let new = |seed| Batches::new(10, 4, seed).unwrap().with_order(order);
            let forwards: Vec<_> = (1..20).map(|iteration| (iteration, new(7).indices(iteration))).collect();
            let mut batches = new(7);
            for (iteration, indices) in forwards.iter().rev() {
                assert_eq!(&batches.indices(*iteration), indices);
                assert!(indices.iter().all(|&index| index < 10));
            }
            let differs = (1..20).any(|iteration| new(8).indices(iteration) != new(7).indices(iteration));
            assert_eq!(differs, order != Order::Sequential);
        }
        let mut sequential = Batches::new(10, 4, 7).unwrap().with_order(Order::Sequential);
        assert_eq!([1, 2, 3].map(|it| sequential.indices(it)).concat(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
        let mut drawn = Batches::new(10, 4, 7).unwrap().with_order(Order::WithReplacement);
        let epoch: Vec<_> = (1..=5).flat_map(|iteration| drawn.indices(iteration)).collect();
        assert!((0..10).any(|example| epoch.iter().filter(|&&seen| seen == example).count() != 2));
    }
}
