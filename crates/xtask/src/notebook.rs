//! `cargo xtask notebook`: executes the notebooks from fresh kernels, and holds them to what they promise.

mod confusion_matrix;
mod conventions;
mod execute;
mod exercises;
mod failures;
mod figures;
mod ipynb;
mod printed;
mod problem;
mod promises;
#[cfg(test)]
mod samples;
mod save_restore;
mod style;
mod tidy;
mod twice;

use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use lexopt::ValueExt as _;

use self::ipynb::Notebook;
use self::promises::Promises;
use crate::setup::Environment;
use crate::workspace::Workspace;
use crate::{Error, Result, setup};

const HELP: &str = "\
Executes notebooks from fresh kernels and checks what they show.

    cargo xtask notebook [--write | --check | --twice] [NAME...]

NAME is the name of a notebook in notebooks/, or a path; without one it is all notebooks there, at once.
The executed notebooks are left in target/notebooks/, as .ipynb and as .html.

    --write     write the outputs back into the notebooks themselves, one after the other; only without notebooks/checkpoints, so
                that no output is that of an earlier run
    --check     execute nothing: check the notebooks as they are
    --twice     run every cell twice in a row, with short trainings, and check only that none fails";

/// What is done with each notebook.
#[derive(Clone, Copy, PartialEq)]
enum Task {
    Execute,
    Write,
    Check,
    Twice,
}

pub(crate) fn run(mut args: lexopt::Parser) -> Result<()> {
    let workspace = Workspace::locate();
    let mut task = Task::Execute;
    let mut notebooks = Vec::new();
    while let Some(arg) = args.next()? {
        match arg {
            lexopt::Arg::Long("write") => task = Task::Write,
            lexopt::Arg::Long("check") => task = Task::Check,
            lexopt::Arg::Long("twice") => task = Task::Twice,
            lexopt::Arg::Value(name) => notebooks.push(find(&workspace, &name.string()?)?),
            lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => {
                println!("{HELP}");
                return Ok(());
            }
            _ => return Err(arg.unexpected().into()),
        }
    }
    if notebooks.is_empty() {
        notebooks = all(&workspace)?;
    }
    if task == Task::Check {
        return notebooks.iter().try_for_each(|notebook| check(notebook));
    }
    if task == Task::Write {
        expect_no_runs(&workspace.notebooks().join("checkpoints"))?;
    }
    let environment = setup::ensure(&workspace)?;
    match task {
        // One after the other, since they print how long a training took.
        Task::Write => notebooks.iter().try_for_each(|notebook| execute(&workspace, &environment, notebook, true)),
        Task::Twice => at_once(&notebooks, |notebook| execute_twice(&workspace, &environment, notebook)),
        _ => at_once(&notebooks, |notebook| execute(&workspace, &environment, notebook, false)),
    }
}

/// Refuses runs of earlier executions, which the notebooks would continue: their results may be those of other code.
fn expect_no_runs(kept: &Path) -> Result<()> {
    if !kept.exists() {
        return Ok(());
    }
    let tried = "write the outputs of a complete run into the notebooks";
    Err(Error::new(tried).got(format!("runs kept in {}", kept.display())).hint("move the folder away, or delete it"))
}

/// Executes all notebooks and checks what comes out; then once more with every cell run twice.
pub(crate) fn execute_all(workspace: &Workspace, environment: &Environment) -> Result<()> {
    at_once(&all(workspace)?, |notebook| {
        execute(workspace, environment, notebook, false)?;
        execute_twice(workspace, environment, notebook)
    })
}

/// Calls `run` for all notebooks at the same time. Each has its own kernel, and most of the time a kernel compiles cells on a
/// single thread.
fn at_once(notebooks: &[PathBuf], run: impl Fn(&Path) -> Result<()> + Sync) -> Result<()> {
    let run = &run;
    thread::scope(|scope| {
        let threads: Vec<_> = notebooks.iter().map(|notebook| scope.spawn(move || run(notebook))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Executes a notebook with every cell run twice, as people do who change one: no cell may fail the second time.
fn execute_twice(workspace: &Workspace, environment: &Environment, notebook: &Path) -> Result<()> {
    eprintln!("Executing every cell of {} twice ...", notebook.display());
    execute::execute_twice(environment, notebook, &workspace.root.join("target/notebooks/twice")).map(drop)
}

fn execute(workspace: &Workspace, environment: &Environment, notebook: &Path, write: bool) -> Result<()> {
    eprintln!("Executing {} ...", notebook.display());
    let executed = execute::execute(environment, notebook, &workspace.root.join("target/notebooks"))?;
    check(&executed)?;
    if write {
        write_back(&executed, notebook)?;
    }
    println!("{}", executed.with_extension("html").display());
    Ok(())
}

/// Checks the notebooks as they are committed, without executing them.
pub(crate) fn check_committed(workspace: &Workspace) -> Result<()> {
    all(workspace)?.iter().try_for_each(|notebook| check(notebook))
}

/// The promises of the notebook with this file name.
fn promises_of(file_name: &str) -> Option<&'static Promises> {
    match file_name {
        "04_save_restore.ipynb" => Some(&save_restore::PROMISES),
        "04_exercises.ipynb" => Some(&exercises::PROMISES),
        _ => None,
    }
}

/// Holds a notebook with its outputs to the conventions and to its promises.
fn check(path: &Path) -> Result<()> {
    let notebook = Notebook::read(path)?;
    let mut problems = conventions::check(&notebook);
    problems.extend(style::check(&notebook));
    problems.extend(printed::check(&notebook));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some(promises) = promises_of(name) {
        problems.extend(promises.check(&notebook));
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!("accept {}", path.display())).got(problem::list(&problems)))
}

fn write_back(executed: &Path, notebook: &Path) -> Result<()> {
    let json = fs::read_to_string(executed).map_err(|source| Error::io("read", executed, &source))?;
    let tidy = tidy::tidy(&json)
        .map_err(|source| Error::new(format!("tidy {}", executed.display())).got(source.to_string()))?;
    fs::write(notebook, tidy).map_err(|source| Error::io("write", notebook, &source))
}

/// The notebook of a name, with or without `.ipynb`, in `notebooks/`; or the file at a path.
fn find(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let in_folder = workspace.notebooks().join(name);
    let candidates = [in_folder.with_extension("ipynb"), PathBuf::from(name)];
    let found = candidates.into_iter().find(|path| path.is_file());
    found.and_then(|path| path.canonicalize().ok()).ok_or_else(|| {
        let folder = workspace.notebooks();
        Error::new(format!("find the notebook {name}")).got(format!("it is neither in {} nor a path", folder.display()))
    })
}

fn all(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let folder = workspace.notebooks();
    let entries = fs::read_dir(&folder).map_err(|source| Error::io("read", &folder, &source))?;
    let mut notebooks: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    notebooks.retain(|path| path.extension().is_some_and(|extension| extension == "ipynb"));
    notebooks.sort();
    Ok(notebooks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_of_kept_runs_are_not_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let error = expect_no_runs(folder.path()).unwrap_err().to_string();
        assert!(error.contains("runs kept in") && error.contains("move the folder away"), "{error}");
        expect_no_runs(&folder.path().join("checkpoints")).unwrap();
    }
}
