//! `history` and `replay`.

mod common;

use std::fs;
use std::path::Path;

use common::{folder, golden, run, run_in};
use earlystop::checkpoint::{Metadata, Store};
use earlystop::early_stopping::{EarlyStopping, Metric, Observation, Patience};
use serde_json::json;
use sha2::{Digest, Sha256};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a history as a trainer does, and a checkpoint that names its end.
fn write_history(folder: &Path, lines: &[String]) {
    let head = "{\"history\":1,\"parent\":null}\n";
    let mut sum = hex(&Sha256::digest(head));
    for line in lines {
        sum = hex(&Sha256::new().chain_update(&sum).chain_update(format!("{line}\n")).finalize());
    }
    let text = format!("{head}{}\n", lines.join("\n"));
    fs::write(folder.join("history-0001.jsonl"), &text).unwrap();
    let position = json!({"file": "history-0001.jsonl", "bytes": text.len(), "lines": lines.len(), "sha256": sum});
    let trainer = json!({"settings": {"rule": Patience::new(100).on(Metric::lower("validation_rmse"))}});
    let metadata = json!({
        "checkpoint.format": "1",
        "checkpoint.history": position.to_string(),
        "checkpoint.step": "400",
        "trainer": trainer.to_string(),
    });
    // The checksum comes first, and is taken with zeros in its place.
    let zeros = "0".repeat(64);
    let header = format!("{{\"__metadata__\":{{\"checkpoint.sha256\":\"{zeros}\",{}}}", &metadata.to_string()[1..]);
    let header = header.replacen(&zeros, &hex(&Sha256::digest(&header)), 1);
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    fs::write(folder.join("step-000400.safetensors"), bytes).unwrap();
}

const RMSE: [f64; 4] = [3.0, 2.0, 2.5, f64::NAN];

fn lines() -> Vec<String> {
    let observe = |(iteration, rmse)| {
        serde_json::to_string(&Observation::of(iteration, [("validation_rmse", rmse), ("train_rmse", 1.0)])).unwrap()
    };
    (100..).step_by(100).zip(RMSE).map(observe).collect()
}

#[test]
fn the_history_beside_the_checkpoints_is_read() {
    let dir = tempfile::tempdir().unwrap();
    write_history(dir.path(), &lines());
    let ran = run_in(dir.path(), "history {}").ends_with(0);
    let rows: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["train", "validation"]);
    assert_eq!(rows[1], ["iteration", "rmse", "rmse"]);
    assert_eq!(rows[3], ["200", "1.0000", "2.0000", "best"], "the rule monitors it, and lower is better");
    assert_eq!(rows[5], ["400", "1.0000", "NaN"]);

    let ran = run_in(dir.path(), "history --csv {}").ends_with(0);
    assert_eq!(ran.out.lines().next(), Some("iteration,train_rmse,validation_rmse,epochs,seconds"));
    assert_eq!(ran.out.lines().last(), Some("400,1,NaN,,"));
    let json = run_in(dir.path(), "history --json {}").ends_with(0).json();
    assert_eq!((&json["best"], &json["score"]), (&json!(200), &json!("validation_rmse")));
    let last = json!({"iteration": 400, "scores": {"train_rmse": 1.0, "validation_rmse": "NaN"}, "epochs": null, "seconds": null});
    assert_eq!(json["evaluations"][3], last);

    let ran = run_in(dir.path(), "history --score train_rmse {}").ends_with(0);
    assert!(!ran.out.contains("validation") && ran.out.lines().nth(2).unwrap().ends_with("best"), "{}", ran.out);
    let ran = run(["history", "--score", "higher validation_rmse", dir.path().to_str().unwrap()]).ends_with(0);
    assert!(ran.out.lines().nth(2).unwrap().ends_with("3.0000  best"), "{}", ran.out);
    let ran = run_in(dir.path(), "history --score accuracy {}").ends_with(2);
    assert!(
        ran.err.contains("no score \"accuracy\" in the history: known are train_rmse, validation_rmse"),
        "{}",
        ran.err
    );

    // What follows on the last saved line is not part of it, and damage is named.
    let path = dir.path().join("history-0001.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}{{\"iteration\"")).unwrap();
    run_in(dir.path(), "history {}").ends_with(0);
    fs::write(&path, text.replace("2.5", "2.4")).unwrap();
    let ran = run_in(dir.path(), "history {}").ends_with(2);
    assert!(
        ran.err.contains("the history is missing") && ran.err.contains("changed since it was written"),
        "{}",
        ran.err
    );
    run_in(dir.path(), "list {}").ends_with(0);
}

#[test]
fn the_history_within_the_checkpoint_of_an_earlier_version_is_read() {
    let ran = run([&"history".into(), &golden("0.1.0/patience")]).ends_with(0);
    assert!(ran.out.contains("60    93.75%  0.6841      91.67%      0.5292  0:00:00  best\n"), "{}", ran.out);
    let ran = run([&"history".into(), &golden("0.1.0/patience/step-000070.safetensors")]).ends_with(0);
    assert_eq!(ran.out.lines().count(), 2 + 7, "until the file was saved: {}", ran.out);
}

#[test]
fn the_history_of_a_loop_of_ones_own_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut stopping = EarlyStopping::with(Patience::new(2).on(Metric::lower("validation_loss"))).unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    for (step, loss) in (1..).zip([0.9, 0.5, 0.6]) {
        stopping.record(Observation::of(step, [("validation_loss", loss)])).unwrap();
        let metadata = Metadata::from([("stopping".to_owned(), serde_json::to_string(&stopping).unwrap())]);
        store.save(step, Some(-loss), &[], &metadata).unwrap();
    }
    let json = run_in(dir.path(), "history --json {}").ends_with(0).json();
    assert_eq!((&json["best"], &json["evaluations"][2]["scores"]["validation_loss"]), (&json!(2), &json!(0.6)));
    let ran = run_in(dir.path(), "list {}").ends_with(0);
    assert!(ran.out.contains("0.5000"), "{}", ran.out);
}

#[test]
fn without_a_history_there_are_the_scores_of_the_checkpoints() {
    let dir = folder(&[(100, Some(0.5)), (200, Some(0.75)), (300, None)]);
    let ran = run_in(dir.path(), "history {}").ends_with(0);
    assert!(ran.err.contains("no history is recorded"), "{}", ran.err);
    assert!(ran.out.ends_with("200  0.7500  best\n"), "{}", ran.out);
    let ran = run_in(dir.path(), "history {}/step-000100.safetensors").ends_with(1);
    assert!(ran.err.contains("no history"), "{}", ran.err);
    let dir = folder(&[(100, None)]);
    run_in(dir.path(), "history {}").ends_with(1);
}

#[test]
fn a_curve_is_drawn_and_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write_history(dir.path(), &lines());
    let png = dir.path().join("curve.png");
    run_in(dir.path(), "history --png {}/curve.png {}").ends_with(0);
    assert!(fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    fs::write(&png, "mine").unwrap();
    let ran = run_in(dir.path(), "history --png {}/curve.png {}").ends_with(2);
    assert!(ran.err.contains("--force"), "{}", ran.err);
    assert_eq!(fs::read(&png).unwrap(), b"mine");
    run_in(dir.path(), "history --png {}/curve.png --force {}").ends_with(0);
    assert!(fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    run_in(dir.path(), "history --csv --json {}").ends_with(2);
}

#[test]
fn rules_are_replayed() {
    let folder = golden("0.1.0/patience");
    let folder = folder.to_str().unwrap();
    let rules = ["--rule", "patience(15)", "--rule", "never", "--rule", "target(0.7)", "--rule", "patience(1 epoch)"];
    let ran = run([&["replay", folder][..], &rules].concat()).ends_with(0);
    let row = |index: usize| ran.out.lines().nth(2 + index).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(row(0), ["patience(15)", "26", "10", "validation_accuracy", "54.17%", "54", "(68%)"]);
    assert_eq!(row(1), ["never", "-", "60", "validation_accuracy", "91.67%", "0", "(0%)"]);
    assert_eq!(row(2), ["target(0.7)", "30", "30", "validation_accuracy", "70.83%", "50", "(62%)"]);
    assert!(ran.out.contains("patience(1 epoch): cannot judge iteration 10"), "{}", ran.out);
    assert!(ran.out.ends_with("The run has 80 iterations.\n"), "{}", ran.out);

    let json = run([&["replay", "--json", folder][..], &rules].concat()).ends_with(0).json();
    assert_eq!(json["rules"][0]["stops_at"], 26);
    assert_eq!(json["rules"][0]["reason"]["kind"], "NoImprovement");
    assert_eq!(json["rules"][1]["stops_at"], json!(null));
    assert_eq!(json["rules"][2]["keeps"]["iteration"], 30);
    assert_eq!(json["iterations"], 80);
}

#[test]
fn an_error_of_a_rule_points_at_it() {
    let folder = golden("0.1.0/patience");
    let folder = folder.to_str().unwrap();
    let ran = run(["replay", folder, "--rule", "patience(1000, smooth 0.9)"]).ends_with(2);
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines[1], "  patience(1000, smooth 0.9)");
    assert!(lines[2].starts_with("                 ^ expected `min delta`, `smoothing`"), "{}", ran.err);
    assert_eq!(lines[2].find('^'), lines[1].find("smooth"));
    // Wide characters, and escaped ones.
    let ran = run(["replay", folder, "--rule", "named(\"猫\u{200b}\", GL 5)"]).ends_with(2);
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines[1], r#"  named("猫\u{200b}", GL 5)"#);
    assert_eq!(lines[2].find('^'), Some(2 + r#"named("猫\u{200b}", GL "#.chars().count() + 1), "{}", ran.err);

    let ran = run(["replay", folder, "--rule", "target(2)"]).ends_with(2);
    assert!(ran.err.contains("target"), "a rule without a meaning: {}", ran.err);
    run(["replay", folder]).ends_with(2);
}
