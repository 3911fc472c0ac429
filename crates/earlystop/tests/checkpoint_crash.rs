//! Real crashes: a saving process that is killed, a disk that is full, a file that may not grow.
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use earlystop::Error;
use earlystop::checkpoint::{Keep, Metadata, NamedTensor, Saver, Store};
use rand::{Rng, SeedableRng};
use tch::{Device, Kind, Tensor};

/// Tells the test program, started again as a child, where to save.
const FOLDER: &str = "CHECKPOINT_CRASH_FOLDER";

fn state(elements: i64, value: f64) -> Vec<NamedTensor> {
    vec![NamedTensor::new("w", Tensor::full([elements], value, (Kind::Float, Device::Cpu)))]
}

fn is_long() -> bool {
    std::env::var_os("EARLYSTOP_LONG_TESTS").is_some_and(|value| value == "1")
}

/// The child of the kill test: saves on and on, and reports each step when it is saved.
#[test]
fn child_that_saves_in_a_loop() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut store = Store::open(folder).unwrap().keep(Keep::last(2));
    store.lock().unwrap();
    let found = store.latest_valid().unwrap();
    let first = found.saved.map_or(1, |saved| saved.step + 1);
    for step in first.. {
        store.save(step, None, &[&state(100_000, step as f64)], &Metadata::new()).unwrap();
        // Not by `println!`, which the test runner would keep back.
        writeln!(std::io::stdout().lock(), "saved {step}").unwrap();
    }
}

fn start_child(folder: &Path) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_saves_in_a_loop", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
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
    let dir = tempfile::tempdir().unwrap();
    let mut random = rand::rngs::StdRng::from_entropy();
    let mut leftovers = 0;
    for kill in 0..if is_long() { 200 } else { 20 } {
        let (mut child, mut output) = start_child(dir.path());
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
        let restored = state(100_000, -1.0);
        Saver::new().restore(&saved.path, &[&restored]).unwrap();
        assert_eq!(restored[0].tensor, state(100_000, saved.step as f64)[0].tensor);
        let names = fs::read_dir(dir.path()).unwrap();
        leftovers +=
            names.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "tmp")).count();
    }
    // Each child cleaned up after the one before; what the last one left, this store does.
    let mut store = Store::open(dir.path()).unwrap();
    store.lock().unwrap();
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().ends_with(".tmp")), "{names:?}");
    eprintln!("{leftovers} kills came while a file was being written");
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
    assert_eq!(old[0].tensor, state(10, 1.0)[0].tensor);
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
