//! `cargo xtask bench`: the tutorial's job side by side with what tch, PyTorch and Keras make of it.

use std::path::Path;

use lexopt::ValueExt as _;

use crate::workspace::Workspace;
use crate::{Error, Result, command, setup};

const HELP: &str = "\
cargo xtask bench [PART...]: measures the tutorial's job side by side with tch, PyTorch and Keras, and writes tables, numbers and
figure into target/bench. The first time it fetches PyTorch and Keras (7 GB) into .bench-venv.

Parts; all of them unless some are named:
    job             iterations, validations and saves of all contestants
    scaling         batch sizes, widths of the network, threads
    load            training while other processes are busy
    long-runs       rules, commits and resuming after up to 100,000 evaluations
    states          saving and restoring up to 6 GB beside Python's safetensors, opening stores, saving in the background
    own-models      what a trainer adds to a bare loop

    --quick         this library alone, a few iterations: a check that all works, no measurement; fetches nothing
    --rounds N      rounds of the job that count
    --write         replaces what was measured in docs/ and README.md as well: for a run on a machine that does nothing else";

pub(crate) fn run(mut args: lexopt::Parser) -> Result<()> {
    let (mut quick, mut write, mut passed_on) = (false, false, Vec::new());
    while let Some(arg) = args.next()? {
        match arg {
            lexopt::Arg::Long("quick") => quick = true,
            lexopt::Arg::Long("write") => write = true,
            lexopt::Arg::Value(part) => passed_on.push(part),
            lexopt::Arg::Long("rounds") => {
                let rounds = args.value()?.parse_with(str::parse::<std::num::NonZero<usize>>)?;
                passed_on.push(format!("--rounds={rounds}").into());
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
    let mut bench = command::cargo(&workspace);
    // Not `--package`: for that one alone cargo would choose other features, and compile libtorch's bindings anew.
    bench.args(["run", "--quiet", "--locked", "--bin", "bench"]);
    if quick {
        bench.args(["--", "--quick"]);
    } else {
        let python = setup::ensure_rivals(&workspace)?;
        bench.args(["--release", "--", "--python"]).arg(python);
    }
    command::run("run the benchmark", bench.args(passed_on))?;
    if write { write_down(&workspace) } else { Ok(()) }
}

/// Puts what was measured to where readers look for it.
fn write_down(workspace: &Workspace) -> Result<()> {
    let [measured, page, readme] =
        ["target/bench/benchmark.md", "docs/benchmark.md", "README.md"].map(|name| workspace.root.join(name));
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|source| Error::io("read", path, &source));
    let write =
        |path: &Path, text: String| std::fs::write(path, text).map_err(|source| Error::io("write", path, &source));
    let measured = read(&measured)?;
    write(&page, with_sections_of(&read(&page)?, &measured))?;
    if !measured.starts_with("# ") {
        return Ok(()); // the job, with its table and figure, was not measured
    }
    let [from, to] = ["target/bench/benchmark.png", "docs/benchmark.png"].map(|name| workspace.root.join(name));
    std::fs::copy(from, &to).map_err(|source| Error::io("write", &to, &source))?;
    let text = with_table_of(&read(&readme)?, &measured)
        .ok_or_else(|| Error::new("renew the table in README.md").got("no table with the benchmark's head in it"))?;
    write(&readme, text)
}

/// Puts the sections of `measured` in the place of those of `page` that have the same heading, and new ones at its end.
fn with_sections_of(page: &str, measured: &str) -> String {
    let mut sections = sections(page);
    for new in self::sections(measured) {
        let heading = |section: &str| section.lines().next().unwrap_or_default().to_owned();
        match sections.iter_mut().find(|old| heading(old) == heading(new)) {
            Some(old) => *old = new,
            None => sections.push(new),
        }
    }
    sections.join("\n\n") + "\n"
}

/// Cuts a page before each heading, without the empty lines between.
fn sections(page: &str) -> Vec<&str> {
    let mut begins: Vec<_> = page.match_indices("\n## ").map(|(begin, _)| begin + 1).collect();
    begins.insert(0, 0);
    let ends = begins[1..].iter().copied().chain([page.len()]);
    begins.iter().zip(ends).map(|(&begin, end)| page[begin..end].trim_end()).collect()
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
    use super::{with_sections_of, with_table_of};

    #[test]
    fn only_what_was_measured_is_replaced() {
        let page = "# Page\n\nabout\n\n| 1 |\n\n## A\n\n1\n\n### of A\n\n## B\n\n1\n";
        let measured = "## B\n\n2\n\n## C\n\n2\n";
        let renewed = "# Page\n\nabout\n\n| 1 |\n\n## A\n\n1\n\n### of A\n\n## B\n\n2\n\n## C\n\n2\n";
        assert_eq!(with_sections_of(page, measured), renewed);
        let job = "# Page\n\nnew\n\n## B\n\n3\n";
        assert_eq!(with_sections_of(page, job), "# Page\n\nnew\n\n## A\n\n1\n\n### of A\n\n## B\n\n3\n");
    }

    #[test]
    fn the_table_with_the_same_head_is_renewed() {
        let measured = "# Title\n\n| a | b |\n|---|--:|\n| ours | 2 |\n| theirs | 3 |\n\n| c |\n";
        let readme = "| c |\n\ntext\n\n| a | b |\n|---|--:|\n| ours | 1 |\n\nmore\n";
        let renewed = "| c |\n\ntext\n\n| a | b |\n|---|--:|\n| ours | 2 |\n| theirs | 3 |\n\nmore\n";
        assert_eq!(with_table_of(readme, measured).as_deref(), Some(renewed));
        assert_eq!(with_table_of("no table", measured), None);
    }
}
