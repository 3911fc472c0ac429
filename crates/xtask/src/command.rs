//! Runs other programs, their output shown as progress and kept for the error message.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::progress::Step;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// How many of a failed program's last lines are shown.
const LAST_LINES: usize = 25;

/// What a program said and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    /// Standard output and standard error, as they came.
    pub(crate) output: String,
}

impl Outcome {
    /// The program's last lines.
    pub(crate) fn last_lines(&self) -> String {
        let lines: Vec<&str> = self.output.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

/// A program at work; ended when this is dropped before it was waited for.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing to end is the usual case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `command`, whose output is kept until it is waited for.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn start(command: &mut Command) -> Result<Running> {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|source| cannot_start(command, &source))?;
    let (sender, lines) = mpsc::channel();
    relay(child.stdout.take(), sender.clone());
    relay(child.stderr.take(), sender);
    Ok(Running { child, lines })
}

impl Running {
    /// Waits for the end, showing the latest line as the step's progress.
    ///
    /// # Errors
    /// Only what the operating system says: how the program ended is in the outcome.
    pub(crate) fn wait(mut self, step: &mut Step) -> Result<Outcome> {
        let (mut output, mut latest) = (String::new(), String::new());
        loop {
            match self.lines.recv_timeout(Duration::from_secs(1)) {
                Ok(line) => {
                    output.push_str(&line);
                    output.push('\n');
                    latest = line;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            step.update(&latest);
        }
        let status = self.child.wait().map_err(|source| Error::new("wait for a program").got(source.to_string()))?;
        step.clear();
        Ok(Outcome { status, output })
    }
}

/// Runs `command` to its end, showing its latest line as the step's progress.
///
/// # Errors
/// Only when the program cannot be started: how it ended is in the outcome.
pub(crate) fn watch(step: &mut Step, command: &mut Command) -> Result<Outcome> {
    start(command)?.wait(step)
}

/// Runs `command` to its end with its output going where ours goes.
///
/// # Errors
/// When it cannot be started, and when it does not end with success.
pub(crate) fn run(tried: &str, command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|source| cannot_start(command, &source))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(tried).got(format!("{} ended with {status}; its own messages are above", name(command))))
}

/// The cargo that runs this program, in the clone's root.
pub(crate) fn cargo(workspace: &Workspace) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget_cargo_run(&mut cargo);
    cargo.current_dir(&workspace.root);
    cargo
}

/// Removes the variables that `cargo run` sets. Some build scripts run again when these change, and everything that depends on
/// them is compiled again, which takes minutes. Without them, a user's own cargo, a kernel that Jupyter starts, and tests that run
/// cargo find what `cargo xtask` has compiled.
pub(crate) fn forget_cargo_run(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_set_by_cargo_run)) {
        command.env_remove(name);
    }
}

fn is_set_by_cargo_run(name: &str) -> bool {
    const PREFIXES: [&str; 5] = ["CARGO_BIN_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_PRIMARY_"];
    name == "CARGO" || name == "OUT_DIR" || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Prints a command line of cargo and runs it as [`run`] does.
///
/// # Errors
/// When it cannot be started, and when it does not end with success.
pub(crate) fn run_shown(tried: &str, cargo: &mut Command) -> Result<()> {
    let words: Vec<_> = cargo.get_args().map(OsStr::to_string_lossy).collect();
    let step = Step::start(&format!("cargo {}", words.join(" ")));
    run(tried, cargo)?;
    step.done();
    Ok(())
}

/// Runs `command` to its end and gives its standard output, trimmed; `None` when it is not there or fails.
pub(crate) fn ask(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn relay(stream: Option<impl Read + Send + 'static>, sender: mpsc::Sender<String>) {
    let Some(stream) = stream else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(|line| line.ok()) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
}

fn cannot_start(command: &Command, source: &std::io::Error) -> Error {
    Error::new(format!("start {}", name(command))).got(source.to_string())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_both_streams_is_kept_and_the_status_told() {
        let mut step = Step::start("testing");
        let outcome = watch(&mut step, Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"])).unwrap();
        assert_eq!(outcome.status.code(), Some(3));
        assert!(outcome.last_lines().contains("one") && outcome.last_lines().contains("two"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run("try it", &mut Command::new("no-such-program-here")).unwrap_err();
        assert!(error.to_string().contains("start no-such-program-here"), "{error}");
        assert_eq!(ask(&mut Command::new("no-such-program-here")), None);
    }

    #[test]
    fn what_a_person_sets_for_cargo_is_kept() {
        assert!(!["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_BUILD_JOBS"].into_iter().any(is_set_by_cargo_run));
        assert!(["CARGO", "CARGO_MANIFEST_DIR", "CARGO_PKG_NAME"].into_iter().all(is_set_by_cargo_run));
    }
}
