//! What `examples/fingerprint.rs` prints.
#![cfg(feature = "torch")]

#[path = "common/example.rs"]
#[allow(dead_code)] // it also reads checkpoints
mod example;

use std::process::{Command, Output};

use example::example;

fn run(arguments: &[&str]) -> Output {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/MNIST");
    Command::new(example("fingerprint")).args(arguments).arg(data).output().unwrap()
}

#[test]
fn the_tutorials_fingerprint_is_the_same_with_one_thread_and_with_three() {
    let fingerprint = |threads: &str, iterations: &str| {
        let output = run(&["--iterations", iterations, "--threads", threads]);
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
        assert!(printed.contains(&format!("threads: {threads}\n")), "{printed}");
        printed.lines().last().unwrap().to_owned()
    };
    let expected = fingerprint("1", "5");
    assert!(expected.len() == 64 && expected.bytes().all(|byte| byte.is_ascii_hexdigit()), "{expected}");
    assert_eq!(fingerprint("3", "5"), expected);
    assert_ne!(fingerprint("3", "6"), expected);
}

#[test]
fn other_arguments_are_refused() {
    for (arguments, expected) in [
        (&["--threads", "0"][..], "--threads: expected a positive number, found \\\"0\\\""),
        (&["--iterations", "many"], "--iterations: expected a positive number, found \\\"many\\\""),
        (&["--thread", "2"], "expected --iterations N, --threads N or a folder, found --thread"),
    ] {
        let output = run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(expected), "{error}");
    }
}
