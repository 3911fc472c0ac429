//! Compiles the kernels' dependencies once and fetches MNIST, by a first session of a real kernel.

use std::path::Path;
use std::process::Command;

use super::diagnosis::advice;
use super::{Environment, KERNEL_NAME, kernel, libtorch};
use crate::kernel::slots::{self, Builds};
use crate::progress::Step;
use crate::workspace::Workspace;
use crate::{Error, Result, command};

const SESSION: &str = include_str!("warm_up.py");

/// The cells of the first session, run in the notebooks' folder. The library fetches what is absent of MNIST.
const CELLS: [&str; 2] = [
    r#":dep earlystop = { path = "../crates/earlystop" }"#,
    r#"earlystop::Mnist::load("../data/MNIST", |event| println!("{event}"))?;"#,
];

/// Runs the first session, unless what it compiled before is still what is wanted, and MNIST is there.
pub(super) fn ensure(workspace: &Workspace, environment: &Environment) -> Result<()> {
    let builds = Builds::new(&workspace.kernel(), &workspace.root);
    let stamp = stamp(workspace)?;
    let is_warm = builds.stamp().as_ref() == Some(&stamp);
    if is_warm && has_mnist(&workspace.root.join("data/MNIST")) {
        return Ok(());
    }
    let mut step = Step::start(match is_warm {
        true => "Fetching MNIST",
        false => "Compiling the notebooks' dependencies in a first kernel (about 2 minutes)",
    });
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

/// Whether MNIST's four files are there, compressed or not.
fn has_mnist(folder: &Path) -> bool {
    const FILES: [&str; 4] =
        ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];
    FILES.iter().all(|name| ["", ".gz"].iter().any(|suffix| folder.join(format!("{name}{suffix}")).exists()))
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
