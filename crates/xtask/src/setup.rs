//! `cargo xtask setup`: makes ready what the other verbs need, and does nothing where that is done.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
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
    /// The program `jupyter` beside it.
    pub(crate) jupyter: PathBuf,
    /// libtorch's folder, as the link in the clone.
    pub(crate) libtorch: PathBuf,
    /// What programs of this environment need in their environment variables.
    pub(crate) variables: Vec<(&'static str, OsString)>,
}

impl Environment {
    /// A command with this environment's variables, to be run in the clone's root.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.root)
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

pub(crate) fn run(mut args: lexopt::Parser) -> Result<()> {
    if let Some(arg) = args.next()? {
        return Err(arg.unexpected().into());
    }
    let environment = ensure(&Workspace::locate())?;
    println!("Ready: {}", environment.python.display());
    Ok(())
}

/// Makes everything ready that notebooks and tests need.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Environment> {
    let bin = workspace.venv().join("bin");
    let jupyter = bin.join("jupyter");
    if !jupyter.exists() {
        return Err(Error::new("find Jupyter").got(format!("{} is not there", jupyter.display())));
    }
    let mut path = bin.clone().into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    Ok(Environment {
        root: workspace.root.clone(),
        python: bin.join("python"),
        jupyter,
        libtorch: workspace.libtorch_link(),
        variables: vec![("VIRTUAL_ENV", workspace.venv().into()), ("PATH", path)],
    })
}
