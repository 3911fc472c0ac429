//! `diff`.

mod common;

use std::fs;

use common::{damage, golden, run, run_in, save, write_foreign};
use earlystop::checkpoint::{Metadata, NamedTensor, Saver};
use half::bf16;
use serde_json::json;

#[test]
fn equal_files_end_with_0_and_others_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| dir.path().join(format!("{name}.safetensors")));
    save(&a, vec![NamedTensor::new("w", &[1.0f32, 2.0, 3.0][..]), NamedTensor::new("same", &[7u8][..])]);
    save(&b, vec![NamedTensor::new("w", &[1.0f32, 2.5, 3.0][..]), NamedTensor::new("same", &[7u8][..])]);
    let ran = run_in(dir.path(), "diff {}/a.safetensors {}/a.safetensors").ends_with(0);
    assert!(ran.out.ends_with("identical: 2 tensors\n"), "{}", ran.out);
    let ran = run_in(dir.path(), "diff {}/a.safetensors {}/b.safetensors").ends_with(1);
    let row: Vec<&str> = ran.out.lines().find(|line| line.starts_with("w ")).unwrap().split_whitespace().collect();
    assert_eq!(row, ["w", "3", "1", "33%", "0.500", "0.200"]);
    assert!(ran.out.ends_with("different: 1 tensor\nidentical: 1 tensor\n"), "{}", ran.out);

    let ran = run_in(dir.path(), "diff --tolerance 0.5 {}/a.safetensors {}/b.safetensors").ends_with(0);
    assert!(ran.out.contains("within the tolerance: 1 tensor, max |a-b| 0.500"), "{}", ran.out);
    run_in(dir.path(), "diff --tolerance 0.4 {}/a.safetensors {}/b.safetensors").ends_with(1);
    run_in(dir.path(), "diff --relative 0.21 {}/a.safetensors {}/b.safetensors").ends_with(0);
    run_in(dir.path(), "diff --relative 0.19 {}/a.safetensors {}/b.safetensors").ends_with(1);
    run_in(dir.path(), "diff --tolerance -1 {}/a.safetensors {}/b.safetensors").ends_with(2);
    run_in(dir.path(), "diff --tolerance nan {}/a.safetensors {}/b.safetensors").ends_with(2);
}

#[test]
fn everything_that_differs_is_reported_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| dir.path().join(format!("{name}.safetensors")));
    let half = |values: [f32; 3]| values.map(bf16::from_f32);
    let (x, y) = (half([1.0, f32::NAN, -2.0]), half([1.0, 1.0, -3.0]));
    let metadata =
        |note: &str| Metadata::from([("note".to_owned(), note.to_owned()), ("same".to_owned(), "1".to_owned())]);
    let state = vec![
        NamedTensor::new("bf16", &x[..]),
        NamedTensor::new("shape", &[1i64, 2, 3, 4][..]).with_shape([2, 2]),
        NamedTensor::new("only.a", &[1u8][..]),
    ];
    Saver::new().save(&a, &[&state], &metadata("one")).unwrap();
    let state = vec![
        NamedTensor::new("bf16", &y[..]),
        NamedTensor::new("shape", &[1i64, 2, 3, 4][..]),
        NamedTensor::new("only.b", &[1.0f64][..]),
    ];
    Saver::new().save(&b, &[&state], &metadata("two")).unwrap();
    let ran = run_in(dir.path(), "diff {}/a.safetensors {}/b.safetensors").ends_with(1);
    for expected in [
        "only in A\n  only.a: U8 [1]\n",
        "only in B\n  only.b: F64 [1]\n",
        "of another type or shape\n  shape: I64 [2, 2] | I64 [4]\n",
        "settings and metadata, A | B\n  note: one | two\n",
    ] {
        assert!(ran.out.contains(expected), "{expected}\n{}", ran.out);
    }
    let json = run_in(dir.path(), "diff --json {}/a.safetensors {}/b.safetensors").ends_with(1).json();
    let expected = json!([{
        "name": "bf16", "dtype": "BF16", "shape": [3], "elements": 3, "differing": 2,
        "max_absolute": 1.0, "max_relative": 1.0 / 3.0, "nan_a": 1, "nan_b": 0,
    }]);
    assert_eq!(json["differing"], expected);
    assert_eq!(json["metadata"], json!([{"name": "note", "a": "one", "b": "two"}]));
    assert_eq!(json["equal"], false);
}

#[test]
fn metadata_counts_unless_only_tensors_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    for (name, note) in [("a", "one"), ("b", "two")] {
        let metadata = Metadata::from([("note".to_owned(), note.to_owned())]);
        let state = vec![NamedTensor::new("w", &[1.0f32][..])];
        Saver::new().save(dir.path().join(format!("{name}.safetensors")), &[&state], &metadata).unwrap();
    }
    run_in(dir.path(), "diff {}/a.safetensors {}/b.safetensors").ends_with(1);
    run_in(dir.path(), "diff --tensors-only {}/a.safetensors {}/b.safetensors").ends_with(0);
}

#[test]
fn of_two_steps_of_a_run_the_settings_are_the_same() {
    let steps = ["60", "70"].map(|step| golden(&format!("0.1.0/patience/step-0000{step}.safetensors")));
    let ran = run(["diff".as_ref(), steps[0].as_os_str(), steps[1].as_os_str()]).ends_with(1);
    assert!(ran.out.contains("(step 60)") && ran.out.contains("(step 70)"), "{}", ran.out);
    assert!(!ran.out.contains("settings and metadata"), "{}", ran.out);
    let rules = ["patience", "noise_aware"].map(|name| golden(&format!("0.1.0/{name}/step-000060.safetensors")));
    let ran = run(["diff".as_ref(), rules[0].as_os_str(), rules[1].as_os_str()]).ends_with(1);
    assert!(ran.out.contains("settings.rule: patience(1000) | patience(3000) or (noise-aware"), "{}", ran.out);
}

#[test]
fn one_state_in_one_file_and_in_several_is_equal() {
    let [one, several] = ["0.1.0", "0.1.0-parts"].map(|version| golden(version).join("saver.safetensors"));
    let ran = run(["diff".as_ref(), one.as_os_str(), several.as_os_str()]).ends_with(0);
    assert!(ran.out.contains("identical: 13 tensors"), "{}", ran.out);
}

#[test]
fn tensors_of_unknown_types_are_compared_by_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let header = json!({"w": {"dtype": "F99", "shape": [2], "data_offsets": [0, 3]}});
    for (name, data) in [("a", [1, 2, 3]), ("b", [1, 2, 3]), ("c", [1, 2, 4])] {
        write_foreign(&dir.path().join(format!("{name}.safetensors")), &header, &data);
    }
    run_in(dir.path(), "diff {}/a.safetensors {}/b.safetensors").ends_with(0);
    let ran = run_in(dir.path(), "diff {}/a.safetensors {}/c.safetensors").ends_with(1);
    assert!(ran.out.contains("of an unknown type, other bytes\n  w\n"), "{}", ran.out);
}

#[test]
fn a_damaged_file_is_not_compared() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| dir.path().join(format!("{name}.safetensors")));
    for path in [&a, &b] {
        save(path, vec![NamedTensor::new("w", &[1.0f32][..])]);
    }
    damage(&b);
    let ran = run_in(dir.path(), "diff {}/a.safetensors {}/b.safetensors").ends_with(2);
    assert!(ran.err.contains("b.safetensors: tensor \"w\": damaged"), "{}", ran.err);
    fs::remove_file(&b).unwrap();
    run_in(dir.path(), "diff {}/a.safetensors {}/b.safetensors").ends_with(2);
}

#[test]
fn a_tensor_of_several_blocks_is_compared_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut values = vec![0.5f64; 300_000];
    save(&dir.path().join("a.safetensors"), vec![NamedTensor::new("w", &values[..])]);
    values[299_999] = 0.75;
    values[131_072] = 1.0;
    save(&dir.path().join("b.safetensors"), vec![NamedTensor::new("w", &values[..])]);
    let json = run_in(dir.path(), "diff --json {}/a.safetensors {}/b.safetensors").ends_with(1).json();
    assert_eq!((&json["differing"][0]["differing"], &json["differing"][0]["max_absolute"]), (&json!(2), &json!(0.5)));
}
