//! `list`, `show` and `verify`.

mod common;

use std::fs;

use common::{damage, folder, golden, run, run_in, save, write_foreign};
use earlystop::checkpoint::NamedTensor;
use serde_json::json;

#[test]
fn a_folder_is_listed_with_its_best_and_its_latest() {
    let dir = folder(&[(100, Some(0.84)), (200, Some(0.91)), (300, None)]);
    let ran = run_in(dir.path(), "list {}").ends_with(0);
    let lines: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["step", "score", "size", "saved", "file"]);
    assert_eq!(lines[1][..2], ["100", "0.84"]);
    assert_eq!(lines[2][lines[2].len() - 2..], ["step-000200.safetensors", "best"]);
    assert_eq!(lines[3][lines[3].len() - 2..], ["step-000300.safetensors", "latest"]);
    assert_eq!(ran.err, "");

    let json = run_in(dir.path(), "list --json {}").ends_with(0).json();
    let of = |key: &str| json["checkpoints"].as_array().unwrap().iter().map(|it| it[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("step"), [100, 200, 300]);
    assert_eq!(of("best"), [false, true, false]);
    assert_eq!(of("latest"), [false, false, true]);
    assert_eq!(of("score"), [json!(0.84), json!(0.91), json!(null)]);
    let size = fs::metadata(dir.path().join("step-000100.safetensors")).unwrap().len();
    assert_eq!(json["checkpoints"][0]["bytes"], size);
    assert_eq!(json["damaged"], json!([]));
}

#[test]
fn a_trainers_folder_has_the_scores_of_its_evaluations() {
    let ran = run([&"list".into(), &golden("0.1.0/patience")]).ends_with(0);
    let line = ran.out.lines().find(|line| line.contains("step-000060.safetensors")).unwrap();
    assert!(line.contains("91.67%") && line.contains("0.5292") && line.ends_with("best"), "{}", ran.out);
    let last = ran.out.lines().last().unwrap();
    assert!(last.contains("83.33%") && last.ends_with("latest"), "{}", ran.out);
}

#[test]
fn damaged_files_are_listed_with_the_reason() {
    let dir = folder(&[(100, None), (200, None), (300, None)]);
    let [cut, changed] = ["step-000100", "step-000300"].map(|name| dir.path().join(format!("{name}.safetensors")));
    fs::write(&cut, b"cut").unwrap();
    damage(&changed);
    let ran = run_in(dir.path(), "list {}").ends_with(1);
    assert!(ran.out.contains("damaged  step-000100.safetensors: file: 3 bytes are too few"), "{}", ran.out);
    assert_eq!(ran.out.matches("damaged").count(), 1, "the data is not read: {}", ran.out);
    let ran = run_in(dir.path(), "list --verify {}").ends_with(1);
    assert!(ran.out.contains("damaged  step-000300.safetensors: tensor \"w\": damaged: its SHA-256"), "{}", ran.out);
    let valid = ran.out.lines().find(|line| line.contains("step-000200")).unwrap();
    assert!(valid.ends_with("latest  valid"), "{valid}");
    let json = run_in(dir.path(), "list --verify --json {}").ends_with(1).json();
    assert_eq!(json["damaged"].as_array().unwrap().len(), 2);
    assert_eq!(json["checkpoints"].as_array().unwrap().len(), 1);
}

#[test]
fn nothing_is_1_and_no_folder_is_2() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["list {}", "show {}", "history {}", "prune {} --keep last=1", "verify {}"] {
        let ran = run_in(dir.path(), command).ends_with(1);
        assert!(ran.err.contains("no checkpoints in this folder"), "{command}: {}", ran.err);
        let ran = run_in(&dir.path().join("absent"), command).ends_with(2);
        assert!(ran.err.contains("absent"), "{command}: {}", ran.err);
        assert!(!dir.path().join("absent").exists() && fs::read_dir(dir.path()).unwrap().count() == 0);
    }
    run_in(dir.path(), "list").ends_with(2);
    run_in(dir.path(), "nonsense {}").ends_with(2);
}

#[test]
fn a_file_is_shown() {
    let ran = run([&"show".into(), &golden("0.1.0/patience/step-000060.safetensors")]).ends_with(0);
    for expected in [
        "step 60, ",
        "layer_conv1.weight                F32   [2, 1, 3, 3]   72 B",
        "19 tensors, 307 elements, 1.23 kB",
        "  model:      6 tensors, 102 elements, 408 B",
        "  optimizer:  13 tensors, 205 elements, 824 B",
        "  batch_size                  16\n",
        "  network.layers.0            layer conv2d, name layer_conv1, channels 2, kernel 3",
        "  rule                        patience(1000)\n",
        "best: validation accuracy 91.67% at iteration 60",
    ] {
        assert!(ran.out.contains(expected), "{expected}:\n{}", ran.out);
    }
    let ran = run([&"show".into(), &golden("0.1.0/patience")]).ends_with(0);
    assert!(ran.out.contains("step-000080.safetensors"), "of a folder, the latest: {}", ran.out);

    let json = run(["show".as_ref(), "--json".as_ref(), golden("0.1.0/patience").as_os_str()]).ends_with(0).json();
    assert_eq!((&json["step"], &json["settings"]["batch_size"]), (&json!(80), &json!(16)));
    let tensors = json["tensors"].as_array().unwrap();
    let weight = tensors.iter().find(|tensor| tensor["name"] == "layer_fc1.weight").unwrap();
    assert_eq!(*weight, json!({"name": "layer_fc1.weight", "dtype": "F32", "shape": [6, 8], "bytes": 192}));
}

#[test]
fn values_are_shown_and_the_largest_tensors_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.safetensors");
    let (a, b) = ([1.0f32, f32::NAN, 3.0], [7u8; 2]);
    save(&file, vec![NamedTensor::new("a", &a[..]), NamedTensor::new("b", &b[..])]);
    let ran = run_in(dir.path(), "show --values {}/a.safetensors").ends_with(0);
    let row =
        |name: &str| ran.out.lines().find(|it| it.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(row("a "), ["a", "F32", "[3]", "1.00", "3.00", "2.00", "1.00", "1"]);
    assert_eq!(row("b "), ["b", "U8", "[2]", "7.00", "7.00", "7.00", "0"]);
    let json = run_in(dir.path(), "show --values --json {}/a.safetensors").ends_with(0).json();
    let expected = json!({"min": 1.0, "max": 3.0, "mean": 2.0, "deviation": 1.0, "nan": 1, "infinite": 0});
    assert_eq!(json["tensors"][0]["values"], expected);

    let ran = run_in(dir.path(), "show --largest 1 {}/a.safetensors").ends_with(0);
    assert!(ran.out.contains("\na ") && !ran.out.contains("\nb "), "{}", ran.out);
    assert!(ran.out.contains("2 tensors, 5 elements, 14 B"), "{}", ran.out);
    damage(&file);
    run_in(dir.path(), "show {}/a.safetensors").ends_with(0);
    run_in(dir.path(), "show --values {}/a.safetensors").ends_with(2);
}

#[test]
fn files_of_other_programs_are_shown_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let entry = |dtype: &str, range: [u64; 2]| json!({"dtype": dtype, "shape": [2], "data_offsets": range});
    let part = |number: u32| dir.path().join(format!("model-0000{number}-of-00002.safetensors"));
    write_foreign(&part(1), &json!({"a": entry("BF16", [0, 4]), "__metadata__": {"format": "pt"}}), &[0; 4]);
    write_foreign(&part(2), &json!({"b": entry("F99", [0, 6])}), &[0; 6]);
    let map = json!({"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"});
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(&index, json!({"metadata": {"total_size": 10}, "weight_map": map}).to_string()).unwrap();

    let ran = run_in(dir.path(), "show {}/model.safetensors.index.json").ends_with(0);
    for expected in
        ["in 2 files", "without checksums", "a       BF16  [2]     4 B", "b       F99   [2]       ?", "format  pt"]
    {
        assert!(ran.out.contains(expected), "{expected}:\n{}", ran.out);
    }
    let ran = run_in(dir.path(), "list {}").ends_with(0);
    assert_eq!(ran.out.lines().count(), 2, "the parts are not checkpoints:\n{}", ran.out);
    assert!(ran.out.contains("model.safetensors.index.json  no checksums"), "{}", ran.out);
    let ran = run_in(dir.path(), "verify {}").ends_with(0);
    assert!(ran.out.contains("index.json (") && ran.out.contains("without checksums)"), "{}", ran.out);

    fs::remove_file(part(2)).unwrap();
    let ran = run_in(dir.path(), "verify {}").ends_with(1);
    assert!(ran.out.contains("damaged") && ran.out.contains("missing"), "{}", ran.out);
}

#[test]
fn every_golden_file_is_valid() {
    for version in ["0.1.0", "0.1.0-parts"] {
        for folder in [version.to_owned(), format!("{version}/store")] {
            let ran = run([&"verify".into(), &golden(&folder)]).ends_with(0);
            assert!(ran.out.lines().all(|line| line.starts_with("valid    ")), "{}", ran.out);
            run([&"show".into(), &golden(&folder)]).ends_with(0);
        }
    }
}

#[test]
fn verify_names_what_is_damaged_and_fails_on_what_it_cannot_read() {
    let dir = folder(&[(100, None), (200, None)]);
    damage(&dir.path().join("step-000100.safetensors"));
    let ran = run_in(dir.path(), "verify {}/step-000200.safetensors {}/step-000100.safetensors").ends_with(1);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("valid    ") && lines[1].starts_with("damaged  "), "{lines:?}");
    let json = run_in(dir.path(), "verify --json {}").ends_with(1).json();
    assert_eq!((json["valid"].as_array().unwrap().len(), json["damaged"].as_array().unwrap().len()), (1, 1));

    let ran = run_in(dir.path(), "verify {}/absent.safetensors {}/step-000200.safetensors").ends_with(2);
    assert!(ran.err.contains("absent.safetensors: cannot open"), "{}", ran.err);
    assert!(ran.out.starts_with("valid "), "the others are read all the same: {}", ran.out);
}
