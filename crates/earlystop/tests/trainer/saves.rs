//! Saves that fail, the best variables in memory, and what is restored from where.

use std::fs;
use std::path::{Path, PathBuf};

use earlystop::checkpoint::Store;
use earlystop::early_stopping::Rule;
use earlystop::trainer::{Event, TrainerBuilder};
use earlystop::{Error, Trainer};

use crate::common::{bits, builder, history};

fn run() -> TrainerBuilder {
    builder().stop_when(Rule::never())
}

/// A folder that can be taken away and put back, as a network drive can.
struct Drive {
    parent: tempfile::TempDir,
}

impl Drive {
    fn new() -> Self {
        Self { parent: tempfile::tempdir().unwrap() }
    }

    fn folder(&self) -> PathBuf {
        self.parent.path().join("run")
    }

    fn aside(&self) -> PathBuf {
        self.parent.path().join("aside")
    }

    fn take_away(&self) {
        fs::rename(self.folder(), self.aside()).unwrap();
        fs::write(self.folder(), "in the way").unwrap();
    }

    fn put_back(&self) {
        fs::remove_file(self.folder()).unwrap();
        fs::rename(self.aside(), self.folder()).unwrap();
    }
}

fn steps(folder: &Path) -> Vec<u64> {
    Store::open(folder).unwrap().list().unwrap().iter().map(|saved| saved.step).collect()
}

/// Straight runs to compare with: the one to `end`, and one that ends at the best evaluation before it.
fn straight(end: u64) -> (Trainer, Trainer) {
    let mut straight = run().build().unwrap();
    let best = straight.optimize_to(end, |_| ()).unwrap().best.unwrap().iteration;
    let mut at_best = run().build().unwrap();
    at_best.optimize_to(best, |_| ()).unwrap();
    (straight, at_best)
}

/// A folder in which names can be created, but which cannot be opened, and so not synced.
#[cfg(unix)]
mod without_sync {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use earlystop::checkpoint::Warning;

    use super::*;
    use crate::process::passes;

    const FOLDER: &str = "TRAINER_WITHOUT_SYNC_FOLDER";

    #[test]
    fn child_that_trains_without_sync() {
        const NOBODY: u32 = 65534;
        let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
        // Permissions do not count for root, so the child becomes somebody else.
        // SAFETY: these calls take no pointers.
        unsafe {
            if libc::geteuid() == 0 {
                assert_eq!((libc::setgid(NOBODY), libc::setuid(NOBODY)), (0, 0));
            }
        }
        let mut trainer = run().checkpoints(folder.join("run")).build().unwrap();
        let mut events = Vec::new();
        trainer.optimize(30, |event| events.push(event.clone())).unwrap();
        let warnings: Vec<&Warning> = events
            .iter()
            .filter_map(|event| match event {
                Event::NotGuaranteed(warning) => Some(warning),
                _ => None,
            })
            .collect();
        assert!(matches!(&warnings[..], [Warning::NotSynced { path, .. }] if *path == folder), "{warnings:?}");
        assert_eq!(Store::open(folder.join("run")).unwrap().latest().unwrap().unwrap().step, 30);
    }

    #[test]
    fn what_a_file_system_does_not_guarantee_is_an_event() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let folder = dir.path().join("unreadable");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o333)).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "saves::without_sync::child_that_trains_without_sync", "--test-threads=1"]);
        passes(child.env(FOLDER, &folder));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(folder.join("run").is_dir());
    }
}

#[test]
#[cfg(unix)]
fn a_newer_trainer_takes_the_folder_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = run().checkpoints(folder.path()).build().unwrap();
    first.optimize(10, |_| ()).unwrap();
    let mut second = run().checkpoints(folder.path()).build().unwrap();
    assert!(second.resume(|_| ()).unwrap());
    second.optimize(10, |_| ()).unwrap();
    assert!(matches!(first.optimize(10, |_| ()), Err(Error::TakenOver { .. })));
    drop(first);
    second.optimize(10, |_| ()).unwrap();
    assert_eq!(second.iteration(), 30);
}

#[test]
fn a_failed_save_is_reported_and_tried_again() {
    let drive = Drive::new();
    let mut trainer = run().checkpoints(drive.folder()).build().unwrap();
    let mut events = Vec::new();
    let result = trainer.optimize_to(100, |event| {
        match event {
            Event::Evaluated { observation, .. } if observation.iteration == 20 => drive.take_away(),
            Event::Evaluated { observation, .. } if observation.iteration == 50 => drive.put_back(),
            _ => {}
        }
        events.push(event.clone());
    });
    assert_eq!(result.unwrap().iterations, 100);
    let failed = events.iter().filter_map(|event| match event {
        Event::SaveFailed { iteration, reason } => Some((*iteration, reason.clone())),
        _ => None,
    });
    let failed: Vec<_> = failed.collect();
    assert_eq!(failed.iter().map(|(iteration, _)| *iteration).collect::<Vec<_>>(), [30, 40, 50]);
    assert!(failed[0].1.contains("run"), "{failed:?}");

    let (straight, at_best) = straight(100);
    assert_eq!(history(&trainer), history(&straight));
    assert_eq!(bits(trainer.network()), bits(straight.network()));
    // Also the best of a failed save reached the folder.
    assert!(steps(&drive.folder()).contains(&at_best.iteration()), "{:?}", steps(&drive.folder()));
    drop(trainer);
    let mut resumed = run().checkpoints(drive.folder()).build().unwrap();
    assert!(resumed.resume(|_| ()).unwrap());
    assert_eq!(bits(resumed.network()), bits(straight.network()));
    assert!(resumed.restore_best().unwrap().is_best());
    assert_eq!(bits(resumed.network()), bits(at_best.network()));
}

#[test]
fn a_call_whose_last_save_failed_says_so_and_loses_nothing() {
    for (stops, in_background) in [(false, false), (true, false), (false, true), (true, true)] {
        let drive = Drive::new();
        let trainer = run().checkpoints(drive.folder());
        let trainer = if stops { trainer.stop_on_failed_save() } else { trainer };
        let mut trainer = trainer.save_in_background(in_background).build().unwrap();
        let take_away_at_10 = |event: &Event| match event {
            Event::Evaluated { observation, .. } if observation.iteration == 10 => drive.take_away(),
            _ => {}
        };
        let error = trainer.optimize_to(60, take_away_at_10).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        let reached = trainer.iteration();
        match (stops, in_background) {
            (true, false) => assert_eq!(reached, 20),
            // The save of iteration 10 or of 20 fails, and is noticed at the next one at the latest.
            (true, true) => assert!((10..=30).contains(&reached), "{reached}"),
            _ => assert_eq!(reached, 60),
        }
        assert_eq!(trainer.history().len() as u64, reached / 10);

        // The best is in memory, and the failed save is made up for by the next call.
        let (at_end, _) = straight(reached);
        let mut at_best = run().build().unwrap();
        at_best.optimize_to(trainer.report().best.unwrap().iteration, |_| ()).unwrap();
        assert!(matches!(trainer.optimize_to(reached, |_| ()), Err(Error::Io { .. })));
        drive.put_back();
        trainer.optimize_to(reached, |_| ()).unwrap();
        assert_eq!(trainer.iteration(), reached);
        let mut resumed = run().checkpoints(drive.folder()).build().unwrap();
        assert!(resumed.resume(|_| ()).unwrap());
        assert_eq!(bits(resumed.network()), bits(at_end.network()));
        assert!(resumed.restore_best().unwrap().is_best());
        assert_eq!(bits(resumed.network()), bits(at_best.network()));
    }
}

#[test]
fn the_best_that_could_not_be_saved_is_restored_from_memory() {
    for in_background in [false, true] {
        let drive = Drive::new();
        let mut trainer = run().checkpoints(drive.folder()).save_in_background(in_background).build().unwrap();
        trainer.optimize_to(10, |_| ()).unwrap();
        drive.take_away();
        trainer.optimize_to(60, |_| ()).unwrap_err();
        let (_, at_best) = straight(60);
        assert!(at_best.iteration() > 10);
        let restored = trainer.restore_best().unwrap();
        assert_eq!((restored.iteration, &restored.file), (at_best.iteration(), &None));
        assert!(restored.is_best());
        assert_eq!(bits(trainer.network()), bits(at_best.network()));
    }
}

#[test]
fn without_memory_the_best_that_was_saved_is_restored_and_named() {
    let drive = Drive::new();
    let mut trainer = run().checkpoints(drive.folder()).keep_best_in_memory(false).build().unwrap();
    trainer.optimize_to(10, |_| ()).unwrap();
    drive.take_away();
    trainer.optimize_to(60, |_| ()).unwrap_err();
    drive.put_back();
    let restored = trainer.restore_best().unwrap();
    assert_eq!(restored.iteration, 10);
    assert!(!restored.is_best());
    let message = restored.to_string();
    let expected = format!("since those of the best, iteration {}, are not available", restored.best_iteration);
    assert!(message.contains("step-000010.safetensors") && message.contains(&expected), "{message}");
}

#[test]
fn the_best_is_in_memory_without_a_folder() {
    let (_, at_best) = straight(100);
    let mut trainer = run().build().unwrap();
    trainer.optimize_to(100, |_| ()).unwrap();
    assert_ne!(bits(trainer.network()), bits(at_best.network()));
    let restored = trainer.restore_best().unwrap();
    assert_eq!(
        restored.to_string(),
        format!("Restored the variables of iteration {} from memory", at_best.iteration())
    );
    assert_eq!(bits(trainer.network()), bits(at_best.network()));
}

#[test]
fn what_cannot_be_restored_is_explained() {
    let message = |trainer: &mut Trainer| trainer.restore_best().unwrap_err().to_string();
    let mut trainer = run().keep_best_in_memory(false).build().unwrap();
    let expected = "cannot restore the best variables: nothing was evaluated so far: call optimize() first";
    assert_eq!(message(&mut trainer), expected);
    trainer.optimize_to(10, |_| ()).unwrap();
    assert!(message(&mut trainer).contains("keep_best_in_memory()"), "{}", message(&mut trainer));

    let folder = tempfile::tempdir().unwrap();
    let mut trainer = run().checkpoints(folder.path()).build().unwrap();
    assert!(message(&mut trainer).contains("call resume()"), "{}", message(&mut trainer));
    trainer.optimize_to(10, |_| ()).unwrap();
    fs::write(folder.path().join("step-000010.safetensors"), "damaged").unwrap();
    let message = message(&mut trainer);
    assert!(message.starts_with("cannot restore the best variables, of iteration 10: "), "{message}");
    assert!(message.contains("step-000010.safetensors"), "{message}");
}

#[cfg(unix)]
mod full_disk {
    use std::process::Command;

    use super::*;
    use crate::process::passes;

    const FOLDER: &str = "TRAINER_SAVES_FOLDER";
    const BACKGROUND: &str = "TRAINER_SAVES_BACKGROUND";

    /// The child of the test below: writes of more than some kilobytes fail at times, as on a full disk.
    #[test]
    fn child_on_a_full_disk() {
        let Some(folder) = std::env::var_os(FOLDER) else { return };
        // SAFETY: the calls take a number and a valid struct; this process runs only this test.
        let limit = |bytes: libc::rlim_t| unsafe {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
        };
        let in_background = std::env::var_os(BACKGROUND).is_some();
        let mut trainer = run().checkpoints(folder).save_in_background(in_background).build().unwrap();
        let mut failed = 0;
        trainer
            .optimize_to(100, |event| match event {
                Event::Evaluated { observation, .. } if observation.iteration == 20 => limit(4096),
                Event::Evaluated { observation, .. } if observation.iteration == 50 => limit(libc::RLIM_INFINITY),
                Event::SaveFailed { .. } => failed += 1,
                _ => {}
            })
            .unwrap();
        // In the background the limit may come before the end of the save of iteration 20, and go before that of 50.
        assert!(if in_background { (2..=4).contains(&failed) } else { failed == 3 }, "{failed}");
    }

    #[test]
    fn a_full_disk_costs_nothing_once_there_is_space_again() {
        costs_nothing(false);
    }

    #[test]
    fn a_full_disk_costs_nothing_in_the_background_either() {
        costs_nothing(true);
    }

    fn costs_nothing(in_background: bool) {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "saves::full_disk::child_on_a_full_disk", "--test-threads=1"]);
        if in_background {
            child.env(BACKGROUND, "1");
        }
        passes(child.env(FOLDER, folder.path()));
        let (straight, at_best) = straight(100);
        let mut resumed = run().checkpoints(folder.path()).build().unwrap();
        let mut events = Vec::new();
        assert!(resumed.resume(|event| events.push(event.clone())).unwrap());
        assert!(!events.iter().any(|event| matches!(event, Event::Skipped { .. })), "{events:?}");
        assert_eq!(bits(resumed.network()), bits(straight.network()));
        assert_eq!(history(&resumed), history(&straight));
        assert!(resumed.restore_best().unwrap().is_best());
        assert_eq!(bits(resumed.network()), bits(at_best.network()));
    }
}

#[test]
fn states_of_several_files_are_saved_resumed_and_restored() {
    let expected = straight(45);
    for in_background in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let in_files = || run().checkpoints(folder.path()).split_above(1000).save_in_background(in_background);
        in_files().build().unwrap().optimize_to(25, |_| ()).unwrap();
        let mut trainer = in_files().build().unwrap();
        assert!(trainer.resume(|_| ()).unwrap());
        trainer.optimize_to(45, |_| ()).unwrap();
        assert_eq!(bits(trainer.network()), bits(expected.0.network()));
        let saved = Store::open(folder.path()).unwrap().list().unwrap();
        assert!(
            saved.iter().all(|saved| saved.path.to_string_lossy().ends_with(".safetensors.index.json")),
            "{saved:?}"
        );
        trainer.restore_best().unwrap();
        assert_eq!(bits(trainer.network()), bits(expected.1.network()));
    }
}
