//! Measures what processes cost that train together, fits a simple model to it, and predicts larger clusters, as `docs/scaling.md` shows.
//!
//! Run it with the same settings and one, two and four processes: `OMP_NUM_THREADS=1 mpirun -n 2 target/release/examples/scaling`. Given the
//! two numbers of the fit, the latency in microseconds and the bandwidth in GB/s, it only predicts: `scaling 50 1.25`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use earlystop::data::from_fn;
use earlystop::early_stopping::{Rule, StopReason};
use earlystop::optimizer::Trainable;
use earlystop::tch::{Device, Kind, Tensor, nn};
use earlystop::trainer::{BatchIter, Callback, Model, Progress, Scores, TrainerBuilder};
use earlystop::{Error, Loss, Mnist, Network, Optimizer, Processes, Result, Trainer};

/// A model of so many variables, whose gradient costs little.
struct Row {
    variables: nn::VarStore,
    weights: Tensor,
}

impl Row {
    fn new(count: i64) -> Self {
        let variables = nn::VarStore::new(Device::Cpu);
        let weights = variables.root().ones("weights", &[count]);
        Self { variables, weights }
    }
}

impl Model for Row {
    type Batch = Tensor;

    fn variables(&self) -> &dyn Trainable {
        &self.variables
    }

    fn loss(&self, batch: &Tensor, _iteration: u64) -> Result<Loss> {
        Ok((self.weights.mean(Kind::Float) * batch.mean(Kind::Float)).into())
    }

    fn evaluate(&self, _batches: BatchIter<Tensor>) -> Result<Scores> {
        Ok(Scores::from([("loss", 0.0)]))
    }
}

fn main() -> Result<()> {
    let numbers = std::env::args().skip(1).map(|word| word.parse::<f64>()).collect::<Result<Vec<_>, _>>();
    match numbers.map_err(Error::other)?[..] {
        [] => measure(Processes::from_mpi()?),
        [latency, bandwidth] if latency > 0.0 && bandwidth > 0.0 => {
            predict(latency * 1e-6, bandwidth * 1e9);
            Ok(())
        }
        _ => Err(Error::other("expected nothing, or a latency in microseconds and a bandwidth in GB/s, both positive")),
    }
}

fn measure(processes: Processes) -> Result<()> {
    earlystop::keep_freed_memory();
    let is_first = processes.is_first();
    let show = |line: String| {
        if is_first {
            println!("{line}")
        }
    };
    let count = processes.count();
    show(format!(
        "| with {count} processes | ms per iteration, median | shortest | KB sent by each |\n|---|--:|--:|--:|"
    ));
    for (name, count, iterations) in
        [("1,000 variables", 1_000, 1000), ("1M variables", 1_000_000, 100), ("16M variables", 16_000_000, 10)]
    {
        let model = Row::new(count);
        let optimizer = Optimizer::sgd(&model.variables, 0.1)?;
        let data = || from_fn(8, |indices: &[usize], _| Ok(Tensor::from_slice(&vec![1.0_f32; indices.len()])));
        let builder = Trainer::for_model(model, optimizer, data(), data()).batch_size(8).accumulate(processes.count());
        show(format!("| {name} | {} |", measured(builder, &processes, iterations)?));
    }
    let data = Mnist::load("data/MNIST", |_| ())?;
    for parts in [4, 8] {
        let network = Network::builder([28, 28, 1]).conv2d(5, 16, "layer_conv1").max_pool(2, 2);
        let network = network.conv2d(5, 36, "layer_conv2").max_pool(2, 2).flatten();
        let network = network.fully_connected(128, "layer_fc1").softmax_classifier(10).build(Device::Cpu)?;
        let optimizer = Optimizer::adam(&network, 1e-4)?;
        let builder = Trainer::builder(network, optimizer, &data.train, &data.validation).accumulate(parts);
        show(format!("| the tutorial's network, {parts} parts | {} |", measured(builder, &processes, 200)?));
    }
    Ok(())
}

/// The moments at which the iterations end, in the first process.
#[derive(Clone, Default)]
struct Clock(Arc<Mutex<Vec<Instant>>>);

impl<M: Model> Callback<M> for Clock {
    fn step(&mut self, _progress: &Progress, _model: &M) -> Result<Option<StopReason>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        Ok(None)
    }
}

/// Trains, and describes an iteration: the median and the shortest time, and what it has sent.
fn measured<M: Model>(builder: TrainerBuilder<M>, processes: &Processes, iterations: u64) -> Result<String> {
    let clock = Clock::default();
    let builder = builder.evaluate_every(u64::MAX).stop_when(Rule::never()).keep_best_in_memory(false);
    let mut trainer = builder.callback(clock.clone()).processes(processes.clone()).build()?;
    trainer.optimize(1, |_| ())?; // the variables of the first process are sent
    let before = processes.traffic();
    trainer.optimize(iterations, |_| ())?;
    let sent = (processes.traffic() - before) as f64 / iterations as f64 / 1e3;
    let ends = clock.0.lock().unwrap_or_else(PoisonError::into_inner);
    // The first interval has an evaluation in it.
    let ends = ends.get(1..).unwrap_or_default();
    let mut times: Vec<_> = ends.windows(2).map(|ends| (ends[1] - ends[0]).as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
    Ok(format!("{:.3} | {:.3} | {sent:.1}", at(times.len() / 2), at(0)))
}

/// Prints the speed-up over one process that the model predicts.
fn predict(latency: f64, bandwidth: f64) {
    println!(
        "| variables | processes | compute, ms | messages, ms | gradient, ms | speed-up |\n|--:|--:|--:|--:|--:|--:|"
    );
    for variables in [1e6, 3e7, 1e9] {
        for processes in [8.0, 64.0, 1024.0_f64] {
            let whole = 6.0 * variables * EXAMPLES / FLOPS;
            let compute = whole / processes;
            // The gathered message and the exchanges there and back.
            let messages = 3.0 * processes.log2() * latency + 128.0 * processes / bandwidth;
            let gradient = 2.0 * (1.0 - 1.0 / processes) * 4.0 * variables / bandwidth;
            let speed_up = whole / (compute + messages + gradient);
            println!(
                "| {:.0}M | {processes} | {:.3} | {:.3} | {:.3} | {speed_up:.2} |",
                variables / 1e6,
                compute * 1e3,
                messages * 1e3,
                gradient * 1e3
            );
        }
    }
}

/// The examples of a batch of the prediction.
const EXAMPLES: f64 = 4096.0;
/// What a machine of the prediction computes in a second.
const FLOPS: f64 = 1e12;
