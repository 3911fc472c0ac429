//! Callbacks watch a run, stop it or fail; and the run continues as if nothing had happened.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use earlystop::checkpoint::Store;
use earlystop::early_stopping::{Rule, StopKind, StopReason};
use earlystop::trainer::{Callback, Event, Model, Progress, verify_resume};
use earlystop::{Error, Network, Result, Trainer};

use crate::common::{bits, builder, history};

/// Notes what it is called with, and answers each iteration.
struct Watch<F> {
    seen: Arc<Mutex<Vec<String>>>,
    answer: F,
}

impl<M: Model, F: FnMut(u64) -> Result<Option<StopReason>>> Callback<M> for Watch<F> {
    fn begin(&mut self, progress: &Progress, _model: &M) -> Result<()> {
        self.seen.lock().unwrap().push(format!("begin {} to {}", progress.iteration(), progress.end()));
        (self.answer)(progress.iteration()).map(drop)
    }

    fn step(&mut self, progress: &Progress, _model: &M) -> Result<Option<StopReason>> {
        self.seen.lock().unwrap().push(format!("step {}", progress.iteration()));
        assert!(progress.loss().unwrap() > 0.0 && progress.has_work());
        (self.answer)(progress.iteration())
    }

    fn event(&mut self, event: &Event, progress: &Progress, _model: &M) -> Result<Option<StopReason>> {
        let name = match event {
            Event::Evaluated { .. } => {
                assert_eq!(progress.history().last().unwrap().iteration, progress.iteration());
                "evaluated"
            }
            Event::Stopped(_) => "stopped",
            Event::Finished { .. } => "finished",
            _ => "other",
        };
        self.seen.lock().unwrap().push(name.to_owned());
        Ok(None)
    }
}

fn straight(end: u64) -> Trainer {
    let mut trainer = builder().stop_when(Rule::never()).build().unwrap();
    trainer.optimize_to(end, |_| ()).unwrap();
    trainer
}

#[track_caller]
fn assert_same(a: &Trainer, b: &Trainer) {
    assert_eq!(bits(a.network()), bits(b.network()));
    assert_eq!(history(a), history(b));
}

#[test]
fn a_callback_sees_each_iteration_and_event_in_order() {
    let seen = Arc::default();
    let watch = Watch { seen: Arc::clone(&seen), answer: |_| Ok(None) };
    let mut trainer = builder().evaluate_every(2).callback(watch).build().unwrap();
    trainer.optimize(3, |_| ()).unwrap();
    let all = ["begin 0 to 3", "step 1", "step 2", "evaluated", "step 3", "evaluated", "finished"];
    assert_eq!(*seen.lock().unwrap(), all);
}

#[test]
fn a_callback_knows_the_best_score_and_where_the_rule_stops() {
    /// The iterations of the best evaluation and of the stop.
    type Iterations = [Option<u64>; 2];
    struct Known(Arc<Mutex<Vec<Iterations>>>);
    impl Callback<Network> for Known {
        fn step(&mut self, progress: &Progress, network: &Network) -> Result<Option<StopReason>> {
            assert_eq!((progress.metric().name(), network.num_classes()), ("validation_accuracy", 4));
            assert_eq!(progress.learning_rate(progress.iteration()), 3e-3);
            self.0.lock().unwrap().push([progress.best().map(|best| best.iteration), progress.stop_at()]);
            Ok(None)
        }
    }
    let known = Arc::default();
    let mut trainer = builder().patience(500).callback(Known(Arc::clone(&known))).build().unwrap();
    trainer.optimize(11, |_| ()).unwrap();
    let known = known.lock().unwrap();
    assert_eq!((known[0], known[9], known[10]), ([None; 2], [None; 2], [Some(10), Some(511)]));
}

#[test]
fn a_callback_stops_between_evaluations_and_the_run_can_be_continued() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = |stops: bool| {
        let watch = Watch {
            seen: Arc::default(),
            answer: move |iteration| Ok((stops && iteration == 23).then(|| StopReason::requested("enough seen"))),
        };
        builder().stop_when(Rule::never()).checkpoints(folder.path()).callback(watch).build().unwrap()
    };
    let mut stopped = trainer(true);
    let report = stopped.optimize_to(60, |_| ()).unwrap();
    let reason = report.reason.unwrap();
    assert_eq!((report.iterations, reason.kind), (23, StopKind::Requested));
    assert_eq!(reason.to_string(), "callback: enough seen");
    drop(stopped);

    let mut resumed = trainer(false);
    assert!(resumed.resume(|_| ()).unwrap());
    assert_eq!((resumed.iteration(), resumed.report().reason), (23, None));
    resumed.optimize_to(60, |_| ()).unwrap();
    assert_same(&resumed, &straight(60));
}

#[test]
fn closures_are_callbacks_and_the_first_reason_counts() {
    let stop_at = |end: u64, why: &'static str| {
        move |event: &Event, network: &Network| match event {
            Event::Evaluated { observation, .. } if observation.iteration >= end => {
                ControlFlow::Break(format!("{why}, with {} classes", network.num_classes()))
            }
            _ => ControlFlow::Continue(()),
        }
    };
    let silent = |_: &Event, _: &Network| ();
    let trainer = builder().callback(silent).callback(stop_at(20, "first")).callback(stop_at(20, "second"));
    let mut trainer = trainer.build().unwrap();
    let report = trainer.optimize(60, |_| ControlFlow::<&str>::Continue(())).unwrap();
    assert_eq!((report.iterations, report.reason.unwrap().why.as_str()), (20, "first, with 4 classes"));
}

#[test]
fn an_error_of_a_callback_ends_the_call_after_the_state_was_saved() {
    // In `begin`, between evaluations, and in the iteration of an evaluation.
    for failing in [0, 23, 30] {
        let folder = tempfile::tempdir().unwrap();
        let mut fails = true;
        let answer = move |iteration| {
            if iteration == failing && std::mem::take(&mut fails) { Err(Error::other("no space")) } else { Ok(None) }
        };
        let watch = Watch { seen: Arc::default(), answer };
        let later = Arc::default();
        let other = Watch { seen: Arc::clone(&later), answer: |_| Ok(None) };
        let trainer = builder().stop_when(Rule::never()).checkpoints(folder.path()).callback(watch).callback(other);
        let mut trainer = trainer.build().unwrap();
        let error = trainer.optimize_to(60, |_| ()).unwrap_err();
        assert_eq!(error.to_string(), "no space");
        assert_eq!(trainer.iteration(), failing);
        let saved = Store::open(folder.path()).unwrap().latest().unwrap().map_or(0, |saved| saved.step);
        assert_eq!(saved, failing);
        let last = later.lock().unwrap().last().cloned();
        assert_eq!(last.as_deref(), Some(if failing == 0 { "begin 0 to 60" } else { "finished" }));

        let report = trainer.optimize_to(60, |_| ()).unwrap();
        assert_eq!((report.iterations, report.reason), (60, None));
        assert_same(&trainer, &straight(60));
    }
}

#[test]
fn an_error_in_answer_to_an_event_loses_nothing_either() {
    struct FailsOnce(bool);
    impl<M: Model> Callback<M> for FailsOnce {
        fn event(&mut self, event: &Event, _progress: &Progress, _model: &M) -> Result<Option<StopReason>> {
            let is_due = matches!(event, Event::Evaluated { .. }) && std::mem::replace(&mut self.0, false);
            if is_due { Err(Error::other("no connection")) } else { Ok(None) }
        }
    }
    for in_background in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let trainer = builder().stop_when(Rule::never()).checkpoints(folder.path()).save_in_background(in_background);
        let mut trainer = trainer.callback(FailsOnce(true)).build().unwrap();
        assert_eq!(trainer.optimize_to(60, |_| ()).unwrap_err().to_string(), "no connection");
        assert_eq!(trainer.iteration(), 10);
        assert_eq!(Store::open(folder.path()).unwrap().latest().unwrap().unwrap().step, 10);
        trainer.optimize_to(60, |_| ()).unwrap();
        assert_same(&trainer, &straight(60));
    }
}

#[test]
fn callbacks_are_not_called_when_resuming_is_verified() {
    let fails = |_: &Event, _: &Network| -> Option<StopReason> { panic!("called") };
    verify_resume(|| builder().callback(fails).build(), 11, 25).unwrap();
}

#[test]
fn a_call_on_a_run_that_has_ended_only_reports() {
    let seen = Arc::default();
    let watch = Watch { seen: Arc::clone(&seen), answer: |_| Ok(None) };
    let mut trainer = builder().stop_when(Rule::iterations(2)).evaluate_every(2).callback(watch).build().unwrap();
    trainer.optimize(9, |_| ()).unwrap();
    seen.lock().unwrap().clear();
    trainer.optimize(9, |_| ()).unwrap();
    assert_eq!(*seen.lock().unwrap(), ["begin 2 to 11", "stopped", "finished"]);
}
