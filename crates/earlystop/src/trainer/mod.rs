//! The training loop for scripts: batches, steps, evaluations, checkpoints, early stopping, and resuming.
//!
//! Stands in for the tutorial's `optimize()`. A [`Trainer`] reports what happens through [`Event`]s, which print as the
//! tutorial's lines.
//!
//! # History
//!
//! The evaluations of a run are beside its checkpoints, in `history-0001.jsonl`: one line of JSON for each
//! [`Observation`](crate::early_stopping::Observation), after a first line about the file itself. Each checkpoint records how
//! far the history went and its checksum. So saving takes the same time at the end of a long run as at its beginning. After
//! a crash, lines that belong to no checkpoint are cut off.
//!
//! A run that goes back to an earlier checkpoint continues in a new file, whose first line names the place in the one before.
//! A checkpoint copied without these files restores and resumes as always, since it contains the state of the stopping rule;
//! [`Event::Resumed`] notes what is missing. Only another stopping rule needs the whole history.

mod background;
mod best;
mod builder;
mod commit;
mod evaluation;
mod event;
mod history;
mod policy;
mod resume;
mod save;
mod state;
mod verify;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub use best::{Restored, RestoredFrom};
pub use builder::{FailedSave, TrainerBuilder};
pub use evaluation::{Evaluation, evaluate, evaluate_in};
pub use event::{Event, time_usage};
pub use policy::SavePolicy;
pub use resume::Resume;
pub use verify::verify_resume;

use crate::early_stopping::{EarlyStopping, Mistakes, Observation, StopReason, StopReport};
use crate::error::Result;
use crate::mnist::Examples;
use crate::network::{Network, Precision};
use crate::optimizer::{Batches, Optimizer};
use crate::{kernels, stop};
use best::Best;
use commit::Commits;
use evaluation::{batch, batch_accuracy};
use policy::Moment;
use state::{Data, Losses};

/// Trains a network with early stopping, and can be resumed after any interruption with bit-identical results.
///
/// ```
/// # use earlystop::ndarray::{Array1, Array3};
/// # let examples = |n| earlystop::mnist::Examples::new(Array3::from_shape_fn((n, 4, 4), |(i, y, x)| (i * 97 + y * 31 + x * 7) as u8), Array1::from_shape_fn(n, |i| (i % 10) as u8)).unwrap();
/// # let (train, validation) = (examples(200), examples(50));
/// # let folder = tempfile::tempdir().unwrap();
/// use earlystop::{Optimizer, Network, Trainer};
/// use tch::Device;
///
/// let network = Network::builder([4, 4, 1]).flatten().softmax_classifier(10).build(Device::Cpu)?;
/// let optimizer = Optimizer::adam(&network, 1e-2)?;
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
    optimizer: Optimizer,
    train: Examples,
    validation: Examples,
    test: Option<Examples>,
    /// Fingerprints of the examples, computed when a checkpoint needs them.
    data: OnceLock<Data>,
    batches: Batches,
    evaluate_every: u64,
    evaluation_precision: Precision,
    records_mistakes: bool,
    stopping: EarlyStopping,
    commits: Commits,
    best: Best,
    iteration: u64,
    /// Training losses since the last evaluation.
    losses: Losses,
    /// Time spent in earlier calls and earlier processes.
    elapsed: Duration,
    /// The rule's verdict.
    stopped: Option<StopReason>,
    /// A request that stopped the last call; no verdict on the run.
    requested: Option<StopReason>,
    /// Whether the notes on this machine were reported.
    noted: bool,
}

/// Reports an event; returns a request to stop.
type Report<'a> = &'a mut dyn FnMut(&Event) -> Option<StopReason>;

impl Trainer {
    /// Begins a trainer; see [`TrainerBuilder`] for its settings.
    pub fn builder(network: Network, optimizer: Optimizer, train: &Examples, validation: &Examples) -> TrainerBuilder {
        TrainerBuilder::new(network, optimizer, train, validation)
    }

    /// Trains for up to `num_iterations` more iterations; fewer if the stopping rule ends the run or a stop is requested.
    ///
    /// Every 100 iterations (see [`TrainerBuilder::evaluate_every`]) and after the last one, the network is evaluated on the
    /// validation set. If a checkpoint folder is set, the complete state is then saved there (see
    /// [`TrainerBuilder::save_policy`] for other times). A run that its rule has stopped
    /// is not trained further: the call only reports.
    ///
    /// `on_event` is called with each [`Event`]. It may return nothing, or a [`Response`](stop::Response) that stops the
    /// training. Other requests to stop come from signals and from a notebook's stop button, see [`stop`]. The training then
    /// finishes its iteration, saves its state even between evaluations, and returns a report with the reason. Call this
    /// function again, or resume in a new process, to continue as if nothing had happened.
    ///
    /// # Errors
    ///
    /// If the folder is in use by another process or contains another run; if another trainer continued the run after this
    /// one resumed it; or if a checkpoint cannot be written, see [`TrainerBuilder::on_failed_save`]. Checkpoints saved before
    /// stay valid, and everything in memory is kept: call this function again to save and to continue.
    pub fn optimize<R: stop::Response>(
        &mut self,
        num_iterations: u64,
        on_event: impl FnMut(&Event) -> R,
    ) -> Result<StopReport> {
        self.optimize_to(self.iteration.saturating_add(num_iterations), on_event)
    }

    /// Trains until `iteration` iterations were made in total, including those before a resume; fewer if the rule ends the
    /// run or a stop is requested.
    ///
    /// # Errors
    ///
    /// As [`Trainer::optimize`].
    pub fn optimize_to<R: stop::Response>(
        &mut self,
        iteration: u64,
        mut on_event: impl FnMut(&Event) -> R,
    ) -> Result<StopReport> {
        self.train(iteration, true, &mut |event| on_event(event).into_request())
    }

    /// Trains until `end`, and evaluates there if the caller wants it.
    fn train(&mut self, end: u64, evaluates_at_end: bool, report: Report) -> Result<StopReport> {
        let trained = self.train_on(end, evaluates_at_end, report);
        if trained.is_err() {
            // The first error counts.
            let _ = self.collect(true, report);
        }
        trained
    }

    fn train_on(&mut self, end: u64, evaluates_at_end: bool, report: Report) -> Result<StopReport> {
        self.requested = None;
        let (start, before) = (Instant::now(), self.elapsed);
        if self.will_train(end) || self.commits.has_failed() {
            self.take_folder(report)?;
            self.note_machine(report);
        }
        while self.will_train(end) {
            self.collect(false, report)?;
            self.requested = self.requested.take().or_else(stop::requested);
            if self.requested.is_some() {
                break;
            }
            let (images, labels) = batch(&self.train, &self.batches.indices(self.iteration + 1))?;
            let loss = self.network.training_loss(&images, &labels, self.iteration + 1)?;
            self.optimizer.minimize(&loss, &mut self.network)?;
            let loss = loss.value();
            self.iteration += 1;
            self.losses.add(loss);
            self.elapsed = before + start.elapsed();

            let is_end = self.iteration == end && evaluates_at_end;
            let mut evaluated = None;
            if self.iteration.is_multiple_of(self.evaluate_every) || is_end || !loss.is_finite() {
                let train_accuracy = batch_accuracy(&self.network, &images, &labels)?;
                let observation = self.observe(train_accuracy)?;
                self.elapsed = before + start.elapsed();
                let observation = Observation { elapsed: Some(self.elapsed), ..observation };
                let improved = self.stopping.record(observation.clone())?.improved;
                self.losses = Losses::default();
                evaluated = Some((observation, improved));
            }
            self.stopped = self.stopping.stop_reason(self.iteration);
            let now = Moment {
                iteration: self.iteration,
                is_evaluated: evaluated.is_some(),
                is_improved: evaluated.as_ref().is_some_and(|&(_, improved)| improved),
                unsaved: self.elapsed.saturating_sub(self.commits.saved_elapsed),
            };
            let event = evaluated.map(|(observation, improved)| Event::Evaluated { observation, improved });
            if self.stopped.is_some() || is_end || self.commits.is_due(now) {
                self.commit(event, report)?;
            } else if let Some(event) = event {
                self.skip(event, report)?;
            }
        }
        self.collect(true, report)?;
        if self.requested.is_some() {
            self.commit_if_unsaved(report)?;
            self.collect(true, report)?;
        }
        if let Some(reason) = self.stopped.as_ref().or(self.requested.as_ref()) {
            report(&Event::Stopped(reason.clone()));
        }
        report(&Event::Finished { time: start.elapsed() });
        self.commits.end()?;
        Ok(self.report())
    }

    fn will_train(&self, end: u64) -> bool {
        self.stopped.is_none() && self.requested.is_none() && self.iteration < end
    }

    /// Reports once what makes training slow on this machine.
    fn note_machine(&mut self, report: Report) {
        if std::mem::replace(&mut self.noted, true) {
            return;
        }
        let precisions = [self.network.description().precision, self.evaluation_precision];
        if !precisions.into_iter().all(Precision::is_native) {
            self.ask(&Event::SlowPrecision, report);
        }
        if kernels::threads_spin() {
            self.ask(&Event::SpinningThreads, report);
        }
    }

    /// Reports an event and takes the answer.
    fn ask(&mut self, event: &Event, report: Report) {
        let request = report(event);
        self.requested = self.requested.take().or(request);
    }

    /// Evaluates the network as it is now.
    fn observe(&self, train_accuracy: f64) -> Result<Observation> {
        let evaluate = |examples: &Examples| evaluate_in(&self.network, examples, self.evaluation_precision);
        let validation = evaluate(&self.validation)?;
        let test = self.test.as_ref().map(evaluate).transpose()?;
        let mut observation = Observation::new(self.iteration, validation.accuracy())
            .with("validation_loss", validation.loss)
            .with("train_loss", self.losses.mean())
            .with("train_accuracy", train_accuracy);
        if let Some(test) = test {
            observation = observation.with("test_accuracy", test.accuracy());
        }
        Ok(Observation {
            mistakes: self.records_mistakes.then(|| Mistakes::new(&validation.correct)),
            weights_finite: self.network.variables().are_finite(),
            ..observation
        })
    }

    /// Reports on the run so far: why it stopped, if it did, and its best evaluation.
    pub fn report(&self) -> StopReport {
        let report = self.stopping.report(self.iteration, self.elapsed);
        StopReport { reason: report.reason.or_else(|| self.requested.clone()), ..report }
    }

    /// Returns the network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Returns the network and drops the trainer.
    pub fn into_network(self) -> Network {
        self.network
    }

    /// Returns the number of iterations made, including those before a resume.
    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    /// Returns all evaluations so far, including those before a resume.
    ///
    /// If a checkpoint was copied without its history, the first evaluations are missing; [`Event::Resumed`] says so.
    pub fn history(&self) -> &[Observation] {
        self.stopping.history()
    }
}
