//! Long tests, which CI runs.

/// Whether to run them.
pub(crate) fn is_long() -> bool {
    std::env::var_os("EARLYSTOP_LONG_TESTS").is_some_and(|value| value == "1")
}
