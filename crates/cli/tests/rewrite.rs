//! `average`, `export` and `prune`.

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{damage, folder, golden, run, run_in, save, write_foreign};
use earlystop::checkpoint::{Checkpoint, Keep, Metadata, NamedTensor, Saver, Store};
use half::{bf16, f16};
use serde_json::json;

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn the_mean_is_computed_in_double_precision_and_rounded_once() {
    let dir = tempfile::tempdir().unwrap();
    // In single precision, the small ones would be lost.
    let values = [[16_777_216.0f32, 0.1], [1.0, 0.2], [1.0, 0.3]];
    let halves = values.map(|[_, b]| [f16::from_f32(b), f16::from_f32(60_000.0)]);
    let brains = values.map(|[_, b]| [bf16::from_f32(b), bf16::from_f32(3e38)]);
    for (index, value) in values.iter().enumerate() {
        let batches = [index as i64];
        let state = vec![
            NamedTensor::new("f32", &value[..]),
            NamedTensor::new("f16", &halves[index][..]),
            NamedTensor::new("bf16", &brains[index][..]),
            NamedTensor::new("adam.m/f32", &value[..]),
            NamedTensor::new("num_batches", &batches[..]),
        ];
        let metadata = [("note", "same"), ("seed", ["1", "2", "3"][index]), ("trainer", "{}")];
        let metadata: Metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Saver::new().save(dir.path().join(format!("{index}.safetensors")), &[&state], &metadata).unwrap();
    }
    let line = "average {}/0.safetensors {}/1.safetensors {}/2.safetensors -o {}/mean.safetensors";
    let ran = run_in(dir.path(), line).ends_with(0);
    assert!(
        ran.out.ends_with("mean.safetensors: 3 tensors averaged over 3 files, 1 from the last file\n"),
        "{}",
        ran.out
    );
    assert!(ran.err.contains("num_batches: I64 is not averaged: taken from"), "{}", ran.err);

    let mean = Checkpoint::read(dir.path().join("mean.safetensors")).unwrap();
    assert!(mean.is_verified());
    let expected = [0, 1].map(|column| (values.iter().map(|row| f64::from(row[column])).sum::<f64>() / 3.0) as f32);
    assert_eq!(floats(&mean.bytes("f32").unwrap()), expected);
    assert_ne!(expected[0], values.iter().map(|row| row[0]).sum::<f32>() / 3.0, "the test can tell");
    let half = halves.iter().map(|row| row[0].to_f64()).sum::<f64>() / 3.0;
    let expected = [f16::from_f64(half), f16::from_f32(60_000.0)].map(f16::to_le_bytes).concat();
    assert_eq!(mean.bytes("f16").unwrap(), expected, "the sum is beyond the type, the mean is not");
    let brain = brains.iter().map(|row| row[0].to_f64()).sum::<f64>() / 3.0;
    let expected = [bf16::from_f64(brain), bf16::from_f32(3e38)].map(bf16::to_le_bytes).concat();
    assert_eq!(mean.bytes("bf16").unwrap(), expected);
    assert_eq!(mean.bytes("num_batches").unwrap(), 2i64.to_le_bytes());
    assert_eq!(mean.infos().count(), 4, "without the optimizer");
    let names = r#"["0.safetensors","1.safetensors","2.safetensors"]"#;
    let expected = [("averaged", names), ("note", "same")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(*mean.metadata(), expected.into());
}

#[test]
fn a_large_tensor_is_averaged_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let a: Vec<f32> = (0..400_000).map(|index| index as f32).collect();
    let b: Vec<f32> = a.iter().map(|value| value + 2.0).collect();
    for (name, values) in [("a", &a), ("b", &b)] {
        save(&dir.path().join(format!("{name}.safetensors")), vec![NamedTensor::new("w", &values[..])]);
    }
    run_in(dir.path(), "average {}/a.safetensors {}/b.safetensors -o {}/c.safetensors").ends_with(0);
    let mean = floats(&Checkpoint::read(dir.path().join("c.safetensors")).unwrap().bytes("w").unwrap());
    assert!(mean.len() == a.len() && mean.iter().zip(&a).all(|(mean, a)| *mean == a + 1.0));
}

#[test]
fn all_that_does_not_fit_is_reported_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(format!("{name}.safetensors"));
    save(&path("a"), vec![NamedTensor::new("w", &[1.0f32, 2.0][..]), NamedTensor::new("v", &[1.0f32][..])]);
    save(&path("b"), vec![NamedTensor::new("w", &[1.0f32][..]), NamedTensor::new("u", &[1.0f32][..])]);
    write_foreign(&path("c"), &json!({"w": {"dtype": "F99", "shape": [2], "data_offsets": [0, 1]}}), &[0]);
    let ran = run_in(dir.path(), "average {}/a.safetensors {}/b.safetensors {}/c.safetensors -o {}/d.safetensors");
    let ran = ran.ends_with(2);
    for expected in [
        "b.safetensors: w is F32 [1], but F32 [2] in",
        "b.safetensors: lacks v, F32 [1] in",
        "b.safetensors: has u, F32 [1], which",
        "c.safetensors: w has the unknown type F99",
        "c.safetensors: lacks v",
    ] {
        assert!(ran.err.contains(expected), "{expected}\n{}", ran.err);
    }
    assert!(!path("d").exists());
    damage(&path("b"));
    let ran = run_in(dir.path(), "average {}/a.safetensors {}/b.safetensors -o {}/d.safetensors").ends_with(2);
    assert!(ran.err.contains("damaged") && !path("d").exists(), "{}", ran.err);
    run_in(dir.path(), "average {}/a.safetensors -o {}/d.safetensors").ends_with(2);
    run_in(dir.path(), "average {}/a.safetensors {}/a.safetensors").ends_with(2);
}

#[test]
fn an_input_is_never_replaced_and_another_file_only_by_force() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (a, b) = ([1.0f32; 4], [2.0f32; 4]);
    let state = || vec![NamedTensor::new("a", &a[..]), NamedTensor::new("b", &b[..])];
    save(&path("in.safetensors"), state());
    Saver::new().split_above(16).save(path("parts.safetensors"), &[&state()], &Metadata::new()).unwrap();
    let before = contents(dir.path());
    #[cfg(unix)]
    std::os::unix::fs::symlink(path("in.safetensors"), path("link.safetensors")).unwrap();
    let part = before.keys().find(|name| name.contains("-00001-of-")).unwrap().clone();
    let index = "parts.safetensors.index.json";
    let refused = [
        ("in.safetensors", "in.safetensors"),
        ("in.safetensors", "link.safetensors"),
        ("link.safetensors", "in.safetensors"),
        ("parts.safetensors", "parts.safetensors"),
        (index, "parts.safetensors"),
        (index, &part),
    ];
    for (input, output) in refused {
        for force in ["", " --force"] {
            let ran = run_in(dir.path(), &format!("export {{}}/{input} -o {{}}/{output}{force}")).ends_with(2);
            assert!(ran.err.contains("this file is read: write to another one"), "{input} {output}: {}", ran.err);
        }
    }
    // An index is not a path to save to, and a folder is none either.
    run_in(dir.path(), "export {}/in.safetensors -o {}/x.safetensors.index.json").ends_with(2);
    run_in(dir.path(), "export {}/in.safetensors -o {}").ends_with(2);
    run_in(dir.path(), "export {}/in.safetensors -o {}/absent/x.safetensors").ends_with(2);
    for output in ["out.safetensors", "parts.safetensors"] {
        if output == "out.safetensors" {
            fs::write(path(output), "mine").unwrap();
        }
        let ran = run_in(dir.path(), &format!("export {{}}/in.safetensors -o {{}}/{output}")).ends_with(2);
        assert!(ran.err.contains("exists already: --force replaces it"), "{}", ran.err);
    }
    assert_eq!(fs::read(path("out.safetensors")).unwrap(), b"mine");
    fs::remove_file(path("out.safetensors")).unwrap();
    let _ = fs::remove_file(path("link.safetensors"));
    assert!(contents(dir.path()) == before, "nothing has changed");

    fs::write(path("out.safetensors"), "mine").unwrap();
    run_in(dir.path(), "export {}/parts.safetensors -o {}/out.safetensors --force").ends_with(0);
    assert_eq!(Checkpoint::read(path("out.safetensors")).unwrap().infos().count(), 2);
}

/// The bytes of all files in a folder.
fn contents(folder: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

#[test]
fn a_part_is_exported_with_its_bits_and_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let source = golden("0.1.0/patience/step-000060.safetensors");
    let out = dir.path().join("out.safetensors");
    let arguments = |more: &[&str]| {
        let fixed = ["export", source.to_str().unwrap(), "-o", out.to_str().unwrap(), "--force"];
        run([&fixed, more].concat())
    };
    let ran = arguments(&["--without-optimizer"]).ends_with(0);
    assert!(ran.out.ends_with("out.safetensors: 6 of 19 tensors\n"), "{}", ran.out);
    let (from, to) = (Checkpoint::read(&source).unwrap(), Checkpoint::read(&out).unwrap());
    assert!(to.is_verified() && to.metadata().is_empty(), "the trainer's state is left out");
    for info in to.infos() {
        assert!(from.infos().any(|other| other == info));
        assert_eq!(from.bytes(&info.name).unwrap(), to.bytes(&info.name).unwrap());
    }
    arguments(&["--only", "*conv1.*", "--only", "softmax_classifier.bias", "--without-optimizer"]).ends_with(0);
    let to = Checkpoint::read(&out).unwrap();
    let mut names: Vec<&str> = to.infos().map(|info| &*info.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["layer_conv1.bias", "layer_conv1.weight", "softmax_classifier.bias"]);
    let before = fs::read(&out).unwrap();
    let ran = arguments(&["--only", "nothing*"]).ends_with(1);
    assert!(ran.err.contains("no tensor is wanted"), "{}", ran.err);
    assert_eq!(fs::read(&out).unwrap(), before);
    arguments(&["--only", "[a"]).ends_with(2);

    // Every type, and the metadata of the user.
    let saver = golden("0.1.0/saver.safetensors");
    run([&"export".into(), &saver, &"-o".into(), &out, &"--force".into()]).ends_with(0);
    let (from, to) = (Checkpoint::read(&saver).unwrap(), Checkpoint::read(&out).unwrap());
    assert_eq!(from.metadata(), to.metadata());
    assert_eq!(from.infos().count(), 13);
    assert!(from.infos().all(|info| from.bytes(&info.name).unwrap() == to.bytes(&info.name).unwrap()));
}

fn steps(folder: &Path) -> Vec<u64> {
    Store::open(folder).unwrap().list().unwrap().iter().map(|saved| saved.step).collect()
}

#[test]
fn what_the_rules_keep_stays_and_the_rest_is_deleted() {
    let saves: Vec<(u64, Option<f64>)> =
        (1..=9).map(|step| (100 * step, Some(if step == 3 { 1.0 } else { 0.5 }))).collect();
    let dir = folder(&saves);
    let rules = "prune {} --keep last=2 --keep best=1 --keep every=500";
    let before = contents(dir.path());
    let ran = run_in(dir.path(), &format!("{rules} --dry-run")).ends_with(0);
    assert!(ran.out.contains("would delete 5 checkpoints (") && ran.out.ends_with("kept 4\n"), "{}", ran.out);
    assert!(contents(dir.path()) == before, "a dry run changes nothing, not even the lock");
    let json = run_in(dir.path(), &format!("{rules} --dry-run --json")).ends_with(0).json();
    let of =
        |list: &str| json[list].as_array().unwrap().iter().map(|it| it["step"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!((of("deleted"), of("kept")), (vec![100, 200, 400, 600, 700], vec![300, 500, 800, 900]));

    let ran = run_in(dir.path(), rules).ends_with(0);
    assert!(ran.out.contains("deleted 5 checkpoints ("), "{}", ran.out);
    assert_eq!(steps(dir.path()), [300, 500, 800, 900]);
    run_in(dir.path(), rules).ends_with(0);
    assert_eq!(steps(dir.path()), [300, 500, 800, 900]);
}

#[test]
fn nothing_is_deleted_without_a_clear_rule() {
    let dir = folder(&[(100, None), (200, None)]);
    let wrong =
        ["", " --keep last", " --keep last=0", " --keep first=1", " --keep last=x", " --keep last=1 --keep last=2"];
    for rules in wrong {
        run_in(dir.path(), &format!("prune {{}}{rules}")).ends_with(2);
        assert_eq!(steps(dir.path()), [100, 200], "{rules}");
    }
}

#[test]
fn damaged_files_are_never_deleted_and_do_not_count() {
    let dir = folder(&[(100, None), (200, None), (300, None), (400, None)]);
    let path = |step: u64| dir.path().join(format!("step-000{step}.safetensors"));
    fs::write(path(200), "cut").unwrap();
    damage(&path(400));
    let ran = run_in(dir.path(), "prune {} --keep last=1").ends_with(0);
    assert!(ran.out.contains("damaged, not touched: step-000200.safetensors"), "{}", ran.out);
    assert!(!path(100).exists() && [200, 300, 400].into_iter().all(|step| path(step).exists()));
}

#[test]
fn a_folder_that_a_training_has_locked_is_refused() {
    let dir = folder(&[(100, None), (200, None)]);
    let mut store = Store::open(dir.path()).unwrap().keep(Keep::all());
    store.lock().unwrap();
    let ran = run_in(dir.path(), "prune {} --keep last=1").ends_with(2);
    let expected = format!("process {} saves into this folder: stop it first", std::process::id());
    assert!(ran.err.contains(&expected), "{}", ran.err);
    assert_eq!(steps(dir.path()), [100, 200]);
    run_in(dir.path(), "prune {} --keep last=1 --dry-run").ends_with(0);
    drop(store);
    std::thread::sleep(Duration::from_millis(1));
    run_in(dir.path(), "prune {} --keep last=1").ends_with(0);
    assert_eq!(steps(dir.path()), [200]);
}
