//! Another number of libtorch's threads.

use earlystop::tch;

/// Runs something on another thread, for which libtorch has this number of threads.
pub(crate) fn with_threads<T: Send>(threads: i32, run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = || {
            let _ = tch::get_num_threads(); // else the first use of libtorch would set what another thread has set meanwhile
            tch::set_num_threads(threads);
            let result = run();
            assert_eq!(tch::get_num_threads(), threads, "they are libtorch's again afterwards");
            result
        };
        scope.spawn(run).join().unwrap()
    })
}
