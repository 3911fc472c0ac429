//! Measures what a checkpoint costs: `cargo run --release --example checkpoint_cost [FOLDER]`.
//!
//! The state is that of the tutorial's network: its parameters and Adam's two moments of each.

use std::time::Instant;

use earlystop::checkpoint::{Checkpoint, Keep, Metadata, NamedTensor, Saver, Store};
use tch::{Device, Kind, Tensor};

const SHAPES: [(&str, &[i64]); 8] = [
    ("layer_conv1.weight", &[16, 1, 5, 5]),
    ("layer_conv1.bias", &[16]),
    ("layer_conv2.weight", &[36, 16, 5, 5]),
    ("layer_conv2.bias", &[36]),
    ("layer_fc1.weight", &[128, 1764]),
    ("layer_fc1.bias", &[128]),
    ("classifier.weight", &[10, 128]),
    ("classifier.bias", &[10]),
];

fn main() -> earlystop::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "checkpoints/cost".to_owned());
    let state: Vec<NamedTensor<'static>> = ["", "adam.m/", "adam.v/"]
        .iter()
        .flat_map(|prefix| SHAPES.map(|(name, shape)| (format!("{prefix}{name}"), shape)))
        .map(|(name, shape)| NamedTensor::new(name, Tensor::randn(shape, (Kind::Float, Device::Cpu))))
        .collect();
    let history = Metadata::from([("history".to_owned(), "0.852,".repeat(100))]);

    let mut store = Store::open(&folder)?.keep(Keep::last(3).best(1));
    let first = store.save(0, Some(0.0), &[&state], &history)?;
    let bytes = std::fs::metadata(&first.path).map_or(0, |metadata| metadata.len());
    println!("{} tensors, {:.2} MB", state.len(), bytes as f64 / 1e6);

    let mut step = 0;
    measure("save into a store, with fsync", || {
        step += 100;
        store.save(step, Some(0.5), &[&state], &history).map(|_| ())
    })?;
    let latest = store.save(step + 100, Some(0.5), &[&state], &history)?;
    measure("read and verify", || Checkpoint::read(&latest.path).map(|_| ()))?;
    measure("restore", || Saver::new().restore(&latest.path, &[&state]).map(|_| ()))?;
    measure("find the latest sound one of four", || store.latest_valid().map(|_| ()))
}

fn measure(what: &str, mut action: impl FnMut() -> earlystop::Result<()>) -> earlystop::Result<()> {
    let mut times = Vec::new();
    for _ in 0..101 {
        let start = Instant::now();
        action()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("{what}: median {:.2} ms, 9 of 10 within {:.2} ms", times[50], times[90]);
    Ok(())
}
