//! The packaged loop for scripts: batches, steps, evaluations, saving, stopping; and going on after a break.
//!
//! Stands in for the tutorial's `optimize()`. What happens is told through [`Event`]s, which print as the tutorial's lines.

mod builder;
mod evaluation;
mod event;
mod resume;
mod state;

use std::time::{Duration, Instant};

pub use builder::TrainerBuilder;
pub use evaluation::{Evaluation, evaluate, evaluate_in};
pub use event::{Event, time_usage};
pub use resume::verify_resume;

use crate::checkpoint::Store;
use crate::early_stopping::{EarlyStopping, Mistakes, Observation, StopReason, StopReport};
use crate::error::Result;
use crate::mnist::Examples;
use crate::network::{Network, Precision};
use crate::optimizer::{Adam, Batches};
use evaluation::{batch, batch_accuracy};

/// Trains a network with early stopping, and can go on after a break as if there had been none.
///
/// ```
/// # use earlystop::ndarray::{Array1, Array3};
/// # let examples = |n| earlystop::mnist::Examples::new(Array3::from_shape_fn((n, 4, 4), |(i, y, x)| (i * 97 + y * 31 + x * 7) as u8), Array1::from_shape_fn(n, |i| (i % 10) as u8)).unwrap();
/// # let (train, validation) = (examples(200), examples(50));
/// # let folder = tempfile::tempdir().unwrap();
/// use earlystop::{Adam, Network, Trainer};
/// use tch::Device;
///
/// let network = Network::builder([4, 4, 1]).flatten().softmax_classifier(10).build(Device::Cpu)?;
/// let optimizer = Adam::new(&network, 1e-2)?;
/// let mut trainer = Trainer::builder(network, optimizer, &train, &validation)
///     .patience(1000)
///     .checkpoints(folder.path())
///     .build()?;
/// let report = trainer.optimize(300, |event| println!("{event}"))?;
/// assert_eq!(report.iterations, 300);
/// trainer.restore_best()?;
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug)]
pub struct Trainer {
    network: Network,
    optimizer: Adam,
    train: Examples,
    validation: Examples,
    test: Option<Examples>,
    batches: Batches,
    evaluate_every: u64,
    evaluation_precision: Precision,
    stopping: EarlyStopping,
    store: Option<Store>,
    iteration: u64,
    /// Time spent in earlier calls and earlier processes.
    elapsed: Duration,
    stopped: Option<StopReason>,
}

impl Trainer {
    /// Begins a trainer; see [`TrainerBuilder`] for its settings.
    pub fn builder(network: Network, optimizer: Adam, train: &Examples, validation: &Examples) -> TrainerBuilder {
        TrainerBuilder::new(network, optimizer, train, validation)
    }

    /// Makes up to `num_iterations` more iterations; fewer where the stopping rule says so.
    ///
    /// Every 100 iterations (see [`TrainerBuilder::evaluate_every`]), and after the last one, the network is evaluated on the
    /// validation set, and, where there is a folder for checkpoints, the whole state is committed to it. A run that its rule
    /// has stopped is not trained on: the call only reports.
    ///
    /// # Errors
    ///
    /// When examples and network do not fit, or a checkpoint cannot be written; what was committed before stays whole.
    pub fn optimize(&mut self, num_iterations: u64, on_event: impl FnMut(&Event)) -> Result<StopReport> {
        self.optimize_to(self.iteration.saturating_add(num_iterations), on_event)
    }

    /// Trains until `iteration` iterations were made in all, those before a resume included; fewer where the rule says so.
    ///
    /// # Errors
    ///
    /// As [`Trainer::optimize`].
    pub fn optimize_to(&mut self, iteration: u64, mut on_event: impl FnMut(&Event)) -> Result<StopReport> {
        if self.iteration == 0 {
            self.refuse_another_runs_folder()?;
        }
        if !self.network.description().precision.is_native() {
            on_event(&Event::SlowPrecision);
        }
        let (start, before) = (Instant::now(), self.elapsed);
        let mut losses = Losses::default();
        while self.stopped.is_none() && self.iteration < iteration {
            self.iteration += 1;
            let (images, labels) = batch(&self.train, &self.batches.indices(self.iteration))?;
            let loss = self.network.training_loss(&images, &labels, self.iteration)?;
            self.optimizer.minimize(&loss, &mut self.network)?;
            let loss = loss.double_value(&[]);
            losses.add(loss);

            let is_last = self.iteration == iteration;
            let is_due = self.iteration.is_multiple_of(self.evaluate_every) || is_last || !loss.is_finite();
            if is_due {
                let train_accuracy = batch_accuracy(&self.network, &images, &labels)?;
                self.elapsed = before + start.elapsed();
                let observation = self.observe(train_accuracy, std::mem::take(&mut losses).mean())?;
                let improved = self.stopping.record(observation.clone()).improved;
                self.stopped = self.stopping.stop_reason(self.iteration);
                self.commit(improved)?;
                on_event(&Event::Evaluated { observation, improved });
            } else if let Some(reason) = self.stopping.stop_reason(self.iteration) {
                self.elapsed = before + start.elapsed();
                self.stopped = Some(reason);
                self.commit(false)?;
            }
        }
        if let Some(reason) = &self.stopped {
            on_event(&Event::Stopped(reason.clone()));
        }
        on_event(&Event::Finished { time: start.elapsed() });
        Ok(self.report())
    }

    /// Evaluates the network as it is now.
    fn observe(&self, train_accuracy: f64, train_loss: f64) -> Result<Observation> {
        let evaluate = |examples: &Examples| evaluate_in(&self.network, examples, self.evaluation_precision);
        let validation = evaluate(&self.validation)?;
        let test = self.test.as_ref().map(evaluate).transpose()?;
        Ok(Observation {
            validation_loss: Some(validation.loss),
            train_loss: Some(train_loss),
            train_accuracy: Some(train_accuracy),
            test_accuracy: test.map(|test| test.accuracy()),
            elapsed: Some(self.elapsed),
            mistakes: Some(Mistakes::new(&validation.correct)),
            weights_finite: self.network.variables().are_finite(),
            ..Observation::new(self.iteration, validation.accuracy())
        })
    }

    /// Reports on the run so far: why it stopped, if it did, and its best evaluation.
    pub fn report(&self) -> StopReport {
        self.stopping.report(self.iteration, self.elapsed)
    }

    /// Returns the network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Gives the network back, to be used without the trainer.
    pub fn into_network(self) -> Network {
        self.network
    }

    /// Returns how many iterations were made, those before a resume included.
    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    /// Returns all evaluations so far, those before a resume included.
    pub fn history(&self) -> &[Observation] {
        self.stopping.history()
    }
}

/// The losses of the training batches since the last evaluation.
#[derive(Debug, Default)]
struct Losses {
    sum: f64,
    count: u32,
}

impl Losses {
    fn add(&mut self, loss: f64) {
        self.sum += loss;
        self.count += 1;
    }

    fn mean(&self) -> f64 {
        self.sum / f64::from(self.count)
    }
}
