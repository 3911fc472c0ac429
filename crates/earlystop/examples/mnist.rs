//! Loads MNIST, fetching what is absent, and prints the sizes of its three sets.
//!
//! `cargo run --example mnist [folder]`; the folder is `data/MNIST` unless it is named.

use std::env;
use std::process::ExitCode;

use earlystop::mnist::Mnist;

fn main() -> ExitCode {
    let dir = env::args_os().nth(1).unwrap_or_else(|| "data/MNIST".into());
    let data = match Mnist::load(dir, |event| println!("{event}")) {
        Ok(data) => data,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("Size of:");
    println!("- Training-set:\t\t{}", data.train.len());
    println!("- Test-set:\t\t{}", data.test.len());
    println!("- Validation-set:\t{}", data.validation.len());
    ExitCode::SUCCESS
}
