//! States in several files: the layout, damage anywhere in it, replacing and cleaning up, and files of other programs.
#![cfg(feature = "torch")]

#[path = "common/long.rs"]
mod long;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use earlystop::Error;
use earlystop::checkpoint::{Checkpoint, CheckpointPart, Keep, Metadata, NamedTensor, Saver, Store, latest_checkpoint};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use long::is_long;

/// Three tensors of 8 bytes: with a limit of 8, each has a file of its own.
fn state(value: f32) -> Vec<NamedTensor<'static>> {
    let tensor = |name: &str| NamedTensor::new(name, Tensor::from_slice(&[value, value + 0.25]));
    vec![tensor("a"), tensor("b"), tensor("c")]
}

fn several() -> Saver {
    Saver::new().split_above(8)
}

fn note(text: &str) -> Metadata {
    Metadata::from([("note".to_owned(), text.to_owned())])
}

/// Restores all or nothing, and returns the values.
fn values_in(path: &Path) -> Result<Vec<f64>, Error> {
    let live = state(-1.0);
    let restored = Saver::new().restore(path, &[&live]);
    let values: Vec<f64> =
        live.iter().flat_map(|named| [0, 1].map(|index| named.tensor().unwrap().double_value(&[index]))).collect();
    match restored {
        Ok(_) => Ok(values),
        Err(error) => {
            assert_eq!(values, [-1.0, -0.75, -1.0, -0.75, -1.0, -0.75], "nothing is changed after: {error}");
            Err(error)
        }
    }
}

fn expected(value: f64) -> Vec<f64> {
    vec![value, value + 0.25, value, value + 0.25, value, value + 0.25]
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".lock")
        .collect();
    names.sort();
    names
}

fn index_of(path: &Path) -> PathBuf {
    let mut index = path.as_os_str().to_owned();
    index.push(".index.json");
    index.into()
}

fn index_in(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(index_of(path)).unwrap()).unwrap()
}

/// The paths of the parts, in ascending order.
fn parts_of(path: &Path) -> Vec<PathBuf> {
    let map: BTreeMap<String, String> = serde_json::from_value(index_in(path)["weight_map"].clone()).unwrap();
    let names: BTreeSet<String> = map.into_values().collect();
    names.into_iter().map(|name| path.with_file_name(name)).collect()
}

#[test]
fn a_large_state_is_saved_in_hugging_faces_layout() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let metadata = Metadata::from([("note".to_owned(), "ö".to_owned()), ("format".to_owned(), "pt".to_owned())]);
    assert_eq!(several().save(&path, &[&state(1.0)], &metadata).unwrap(), []);

    let index = index_in(&path);
    assert_eq!(index["metadata"], json!({"total_size": 24}));
    let parts = parts_of(&path);
    let name = |part: &Path| part.file_name().unwrap().to_str().unwrap().to_owned();
    for (number, (part, tensor)) in (1..).zip(parts.iter().zip(["a", "b", "c"])) {
        assert_eq!(index["weight_map"][tensor], name(part));
        let middle = name(part).strip_prefix("model-").unwrap().to_owned();
        assert_eq!(middle[16..], format!("-{number:05}-of-00003.safetensors"));
        // Each part is a file of its own that any reader of safetensors opens.
        let bytes = fs::read(part).unwrap();
        let part = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(part.names(), [tensor]);
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    }
    let mut files: Vec<String> = parts.iter().map(|part| name(part)).collect();
    files.push("model.safetensors.index.json".to_owned());
    assert_eq!(names_in(dir.path()), files, "no other files");

    for path in [&path, &index_of(&path)] {
        let checkpoint = Checkpoint::open(path).unwrap();
        assert!(checkpoint.is_verified() && Checkpoint::read(path).unwrap().is_verified());
        assert_eq!(*checkpoint.metadata(), metadata);
        assert_eq!(checkpoint.infos().map(|info| &*info.name).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(checkpoint.tensor("b").unwrap(), state(1.0)[1].tensor().unwrap());
        assert_eq!(values_in(path).unwrap(), expected(1.0));
    }
    assert!(Checkpoint::read(&parts[1]).unwrap().is_verified(), "a part alone is a file like any other");
}

#[test]
fn the_limit_decides_how_many_files_there_are() {
    let dir = tempfile::tempdir().unwrap();
    for (limit, count) in [(0, 3), (7, 3), (8, 3), (15, 3), (16, 2), (23, 2), (24, 1), (u64::MAX, 1)] {
        let path = dir.path().join(format!("limit-{limit}.safetensors"));
        Saver::new().split_above(limit).save(&path, &[&state(1.0)], &Metadata::new()).unwrap();
        let found = if path.exists() { 1 } else { parts_of(&path).len() };
        assert_eq!((found, index_of(&path).exists()), (count, count > 1), "{limit}");
        assert_eq!(values_in(&path).unwrap(), expected(1.0));
    }
    // One tensor is never cut, and a state of none has one file.
    let path = dir.path().join("one.safetensors");
    let one = vec![NamedTensor::new("w", Tensor::zeros([100], (Kind::Float, tch::Device::Cpu)))];
    let none = Vec::<NamedTensor>::new();
    for state in [&one, &none] {
        Saver::new().split_above(8).save(&path, &[state], &Metadata::new()).unwrap();
        assert!(path.exists() && !index_of(&path).exists());
    }
    let error = several().save(index_of(&path), &[&state(1.0)], &Metadata::new()).unwrap_err();
    assert!(matches!(error, Error::Setting { .. }), "{error}");
}

#[test]
fn each_layout_replaces_the_other_and_nothing_is_left() {
    for name in ["model.safetensors", "model", "v1.2", &"long-".repeat(40)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        let savers = [several(), several(), Saver::new(), Saver::new(), Saver::new().split_above(16), Saver::new()];
        for (value, saver) in (1u8..).zip(savers.into_iter().cycle().take(12)) {
            saver.save(&path, &[&state(f32::from(value))], &note(name)).unwrap();
            assert_eq!(values_in(&path).unwrap(), expected(f64::from(value)), "{name} {value}");
            let files = if path.exists() { 1 } else { 1 + parts_of(&path).len() };
            assert_eq!(names_in(dir.path()).len(), files, "{:?}", names_in(dir.path()));
        }
    }
}

fn error_of(path: &Path) -> (PathBuf, CheckpointPart) {
    match values_in(path) {
        Err(Error::Checkpoint { path, part, .. }) => (path, part),
        other => panic!("expected a damaged checkpoint, found {other:?}"),
    }
}

#[test]
fn every_flipped_bit_of_index_and_parts_is_found_and_the_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    Saver::new().split_above(16).save(&path, &[&state(1.0)], &note("n")).unwrap();
    let index = index_of(&path);
    for file in parts_of(&path).iter().chain([&index]) {
        let whole = fs::read(file).unwrap();
        // Five is prime to eight: so all bits of a byte come up in the everyday tests, too.
        for bit in (0..whole.len() * 8).step_by(if is_long() { 1 } else { 5 }) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(file, &bytes).unwrap();
            let (named, part) = error_of(&path);
            assert_eq!(named, *file, "bit {bit}");
            assert_eq!(part == CheckpointPart::Index, *file == index, "bit {bit}: {part}");
        }
        fs::write(file, &whole).unwrap();
    }
    assert_eq!(values_in(&path).unwrap(), expected(1.0));
}

#[test]
fn every_other_length_of_index_and_parts_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    several().save(&path, &[&state(1.0)], &note("n")).unwrap();
    let index = index_of(&path);
    for file in parts_of(&path).iter().chain([&index]) {
        let whole = fs::read(file).unwrap();
        let step = if is_long() { 1 } else { 3 };
        for length in (0..whole.len()).rev().step_by(step).chain(whole.len() + 1..whole.len() + 9) {
            let mut bytes = whole.clone();
            bytes.resize(length, b' ');
            fs::write(file, &bytes).unwrap();
            assert_eq!(error_of(&path).0, *file, "{length} of {} bytes", whole.len());
        }
        fs::write(file, &whole).unwrap();
    }
}

#[test]
fn missing_and_swapped_parts_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("m.safetensors"), dir.path().join("other.safetensors"));
    several().save(&path, &[&state(1.0)], &note("n")).unwrap();
    several().save(&other, &[&state(2.0)], &note("n")).unwrap();
    let (parts, others) = (parts_of(&path), parts_of(&other));
    for (part, other) in parts.iter().zip(&others) {
        let whole = fs::read(part).unwrap();
        fs::remove_file(part).unwrap();
        let error = values_in(&path).unwrap_err().to_string();
        let needed = format!("{}: file: missing: {} needs it", part.display(), index_of(&path).display());
        assert_eq!(error, needed);
        // Of another save with the same names, shapes and sizes.
        fs::copy(other, part).unwrap();
        let error = values_in(&path).unwrap_err().to_string();
        assert!(error.contains("it belongs to another save than") && error.contains(part.to_str().unwrap()), "{error}");
        assert!(Checkpoint::open(&path).is_err(), "headers are enough to find it");
        fs::write(part, whole).unwrap();
    }
    // Two of the same save, one in the place of the other.
    let moved = dir.path().join("moved");
    fs::rename(&parts[0], &moved).unwrap();
    fs::rename(&parts[1], &parts[0]).unwrap();
    fs::rename(&moved, &parts[1]).unwrap();
    assert_eq!(error_of(&path).0, parts[0]);
    // The index of another save, over the parts of this one.
    fs::copy(index_of(&other), index_of(&path)).unwrap();
    others.iter().for_each(|part| fs::remove_file(part).unwrap());
    assert_eq!(error_of(&path).0, others[0]);
}

#[test]
fn nothing_of_others_is_cleaned_up() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let path = file("model.safetensors");
    let foreign =
        ["model-00001-of-00002.safetensors", "model-0123456789abcdef-00001-of-00002.safetensors", "model.bin"];
    foreign.iter().for_each(|name| fs::write(file(name), "of another program").unwrap());
    for other in ["model2.safetensors", "model", "mode.safetensors"] {
        several().save(file(other), &[&state(7.0)], &Metadata::new()).unwrap();
    }
    several().save(&path, &[&state(1.0)], &Metadata::new()).unwrap();
    // Kept by hand, under another name.
    fs::rename(index_of(&path), file("good.safetensors.index.json")).unwrap();
    for value in [2.0, 3.0] {
        several().save(&path, &[&state(value)], &Metadata::new()).unwrap();
        Saver::new().save(&path, &[&state(value)], &Metadata::new()).unwrap();
    }
    several().save(&path, &[&state(4.0)], &Metadata::new()).unwrap();
    for (name, value) in [("good", 1.0), ("model", 4.0), ("model2", 7.0), ("mode", 7.0)] {
        assert_eq!(values_in(&file(&format!("{name}.safetensors"))).unwrap(), expected(value), "{name}");
    }
    assert_eq!(values_in(&file("model")).unwrap(), expected(7.0));
    assert!(foreign.iter().all(|name| fs::read_to_string(file(name)).unwrap() == "of another program"));
    assert_eq!(names_in(dir.path()).len(), foreign.len() + 5 * 4);

    // Nor is an index of another program that a single file is saved beside.
    let index = fs::read_to_string(index_of(&file("mode.safetensors"))).unwrap();
    let mut index: Value = serde_json::from_str(&index).unwrap();
    index.as_object_mut().unwrap().remove("__metadata__");
    fs::write(file("mode.safetensors.index.json"), index.to_string()).unwrap();
    Saver::new().save(file("mode.safetensors"), &[&state(8.0)], &Metadata::new()).unwrap();
    assert_eq!(values_in(&file("mode.safetensors")).unwrap(), expected(8.0));
    assert_eq!(values_in(&file("mode.safetensors.index.json")).unwrap(), expected(7.0));
}

#[test]
fn what_killed_saves_left_is_cleaned_up_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("step-000001.safetensors");
    let left = |saver: Saver| {
        // Parts whose index was never written, and a single file that an index did not replace yet.
        several().save(&path, &[&state(1.0)], &Metadata::new()).unwrap();
        let orphans: Vec<(PathBuf, Vec<u8>)> =
            parts_of(&path).into_iter().map(|part| (part.clone(), fs::read(part).unwrap())).collect();
        saver.save(&path, &[&state(2.0)], &Metadata::new()).unwrap();
        orphans.iter().for_each(|(part, bytes)| fs::write(part, bytes).unwrap());
    };
    for is_several in [false, true] {
        let saver = || if is_several { several() } else { Saver::new() };
        let count = if is_several { 4 } else { 1 };
        left(saver());
        assert_eq!(names_in(dir.path()).len(), count + 3);
        saver().save(&path, &[&state(3.0)], &Metadata::new()).unwrap();
        assert_eq!(names_in(dir.path()).len(), count, "by a saver");
        left(saver());
        Store::open(dir.path()).unwrap().lock().unwrap();
        assert_eq!(names_in(dir.path()).len(), count, "by a store");
        assert_eq!(values_in(&path).unwrap(), expected(2.0));
    }
    // Killed between the index and the deletion of the single file, which counts until then.
    let old = dir.path().join("old");
    Saver::new().save(&old, &[&state(5.0)], &Metadata::new()).unwrap();
    fs::copy(&old, &path).unwrap();
    assert_eq!(values_in(&path).unwrap(), expected(5.0));
    assert_eq!(Store::open(dir.path()).unwrap().list().unwrap().len(), 1);
    Store::open(dir.path()).unwrap().lock().unwrap();
    assert_eq!(names_in(dir.path()), ["old", "step-000001.safetensors"]);
}

#[test]
fn a_store_handles_them_like_single_files() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let mut store = Store::open(&folder).unwrap().keep(Keep::last(2).best(1)).split_above(8);
    let small = vec![NamedTensor::new("a", Tensor::from_slice(&[0.5f32]))];
    for (step, score) in [(1, 0.5), (2, 0.9), (3, 0.6), (4, 0.7)] {
        let saved = store.save(step, Some(score), &[&state(step as f32)], &note("n")).unwrap();
        assert!(saved.path.to_str().unwrap().ends_with(&format!("step-00000{step}.safetensors.index.json")));
    }
    let single = store.save(5, Some(0.1), &[&small], &note("small")).unwrap();
    assert_eq!(single.path, folder.join("step-000005.safetensors"));
    let steps = |store: &Store| store.list().unwrap().iter().map(|saved| saved.step).collect::<Vec<_>>();
    assert_eq!(steps(&store), [2, 4, 5]);
    assert_eq!(names_in(&folder).len(), 4 + 4 + 1, "parts of deleted checkpoints are gone: {:?}", names_in(&folder));

    let best = store.best_valid().unwrap().saved.unwrap();
    assert_eq!((best.step, best.score, best.commit), (2, Some(0.9), 2));
    assert_eq!(values_in(&best.path).unwrap(), expected(2.0));
    assert_eq!(Checkpoint::open(&best.path).unwrap().metadata(), &note("n"));

    // A step is saved again: in the other layout, and not over a better one.
    let saved = store.save(5, Some(0.2), &[&state(5.0)], &note("n")).unwrap();
    assert_eq!((saved.commit, steps(&store)), (6, vec![2, 4, 5]));
    assert_eq!(latest_checkpoint(&folder).unwrap(), Some(saved.path));
    let saved = store.save(2, Some(0.8), &[&state(2.5)], &note("n")).unwrap();
    assert_eq!(saved.path, folder.join("step-000002.2.safetensors.index.json"));
    assert_eq!(names_in(&folder).len(), 3 * 4);

    // Damage is passed over when a checkpoint is used, and missing or cut parts when it is listed.
    let part = parts_of(&folder.join("step-000002.2.safetensors")).remove(1);
    let whole = fs::read(&part).unwrap();
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&part, &bytes).unwrap();
    let valid = store.latest_valid().unwrap();
    assert_eq!((valid.saved.unwrap().step, valid.skipped.len(), store.list().unwrap().len()), (5, 1, 3));
    for bytes in [Some(&whole[1..]), None] {
        bytes.map_or_else(|| fs::remove_file(&part), |bytes| fs::write(&part, bytes)).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().step, 5);
        let valid = store.latest_valid().unwrap();
        assert_eq!((valid.saved.unwrap().step, valid.skipped.len()), (5, 1));
    }
    fs::write(&part, &whole).unwrap();
    assert_eq!(store.latest().unwrap().unwrap().commit, 7);

    let archive = store.archive_after(&best).unwrap().unwrap();
    assert_eq!((steps(&store), names_in(&folder).len()), (vec![2], 4 + 1));
    let archived = Store::open(&archive).unwrap();
    assert_eq!((steps(&archived), names_in(&archive).len()), (vec![5, 2], 8));
    assert!(archived.list().unwrap().iter().all(|saved| Checkpoint::read(&saved.path).unwrap().is_verified()));

    store.clear().unwrap();
    assert_eq!(names_in(&folder), ["after-step-000002"]);
}

#[test]
fn a_damaged_index_keeps_its_parts_and_moves_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap().split_above(8);
    let first = store.save(1, None, &[&state(1.0)], &Metadata::new()).unwrap();
    let second = store.save(2, None, &[&state(2.0)], &Metadata::new()).unwrap();
    let whole = fs::read(&second.path).unwrap();
    for at in [3, 60, whole.len() - 30] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&second.path, &bytes).unwrap();
        drop(store);
        store = Store::open(dir.path()).unwrap().split_above(8);
        store.lock().unwrap();
        assert_eq!(names_in(dir.path()).len(), 8, "{at}");
    }
    let archive = store.archive_after(&first).unwrap().unwrap();
    assert_eq!((names_in(&archive).len(), names_in(dir.path()).len()), (4, 4 + 1));
    let moved = archive.join(second.path.file_name().unwrap());
    fs::write(&moved, whole).unwrap();
    assert_eq!(values_in(&moved).unwrap(), expected(2.0));
}

/// As other programs write it: no checksums, other entries, one tensor in two files.
fn foreign(folder: &Path) -> PathBuf {
    let part = |name: &str, tensors: &[(&str, [f32; 2])]| {
        let data: Vec<(&str, Vec<u8>)> = tensors
            .iter()
            .map(|(name, values)| (*name, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let views = data.iter().map(|(name, bytes)| {
            (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], bytes).unwrap())
        });
        let format = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
        fs::write(folder.join(name), safetensors::serialize(views, Some(format)).unwrap()).unwrap();
    };
    part("model-00001-of-00002.safetensors", &[("a", [1.0, 1.25]), ("b", [1.0, 1.25]), ("c", [9.0, 9.0])]);
    part("model-00002-of-00002.safetensors", &[("c", [1.0, 1.25])]);
    let [first, second] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let index = json!({
        "metadata": {"total_size": 24.0, "mergekit_version": "0.0.4"},
        "weight_map": {"a": first, "b": first, "c": second},
        "another entry": [1, {"x": null}],
    });
    let path = folder.join("model.safetensors");
    fs::write(index_of(&path), serde_json::to_string_pretty(&index).unwrap()).unwrap();
    path
}

#[test]
fn an_index_of_another_program_is_read_and_restored_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = foreign(dir.path());
    for path in [&path, &index_of(&path)] {
        let checkpoint = Checkpoint::read(path).unwrap();
        assert!(!checkpoint.is_verified());
        assert_eq!(checkpoint.metadata(), &Metadata::from([("format".to_owned(), "pt".to_owned())]));
        assert_eq!(values_in(path).unwrap(), expected(1.0));
    }
    // In a store, too.
    let folder = dir.path().join("store");
    fs::create_dir(&folder).unwrap();
    let path = foreign(&folder);
    fs::rename(index_of(&path), folder.join("step-000100.safetensors.index.json")).unwrap();
    let saved = Store::open(&folder).unwrap().latest_valid().unwrap().saved.unwrap();
    assert_eq!((saved.step, saved.commit), (100, 0));
    assert_eq!(values_in(&saved.path).unwrap(), expected(1.0));
}

#[test]
#[cfg(unix)]
fn symbolic_links_lead_to_an_index_and_from_it_to_its_parts() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    // As in Hugging Face's cache: index and parts are links to files with other names.
    let (blobs, snapshot) = (dir.path().join("blobs"), dir.path().join("snapshot"));
    fs::create_dir(&blobs).unwrap();
    fs::create_dir(&snapshot).unwrap();
    foreign(&blobs);
    for (number, name) in names_in(&blobs).into_iter().enumerate() {
        fs::rename(blobs.join(&name), blobs.join(number.to_string())).unwrap();
        symlink(format!("../blobs/{number}"), snapshot.join(name)).unwrap();
    }
    assert_eq!(values_in(&snapshot.join("model.safetensors")).unwrap(), expected(1.0));

    // A link to an index, and a link to where a state was saved.
    let run = dir.path().join("run");
    fs::create_dir(&run).unwrap();
    let path = run.join("model.safetensors");
    several().save(&path, &[&state(2.0)], &Metadata::new()).unwrap();
    let links = [dir.path().join("latest.safetensors.index.json"), dir.path().join("latest.safetensors")];
    symlink("run/model.safetensors.index.json", &links[0]).unwrap();
    symlink("run/model.safetensors", &links[1]).unwrap();
    for link in &links {
        assert_eq!(values_in(link).unwrap(), expected(2.0));
    }
    // A save to a link replaces the files behind it, in either layout.
    for (value, saver) in [(3u8, several()), (4, Saver::new()), (5, several())] {
        saver.save(&links[1], &[&state(f32::from(value))], &Metadata::new()).unwrap();
        assert_eq!(values_in(&links[1]).unwrap(), expected(f64::from(value)));
        assert_eq!(values_in(&path).unwrap(), expected(f64::from(value)));
        assert!(links[1].is_symlink());
        assert_eq!(names_in(&run).len(), if value == 4 { 1 } else { 4 });
    }
}

#[test]
#[cfg(unix)]
fn all_files_get_the_mode_of_what_they_replace() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    Saver::new().save(&path, &[&state(1.0)], &Metadata::new()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    for saver in [several(), several(), Saver::new()] {
        saver.save(&path, &[&state(1.0)], &Metadata::new()).unwrap();
        for name in names_in(dir.path()) {
            assert_eq!(fs::metadata(dir.path().join(&name)).unwrap().permissions().mode() & 0o777, 0o640, "{name}");
        }
    }
}

#[test]
fn hostile_indices_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = foreign(dir.path());
    fs::write(dir.path().join("empty.bin"), "").unwrap();
    let deep = format!(r#"{{"x":{}"#, "[".repeat(100_000));
    let cases: &[(&str, &str)] = &[
        ("", "index: damaged, or no index: EOF"),
        ("[]", "invalid type"),
        ("{}", "missing field `weight_map`"),
        (&deep, "damaged, or no index"),
        (r#"{"weight_map":{"a":1}}"#, "expected a string"),
        (r#"{"weight_map":{},"weight_map":{}}"#, r#"the name "weight_map" is there twice"#),
        (r#"{"weight_map":{"a":"x","a":"y"}}"#, r#""a" is there twice"#),
        (r#"{"weight_map":{"a":""}}"#, "names the file \"\", which does not lie beside it"),
        (r#"{"weight_map":{"a":"."}}"#, "does not lie beside it"),
        (r#"{"weight_map":{"a":"../x.safetensors"}}"#, "does not lie beside it"),
        (r#"{"weight_map":{"a":"/etc/passwd"}}"#, "does not lie beside it"),
        (r#"{"weight_map":{"a":"x/../model-00001-of-00002.safetensors"}}"#, "does not lie beside it"),
        (r#"{"weight_map":{"a":"c:x"}}"#, "does not lie beside it"),
        (r#"{"weight_map":{"a":"x\u0000"}}"#, "does not lie beside it"),
        (r#"{"weight_map":{"a":"absent.safetensors"}}"#, "absent.safetensors: file: missing: "),
        (r#"{"weight_map":{"a":"empty.bin"}}"#, "empty.bin: file: 0 bytes are too few"),
        (r#"{"weight_map":{"a":"store"}}"#, "it is a directory"),
        (
            r#"{"weight_map":{"z":"model-00002-of-00002.safetensors"}}"#,
            r#"the tensor "z" is in "model-00002-of-00002.safetensors", which does not hold it"#,
        ),
        (r#"{"__metadata__":{"checkpoint.sha256":"0"},"weight_map":{}}"#, "index: damaged"),
        (r#"{"x":{"checkpoint.sha256":"0"},"weight_map":{}}"#, "index: damaged"),
    ];
    fs::create_dir(dir.path().join("store")).unwrap();
    for (index, expected) in cases {
        fs::write(index_of(&path), index).unwrap();
        let error = values_in(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{index:.200}: expected {expected:?}, found {error}");
    }
    // Larger than the limit: a sparse file.
    let file = fs::File::create(index_of(&path)).unwrap();
    if file.set_len(1 << 40).is_ok() {
        let error = values_in(&path).unwrap_err().to_string();
        assert!(error.contains("more bytes than the limit"), "{error}");
    }
    fs::write(index_of(&path), r#"{"weight_map":{}}"#).unwrap();
    assert!(Checkpoint::read(&path).unwrap().infos().next().is_none());
}

/// Savers in both layouts at once, and readers: whoever comes last, a checkpoint is there, and it is of one save.
#[test]
fn savers_and_readers_of_one_path_never_see_a_mix() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    several().save(&path, &[&state(0.0)], &Metadata::new()).unwrap();
    let seconds = if is_long() { 20.0 } else { 1.0 };
    let start = std::time::Instant::now();
    let is_over = || start.elapsed().as_secs_f64() > seconds;
    let (mut saves, mut reads) = (0, 0);
    std::thread::scope(|scope| {
        let save = |first: u16, saver: Saver| {
            let (path, is_over) = (&path, &is_over);
            scope.spawn(move || {
                let mut count = 0;
                for value in (first..).step_by(3) {
                    saver.save(path, &[&state(f32::from(value))], &Metadata::new()).unwrap();
                    count += 1;
                    if is_over() {
                        return count;
                    }
                }
                count
            })
        };
        let savers = [save(1, several()), save(2, Saver::new()), save(3, Saver::new().split_above(16))];
        while !is_over() {
            let values = values_in(&path).unwrap();
            assert_eq!(values, expected(values[0]));
            reads += 1;
        }
        saves = savers.into_iter().map(|saver| saver.join().unwrap()).sum();
    });
    assert!(saves > 3 && reads > 3, "{saves} saves, {reads} reads");
    let values = values_in(&path).unwrap();
    assert_eq!(values, expected(values[0]));
    // The next save cleans up after all of them.
    several().save(&path, &[&state(1.0)], &Metadata::new()).unwrap();
    assert_eq!(names_in(dir.path()).len(), 4, "{:?}", names_in(dir.path()));
}
