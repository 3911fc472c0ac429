//! Distributes work over threads.

use std::sync::OnceLock;
use std::thread;

use crate::{Error, Result};

/// The first error of several threads, by which the others know that they may stop.
#[derive(Default)]
pub(super) struct FirstError(OnceLock<Error>);

impl FirstError {
    pub(super) fn is_set(&self) -> bool {
        self.0.get().is_some()
    }
}

/// Runs `work` on up to `jobs` threads, the current one among them, and returns the first error.
///
/// `work` takes jobs from a list that the threads share. If there are few bytes to handle, one thread is faster.
pub(super) fn run_on_threads(bytes: u64, jobs: usize, work: impl Fn(&FirstError) -> Result<()> + Sync) -> Result<()> {
    const MAX_THREADS: usize = 4;
    const MIN_BYTES: u64 = 8 << 20;
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(jobs);
    let first_error = FirstError::default();
    if bytes < MIN_BYTES || threads <= 1 {
        return work(&first_error);
    }
    let work = || {
        if let Err(error) = work(&first_error) {
            let _ = first_error.0.set(error);
        }
    };
    thread::scope(|scope| {
        // A system without threads to spare lets fewer do the work.
        let others: Vec<_> =
            (1..threads).map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        work();
        for other in others {
            other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    first_error.0.into_inner().map_or(Ok(()), Err)
}
