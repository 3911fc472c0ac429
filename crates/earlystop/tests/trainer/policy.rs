//! When a trainer saves, what it keeps, and saving in the background.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use earlystop::Trainer;
use earlystop::checkpoint::{Keep, Store};
use earlystop::early_stopping::{Patience, Rule};
use earlystop::trainer::{Event, SavePolicy, TrainerBuilder};

use crate::common::{bits, builder, history};

fn run(policy: SavePolicy, folder: &Path) -> TrainerBuilder {
    builder().stop_when(Rule::never()).save_policy(policy).keep(Keep::all()).checkpoints(folder)
}

fn straight(end: u64) -> Trainer {
    let mut straight = builder().stop_when(Rule::never()).build().unwrap();
    straight.optimize_to(end, |_| ()).unwrap();
    straight
}

fn steps(folder: &Path) -> Vec<u64> {
    Store::open(folder).unwrap().list().unwrap().iter().map(|saved| saved.step).collect()
}

/// The iterations of the evaluations that were the best so far.
fn improvements(trainer: &Trainer) -> Vec<u64> {
    let mut highest = f64::NEG_INFINITY;
    let improves = |seen: &&earlystop::early_stopping::Observation| {
        let improves = seen.scores["validation_accuracy"] > highest;
        highest = highest.max(seen.scores["validation_accuracy"]);
        improves
    };
    trainer.history().iter().filter(improves).map(|seen| seen.iteration).collect()
}

/// Goes on in a new trainer, as in a new process, and compares with a run that nobody interrupted.
fn assert_resumes(policy: SavePolicy, folder: &Path, from: u64, end: u64) {
    let mut resumed = run(policy, folder).build().unwrap();
    assert!(resumed.resume(|event| assert_eq!(event.to_string().lines().count(), 1, "{event}")).unwrap());
    assert_eq!(resumed.iteration(), from, "{policy:?}");
    resumed.optimize_to(end, |_| ()).unwrap();
    // A call evaluates at its end.
    let mut straight = straight(from);
    straight.optimize_to(end, |_| ()).unwrap();
    assert_eq!(bits(resumed.network()), bits(straight.network()));
    assert_eq!(history(&resumed), history(&straight));
    let restored = resumed.restore_best().unwrap();
    assert!(restored.is_best(), "{policy:?}: {restored}");
}

const POLICIES: [SavePolicy; 5] = [
    SavePolicy::EveryEvaluation,
    SavePolicy::EveryIterations(7),
    SavePolicy::EveryIterations(1000),
    SavePolicy::EveryTime(Duration::from_secs(3600)),
    SavePolicy::OnImprovement,
];

#[test]
fn each_policy_saves_when_it_says_and_at_the_end() {
    let folders = POLICIES.map(|_| tempfile::tempdir().unwrap());
    for ((policy, folder), in_background) in POLICIES.iter().zip(&folders).zip([false, true, false, true, true]) {
        let mut trainer = run(*policy, folder.path()).save_in_background(in_background).build().unwrap();
        trainer.optimize_to(95, |_| ()).unwrap();
        let mut expected: Vec<u64> = match policy {
            SavePolicy::EveryEvaluation => (10..=90).step_by(10).collect(),
            SavePolicy::EveryIterations(7) => (7..=91).step_by(7).collect(),
            SavePolicy::OnImprovement => improvements(&trainer),
            _ => Vec::new(),
        };
        // With the last state comes the best one, if it is not saved.
        let best = trainer.report().best.unwrap().iteration;
        if !matches!(policy, SavePolicy::EveryIterations(7)) {
            expected.extend([best, 95]);
            expected.sort();
            expected.dedup();
            assert_eq!(steps(folder.path()), expected, "{policy:?}");
        } else {
            let steps = steps(folder.path());
            assert!(expected.iter().chain(&[best, 95]).all(|step| steps.contains(step)), "{steps:?}");
            // All others are of improvements.
            let improved = improvements(&trainer);
            assert!(steps.iter().all(|step| expected.contains(step) || improved.contains(step) || *step == 95));
        }
        drop(trainer);
        assert_resumes(*policy, folder.path(), 95, 130);
    }
}

#[test]
fn time_counts_from_the_last_save_and_across_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let policy = SavePolicy::EveryTime(Duration::from_millis(150));
    let mut trainer = run(policy, folder.path()).build().unwrap();
    let wait = |event: &Event| {
        if let Event::Evaluated { .. } = event {
            std::thread::sleep(Duration::from_millis(60));
        }
    };
    trainer.optimize_to(100, wait).unwrap();
    let saved = Store::open(folder.path()).unwrap().list().unwrap().len();
    // Ten evaluations in at least 0.6 s; a slow machine saves more often.
    assert!((3..=14).contains(&saved), "{saved}");
    drop(trainer);
    assert_resumes(policy, folder.path(), 100, 120);

    // Each process is too short for a save of its own, but not all of them together: the run's time goes on.
    let folder = tempfile::tempdir().unwrap();
    let policy = SavePolicy::EveryTime(Duration::from_millis(1));
    let mut trainer = run(policy, folder.path()).build().unwrap();
    trainer.optimize_to(30, |_| std::thread::sleep(Duration::from_millis(2))).unwrap();
    assert!(steps(folder.path()).len() > 3);
}

#[test]
fn a_stop_on_request_and_a_stop_by_the_rule_save_whatever_the_policy() {
    for policy in POLICIES {
        let folder = tempfile::tempdir().unwrap();
        let at_50 = |event: &Event| match event {
            Event::Evaluated { observation, .. } if observation.iteration == 50 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        run(policy, folder.path()).build().unwrap().optimize(100, at_50).unwrap();
        assert_resumes(policy, folder.path(), 50, 80);

        let folder = tempfile::tempdir().unwrap();
        let rule = || run(policy, folder.path()).stop_when(Patience::new(10));
        let stopped = rule().build().unwrap().optimize(400, |_| ()).unwrap();
        assert!(stopped.iterations < 400);
        let mut again = rule().build().unwrap();
        assert!(again.resume(|_| ()).unwrap());
        assert_eq!(again.iteration(), stopped.iterations);
        assert_eq!(again.report().reason, stopped.reason);
        assert!(again.restore_best().unwrap().is_best(), "{policy:?}");
    }
}

#[test]
fn without_a_best_checkpoint_the_best_is_in_memory() {
    for in_background in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let trainer = builder().stop_when(Rule::never()).keep(Keep::last(1)).checkpoints(folder.path());
        let mut trainer = trainer.save_in_background(in_background).build().unwrap();
        trainer.optimize_to(100, |_| ()).unwrap();
        assert_eq!(steps(folder.path()), [100]);
        let best = trainer.report().best.unwrap().iteration;
        let restored = trainer.restore_best().unwrap();
        assert!(restored.is_best() && restored.to_string().contains("from memory"), "{restored}");
        assert_eq!(bits(trainer.network()), bits(straight(best).network()));
    }
}

#[test]
fn intervals_of_nothing_are_refused() {
    let refusal = |policy| builder().save_policy(policy).build().unwrap_err().to_string();
    let expected = "save policy: expected at least every iteration, found 0 iterations";
    assert_eq!(refusal(SavePolicy::EveryIterations(0)), expected);
    assert!(refusal(SavePolicy::EveryTime(Duration::ZERO)).starts_with("save policy: expected more than no time"));
}

#[test]
fn saving_in_the_background_changes_nothing_but_the_waiting() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let train = |folder: &Path, in_background: bool| {
        let trainer = builder().stop_when(Rule::never()).evaluate_every(1).checkpoints(folder);
        let mut trainer = trainer.save_in_background(in_background).build().unwrap();
        for end in [1, 40, 77] {
            trainer.optimize_to(end, |_| ()).unwrap();
            assert_eq!(steps(folder).last(), Some(&end), "a call returns after its last save");
        }
        (bits(trainer.network()), history(&trainer))
    };
    assert_eq!(train(here.path(), false), train(there.path(), true));
    assert_eq!(steps(here.path()), steps(there.path()));
    for step in steps(here.path()) {
        let [a, b] = [&here, &there].map(|folder| {
            let path = folder.path().join(format!("step-{step:06}.safetensors"));
            let checkpoint = earlystop::checkpoint::Checkpoint::read(path).unwrap();
            let names: Vec<String> = checkpoint.infos().map(|info| info.name.clone()).collect();
            names.iter().map(|name| checkpoint.tensor(name).unwrap()).collect::<Vec<_>>()
        });
        assert!(a == b, "the checkpoints of step {step} differ");
    }
    assert!(fs::read_dir(there.path()).unwrap().all(|entry| !entry.unwrap().path().ends_with(".tmp")));
}
