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
    --no-accuracy   leaves out the training in both precisions
    --no-growth     leaves out the costs of long runs
    --no-own-model  leaves out what a trainer adds to a bare loop
    --write         puts table and figure into docs/ and README.md as well: for a run on a machine that does nothing else";

pub(crate) fn run(mut args: lexopt::Parser) -> Result<()> {
    let (mut quick, mut write, mut passed_on) = (false, false, Vec::new());
    while let Some(arg) = args.next()? {
        match arg {
            lexopt::Arg::Long("quick") => quick = true,
            lexopt::Arg::Long("write") => write = true,
            lexopt::Arg::Long(part @ ("no-scaling" | "no-accuracy" | "no-growth" | "no-own-model")) => {
                passed_on.push(format!("--{part}"))
            }
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
    let [measured, readme] = ["target/bench/benchmark.md", "README.md"].map(|name| workspace.root.join(name));
    let read = |path| std::fs::read_to_string(path).map_err(|source| Error::io("read", path, &source));
    let text = with_table_of(&read(&readme)?, &read(&measured)?)
        .ok_or_else(|| Error::new("renew the table in README.md").got("no table with the benchmark's head in it"))?;
    std::fs::write(&readme, text).map_err(|source| Error::io("write", &readme, &source))
}

/// Puts the first table of `measured` in the place of the one in `text` that has the same head.
fn with_table_of(text: &str, measured: &str) -> Option<String> {
    let table = |text: &str, begin: usize| {
        text[begin..].split_inclusive('\n').take_while(|line| line.starts_with('|')).map(str::len).sum::<usize>()
    };
    let new = measured.find("\n|")? + 1;
    let new = &measured[new..new + table(measured, new)];
    let old = text.find(new.lines().next()?)?;
    Some([&text[..old], new, &text[old + table(text, old)..]].concat())
}

#[cfg(test)]
mod tests {
    use super::with_table_of;

    #[test]
    fn the_table_with_the_same_head_is_renewed() {
        let measured = "# Title\n\n| a | b |\n|---|--:|\n| ours | 2 |\n| theirs | 3 |\n\n| c |\n";
        let readme = "| c |\n\ntext\n\n| a | b |\n|---|--:|\n| ours | 1 |\n\nmore\n";
        let renewed = "| c |\n\ntext\n\n| a | b |\n|---|--:|\n| ours | 2 |\n| theirs | 3 |\n\nmore\n";
        assert_eq!(with_table_of(readme, measured).as_deref(), Some(renewed));
        assert_eq!(with_table_of("no table", measured), None);
    }
}
