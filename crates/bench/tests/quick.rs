//! The quick form of the benchmark: everything but the rivals. Run with `EARLYSTOP_LONG_TESTS=1` (`cargo xtask test --long`,
//! and in CI).

use std::path::Path;
use std::process::Command;

#[test]
fn the_quick_form_writes_table_numbers_and_figure() {
    if std::env::var_os("EARLYSTOP_LONG_TESTS").is_none() {
        eprintln!("left out: set EARLYSTOP_LONG_TESTS=1 to run it");
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    let output = bench.arg("--quick").arg("--out").arg(out.path()).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let table = std::fs::read_to_string(out.path().join("benchmark.md")).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), table.trim());
    for expected in [
        "| **earlystop** |",
        "| the tutorial's |",
        "| a commit, ms |",
        "| 2 | ", // busy processes
        "| save, 1 MB | ",
        "| checkpoints | open and lock, ms |",
        "| state | foreground, ms |",
    ] {
        assert!(table.contains(expected), "{expected} is not in {table}");
    }
    let numbers = std::fs::read(out.path().join("benchmark.json")).unwrap();
    let numbers: serde_json::Value = serde_json::from_slice(&numbers).unwrap();
    let seconds = &numbers["contestants"][0]["seconds_per_iteration"]["rounds"];
    assert!(seconds.as_array().is_some_and(|rounds| rounds.len() == 2), "{seconds}");
    assert!(std::fs::read(out.path().join("benchmark.png")).unwrap().starts_with(b"\x89PNG"));
}
