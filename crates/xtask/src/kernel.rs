//! `cargo xtask kernel`: becomes a Rust kernel that has a build folder of its own. Jupyter calls it, by the kernelspec.
//!
//! Set-up puts a copy of this program beside the kernel, so that `cargo clean` does not take it from under Jupyter.

pub(crate) mod slots;

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::{Error, Result, command};

/// The kernel's program in `.kernel/bin`.
pub(crate) const PROGRAM: &str = "earlystop-kernel";

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
    // The project's own settings: someone's for other notebooks could move the build folder, or print.
    let config = kernel.join("config");
    let mut evcxr = Command::new(kernel.join("bin").join(PROGRAM));
    set_for_compiling(&mut evcxr);
    evcxr.envs(thread_settings(|name| std::env::var_os(name).is_some()));
    let error = evcxr
        .arg("--control_file")
        .arg(connection_file)
        .env("EVCXR_TMPDIR", slot.crate_folder())
        .env("EVCXR_CONFIG_DIR", &config)
        // Kept open as the kernel's standard input, and its compilers', the lock ends when the last of them does.
        .stdin(slot.lock()?)
        .exec();
    Err(Error::new("start the Rust kernel").got(error.to_string()).hint("Run `cargo xtask setup`."))
}

/// Sets the environment in which the notebooks' dependencies are compiled. Kernels and set-up need the same one: with another one,
/// cargo would compile them again.
pub(crate) fn set_for_compiling(command: &mut Command) {
    command::forget_cargo_run(command);
    // evcxr sets RUSTFLAGS, which these would replace.
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    // As the folder's profile says: another value would have the crate compiled anew, for a minute.
    command.env("CARGO_INCREMENTAL", "1");
}

/// Keeps libtorch's threads from spinning for long while they wait for work, unless the caller has chosen how they wait.
/// Not in the kernelspec, whose variables win over the caller's.
fn thread_settings(is_set: impl Fn(&str) -> bool) -> Option<(&'static str, &'static str)> {
    let chosen = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"].into_iter().any(is_set);
    (!chosen).then_some(("GOMP_SPINCOUNT", "1000"))
}

#[cfg(test)]
mod tests {
    use super::thread_settings;

    #[test]
    fn threads_do_not_spin_unless_the_caller_wants_them_to() {
        assert_eq!(thread_settings(|_| false), Some(("GOMP_SPINCOUNT", "1000")));
        assert_eq!(thread_settings(|name| name == "GOMP_SPINCOUNT"), None);
        assert_eq!(thread_settings(|name| name == "OMP_WAIT_POLICY"), None);
    }
}
