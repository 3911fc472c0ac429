//! Compiles the notebooks' dependencies while the kernel is still being compiled, since neither keeps all cores busy.
//!
//! What a kernel compiles itself counts: it finds the work done if it compiles with the same settings, and does it again
//! otherwise. So nothing that fails here is an error.

use std::process::Command;

use super::warm_up;
use crate::command::{self, Running};
use crate::kernel::set_for_compiling;
use crate::kernel::slots::{Builds, Slot};
use crate::progress::Step;
use crate::workspace::Workspace;

/// The dependencies being compiled, and the build folder, which stays locked meanwhile.
pub(super) struct Ahead {
    running: Running,
    _folder: Slot,
}

/// Starts, unless the dependencies are compiled. libtorch must be there.
pub(super) fn start(workspace: &Workspace) -> Option<Ahead> {
    if warm_up::is_warm(workspace).unwrap_or(true) {
        return None;
    }
    let builds = Builds::new(&workspace.kernel(), &workspace.root);
    let folder = builds.take_warm().ok()?;
    let rustc = command::ask(Command::new("rustc").arg("-vV"))?;
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: "))?;
    let ctx = folder.crate_folder();
    let manifest = format!(
        "[package]\nname = \"ctx\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[lib]\ncrate-type = [\"cdylib\"]\n\n\
         [dependencies]\nearlystop = {{ path = {} }}\n",
        builds.library()
    );
    std::fs::create_dir_all(ctx.join("src")).ok()?;
    std::fs::write(ctx.join("Cargo.toml"), manifest).ok()?;
    std::fs::write(ctx.join("src/lib.rs"), "").ok()?;

    let mut cargo = command::cargo(workspace);
    cargo.args(["build", "--target", host]).current_dir(&ctx);
    set_for_compiling(&mut cargo);
    // evcxr's own settings.
    cargo.env_remove("RUSTC_WRAPPER");
    cargo.envs([("CARGO_TARGET_DIR", "target"), ("CARGO_BUILD_BUILD_DIR", "target")]);
    let is_there = |program: &str| command::ask(Command::new(program).arg("--version")).is_some();
    let uses_lld = !is_there("mold") && is_there("lld");
    cargo.env("RUSTFLAGS", if uses_lld { "-Cprefer-dynamic -Clink-arg=-fuse-ld=lld" } else { "-Cprefer-dynamic" });
    cargo.env("LIBTORCH", workspace.libtorch_link());
    eprintln!("Compiling the notebooks' dependencies meanwhile");
    Some(Ahead { running: command::start(&mut cargo).ok()?, _folder: folder })
}

/// Waits for the end.
pub(super) fn finish(ahead: Option<Ahead>) {
    let Some(Ahead { running, _folder }) = ahead else { return };
    let mut step = Step::start("Compiling the notebooks' dependencies");
    if running.wait(&mut step).is_ok_and(|outcome| outcome.status.success()) {
        step.done();
    }
}
