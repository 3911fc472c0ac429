//! A process that saves in a loop, and is killed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use earlystop::checkpoint::{Checkpoint, Keep, Metadata, NamedTensor, Store};
use rand::{Rng, SeedableRng};

use crate::common::{keys, named_keys, url};
use crate::is_long;

const FOLDER: &str = "EARLYSTOP_TEST_FOLDER";

fn quarters(value: f32) -> Vec<NamedTensor<'static>> {
    let values: &[f32] = vec![value; 25_000].leak();
    ["a", "b", "c", "d"].map(|name| NamedTensor::new(name, values)).into()
}

/// The child: saves on and on, and reports each step when it is saved.
#[test]
fn saves_in_a_loop() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    writeln!(std::io::stdout().lock(), "ready").unwrap();
    let mut store = Store::open(folder).unwrap().keep(Keep::last(2)).split_above(200_000);
    let first = store.latest().unwrap().map_or(1, |saved| saved.step + 1);
    for step in first.. {
        store.save(step, None, &[&quarters(step as f32)], &Metadata::new()).unwrap();
        writeln!(std::io::stdout().lock(), "saved {step}").unwrap();
    }
}

/// Kills a saving process again and again. After each kill, a new store finds at least what was acknowledged.
pub(crate) fn again_and_again(folder: &str, kills: u32, max_ms: u64, expect_no_leftovers: impl Fn()) {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let (mut acknowledged, mut found_steps) = (0, BTreeSet::new());
    for _ in 0..kills {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["kill::saves_in_a_loop", "--exact", "--nocapture"]).env(FOLDER, folder);
        // What killed processes leave on this machine goes with this folder.
        let local = tempfile::tempdir().unwrap();
        let mut child = command.env("TMPDIR", local.path()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with("ready")), "the child has started");
        sleep(Duration::from_millis(random.gen_range(0..max_ms)));
        child.kill().unwrap();
        child.wait().unwrap();
        let last = lines.filter_map(|line| line.strip_prefix("saved ")?.parse::<u64>().ok()).last();
        acknowledged = last.unwrap_or(acknowledged);
        let mut store = Store::open(folder).unwrap();
        if let Some(saved) = store.latest_valid().unwrap().saved {
            assert!(saved.step >= acknowledged, "{} was acknowledged, {} found", acknowledged, saved.step);
            let checkpoint = Checkpoint::read(&saved.path).unwrap();
            assert_eq!(checkpoint.bytes("d").unwrap(), (saved.step as f32).to_le_bytes().repeat(25_000));
            found_steps.insert(saved.step);
        } else {
            assert_eq!(acknowledged, 0);
        }
        assert!(store.latest_valid().unwrap().skipped.is_empty());
        store.lock().unwrap();
        expect_no_leftovers();
    }
    assert!(found_steps.len() > 2, "the processes had no time to save: {found_steps:?}");
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    if std::env::var_os(FOLDER).is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    again_and_again(&url(dir.path()), if is_long() { 60 } else { 10 }, 300, || {
        assert_eq!(keys(dir.path(), "data"), named_keys(dir.path()));
        assert!(keys(dir.path(), "commits").iter().all(|key| !key.contains('#')));
    });
}
