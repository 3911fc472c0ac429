//! What a resume compares, where it can go back to, and what it needs.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use earlystop::checkpoint::{Checkpoint, Metadata, Saver, Store};
use earlystop::early_stopping::{Patience, Rule, StopKind};
use earlystop::tch::Device;
use earlystop::trainer::{Event, Resume, TrainerBuilder};
use earlystop::{Error, Examples, Network, Optimizer, Trainer};

use crate::common::{bits, builder, examples, history, network};
use crate::folder::{latest, notes, run_of};

fn with_data(train: &Examples, validation: &Examples) -> TrainerBuilder {
    with_rate(3e-3, train, validation)
}

fn with_rate(learning_rate: f64, train: &Examples, validation: &Examples) -> TrainerBuilder {
    let network = network();
    let optimizer = Optimizer::adam(&network, learning_rate).unwrap();
    Trainer::builder(network, optimizer, train, validation).batch_size(32).evaluate_every(10).seed(9)
}

fn lower_rate() -> TrainerBuilder {
    with_rate(1e-3, &examples(150, 0), &examples(60, 1000))
}

fn in_folder(builder: TrainerBuilder, folder: &Path) -> Trainer {
    builder.stop_when(Rule::never()).checkpoints(folder).build().unwrap()
}

/// Changes the run's state in a checkpoint, with the history in it as in earlier versions, and leaves the file valid.
fn edit_state(path: &Path, edit: impl Fn(&mut serde_json::Value)) {
    let checkpoint = Checkpoint::read(path).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&checkpoint.metadata()["trainer"]).unwrap();
    let lines = fs::read_to_string(path.with_file_name("history-0001.jsonl")).unwrap();
    let history = lines.lines().skip(1).map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    state["stopping"]["history"] = history.collect();
    edit(&mut state);
    let network = network();
    let optimizer = Optimizer::adam(&network, 3e-3).unwrap();
    Saver::new().restore(path, &[&network, &optimizer]).unwrap();
    let metadata = Metadata::from([("trainer".to_owned(), state.to_string())]);
    Saver::new().save(path, &[&network, &optimizer], &metadata).unwrap();
}

#[test]
fn other_data_is_refused_and_named() {
    let folder = run_of(20);
    let (train, validation) = (examples(150, 0), examples(60, 1000));
    let refusal = |train: &Examples, validation: &Examples| {
        let mut trainer = in_folder(with_data(train, validation), folder.path());
        let before = bits(trainer.network());
        let error = trainer.resume(|_| ()).unwrap_err();
        assert!(matches!(error, Error::SettingsDiffer { .. }), "{error}");
        assert_eq!((trainer.iteration(), bits(trainer.network())), (0, before));
        error.to_string()
    };
    // Other images, fewer of them, another label, and the same ones in another order.
    let mut labels = validation.labels().to_owned();
    labels[7] = (labels[7] + 1) % 4;
    let relabelled = Examples::new(validation.images().to_owned(), labels).unwrap();
    let reversed = validation.take(&(0..60).rev().collect::<Vec<_>>()).unwrap();
    for other in [&examples(60, 1001), &relabelled, &reversed] {
        let message = refusal(&train, other);
        assert!(message.contains("\n  validation_data.sha256: \""), "{message}");
        assert!(!message.contains("training_data"), "{message}");
    }
    let message = refusal(&train, &validation.slice(0..50).unwrap());
    assert!(message.contains("\n  validation_data.examples: 60 in the checkpoint, 50 now"), "{message}");
    let message = refusal(&examples(150, 1), &validation);
    assert!(message.contains("\n  training_data.sha256: \""), "{message}");
    // The same data from elsewhere is the same.
    let copy = Examples::new(validation.images().to_owned(), validation.labels().to_owned()).unwrap();
    assert!(notes(&mut in_folder(with_data(&train, &copy), folder.path()), Resume::latest()).is_empty());
}

#[test]
fn another_test_set_is_a_note() {
    let (test, other) = (examples(30, 2000), examples(30, 2001));
    let folder = tempfile::tempdir().unwrap();
    in_folder(builder().record_test_accuracy(&test), folder.path()).optimize(10, |_| ()).unwrap();
    let noted = |builder: TrainerBuilder| notes(&mut in_folder(builder, folder.path()), Resume::latest());
    assert_eq!(noted(builder().record_test_accuracy(&test)), [""; 0]);
    let found = noted(builder().record_test_accuracy(&other));
    assert!(found.len() == 1 && found[0].starts_with("test_data.sha256: \""), "{found:?}");
    let found = noted(builder());
    assert!(found.len() == 1 && found[0].starts_with("test_data: {"), "{found:?}");
}

#[test]
fn checkpoints_of_earlier_versions_resume_with_notes_of_what_is_unknown() {
    let folder = run_of(10);
    edit_state(&latest(folder.path()), |state| {
        for (part, fields) in [
            ("settings", &["training_data", "validation_data", "order"][..]),
            ("environment", &["instructions"]),
            ("", &["test_data", "losses"]),
        ] {
            let object = if part.is_empty() { &mut *state } else { &mut state[part] };
            for field in fields {
                object.as_object_mut().unwrap().remove(*field).unwrap();
            }
        }
    });
    let mut trainer = in_folder(builder().record_test_accuracy(&examples(30, 1)), folder.path());
    let unknown = |what: &str| format!("{what}: unknown in the checkpoint, so not compared");
    let expected = ["training_data", "validation_data", "instructions", "test_data"].map(unknown);
    assert_eq!(notes(&mut trainer, Resume::latest()), expected);
    let mut straight = builder().stop_when(Rule::never()).build().unwrap();
    straight.optimize(40, |_| ()).unwrap();
    trainer.optimize_to(40, |_| ()).unwrap();
    assert_eq!(bits(trainer.network()), bits(straight.network()));
}

/// Edits the latest checkpoint so that it looks like one of an earlier version, in which the compute precision could be chosen.
fn set_precisions(folder: &Path, precision: &str, of_evaluations: Option<&str>) {
    edit_state(&latest(folder), |state| {
        let settings = &mut state["settings"];
        settings["network"]["precision"] = precision.into();
        if let Some(precision) = of_evaluations {
            settings["evaluation_precision"] = precision.into();
        }
    });
}

#[test]
fn checkpoints_of_networks_that_computed_in_f32_resume_with_the_same_bits() {
    let mut straight = builder().stop_when(Rule::never()).build().unwrap();
    straight.optimize(40, |_| ()).unwrap();
    for of_evaluations in [None, Some("f32")] {
        let folder = run_of(10);
        set_precisions(folder.path(), "f32", of_evaluations);
        let mut trainer = in_folder(builder(), folder.path());
        assert_eq!(notes(&mut trainer, Resume::latest()), [""; 0]);
        trainer.optimize_to(40, |_| ()).unwrap();
        assert_eq!(bits(trainer.network()), bits(straight.network()));
    }
}

#[test]
fn checkpoints_of_networks_that_computed_in_bf16_resume_only_with_new_settings() {
    let of_network = "precision: \"bf16\" in the checkpoint, \"f32\" now";
    let of_evaluations = "evaluation_precision: \"bf16\" in the checkpoint, \"f32\" now";
    for (precisions, expected) in [
        (("bf16", Some("f32")), &[of_network][..]),
        (("f32", Some("bf16")), &[of_evaluations]),
        (("bf16", Some("bf16")), &[of_evaluations, of_network]),
        (("bf16", None), &[of_network]),
    ] {
        let folder = run_of(10);
        set_precisions(folder.path(), precisions.0, precisions.1);
        let mut trainer = in_folder(builder(), folder.path());
        match trainer.resume(|_| ()).unwrap_err() {
            Error::SettingsDiffer { differences, .. } => assert_eq!(differences, expected, "{precisions:?}"),
            error => panic!("{error}"),
        }
        assert_eq!(notes(&mut trainer, Resume::latest().with_new_settings()), expected);
        assert_eq!(trainer.optimize_to(40, |_| ()).unwrap().iterations, 40);
        // What was written since is as any other checkpoint.
        drop(trainer);
        assert_eq!(notes(&mut in_folder(builder(), folder.path()), Resume::latest()), [""; 0]);
    }
}

/// Earlier versions had another name for processors with bf16 instructions. The bits of results in `f32` are the same.
#[test]
fn the_former_name_of_the_same_instructions_is_no_difference() {
    let folder = run_of(10);
    let path = latest(folder.path());
    let checkpoint = Checkpoint::read(&path).unwrap();
    let state: serde_json::Value = serde_json::from_str(&checkpoint.metadata()["trainer"]).unwrap();
    let is_avx512 = state["environment"]["instructions"]["earlystop"] == "AVX-512";
    edit_state(&path, |state| state["environment"]["instructions"]["earlystop"] = "AVX-512 with bf16".into());
    let found = notes(&mut in_folder(builder(), folder.path()), Resume::latest());
    assert_eq!(found.is_empty(), is_avx512, "{found:?}");
    assert!(
        found.iter().all(|note| note.starts_with("instructions.earlystop: \"AVX-512\" in the checkpoint")),
        "{found:?}"
    );
}

#[test]
fn other_instructions_are_noted_and_other_threads_change_nothing() {
    let folder = run_of(10);
    edit_state(&latest(folder.path()), |state| {
        state["environment"]["instructions"] = serde_json::json!({"earlystop": "AVX-9", "libtorch": "avx9"});
        state["environment"]["threads"] = 99.into();
    });
    let notes = notes(&mut in_folder(builder(), folder.path()), Resume::latest());
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].starts_with("instructions.earlystop: \"AVX-9\" in the checkpoint, \""), "{notes:?}");
    assert!(notes[1].starts_with("instructions.libtorch: \"avx9\" in the checkpoint, \""), "{notes:?}");
}

#[test]
fn other_settings_are_named_and_the_caller_chooses() {
    let folder = run_of(20);
    let trainer = builder().batch_size(16).evaluate_every(20).patience(50).checkpoints(folder.path());
    let mut other = trainer.build().unwrap();
    let before = bits(other.network());
    let message = other.resume(|_| ()).unwrap_err().to_string();
    assert!(message.contains("\n  batch_size: 32 in the checkpoint, 16 now"), "{message}");
    assert!(message.contains("\n  evaluate_every: 10 in the checkpoint, 20 now"), "{message}");
    assert!(message.contains("\n  rule"), "{message}");
    assert!(message.contains("with_new_settings()"), "{message}");
    assert_eq!(bits(other.network()), before);
    // What failed is not recommended again.
    let message = other.optimize(10, |_| ()).unwrap_err().to_string();
    assert!(message.contains("it could not be resumed (") && message.contains("start_over()"), "{message}");
    let differences = notes(&mut other, Resume::latest().with_new_settings());
    assert!(differences.contains(&"batch_size: 32 in the checkpoint, 16 now".to_owned()), "{differences:?}");
    assert_eq!(other.optimize(10, |_| ()).unwrap().iterations, 30);
}

#[test]
fn another_network_is_refused_even_with_new_settings() {
    let folder = run_of(10);
    let network = Network::builder([8, 8, 1]).flatten().softmax_classifier(4).build(Device::Cpu).unwrap();
    let optimizer = Optimizer::adam(&network, 3e-3).unwrap();
    let trainer = Trainer::builder(network, optimizer, &examples(150, 0), &examples(60, 1000));
    let mut trainer = trainer.checkpoints(folder.path()).build().unwrap();
    assert!(matches!(trainer.resume(|_| ()), Err(Error::SettingsDiffer { .. })));
    let resumed = trainer.resume_from(Resume::latest().with_new_settings(), |_| ());
    assert!(matches!(resumed, Err(Error::Mismatch { .. })));
    assert_eq!((trainer.iteration(), trainer.history().len()), (0, 0));
}

#[test]
fn a_new_run_does_not_mix_with_an_older_one() {
    let folder = run_of(10);
    let mut anew = builder().checkpoints(folder.path()).build().unwrap();
    let message = anew.optimize(10, |_| ()).unwrap_err().to_string();
    assert!(message.contains("resume() continues it") && message.contains("start_over()"), "{message}");
    anew.start_over().unwrap();
    assert_eq!(anew.optimize(10, |_| ()).unwrap().iterations, 10);
}

fn damage(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = if at == 0 { bytes.len() - 100 } else { at };
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_skipped_with_an_event() {
    let folder = run_of(40);
    let damaged = latest(folder.path());
    damage(&damaged, 0);
    let mut trainer = in_folder(builder(), folder.path());
    let mut events = Vec::new();
    assert!(trainer.resume(|event| events.push(event.clone())).unwrap());
    assert!(matches!(&events[0], Event::Skipped { path, .. } if *path == damaged), "{events:?}");
    assert_eq!(trainer.iteration(), 30);
    trainer.optimize_to(50, |_| ()).unwrap(); // though a later commit was in the folder
}

#[test]
fn a_folder_with_only_damaged_checkpoints_is_an_error_and_stays_as_it_is() {
    // In the data and in the header, of which the latter hides even the step.
    for at in [0, 20] {
        let folder = run_of(30);
        let files = || {
            let mut files = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
            files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
            files.sort();
            files.into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect::<Vec<_>>()
        };
        files().iter().for_each(|(_, path)| damage(path, at));
        let before = files();
        let mut trainer = in_folder(builder(), folder.path());
        let mut skipped = 0;
        let error = trainer.resume(|_| skipped += 1).unwrap_err();
        assert_eq!(skipped, before.len());
        let calls: [&dyn Fn(&mut Trainer) -> Error; 3] = [
            &|trainer| trainer.resume(|_| ()).unwrap_err(),
            &|trainer| trainer.resume_from(Resume::best(), |_| ()).unwrap_err(),
            &|trainer| trainer.optimize(10, |_| ()).unwrap_err(),
        ];
        for message in calls.iter().map(|call| call(&mut trainer)).chain([error]).map(|error| error.to_string()) {
            assert!(message.contains("none of the checkpoints in it can be used"), "{message}");
            assert!(message.contains("step-000030.safetensors") && message.contains("start_over()"), "{message}");
            assert!(!message.contains("resume()"), "{message}");
        }
        assert!(before == files(), "the damaged checkpoints were changed");
        trainer.start_over().unwrap();
        trainer.optimize(10, |_| ()).unwrap();
    }
}

#[test]
fn checkpoints_of_another_program_are_named_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let network = network();
    Store::open(folder.path()).unwrap().save(100, None, &[&network], &Metadata::new()).unwrap();
    let mut trainer = in_folder(builder(), folder.path());
    let message = trainer.resume(|_| ()).unwrap_err().to_string();
    assert!(message.contains("expected the state of a trainer, found none"), "{message}");
    let message = trainer.optimize(10, |_| ()).unwrap_err().to_string();
    assert!(message.contains("it could not be resumed (") && !message.contains("resume()"), "{message}");
}

/// The iteration of the run's best evaluation, and the folder.
fn run_that_went_on_after_its_best() -> (u64, tempfile::TempDir) {
    let folder = run_of(100);
    let mut trainer = in_folder(builder(), folder.path());
    trainer.resume(|_| ()).unwrap();
    let best = trainer.report().best.unwrap().iteration;
    assert!(best < 100, "{best}");
    (best, folder)
}

#[test]
fn a_run_goes_back_to_its_best_with_a_lower_learning_rate() {
    let (best, folder) = run_that_went_on_after_its_best();
    let mut trainer = in_folder(lower_rate(), folder.path());
    assert!(matches!(trainer.resume_from(Resume::best(), |_| ()), Err(Error::SettingsDiffer { .. })));
    let notes = notes(&mut trainer, Resume::best().with_new_settings());
    assert_eq!(notes, ["learning_rate: 0.003 in the checkpoint, 0.001 now"]);
    assert_eq!(trainer.iteration(), best);
    assert_eq!(trainer.history().last().unwrap().iteration, best);
    // Nothing has moved yet: a resume only reads.
    assert!(latest(folder.path()).ends_with("step-000100.safetensors"));

    let mut archive = None;
    let report = trainer.optimize_to(best + 20, |event| {
        if let Event::Archived { folder } = event {
            archive = Some(folder.clone());
        }
    });
    assert_eq!(report.unwrap().iterations, best + 20);
    let iterations = trainer.history().iter().map(|seen| seen.iteration).collect::<Vec<_>>();
    assert_eq!(iterations, (10..=best + 20).step_by(10).collect::<Vec<_>>());
    let archived = Store::open(archive.unwrap()).unwrap().list().unwrap();
    assert_eq!(archived.last().unwrap().step, 100);
    drop(trainer);

    // From here on the run is one like any other.
    let mut resumed = in_folder(lower_rate(), folder.path());
    assert!(resumed.resume(|_| ()).unwrap());
    assert_eq!(resumed.iteration(), best + 20);
    let elsewhere = tempfile::tempdir().unwrap();
    let mut expected = in_folder(lower_rate(), elsewhere.path());
    expected.resume_from(Resume::file(archived_or_kept(folder.path(), best)).with_new_settings(), |_| ()).unwrap();
    expected.optimize_to(best + 20, |_| ()).unwrap();
    assert_eq!(bits(resumed.network()), bits(expected.network()));
}

fn archived_or_kept(folder: &Path, step: u64) -> PathBuf {
    let kept = Store::open(folder).unwrap().list().unwrap().into_iter().find(|saved| saved.step == step);
    kept.expect("the best is kept").path
}

#[test]
fn a_run_goes_back_to_any_kept_checkpoint() {
    let folder = run_of(100);
    let path = folder.path().join("step-000090.safetensors");
    let mut trainer = in_folder(builder(), folder.path());
    assert!(notes(&mut trainer, Resume::file(&path)).is_empty());
    assert_eq!(trainer.iteration(), 90);
    trainer.optimize_to(110, |_| ()).unwrap();
    let mut straight = builder().stop_when(Rule::never()).build().unwrap();
    straight.optimize_to(110, |_| ()).unwrap();
    assert_eq!(bits(trainer.network()), bits(straight.network()));
    assert_eq!(history(&trainer), history(&straight));

    let message = trainer.resume_from(Resume::file(folder.path().join("absent")), |_| ()).unwrap_err().to_string();
    assert!(message.contains("absent"), "{message}");
    // From a copy elsewhere a run begins in a folder of its own, but does not mix with another one.
    let (copy, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let copied = copy.path().join("copy.safetensors");
    fs::copy(latest(folder.path()), &copied).unwrap();
    let mut other = in_folder(builder(), own.path());
    assert!(other.resume_from(Resume::file(&copied), |_| ()).unwrap());
    other.optimize_to(120, |_| ()).unwrap();
    assert!(latest(own.path()).ends_with("step-000120.safetensors"));
    drop(trainer);
    let mut mixing = in_folder(builder(), folder.path());
    assert!(mixing.resume_from(Resume::file(&copied), |_| ()).unwrap());
    assert!(matches!(mixing.optimize_to(120, |_| ()), Err(Error::OtherRun { .. })));
}

#[test]
fn after_nan_a_run_goes_back_to_its_best() {
    let folder = run_of(30);
    // A run that has become NaN: the learning rate is far too high.
    let mut diverging = in_folder(with_rate(1e30, &examples(150, 0), &examples(60, 1000)), folder.path());
    diverging.resume_from(Resume::latest().with_new_settings(), |_| ()).unwrap();
    let report = diverging.optimize(50, |_| ()).unwrap();
    assert_eq!(report.reason.map(|reason| reason.kind), Some(StopKind::NotFinite));
    drop(diverging);

    // The latest checkpoint has the NaN in its history, which no setting cures.
    let mut latest = in_folder(builder(), folder.path());
    latest.resume_from(Resume::latest().with_new_settings(), |_| ()).unwrap();
    assert_eq!(latest.optimize(10, |_| ()).unwrap().reason.map(|reason| reason.kind), Some(StopKind::NotFinite));
    drop(latest);

    let mut trainer = in_folder(lower_rate(), folder.path());
    assert!(trainer.resume_from(Resume::best().with_new_settings(), |_| ()).unwrap());
    assert!(trainer.iteration() <= 30);
    let report = trainer.optimize_to(60, |_| ()).unwrap();
    assert_eq!((report.iterations, report.reason), (60, None));
    drop(trainer);
    let mut resumed = in_folder(lower_rate(), folder.path());
    assert!(resumed.resume(|_| ()).unwrap());
    assert_eq!(resumed.iteration(), 60);
}

#[test]
fn a_new_patience_judges_the_old_history() {
    let folder = run_of(60);
    let mut trainer = builder().stop_when(Patience::new(10)).checkpoints(folder.path()).build().unwrap();
    trainer.resume_from(Resume::latest().with_new_settings(), |_| ()).unwrap();
    let best = trainer.report().best.unwrap().iteration;
    assert_eq!(trainer.report().reason.is_some(), 60 > best + 10);
}

#[test]
fn nothing_to_resume_from_is_no_error_but_no_folder_is() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    let mut trainer = in_folder(builder(), &absent);
    assert!(!trainer.resume(|_| ()).unwrap());
    assert!(!trainer.resume_from(Resume::best().with_new_settings(), |_| ()).unwrap());
    assert!(!absent.exists());
    let message = builder().build().unwrap().resume(|_| ()).unwrap_err().to_string();
    assert!(message.contains("set one with checkpoints()"), "{message}");
}

#[test]
fn reading_leaves_no_trace_and_needs_no_lock() {
    let (best, folder) = run_that_went_on_after_its_best();
    let _ = fs::remove_file(folder.path().join(".lock"));
    let names = || {
        let mut names =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        names.sort();
        names
    };
    let before = names();
    let mut reader = in_folder(builder(), folder.path());
    assert!(reader.resume(|_| ()).unwrap());
    assert_eq!(reader.restore_best().unwrap().iteration, best);
    // A run that is complete trains no further and needs nothing either.
    assert_eq!(reader.optimize_to(100, |_| ()).unwrap().iterations, 100);
    assert!(reader.resume_from(Resume::best(), |_| ()).unwrap());
    assert_eq!(names(), before);
}

#[test]
fn a_run_that_another_trainer_continued_is_not_overwritten() {
    let folder = run_of(20);
    let mut late = in_folder(builder(), folder.path());
    assert!(late.resume(|_| ()).unwrap());
    let mut early = in_folder(builder(), folder.path());
    assert!(early.resume(|_| ()).unwrap());
    early.optimize_to(40, |_| ()).unwrap();
    drop(early);
    let error = late.optimize_to(60, |_| ()).unwrap_err();
    assert!(matches!(error, Error::RunContinued { iteration: 40, .. }), "{error}");
    assert_eq!(late.iteration(), 20);
    assert!(late.resume(|_| ()).unwrap());
    assert_eq!(late.optimize_to(60, |_| ()).unwrap().iterations, 60);
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn a_run_can_be_read_while_it_trains() {
    let folder = tempfile::tempdir().unwrap();
    let is_read = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut trainer = in_folder(builder().evaluate_every(1), folder.path());
            let go_on = |_: &Event| match is_read.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            trainer.optimize(10_000, go_on).unwrap();
        });
        // Also where an assertion fails.
        let _ends_the_training = OnDrop(|| is_read.store(true, Ordering::Relaxed));
        let mut reader = in_folder(builder().evaluate_every(1), folder.path());
        while !reader.resume(|_| ()).unwrap() {}
        for _ in 0..50 {
            let before = reader.iteration();
            assert!(reader.resume(|event| assert!(matches!(event, Event::Resumed { .. }), "{event}")).unwrap());
            assert!(reader.iteration() >= before);
            reader.resume_from(Resume::best(), |_| ()).unwrap();
            reader.resume(|_| ()).unwrap();
            reader.restore_best().unwrap();
        }
    });
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_is_skipped_like_a_damaged_file() {
    let folder = run_of(40);
    std::os::unix::fs::symlink("nowhere", folder.path().join("step-000050.safetensors")).unwrap();
    let mut trainer = in_folder(builder(), folder.path());
    let mut lines = Vec::new();
    assert!(trainer.resume(|event| lines.push(event.to_string())).unwrap());
    assert_eq!(trainer.iteration(), 40);
    assert!(lines[0].starts_with("Skipped ") && lines[0].contains("step-000050.safetensors"), "{lines:?}");
    assert!(trainer.restore_best().unwrap().is_best());
}

#[cfg(unix)]
mod read_only {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;
    use crate::process::passes;

    const FOLDER: &str = "TRAINER_RESUME_FOLDER";

    /// The child of the test below, which gives up the rights of an administrator, who may write everywhere.
    #[test]
    fn child_that_may_not_write() {
        let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
        // SAFETY: the calls take and return numbers.
        let may_not_write = unsafe { libc::geteuid() != 0 || libc::setuid(65_534) == 0 };
        assert!(may_not_write);
        fs::write(folder.join("file"), "").unwrap_err();
        let mut trainer = in_folder(builder(), &folder);
        assert!(trainer.resume(|_| ()).unwrap());
        assert!(trainer.restore_best().unwrap().is_best());
        assert_eq!(trainer.optimize_to(40, |_| ()).unwrap().iterations, 40); // as many as there are
        let message = trainer.optimize_to(50, |_| ()).unwrap_err().to_string();
        assert!(message.contains("Permission denied") && message.contains(&*folder.to_string_lossy()), "{message}");
        assert_eq!(trainer.iteration(), 40);
    }

    #[test]
    fn a_read_only_folder_is_enough_for_reading() {
        let folder = run_of(40);
        let _ = fs::remove_file(folder.path().join(".lock"));
        let allow = |mode: u32| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        for entry in fs::read_dir(folder.path()).unwrap() {
            fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o444)).unwrap();
        }
        allow(0o555);
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "resume::read_only::child_that_may_not_write", "--test-threads=1"])
            .env(FOLDER, folder.path());
        passes(&mut child);
        allow(0o755);
    }
}
