//! The tutorial's job side by side: this library, tch, PyTorch, Keras. `cargo xtask bench` runs it.

mod contestant;
mod figure;
mod growth;
mod job;
mod load;
mod machine;
mod markdown;
mod own_model;
mod player;
mod race;
mod report;
mod scaling;
mod states;
mod statistics;
mod stores;
mod waiting;
mod worker;

use std::path::PathBuf;

use lexopt::ValueExt as _;

use contestant::{Rivals, contestants};
use job::Files;
use report::Report;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const HELP: &str = "\
Usage: bench [PART...] [--python PYTHON] [--quick] [--rounds N] [--data FOLDER] [--out FOLDER]

The parts are job, scaling, load, long-runs, states and own-models; all of them unless some are named.

    --python PYTHON   measures PyTorch, Keras and safetensors too, by the scripts in crates/bench/python
    --quick           few rounds and iterations of this library alone: a check that all works, no measurement
    --rounds N        rounds of the job that count; one more warms up each fresh set of processes
    --data FOLDER     MNIST's files; data/MNIST unless named
    --out FOLDER      where table, numbers and figure go; target/bench unless named";

/// What can be measured.
#[derive(Debug, Clone, Copy)]
enum Part {
    Job,
    Scaling,
    Load,
    LongRuns,
    States,
    OwnModels,
}

/// The parts with their names on the command line.
const PARTS: [(&str, Part); 6] = [
    ("job", Part::Job),
    ("scaling", Part::Scaling),
    ("load", Part::Load),
    ("long-runs", Part::LongRuns),
    ("states", Part::States),
    ("own-models", Part::OwnModels),
];

/// What the command line asks for.
struct Options {
    python: Option<PathBuf>,
    quick: bool,
    rounds: Option<usize>,
    parts: Vec<Part>,
    data: PathBuf,
    out: PathBuf,
}

fn main() -> Result<()> {
    let mut args = lexopt::Parser::from_env();
    let mut options = Options {
        python: None,
        quick: false,
        rounds: None,
        parts: Vec::new(),
        data: "data/MNIST".into(),
        out: "target/bench".into(),
    };
    while let Some(arg) = args.next()? {
        match arg {
            lexopt::Arg::Value(verb) if verb == "worker" => return worker::run(args),
            lexopt::Arg::Value(verb) if verb == "busy" => return load::be_busy(),
            lexopt::Arg::Value(name) => match PARTS.iter().find(|(part, _)| name == *part) {
                Some((_, part)) => options.parts.push(*part),
                None => return Err(format!("expected a part, found {name:?}\n\n{HELP}").into()),
            },
            lexopt::Arg::Long("python") => options.python = Some(args.value()?.into()),
            lexopt::Arg::Long("quick") => options.quick = true,
            lexopt::Arg::Long("rounds") => options.rounds = Some(args.value()?.parse()?),
            lexopt::Arg::Long("data") => options.data = args.value()?.into(),
            lexopt::Arg::Long("out") => options.out = args.value()?.into(),
            lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => {
                println!("{HELP}");
                return Ok(());
            }
            _ => return Err(arg.unexpected().into()),
        }
    }
    if options.parts.is_empty() {
        options.parts.extend(PARTS.map(|(_, part)| part));
    }
    measure(&options)
}

/// Measures the parts one after another, and writes each to the report when it is complete.
fn measure(options: &Options) -> Result<()> {
    let Options { python, quick, rounds, parts, data, out } = options;
    let (python, quick) = (python.as_deref(), *quick);
    let files = Files::prepare(data, out)?;
    let rivals = match python {
        Some(python) => Rivals::All { python },
        None if quick => Rivals::None,
        None => Rivals::Rust,
    };
    let contestants = contestants(rivals)?;
    let mut report = Report::new(machine::describe(), out);
    for part in parts {
        match part {
            Part::Job => {
                let lengths = if quick { race::Lengths::quick() } else { race::Lengths::full() };
                let lengths = race::Lengths { rounds: rounds.unwrap_or(lengths.rounds), ..lengths };
                report.add_job(lengths, &race::run(&contestants, &files, &lengths)?)?;
            }
            Part::Scaling => {
                let rows = scaling::run(&contestants, &files, quick)?;
                report.add("scaling", scaling::section(&rows), &rows)?;
            }
            Part::Load => {
                let rows = load::run(&contestants, &files, quick)?;
                report.add("load", load::section(&rows), &rows)?;
            }
            Part::LongRuns => {
                let lengths = growth::run(out, quick)?;
                report.add("long_runs", growth::section(&lengths), &lengths)?;
            }
            Part::States => {
                let states = states::run(out, python, quick)?;
                report.add("states", states::section(&states), &states)?;
                let waits = waiting::run(out, quick)?;
                report.add("background", waiting::section(&waits), &waits)?;
                let stores = stores::run(out, quick)?;
                report.add("stores", stores::section(&stores), &stores)?;
            }
            Part::OwnModels => {
                let overheads = own_model::run(data, quick)?;
                report.add("own_models", own_model::section(&overheads), &overheads)?;
            }
        }
    }
    println!("{}", report.markdown());
    Ok(())
}
