//! `cargo xtask setup`: makes ready what the other verbs need, and does nothing where that is done.

mod ahead;
mod datasets;
mod diagnosis;
mod files;
pub(crate) mod kernel;
mod libtorch;
pub(crate) mod mpi;
pub(crate) mod packages;
mod place;
mod preflight;
mod python;
mod requirements;
mod scripts;
mod warm_up;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workspace::Workspace;
use crate::{Error, Result};

/// The name by which notebooks ask for the kernel: evcxr's own, so that they open with anyone's evcxr.
/// Inside the project's Python environment the project's kernel comes first.
pub(crate) const KERNEL_NAME: &str = "rust";

/// What set-up made ready.
#[derive(Debug)]
pub(crate) struct Environment {
    /// The clone's root.
    pub(crate) root: PathBuf,
    /// The Python that has Jupyter.
    pub(crate) python: PathBuf,
    /// libtorch's folder, as the link in the clone.
    pub(crate) libtorch: PathBuf,
    /// What programs of this environment need in their environment variables.
    pub(crate) variables: Vec<(&'static str, OsString)>,
}

impl Environment {
    /// A command with this environment's variables, to be run in the clone's root.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A command that runs a module of this environment's Python, as `nbconvert`. The script of that name would do as
    /// well, but not in every folder: it names its Python in its first line.
    pub(crate) fn module(&self, name: &str) -> Command {
        let mut command = self.command(&self.python);
        command.args(["-m", name]);
        command
    }
}

pub(crate) fn run(mut args: lexopt::Parser) -> Result<()> {
    if let Some(arg) = args.next()? {
        return Err(arg.unexpected().into());
    }
    let environment = ensure(&Workspace::locate())?;
    println!("Python:   {}", environment.python.display());
    println!("libtorch: {}", environment.libtorch.display());
    println!("kernel:   {KERNEL_NAME}");
    Ok(())
}

/// Makes everything ready that notebooks and tests need.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Environment> {
    place::check(&workspace.root)?;
    let _lock = lock(workspace)?;
    preflight::rust_version()?;
    preflight::compiler()?;
    preflight::rust_src()?;
    let requirements = requirements::Requirements::read(&workspace.environment_yml())?;
    let plan = python::plan(workspace, &requirements)?;
    if !kernel::is_installed(workspace)? {
        preflight::disk(&workspace.root)?;
    }
    // The longest step, so it begins first; what follows mostly waits for the network.
    let installing = kernel::start_install(workspace)?;
    let prefix = plan.carry_out(workspace, &requirements)?;
    libtorch::ensure(workspace, &prefix)?;
    place::settle(workspace)?;
    let compiling = if installing.is_some() { ahead::start(workspace) } else { None };
    let to_load = datasets::fetch(workspace);
    datasets::fetch_photographs(workspace, &scripts::python(&prefix));
    kernel::finish_install(workspace, installing)?;
    kernel::register(workspace, &prefix)?;
    ahead::finish(compiling);

    let bin = prefix.join("bin");
    let mut path = bin.clone().into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let environment = Environment {
        root: workspace.root.clone(),
        python: scripts::python(&prefix),
        libtorch: workspace.libtorch_link(),
        // The last: this environment's kernels before those in the user's home.
        variables: vec![("PATH", path), ("JUPYTER_PREFER_ENV_PATH", "1".into())],
    };
    warm_up::ensure(workspace, &environment, to_load)?;
    Ok(environment)
}

/// Makes the Python environment of the benchmark's rivals ready, which is large; gives its Python.
pub(crate) fn ensure_rivals(workspace: &Workspace) -> Result<PathBuf> {
    ensure_python(workspace, &workspace.bench_venv(), "crates/bench/requirements.txt")
}

/// Makes the Python environment of the clients ready that the kernel is tested with; gives its Python.
pub(crate) fn ensure_clients(workspace: &Workspace) -> Result<PathBuf> {
    ensure_python(workspace, &workspace.kernel().join("clients"), "crates/kernel/tests/requirements.txt")
}

/// Makes the Python environment ready that has what the library's tests read our files with; gives its Python.
pub(crate) fn ensure_readers(workspace: &Workspace) -> Result<PathBuf> {
    ensure_python(workspace, &workspace.kernel().join("readers"), "crates/earlystop/tests/requirements.txt")
}

/// Makes a Python environment of its own ready, with what a file in the clone lists; gives its Python.
fn ensure_python(workspace: &Workspace, environment: &Path, list: &str) -> Result<PathBuf> {
    let _lock = lock(workspace)?;
    let wanted = requirements::Requirements::read_pins(&workspace.root.join(list))?;
    python::ensure_own(environment, &wanted, list)
}

/// Lets one set-up at a time work in the clone.
fn lock(workspace: &Workspace) -> Result<File> {
    let path = workspace.kernel().join("setup.lock");
    let open = || {
        std::fs::create_dir_all(workspace.kernel())?;
        let file = File::options().create(true).append(true).open(&path)?;
        if file.try_lock().is_err() {
            eprintln!("Waiting for another set-up of this clone to end ...");
            file.lock()?;
        }
        Ok(file)
    };
    open().map_err(|source| Error::io("lock", &path, &source))
}

/// Whether a CI runs this: it adds the long tests, and keeps what they use again.
pub(crate) fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|ci| ci == "true")
}
