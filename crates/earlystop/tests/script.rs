//! The tutorial as a script (`examples/train.rs`, also in the README): stopped or killed, and started again, it resumes.
#![cfg(feature = "torch")]
#![cfg(unix)]

#[path = "common/example.rs"]
mod example;

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use earlystop::checkpoint::Store;

use example::{example, tensors};

/// The script in a folder of its own, with the genuine data.
struct Script {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Script {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(example("train")).current_dir(folder).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn send(&self, signal: i32) {
        // SAFETY: `kill` takes any numbers; the child was not waited for, so the number is still its.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// Reads all other lines, and waits for the end.
    fn end(&mut self) -> (Vec<String>, ExitStatus) {
        let lines = self.lines.by_ref().map(Result::unwrap).collect();
        (lines, self.child.wait().unwrap())
    }

    /// The first line that has this text.
    fn wait_for(&mut self, text: &str) -> String {
        let line = self.lines.by_ref().map(Result::unwrap).find(|line| line.contains(text));
        line.unwrap_or_else(|| panic!("the script ended without printing {text:?}"))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder for the script, with the genuine data.
fn folder_with_data() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    std::os::unix::fs::symlink(data.canonicalize().unwrap(), folder.path().join("data")).unwrap();
    folder
}

/// The tensors, and the history up to there without its times, of the checkpoint of an iteration.
fn state(folder: &Path, iteration: u64) -> (Vec<(String, Vec<u8>)>, Vec<serde_json::Value>) {
    let folder = folder.join("checkpoints/train");
    let lines = std::fs::read_to_string(folder.join("history-0001.jsonl")).unwrap();
    // The first line is the head. A run that was killed may have left half of the last one.
    let observations = lines.lines().skip(1).filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut history: Vec<_> =
        observations.filter(|seen| seen["iteration"].as_u64().is_some_and(|seen| seen <= iteration)).collect();
    assert_eq!(history.len() as u64, iteration / 100);
    for observation in &mut history {
        assert!(!observation["elapsed"].take().is_null());
    }
    (tensors(&folder, iteration), history)
}

#[test]
fn stopped_by_signals_and_started_again_the_script_ends_with_the_same_bits() {
    let straight = folder_with_data();
    let mut script = Script::start(straight.path());
    script.wait_for("Iter:    200");
    drop(script);

    let stopped = folder_with_data();
    let pauses = [(libc::SIGINT, "SIGINT", 70), (libc::SIGTERM, "SIGTERM", 130)];
    for (signal, name, milliseconds) in pauses {
        let mut script = Script::start(stopped.path());
        // The data is loaded, and training begins or goes on.
        let sign = if signal == libc::SIGINT { "Iter:    100" } else { "Resumed from" };
        script.wait_for(sign);
        sleep(Duration::from_millis(milliseconds));
        script.send(signal);
        let (lines, status) = script.end();
        assert!(status.success(), "{status}");
        assert!(lines.contains(&format!("Stopped by signal: {name}.")), "{lines:?}");
        assert!(lines.last().unwrap().starts_with("Test accuracy: "), "{lines:?}");
    }
    let latest = Store::open(stopped.path().join("checkpoints/train")).unwrap().latest().unwrap().unwrap().step;
    assert!(latest > 100, "{latest}");

    let mut script = Script::start(stopped.path());
    let resumed = script.wait_for("Resumed from");
    assert!(resumed.ends_with(&format!("after iteration {latest}")), "{resumed}");
    script.wait_for("Iter:    200");
    // Twice: the second one ends the process, unless it comes when the script is just done.
    script.send(libc::SIGINT);
    script.send(libc::SIGINT);
    let (_, status) = script.end();
    assert!(status.signal() == Some(libc::SIGINT) || status.success(), "{status}");
    assert!(state(stopped.path(), 200) == state(straight.path(), 200));
}

#[test]
fn killed_and_started_again_the_script_goes_on() {
    let folder = folder_with_data();
    let mut script = Script::start(folder.path());
    script.wait_for("Iter:    200");
    drop(script);

    let mut script = Script::start(folder.path());
    let resumed = script.wait_for("Resumed from");
    // What was printed may not have been the last that was committed.
    assert!(resumed.ends_with("after iteration 200") || resumed.ends_with("after iteration 300"), "{resumed}");
    script.wait_for("Iter:    400");
}
