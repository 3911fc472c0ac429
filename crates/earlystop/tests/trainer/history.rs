//! The history beside the checkpoints: what it contains, what a run does without it, and where it branches.

use std::fs;
use std::path::Path;

use earlystop::checkpoint::Checkpoint;
use earlystop::early_stopping::{Observation, Rule};
use earlystop::trainer::{Event, Resume, TrainerBuilder};
use earlystop::{Error, Trainer};

use crate::common::{bits, builder, history};
use crate::folder::{latest, notes, run_of};

fn run() -> TrainerBuilder {
    builder().stop_when(Rule::never())
}

fn straight(end: u64) -> Trainer {
    let mut straight = run().build().unwrap();
    straight.optimize_to(end, |_| ()).unwrap();
    straight
}

fn segments(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".jsonl")).collect();
    names.sort();
    names
}

#[test]
fn a_line_for_each_evaluation_can_be_read_by_anyone() {
    let folder = run_of(50);
    let text = fs::read_to_string(folder.path().join("history-0001.jsonl")).unwrap();
    let seen: Vec<Observation> = text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(seen.iter().map(|seen| seen.iteration).collect::<Vec<_>>(), [10, 20, 30, 40, 50]);
    assert_eq!(text.lines().next(), Some(r#"{"history":1,"parent":null}"#));
    assert_eq!(segments(folder.path()), ["history-0001.jsonl"]);
}

#[test]
fn a_checkpoint_does_not_grow_with_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = || run().evaluate_every(1).checkpoints(folder.path()).build().unwrap();
    let mut sizes = Vec::new();
    for end in [20, 400] {
        let mut trainer = trainer();
        trainer.resume(|_| ()).unwrap();
        trainer.optimize_to(end, |_| ()).unwrap();
        sizes.push(fs::metadata(latest(folder.path())).unwrap().len());
    }
    // The numbers in it have some more digits.
    assert!(sizes[1] < sizes[0] + 64, "{sizes:?}");
}

#[test]
fn mistakes_are_recorded_only_if_a_rule_needs_them_or_the_caller_asks() {
    let noise_aware = Rule::all_of([Rule::never(), Rule::any_of([Rule::noise_aware(1000)]).named("mine")]);
    for (builder, expected) in [
        (run(), false),
        (run().record_mistakes(true), true),
        (builder().stop_when(noise_aware), true),
        (run().record_mistakes(true).record_mistakes(false), false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut trainer = builder.checkpoints(folder.path()).build().unwrap();
        trainer.optimize(20, |_| ()).unwrap();
        assert!(trainer.history().iter().all(|seen| seen.mistakes.is_some() == expected));
        let text = fs::read_to_string(folder.path().join("history-0001.jsonl")).unwrap();
        assert_eq!(text.contains("\"mistakes\":{"), expected, "{text}");
    }
}

#[test]
fn a_checkpoint_copied_without_its_history_resumes_and_says_what_is_missing() {
    let folder = run_of(50);
    let (copy, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let copied = copy.path().join("copy.safetensors");
    fs::copy(latest(folder.path()), &copied).unwrap();

    let mut trainer = run().checkpoints(own.path()).build().unwrap();
    let found = notes(&mut trainer, Resume::file(&copied));
    let expected = "the first 5 of 5 evaluations are missing in the history: ";
    assert!(found.len() == 1 && found[0].starts_with(expected) && found[0].contains("history-0001.jsonl"), "{found:?}");
    assert!(trainer.history().is_empty());
    trainer.optimize_to(80, |_| ()).unwrap();
    let straight = straight(80);
    assert_eq!(bits(trainer.network()), bits(straight.network()));
    assert_eq!(history(&trainer), history(&straight)[5..]);
    assert_eq!(trainer.report().best.map(|best| best.iteration), straight.report().best.map(|best| best.iteration));
    drop(trainer);

    // What came after the copy is there, also after another break.
    let mut trainer = run().checkpoints(own.path()).build().unwrap();
    let found = notes(&mut trainer, Resume::latest());
    assert!(found.len() == 1 && found[0].starts_with("the first 5 of 8 evaluations are missing"), "{found:?}");
    assert_eq!(history(&trainer), history(&straight)[5..]);
    drop(trainer);

    // Another rule must judge the whole history.
    let mut other = builder().patience(1000).checkpoints(own.path()).build().unwrap();
    let error = other.resume_from(Resume::latest().with_new_settings(), |_| ()).unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("stopping rule: expected never, since "), "{message}");
    assert!(message.contains("the first 5 of 8 evaluations are missing in the history: "), "{message}");
    assert_eq!(other.iteration(), 0);
}

#[test]
fn a_history_that_is_put_back_is_complete_again() {
    let folder = run_of(50);
    let path = folder.path().join("history-0001.jsonl");
    let kept = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let mut trainer = run().checkpoints(folder.path()).build().unwrap();
    assert_eq!(notes(&mut trainer, Resume::latest()).len(), 1);
    trainer.optimize_to(80, |_| ()).unwrap();
    drop(trainer);
    // The name of a missing segment is not given to another one.
    fs::write(&path, kept).unwrap();
    let mut trainer = run().checkpoints(folder.path()).build().unwrap();
    assert_eq!(notes(&mut trainer, Resume::latest()), [""; 0]);
    assert_eq!(history(&trainer), history(&straight(80)));
}

#[test]
fn a_changed_line_is_named_and_never_used() {
    let folder = run_of(50);
    let path = folder.path().join("history-0001.jsonl");
    let changed = fs::read_to_string(&path).unwrap().replacen("\"iteration\":30", "\"iteration\":31", 1);
    fs::write(&path, &changed).unwrap();
    let mut trainer = run().checkpoints(folder.path()).build().unwrap();
    let found = notes(&mut trainer, Resume::latest());
    assert!(found[0].contains("history-0001.jsonl: changed since it was written"), "{found:?}");
    trainer.optimize_to(80, |_| ()).unwrap();
    assert_eq!(bits(trainer.network()), bits(straight(80).network()));
    assert_eq!(history(&trainer), history(&straight(80))[5..]);
    assert_eq!(fs::read_to_string(&path).unwrap(), changed, "nothing is rewritten");
    assert_eq!(segments(folder.path()), ["history-0001.jsonl", "history-0002.jsonl"]);
}

#[test]
fn a_history_that_disappears_during_the_run_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = run().checkpoints(folder.path()).build().unwrap();
    trainer.optimize_to(30, |_| ()).unwrap();
    fs::remove_file(folder.path().join("history-0001.jsonl")).unwrap();
    trainer.optimize_to(60, |_| ()).unwrap();
    drop(trainer);
    let mut resumed = run().checkpoints(folder.path()).build().unwrap();
    assert_eq!(notes(&mut resumed, Resume::latest()), [""; 0]);
    assert_eq!(history(&resumed), history(&straight(60)));
}

#[test]
fn an_earlier_checkpoint_is_continued_in_a_new_segment_and_both_parts_stay() {
    let folder = run_of(100);
    let before = fs::read(folder.path().join("history-0001.jsonl")).unwrap();
    let mut trainer = run().checkpoints(folder.path()).build().unwrap();
    assert_eq!(notes(&mut trainer, Resume::file(folder.path().join("step-000090.safetensors"))), [""; 0]);
    let mut archive = None;
    let note_archive = |event: &Event| {
        if let Event::Archived { folder } = event {
            archive = Some(folder.clone());
        }
    };
    trainer.optimize_to(110, note_archive).unwrap();
    assert_eq!(history(&trainer), history(&straight(110)));
    drop(trainer);
    assert_eq!(segments(folder.path()), ["history-0001.jsonl", "history-0002.jsonl"]);
    assert_eq!(fs::read(folder.path().join("history-0001.jsonl")).unwrap(), before);
    let head = fs::read_to_string(folder.path().join("history-0002.jsonl")).unwrap();
    let head: serde_json::Value = serde_json::from_str(head.lines().next().unwrap()).unwrap();
    assert_eq!((&head["parent"]["file"], &head["parent"]["lines"]), (&"history-0001.jsonl".into(), &9.into()));

    let archive = archive.unwrap();
    for (folder, end) in [(folder.path(), 110), (&archive, 100)] {
        let mut resumed = run().checkpoints(folder).build().unwrap();
        assert_eq!(notes(&mut resumed, Resume::latest()), [""; 0]);
        assert_eq!(history(&resumed), history(&straight(end)));
        resumed.optimize_to(end + 20, |_| ()).unwrap();
        assert_eq!(history(&resumed), history(&straight(end + 20)));
    }
}

#[test]
fn a_copy_of_a_checkpoint_with_its_history_begins_a_run_elsewhere() {
    let folder = run_of(50);
    let own = tempfile::tempdir().unwrap();
    let mut trainer = run().checkpoints(own.path()).build().unwrap();
    assert_eq!(notes(&mut trainer, Resume::file(latest(folder.path()))), [""; 0]);
    trainer.optimize_to(70, |_| ()).unwrap();
    drop((trainer, folder));
    let mut resumed = run().checkpoints(own.path()).build().unwrap();
    assert_eq!(notes(&mut resumed, Resume::latest()), [""; 0]);
    assert_eq!(history(&resumed), history(&straight(70)));
}

#[test]
fn a_damaged_latest_checkpoint_keeps_its_history() {
    let folder = run_of(50);
    let path = latest(folder.path());
    let kept = fs::read(&path).unwrap();
    let mut damaged = kept.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    fs::write(&path, damaged).unwrap();
    let mut trainer = run().checkpoints(folder.path()).build().unwrap();
    assert!(trainer.resume(|_| ()).unwrap());
    assert_eq!(trainer.iteration(), 40);
    trainer.optimize_to(45, |_| ()).unwrap();
    drop(trainer);
    fs::write(folder.path().join("copy.safetensors"), kept).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut other = run().checkpoints(elsewhere.path()).build().unwrap();
    assert_eq!(notes(&mut other, Resume::file(folder.path().join("copy.safetensors"))), [""; 0]);
    assert_eq!(history(&other), history(&straight(50)));
}

#[test]
fn starting_over_deletes_the_history() {
    let folder = run_of(50);
    let mut trainer = run().checkpoints(folder.path()).build().unwrap();
    assert!(matches!(trainer.optimize(10, |_| ()), Err(Error::OtherRun { .. })));
    trainer.start_over().unwrap();
    assert_eq!(segments(folder.path()), [""; 0]);
    trainer.optimize(10, |_| ()).unwrap();
    assert_eq!(history(&trainer), history(&straight(10)));
    drop(trainer);
    let checkpoint = Checkpoint::read(latest(folder.path())).unwrap();
    assert!(checkpoint.is_verified());
    let mut resumed = run().checkpoints(folder.path()).build().unwrap();
    assert_eq!(notes(&mut resumed, Resume::latest()), [""; 0]);
    assert_eq!(resumed.history().len(), 1);
}

#[cfg(unix)]
mod limits {
    use std::process::Command;

    use super::*;
    use crate::process::passes;

    const FOLDER: &str = "TRAINER_HISTORY_FOLDER";

    /// The child of the test below: no file may exceed what a checkpoint takes, but the history becomes longer.
    #[test]
    fn child_whose_files_may_not_grow() {
        let Some(folder) = std::env::var_os(FOLDER) else { return };
        let mut trainer = run().evaluate_every(1).record_mistakes(true).checkpoints(&folder).build().unwrap();
        trainer.optimize_to(2, |_| ()).unwrap();
        let limit = fs::metadata(latest(Path::new(&folder))).unwrap().len() + 1024;
        // SAFETY: the calls take a number and a valid struct; this process runs only this test.
        unsafe {
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: libc::RLIM_INFINITY };
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
        }
        trainer.optimize_to(500, |event| assert!(!matches!(event, Event::SaveFailed { .. }), "{event}")).unwrap();
    }

    #[test]
    fn no_run_fails_because_its_history_is_too_long_for_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "history::limits::child_whose_files_may_not_grow", "--test-threads=1"]);
        passes(child.env(FOLDER, folder.path()));
        assert!(segments(folder.path()).len() > 1, "{:?}", segments(folder.path()));
        let mut resumed = run().evaluate_every(1).checkpoints(folder.path()).build().unwrap();
        assert_eq!(notes(&mut resumed, Resume::latest()), [""; 0]);
        let iterations = resumed.history().iter().map(|seen| seen.iteration);
        assert!(iterations.eq(1..=500));
    }
}
