//! Runs the library's unit tests on emulated processors, and the tests of its kernels under valgrind.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::progress::Step;
use crate::setup::packages::{debian_package, run_all};
use crate::workspace::Workspace;
use crate::{Error, Result};

/// The processors to emulate, by QEMU's names, and the instruction set that the library's kernels use on each.
///
/// The disabled features concern operating systems only. QEMU does not support them, and would print a warning at each start.
const EMULATED: [(&str, &str); 2] =
    [("Nehalem", "none"), ("Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid", "AVX2")];

/// Runs the unit tests on each emulated processor, then the tests of the kernels under valgrind.
///
/// `args` are those of the `cargo test` that has compiled the tests. If QEMU or valgrind is not available, prints a message and
/// skips these tests.
pub(crate) fn test(workspace: &Workspace, args: &[&str]) -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Ok(());
    }
    match qemu(workspace) {
        Ok(qemu) => {
            for (processor, kernels) in EMULATED {
                let runner = [&qemu.to_string_lossy(), "-cpu", processor];
                let mut cargo = unit_tests(workspace, args, &runner);
                // A test compares this with the instruction set that it detects.
                cargo.env("EARLYSTOP_KERNELS", kernels);
                command::run_shown(&format!("pass the unit tests on the emulated processor {processor}"), &mut cargo)?;
            }
        }
        Err(error) => eprintln!("The unit tests are not run on emulated processors.\n{error}"),
    }
    if command::ask(Command::new("valgrind").arg("--version")).is_none() {
        eprintln!("The kernels' use of memory is not checked: install valgrind (Debian: apt install valgrind).");
        return Ok(());
    }
    let known = format!("--suppressions={}", workspace.root.join("crates/earlystop/tests/valgrind.supp").display());
    let mut cargo = unit_tests(workspace, args, &["valgrind", "--quiet", "--error-exitcode=1", &known]);
    // The skipped test repeats the same work with more threads, and would take minutes here.
    cargo.args(["--", "kernels::tests", "--skip=the_number_of_threads"]);
    command::run_shown("pass the kernels' tests under valgrind", &mut cargo)
}

/// Returns a `cargo test` that starts the unit tests by the command `runner`.
fn unit_tests(workspace: &Workspace, args: &[&str], runner: &[&str]) -> Command {
    let mut cargo = command::cargo(workspace);
    // A JSON array of strings is also valid TOML.
    cargo.args(args).arg("--lib").arg(format!("--config=target.'cfg(all())'.runner={}", serde_json::json!(runner)));
    cargo
}

/// Finds an installed QEMU, or downloads Debian's package into the clone. Returns the program.
fn qemu(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.kernel().join("qemu");
    let downloaded = folder.join("qemu-x86_64-static");
    let starts = |program: &Path| command::ask(Command::new(program).arg("--version")).is_some();
    let installed = ["qemu-x86_64", "qemu-x86_64-static"].map(PathBuf::from).into_iter();
    if let Some(found) = installed.chain([downloaded.clone()]).find(|program| starts(program)) {
        return Ok(found);
    }
    let package = workspace.kernel().join("packages/qemu");
    let mut step = Step::start("Fetching QEMU (Debian package qemu-user-static, 63 MB)");
    let fetched = run_all(debian_package!("qemu-user-static"), &package, &mut step).and_then(|()| {
        let _ = std::fs::remove_dir_all(&folder); // has no program that starts
        std::fs::rename(package.join("usr/bin"), &folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        if starts(&downloaded) { Ok(()) } else { Err(format!("{} does not start", downloaded.display())) }
    });
    let _ = std::fs::remove_dir_all(&package); // left over, it would do no harm
    fetched.map_err(|reason| {
        Error::new("fetch Debian's package qemu-user-static")
            .got(reason)
            .hint("Install QEMU 7.2 or later (Debian and Ubuntu: apt install qemu-user).")
    })?;
    step.done();
    Ok(downloaded)
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
