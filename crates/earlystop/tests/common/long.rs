//! The switch for long tests, which CI sets.

/// Returns whether long tests are to be run.
pub(crate) fn is_long() -> bool {
    std::env::var_os("EARLYSTOP_LONG_TESTS").is_some_and(|value| value == "1")
}
