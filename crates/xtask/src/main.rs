//! The project's own commands: `cargo xtask <verb>`, one file per verb.

mod bench;
mod command;
mod docs;
mod error;
mod kernel;
mod lab;
mod notebook;
mod processors;
mod progress;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use lexopt::ValueExt as _;

pub(crate) use error::{Error, Result};

const HELP: &str = "\
The project's own commands. Each does the set-up it needs by itself, and quickly when nothing is left to do.

    cargo xtask setup       make everything ready: Python side, libtorch, Rust kernel
    cargo xtask notebook    execute the notebooks from fresh kernels
    cargo xtask test        run all checks and tests (--long: the slow ones as well)
    cargo xtask docs        build the API documentation, without libtorch; a warning is an error
    cargo xtask bench       measure the tutorial's job beside tch, PyTorch and Keras (--quick: a check, without them)
    cargo xtask lab         open JupyterLab on the notebooks
    cargo xtask help        print this

`cargo xtask <verb> --help` lists a verb's flags.";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args = lexopt::Parser::from_env();
    let verb = match args.next()? {
        Some(lexopt::Arg::Value(verb)) => verb.string()?,
        None | Some(lexopt::Arg::Short('h') | lexopt::Arg::Long("help")) => "help".to_owned(),
        Some(flag) => return Err(flag.unexpected().into()),
    };
    match verb.as_str() {
        "setup" => setup::run(args),
        "notebook" => notebook::run(args),
        "test" => test::run(args),
        "docs" => docs::run(args),
        "bench" => bench::run(args),
        "lab" => lab::run(args),
        "kernel" => kernel::run(args),
        "help" => {
            println!("{HELP}");
            Ok(())
        }
        _ => Err(Error::new(format!("run `cargo xtask {verb}`")).got("there is no such verb").hint(HELP)),
    }
}
