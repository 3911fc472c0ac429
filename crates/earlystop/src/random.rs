//! Random numbers as pure functions of (seed, purpose, index), so that no generator has a state to save.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What numbers are drawn for: each purpose has streams of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Initial values of the variables; the index counts the initializations.
    Initialization = 1,
    /// The order of the training examples; the index is the epoch.
    Shuffling = 2,
    /// Dropout's masks; the index is the iteration.
    Dropout = 3,
    /// The seed of libtorch's generator; the index is the iteration of a step.
    Step = 4,
    /// The seed of libtorch's generator; the index is the iteration of an evaluation.
    Evaluation = 5,
}

/// Returns the generator of one stream, always the same for the same arguments.
pub(crate) fn stream(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8] = purpose as u8;
    let mut generator = ChaCha8Rng::from_seed(key);
    generator.set_stream(index);
    generator
}

/// Seeds libtorch's generators, which are global and whose state cannot be saved.
pub(crate) fn seed_libtorch(seed: u64, purpose: Purpose, index: u64) {
    tch::manual_seed(stream(seed, purpose, index).next_u64() as i64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(seed: u64, purpose: Purpose, index: u64) -> u64 {
        stream(seed, purpose, index).next_u64()
    }

    #[test]
    fn a_stream_repeats_itself() {
        assert_eq!(first(7, Purpose::Shuffling, 3), first(7, Purpose::Shuffling, 3));
    }

    #[test]
    fn seed_purpose_and_index_each_change_the_stream() {
        let drawn = first(7, Purpose::Shuffling, 3);
        assert_ne!(drawn, first(8, Purpose::Shuffling, 3));
        assert_ne!(drawn, first(7, Purpose::Dropout, 3));
        assert_ne!(drawn, first(7, Purpose::Shuffling, 4));
    }
}
