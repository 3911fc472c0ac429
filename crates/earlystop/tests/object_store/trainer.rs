//! Runs on machines that keep nothing: each process begins without local files.

use std::path::Path;

use earlystop::Trainer;
use earlystop::checkpoint::{Checkpoint, Keep, Store};
use earlystop::early_stopping::{Patience, Rule, replay};
use earlystop::trainer::{Event, Resume};

use crate::common::{keys, manifest, named_keys, url};
use crate::network::{bits, builder, history};

fn trainer(folder: &str) -> Trainer {
    builder().stop_when(Rule::never()).keep(Keep::last(2).best(1)).checkpoints(folder).build().unwrap()
}

/// Trains in parts of so many iterations, each with a new trainer; returns what the last one ends with.
fn in_parts(folder: &str, parts: &[u64]) -> Trainer {
    let mut last = None;
    for (number, iterations) in parts.iter().enumerate() {
        drop(last.take());
        let mut trainer = trainer(folder);
        assert_eq!(trainer.resume(|_| ()).unwrap(), number > 0);
        trainer.optimize(*iterations, |_| ()).unwrap();
        last = Some(trainer);
    }
    last.unwrap()
}

/// Requires that a run that was interrupted is like one that was not.
pub(crate) fn expect_same_bits(folder: &str) {
    let mut resumed = in_parts(folder, &[35, 7, 40, 38]);
    let mut whole = builder().stop_when(Rule::never()).build().unwrap();
    whole.optimize(120, |_| ()).unwrap();
    assert_eq!(bits(resumed.network()), bits(whole.network()));
    let (mut seen, expected) = (history(&resumed), history(&whole));
    seen.retain(|seen| expected.iter().any(|it| it.iteration == seen.iteration));
    assert_eq!(seen.len(), expected.len(), "the history is complete");
    resumed.restore_best().unwrap();
    // A new process has all evaluations, so another rule can be tried on them.
    drop(resumed);
    let mut fresh = trainer(folder);
    assert!(fresh.resume(|event| assert!(matches!(event, Event::Resumed { notes, .. } if notes.is_empty()))).unwrap());
    assert!(history(&fresh).len() >= expected.len());
    assert_eq!(replay(fresh.history(), [Patience::new(20).into()]).rows.len(), 1);
    let restored = fresh.restore_best().unwrap();
    assert!(restored.is_best() && restored.file.is_some(), "{restored}");
}

#[test]
fn a_run_resumes_on_a_fresh_machine_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    expect_same_bits(&url(dir.path()));
    let store = Store::open(url(dir.path())).unwrap();
    let found = store.latest_valid().unwrap().saved.unwrap();
    let lines = Checkpoint::open(&found.path).unwrap().history().unwrap();
    assert_eq!(lines.missing, None);
    assert!(lines.lines.len() >= 12);
}

#[test]
fn a_run_goes_back_to_its_best_and_the_later_part_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let folder = url(dir.path());
    let mut first = builder().stop_when(Rule::never()).keep(Keep::all()).checkpoints(&folder).build().unwrap();
    first.optimize(60, |_| ()).unwrap();
    drop(first);
    let mut back = trainer(&folder);
    let second = format!("{folder}/step-000020.safetensors");
    assert!(back.resume_from(Resume::file(&second), |_| ()).unwrap());
    assert_eq!(back.iteration(), 20);
    let mut archived = None;
    back.optimize(30, |event| {
        if let Event::Archived { folder } = event {
            archived = Some(folder.clone());
        }
    })
    .unwrap();
    assert_eq!(archived.as_deref(), Some(Path::new(&format!("{folder}/after-step-000020"))));
    assert_eq!(history(&back).len(), 5);
    let archive = Store::open(archived.unwrap()).unwrap().latest_valid().unwrap();
    assert_eq!(archive.saved.unwrap().step, 60);
    let mut again = trainer(&folder);
    assert!(again.resume(|_| ()).unwrap());
    assert_eq!((again.iteration(), history(&again).len()), (50, 5));
    assert_eq!(keys(dir.path(), "data"), named_keys(dir.path()));
}

#[test]
fn a_checkpoint_whose_history_is_gone_resumes_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    drop(in_parts(&url(dir.path()), &[30]));
    for key in keys(dir.path(), "data").into_iter().filter(|key| key.contains("history-")) {
        std::fs::remove_file(dir.path().join(key)).unwrap();
    }
    let mut resumed = trainer(&url(dir.path()));
    let mut found = Vec::new();
    resumed
        .resume(|event| {
            if let Event::Resumed { notes, .. } = event {
                found.clone_from(notes);
            }
        })
        .unwrap();
    assert!(found.iter().any(|note| note.contains("the first 3 of 3 evaluations are missing")), "{found:?}");
    resumed.optimize(20, |_| ()).unwrap();
    let mut again = trainer(&url(dir.path()));
    again.resume(|_| ()).unwrap();
    assert_eq!((again.iteration(), again.history().len()), (50, 2));
}

#[test]
fn a_long_history_has_few_objects() {
    let dir = tempfile::tempdir().unwrap();
    let mut trainer = builder()
        .stop_when(Rule::never())
        .evaluate_every(1)
        .keep(Keep::last(1))
        .checkpoints(url(dir.path()))
        .build()
        .unwrap();
    trainer.optimize(200, |_| ()).unwrap();
    let manifest = manifest(dir.path());
    let chunks = manifest.pointer("/history/0/chunks").unwrap().as_array().unwrap();
    assert!(chunks.len() <= 9, "{}", chunks.len());
    assert_eq!(keys(dir.path(), "data"), named_keys(dir.path()));
    assert!(keys(dir.path(), "commits").len() <= 6);
}

#[test]
fn another_run_in_the_same_place_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(in_parts(&url(dir.path()), &[20]));
    let mut other = trainer(&url(dir.path()));
    let error = other.optimize(10, |_| ()).unwrap_err();
    assert!(matches!(error, earlystop::Error::OtherRun { .. }), "{error}");
    assert!(error.to_string().contains(&url(dir.path())), "{error}");
    other.start_over().unwrap();
    other.optimize(10, |_| ()).unwrap();
    assert_eq!(Store::open(url(dir.path())).unwrap().list().unwrap().len(), 1);
}

#[test]
fn a_failed_upload_is_reported_and_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut trainer = trainer(&url(dir.path()));
    trainer.optimize(20, |_| ()).unwrap();
    // No object can be created where a file is in the place of the folder.
    let (data, aside) = (dir.path().join("data"), dir.path().join("aside"));
    std::fs::rename(&data, &aside).unwrap();
    std::fs::write(&data, "").unwrap();
    let mut failed = 0;
    let ended = trainer.optimize(30, |event| failed += u32::from(matches!(event, Event::SaveFailed { .. })));
    let error = ended.unwrap_err();
    assert!(matches!(error, earlystop::Error::Io { .. }) && error.to_string().contains("cannot upload"), "{error}");
    assert_eq!((failed, trainer.iteration()), (3, 50));
    std::fs::remove_file(&data).unwrap();
    std::fs::rename(&aside, &data).unwrap();
    trainer.optimize(10, |event| assert!(!matches!(event, Event::SaveFailed { .. }))).unwrap();
    drop(trainer);
    let mut fresh = self::trainer(&url(dir.path()));
    assert!(fresh.resume(|_| ()).unwrap());
    assert_eq!((fresh.iteration(), fresh.history().len()), (60, 6));
    assert_eq!(keys(dir.path(), "data"), named_keys(dir.path()));
}
