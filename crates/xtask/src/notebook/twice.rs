//! What makes it cheap to execute a notebook with every cell run twice: shorter trainings.

use std::path::Path;

use super::ipynb::Notebook;
use crate::{Error, Result};

/// The configuration of nbconvert that does it, to follow `execute.py`.
pub(super) const CONFIGURATION: &str = include_str!("twice.py");

/// A text in a notebook's cells, and what stands in its place.
type Replacement = (&'static str, &'static str);

/// Gives the replacements for a notebook as `twice.py` takes them.
///
/// # Errors
/// If one has nothing to replace: the notebook was changed and would train for long.
pub(super) fn shorter(notebook: &Path) -> Result<String> {
    let name = notebook.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let replacements = replacements(name);
    let cells = Notebook::read(notebook)?.cells;
    for (old, _) in replacements {
        if !cells.iter().any(|cell| cell.source.contains(old)) {
            return Err(Error::new(format!("shorten the trainings of {name}"))
                .got(format!("no cell contains `{old}`"))
                .hint("Adapt the replacements in crates/xtask/src/notebook/twice.rs to the notebook."));
        }
    }
    Ok(serde_json::Value::from_iter(replacements.iter().map(|&(old, new)| vec![old, new])).to_string())
}

/// The long runs of the exercises are kept, so that nothing of theirs is trained again.
fn replacements(name: &str) -> &'static [Replacement] {
    match name {
        "04_save_restore.ipynb" => &[("10_000 - progress.total_iterations.min(10_000)", "200")],
        "04_exercises.ipynb" => &[
            ("&data.train, 0, 500)", "&data.train, 0, 20)"),
            ("iteration - 100, iteration)", "iteration - 10, iteration)"),
            ("(0..=400u64)", "(0..=100u64)"),
            ("&data.train, 0, 1000)", "&data.train, 0, 20)"),
        ],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_replacement_has_its_place_in_the_notebooks() {
        let notebooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../notebooks");
        for name in ["04_save_restore.ipynb", "04_exercises.ipynb"] {
            assert!(shorter(&notebooks.join(name)).unwrap().starts_with("[["), "{name}");
        }
    }

    #[test]
    fn a_training_that_would_be_long_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let notebook = folder.path().join("04_save_restore.ipynb");
        std::fs::write(&notebook, r#"{"cells": [], "nbformat": 4, "nbformat_minor": 5}"#).unwrap();
        assert!(shorter(&notebook).unwrap_err().to_string().contains("no cell contains `10_000"));
        let other = folder.path().join("other.ipynb");
        std::fs::rename(&notebook, &other).unwrap();
        assert_eq!(shorter(&other).unwrap(), "[]");
    }
}
