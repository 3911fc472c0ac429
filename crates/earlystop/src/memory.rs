//! Whether freed memory is returned to the operating system.

/// Keeps freed memory in the process instead of returning it to the operating system. Call it once, at start-up.
///
/// The GNU C library returns large blocks and requests them again for every batch, which can take a third of the time of a
/// validation. With other C libraries this function does nothing. The environment variables
/// `MALLOC_MMAP_THRESHOLD_=33554432` and `MALLOC_TRIM_THRESHOLD_=1073741824` have the same effect; the notebooks' kernel sets
/// them.
///
/// ```
/// earlystop::keep_freed_memory();
/// ```
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, bytes) in [
        (libc::M_MMAP_THRESHOLD, 32 << 20), // the most that it takes
        (libc::M_TRIM_THRESHOLD, 1 << 30),
    ] {
        // SAFETY: `mallopt` may be called at any time, from any thread, and reports values that it does not accept.
        unsafe { libc::mallopt(parameter, bytes) };
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// How often this thread touched a page that it did not have yet.
    fn page_faults() -> i64 {
        // SAFETY: `rusage` consists of integers, so all zeros are valid; the call writes to no more than the struct it is given.
        unsafe {
            let mut usage = std::mem::zeroed();
            assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage), 0);
            usage.ru_minflt
        }
    }

    /// Alone in a child, on its main thread: what the C library keeps for other threads depends on their number.
    #[test]
    fn freed_memory_is_taken_again() {
        const CHILD: &str = "MEMORY_CHILD";
        if std::env::var_os(CHILD).is_none() {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "memory::tests::freed_memory_is_taken_again", "--test-threads=1"]);
            let output = child.env(CHILD, "1").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        keep_freed_memory();
        // As batches do: several large pieces at once, of 2,048 pages each.
        let touch = || drop(std::hint::black_box([(); 3].map(|()| vec![1_u8; 8 << 20])));
        touch();
        let before = page_faults();
        (0..10).for_each(|_| touch());
        let faults = page_faults() - before;
        assert!(faults < 1000, "{faults} page faults");
    }
}
