//! What a newcomer is told when something is missing: real runs of `cargo xtask setup` on a machine that has only
//! what a test puts there.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A clone that is all new, and a PATH with few programs.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// A machine with a C++ compiler and Rust, but no Python.
    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        for folder in ["bin", "clone/crates/xtask", "clone/crates/kernel/src"] {
            std::fs::create_dir_all(machine.folder.path().join(folder)).unwrap();
        }
        let environment_yml = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../environment.yml");
        std::fs::copy(environment_yml, machine.clone().join("environment.yml")).unwrap();
        for name in ["Cargo.toml", "Cargo.lock", "src/main.rs"] {
            std::fs::write(machine.clone().join("crates/kernel").join(name), "").unwrap();
        }
        for program in ["sh", "cat", "cp", "mkdir", "df", "c++", "cc", "rustc", "rustup"] {
            machine.link(program);
        }
        // Compiling the kernel is not what is tested here.
        machine.script("cargo", "exit 0");
        machine
    }

    fn clone(&self) -> PathBuf {
        self.folder.path().join("clone")
    }

    fn program(&self, name: &str) -> PathBuf {
        self.folder.path().join("bin").join(name)
    }

    /// Has the program that this machine has.
    fn link(&self, name: &str) {
        let path = std::env::var_os("PATH").unwrap();
        if let Some(program) = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists()) {
            symlink(program, self.program(name)).unwrap();
        }
    }

    /// Has a program that does what `script` says.
    fn script(&self, name: &str, script: &str) {
        std::fs::write(self.program(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(self.program(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Has a Python 3.11 that can make environments, and whose pip does what `pip` says.
    fn python(&self, pip: &str) {
        let script = format!(
            "case \"$1 $2\" in\n\
             '-m venv') mkdir -p \"$4/bin\"; cp \"$0\" \"$4/bin/python\";;\n\
             '-m pip') {pip};;\n\
             *) echo 3.11;;\nesac"
        );
        self.script("python3", &script);
    }

    /// Runs `cargo xtask setup`, which must fail; gives what it says.
    fn setup(&self, variables: &[(&str, &Path)]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .arg("setup")
            .env("PATH", self.folder.path().join("bin"))
            .env("CARGO", self.program("cargo"))
            .env("CARGO_MANIFEST_DIR", self.clone().join("crates/xtask"))
            .env_remove("LIBTORCH")
            .env_remove("CXX")
            .env_remove("RUSTC")
            .env_remove("VIRTUAL_ENV")
            .env_remove("CONDA_PREFIX")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("error: could not") && said.contains("what to do:"), "{said}");
        said
    }
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
}

#[test]
fn no_compiler() {
    let machine = Machine::new();
    std::fs::remove_file(machine.program("c++")).unwrap();
    assert_says(&machine.setup(&[]), &["run the C++ compiler `c++ --version`", "No such file", "apt install g++"]);
}

#[test]
fn an_old_rust() {
    let machine = Machine::new();
    std::fs::remove_file(machine.program("rustc")).unwrap();
    machine.script("rustc", "echo 'rustc 1.94.1 (0123456 2026-03-01)'");
    assert_says(&machine.setup(&[]), &["Rust 1.95 or later is needed", "rustc 1.94.1", "rustup update stable"]);
}

#[test]
fn no_python() {
    let said = Machine::new().setup(&[]);
    assert_says(&said, &["find a Python 3.10 or newer", "neither python3 nor python runs", "apt install python3"]);
}

#[test]
fn an_old_python() {
    let machine = Machine::new();
    machine.script("python3", "echo 3.8");
    assert_says(&machine.setup(&[]), &["find a Python 3.10 or newer", "python3 is Python 3.8"]);
}

#[test]
fn no_venv_module() {
    let machine = Machine::new();
    let script = "[ \"$1\" = -c ] && { echo 3.11; exit; }\necho '/usr/bin/python3: No module named venv' >&2; exit 1";
    machine.script("python3", script);
    let said = machine.setup(&[]);
    assert_says(&said, &["python3 -m venv", "No module named venv", "apt install python3-venv"]);
    assert!(!machine.clone().join(".venv").exists());
}

#[test]
fn no_network_for_pip() {
    let machine = Machine::new();
    machine.python("echo 'Failed to establish a new connection: [Errno 101] Network is unreachable' >&2; exit 1");
    let said = machine.setup(&[]);
    assert_says(&said, &["install the Python packages", "Network is unreachable", "HTTPS_PROXY"]);
}

#[test]
fn a_full_disk_under_pip() {
    let machine = Machine::new();
    machine.python("echo 'ERROR: [Errno 28] No space left on device' >&2; exit 1");
    assert_says(&machine.setup(&[]), &["No space left on device", "The disk is full"]);
}

#[test]
fn a_libtorch_of_another_version() {
    let machine = Machine::new();
    machine.python("exit 0");
    std::fs::write(machine.folder.path().join("build-version"), "2.12.1+cpu").unwrap();
    let said = machine.setup(&[("LIBTORCH", machine.folder.path())]);
    assert_says(&said, &["LIBTORCH=", "it is version 2.12.1", "libtorch 2.13.0", "unset it"]);
}

#[test]
fn no_network_for_cargo() {
    let machine = Machine::new();
    machine.python("exit 0");
    machine.script("cargo", "echo 'warning: spurious network error: Could not resolve host' >&2; exit 101");
    let libtorch = machine.folder.path().join("libtorch");
    std::fs::create_dir(&libtorch).unwrap();
    std::fs::write(libtorch.join("build-version"), "2.13.0").unwrap();
    let said = machine.setup(&[("LIBTORCH", &libtorch)]);
    assert_says(
        &said,
        &["cargo install --path crates/kernel", "Could not resolve host", "network could not be reached"],
    );
}
