//! Real crashes: a saving process that is killed, a disk that is full, a file that may not grow.
#![cfg(feature = "torch")]
#![cfg(unix)]

#[path = "common/long.rs"]
mod long;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use earlystop::Error;
use earlystop::checkpoint::{Keep, Metadata, NamedTensor, Saver, Store};
use rand::{Rng, SeedableRng};
use tch::{Device, Kind, Tensor};

use long::is_long;

/// Tells the test program, started again as a child, where to save.
const FOLDER: &str = "CHECKPOINT_CRASH_FOLDER";

/// Tells the child the size above which a state is saved in several files.
const LIMIT: &str = "CHECKPOINT_CRASH_LIMIT";
/// A quarter of the state of the kill tests.
const QUARTER: u64 = 100_000;

fn state(elements: i64, value: f64) -> Vec<NamedTensor<'static>> {
    vec![NamedTensor::new("w", Tensor::full([elements], value, (Kind::Float, Device::Cpu)))]
}

/// Four tensors of a quarter each.
fn quarters(value: f64) -> Vec<NamedTensor<'static>> {
    let tensor = |name| NamedTensor::new(name, Tensor::full([QUARTER as i64 / 4], value, (Kind::Float, Device::Cpu)));
    ["a", "b", "c", "d"].map(tensor).into()
}

/// The child of the kill test: saves on and on, and reports each step when it is saved.
#[test]
fn child_that_saves_in_a_loop() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let limit = std::env::var(LIMIT).unwrap().parse().unwrap();
    let mut store = Store::open(folder).unwrap().keep(Keep::last(2)).split_above(limit);
    store.lock().unwrap();
    let found = store.latest_valid().unwrap();
    let first = found.saved.map_or(1, |saved| saved.step + 1);
    for step in first.. {
        store.save(step, None, &[&quarters(step as f64)], &Metadata::new()).unwrap();
        // Not by `println!`, which the test runner would keep back.
        writeln!(std::io::stdout().lock(), "saved {step}").unwrap();
    }
}

/// The child of the other kill test: saves to one path on and on, in one file and in several ones in turn.
#[test]
fn child_that_saves_to_one_path() {
    let Some(path) = std::env::var_os("CHECKPOINT_CRASH_PATH") else { return };
    // Each child counts on from a number that no child before it can have reached.
    let first: u64 = std::env::var("CHECKPOINT_CRASH_FIRST").unwrap().parse().unwrap();
    for step in first.. {
        let limit = [QUARTER, u64::MAX, 2 * QUARTER][step as usize / 2 % 3];
        Saver::new().split_above(limit).save(&path, &[&quarters(step as f64)], &Metadata::new()).unwrap();
        writeln!(std::io::stdout().lock(), "saved {step}").unwrap();
    }
}

/// The value of all tensors, which must be of one save.
fn value_in(path: &Path) -> f64 {
    let restored = quarters(-1.0);
    Saver::new().restore(path, &[&restored]).unwrap();
    let value = restored[0].tensor().unwrap().double_value(&[0]);
    for (restored, expected) in restored.iter().zip(quarters(value)) {
        assert_eq!(restored.tensor().unwrap(), expected.tensor().unwrap());
    }
    value
}

fn start_child(folder: &Path, limit: u64) -> (Child, BufReader<std::process::ChildStdout>) {
    start("child_that_saves_in_a_loop", &[(FOLDER, folder.as_os_str()), (LIMIT, limit.to_string().as_ref())])
}

fn start(test: &str, variables: &[(&str, &OsStr)]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

/// The last step that the child's next lines report; up to one of them, or up to the end.
fn last_report(output: &mut impl BufRead, until_the_end: bool) -> Option<u64> {
    let mut last = None;
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        // A last line that the kill cut short is no report.
        let step = line.strip_prefix("saved ").and_then(|rest| rest.strip_suffix('\n')?.parse().ok());
        last = step.or(last);
        if last.is_some() && !until_the_end {
            break;
        }
        line.clear();
    }
    last
}

#[test]
fn no_kill_at_any_instant_loses_a_reported_checkpoint() {
    kill_stores(u64::MAX);
}

#[test]
fn no_kill_at_any_instant_loses_a_reported_checkpoint_in_several_files() {
    kill_stores(QUARTER);
}

fn kill_stores(limit: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut random = rand::rngs::StdRng::from_entropy();
    let mut leftovers = 0;
    for kill in 0..if is_long() { 50 } else { 20 } {
        let (mut child, mut output) = start_child(dir.path(), limit);
        let first = last_report(&mut output, false).expect("the child saves");
        if kill == 0 {
            let error = Store::open(dir.path()).unwrap().lock().unwrap_err();
            assert!(
                matches!(&error, Error::Locked { holder: Some(holder), .. } if holder.pid == child.id()),
                "{error}"
            );
        }
        std::thread::sleep(Duration::from_micros(random.gen_range(0..20_000)));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let reported = last_report(&mut output, true).unwrap_or(first);

        let found = Store::open(dir.path()).unwrap().latest_valid().unwrap();
        let saved = found.saved.expect("a whole checkpoint is there");
        assert!(found.skipped.is_empty(), "{:?}", found.skipped);
        assert!(saved.step >= reported, "found {}, reported {reported}", saved.step);
        assert_eq!(value_in(&saved.path), saved.step as f64);
        leftovers += usize::from(names_in(dir.path()).iter().any(|name| name.ends_with(".tmp")));
    }
    // Each child cleaned up after the one before; what the last one left, this store does.
    let mut store = Store::open(dir.path()).unwrap();
    store.lock().unwrap();
    let names = names_in(dir.path());
    let files_of_each = if limit == QUARTER { 5 } else { 1 };
    assert!(names.iter().all(|name| !name.ends_with(".tmp")), "{names:?}");
    assert_eq!(names.len(), 1 + files_of_each * store.list().unwrap().len(), "{names:?}");
    eprintln!("{leftovers} kills came while a file was being written");
}

fn names_in(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn no_kill_at_any_instant_mixes_the_files_of_two_saves_to_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("best.safetensors");
    let mut random = rand::rngs::StdRng::from_entropy();
    for kill in 0..if is_long() { 50 } else { 20 } {
        let first = (10_000 * kill + kill % 6).to_string();
        let variables = [("CHECKPOINT_CRASH_PATH", path.as_os_str()), ("CHECKPOINT_CRASH_FIRST", first.as_ref())];
        let (mut child, mut output) = start("child_that_saves_to_one_path", &variables);
        let first = last_report(&mut output, false).expect("the child saves");
        std::thread::sleep(Duration::from_micros(random.gen_range(0..20_000)));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let reported = last_report(&mut output, true).unwrap_or(first);
        let value = value_in(&path);
        assert!(value >= reported as f64, "found {value}, reported {reported}");
    }
    // A kill before the first byte leaves an empty file, which is not deleted before it is a minute old.
    let is_empty = |name: &String| fs::metadata(dir.path().join(name)).unwrap().len() == 0;
    let empty: Vec<String> = names_in(dir.path()).into_iter().filter(is_empty).collect();
    assert!(empty.iter().all(|name| name.ends_with(".tmp")), "{empty:?}");
    for name in &empty {
        let file = fs::File::options().write(true).open(dir.path().join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(61)).unwrap();
    }
    for (limit, count) in [(QUARTER, 5), (u64::MAX, 1)] {
        Saver::new().split_above(limit).save(&path, &[&quarters(1.0)], &Metadata::new()).unwrap();
        assert_eq!(names_in(dir.path()).len(), count, "{:?}", names_in(dir.path()));
    }
}

/// Saves a small checkpoint, fails to save a large one, and saves a small one again.
fn save_where_only_small_files_fit(folder: &Path, cause: &str) {
    let path = folder.join("best.safetensors");
    Saver::new().save(&path, &[&state(10, 1.0)], &Metadata::new()).unwrap();
    let error = Saver::new().save(&path, &[&state(1_000_000, 2.0)], &Metadata::new()).unwrap_err().to_string();
    assert!(error.contains("best.safetensors: cannot write its temporary file: ") && error.contains(cause), "{error}");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "the temporary file is gone");

    let old = state(10, -1.0);
    Saver::new().restore(&path, &[&old]).unwrap();
    assert_eq!(old[0].tensor().unwrap(), state(10, 1.0)[0].tensor().unwrap());
    Saver::new().save(&path, &[&state(10, 3.0)], &Metadata::new()).unwrap();
}

/// The child of the test of the limit.
#[test]
fn child_whose_files_may_not_grow() {
    let Some(folder) = std::env::var_os("CHECKPOINT_LIMIT_FOLDER") else {
        return;
    };
    save_where_only_small_files_fit(Path::new(&folder), "File too large");
}

#[test]
fn a_file_that_may_not_grow_leaves_the_old_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    // The signal that comes with the limit is ignored, so that the write returns an error, as it does on a full disk.
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" --exact child_whose_files_may_not_grow";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env("CHECKPOINT_LIMIT_FOLDER", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(dir.path().join("best.safetensors").exists());
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_the_old_checkpoint() {
    /// A disk of 64 KiB in memory, unmounted at the end of the test.
    struct Mounted<'a>(&'a Path);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(self.0).status();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(dir.path()).output();
    if !mount.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a full disk needs the right to mount one: {mount:?}");
        return;
    }
    let _mounted = Mounted(dir.path());
    save_where_only_small_files_fit(dir.path(), "No space left on device");
}
