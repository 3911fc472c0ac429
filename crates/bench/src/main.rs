//! The tutorial's job side by side: this library, tch, PyTorch, Keras. `cargo xtask bench` runs it.

mod accuracy;
mod contestant;
mod figure;
mod growth;
mod job;
mod machine;
mod own_model;
mod player;
mod race;
mod report;
mod scaling;
mod statistics;
mod worker;

use std::path::PathBuf;

use lexopt::ValueExt as _;

use contestant::Rivals;
use job::Files;
use report::Report;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const HELP: &str = "\
Usage: bench [--python PYTHON] [--quick] [--rounds N] [--no-scaling] [--no-accuracy] [--no-growth] [--no-own-model]
             [--data FOLDER] [--out FOLDER]

    --python PYTHON   plays PyTorch and Keras too, by the workers in crates/bench/python
    --quick           few rounds and iterations of this library alone: a check that all works, no measurement
    --rounds N        rounds that count; one more warms up each fresh set of processes
    --no-scaling      leaves out the batch sizes, widths and threads
    --no-accuracy     leaves out the training in both precisions
    --no-growth       leaves out the costs of long runs
    --no-own-model    leaves out what a trainer adds to a bare loop
    --data FOLDER     MNIST's files; data/MNIST unless named
    --out FOLDER      where table, numbers and figure go; target/bench unless named";

/// What the command line asks for.
struct Options {
    python: Option<PathBuf>,
    quick: bool,
    rounds: Option<usize>,
    scaling: bool,
    accuracy: bool,
    growth: bool,
    own_model: bool,
    data: PathBuf,
    out: PathBuf,
}

fn main() -> Result<()> {
    let mut args = lexopt::Parser::from_env();
    let mut options = Options {
        python: None,
        quick: false,
        rounds: None,
        scaling: true,
        accuracy: true,
        growth: true,
        own_model: true,
        data: "data/MNIST".into(),
        out: "target/bench".into(),
    };
    while let Some(arg) = args.next()? {
        match arg {
            lexopt::Arg::Value(verb) if verb == "worker" => return worker::run(args),
            lexopt::Arg::Long("python") => options.python = Some(args.value()?.into()),
            lexopt::Arg::Long("quick") => options.quick = true,
            lexopt::Arg::Long("rounds") => options.rounds = Some(args.value()?.parse()?),
            lexopt::Arg::Long("no-scaling") => options.scaling = false,
            lexopt::Arg::Long("no-accuracy") => options.accuracy = false,
            lexopt::Arg::Long("no-growth") => options.growth = false,
            lexopt::Arg::Long("no-own-model") => options.own_model = false,
            lexopt::Arg::Long("data") => options.data = args.value()?.into(),
            lexopt::Arg::Long("out") => options.out = args.value()?.into(),
            lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => {
                println!("{HELP}");
                return Ok(());
            }
            _ => return Err(arg.unexpected().into()),
        }
    }
    drive(&options)
}

fn drive(options: &Options) -> Result<()> {
    let load_before = machine::load_average();
    let files = Files::prepare(&options.data, &options.out)?;
    let rivals = match &options.python {
        Some(python) => Rivals::All { python },
        None if options.quick => Rivals::None,
        None => Rivals::Rust,
    };
    let contestants = contestant::contestants(rivals)?;
    let lengths = if options.quick { race::Lengths::quick() } else { race::Lengths::full() };
    let lengths = race::Lengths { rounds: options.rounds.unwrap_or(lengths.rounds), ..lengths };
    let standings = race::run(&contestants, &files, &lengths)?;
    let scaling = match options.scaling {
        true => Some(scaling::run(&contestants, &files, options.quick)?),
        false => None,
    };
    let accuracies = match options.accuracy {
        true => Some(accuracy::run(&options.data, options.quick)?),
        false => None,
    };
    let growth = match options.growth {
        true => Some(growth::run(&options.out, options.quick)?),
        false => None,
    };
    let own_models = match options.own_model {
        true => Some(own_model::run(&options.data, options.quick)?),
        false => None,
    };
    let machine = machine::describe(load_before);
    let report = Report { machine, lengths, standings, scaling, accuracies, growth, own_models };
    report.write(&options.out)?;
    println!("{}", report.markdown());
    Ok(())
}
