//! Distributes work over threads.

use std::sync::Mutex;
use std::thread;

use crate::Result;

/// Runs `work` on up to `jobs` threads, the current one among them, and returns the first error.
///
/// `work` takes jobs from a list that the threads share. If there are few bytes to handle, one thread is faster.
pub(super) fn run_on_threads(bytes: u64, jobs: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    const MAX_THREADS: usize = 4;
    const MIN_BYTES: u64 = 8 << 20;
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(jobs);
    if bytes < MIN_BYTES || threads <= 1 {
        return work();
    }
    let first_error = Mutex::new(None);
    let work = || {
        if let Err(error) = work() {
            first_error.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
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
    first_error.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).map_or(Ok(()), Err)
}
