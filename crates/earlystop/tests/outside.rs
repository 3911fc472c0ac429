//! The steps of the crate's README in a project of one's own, outside the clone, and the examples there. Long, since it compiles the
//! library with its default features and `logging`.
#![cfg(all(feature = "torch", target_os = "linux"))]

#[path = "common/long.rs"]
mod long;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use long::is_long;

/// Variables that cargo sets for a test, besides `CARGO_*`. With `OUT_DIR`, a dependency's build script would run again, and everything
/// that depends on it would be compiled again.
const SET_FOR_TESTS: [&str; 2] = ["LD_LIBRARY_PATH", "OUT_DIR"];

/// The project `digits`.
struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    fn new() -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let clone = package.join("../..").canonicalize().unwrap();
        // With the feature of the tests, not `--release`, and with the clone's settings: so what was compiled for the tests is used.
        let manifest = format!(
            "[package]\nname = \"digits\"\nedition = \"2024\"\n[dependencies]\n\
             earlystop = {{ path = {:?}, features = [\"logging\"] }}\ntch = \"=0.26.0\"\n",
            package.to_str().unwrap()
        );
        let (_, profiles) =
            include_str!("../../../Cargo.toml").split_once("\n[profile").expect("the clone has profiles");
        project.write("Cargo.toml", &format!("{manifest}[profile{profiles}"));
        let readme = include_str!("../README.md");
        let (_, script) = readme.split_once("   ```rust,no_run\n").expect("step 3 has the script");
        let script = script.split("   ```").next().unwrap_or_default();
        project.write(
            "src/main.rs",
            &script.lines().map(|line| line.get(3..).unwrap_or("")).collect::<Vec<_>>().join("\n"),
        );
        // By other names, since cargo puts the programs beside those of the clone's examples.
        for (name, copy) in [
            ("own_table.rs", "my_table.rs"),
            ("own_table.csv", "own_table.csv"),
            ("own_text.rs", "my_text.rs"),
            ("own_images.rs", "my_images.rs"),
        ] {
            let file = fs::read_to_string(package.join("examples").join(name)).unwrap();
            project.write(&format!("examples/{copy}"), &file);
        }
        // The versions that the clone was tested with, which are on this machine.
        fs::copy(clone.join("Cargo.lock"), project.path("Cargo.lock")).unwrap();
        symlink(clone.join("data"), project.path("data")).unwrap();
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A command with the environment of a user who has done the README's first step.
    fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let libtorch = std::env::var_os("LIBTORCH").expect("cargo's configuration of the clone says where libtorch is");
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("CARGO_") && name != "CARGO_HOME" || SET_FOR_TESTS.contains(&name))
            {
                cargo.env_remove(name);
            }
        }
        cargo.current_dir(self.folder.path()).env("LIBTORCH", libtorch).env("GOMP_SPINCOUNT", "1000");
        let this = std::env::current_exe().unwrap();
        cargo.arg("--offline").env("CARGO_TARGET_DIR", this.ancestors().nth(3).unwrap());
        cargo
    }

    fn passes(&self, args: &[&str]) -> String {
        let output = self.cargo().args(args).output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(output.status.success(), "cargo {}\n{stdout}{stderr}", args.join(" "));
        stdout
    }

    /// Runs the script and sends Ctrl-C at the first evaluation; gives what it printed.
    fn run_and_stop(&self) -> Vec<String> {
        let mut child = self.cargo().args(["run"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut printed = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap) {
            if line.contains("Validation Acc") && printed.iter().all(|line: &String| !line.contains("Validation Acc")) {
                let script = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
                let script = script.split_whitespace().next().map_or(child.id(), |id| id.parse().unwrap());
                // SAFETY: `kill` takes any numbers; neither process was waited for, so the number is still its.
                assert_eq!(unsafe { libc::kill(script as i32, libc::SIGINT) }, 0);
            }
            printed.push(line);
        }
        child.wait().unwrap();
        printed
    }
}

#[test]
fn the_readmes_steps_and_the_examples_work_outside_the_clone() {
    if !is_long() {
        return;
    }
    let project = Project::new();
    let printed = project.run_and_stop();
    assert!(printed.iter().any(|line| line.starts_with("Test accuracy: ")), "{printed:#?}");
    let printed = project.run_and_stop();
    assert!(printed.iter().any(|line| line.starts_with("Resumed from ")), "{printed:#?}");

    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let runs = [("my_table", "200", ""), ("my_text", "20", sources), ("my_images", "50", "data/MNIST")];
    for (name, iterations, more) in runs {
        let folder = format!("checkpoints/{name}");
        project.passes(&["run", "--example", name, "--", &folder, iterations, more]);
        assert!(project.path(&folder).join("history-0001.jsonl").is_file(), "{name}");
    }
}
