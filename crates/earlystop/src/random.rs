//! Random numbers as pure functions of (seed, purpose, index), so that no generator has a state to save.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use rand::SeedableRng;
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
    /// Examples drawn with replacement; the index is the iteration.
    Drawing = 6,
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

thread_local! {
    /// Whether this thread holds libtorch's random number generators.
    static HAS_GENERATORS: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether the current thread holds libtorch's generators, within [`with_libtorch_seeded`].
pub(crate) fn has_generators() -> bool {
    HAS_GENERATORS.get()
}

/// Runs a closure that draws random numbers of libtorch, after seeding its generators.
///
/// They are global, and their state cannot be saved. So such work of several threads is done one after the other.
pub(crate) fn with_libtorch_seeded<T>(seed: u64, work: impl FnOnce() -> T) -> T {
    static GENERATORS: Mutex<()> = Mutex::new(());
    /// Releases the generators when it is dropped, even after a panic.
    struct Turn {
        /// Work within such work, on the same thread, disturbs nobody but itself.
        is_inner: bool,
    }
    impl Drop for Turn {
        fn drop(&mut self) {
            HAS_GENERATORS.set(self.is_inner);
        }
    }
    let turn = Turn { is_inner: HAS_GENERATORS.replace(true) };
    let _lock = (!turn.is_inner).then(|| GENERATORS.lock().unwrap_or_else(PoisonError::into_inner));
    tch::manual_seed(seed as i64);
    work()
}

#[cfg(test)]
mod tests {
    use rand::RngCore;

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
