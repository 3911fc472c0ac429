//! Who may save into a folder, and who may only read: with real processes.
#![cfg(feature = "torch")]
#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use earlystop::Error;
use earlystop::checkpoint::{Checkpoint, Metadata, NamedTensor, Saver, Store, latest_checkpoint};
use tch::{Device, Kind, Tensor};

/// Tells the test program, started again as a child, which folder to work on.
const FOLDER: &str = "CHECKPOINT_LOCK_FOLDER";

fn state(value: f64) -> Vec<NamedTensor<'static>> {
    vec![NamedTensor::new("w", Tensor::full([8], value, (Kind::Float, Device::Cpu)))]
}

fn save(store: &mut Store, step: u64) -> Result<u64, Error> {
    store.save(step, Some(step as f64), &[&state(step as f64)], &Metadata::new()).map(|saved| saved.step)
}

fn child(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(FOLDER, folder);
    command
}

/// Tries to save from another process: what it says.
fn save_elsewhere(folder: &Path) -> String {
    let output = child("child_that_saves_once", folder).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().find_map(|line| line.strip_prefix("result: ").map(str::to_owned)).expect("the child reports")
}

#[test]
fn child_that_saves_once() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let result = Store::open(folder).and_then(|mut store| save(&mut store, 1000));
    let line = result.map_or_else(|error| error.to_string(), |step| format!("saved {step}"));
    writeln!(std::io::stdout().lock(), "\nresult: {line}").unwrap();
}

#[test]
fn a_newer_store_takes_over_and_other_processes_are_still_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = format!(
        "{}: process {} saves into this folder: stop it first, or choose another folder",
        dir.path().display(),
        std::process::id()
    );
    let mut store = Store::open(dir.path()).unwrap();
    save(&mut store, 1).unwrap();
    for step in 2..6 {
        let mut newer = Store::open(dir.path()).unwrap();
        save(&mut newer, step).unwrap();
        assert_eq!(save_elsewhere(dir.path()), refusal);
        let error = save(&mut store, 100).unwrap_err();
        assert!(matches!(&error, Error::TakenOver { folder } if folder == dir.path()), "{error}");
        assert!(matches!(store.lock(), Err(Error::TakenOver { .. })));
        assert!(matches!(store.clear(), Err(Error::TakenOver { .. })), "an old store deletes nothing");
        assert_eq!(store.latest().unwrap().unwrap().step, step, "reading is still possible");
        store = newer; // drops the older one, which locked the file at first
        assert_eq!(save_elsewhere(dir.path()), refusal);
    }
    save(&mut store, 6).unwrap();
    drop(store);
    assert_eq!(save_elsewhere(dir.path()), "saved 1000");
}

#[test]
fn the_newest_of_several_stores_keeps_the_folder_in_whatever_order_they_are_dropped() {
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0], [2, 0, 1]] {
        let dir = tempfile::tempdir().unwrap();
        let mut stores: Vec<Option<Store>> = (0..3).map(|_| Some(Store::open(dir.path()).unwrap())).collect();
        for store in stores.iter_mut().flatten() {
            store.lock().unwrap();
        }
        for dropped in order {
            let newest_lives = stores[2].is_some();
            assert_eq!(save_elsewhere(dir.path()).starts_with("saved"), !newest_lives, "{order:?} before {dropped}");
            stores[dropped] = None;
        }
        assert_eq!(save_elsewhere(dir.path()), "saved 1000");
    }
}

#[test]
fn a_folder_that_was_deleted_and_taken_by_another_process_is_not_shared() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let mut store = Store::open(&folder).unwrap();
    save(&mut store, 1).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    save(&mut store, 2).unwrap(); // as if the folder had never been there
    fs::remove_dir_all(&folder).unwrap();

    let (mut other, mut output) = start_holder(&folder);
    let error = save(&mut store, 3).unwrap_err();
    assert!(matches!(&error, Error::Locked { holder: Some(holder), .. } if holder.pid == other.id()), "{error}");
    drop(other.stdin.take()); // ends it
    other.wait().unwrap();
    output.read_line(&mut String::new()).unwrap();
    assert_eq!(save(&mut store, 3).unwrap(), 3);
}

fn start_holder(folder: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut command = child("child_that_holds_the_lock", folder);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("locked") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the child ended");
    }
    (child, output)
}

/// Holds the lock until its input ends.
#[test]
fn child_that_holds_the_lock() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut store = Store::open(folder).unwrap();
    store.lock().unwrap();
    writeln!(std::io::stdout().lock(), "\nlocked").unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn a_killed_holder_leaves_a_record_but_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let (mut holder, _output) = start_holder(dir.path());
    let error = Store::open(dir.path()).unwrap().lock().unwrap_err();
    assert!(error.to_string().contains(&format!("process {} saves", holder.id())), "{error}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    Store::open(dir.path()).unwrap().lock().unwrap();
}

#[test]
fn a_child_that_is_started_meanwhile_does_not_keep_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = Store::open(dir.path()).unwrap();
    old.lock().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    store.lock().unwrap();
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    drop(old);
    drop(store);
    assert_eq!(save_elsewhere(dir.path()), "saved 1000");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

/// A fork without a new program, as in a process that makes copies of itself.
#[test]
#[cfg(target_os = "linux")]
fn a_forked_copy_of_a_store_neither_saves_nor_unlocks() {
    // In a program of its own: only a process with one thread may do more than a little after a fork.
    let dir = tempfile::tempdir().unwrap();
    let output = child("child_that_forks", dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("the parent still holds the lock"), "{text}");
}

#[test]
#[cfg(target_os = "linux")]
fn child_that_forks() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut store = Store::open(&folder).unwrap();
    store.lock().unwrap();
    let parent = std::process::id();
    // SAFETY: the copy only uses files, and leaves by `_exit`. The test runner's other thread waits for this one.
    match unsafe { libc::fork() } {
        0 => {
            let is_refused = |result: Result<(), Error>| matches!(result, Err(Error::Locked { holder: Some(holder), .. }) if holder.pid == parent);
            let mut newer = Store::open(&folder).unwrap();
            let status = if !is_refused(store.lock()) {
                1
            } else if !is_refused(newer.lock()) {
                2
            } else {
                drop(store);
                0
            };
            // SAFETY: ends the copy at once.
            unsafe { libc::_exit(status) }
        }
        copy => {
            let mut status = -1;
            // SAFETY: `status` lives until the call returns.
            assert_eq!(unsafe { libc::waitpid(copy, &mut status, 0) }, copy);
            assert_eq!(status, 0, "exit status and signal of the copy");
        }
    }
    let path = Path::new(&folder).join(".lock");
    assert!(fs::File::open(path).unwrap().try_lock().is_err());
    store.lock().unwrap();
    writeln!(std::io::stdout().lock(), "\nthe parent still holds the lock").unwrap();
}

#[test]
fn reading_needs_no_write_permission() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let mut store = Store::open(&folder).unwrap();
    for step in [1, 2, 3] {
        save(&mut store, step).unwrap();
    }
    drop(store);
    let mut bytes = fs::read(folder.join("step-000003.safetensors")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(folder.join("step-000003.safetensors"), bytes).unwrap();

    let before = listing(&folder);
    for entry in fs::read_dir(&folder).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o444)).unwrap();
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = child("child_that_only_reads", &folder).output().unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("everything was read"), "{text}");
    assert_eq!(listing(&folder), before);
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn child_that_only_reads() {
    const NOBODY: u32 = 65534;
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    // Permissions do not count for root, so the child becomes somebody else.
    // SAFETY: these calls take no pointers.
    unsafe {
        if libc::geteuid() == 0 {
            assert_eq!((libc::setgid(NOBODY), libc::setuid(NOBODY)), (0, 0));
        }
    }
    let folder = Path::new(&folder);
    assert!(fs::write(folder.join("new"), "").is_err(), "the folder must not be writable");

    let mut store = Store::open(folder).unwrap();
    let steps: Vec<u64> = store.list().unwrap().iter().map(|saved| saved.step).collect();
    assert_eq!(steps, [1, 2, 3]);
    assert_eq!(store.latest().unwrap().unwrap().step, 3);
    assert_eq!(store.best().unwrap().unwrap().step, 3);
    for valid in [store.latest_valid().unwrap(), store.best_valid().unwrap()] {
        assert_eq!((valid.saved.unwrap().step, valid.skipped.len()), (2, 1));
    }
    let path = latest_checkpoint(folder).unwrap().unwrap();
    assert!(Checkpoint::read(&path).unwrap().is_verified());
    let live = state(0.0);
    Saver::new().restore(&path, &[&live]).unwrap();
    Saver::new().restore_matching(&path, &[&live]).unwrap();
    assert_eq!(live[0].tensor().unwrap(), state(2.0)[0].tensor().unwrap());

    let error = save(&mut store, 4).unwrap_err().to_string();
    assert!(error.contains("cannot open the lock file for writing (reading checkpoints needs no lock)"), "{error}");
    writeln!(std::io::stdout().lock(), "\neverything was read").unwrap();
}
