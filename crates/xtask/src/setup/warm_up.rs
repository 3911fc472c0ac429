//! Compiles the kernels' dependencies once, fetches MNIST, and has a real kernel answer before all is called ready.

use std::path::Path;
use std::process::Command;

use super::diagnosis::advice;
use super::{Environment, KERNEL_NAME, files, kernel, libtorch};
use crate::kernel::slots::{self, Builds};
use crate::progress::Step;
use crate::workspace::Workspace;
use crate::{Error, Result, command};

/// The file in `.kernel` that says with which files a kernel answered last.
const ANSWERED: &str = "answered";

const SESSION: &str = include_str!("warm_up.py");

/// The cells of the first session, run in the notebooks' folder. The library fetches what is absent of MNIST.
const CELLS: [&str; 2] = [
    r#":dep earlystop = { path = "../crates/earlystop" }"#,
    r#"earlystop::Mnist::load("../data/MNIST", |event| println!("{event}"))?;"#,
];

/// The cell by which a kernel answers where nothing is to be compiled or fetched; it calls libtorch.
const QUESTION: &str = r#"println!("{} threads", earlystop::tch::get_num_threads());"#;

/// Makes sure that a kernel has answered from this folder, with these files: runs a session unless one did before.
pub(super) fn ensure(workspace: &Workspace, environment: &Environment) -> Result<()> {
    let builds = Builds::new(&workspace.kernel(), &workspace.root);
    let stamp = stamp(workspace)?;
    let is_warm = builds.stamp().as_ref() == Some(&stamp);
    let answered = workspace.kernel().join(ANSWERED);
    if !is_warm || !has_mnist(&workspace.root.join("data/MNIST")) {
        let mut step = Step::start(match is_warm {
            true => "Fetching MNIST",
            false => "Compiling the notebooks' dependencies in a first kernel (about 2 minutes)",
        });
        run_session(workspace, environment, &CELLS, true, &mut step)?;
        builds.set_stamp(&stamp)?;
        step.done();
    } else if std::fs::read_to_string(&answered).is_ok_and(|before| before == files::identity(workspace, environment)) {
        return Ok(());
    } else {
        let mut step = Step::start("Asking the Rust kernel for an answer, since its files or their folder are new");
        run_session(workspace, environment, &[CELLS[0], QUESTION], false, &mut step)?;
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
    warm_up: bool,
    step: &mut Step,
) -> Result<()> {
    let mut session = environment.command(&environment.python);
    // evcxr's messages stand above its backtraces, of which the last lines are all that is shown.
    session.env("RUST_BACKTRACE", "0");
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

/// Whether MNIST's four files are there, compressed or not.
fn has_mnist(folder: &Path) -> bool {
    const FILES: [&str; 4] =
        ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];
    FILES.iter().all(|name| ["", ".gz"].iter().any(|suffix| folder.join(format!("{name}{suffix}")).exists()))
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
