//! A training process that is killed again and again ends with the same bits as one that nobody disturbed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use earlystop::checkpoint::Store;
use earlystop::early_stopping::Rule;
use rand::{Rng, SeedableRng};

use crate::common::{bits, builder, history};
use crate::long::is_long;

/// Tells the test program, started again as a child, where to save, and to which iteration to train.
const FOLDER: &str = "TRAINER_CRASH_FOLDER";
const END: &str = "TRAINER_CRASH_END";
/// Set if the child is to save in the background.
const BACKGROUND: &str = "TRAINER_CRASH_BACKGROUND";

/// The child of the kill test.
#[test]
fn child_that_trains_on() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let end = std::env::var(END).unwrap().parse().unwrap();
    let trainer = builder().stop_when(Rule::never()).checkpoints(folder);
    let mut trainer = trainer.save_in_background(std::env::var_os(BACKGROUND).is_some()).build().unwrap();
    // Nothing is skipped and nothing is missing.
    trainer.resume(|event| assert_eq!(event.to_string().lines().count(), 1, "{event}")).unwrap();
    trainer.optimize_to(end, |_| ()).unwrap();
}

fn start_child(folder: &Path, end: u64, in_background: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    if in_background {
        command.env(BACKGROUND, "1");
    }
    command
        .args(["--exact", "crash::child_that_trains_on", "--test-threads=1"])
        .env(FOLDER, folder)
        .env(END, end.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// The step of the newest checkpoint, while a child may be deleting older ones.
fn newest(folder: &Path) -> Option<u64> {
    Store::open(folder).unwrap().latest().unwrap().map(|saved| saved.step)
}

/// The step of the latest whole checkpoint, when nobody writes: not one may be damaged.
fn latest(folder: &Path) -> Option<u64> {
    let found = Store::open(folder).unwrap().latest_valid().unwrap();
    assert!(found.skipped.is_empty(), "{:?}", found.skipped);
    found.saved.map(|saved| saved.step)
}

#[test]
fn kills_at_random_instants_change_no_bit_of_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = rand::rngs::StdRng::from_entropy();
    let kills = if is_long() { 100 } else { 20 };
    // Far more than the child will reach.
    let (mut before, far) = (None, 1_000_000);
    for _ in 0..kills {
        let mut child = start_child(dir.path(), far, random.gen_bool(0.5));
        // The kill comes at any instant from the start on, but later than the first commit in most cases.
        let begin = Instant::now();
        while newest(dir.path()) == before && begin.elapsed() < Duration::from_secs(random.gen_range(1..20)) {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_micros(random.gen_range(0..50_000)));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let now = latest(dir.path());
        assert!(now >= before, "the latest checkpoint was of iteration {before:?}, and now of {now:?}");
        before = now;
    }
    let reached = before.expect("the children save");
    let end = reached + 25;
    assert!(start_child(dir.path(), end, false).wait().unwrap().success());

    let mut straight = builder().stop_when(Rule::never()).build().unwrap();
    straight.optimize_to(end, |_| ()).unwrap();
    let mut killed = builder().stop_when(Rule::never()).checkpoints(dir.path()).build().unwrap();
    killed.resume(|event| assert_eq!(event.to_string().lines().count(), 1, "{event}")).unwrap();
    assert_eq!(killed.iteration(), end);
    assert_eq!(bits(killed.network()), bits(straight.network()));
    assert_eq!(history(&killed), history(&straight));
    eprintln!("{kills} kills on the way to iteration {reached}");
}
