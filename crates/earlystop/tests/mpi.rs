//! Several processes, started by `mpirun`, end with the bits of one; so they do after signals, kills and with another number of processes.
#![cfg(unix)]

#[allow(dead_code)] // it also compares trainers
mod common;
#[path = "common/long.rs"]
mod long;
#[path = "common/threads.rs"]
mod threads;
#[path = "common/tutorial.rs"]
mod tutorial;

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use earlystop::checkpoint::{Savable, Store};
use earlystop::early_stopping::Rule;
use earlystop::tch::Device;
use earlystop::trainer::{Event, TrainerBuilder};
use earlystop::{Mnist, Optimizer, Processes, Trainer, stop};
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use common::builder;
use long::is_long;
use threads::with_threads;

/// Tells the child where to save, and to which iteration to train.
const FOLDER: &str = "EARLYSTOP_MPI_FOLDER";
const END: &str = "EARLYSTOP_MPI_END";
/// Tells the child to train the tutorial's network on MNIST.
const TUTORIAL: &str = "EARLYSTOP_MPI_TUTORIAL";
/// What goes wrong in one of the processes: its number, and a word.
const FAULT: &str = "EARLYSTOP_MPI_FAULT";
/// No run may last longer, whatever happens to one of its processes.
const LIMIT: Duration = Duration::from_secs(30);
/// More iterations than any child makes.
const FAR: u64 = 10_000_000;

/// A run in four parts, with dropout and epochs that end within a batch.
fn four_parts() -> TrainerBuilder {
    builder().accumulate(4).stop_when(Rule::never())
}

/// The tutorial's network, with few images to validate.
fn tutorial() -> TrainerBuilder {
    let data = Mnist::load(concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/MNIST"), |_| ()).unwrap();
    let network = tutorial::tutorial().build(Device::Cpu).unwrap();
    let optimizer = Optimizer::adam(&network, 1e-4).unwrap();
    Trainer::builder(network, optimizer, &data.train, &data.validation.slice(..300).unwrap()).accumulate(4)
}

/// The SHA-256 of the complete state: variables and moments, with their names.
fn fingerprint(trainer: &Trainer, folder: &Path) -> String {
    let mut hash = Sha256::new();
    let latest = Store::open(folder).unwrap().latest_valid().unwrap().saved.unwrap();
    assert_eq!(latest.step, trainer.iteration());
    let checkpoint = earlystop::checkpoint::Checkpoint::read(&latest.path).unwrap();
    for info in checkpoint.infos() {
        hash.update(&info.name);
        hash.update(checkpoint.bytes(&info.name).unwrap());
    }
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    for named in trainer.network().tensors() {
        assert_eq!(checkpoint.bytes(&named.name).unwrap(), bytes(&named.tensor().unwrap()), "{}", named.name);
    }
    hash
}

fn bytes(tensor: &tch::Tensor) -> Vec<u8> {
    let tensor = tensor.contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

/// The process of each test below.
#[test]
fn child() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let end = env::var(END).unwrap().parse().unwrap();
    stop::on_signals().unwrap();
    let processes = Processes::from_mpi().unwrap();
    let rank = processes.rank();
    println!("\nrank {rank} pid {}.", std::process::id());
    let fault = env::var(FAULT).ok().and_then(|fault| {
        let (process, word) = fault.split_once(' ')?;
        (process == rank.to_string()).then(|| word.to_owned())
    });
    let run = if env::var_os(TUTORIAL).is_some() { tutorial() } else { four_parts() };
    let mut builder = run.checkpoints(&folder).processes(processes.clone());
    match fault.as_deref() {
        Some("seed") => builder = builder.seed(77),
        Some("leaves") => panic!("this program has a fault"),
        Some("disk") => builder = builder.stop_on_failed_save(),
        _ => {}
    }
    let mut trainer = builder.build().unwrap();
    let resumed = trainer.resume(|event| println!("\n{event}"));
    let trained = resumed.and_then(|_| {
        trainer.optimize_to(end, |event| {
            println!("\n{event}");
            if fault.as_deref() == Some("disk") && matches!(event, Event::Evaluated { .. }) {
                limit_files();
            }
        })
    });
    match trained {
        Ok(report) => {
            println!("\nrank {rank} ends at {} with {}.", report.iterations, fingerprint(&trainer, folder.as_ref()))
        }
        Err(error) => {
            println!("\nrank {rank} error: {error}");
            panic!("rank {rank}: {error}");
        }
    }
    println!("\nrank {rank} sent {}.", processes.traffic());
}

/// Makes each write of a file fail, as a full disk does.
fn limit_files() {
    // SAFETY: the calls take a number and a valid struct; this process runs only this test.
    unsafe {
        let limit = libc::rlimit { rlim_cur: 4096, rlim_max: libc::RLIM_INFINITY };
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
    }
}

/// The command that starts so many children.
fn mpirun(count: usize, folder: &Path, end: u64) -> Command {
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["--oversubscribe", "-n", &count.to_string()]).arg(env::current_exe().unwrap()).args(CHILD);
    with_settings(&mut mpirun, folder, end);
    mpirun
}

const CHILD: [&str; 4] = ["--exact", "child", "--nocapture", "--test-threads=1"];

fn with_settings(command: &mut Command, folder: &Path, end: u64) {
    command
        .env(FOLDER, folder)
        .env(END, end.to_string())
        .env_remove(FAULT)
        .env_remove(TUTORIAL)
        .env("OMP_NUM_THREADS", "1")
        .env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
}

/// The output of a run that ends within the limit, and whether it ended with success.
fn finish(command: &mut Command) -> (bool, String) {
    let begin = Instant::now();
    let Output { status, stdout, stderr } = command.output().expect("mpirun is installed");
    assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
    (status.success(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

/// What follows a text in the output, up to a full stop, for each process: `rank 2 ends at 30 with …`.
fn of_ranks(output: &str, text: &str) -> BTreeMap<usize, String> {
    let line = |line: &str| {
        let (rank, rest) = line.split_once("rank ")?.1.split_once(' ')?;
        let found = rest.strip_prefix(text)?.split('.').next()?;
        Some((rank.parse().ok()?, found.trim().to_owned()))
    };
    output.lines().filter_map(line).collect()
}

/// The fingerprint of a run that a single process makes without MPI.
fn straight(end: u64) -> String {
    fingerprint_of(four_parts(), end)
}

fn fingerprint_of(builder: TrainerBuilder, end: u64) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = builder.checkpoints(folder.path()).build().unwrap();
    trainer.optimize_to(end, |_| ()).unwrap();
    fingerprint(&trainer, folder.path())
}

/// The run in a folder continued to an end by so many processes, all of which end alike.
#[track_caller]
fn continued(count: usize, folder: &Path, end: u64) -> String {
    let (is_success, output) = finish(&mut mpirun(count, folder, end));
    let ends = of_ranks(&output, &format!("ends at {end} with"));
    assert!(is_success && ends.len() == count && ends.values().all(|end| *end == ends[&0]), "{output}");
    ends[&0].clone()
}

#[test]
fn the_final_state_is_the_same_for_1_2_and_4_processes_and_without_mpi() {
    let expected = straight(40);
    assert_eq!(expected.len(), 64);
    for count in [1, 2, 4] {
        let folder = tempfile::tempdir().unwrap();
        let (is_success, output) = finish(&mut mpirun(count, folder.path(), 40));
        assert!(is_success, "{output}");
        let ends = of_ranks(&output, "ends at 40 with");
        assert!(ends.len() == count && ends.values().all(|end| *end == expected), "{expected}\n{output}");
        assert_eq!(output.matches("Iter:     40").count(), 1, "events are reported once: {output}");
        // The gradient has less than 2,000 numbers.
        let sent = of_ranks(&output, "sent").values().map(|sent| sent.parse::<usize>().unwrap()).max().unwrap();
        assert!((count > 1) == (sent > 0) && sent < 40 * 2 * 8000 + 40_000 * count, "{output}");
    }
    assert_ne!(expected, straight(41));
}

#[test]
fn the_tutorial_has_one_fingerprint_for_all_numbers_of_threads_and_processes() {
    let expected = fingerprint_of(tutorial(), 4);
    for count in [1, 2, 3, 4, 8] {
        assert_eq!(with_threads(count, || fingerprint_of(tutorial(), 4)), expected, "{count} threads");
    }
    for count in [1, 2, 4] {
        let folder = tempfile::tempdir().unwrap();
        let (is_success, output) = finish(mpirun(count, folder.path(), 4).env(TUTORIAL, "1"));
        let ends = of_ranks(&output, "ends at 4 with");
        assert!(is_success && ends.len() == count, "{output}");
        assert!(ends.values().all(|end| *end == expected), "{expected}\n{output}");
    }
    // Not captured by the test harness, so that a log shows it.
    let shown = format!("SHA-256 of the tutorial's state after 4 iterations in 4 parts: {expected}\n");
    std::io::stderr().write_all(shown.as_bytes()).unwrap();
}

#[test]
fn a_program_that_is_started_without_mpirun_is_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut alone = Command::new(env::current_exe().unwrap());
    alone.args(CHILD);
    with_settings(&mut alone, folder.path(), 20);
    let (is_success, output) = finish(&mut alone);
    assert!(is_success && of_ranks(&output, "ends at 20 with") == BTreeMap::from([(0, straight(20))]), "{output}");
}

/// A run under way.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    /// The process ids by the numbers of the processes.
    pids: BTreeMap<usize, i32>,
    output: String,
}

impl Running {
    fn start(count: usize, folder: &Path) -> Self {
        let mut child = mpirun(count, folder, FAR).spawn().expect("mpirun is installed");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut running = Self { child, lines, pids: BTreeMap::new(), output: String::new() };
        while running.pids.len() < count {
            running.read_line();
        }
        running
    }

    fn read_line(&mut self) {
        let line = self.lines.next().unwrap_or_else(|| panic!("the run has ended: {}", self.output)).unwrap();
        self.pids.extend(of_ranks(&line, "pid").into_iter().map(|(rank, pid)| (rank, pid.parse::<i32>().unwrap())));
        self.output += &line;
        self.output.push('\n');
    }

    fn wait_for(&mut self, text: &str) {
        let seen = self.output.len();
        while !self.output[seen..].contains(text) {
            self.read_line();
        }
    }

    fn send(&self, rank: usize, signal: i32) {
        // SAFETY: `kill` takes any numbers; the process is a child of mpirun, which has not ended.
        assert_eq!(unsafe { libc::kill(self.pids[&rank], signal) }, 0);
    }

    /// Waits for the end; returns whether it was a success, and the output.
    fn end(mut self) -> (bool, String) {
        let begin = Instant::now();
        for line in self.lines.by_ref() {
            self.output += &line.unwrap();
            self.output.push('\n');
        }
        let Output { status, stderr, .. } = self.child.wait_with_output().unwrap();
        assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
        (status.success(), self.output + &String::from_utf8_lossy(&stderr))
    }
}

/// The iteration of the latest checkpoint; none may be damaged.
fn latest(folder: &Path) -> Option<u64> {
    let found = Store::open(folder).unwrap().latest_valid().unwrap();
    assert!(found.skipped.is_empty(), "{:?}", found.skipped);
    found.saved.map(|saved| saved.step)
}

#[test]
fn a_signal_to_any_process_stops_all_and_any_number_continues() {
    let folder = tempfile::tempdir().unwrap();
    let mut reached = 0;
    for (count, rank, signal, name) in
        [(4, 3, libc::SIGTERM, "SIGTERM"), (2, 0, libc::SIGINT, "SIGINT"), (2, 1, libc::SIGTERM, "SIGTERM")]
    {
        let mut running = Running::start(count, folder.path());
        running.wait_for("Iter: ");
        running.send(rank, signal);
        let (is_success, output) = running.end();
        assert!(is_success, "{output}");
        assert!(output.contains(&format!("Stopped by signal: {name}.")), "{output}");
        let now = latest(folder.path()).unwrap();
        assert!(now > reached);
        assert_eq!(of_ranks(&output, &format!("ends at {now} with")).len(), count, "{output}");
        reached = now;
    }
    let end = reached + 15;
    assert_eq!(continued(4, folder.path(), end), straight(end));
}

#[test]
fn kills_of_any_process_end_all_and_lose_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = rand::rngs::StdRng::from_entropy();
    let kills = match env::var("EARLYSTOP_MPI_KILLS") {
        Ok(kills) => kills.parse().unwrap(),
        Err(_) if is_long() => 20,
        Err(_) => 4,
    };
    let (mut before, mut slowest) = (None, Duration::ZERO);
    for kill in 0..kills {
        let count = [4, 2, 1][kill % 3];
        let mut running = Running::start(count, folder.path());
        if random.gen_bool(0.8) {
            running.wait_for("Iter: ");
        }
        std::thread::sleep(Duration::from_micros(random.gen_range(0..100_000)));
        let rank = random.gen_range(0..count);
        let begin = Instant::now();
        running.send(rank, libc::SIGKILL);
        let (is_success, output) = running.end();
        slowest = slowest.max(begin.elapsed());
        // mpirun's message names the process and the signal.
        assert!(!is_success && output.contains("signal 9"), "{output}");
        let now = latest(folder.path());
        assert!(now >= before, "the latest checkpoint was of iteration {before:?}, and now of {now:?}");
        before = now;
    }
    let end = before.expect("the children save") + 15;
    assert_eq!(continued(2, folder.path(), end), straight(end));
    eprintln!("{kills} kills on the way to iteration {end}; the slowest end took {slowest:?}");
}

fn with_fault(count: usize, folder: &Path, end: u64, fault: &str) -> (bool, String) {
    finish(mpirun(count, folder, end).env(FAULT, fault))
}

#[test]
fn a_full_disk_of_the_writer_ends_all_with_its_error() {
    let folder = tempfile::tempdir().unwrap();
    let (is_success, output) = with_fault(4, folder.path(), FAR, "0 disk");
    assert!(!is_success && output.contains("rank 0 error: "), "{output}");
    for rank in 1..4 {
        let named = format!("rank {rank} error: process 0 failed: ");
        assert!(output.lines().any(|line| line.contains(&named) && line.contains("File too large")), "{output}");
    }
    let reached = latest(folder.path()).unwrap();
    assert_eq!(continued(2, folder.path(), reached + 15), straight(reached + 15));
}

#[test]
fn a_process_that_fails_or_differs_is_named_by_all() {
    let folder = tempfile::tempdir().unwrap();
    let (is_success, output) = with_fault(2, folder.path(), FAR, "1 leaves");
    assert!(!is_success && output.contains("rank 0 error: process 1 failed: its program has ended"), "{output}");
    let (is_success, output) = with_fault(4, folder.path(), FAR, "3 seed");
    assert!(!is_success, "{output}");
    assert_eq!(
        output.matches("error: the processes differ:\n  seed: 9 in process 0, 77 in process 3").count(),
        4,
        "{output}"
    );
    // Another program: the same one, with one more byte at its end.
    let other = folder.path().join("other");
    let mut program = std::fs::read(env::current_exe().unwrap()).unwrap();
    program.push(0);
    std::fs::write(&other, program).unwrap();
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut both = Command::new("mpirun");
    both.args(["--oversubscribe", "-n", "1"]).arg(env::current_exe().unwrap()).args(CHILD);
    both.args([":", "-n", "1"].map(OsStr::new)).arg(&other).args(CHILD);
    with_settings(&mut both, folder.path(), FAR);
    let (is_success, output) = finish(&mut both);
    assert!(!is_success && output.matches("the processes differ:\n  program: ").count() >= 2, "{output}");
    assert_eq!(latest(folder.path()), None);
}

#[test]
fn numbers_of_processes_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (is_success, output) = finish(&mut mpirun(3, folder.path(), 10));
    let expected = "a power of two that divides the number of parts of a batch, 4, which accumulate() sets";
    assert!(!is_success && output.contains(expected), "{output}");
}
