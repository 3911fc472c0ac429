//! Compiles the kernels' dependencies once, loads MNIST, and has a real kernel answer before all is called ready.

use std::path::PathBuf;
use std::process::Command;

use super::datasets::{self, ToLoad};
use super::diagnosis::advice;
use super::{Environment, KERNEL_NAME, files, kernel, libtorch};
use crate::kernel::slots::{self, Builds};
use crate::progress::Step;
use crate::workspace::Workspace;
use crate::{Error, Result, command};

/// The file in `.kernel` that says with which files a kernel answered last.
const ANSWERED: &str = "answered";

const SESSION: &str = include_str!("warm_up.py");

/// The first cell of a session, run in the notebooks' folder.
const DEPENDENCY: &str = r#":dep earlystop = { path = "../crates/earlystop" }"#;

/// The cell by which a kernel answers where nothing is to be compiled or fetched; it calls libtorch.
const QUESTION: &str = r#"println!("{} threads", earlystop::tch::get_num_threads());"#;

/// Says whether the dependencies are compiled.
pub(super) fn is_warm(workspace: &Workspace) -> Result<bool> {
    Ok(Builds::new(&workspace.kernel(), &workspace.root).stamp() == Some(stamp(workspace)?))
}

/// Makes sure that a kernel has answered from this folder, with these files: runs a session unless one did before.
pub(super) fn ensure(workspace: &Workspace, environment: &Environment, to_load: ToLoad) -> Result<()> {
    let builds = Builds::new(&workspace.kernel(), &workspace.root);
    let stamp = stamp(workspace)?;
    let is_warm = builds.stamp().as_ref() == Some(&stamp);
    let answered = workspace.kernel().join(ANSWERED);
    if !is_warm || !to_load.cells.is_empty() {
        let mut step = Step::start(match is_warm {
            true => "Loading MNIST",
            false => "Compiling the notebooks' dependencies in a first kernel (about 2 minutes)",
        });
        let cells: Vec<&str> = [DEPENDENCY].into_iter().chain(to_load.cells).collect();
        run_session(workspace, environment, &cells, &to_load.variables, true, &mut step)?;
        datasets::clear(workspace);
        builds.set_stamp(&stamp)?;
        step.done();
    } else if std::fs::read_to_string(&answered).is_ok_and(|before| before == files::identity(workspace, environment)) {
        return Ok(());
    } else {
        let mut step = Step::start("Asking the Rust kernel for an answer, since its files or their folder are new");
        run_session(workspace, environment, &[DEPENDENCY, QUESTION], &[], false, &mut step)?;
        step.done();
    }
    // After the session, which changes some of them.
    let identity = files::identity(workspace, environment);
    std::fs::write(&answered, identity).map_err(|source| Error::io("write", &answered, &source))
}

/// Runs cells in a new kernel; with the folder that the others' are copied from, or as a notebook does.
fn run_session(
    workspace: &Workspace,
    environment: &Environment,
    cells: &[&str],
    variables: &[(&'static str, PathBuf)],
    warm_up: bool,
    step: &mut Step,
) -> Result<()> {
    let mut session = environment.command(&environment.python);
    // evcxr's messages stand above its backtraces, of which the last lines are all that is shown.
    session.env("RUST_BACKTRACE", "0");
    session.envs(variables.iter().map(|(name, value)| (name, value)));
    session.args(["-c", SESSION, KERNEL_NAME]).args(cells).current_dir(workspace.notebooks());
    if warm_up {
        session.env(crate::kernel::WARM_UP, "1");
    }
    let outcome = command::watch(step, &mut session)?;
    if outcome.status.success() {
        return Ok(());
    }
    Err(Error::new("run a first session of the Rust kernel").got(outcome.last_lines()).hint(advice(&outcome.output)))
}

/// All that the compiled dependencies depend on, word for word. The crate's own sources are not among it:
/// each kernel compiles them anew when they have changed.
fn stamp(workspace: &Workspace) -> Result<String> {
    let rustc = command::ask(Command::new("rustc").arg("-vV")).unwrap_or_default();
    // Compiled code names the clone's path, which is also that of libtorch.
    let root = workspace.root.canonicalize().unwrap_or_else(|_| workspace.root.clone());
    let (evcxr, libtorch) = (kernel::EVCXR_VERSION, libtorch::VERSION);
    let mut stamp = format!("clone {}\nevcxr {evcxr}\nlibtorch {libtorch}\n{rustc}\n", root.display());
    stamp.push_str(slots::layout());
    for name in ["Cargo.lock", "crates/earlystop/Cargo.toml"] {
        let path = workspace.root.join(name);
        stamp.push_str(&std::fs::read_to_string(&path).map_err(|source| Error::io("read", &path, &source))?);
    }
    Ok(stamp)
}
