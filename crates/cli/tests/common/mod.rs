//! Runs the command, and makes folders for it.
#![allow(dead_code, reason = "each test uses some of it")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use earlystop::checkpoint::{Metadata, NamedTensor, Saver, Store};

/// What the command printed, and how it ended.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Expects an exit status.
    #[track_caller]
    pub(crate) fn ends_with(self, status: i32) -> Self {
        assert_eq!(self.status, status, "standard output:\n{}\nstandard error:\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}:\n{}", self.out))
    }
}

pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_earlystop"));
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the command.
pub(crate) fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Ran {
    let output = command().args(args).output().unwrap();
    let status = output.status.code().expect("no signal ended it");
    let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
    let ran = Ran { status, out: text(output.stdout), err: text(output.stderr) };
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    ran
}

/// Runs a command line whose words have no spaces; `{}` stands for the path.
pub(crate) fn run_in(path: &Path, line: &str) -> Ran {
    run(line.split(' ').map(|word| word.replace("{}", path.to_str().unwrap())))
}

/// The files that earlier versions of the library wrote.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../earlystop/tests/golden").join(name)
}

/// A folder with the checkpoints of steps and scores.
pub(crate) fn folder(saves: &[(u64, Option<f64>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    for &(step, score) in saves {
        let weights = [step as f32; 6];
        let state = vec![NamedTensor::new("w", &weights[..]).with_shape([2, 3])];
        store.save(step, score, &[&state], &Metadata::new()).unwrap();
    }
    dir
}

/// Saves tensors to a file.
pub(crate) fn save(path: &Path, tensors: Vec<NamedTensor<'_>>) {
    Saver::new().save(path, &[&tensors], &Metadata::new()).unwrap();
}

/// Changes the last byte of a file.
pub(crate) fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Writes a safetensors file as another program would.
pub(crate) fn write_foreign(path: &Path, header: &serde_json::Value, data: &[u8]) {
    let header = header.to_string();
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
    std::fs::write(path, bytes).unwrap();
}
