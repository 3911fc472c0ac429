//! `cargo xtask kernel`: becomes a Rust kernel that has a build folder of its own. Jupyter calls it, by the kernelspec.
//!
//! Set-up puts a copy of this program beside the kernel, so that `cargo clean` does not take it from under Jupyter.

pub(crate) mod slots;

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::{Error, Result};

/// The environment variable by which set-up asks for the folder that all others are copied from.
pub(crate) const WARM_UP: &str = "EARLYSTOP_WARM_UP";

pub(crate) fn run(mut args: lexopt::Parser) -> Result<()> {
    let usage = || Error::new("start a kernel").got("there is no connection file").hint("Jupyter passes its path.");
    let connection_file = args.raw_args()?.next().ok_or_else(usage)?;
    let program = std::env::current_exe().map_err(|source| Error::new("find myself").got(source.to_string()))?;
    // <clone>/.kernel/bin/<this program>
    let kernel = program.ancestors().nth(2).unwrap_or(Path::new("/"));
    let clone = kernel.parent().unwrap_or(Path::new("/"));
    let builds = slots::Builds::new(kernel, clone);
    let slot = if std::env::var_os(WARM_UP).is_some() { builds.take_warm()? } else { builds.take()? };
    // The configuration folder stays empty: someone's own evcxr settings could move the build folder, or print.
    let config = kernel.join("config");
    let error = Command::new(kernel.join("bin/evcxr_jupyter"))
        .arg("--control_file")
        .arg(connection_file)
        .env("EVCXR_TMPDIR", slot.crate_folder())
        .env("EVCXR_CONFIG_DIR", &config)
        // Where evcxr looks for a kernelspec of an older evcxr to write over: never the one in the user's home.
        .env("JUPYTER_PATH", &config)
        // Kept open as the kernel's standard input, and its compilers', the lock ends when the last of them does.
        .stdin(slot.into_lock())
        .exec();
    Err(Error::new("start the Rust kernel").got(error.to_string()).hint("Run `cargo xtask setup`."))
}
