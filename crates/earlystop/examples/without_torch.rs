//! Early stopping and crash-safe checkpoints without libtorch, for logistic regression in plain Rust.
//!
//! `cargo run --example without_torch --no-default-features -- FOLDER`. Stop it at any time, and run it again: it continues.

use std::path::PathBuf;

use earlystop::checkpoint::{Keep, Metadata, NamedTensor, Saver, Store};
use earlystop::early_stopping::{EarlyStopping, Metric, Observation, Patience};

const FEATURES: usize = 8;
const RATE: f64 = 0.5;

struct Model {
    weights: [f64; FEATURES],
    bias: [f64; 1],
    step: [u64; 1],
}

impl Model {
    /// Returns everything that a resumed run needs. The slices are mutable, so that a restore can write to them.
    fn state(&mut self) -> Vec<NamedTensor<'_>> {
        vec![
            NamedTensor::new("weights", &mut self.weights[..]),
            NamedTensor::new("bias", &mut self.bias[..]),
            NamedTensor::new("step", &mut self.step[..]),
        ]
    }

    fn probability(&self, x: &[f64; FEATURES]) -> f64 {
        let sum: f64 = self.bias[0] + self.weights.iter().zip(x).map(|(weight, x)| weight * x).sum::<f64>();
        1.0 / (1.0 + (-sum).exp())
    }

    /// Makes one step of gradient descent on all examples.
    fn train(&mut self, examples: &[Example]) {
        let (mut weights, mut bias) = ([0.0; FEATURES], 0.0);
        for Example { x, y } in examples {
            let error = (self.probability(x) - y) / examples.len() as f64;
            weights.iter_mut().zip(x).for_each(|(gradient, x)| *gradient += error * x);
            bias += error;
        }
        self.weights.iter_mut().zip(weights).for_each(|(weight, gradient)| *weight -= RATE * gradient);
        self.bias[0] -= RATE * bias;
        self.step[0] += 1;
    }

    fn loss(&self, examples: &[Example]) -> f64 {
        let loss = |Example { x, y }: &Example| {
            let p = self.probability(x).clamp(1e-12, 1.0 - 1e-12);
            -(y * p.ln() + (1.0 - y) * (1.0 - p).ln())
        };
        examples.iter().map(loss).sum::<f64>() / examples.len() as f64
    }
}

struct Example {
    x: [f64; FEATURES],
    y: f64,
}

/// Generates few and noisy examples, so that the model overfits when it trains for too long.
fn examples(count: u64, first: u64) -> Vec<Example> {
    let noise = |number: u64| {
        let mixed = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 32)) as f64 / u64::MAX as f64 - 0.5
    };
    let example = |index: u64| {
        let x = std::array::from_fn(|feature| noise(index * 64 + feature as u64));
        let is_one = x[0] + 0.5 * x[1] + 0.6 * noise(index * 64 + 63) > 0.0;
        Example { x, y: f64::from(u8::from(is_one)) }
    };
    (first..first + count).map(example).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).map_or_else(|| "checkpoints/without_torch".into(), PathBuf::from);
    let (train, validation) = (examples(40, 0), examples(200, 1000));
    let mut model = Model { weights: [0.0; FEATURES], bias: [0.0], step: [0] };
    let mut stopping = EarlyStopping::with(Patience::new(200).on(Metric::lower("validation_loss")))?;

    let mut store = Store::open(&folder)?.keep(Keep::last(2).best(1));
    if let Some(latest) = store.latest_valid()?.saved {
        let metadata = Saver::new().restore(&latest.path, &[&model.state()])?;
        stopping = serde_json::from_str(&metadata["stopping"])?;
        println!("Resumed after step {}.", model.step[0]);
    }
    while !stopping.should_stop(model.step[0]) {
        model.train(&train);
        let step = model.step[0];
        if step.is_multiple_of(20) {
            let loss = model.loss(&validation);
            let verdict = stopping.record(Observation::of(step, [("validation_loss", loss)]))?;
            println!("Step {step}: validation loss {loss:.4}{}", if verdict.improved { " *" } else { "" });
            let metadata = Metadata::from([("stopping".to_owned(), serde_json::to_string(&stopping)?)]);
            store.save(step, Some(-loss), &[&model.state()], &metadata)?;
        }
    }
    println!("{}", stopping.report(model.step[0], None));

    let best = store.best_valid()?.saved.ok_or("no checkpoint")?;
    Saver::new().restore(&best.path, &[&model.state()])?;
    println!("Restored step {}: validation loss {:.4}", model.step[0], model.loss(&validation));
    Ok(())
}
