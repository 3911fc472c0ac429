//! `cargo xtask bench`: the tutorial's job side by side with what tch, PyTorch and Keras make of it.

use lexopt::ValueExt as _;

use crate::workspace::Workspace;
use crate::{Error, Result, command, setup};

const HELP: &str = "\
cargo xtask bench: measures the tutorial's job side by side with tch, PyTorch and Keras, and writes table, numbers and figure into
target/bench. The first time it fetches PyTorch and Keras (7 GB) into .bench-venv.

    --quick         this library alone, a few iterations: a check that all works, no measurement; fetches nothing
    --rounds N      rounds that count
    --no-scaling    leaves out the batch sizes, widths and threads
    --write         puts table and figure into docs/ as well: for a run on a machine that does nothing else";

pub(crate) fn run(mut args: lexopt::Parser) -> Result<()> {
    let (mut quick, mut write, mut passed_on) = (false, false, Vec::new());
    while let Some(arg) = args.next()? {
        match arg {
            lexopt::Arg::Long("quick") => quick = true,
            lexopt::Arg::Long("write") => write = true,
            lexopt::Arg::Long("no-scaling") => passed_on.push("--no-scaling".to_owned()),
            lexopt::Arg::Long("rounds") => {
                let rounds = args.value()?.parse_with(str::parse::<std::num::NonZero<usize>>)?;
                passed_on.push(format!("--rounds={rounds}"));
            }
            lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => {
                println!("{HELP}");
                return Ok(());
            }
            _ => return Err(arg.unexpected().into()),
        }
    }
    if quick && write {
        return Err(Error::new("write down the quick form's numbers").got("they are no measurement").hint(HELP));
    }
    let workspace = Workspace::locate();
    setup::ensure(&workspace)?;
    let mut bench = setup::cargo();
    // Not `--package`: for that one alone cargo would choose other features, and compile libtorch's bindings anew.
    bench.current_dir(&workspace.root).args(["run", "--quiet", "--locked", "--bin", "bench"]);
    if quick {
        bench.args(["--", "--quick"]);
    } else {
        let python = setup::ensure_rivals(&workspace)?;
        bench.args(["--release", "--", "--python"]).arg(python);
    }
    command::run("run the benchmark", bench.args(passed_on))?;
    if write { write_down(&workspace) } else { Ok(()) }
}

/// Copies what was measured to where readers look for it.
fn write_down(workspace: &Workspace) -> Result<()> {
    for name in ["benchmark.md", "benchmark.png"] {
        let (from, to) = (workspace.root.join("target/bench").join(name), workspace.root.join("docs").join(name));
        std::fs::copy(from, &to).map_err(|source| Error::io("write", &to, &source))?;
    }
    Ok(())
}
