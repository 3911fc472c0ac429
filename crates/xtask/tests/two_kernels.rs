//! Two real kernels at once: a long test.

mod common;

use std::path::Path;
use std::process::Command;

const SESSIONS: &str = include_str!("two_kernels.py");

/// A user's own settings for cargo.
const SETTINGS: [(&str, &str); 7] = [
    ("CARGO_BUILD_BUILD_DIR", "/dev/null/elsewhere"),
    ("CARGO_BUILD_TARGET", "host-tuple"),
    ("CARGO_ENCODED_RUSTFLAGS", "-Copt-level=1"),
    ("CARGO_INCREMENTAL", "0"),
    ("CARGO_TARGET_DIR", "/dev/null/elsewhere"),
    ("RUSTC_WRAPPER", "/usr/bin/env"),
    ("RUSTFLAGS", "-Copt-level=1"),
];

#[test]
fn two_kernels_at_once_are_both_warm_and_each_runs_its_own_code() {
    let Some(python) = common::python_with_kernel() else { return };
    let compiled = run_two(&python, &[]);
    // The crate itself may have changed since the warm-up.
    assert!(compiled.iter().all(|line| line.contains("Compiling earlystop ")), "compiled anew: {compiled:#?}");
    // The same two folders, and so nothing is left to compile.
    let compiled = run_two(&python, &SETTINGS);
    assert!(compiled.is_empty(), "compiled anew: {compiled:#?}");
}

/// Runs two kernels at once; gives what cargo compiled for them.
fn run_two(python: &Path, variables: &[(&str, &str)]) -> Vec<String> {
    let notebooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../notebooks");
    let output = Command::new(python)
        .args(["-c", SESSIONS])
        .env("JUPYTER_PREFER_ENV_PATH", "1")
        .envs(variables.iter().copied())
        .current_dir(notebooks)
        .output()
        .unwrap();
    let (said, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complaints}");

    let sessions: Vec<serde_json::Value> =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}:\n{said}\n{complaints}"));
    let [one, two] = &sessions[..] else { panic!("expected two sessions:\n{said}\n{complaints}") };
    assert_ne!(one["folder"], two["folder"]);
    let mut results =
        [&one["texts"], &two["texts"]].map(|texts| serde_json::from_value::<Vec<String>>(texts.clone()).unwrap());
    results.sort();
    let expected = [10, 20].map(|factor| (0..8).map(|x| (x * factor).to_string()).collect::<Vec<String>>());
    assert_eq!(results, expected);
    println!("ready with the crate after {} s and {} s, started together", one["seconds"], two["seconds"]);
    // evcxr relays what cargo compiles below a cell.
    let compiled = complaints.lines().filter(|line| line.trim_start().starts_with("Compiling"));
    compiled.map(str::to_owned).collect()
}
