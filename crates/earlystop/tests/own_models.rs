//! The models of `examples/own_*.rs`: killed and started again, each ends with the bits of a run that nobody interrupted.
#![cfg(feature = "torch")]

#[path = "common/example.rs"]
mod example;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use earlystop::checkpoint::Store;

use example::{example, tensors};

fn command(name: &str, folder: &Path, iterations: u64) -> Command {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    let mut command = Command::new(example(name));
    command.arg(folder).arg(iterations.to_string()).env("GOMP_SPINCOUNT", "1000");
    if name == "own_images" {
        command.args([data.join("MNIST"), data.join("photographs")]);
    }
    command
}

/// Runs to the end, and returns what was printed.
fn finish(mut command: Command) -> String {
    let output = command.output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout
}

fn newest(folder: &Path) -> u64 {
    let latest = || Store::open(folder).ok()?.latest().ok()?;
    latest().map_or(0, |saved| saved.step)
}

/// Kills the child as soon as it has saved an iteration after `after`.
fn kill_after(mut child: Child, folder: &Path, after: u64) {
    while newest(folder) <= after {
        assert!(child.try_wait().unwrap().is_none(), "the example ended before it saved anything after {after}");
        sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The bytes of all tensors of the last checkpoint, and the evaluations without their times.
fn state(folder: &Path, iteration: u64) -> (Vec<(String, Vec<u8>)>, Vec<serde_json::Value>) {
    let lines = std::fs::read_to_string(folder.join("history-0001.jsonl")).unwrap();
    let mut history: Vec<serde_json::Value> =
        lines.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    history.iter_mut().for_each(|seen| drop(seen["elapsed"].take()));
    (tensors(folder, iteration), history)
}

/// Interrupts a run twice, and compares it with one that was not. `tensor` is one that the checkpoint must have.
fn same_bits(name: &str, every: u64, evaluations: u64, tensor: &str, printed: &[&str]) {
    let [straight, killed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let end = evaluations * every;
    let lines = finish(command(name, straight.path(), end));
    for text in printed {
        assert!(lines.contains(text), "{text:?} in\n{lines}");
    }
    for after in [0, every] {
        let child = command(name, killed.path(), 1_000_000).stdout(Stdio::null()).spawn().unwrap();
        kill_after(child, killed.path(), after);
    }
    assert!(newest(killed.path()) < end, "the example was killed too late");
    let lines = finish(command(name, killed.path(), end));
    assert!(lines.contains("Resumed from "), "{lines}");
    assert!(!lines.contains("Note:"), "{lines}");
    let (expected, found) = (state(straight.path(), end), state(killed.path(), end));
    assert!(expected.0.iter().any(|(known, _)| known == tensor), "{tensor}");
    assert_eq!(found.1, expected.1);
    assert_eq!(found.1.len() as u64, evaluations);
    for (expected, found) in expected.0.iter().zip(&found.0) {
        assert!(expected == found, "{} differs", expected.0);
    }
    assert_eq!(found.0.len(), expected.0.len());
}

#[test]
fn a_regression_on_a_table() {
    let printed = ["validation rmse: ", "Best: validation rmse ", "Test set: "];
    same_bits("own_table", 100, 30, "adam_w.m/layer2.weight", &printed);
}

#[test]
fn a_recurrent_network_with_dropout_on_text() {
    same_bits("own_text", 50, 4, "adam.v/gru.weight_hh_l0", &["validation loss: ", "    /// Returns the "]);
}

#[test]
fn a_network_with_batch_normalization_on_coloured_images() {
    same_bits("own_images", 50, 4, "norm2.running_var", &["Validation Acc: ", "Test accuracy: "]);
}
