//! Whether computing in bfloat16 costs accuracy: the same training in both precisions, for several seeds.

use std::path::Path;

use earlystop::early_stopping::Rule;
use earlystop::network::Precision;
use earlystop::network::evaluate;
use earlystop::{Mnist, Optimizer, Trainer};
use serde::Serialize;

use crate::Result;
use crate::job::Size;
use crate::markdown::{Section, table};
use crate::worker::network;

const SEEDS: std::ops::RangeInclusive<u64> = 1..=5;
const ITERATIONS: u64 = 4_000;

/// Test accuracies, 0.0 to 1.0, after the same training.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Accuracies {
    pub(crate) iterations: u64,
    pub(crate) rows: Vec<Row>,
}

/// What a seed led to.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Row {
    pub(crate) seed: u64,
    pub(crate) f32: f64,
    pub(crate) bf16: f64,
}

impl Accuracies {
    /// Gives the mean of what bfloat16 gains, over the seeds, and the mean's standard error.
    pub(crate) fn gain(&self) -> (f64, f64) {
        let gains = self.rows.iter().map(|row| row.bf16 - row.f32).collect::<Vec<_>>();
        let count = gains.len() as f64;
        let mean = gains.iter().sum::<f64>() / count;
        let variance = gains.iter().map(|gain| (gain - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, (variance / count).sqrt())
    }
}

pub(crate) fn run(data: &Path, quick: bool) -> Result<Accuracies> {
    let data = Mnist::load(data, |_| {})?;
    let (seeds, iterations) = if quick { (1..=2, 2) } else { (SEEDS, ITERATIONS) };
    let row = |seed| {
        eprintln!("Accuracy: seed {seed}");
        let [f32, bf16] = [Precision::F32, Precision::Bf16].map(|precision| train(&data, seed, precision, iterations));
        Ok(Row { seed, f32: f32?, bf16: bf16? })
    };
    Ok(Accuracies { iterations, rows: seeds.map(row).collect::<Result<_>>()? })
}

/// Trains the tutorial's network and evaluates it, both in one precision.
fn train(data: &Mnist, seed: u64, precision: Precision, iterations: u64) -> Result<f64> {
    let network = network(&Size::TUTORIAL, precision, seed)?;
    let optimizer = Optimizer::adam(&network, 1e-4)?;
    let trainer = Trainer::builder(network, optimizer, &data.train, &data.validation);
    let mut trainer = trainer.seed(seed).evaluate_every(iterations).stop_when(Rule::never()).build()?;
    trainer.optimize(iterations, |_| {})?;
    Ok(evaluate(trainer.network(), &data.test)?.accuracy())
}

/// Writes the section about all seeds.
pub(crate) fn section(accuracies: &Accuracies) -> Section {
    let rows = &accuracies.rows;
    let percent = |accuracy: f64| format!("{:.2}%", 100.0 * accuracy);
    let cells = rows
        .iter()
        .map(|row| vec![row.seed.to_string(), percent(row.f32), percent(row.bf16), points(row.bf16 - row.f32)]);
    let (gain, error) = accuracies.gain();
    let about = format!(
        "Test accuracy after {} iterations of the same training, from the same initial values on the same batches. Over the {} \
         seeds bfloat16 gains {} percentage points in the mean, with a standard error of {:.2}.",
        accuracies.iterations,
        rows.len(),
        points(gain),
        100.0 * error
    );
    Section { title: "Accuracy of bfloat16", about, table: table(&["seed", "f32", "bf16", "gain"], cells) }
}

fn points(difference: f64) -> String {
    format!("{:+.2}", 100.0 * difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gain_is_a_mean_with_its_standard_error() {
        let row = |f32, bf16| Row { seed: 0, f32, bf16 };
        let rows = vec![row(0.5, 0.6), row(0.5, 0.5), row(0.6, 0.8)];
        let (mean, error) = Accuracies { iterations: 1, rows }.gain();
        assert!((mean - 0.1).abs() < 1e-12 && (error - 0.1 / 3_f64.sqrt()).abs() < 1e-12, "{mean} {error}");
    }
}
