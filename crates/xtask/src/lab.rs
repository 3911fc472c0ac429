//! `cargo xtask lab`: opens JupyterLab on the notebooks.

use crate::workspace::Workspace;
use crate::{Result, command, setup};

pub(crate) fn run(mut args: lexopt::Parser) -> Result<()> {
    // What follows the verb is JupyterLab's own, such as --no-browser or --port=8890.
    let flags: Vec<_> = args.raw_args()?.collect();
    let workspace = Workspace::locate();
    let environment = setup::ensure(&workspace)?;
    command::run("run JupyterLab", environment.module("jupyterlab").args(flags).arg(workspace.notebooks()))
}
