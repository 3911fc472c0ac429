//! The names of scores, and their values as text.

/// The fraction of the validation set that is classified correctly.
pub(crate) const VALIDATION_ACCURACY: &str = "validation_accuracy";
/// The mean loss over the validation set.
pub(crate) const VALIDATION_LOSS: &str = "validation_loss";
/// The mean loss over the training batches since the last evaluation; the loss of a single batch is noisy.
pub(crate) const TRAIN_LOSS: &str = "train_loss";
/// The accuracy on training images.
pub(crate) const TRAIN_ACCURACY: &str = "train_accuracy";
/// The accuracy on the test set.
pub(crate) const TEST_ACCURACY: &str = "test_accuracy";
/// What the names of scores begin with that take no part in any decision.
pub(super) const TEST: &str = "test_";

/// The name of a score in words: `training loss` for `train_loss`.
pub(crate) fn in_words(name: &str) -> String {
    match name.strip_prefix("train_") {
        Some(rest) => format!("training {}", rest.replace('_', " ")),
        None => name.replace('_', " "),
    }
}

pub(super) fn is_accuracy(name: &str) -> bool {
    name.ends_with("accuracy")
}

/// Says whether a score only informs.
pub(super) fn is_of_test_set(name: &str) -> bool {
    name.starts_with(TEST)
}

/// About four digits of a number of any size.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        size if size != 0.0 && !(1e-3..1e6).contains(&size) && value.is_finite() => format!("{value:.3e}"),
        size if size < 10.0 => format!("{value:.4}"),
        size if size < 1000.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}
