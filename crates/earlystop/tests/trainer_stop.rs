//! Stops on request: by callbacks, signals and a notebook's stop button; and continues as if nothing had happened.
#![cfg(feature = "torch")]

mod common;
#[path = "common/long.rs"]
mod long;

use std::ops::ControlFlow;

use earlystop::early_stopping::{Rule, StopKind};
use earlystop::trainer::{Event, verify_resume};
use earlystop::{Trainer, stop};

use common::{bits, builder, history};
use long::is_long;

#[test]
fn a_callback_stops_a_run_that_can_be_continued() {
    let trainer = || builder().stop_when(Rule::never()).build().unwrap();
    let (mut straight, mut stopped) = (trainer(), trainer());
    straight.optimize_to(60, |_| ()).unwrap();

    let at_30 = |event: &Event| match event {
        Event::Evaluated { observation, .. } if observation.iteration == 30 => ControlFlow::Break("a look at it"),
        _ => ControlFlow::Continue(()),
    };
    let mut lines = Vec::new();
    let report = stopped
        .optimize_to(60, |event| {
            lines.push(event.to_string());
            at_30(event)
        })
        .unwrap();
    assert_eq!(report.iterations, 30);
    let reason = report.reason.clone().unwrap();
    assert_eq!((reason.kind, reason.to_string().as_str()), (StopKind::Requested, "callback: a look at it"));
    assert!(report.to_string().starts_with("Stopped by callback: a look at it.\nBest: "), "{report}");
    assert!(lines.contains(&"Stopped by callback: a look at it.".to_owned()), "{lines:?}");

    let report = stopped.optimize_to(60, |_| ()).unwrap();
    assert_eq!((report.iterations, report.reason), (60, None));
    assert_eq!(bits(stopped.network()), bits(straight.network()));
    assert_eq!(history(&stopped), history(&straight));
}

#[test]
fn callbacks_may_answer_in_several_ways() {
    let stops_at = |optimize: &dyn Fn(&mut Trainer)| {
        let mut trainer = builder().build().unwrap();
        optimize(&mut trainer);
        trainer.iteration()
    };
    assert_eq!(stops_at(&|trainer| drop(trainer.optimize(20, |event| println!("{event}")))), 20);
    assert_eq!(stops_at(&|trainer| drop(trainer.optimize(20, |_| stop::requested()))), 20);
    assert_eq!(stops_at(&|trainer| drop(trainer.optimize(20, |_| ControlFlow::Break(())))), 10);
    assert_eq!(stops_at(&|trainer| drop(trainer.optimize(20, |_| ControlFlow::Break("no".to_owned())))), 10);
}

#[test]
fn a_request_is_no_verdict_on_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = || builder().checkpoints(folder.path()).build().unwrap();
    trainer().optimize(100, |_| ControlFlow::Break(())).unwrap();
    let mut resumed = trainer();
    assert!(resumed.resume(|_| ()).unwrap());
    assert_eq!(resumed.report().reason, None);
    assert_eq!(resumed.optimize(5, |_| ()).unwrap().iterations, 15);
}

#[test]
fn resuming_is_verified_at_any_iteration_with_dropout_and_within_an_epoch() {
    for break_at in [0, 1, 9, 10, 11, 35, 39, 40, 74] {
        verify_resume(|| builder().stop_when(Rule::never()).build(), break_at, 75).unwrap();
    }
    let message = verify_resume(|| builder().build(), 75, 75).unwrap_err().to_string();
    assert_eq!(message, "break: expected an iteration before the end, 75, found 75");
}

#[cfg(unix)]
mod processes {
    use std::fs;
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use earlystop::checkpoint::Store;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Tells the test program, started again as a child, where to save.
    const FOLDER: &str = "TRAINER_STOP_FOLDER";
    /// The child's last iteration; far more than it reaches where that is not the test.
    const END: &str = "TRAINER_STOP_END";
    /// Seconds to wait when the training has stopped.
    const LINGER: &str = "TRAINER_STOP_LINGER";
    const INTERRUPT_FILE: &str = "EARLYSTOP_INTERRUPT_FILE";

    /// The child of the tests below.
    #[test]
    fn child_that_stops_on_request() {
        let Some(folder) = std::env::var_os(FOLDER) else { return };
        stop::on_signals().unwrap();
        stop::on_signals().unwrap(); // once more changes nothing
        let number = |name: &str| std::env::var(name).map_or(0, |number| number.parse().unwrap());
        let mut trainer = builder().stop_when(Rule::never()).checkpoints(folder).build().unwrap();
        trainer.resume(|event| println!("\n{event}")).unwrap();
        let report = trainer.optimize_to(number(END), |event| println!("\n{event}")).unwrap();
        println!("{report}");
        std::thread::sleep(Duration::from_secs(number(LINGER)));
    }

    /// The child that sends the signals itself.
    #[test]
    fn child_that_signals_itself() {
        if std::env::var_os(END).is_none() || std::env::var_os(FOLDER).is_some() {
            return;
        }
        stop::on_signals().unwrap();
        raise(libc::SIGTERM);
        assert_eq!(stop::requested().unwrap().to_string(), "signal: SIGTERM");
        // All trainings that follow end at once, until the request is withdrawn.
        for _ in 0..2 {
            let report = builder().build().unwrap().optimize(20, |_| ()).unwrap();
            assert_eq!((report.iterations, report.reason.unwrap().kind), (0, StopKind::Requested));
        }
        stop::reset();
        assert_eq!(stop::requested(), None);
        assert_eq!(builder().build().unwrap().optimize(20, |_| ()).unwrap().iterations, 20);
        raise(libc::SIGINT);
        assert_eq!(stop::requested().unwrap().to_string(), "signal: SIGINT");
        raise(libc::SIGTERM); // the second signal since the reset
        unreachable!("the second signal ends the process");
    }

    fn raise(signal: i32) {
        // SAFETY: `raise` takes any number and touches no memory of ours.
        assert_eq!(unsafe { libc::raise(signal) }, 0);
    }

    fn child(test: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]).stdout(Stdio::piped());
        command.env_remove(INTERRUPT_FILE).env_remove(FOLDER);
        command
    }

    fn training_child(folder: &Path) -> Command {
        let mut command = child("processes::child_that_stops_on_request");
        command.env(FOLDER, folder).env(END, "1000000");
        command
    }

    fn send(child: &Child, signal: i32) {
        // SAFETY: `kill` takes any numbers; the child was not waited for, so the number is still its.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
    }

    /// Reads the child's lines until one that has this text.
    fn wait_for(lines: &mut impl Iterator<Item = std::io::Result<String>>, text: &str) -> String {
        let line = lines.map(Result::unwrap).find(|line| line.contains(text));
        line.unwrap_or_else(|| panic!("the child ended without printing {text:?}"))
    }

    fn resumed(folder: &Path) -> Trainer {
        let mut trainer = builder().stop_when(Rule::never()).checkpoints(folder).build().unwrap();
        assert!(trainer.resume(|_| ()).unwrap());
        trainer
    }

    #[test]
    fn signals_at_random_instants_change_no_bit_of_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut random = rand::rngs::StdRng::from_entropy();
        let rounds = if is_long() { 50 } else { 8 };
        let mut iterations = Vec::new();
        for round in 0..rounds {
            let (signal, name) = [(libc::SIGINT, "SIGINT"), (libc::SIGTERM, "SIGTERM")][round % 2];
            let mut child = training_child(folder.path()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            wait_for(&mut lines, "Iter: ");
            std::thread::sleep(Duration::from_micros(random.gen_range(0..20_000)));
            send(&child, signal);
            wait_for(&mut lines, &format!("Stopped by signal: {name}."));
            lines.by_ref().for_each(drop);
            assert!(child.wait().unwrap().success());
            let latest = Store::open(folder.path()).unwrap().latest_valid().unwrap();
            assert!(latest.skipped.is_empty());
            iterations.push(latest.saved.unwrap().step);
        }
        // Each child went on from where the one before was stopped: mostly between evaluations.
        assert!(iterations.is_sorted_by(|a, b| a < b), "{iterations:?}");
        let end = iterations.last().unwrap() + 15;
        let mut straight = builder().stop_when(Rule::never()).build().unwrap();
        straight.optimize_to(end, |_| ()).unwrap();
        let mut interrupted = resumed(folder.path());
        interrupted.optimize_to(end, |_| ()).unwrap();
        assert_eq!(bits(interrupted.network()), bits(straight.network()), "{iterations:?}");
        assert_eq!(history(&interrupted), history(&straight), "{iterations:?}");
    }

    #[test]
    fn a_second_signal_ends_the_process() {
        for (first, second) in [(libc::SIGINT, libc::SIGINT), (libc::SIGINT, libc::SIGTERM)] {
            let folder = tempfile::tempdir().unwrap();
            let mut child = training_child(folder.path()).env(LINGER, "60").spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            wait_for(&mut lines, "Iter: ");
            send(&child, first);
            wait_for(&mut lines, "Used: ");
            send(&child, second);
            assert_eq!(child.wait().unwrap().signal(), Some(second));
            resumed(folder.path());
        }
    }

    #[test]
    fn a_request_by_signal_holds_until_it_is_withdrawn() {
        let status = child("processes::child_that_signals_itself").env(END, "0").status().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn the_stop_button_of_a_notebook_stops_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let (checkpoints, file) = (folder.path().join("run"), folder.path().join("interrupt"));
        let mut child = training_child(&checkpoints).env(INTERRUPT_FILE, &file).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        wait_for(&mut lines, "Iter:     20");
        fs::write(&file, "").unwrap();
        wait_for(&mut lines, "Stopped by stop button: the cell was interrupted.");
        lines.by_ref().for_each(drop);
        assert!(child.wait().unwrap().success());

        let mut interrupted = resumed(&checkpoints);
        let end = interrupted.iteration() + 15;
        interrupted.optimize_to(end, |_| ()).unwrap();
        let mut straight = builder().stop_when(Rule::never()).build().unwrap();
        straight.optimize_to(end, |_| ()).unwrap();
        assert_eq!(history(&interrupted), history(&straight));
        assert_eq!(bits(interrupted.network()), bits(straight.network()));
    }
}
