//! The tutorial as a script (`examples/train.rs`, also in the README): killed and started again, it goes on.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// The script in a folder of its own, with the genuine data.
struct Script {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Script {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(program()).current_dir(folder).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
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

/// Where cargo puts the example that it builds for the tests.
fn program() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    this.ancestors().nth(2).unwrap().join("examples").join(format!("train{}", std::env::consts::EXE_SUFFIX))
}

#[test]
fn killed_and_started_again_the_script_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    std::os::unix::fs::symlink(data.canonicalize().unwrap(), folder.path().join("data")).unwrap();

    let mut script = Script::start(folder.path());
    script.wait_for("Iter:    200");
    drop(script);

    let mut script = Script::start(folder.path());
    let resumed = script.wait_for("Resumed from");
    // What was printed may not have been the last that was committed.
    assert!(resumed.ends_with("after iteration 200") || resumed.ends_with("after iteration 300"), "{resumed}");
    script.wait_for("Iter:    400");

    if std::env::var_os("EARLYSTOP_LONG_TESTS").is_some() {
        script.wait_for("No improvement found in a while, stopping optimization.");
        let accuracy = script.wait_for("Test accuracy: ");
        let percent: f64 = accuracy["Test accuracy: ".len()..].trim_end_matches('%').parse().unwrap();
        // Where the rule stops is luck in part: with this seed early, for 98.2%.
        assert!(percent >= 98.0, "{accuracy}");
    }
}
