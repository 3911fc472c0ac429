//! A Python with a package, for tests that compare with Python's view of our files.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns a Python that has a package: that of `EARLYSTOP_PYTHON`, of the environments that `cargo xtask` makes, or of the system.
/// In CI it must be there; elsewhere a line says that the test is skipped.
pub(crate) fn with(package: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let candidates = std::env::var_os("EARLYSTOP_PYTHON").map(PathBuf::from).into_iter().chain([
        workspace.join(".venv/bin/python"),
        workspace.join(".venv/Scripts/python.exe"),
        workspace.join(".kernel/readers/bin/python"),
        PathBuf::from("python3"),
    ]);
    let import = format!("import {package}");
    let has_package = |python: &PathBuf| {
        Command::new(python).args(["-c", &import]).output().is_ok_and(|output| output.status.success())
    };
    let python = candidates.into_iter().find(has_package);
    if python.is_none() {
        let problem =
            format!("no Python with {package}: `cargo xtask test` makes one, or name one by EARLYSTOP_PYTHON");
        assert!(std::env::var_os("CI").is_none(), "{problem}");
        eprintln!("SKIPPED: {problem}");
    }
    python
}
