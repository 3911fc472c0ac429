//! The library's unit tests on processors that this machine does not have, and those of its kernels under a check of memory.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::progress::Step;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// The emulated processors as QEMU names them, and what the library's kernels use there.
///
/// Features of operating systems are taken away, which QEMU would warn of with each start.
const EMULATED: [(&str, &str); 2] =
    [("Nehalem", "none"), ("Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid", "AVX2")];

/// Debian's package with QEMU's programs, and the one for x86-64 in it.
const QEMU: [&str; 2] = ["qemu-user-static", "qemu-x86_64-static"];

/// Runs the unit tests that `cargo test` with `args` has compiled on emulated processors, and the kernels' under valgrind.
///
/// Where a tool cannot be had, says so and goes on.
pub(crate) fn test(workspace: &Workspace, args: &[&str]) -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Ok(());
    }
    match qemu(workspace) {
        Ok(qemu) => {
            for (processor, kernels) in EMULATED {
                let runner = [&qemu.to_string_lossy(), "-cpu", processor];
                let mut cargo = unit_tests(workspace, args, &runner);
                // A test compares it with what the processor turns out to be.
                cargo.env("EARLYSTOP_KERNELS", kernels);
                command::run_shown(&format!("pass the unit tests on the emulated processor {processor}"), &mut cargo)?;
            }
        }
        Err(error) => eprintln!("No other processor is emulated.\n{error}"),
    }
    if command::ask(Command::new("valgrind").arg("--version")).is_none() {
        eprintln!("The kernels' use of memory is not checked: install valgrind (Debian: apt install valgrind).");
        return Ok(());
    }
    let known = format!("--suppressions={}", workspace.root.join("crates/earlystop/tests/valgrind.supp").display());
    let mut cargo = unit_tests(workspace, args, &["valgrind", "--quiet", "--error-exitcode=1", &known]);
    // All sizes with the threads that they need: more threads do the same work, and take minutes here.
    cargo.args(["--", "kernels::tests", "--skip=the_number_of_threads"]);
    command::run_shown("pass the kernels' tests under valgrind", &mut cargo)
}

/// A cargo that starts the compiled unit tests with `runner`.
fn unit_tests(workspace: &Workspace, args: &[&str], runner: &[&str]) -> Command {
    let mut cargo = command::cargo(workspace);
    // JSON's strings are TOML's as well.
    cargo.args(args).arg("--lib").arg(format!("--config=target.'cfg(all())'.runner={}", serde_json::json!(runner)));
    cargo
}

/// Finds QEMU, or fetches Debian's package into the clone.
fn qemu(workspace: &Workspace) -> Result<PathBuf> {
    let [package, program] = QEMU;
    let folder = workspace.kernel().join("qemu");
    let fetched = folder.join("usr/bin").join(program);
    let starts = |program: &Path| command::ask(Command::new(program).arg("--version")).is_some();
    let installed = [PathBuf::from("qemu-x86_64"), PathBuf::from(program), fetched.clone()];
    if let Some(found) = installed.into_iter().find(|program| starts(program)) {
        return Ok(found);
    }
    let step = &mut Step::start(&format!("Fetching Debian's package {package}"));
    // apt's lists are fetched too: those of the machine may be old, and only root may renew them.
    let script = "mkdir -p lists/partial cache/archives/partial && \
        apt() { apt-get -q -o Dir::State::Lists=\"$PWD/lists\" -o Dir::Cache=\"$PWD/cache\" \"$@\"; } && \
        apt update && apt download \"$1\" && dpkg-deb --extract \"$1\"_*.deb . && rm -r lists cache \"$1\"_*.deb";
    std::fs::create_dir_all(&folder).map_err(|source| Error::io("create", &folder, &source))?;
    let outcome = command::watch(step, Command::new("sh").args(["-ec", script, "sh", package]).current_dir(&folder))?;
    if outcome.status.success() && starts(&fetched) {
        return Ok(fetched);
    }
    Err(Error::new(format!("fetch Debian's package {package}"))
        .got(outcome.last_lines())
        .hint("Install QEMU's user mode with QEMU 7.2 or newer (Debian and Ubuntu: apt install qemu-user)."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_may_lie_in_a_folder_with_spaces() {
        let cargo = unit_tests(&Workspace::locate(), &["test"], &["/a b/\"qemu", "-cpu"]);
        let args: Vec<_> = cargo.get_args().map(|arg| arg.to_string_lossy()).collect();
        assert_eq!(args, ["test", "--lib", r#"--config=target.'cfg(all())'.runner=["/a b/\"qemu","-cpu"]"#]);
    }
}
