//! Checkpoints in object storage. Without a server: on `file://`, with the same protocol.

#[path = "object_store/common.rs"]
mod common;
#[path = "object_store/kill.rs"]
mod kill;
#[path = "common/long.rs"]
mod long;
#[cfg(feature = "torch")]
#[path = "common/mod.rs"]
mod network;
#[path = "common/process.rs"]
mod process;
#[path = "object_store/proxy.rs"]
mod proxy;
#[path = "common/python.rs"]
mod python;
#[path = "object_store/s3.rs"]
mod s3;
#[path = "object_store/server.rs"]
mod server;
#[cfg(feature = "torch")]
#[path = "object_store/trainer.rs"]
mod trainer;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use earlystop::Error;
use earlystop::checkpoint::{Checkpoint, Keep, Metadata, NamedTensor, Saver, Store, latest_checkpoint};
use proptest::prelude::*;

use common::{keys, manifest, named_keys, save, state, url};
use long::is_long;

#[test]
fn a_fresh_store_finds_what_another_saved() {
    let dir = tempfile::tempdir().unwrap();
    let folder = url(dir.path());
    let mut store = Store::open(&folder).unwrap().keep(Keep::last(2).best(1));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "opening writes nothing");
    for (step, score) in [(100, 0.84), (200, 0.91), (300, 0.90), (400, 0.89)] {
        let saved = store.save(step, Some(score), &[&state(step as f32)], &Metadata::new()).unwrap();
        assert_eq!(saved.path, Path::new(&folder).join(format!("step-{step:06}.safetensors")));
    }
    drop(store);
    let fresh = Store::open(&folder).unwrap();
    assert_eq!(fresh.folder(), Path::new(&folder));
    let listed = fresh.list().unwrap();
    assert_eq!(listed.iter().map(|saved| saved.step).collect::<Vec<_>>(), [200, 300, 400]);
    assert_eq!(fresh.best().unwrap().unwrap().step, 200);
    for (valid, step) in [(fresh.latest_valid().unwrap(), 400), (fresh.best_valid().unwrap(), 200)] {
        let saved = valid.saved.unwrap();
        assert_eq!((saved.step, valid.skipped.len()), (step, 0));
        let mut values = [0.0f32; 3];
        let target = vec![NamedTensor::new("w", &mut values[..])];
        Saver::new().restore(&saved.path, &[&target]).unwrap();
        drop(target);
        assert_eq!(values, [step as f32; 3]);
    }
    assert_eq!(keys(dir.path(), "data"), named_keys(dir.path()));
}

/// Step, score and value of the checkpoints in the golden store.
const STORED: [(u64, Option<f64>, f32); 3] = [(100, Some(0.84375), 1.5), (200, Some(0.9125), 2.5), (300, None, -3.5)];

/// `GOLDEN_FOLDER=… cargo test --test object_store -- --ignored write_golden`; see `golden/README.md`.
#[test]
#[ignore = "writes the golden files of a new version"]
fn write_golden_files() {
    let folder = PathBuf::from(std::env::var_os("GOLDEN_FOLDER").expect("GOLDEN_FOLDER names the folder to create"));
    fs::create_dir(&folder).expect("a folder that exists is never written over");
    let mut store = Store::open(url(&folder)).unwrap();
    for (step, score, value) in STORED {
        store.save(step, score, &[&state(value)], &Metadata::new()).unwrap();
    }
}

#[test]
fn the_golden_store_is_read_and_continued() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/0.1.0-objects");
    let dir = tempfile::tempdir().unwrap();
    for folder in ["commits", "data"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
        for key in keys(&golden, folder) {
            fs::copy(golden.join(&key), dir.path().join(&key)).unwrap();
        }
    }
    let mut store = Store::open(url(dir.path())).unwrap();
    let found: Vec<_> = store.list().unwrap().iter().map(|saved| (saved.step, saved.score, saved.commit)).collect();
    assert_eq!(found, [(100, Some(0.84375), 1), (200, Some(0.9125), 2), (300, None, 3)]);
    for (valid, (step, _, value)) in
        [(store.best_valid().unwrap(), STORED[1]), (store.latest_valid().unwrap(), STORED[2])]
    {
        let saved = valid.saved.unwrap();
        let expected: Vec<u8> = [value; 3].iter().flat_map(|value| value.to_le_bytes()).collect();
        let checkpoint = Checkpoint::read(&saved.path).unwrap();
        assert_eq!((saved.step, checkpoint.bytes("w").unwrap(), valid.skipped.len()), (step, expected, 0));
    }
    assert_eq!(save(&mut store, 400).commit, 4);
    assert_eq!(Store::open(url(dir.path())).unwrap().latest().unwrap().unwrap().step, 400);
}

#[test]
fn several_files_and_large_ones_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(url(dir.path())).unwrap().split_above(12_000_000);
    let large: Vec<f32> = (0..6_000_000).map(|i| i as f32).collect(); // 24 MB: in several parts of an upload
    let half = vec![NamedTensor::new("a", &large[..]), NamedTensor::new("b", &large[..1_000_000])];
    let saved = store.save(1, None, &[&half], &Metadata::new()).unwrap();
    assert!(saved.path.to_str().unwrap().ends_with("step-000001.safetensors.index.json"));
    let copy = Store::open(url(dir.path())).unwrap();
    let found = copy.latest_valid().unwrap().saved.unwrap();
    let checkpoint = Checkpoint::read(&found.path).unwrap();
    assert_eq!(checkpoint.bytes("a").unwrap(), bytemuck(&large));
    // A single file in its place.
    store = store.split_above(u64::MAX);
    store.save(1, None, &[&half], &Metadata::new()).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(keys(dir.path(), "data").len(), 1);
    assert!(copy.latest_valid().unwrap().saved.unwrap().path.to_str().unwrap().ends_with("step-000001.safetensors"));
}

fn bytemuck(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn a_damaged_or_missing_object_is_skipped_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(url(dir.path())).unwrap();
    for step in 1..=4 {
        save(&mut store, step);
    }
    let object = |step: u64| {
        let found = keys(dir.path(), "data").into_iter().find(|key| key.contains(&format!("step-{step:06}")));
        dir.path().join(found.unwrap())
    };
    let mut bytes = fs::read(object(4)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(object(4), &bytes).unwrap();
    fs::remove_file(object(3)).unwrap();
    let valid = Store::open(url(dir.path())).unwrap().latest_valid().unwrap();
    assert_eq!(valid.saved.unwrap().step, 2);
    let errors: Vec<String> = valid.skipped.iter().map(|skipped| skipped.error.to_string()).collect();
    assert!(errors[0].contains("step-000004") && errors[0].contains("is damaged: its SHA-256"), "{errors:?}");
    assert!(errors[1].contains("step-000003") && errors[1].contains("is missing"), "{errors:?}");
    fs::write(object(2), "short").unwrap();
    fs::remove_file(object(1)).unwrap();
    assert!(Store::open(url(dir.path())).unwrap().latest_valid().unwrap().saved.is_none());
}

#[test]
fn of_two_stores_the_newer_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = Store::open(url(dir.path())).unwrap();
    save(&mut old, 1);
    let mut new = Store::open(url(dir.path())).unwrap();
    new.lock().unwrap();
    for _ in 0..2 {
        let error = old.save(2, None, &[&state(2.0)], &Metadata::new()).unwrap_err();
        assert!(matches!(error, Error::TakenOver { .. }), "{error}");
        assert!(error.to_string().contains(&url(dir.path())), "{error}");
    }
    assert!(matches!(old.lock(), Err(Error::TakenOver { .. })));
    save(&mut new, 3);
    assert_eq!(keys(dir.path(), "data"), named_keys(dir.path()), "the refused one has deleted what it had uploaded");
    assert_eq!(new.list().unwrap().iter().map(|saved| saved.step).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_writer_that_slept_while_its_number_was_deleted_does_not_win() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = Store::open(url(dir.path())).unwrap();
    save(&mut old, 1);
    let mut new = Store::open(url(dir.path())).unwrap();
    for step in 2..=20 {
        save(&mut new, step);
    }
    assert!(keys(dir.path(), "commits").len() <= 6, "{:?}", keys(dir.path(), "commits"));
    let error = old.save(100, None, &[&state(0.0)], &Metadata::new()).unwrap_err();
    assert!(matches!(error, Error::TakenOver { .. }), "{error}");
    assert_eq!(Store::open(url(dir.path())).unwrap().latest().unwrap().unwrap().step, 20);
    let mut next = Store::open(url(dir.path())).unwrap();
    next.lock().unwrap();
    assert_eq!(keys(dir.path(), "data"), named_keys(dir.path()));
}

#[test]
fn two_writers_at_once_never_share_a_number() {
    let dir = tempfile::tempdir().unwrap();
    let acknowledged = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for writer in 0..2u64 {
            let (folder, acknowledged) = (url(dir.path()), &acknowledged);
            scope.spawn(move || {
                for round in 0..8u64 {
                    let mut store = Store::open(&folder).unwrap();
                    for number in 0..5 {
                        let step = 1000 * (writer + 1) + 10 * round + number;
                        match store.save(step, None, &[&state(step as f32)], &Metadata::new()) {
                            Ok(saved) => acknowledged.lock().unwrap().push((saved.commit, saved.step)),
                            Err(Error::TakenOver { .. }) => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
    });
    let listed = Store::open(url(dir.path())).unwrap().list().unwrap();
    let listed: Vec<_> = listed.iter().map(|saved| (saved.commit, saved.step)).collect();
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.len() > 5);
    for saved in &acknowledged {
        assert!(listed.contains(saved), "{saved:?} was acknowledged and is lost");
    }
    let mut numbers: Vec<_> = listed.iter().map(|(commit, _)| commit).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), listed.len());
    Store::open(url(dir.path())).unwrap().lock().unwrap();
    assert_eq!(keys(dir.path(), "data"), named_keys(dir.path()));
}

#[test]
fn another_process_is_named_with_its_host() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = Store::open(url(dir.path())).unwrap();
    old.lock().unwrap();
    let mut foreign = manifest(dir.path());
    foreign["writer"] = serde_json::json!({"process": {"pid": 4321, "boot": "x", "host": "gpu-7"}, "token": "t"});
    fs::write(dir.path().join("commits/00000000000000000002.json"), foreign.to_string()).unwrap();
    let error = old.save(1, None, &[], &Metadata::new()).unwrap_err().to_string();
    for part in ["process 4321", "(gpu-7)", &url(dir.path()), "stop it first"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn manifests_of_others_are_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(url(dir.path())).unwrap();
    save(&mut store, 1);
    let good = manifest(dir.path());
    let next = dir.path().join("commits/00000000000000000099.json");
    let with = |pointer: &str, value: serde_json::Value| {
        let mut manifest = good.clone();
        *manifest.pointer_mut(pointer).unwrap() = value;
        manifest.to_string()
    };
    for (text, problem) in [
        ("no json".to_owned(), "not a manifest"),
        ("{}".to_owned(), "not a manifest"),
        (with("/format", 2.into()), "expected format 1, found 2"),
        (with("/checkpoints/0/name", "../../x".into()), "not the name of a checkpoint's file"),
        (with("/checkpoints/0/files/0/name", "step-/../../x".into()), "not the name of a checkpoint's file"),
        (with("/checkpoints/0/files/0/object", "commits/1.json".into()), "not the name of an object"),
        (with("/checkpoints/0/files/0/object", "data/../x".into()), "not the name of an object"),
    ] {
        fs::write(&next, text).unwrap();
        let error = Store::open(url(dir.path())).unwrap().list().unwrap_err().to_string();
        assert!(error.contains(problem) && error.contains("00000000000000000099.json"), "{error}");
        assert!(error.contains("after deleting this object"), "{error}");
    }
    fs::remove_file(&next).unwrap();
    assert_eq!(Store::open(url(dir.path())).unwrap().list().unwrap().len(), 1);
}

#[test]
fn an_archive_can_be_read_at_its_own_url() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(url(dir.path())).unwrap();
    for step in 1..=4 {
        save(&mut store, step);
    }
    let second = store.list().unwrap().swap_remove(1);
    let archive = store.archive_after(&second).unwrap().unwrap();
    assert_eq!(archive, Path::new(&url(dir.path())).join("after-step-000002"));
    assert_eq!(store.archive_after(&second).unwrap(), None);
    save(&mut store, 3);
    assert_eq!(store.archive_after(&second).unwrap().unwrap().file_name().unwrap(), "after-step-000002.2");
    store.clear().unwrap();
    let mut read = Store::open(&archive).unwrap();
    assert_eq!(read.list().unwrap().iter().map(|saved| saved.step).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(read.latest_valid().unwrap().saved.unwrap().step, 4);
    let error = read.save(5, None, &[], &Metadata::new()).unwrap_err().to_string();
    assert!(error.contains("is an archive"), "{error}");
    let foreign = second;
    assert!(matches!(store.archive_after(&foreign), Err(Error::Setting { .. })));
}

#[test]
fn folders_have_any_name() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("ein Lauf/größer & später/1+1=2");
    let mut store = Store::open(url(&folder)).unwrap();
    assert!(store.list().unwrap().is_empty() && !folder.exists());
    save(&mut store, 1);
    assert_eq!(Store::open(url(&folder)).unwrap().latest_valid().unwrap().saved.unwrap().step, 1);
    assert_eq!(keys(&folder, "data").len(), 1);
}

#[test]
fn commits_deleted_by_hand_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(url(dir.path())).unwrap();
    save(&mut store, 1);
    for folder in ["commits", "data"] {
        fs::remove_dir_all(dir.path().join(folder)).unwrap();
    }
    store.lock().unwrap();
    save(&mut store, 2);
    assert_eq!(Store::open(url(dir.path())).unwrap().latest_valid().unwrap().saved.unwrap().step, 2);
}

#[test]
fn a_store_works_within_a_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let folder = url(dir.path());
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let mut store = Store::open(&folder).unwrap();
        save(&mut store, 1);
        assert_eq!(store.latest_valid().unwrap().saved.unwrap().step, 1);
        drop(store);
    });
}

#[test]
fn a_link_to_a_copy_that_would_vanish_is_refused() {
    let error = latest_checkpoint("file:///tmp/x").unwrap_err().to_string();
    assert!(error.contains("Store::latest_valid"), "{error}");
}

#[test]
fn local_copies_are_deleted_with_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(url(dir.path())).unwrap().keep(Keep::last(1));
    save(&mut store, 1);
    let reader = Store::open(url(dir.path())).unwrap();
    let first = reader.latest_valid().unwrap().saved.unwrap().path;
    save(&mut store, 2);
    let second = reader.latest_valid().unwrap().saved.unwrap().path;
    assert!(!first.exists() && second.exists(), "a copy of a deleted checkpoint is deleted");
    drop(reader);
    assert!(!second.parent().unwrap().exists());
}

#[derive(Debug, Clone)]
enum Step {
    Save(u64, Option<f64>),
    Keep(usize, usize),
    Prune,
    Archive(usize),
    Clear,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let score = prop_oneof![
        Just(None),
        Just(Some(f64::NAN)),
        Just(Some(f64::INFINITY)),
        (0..4).prop_map(|score| Some(f64::from(score) / 3.0))
    ];
    let step = prop_oneof![
        6 => (0u64..6, score).prop_map(|(step, score)| Step::Save(step, score)),
        1 => (1usize..4, 0usize..3).prop_map(|(last, best)| Step::Keep(last, best)),
        1 => Just(Step::Prune),
        2 => (0usize..4).prop_map(Step::Archive),
        1 => Just(Step::Clear),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_fresh_reader_sees_what_the_store_of_a_folder_would_have(steps in steps()) {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let places = [PathBuf::from(url(dirs[0].path())), dirs[1].path().to_owned()];
        let mut stores: Vec<Store> = places.iter().map(|place| Store::open(place).unwrap()).collect();
        let mut archives: Vec<Vec<PathBuf>> = vec![Vec::new(), Vec::new()];
        for (number, step) in steps.iter().enumerate() {
            let mut outcomes = Vec::new();
            for (place, store) in stores.iter_mut().enumerate() {
                outcomes.push(match *step {
                    Step::Save(step, score) => {
                        let saved = store.save(step, score, &[&state(number as f32)], &Metadata::new()).unwrap();
                        format!("{:?} {}", saved.path.file_name().unwrap(), saved.commit)
                    }
                    Step::Keep(last, best) => {
                        *store = Store::open(&places[place]).unwrap().keep(Keep::last(last).best(best));
                        format!("{}", store.prunable().unwrap().len())
                    }
                    Step::Prune => format!("{}", store.prune().unwrap().len()),
                    Step::Archive(nth) => match store.list().unwrap().get(nth) {
                        Some(saved) => {
                            let archive = store.archive_after(saved).unwrap();
                            archives[place].extend(archive.clone());
                            format!("{:?}", archive.and_then(|it| it.file_name().map(|name| name.to_owned())))
                        }
                        None => String::new(),
                    },
                    Step::Clear => format!("{:?}", store.clear()),
                    Step::Reopen => {
                        *store = Store::open(&places[place]).unwrap();
                        String::new()
                    }
                });
            }
            prop_assert_eq!(&outcomes[0], &outcomes[1], "{:?}", step);
        }
        let seen: Vec<Vec<_>> = places.iter().zip(&archives).map(|(place, archives)| {
            [place].into_iter().chain(archives).map(|place| content(place)).collect()
        }).collect();
        prop_assert_eq!(&seen[0], &seen[1]);
        prop_assert_eq!(keys(dirs[0].path(), "data"), named_keys(dirs[0].path()));
    }
}

/// What a fresh store sees: the list, the valid ones, and their bytes.
fn content(place: &Path) -> String {
    let store = Store::open(place).unwrap();
    let mut listed = BTreeMap::new();
    for saved in store.list().unwrap() {
        let name = saved.path.file_name().unwrap().to_owned();
        listed.insert((saved.commit, name), (saved.step, saved.score.map(f64::to_bits)));
    }
    let valid = [store.latest_valid().unwrap(), store.best_valid().unwrap()].map(|valid| {
        assert!(valid.skipped.is_empty());
        valid.saved.map(|saved| (saved.commit, Checkpoint::read(&saved.path).unwrap().bytes("w").unwrap()))
    });
    format!("{listed:?} {valid:?}")
}
