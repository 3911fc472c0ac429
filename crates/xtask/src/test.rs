//! `cargo xtask test`: all checks and tests, in the order of their cost.

use std::ffi::OsStr;
use std::path::Path;

use crate::progress::Step;
use crate::workspace::Workspace;
use crate::{Result, command, docs, notebook, processors, setup};

/// The features of the everyday tests.
const FEATURES: &str = "--features=earlystop/logging";
/// All features. The library is not linked with `doc-only`, so no test runs with it.
const ALL_FEATURES: &str =
    "--features=earlystop/doc-only,earlystop/logging,earlystop/mpi,earlystop/object-store,earlystop-cli/object-store";
/// Object storage without libtorch, in the library and in the command.
const OBJECT_STORAGE: &str = "--features=earlystop/object-store,earlystop-cli/object-store";
/// Compiles the library with less optimization, which is faster, for tests that compute little.
const HARDLY_OPTIMIZED: &str = "--config=profile.dev.package.earlystop.opt-level=1";

pub(crate) fn run(mut args: lexopt::Parser) -> Result<()> {
    let mut long = setup::is_ci();
    while let Some(arg) = args.next()? {
        match arg {
            lexopt::Arg::Long("long") => long = true,
            _ => return Err(arg.unexpected().into()),
        }
    }
    let workspace = Workspace::locate();
    cargo(&workspace, "keep to rustfmt's format", ["fmt", "--all", "--check"], long)?;
    for other_workspace in [workspace.kernel_crate(), workspace.root.join("crates/earlystop/fuzz")] {
        let manifest = other_workspace.join("Cargo.toml");
        let fmt = ["fmt", "--check", "--manifest-path"].map(OsStr::new).into_iter().chain([manifest.as_os_str()]);
        cargo(&workspace, "keep to rustfmt's format", fmt, long)?;
    }
    notebook::check_committed(&workspace)?;
    // Once, and first: `cargo test` below puts another program in this one's place, which set-up copies.
    let environment = setup::ensure(&workspace)?;
    setup::ensure_readers(&workspace)?;
    // Each set of features is compiled once, since that takes minutes: the pages have those of clippy.
    let checked = if long { ALL_FEATURES } else { FEATURES };
    let mpi = if long { setup::mpi::ensure(&workspace)? } else { Vec::new() };
    let mut clippy = command::cargo(&workspace);
    clippy.args(["clippy", "--workspace", "--all-targets", checked, "--locked", "--", "--deny=warnings"]);
    clippy.envs(mpi.iter().map(|(name, value)| (name, value)));
    command::run_shown("pass clippy", &mut clippy)?;
    if long {
        docs::library(&workspace)?;
    } else {
        let docs = ["doc", "--package=earlystop", "--no-deps", checked, "--locked", docs::DENY_WARNINGS];
        cargo(&workspace, docs::TRIED, docs, long)?;
    }
    let tests = ["test", "--workspace", "--exclude=earlystop-cli", FEATURES, "--locked"];
    cargo(&workspace, "pass the tests", tests, long)?;
    // The command by itself, since it would have libtorch beside the others, which its users do not.
    if !long {
        return cargo(
            &workspace,
            "pass the tests of the command",
            ["test", "--package=earlystop-cli", "--locked"],
            long,
        );
    }
    processors::test(&workspace, &tests)?;
    // The tests of the packages, among those above, have built both without object storage.
    let packages = ["test", "--package=earlystop", "--package=earlystop-cli"];
    let without_torch = ["--no-default-features", OBJECT_STORAGE, "--locked", HARDLY_OPTIMIZED];
    let tried = "pass the tests without libtorch, with object storage";
    cargo(&workspace, tried, packages.into_iter().chain(without_torch), long)?;
    let mut processes = command::cargo(&workspace);
    processes.args(["test", "--package=earlystop", "--features=mpi", "--test=mpi", "--locked", HARDLY_OPTIMIZED]);
    processes.args(["--", "--test-threads=1"]).env("EARLYSTOP_LONG_TESTS", "1");
    processes.envs(mpi.iter().map(|(name, value)| (name, value)));
    command::run_shown("pass the tests of several processes", &mut processes)?;
    test_kernel(&workspace, &environment)?;
    notebook::execute_all(&workspace, &environment)
}

/// Tests the kernel's parts, and the kernel that is installed with real clients, which have a Python environment of their own.
fn test_kernel(workspace: &Workspace, environment: &setup::Environment) -> Result<()> {
    command::run_shown("pass the tests of the kernel's parts", &mut setup::kernel::tests(workspace))?;
    let python = setup::ensure_clients(workspace)?;
    let kernelspecs = environment.python.ancestors().nth(2).unwrap_or(Path::new("/")).join("share/jupyter");
    let mut tests = environment.command(python);
    tests.args(["-m", "unittest", "discover", "--verbose", "--start-directory"]);
    tests.arg(workspace.kernel_crate().join("tests")).env("JUPYTER_PATH", kernelspecs);
    let step = Step::start("python -m unittest discover --start-directory crates/kernel/tests");
    command::run("pass the kernel's tests", &mut tests)?;
    step.done();
    Ok(())
}

/// Runs cargo, with the slow tests if they are wanted.
fn cargo(
    workspace: &Workspace,
    tried: &str,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    long: bool,
) -> Result<()> {
    let mut cargo = command::cargo(workspace);
    cargo.args(args);
    if long {
        cargo.env("EARLYSTOP_LONG_TESTS", "1");
    }
    command::run_shown(tried, &mut cargo)
}

#[cfg(test)]
mod tests {
    /// The example is compiled, so the README's copy cannot be outdated.
    #[test]
    fn the_readmes_script_is_the_example() {
        let (_, rest) = include_str!("../../../README.md").split_once("```rust,no_run\n").unwrap();
        let (script, _) = rest.split_once("```").unwrap();
        assert!(include_str!("../../earlystop/examples/train.rs").ends_with(script), "{script}");
    }

    /// Tests run by cargo, and so does all that xtask starts.
    #[test]
    fn cargos_configuration_and_conda_keep_threads_from_spinning() {
        assert!(std::env::var_os("GOMP_SPINCOUNT").is_some());
        assert!(include_str!("../../../.cargo/config.toml").contains("\nGOMP_SPINCOUNT = \"1000\"\n"));
        assert!(include_str!("../../../environment.yml").contains("\nvariables:\n"));
    }
}
