//! A contestant's process, and what it answers.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Result;
use crate::contestant::Contestant;
use crate::job::{Files, Settings, Size};
use crate::machine;

/// A worker at work; ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Player {
    title: &'static str,
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What it said of itself.
    pub(crate) introduction: Introduction,
}

/// How long OpenMP's threads spin while they wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Spin {
    Briefly,
    /// The default, without an environment variable.
    AsInstalled,
}

/// What a worker says first.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Introduction {
    /// Threads that compute.
    pub(crate) threads: usize,
    /// Images that are classified at once in a validation.
    pub(crate) validation_batch: usize,
    /// Of the libraries that it uses.
    pub(crate) versions: BTreeMap<String, String>,
}

/// The answer to `train` and `save`.
#[derive(Debug, Deserialize)]
struct Took {
    seconds: f64,
}

/// The answer to `validate`.
#[derive(Debug, Deserialize)]
pub(crate) struct Validated {
    pub(crate) seconds: f64,
    /// 0.0 to 1.0.
    pub(crate) accuracy: f64,
}

/// The answer to `multiply`.
#[derive(Debug, Deserialize)]
struct Multiplied {
    flops_per_second: f64,
}

impl Player {
    /// Starts a contestant's process and waits until it has loaded its data and built its network.
    ///
    /// The process keeps the memory that it frees, and `spin` sets how long its OpenMP threads spin.
    pub(crate) fn start(contestant: &Contestant, files: &Files, size: &Size, spin: Spin) -> Result<Self> {
        let mut command = contestant.command();
        command.envs([("MALLOC_MMAP_THRESHOLD_", "33554432"), ("MALLOC_TRIM_THRESHOLD_", "1073741824")]);
        match spin {
            Spin::Briefly => command.env("GOMP_SPINCOUNT", "1000"),
            Spin::AsInstalled => command.env_remove("GOMP_SPINCOUNT"),
        };
        Settings::write(&mut command, files, contestant.id, size)?;
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|source| format!("{}: cannot start {command:?}: {source}", contestant.title))?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both are piped");
        };
        let (answers, introduction) = (BufReader::new(answers), Introduction::default());
        let mut player = Self { title: contestant.title, child, requests, answers, introduction };
        player.introduction = player.hear()?;
        Ok(player)
    }

    /// Gives the seconds that some iterations take.
    pub(crate) fn train(&mut self, iterations: usize) -> Result<f64> {
        self.ask(&format!("train {iterations}")).map(|took: Took| took.seconds)
    }

    /// Gives the seconds that a validation takes, and its outcome.
    pub(crate) fn validate(&mut self) -> Result<Validated> {
        self.ask("validate")
    }

    /// Gives the seconds that saving the state takes.
    pub(crate) fn save(&mut self) -> Result<f64> {
        self.ask("save").map(|took: Took| took.seconds)
    }

    /// Gives how many operations a second the multiplication of two large matrices reaches; workers in Rust know it.
    pub(crate) fn multiply(&mut self) -> Result<f64> {
        self.ask("multiply").map(|multiplied: Multiplied| multiplied.flops_per_second)
    }

    /// Gives the most memory that the process has held, in bytes, where the system tells it.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        machine::memory(self.child.id(), "VmHWM")
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &str) -> Result<T> {
        let sent = writeln!(self.requests, "{request}").and_then(|()| self.requests.flush());
        sent.map_err(|source| format!("{}: cannot be asked to {request}: {source}", self.title))?;
        self.hear()
    }

    fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(format!("{}: the process ended; its own messages are above", self.title).into());
        }
        serde_json::from_str(&line).map_err(|source| format!("{}: answered {line:?}: {source}", self.title).into())
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // A worker that is asked to quit, or that ended by itself, needs no more than to be waited for.
        if writeln!(self.requests, "quit").is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
