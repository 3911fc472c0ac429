//! Reads a folder while a training saves into it and deletes from it.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::run_in;
use earlystop::checkpoint::{Keep, Metadata, NamedTensor, Store};
use earlystop::early_stopping::{EarlyStopping, Observation};

/// How often each command runs.
fn times() -> usize {
    if std::env::var_os("EARLYSTOP_LONG_TESTS").is_some() { 100 } else { 20 }
}

/// Saves without a pause until it is told to stop. Returns how often.
fn train(folder: &Path, split_above: u64, started: &AtomicBool, stop: &AtomicBool) -> u64 {
    let mut store = Store::open(folder).unwrap().keep(Keep::last(2)).split_above(split_above);
    let mut stopping = EarlyStopping::new(1000);
    let (a, b) = ([1.0f32; 100], [2.0f32; 100]);
    let state = vec![NamedTensor::new("a", &a[..]), NamedTensor::new("b", &b[..])];
    let mut step = 0;
    while !stop.load(Ordering::Relaxed) {
        step += 1;
        if step % 50 == 1 {
            stopping = EarlyStopping::new(1000); // the history stays short
        }
        stopping.record(Observation::new(step, 0.5)).unwrap();
        let metadata = Metadata::from([("stopping".to_owned(), serde_json::to_string(&stopping).unwrap())]);
        store.save(step, Some(step as f64), &[&state], &metadata).unwrap();
        started.store(true, Ordering::Relaxed);
    }
    step
}

fn read_while_training(split_above: u64) {
    let dir = tempfile::tempdir().unwrap();
    let (started, stop, saves) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| saves.store(train(dir.path(), split_above, &started, &stop), Ordering::Relaxed));
        // Also where a command fails, so that the test ends.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        while !started.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        for _ in 0..times() {
            for command in ["list", "list --verify", "verify", "history", "show", "prune --dry-run --keep last=1"] {
                let ran = run_in(dir.path(), &format!("{command} {{}}")).ends_with(0);
                assert!(ran.err.is_empty() && !ran.out.contains("damaged"), "{command}: {}{}", ran.out, ran.err);
                assert!(!ran.out.contains("-of-0000"), "{command}: a part is no checkpoint: {}", ran.out);
            }
        }
    });
    let saves = saves.into_inner();
    assert!(saves > times() as u64, "only {saves} saves: nothing was tested");
}

#[test]
fn checkpoints_that_come_and_go_are_no_failure() {
    read_while_training(u64::MAX);
}

#[test]
fn nor_are_those_in_several_files() {
    read_while_training(400);
}
