//! A folder of checkpoints through the public face.
#![cfg(feature = "torch")]

use std::fs;
use std::path::{Path, PathBuf};

use earlystop::Error;
use earlystop::checkpoint::{Keep, Metadata, NamedTensor, Saver, Store, latest_checkpoint};
use tch::{Device, Kind, Tensor};

fn state(value: f64) -> Vec<NamedTensor<'static>> {
    vec![NamedTensor::new("w", Tensor::full([8], value, (Kind::Float, Device::Cpu)))]
}

/// Saves, with the step as the value.
fn save(store: &mut Store, step: u64, score: f64) -> PathBuf {
    store.save(step, Some(score), &[&state(step as f64)], &Metadata::new()).unwrap().path
}

fn steps(store: &Store) -> Vec<u64> {
    store.list().unwrap().iter().map(|saved| saved.step).collect()
}

fn flip_last_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 0x80;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_folder_that_is_not_there_yet_is_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a/b/checkpoints");
    let mut store = Store::open(&folder).unwrap();
    assert!(store.latest().unwrap().is_none() && store.best().unwrap().is_none());
    assert!(store.latest_valid().unwrap().saved.is_none());
    assert_eq!(latest_checkpoint(&folder).unwrap(), None);
    assert!(!folder.exists());
    assert_eq!(save(&mut store, 100, 0.5), folder.join("step-000100.safetensors"));
    assert_eq!(latest_checkpoint(&folder).unwrap(), Some(folder.join("step-000100.safetensors")));
}

#[test]
fn everything_is_found_again_after_a_restart_and_in_a_moved_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let mut store = Store::open(&here).unwrap().keep(Keep::last(2).best(1));
    for (step, score) in [(100, 0.5), (200, 0.9), (300, 0.8), (400, 0.7), (500, 0.6)] {
        save(&mut store, step, score);
    }
    drop(store);
    fs::rename(&here, &there).unwrap();

    let mut store = Store::open(&there).unwrap().keep(Keep::last(2).best(1));
    assert_eq!(steps(&store), [200, 400, 500]);
    let best = store.best().unwrap().unwrap();
    assert_eq!((best.step, best.score), (200, Some(0.9)));
    // What comes after a restart is worse: the best stays.
    save(&mut store, 600, 0.1);
    save(&mut store, 700, 0.2);
    assert_eq!(steps(&store), [200, 600, 700]);
    save(&mut store, 800, 0.95);
    assert_eq!(steps(&store), [700, 800]);
}

#[test]
fn steps_of_more_than_six_digits_and_huge_scores_are_no_problem() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    for (step, score) in [(0, 1e300), (u64::MAX, -1e300), (1_000_000, f64::INFINITY), (999_999, f64::NAN)] {
        store.save(step, Some(score), &[&state(1.0)], &Metadata::new()).unwrap();
    }
    store.save(5, None, &[&state(1.0)], &Metadata::new()).unwrap();
    assert_eq!(steps(&store), [0, u64::MAX, 1_000_000, 999_999, 5]);
    assert_eq!(store.best().unwrap().unwrap().step, 1_000_000);
    let scores: Vec<Option<f64>> = store.list().unwrap().iter().map(|saved| saved.score).collect();
    assert!(scores[0] == Some(1e300) && scores[3].unwrap().is_nan() && scores[4].is_none(), "{scores:?}");
}

#[test]
fn damaged_files_are_passed_over_and_the_reasons_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap().keep(Keep::last(10));
    let paths: Vec<PathBuf> = (1..=5).map(|step| save(&mut store, step, step as f64)).collect();
    flip_last_byte(&paths[4]);
    fs::write(&paths[3], "").unwrap();
    let whole = fs::read(&paths[2]).unwrap();
    fs::write(&paths[2], &whole[..whole.len() - 1]).unwrap();

    let found = store.latest_valid().unwrap();
    assert_eq!(found.saved.unwrap().step, 2);
    let reasons: Vec<String> = found.skipped.iter().map(|skipped| skipped.error.to_string()).collect();
    let expected = [(3, "file: 0 bytes are too few"), (2, "cut short"), (4, "tensor \"w\": damaged")];
    assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
    for (reason, (index, why)) in reasons.iter().zip(expected) {
        assert!(reason.starts_with(&*paths[index].to_string_lossy()) && reason.contains(why), "{reason}");
    }
    assert_eq!(store.best_valid().unwrap().saved.unwrap().step, 2);
    assert_eq!(latest_checkpoint(dir.path()).unwrap().as_ref(), Some(&paths[1]));

    // After a restart, going on writes over a damaged file of the same step.
    drop(store);
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!(save(&mut store, 4, 0.0), paths[3]);
    assert_eq!(store.latest_valid().unwrap().saved.unwrap().step, 4);

    for path in &paths {
        fs::write(path, "no checkpoint").unwrap();
    }
    assert!(store.latest_valid().unwrap().saved.is_none());
    assert!(matches!(latest_checkpoint(dir.path()), Err(Error::Checkpoint { .. })));
}

#[test]
fn a_damaged_file_neither_counts_nor_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let paths: Vec<PathBuf> = [(1, 0.9), (2, 0.5), (3, 0.1)].iter().map(|&(n, s)| save(&mut store, n, s)).collect();
    drop(store);
    flip_last_byte(&paths[0]);
    flip_last_byte(&paths[2]);

    let mut store = Store::open(dir.path()).unwrap().keep(Keep::last(1).best(1));
    assert_eq!(save(&mut store, 4, 0.2), dir.path().join("step-000004.safetensors"));
    assert_eq!(store.best_valid().unwrap().saved.unwrap().step, 2);
    assert_eq!(steps(&store), [1, 2, 3, 4]);
    assert_eq!(store.latest().unwrap().unwrap().commit, 4);
}

#[test]
fn a_damaged_best_is_no_reason_to_delete_the_best_valid_one() {
    // Every subset of damaged files, among which a new process goes on to save.
    for damaged in 0..16 {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let scores = [0.7, 0.9, 0.8, 0.3];
        let paths: Vec<PathBuf> = (1..=4).map(|step| save(&mut store, step, scores[step as usize - 1])).collect();
        drop(store);
        let is_damaged = |step: u64| step <= 4 && damaged & (1 << (step - 1)) != 0;
        for step in (1..=4).filter(|step| is_damaged(*step)) {
            flip_last_byte(&paths[step as usize - 1]);
        }
        let best_valid = |steps: &[u64]| {
            let score = |step: &u64| scores.get(*step as usize - 1).copied().unwrap_or(0.1);
            let valid = steps.iter().filter(|step| !is_damaged(**step));
            valid.max_by(|a, b| score(a).total_cmp(&score(b))).copied()
        };
        let mut store = Store::open(dir.path()).unwrap().keep(Keep::last(2).best(1));
        for step in 5..=7 {
            save(&mut store, step, 0.1);
            let expected = best_valid(&[1, 2, 3, 4, 5]);
            assert_eq!(store.best_valid().unwrap().saved.map(|it| it.step), expected, "{damaged:04b}, step {step}");
            assert_eq!(store.latest_valid().unwrap().saved.unwrap().step, step);
        }
        // The damaged ones are still there, and of the others only what the rules keep.
        let best = best_valid(&[1, 2, 3, 4, 5]).unwrap();
        let kept: Vec<u64> = (1..=7).filter(|step| is_damaged(*step) || *step >= 6 || *step == best).collect();
        assert_eq!(steps(&store), kept, "{damaged:04b}");
    }
}

#[test]
fn opening_and_locking_reads_headers_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    for step in 1..=3 {
        save(&mut store, step, 0.5);
    }
    drop(store);
    // Holes in place of the data: to read them whole would take hours.
    for step in 1..=3 {
        let path = dir.path().join(format!("step-{step:06}.safetensors"));
        let header = r#"{"w":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}}"#;
        fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        if file.set_len(8 + header.len() as u64 + (1 << 40)).is_err() {
            eprintln!("SKIPPED: this file system has no sparse files of 1 TiB");
            return;
        }
    }
    let mut store = Store::open(dir.path()).unwrap();
    store.lock().unwrap();
    assert_eq!(steps(&store), [1, 2, 3]);
    assert_eq!(store.latest().unwrap().unwrap().step, 3);
    save(&mut store, 4, 0.5);
}

#[test]
fn going_back_to_an_earlier_step_loses_no_better_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap().keep(Keep::last(2).best(1));
    for (step, score) in [(100, 0.5), (200, 0.9), (300, 0.8)] {
        save(&mut store, step, score);
    }
    let again = save(&mut store, 200, 0.7);
    assert_eq!(again.file_name().unwrap(), "step-000200.2.safetensors");
    assert_eq!(store.latest().unwrap().unwrap().path, again);
    assert_eq!(store.best().unwrap().unwrap().path, dir.path().join("step-000200.safetensors"));

    // The newest is the one saved last, not the one of the highest step.
    save(&mut store, 250, 0.6);
    assert_eq!(steps(&store), [200, 200, 250]);
    assert_eq!(store.latest_valid().unwrap().saved.unwrap().step, 250);

    // As good or better: in place.
    assert_eq!(save(&mut store, 200, 0.9), dir.path().join("step-000200.safetensors"));
    assert_eq!(steps(&store), [250, 200]);
}

#[test]
fn archiving_moves_what_was_saved_later_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    for (step, score) in [(100, 0.5), (200, 0.9), (300, 0.8), (400, 0.7)] {
        save(&mut store, step, score);
    }
    let best = store.best().unwrap().unwrap();
    let bytes = fs::read(dir.path().join("step-000400.safetensors")).unwrap();
    let archive = store.archive_after(&best).unwrap().unwrap();
    assert_eq!(archive, dir.path().join("after-step-000200"));
    assert_eq!(steps(&store), [100, 200]);
    assert_eq!(steps(&Store::open(&archive).unwrap()), [300, 400]);
    assert_eq!(fs::read(archive.join("step-000400.safetensors")).unwrap(), bytes);
    assert_eq!(store.archive_after(&best).unwrap(), None);

    // The run goes on from there, and is set aside once more, without mixing with the first time.
    save(&mut store, 300, 0.1);
    save(&mut store, 200, 0.2); // becomes step-000200.2, as the older one is better
    assert_eq!(steps(&store), [100, 200, 300, 200]);
    let second = store.archive_after(&best).unwrap().unwrap();
    assert_eq!(second, dir.path().join("after-step-000200.2"));
    assert_eq!(steps(&Store::open(&second).unwrap()), [300, 200]);
    assert_eq!(steps(&Store::open(&archive).unwrap()), [300, 400]);
    assert_eq!(store.latest_valid().unwrap().saved.unwrap(), best);
    assert_eq!(save(&mut store, 300, 0.3), dir.path().join("step-000300.safetensors"));
}

#[test]
fn archiving_moves_damaged_files_of_later_steps_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let paths: Vec<PathBuf> = (1..=4).map(|step| save(&mut store, step, 0.5)).collect();
    let second = store.list().unwrap().swap_remove(1);
    fs::write(&paths[0], "damaged").unwrap();
    fs::write(&paths[3], "damaged").unwrap();
    flip_last_byte(&paths[2]);
    let archive = store.archive_after(&second).unwrap().unwrap();
    let mut names: Vec<_> = fs::read_dir(archive).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["step-000003.safetensors", "step-000004.safetensors"]);
    assert!(paths[0].exists() && paths[1].exists());
}

#[test]
fn archiving_after_a_checkpoint_of_another_folder_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut store = Store::open(dir.path()).unwrap();
    save(&mut store, 1, 0.5);
    save(&mut store, 2, 0.5);
    let mut elsewhere = Store::open(other.path()).unwrap();
    save(&mut elsewhere, 7, 0.5);
    let error = store.archive_after(&elsewhere.latest().unwrap().unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("checkpoint: expected one of those in ") && error.contains("step-000007"), "{error}");
    assert_eq!(steps(&store), [1, 2]);
}

#[test]
#[cfg(unix)]
fn a_relative_link_still_points_to_its_file_after_archiving() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let mut store = Store::open(&folder).unwrap();
    save(&mut store, 1, 0.5);
    let first = store.latest().unwrap().unwrap();
    let path = save(&mut store, 2, 0.5);
    fs::rename(&path, dir.path().join("large-disk")).unwrap();
    std::os::unix::fs::symlink("../large-disk", &path).unwrap();
    let archive = store.archive_after(&first).unwrap().unwrap();
    assert_eq!(steps(&Store::open(&archive).unwrap()), [2]);
    assert!(!path.exists() && dir.path().join("large-disk").exists());
}

#[test]
fn only_a_store_that_holds_the_lock_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let leftovers = [".step-000100.safetensors.4000000-0.tmp", ".step-000200.safetensors.4000000-3.tmp"];
    for name in leftovers {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let exist = || leftovers.map(|name| dir.path().join(name).exists());
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!(exist(), [true, true]);
    store.lock().unwrap();
    assert_eq!(exist(), [false, false]);
}

#[test]
fn other_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let others = [
        "best_validation.safetensors",
        "step-x.safetensors",
        "step-+1.safetensors",
        "step-1.2.3.safetensors",
        "step-.safetensors",
        "step-99999999999999999999999.safetensors",
        "step-000001.txt",
        "notes.md",
    ];
    for name in others {
        fs::write(dir.path().join(name), "mine").unwrap();
    }
    let mut store = Store::open(dir.path()).unwrap().keep(Keep::last(1));
    save(&mut store, 1, 0.5);
    save(&mut store, 2, 0.5);
    assert_eq!(steps(&store), [2]);
    assert!(store.latest_valid().unwrap().skipped.is_empty());
    for name in others {
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"mine", "{name}");
    }
}

#[test]
fn a_file_that_no_store_wrote_counts_as_the_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    Saver::new().save(dir.path().join("step-000900.safetensors"), &[&state(9.0)], &Metadata::new()).unwrap();
    assert_eq!(store.latest().unwrap().unwrap().step, 900);
    save(&mut store, 100, 0.5);
    assert_eq!(steps(&store), [900, 100]);
}

#[test]
fn files_deleted_by_hand_are_not_missed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap().keep(Keep::last(2));
    let first = save(&mut store, 1, 0.5);
    save(&mut store, 2, 0.5);
    fs::remove_file(first).unwrap();
    save(&mut store, 3, 0.5);
    save(&mut store, 4, 0.5);
    assert_eq!(steps(&store), [3, 4]);
}

#[test]
fn what_is_no_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("checkpoints");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: cannot list the folder: ", file.display())), "{error}");
    assert!(latest_checkpoint(&file).is_err());
    let error = Store::open(file.join("below")).map(|mut store| store.lock()).unwrap_err().to_string();
    assert!(error.contains("cannot list the folder"), "{error}");
}
