//! The Python environment: the active one when it has what is needed, else `.venv` in the clone.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::diagnosis::advice;
use super::requirements::{Requirements, parse_version};
use super::scripts::{self, python};
use crate::progress::Step;
use crate::workspace::Workspace;
use crate::{Error, Result, command};

/// Prints Python's version, and one line per package of the command line: its version, or a dash.
const PROBE: &str = "
import sys
from importlib.metadata import PackageNotFoundError, version
print('%d.%d' % sys.version_info[:2])
for name in sys.argv[1:]:
    try:
        print(version(name))
    except PackageNotFoundError:
        print('-')
";

/// Names under which a Python may be found, the usual one first.
const PYTHONS: [&str; 7] = ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python3.10", "python"];

/// How the environment comes about.
pub(super) enum Plan {
    /// It is there; its folder (Python's `sys.prefix`).
    Ready(PathBuf),
    /// The clone's own is to be made, or filled, with this Python.
    Make(&'static str),
}

/// Finds the environment that has all of `requirements`, or the Python to make one with.
pub(super) fn plan(workspace: &Workspace, requirements: &Requirements) -> Result<Plan> {
    let venv = workspace.venv();
    if let Some(active) = active() {
        match lacking(&active, requirements) {
            lacking if lacking.is_empty() => return Ok(Plan::Ready(active)),
            _ if active == venv => {}
            lacking => {
                let lacking = lacking.join(", ");
                eprintln!("Using .venv: the active environment {} lacks {lacking}", active.display());
            }
        }
    }
    if lacking(&venv, requirements).is_empty() {
        return Ok(Plan::Ready(venv));
    }
    find(requirements).map(Plan::Make)
}

impl Plan {
    /// Makes what is to be made; gives the environment's folder.
    pub(super) fn carry_out(self, workspace: &Workspace, requirements: &Requirements) -> Result<PathBuf> {
        let venv = workspace.venv();
        match self {
            Self::Ready(prefix) if prefix != venv => return Ok(prefix),
            Self::Ready(_) => {}
            Self::Make(chosen) => fill(&venv, chosen, requirements, "environment.yml")?,
        }
        scripts::mend(&venv)?;
        Ok(venv)
    }
}

/// Makes an environment that is used for nothing else have all of `requirements`; gives its Python.
pub(super) fn ensure_own(venv: &Path, requirements: &Requirements, list: &str) -> Result<PathBuf> {
    if !lacking(venv, requirements).is_empty() {
        fill(venv, find(requirements)?, requirements, list)?;
    }
    scripts::mend(venv)?;
    Ok(python(venv))
}

/// The folder of the active venv or conda environment.
fn active() -> Option<PathBuf> {
    ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().find_map(std::env::var_os).map(PathBuf::from)
}

/// What the environment lacks, in words: nothing when it will do.
fn lacking(environment: &Path, requirements: &Requirements) -> Vec<String> {
    let names = requirements.packages.iter().map(|(name, _)| name);
    match command::ask(Command::new(python(environment)).args(["-c", PROBE]).args(names)) {
        Some(found) => compare(&found, requirements),
        None => vec!["a working Python".to_owned()],
    }
}

/// Holds what the probe printed against what is wanted.
fn compare(found: &str, requirements: &Requirements) -> Vec<String> {
    let mut found = found.lines();
    let mut lacking = Vec::new();
    if found.next().and_then(parse_version) < Some(requirements.python) {
        lacking.push(format!("Python {}.{} or newer", requirements.python.0, requirements.python.1));
    }
    for (name, wanted) in &requirements.packages {
        match found.next() {
            Some(version) if version == wanted => {}
            None | Some("-") => lacking.push(format!("{name} {wanted}")),
            Some(other) => lacking.push(format!("{name} {wanted} (it has {other})")),
        }
    }
    lacking
}

/// The version of a Python, if it runs.
fn version(python: &Path) -> Option<(u32, u32)> {
    command::ask(Command::new(python).args(["-c", PROBE])).as_deref().and_then(parse_version)
}

/// Makes an empty environment.
fn make(venv: &Path, chosen: &str) -> Result<()> {
    let step = &mut Step::start(&format!("Making the Python environment {} with {chosen}", venv.display()));
    let outcome = command::watch(step, Command::new(chosen).args(["-m", "venv", "--clear"]).arg(venv))?;
    if outcome.status.success() {
        return Ok(());
    }
    // What is left of it would be taken for an environment the next time.
    let _ = std::fs::remove_dir_all(venv);
    Err(Error::new(format!("make the Python environment {} with `{chosen} -m venv`", venv.display()))
        .got(outcome.last_lines())
        .hint(advice(&outcome.output)))
}

/// The Python to make an environment with.
fn find(requirements: &Requirements) -> Result<&'static str> {
    let found: Vec<_> = PYTHONS.iter().map(|name| (*name, version(Path::new(name)))).collect();
    choose(&found, requirements.python)
}

/// The first Python that is new enough, of names with the versions that they answered.
fn choose(found: &[(&'static str, Option<(u32, u32)>)], wanted: (u32, u32)) -> Result<&'static str> {
    let suits = |(_, version): &&(&str, Option<(u32, u32)>)| version.is_some_and(|version| version >= wanted);
    if let Some((name, _)) = found.iter().find(suits) {
        return Ok(name);
    }
    let (major, minor) = wanted;
    let got = match found.iter().find_map(|(name, version)| version.map(|version| (name, version))) {
        Some((name, (major, minor))) => format!("{name} is Python {major}.{minor}"),
        None => "neither python3 nor python runs on this machine".to_owned(),
    };
    Err(Error::new(format!("find a Python {major}.{minor} or newer")).got(got).hint(
        "Install one (Debian and Ubuntu: apt install python3 python3-venv; macOS: brew install python), \
         or activate a conda environment made from environment.yml.",
    ))
}

/// Makes an environment where none is, and installs what the file `list` lists.
fn fill(venv: &Path, chosen: &str, requirements: &Requirements, list: &str) -> Result<()> {
    if version(&python(venv)) < Some(requirements.python) {
        make(venv, chosen)?;
    }
    install(venv, requirements, list)
}

/// Installs the listed packages with pip.
fn install(environment: &Path, requirements: &Requirements, list: &str) -> Result<()> {
    let pins: Vec<_> = requirements.pins().collect();
    let mut step = Step::start(&format!("Installing {}", pins.join(", ")));
    pip(&mut step, environment, &format!("install the Python packages of {list}"), &pins)?;
    step.done();
    Ok(())
}

/// Runs `pip install` with `args`.
pub(super) fn pip(step: &mut Step, environment: &Path, tried: &str, args: &[String]) -> Result<()> {
    let quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar=off"];
    let mut pip = Command::new(python(environment));
    let outcome = command::watch(step, pip.args(["-m", "pip", "install"]).args(quiet).args(args))?;
    if outcome.status.success() {
        return Ok(());
    }
    Err(Error::new(tried).got(outcome.last_lines()).hint(advice(&outcome.output)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirements() -> Requirements {
        Requirements { python: (3, 10), packages: vec![("a".into(), "1.0".into()), ("b".into(), "2.0".into())] }
    }

    #[test]
    fn an_environment_with_everything_lacks_nothing() {
        assert!(compare("3.12\n1.0\n2.0", &requirements()).is_empty());
    }

    #[test]
    fn what_an_environment_lacks_is_named() {
        let lacking = compare("3.9\n-\n2.1", &requirements());
        assert_eq!(lacking, ["Python 3.10 or newer", "a 1.0", "b 2.0 (it has 2.1)"]);
    }

    #[test]
    fn the_first_python_that_is_new_enough_is_taken() {
        let found = [("python3", Some((3, 8))), ("python3.14", None), ("python3.11", Some((3, 11)))];
        assert_eq!(choose(&found, (3, 10)).unwrap(), "python3.11");
    }

    #[test]
    fn an_old_python_is_named_and_a_missing_one_said_to_be_missing() {
        let old = choose(&[("python3", Some((3, 8))), ("python", None)], (3, 10)).unwrap_err().to_string();
        assert!(old.contains("python3 is Python 3.8"), "{old}");
        let none = choose(&[("python3", None), ("python", None)], (3, 10)).unwrap_err().to_string();
        assert!(none.contains("neither python3 nor python runs"), "{none}");
    }
}
