//! Measures large checkpoints next to Python's `safetensors`, and a store of a thousand files:
//! `cargo run --release --example checkpoint_scale [FOLDER] [GIGABYTES] [RUNS] [PYTHON]`.
//!
//! Both sides save the same number of `f32` values in 64 tensors and wait for the disk. They take turns, so that a busy
//! machine slows down both. Python must have numpy and safetensors.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use earlystop::checkpoint::{Keep, Metadata, NamedTensor, Saver, Store};
use tch::{Device, Kind, Tensor};

const TENSORS: i64 = 64;

/// Does what its standard input says, and prints the seconds.
const SCRIPT: &str = r#"
import os, sys, time
import numpy as np
from safetensors.numpy import load_file, save_file
count, tensors = int(sys.argv[1]), None
for line in sys.stdin:
    action, path = line.rstrip("\n").split(" ", 1)
    if action == "save":
        if tensors is None:
            tensors = {f"t{i}": np.random.default_rng(i).random(count, np.float32) for i in range(64)}
        start = time.perf_counter()
        save_file(tensors, path)
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        seconds = time.perf_counter() - start
    else:
        tensors = None
        start = time.perf_counter()
        loaded = load_file(path)
        seconds = time.perf_counter() - start
        del loaded
    print(seconds, flush=True)
"#;

struct Python {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Python {
    fn start(python: &str, count: i64) -> std::io::Result<Self> {
        let mut command = Command::new(python);
        let mut child =
            command.args(["-c", SCRIPT, &count.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?);
        Ok(Python { child, output })
    }

    /// Returns the seconds that an action took.
    fn time(&mut self, action: &str, path: &Path) -> std::io::Result<f64> {
        let input = self.child.stdin.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
        writeln!(input, "{action} {}", path.display())?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().map_err(std::io::Error::other)
    }
}

fn seconds(action: impl FnOnce() -> earlystop::Result<()>) -> earlystop::Result<f64> {
    let start = Instant::now();
    action()?;
    Ok(start.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The process's memory in MB: now, or at its peak since [`reset_peak`]. 0 where the system does not tell.
fn memory(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse::<f64>().ok());
    line.unwrap_or(0.0) / 1e3
}

fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| "checkpoints/scale".to_owned()));
    let gigabytes: f64 = arguments.next().map_or(Ok(1.0), |text| text.parse())?;
    let runs: usize = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let python = arguments.next().unwrap_or_else(|| ".venv/bin/python".to_owned());
    std::fs::create_dir_all(&folder)?;
    let count = (gigabytes * 1e9 / 4.0 / TENSORS as f64) as i64;
    let tensor = |index| NamedTensor::new(format!("t{index}"), Tensor::rand([count], (Kind::Float, Device::Cpu)));
    let state: Vec<NamedTensor<'static>> = (0..TENSORS).map(tensor).collect();
    let (ours, theirs) = (folder.join("ours.safetensors"), folder.join("theirs.safetensors"));
    let mut python = Python::start(&python, count)?;

    let mut report = |action: &str,
                      act: &dyn Fn() -> earlystop::Result<()>|
     -> Result<(), Box<dyn std::error::Error>> {
        let (mut times, mut their_times, mut ratios, mut extra) = (Vec::new(), Vec::new(), Vec::new(), 0f64);
        for _ in 0..runs {
            let fresh = |path: &Path| {
                // Each saves into a new file, as a store does, on a disk that is done with freeing the old one.
                if action == "save" {
                    let _ = std::fs::remove_file(path);
                    let _ = Command::new("sync").status();
                }
            };
            fresh(&ours);
            reset_peak();
            let before = memory("VmRSS:");
            let time = seconds(act)?;
            extra = extra.max(memory("VmHWM:") - before);
            fresh(&theirs);
            let theirs = python.time(action, &theirs)?;
            times.push(time);
            their_times.push(theirs);
            ratios.push(time / theirs);
        }
        println!(
            "{action} {gigabytes} GB: ours {:.2} s, Python {:.2} s, ratio {:.2} (medians of {runs}), {extra:.0} MB extra",
            median(times),
            median(their_times),
            median(ratios)
        );
        Ok(())
    };
    report("save", &|| Saver::new().save(&ours, &[&state], &Metadata::new()).map(|_| ()))?;
    report("load", &|| Saver::new().restore(&ours, &[&state]).map(|_| ()))?;
    python.child.kill()?;
    python.child.wait()?;
    std::fs::remove_file(&ours)?;
    std::fs::remove_file(&theirs)?;

    let many = folder.join("many");
    let small: Vec<NamedTensor<'static>> =
        (0..24).map(|index| NamedTensor::new(format!("t{index}"), Tensor::from(index))).collect();
    let history = Metadata::from([("history".to_owned(), "0.852,".repeat(1000))]);
    std::fs::create_dir_all(&many)?;
    for step in 1..=1000 {
        Saver::new().save(many.join(format!("step-{step:06}.safetensors")), &[&small], &history)?;
    }
    let mut times = Vec::new();
    for _ in 0..runs {
        times.push(seconds(|| Store::open(&many)?.keep(Keep::all()).lock())?);
    }
    println!("open and lock a store of 1,000 checkpoints: {:.1} ms (median of {runs})", 1e3 * median(times));
    std::fs::remove_dir_all(&many)?;
    Ok(())
}
