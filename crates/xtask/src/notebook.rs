//! `cargo xtask notebook`: executes the notebooks from fresh kernels.

use crate::workspace::Workspace;
use crate::{Result, command, setup};

pub(crate) fn run(mut args: lexopt::Parser) -> Result<()> {
    if let Some(arg) = args.next()? {
        return Err(arg.unexpected().into());
    }
    let workspace = Workspace::locate();
    let environment = setup::ensure(&workspace)?;
    command::run(
        "execute the notebooks",
        environment
            .command(&environment.jupyter)
            .args([
                "nbconvert",
                "--execute",
                "--to=notebook",
                "--output-dir=target/notebooks",
            ])
            .arg(workspace.notebooks().join("04_save_restore.ipynb")),
    )
}
