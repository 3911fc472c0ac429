//! Saving and restoring large states, next to Python's safetensors.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use earlystop::checkpoint::{Metadata, NamedTensor, Saver};
use earlystop::tch::{Device, Kind, Tensor};
use serde::Serialize;

use crate::Result;
use crate::machine;
use crate::markdown::{Section, digits, spread_of_ratios, table};
use crate::statistics::{median, ratios};

/// The size of each state in bytes, and the number of rounds.
const SIZES: [(u64, usize); 3] = [(100_000_000, 15), (1_000_000_000, 9), (6_000_000_000, 5)];
const TENSORS: i64 = 64;

/// The results for a state of one size.
#[derive(Debug, Serialize)]
pub(crate) struct State {
    pub(crate) bytes: u64,
    pub(crate) save: Times,
    pub(crate) restore: Times,
}

/// The seconds of each round, and the memory.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Times {
    pub(crate) ours: Vec<f64>,
    /// The times of Python's safetensors; empty without Python.
    pub(crate) theirs: Vec<f64>,
    /// The peak memory of this process in bytes, without the state.
    pub(crate) extra_memory: u64,
}

/// A Python process that saves and loads a state of the same size.
struct Python {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    fn start(python: &Path, bytes: u64) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/with_safetensors.py");
        let mut command = Command::new(python);
        command.arg(script).args([TENSORS.to_string(), values(bytes).to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both are piped");
        };
        Ok(Self { child, requests, answers: BufReader::new(answers) })
    }

    /// Runs `save` or `load` and returns its seconds.
    fn time(&mut self, action: &str, path: &Path) -> Result<f64> {
        writeln!(self.requests, "{action} {}", path.display())?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        line.trim().parse().map_err(|_| format!("safetensors: answered {line:?}; its own messages are above").into())
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the number of values of each tensor.
fn values(bytes: u64) -> i64 {
    bytes as i64 / 4 / TENSORS
}

/// Measures all sizes.
pub(crate) fn run(out: &Path, python: Option<&Path>, quick: bool) -> Result<Vec<State>> {
    let sizes = if quick { vec![(1_000_000, 2)] } else { SIZES.to_vec() };
    let folder = out.join("states");
    std::fs::create_dir_all(&folder)?;
    let states = sizes.into_iter().map(|(bytes, rounds)| {
        eprintln!("States: {} MB", bytes / 1_000_000);
        let python = python.map(|python| Python::start(python, bytes)).transpose()?;
        measure(&folder, bytes, rounds, python)
    });
    let states = states.collect::<Result<_>>()?;
    std::fs::remove_dir_all(&folder)?;
    Ok(states)
}

fn measure(folder: &Path, bytes: u64, rounds: usize, mut python: Option<Python>) -> Result<State> {
    let tensor =
        |index: i64| NamedTensor::new(format!("t{index}"), Tensor::rand([values(bytes)], (Kind::Float, Device::Cpu)));
    let state: Vec<NamedTensor<'static>> = (0..TENSORS).map(tensor).collect();
    let (mut save, mut restore) = (Times::default(), Times::default());
    let [ours, theirs] = ["ours", "theirs"].map(|name| folder.join(format!("{name}.safetensors")));
    // Each save creates a new file, as a store does, after the disk has finished deleting the last one.
    let fresh = |path: &PathBuf| {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder)?;
        Command::new("sync").status().map(|_| path.clone())
    };
    for _ in 0..rounds {
        let path = fresh(&ours)?;
        save.measure(|| Saver::new().save(path, &[&state], &Metadata::new()).map(drop))?;
        if let Some(python) = &mut python {
            save.theirs.push(python.time("save", &fresh(&theirs)?)?);
        }
    }
    Saver::new().save(&ours, &[&state], &Metadata::new())?;
    for _ in 0..rounds {
        restore.measure(|| Saver::new().restore(&ours, &[&state]).map(drop))?;
        if let Some(python) = &mut python {
            restore.theirs.push(python.time("load", &theirs)?);
        }
    }
    Ok(State { bytes, save, restore })
}

impl Times {
    /// Measures one action of this library.
    fn measure(&mut self, action: impl FnOnce() -> earlystop::Result<()>) -> Result<()> {
        let memory = |field| machine::memory(std::process::id(), field).unwrap_or(0);
        let _ = std::fs::write("/proc/self/clear_refs", "5"); // resets the peak
        let before = memory("VmRSS");
        let start = Instant::now();
        action()?;
        self.ours.push(start.elapsed().as_secs_f64());
        self.extra_memory = self.extra_memory.max(memory("VmHWM").saturating_sub(before));
        Ok(())
    }
}

/// Writes the section about all sizes.
pub(crate) fn section(states: &[State]) -> Section {
    let about = "Seconds to save and to restore 64 tensors of 32-bit floats, by turns with Python's safetensors: `Saver::save` computes \
                 checksums, and both wait for the disk (`save_file` and `os.fsync`); `Saver::restore` verifies the whole file before it \
                 changes a tensor, `load_file` verifies nothing. *Of Python* is the ratio in the same round, with the least and the \
                 most of all rounds. *Extra memory* is what this process held beyond the state.";
    let row = |name: &str, state: &State, times: &Times| {
        let (theirs, ratio) = match &times.theirs[..] {
            [] => ["–", "–"].map(str::to_owned).into(),
            theirs => (digits(median(theirs)), spread_of_ratios(&ratios(&times.ours, theirs))),
        };
        vec![
            format!("{name}, {} MB", state.bytes / 1_000_000),
            digits(median(&times.ours)),
            theirs,
            ratio,
            format!("{} MB", times.extra_memory / 1_000_000),
        ]
    };
    let saves = states.iter().map(|state| row("save", state, &state.save));
    let restores = states.iter().map(|state| row("restore", state, &state.restore));
    let head = ["", "earlystop, s", "Python, s", "of Python", "extra memory"];
    Section { title: "Large states", about: about.to_owned(), table: table(&head, saves.chain(restores)) }
}
