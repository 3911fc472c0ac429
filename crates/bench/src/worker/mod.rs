//! The workers in Rust, and their side of the line protocol: `train 50`, `validate`, `save`, `multiply`, `quit`.

mod ours;
mod textbook;

use std::io::BufRead as _;
use std::time::Instant;

use earlystop::tch::{self, Device, Kind, Tensor};
use lexopt::ValueExt as _;
use serde_json::{Value, json};

use crate::Result;
use crate::job::Settings;

/// One way to do the job.
trait Worker {
    /// Images that are classified at once in a validation.
    fn validation_batch(&self) -> usize;
    /// Makes some iterations, each with the next batch.
    fn train(&mut self, iterations: usize) -> Result<()>;
    /// Gives the accuracy on the validation set.
    fn validate(&mut self) -> Result<f64>;
    /// Saves the state of the training.
    fn save(&mut self) -> Result<()>;
}

/// Is the worker that the command line names.
pub(crate) fn run(mut args: lexopt::Parser) -> Result<()> {
    let id = args.value()?.string()?;
    let settings = Settings::read(&mut args)?;
    if let Some(threads) = settings.size.threads {
        tch::set_num_threads(threads as i32);
    }
    let mut worker: Box<dyn Worker> = match id.as_str() {
        "ours" => Box::new(ours::Ours::new(&settings)?),
        "tch" => Box::new(textbook::Textbook::new(&settings)?),
        _ => return Err(format!("there is no worker {id}").into()),
    };
    let versions = json!({
        "earlystop": earlystop::VERSION,
        "tch": earlystop::TCH_VERSION,
        "libtorch": earlystop::LIBTORCH_VERSION,
    });
    let validation_batch = worker.validation_batch();
    println!(
        "{}",
        json!({ "threads": tch::get_num_threads(), "validation_batch": validation_batch, "versions": versions })
    );
    for request in std::io::stdin().lock().lines() {
        match answer(worker.as_mut(), &request?)? {
            Some(answer) => println!("{answer}"),
            None => break,
        }
    }
    Ok(())
}

/// Does what a request asks; nothing comes back when it asks to quit.
fn answer(worker: &mut dyn Worker, request: &str) -> Result<Option<Value>> {
    let start = Instant::now();
    let seconds = || start.elapsed().as_secs_f64();
    let answer = match request.split_whitespace().collect::<Vec<_>>()[..] {
        ["train", iterations] => {
            worker.train(iterations.parse()?)?;
            json!({ "seconds": seconds() })
        }
        ["validate"] => {
            let accuracy = worker.validate()?;
            json!({ "seconds": seconds(), "accuracy": accuracy })
        }
        ["save"] => {
            worker.save()?;
            json!({ "seconds": seconds() })
        }
        ["multiply"] => json!({ "flops_per_second": multiply() }),
        ["quit"] => return Ok(None),
        _ => return Err(format!("there is no such request: {request:?}").into()),
    };
    Ok(Some(answer))
}

/// Measures how many operations a second the multiplication of two large matrices of 32-bit floats reaches.
fn multiply() -> f64 {
    const SIZE: i64 = 2048;
    let [a, b] = [(); 2].map(|()| Tensor::rand([SIZE, SIZE], (Kind::Float, Device::Cpu)));
    let product = a.matmul(&b);
    let once = |_| {
        let start = Instant::now();
        let _ = a.matmul_out(&product, &b);
        start.elapsed().as_secs_f64()
    };
    // The fastest: it stands for what the processor can do.
    let fastest = (0..5).map(once).fold(f64::INFINITY, f64::min);
    2.0 * (SIZE as f64).powi(3) / fastest
}
