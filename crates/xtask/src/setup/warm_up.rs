//! Compiles the kernels' dependencies once, by a first session of a real kernel.

use std::process::Command;

use super::diagnosis::advice;
use super::{Environment, KERNEL_NAME, kernel, libtorch};
use crate::kernel::slots::{self, Builds};
use crate::progress::Step;
use crate::workspace::Workspace;
use crate::{Error, Result, command};

const SESSION: &str = include_str!("warm_up.py");

/// The cells of the first session, run in the notebooks' folder.
const CELLS: [&str; 1] = [r#":dep earlystop = { path = "../crates/earlystop" }"#];

/// Runs the first session, unless what it compiled before is still what is wanted.
pub(super) fn ensure(workspace: &Workspace, environment: &Environment) -> Result<()> {
    let builds = Builds::new(&workspace.kernel(), &workspace.root);
    let stamp = stamp(workspace)?;
    if builds.stamp().as_ref() == Some(&stamp) {
        return Ok(());
    }
    let mut step = Step::start("Compiling the notebooks' dependencies in a first kernel (about 2 minutes)");
    let mut session = environment.command(&environment.python);
    session.args(["-c", SESSION, KERNEL_NAME]).args(CELLS).current_dir(workspace.notebooks());
    let outcome = command::watch(&mut step, session.env(crate::kernel::WARM_UP, "1"))?;
    if !outcome.status.success() {
        return Err(Error::new("run a first session of the Rust kernel")
            .got(outcome.last_lines())
            .hint(advice(&outcome.output)));
    }
    builds.set_stamp(&stamp)?;
    step.done();
    Ok(())
}

/// All that the compiled dependencies depend on, word for word. The crate's own sources are not among it:
/// each kernel compiles them anew when they have changed.
fn stamp(workspace: &Workspace) -> Result<String> {
    let rustc = command::ask(Command::new("rustc").arg("-vV")).unwrap_or_default();
    let mut stamp = format!("evcxr {}\nlibtorch {}\n{rustc}\n", kernel::EVCXR_VERSION, libtorch::VERSION);
    stamp.push_str(slots::layout());
    for name in ["Cargo.lock", "crates/earlystop/Cargo.toml"] {
        let path = workspace.root.join(name);
        stamp.push_str(&std::fs::read_to_string(&path).map_err(|source| Error::io("read", &path, &source))?);
    }
    Ok(stamp)
}
