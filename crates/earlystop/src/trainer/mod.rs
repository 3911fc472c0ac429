//! The training loop for scripts: batches, steps, evaluations, checkpoints, early stopping, and resuming.
//!
//! Stands in for the tutorial's `optimize()`. A [`Trainer`] reports what happens through [`Event`]s, which print as the
//! tutorial's lines.
//!
//! # History
//!
//! The evaluations of a run are next to its checkpoints, in `history-0001.jsonl`: one line of JSON for each
//! [`Observation`], after a first line about the file itself. Each checkpoint records how
//! far the history went and its checksum. So saving takes the same time at the end of a long run as at its beginning. After
//! a crash, lines that belong to no checkpoint are cut off.
//!
//! A run that goes back to an earlier checkpoint continues in a new file, whose first line names the place in the one before.
//! A checkpoint copied without these files restores and resumes as always, since it contains the state of the stopping rule;
//! [`Event::Resumed`] notes what is missing. Only another stopping rule needs the whole history.

mod background;
mod best;
mod buffers;
mod builder;
mod callback;
mod commit;
mod event;
mod history;
mod images;
mod model;
mod parts;
mod policy;
mod resume;
mod save;
mod state;
mod sum;
mod threads;
mod together;
mod vanishing;
mod verify;

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rand::RngCore as _;
use rand_chacha::ChaCha8Rng;

pub use best::Restored;
pub use builder::TrainerBuilder;
pub use callback::{Callback, Progress};
pub use event::{Event, time_usage};
pub use model::{BatchIter, EvaluateByBatch, Model, Scores};
pub use policy::SavePolicy;
pub use resume::Resume;
pub use verify::verify_resume;

use crate::data::{self, Batches};
use crate::early_stopping::score::TRAIN_LOSS;
use crate::early_stopping::{EarlyStopping, Mistakes, Observation, Plateau, Reductions, StopReason, StopReport};
use crate::error::Result;
use crate::network::{Network, OneThread};
use crate::optimizer::Optimizer;
use crate::processes::Processes;
use crate::{kernels, stop};
use best::Best;
use callback::Callbacks;
use commit::Commits;
use model::are_finite;
use parts::Stepped;
use policy::Moment;
use state::{Fingerprints, Losses};
use threads::Threads;

/// The name of the held-out set that rules look at.
const VALIDATION: &str = "validation";
/// The name of a held-out set that decides nothing.
const TEST: &str = "test";

/// A data set of any type, for a model.
type AnyData<M> = Box<dyn data::Data<Batch = <M as Model>::Batch> + Send>;

/// Trains a model with early stopping, and can be resumed after any interruption with bit-identical results.
///
/// The model is a [`Network`] on images, or any other [`Model`]: see [`Trainer::for_model`].
///
/// ```
/// # use earlystop::ndarray::{Array1, Array3};
/// # let examples = |n| earlystop::Examples::new(Array3::from_shape_fn((n, 4, 4), |(i, y, x)| (i * 97 + y * 31 + x * 7) as u8), Array1::from_shape_fn(n, |i| (i % 10) as u8)).unwrap();
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
pub struct Trainer<M: Model = Network> {
    model: M,
    optimizer: Optimizer,
    train: AnyData<M>,
    /// The held-out sets and their names, the validation set first.
    held_out: Vec<(String, AnyData<M>)>,
    /// Fingerprints of the examples, computed when a checkpoint needs them.
    fingerprints: OnceLock<Fingerprints>,
    batches: Batches,
    /// In how many parts the gradient of a batch is computed.
    parts: usize,
    evaluate_every: u64,
    records_mistakes: bool,
    stopping: EarlyStopping,
    plateau: Option<Plateau>,
    /// The reductions of the learning rate by the plateau.
    reductions: Reductions,
    commits: Commits,
    best: Best,
    callbacks: Callbacks<M>,
    iteration: u64,
    /// Whether the evaluation after this iteration is missing, because it has failed.
    lacks_evaluation: bool,
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
    processes: Processes,
    /// The threads that compute parts side by side; none at all if libtorch has its threads.
    threads: Option<Threads<M::Batch>>,
    /// Whether this process and the others have found that they run the same program with the same settings and data.
    are_alike: bool,
    /// A request to stop that the other processes do not know yet.
    pending: Option<StopReason>,
}

/// Reports an event; returns a request to stop.
type Report<'a> = &'a mut dyn FnMut(&Event) -> Option<StopReason>;

impl<M: Model> Trainer<M> {
    /// Begins a trainer for a model of your own; see [`TrainerBuilder`] for its settings, and [`Model`] for an example.
    ///
    /// To use a data set in several places, put it into an [`Arc`](std::sync::Arc).
    pub fn for_model(
        model: M,
        optimizer: Optimizer,
        train: impl data::Data<Batch = M::Batch> + Send + 'static,
        validation: impl data::Data<Batch = M::Batch> + Send + 'static,
    ) -> TrainerBuilder<M> {
        TrainerBuilder::new(model, optimizer, train, validation)
    }

    /// Trains for up to `num_iterations` more iterations; fewer if the stopping rule ends the run or a stop is requested.
    ///
    /// Every 100 iterations (see [`TrainerBuilder::evaluate_every`]) and after the last one, the network is evaluated on the
    /// validation set. If a checkpoint folder is set, the complete state is then saved there (see
    /// [`TrainerBuilder::save_policy`] for other times). A run that its rule has stopped
    /// is not trained further: the call only reports.
    ///
    /// `on_event` is called with each [`Event`]. It may return nothing, or a [`Response`](stop::Response) that stops the
    /// training. Other requests to stop come from [callbacks](Callback), from signals and from a notebook's stop button, see
    /// [`stop`]. The training then finishes its iteration, saves its state even between evaluations, and returns a report with
    /// the reason. Call this function again, or resume in a new process, to continue as if nothing had happened.
    ///
    /// # Errors
    ///
    /// If the folder is in use by another process or contains another run; if another trainer continued the run after this
    /// one resumed it; or if a checkpoint cannot be written, see [`TrainerBuilder::stop_on_failed_save`]. Also any error of the model
    /// and its data, and the first error of a [callback](Callback). Checkpoints saved before stay valid, and everything in memory
    /// is kept: call this function again to repeat what has failed, and to continue.
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
        let report: Report = if self.processes.is_first() { report } else { &mut |_| None };
        let trained = self.train_on(end, evaluates_at_end, report);
        if trained.is_err() {
            // The first error counts.
            let _ = self.collect(true, report);
        }
        let trained = self.callbacks.take_error().map_or(trained, Err);
        self.processes.conclude(trained)
    }

    fn train_on(&mut self, end: u64, evaluates_at_end: bool, report: Report) -> Result<StopReport> {
        (self.requested, self.pending) = (None, None);
        self.compare_processes()?;
        self.begin_together(end, evaluates_at_end)?;
        let (start, before) = (Instant::now(), self.elapsed);
        let has_work = self.will_train(end) || self.lacks_evaluation || self.commits.has_failed();
        self.callbacks.prepare(end, has_work);
        if has_work {
            self.take_folder(report)?;
        }
        self.begin_callbacks()?;
        if has_work {
            self.note_machine(report);
        }
        // Checked here, not in each step: nobody can change the model's variables while this call trains it.
        self.optimizer.check(self.model.variables())?;
        self.share_variables()?;
        while self.will_train(end) || self.lacks_evaluation {
            self.collect(false, report)?;
            self.listen();
            if self.must_end() {
                break;
            }
            let is_end = |iteration| iteration == end && evaluates_at_end;
            let batch = if self.lacks_evaluation {
                self.last_part(self.iteration)? // the evaluation of an earlier call has failed
            } else {
                let Stepped { batch, loss, elapsed } = self.step(self.iteration + 1, || before + start.elapsed())?;
                self.iteration += 1;
                self.losses.add(loss);
                self.elapsed = elapsed;
                let is_due = self.iteration.is_multiple_of(self.evaluate_every);
                self.lacks_evaluation = is_due || is_end(self.iteration) || !loss.is_finite();
                self.step_callbacks(loss);
                batch
            };
            let (mut evaluated, mut is_reduced) = (None, false);
            if self.lacks_evaluation {
                let observation = self.observe(batch)?;
                self.elapsed = self.common_time(before + start.elapsed())?;
                let observation = Observation { elapsed: Some(self.elapsed), ..observation };
                let reductions = match &self.plateau {
                    Some(plateau) => plateau.next(self.reductions, &observation)?,
                    None => self.reductions,
                };
                let improved = self.stopping.record(observation.clone())?.improved;
                is_reduced = reductions.factor < self.reductions.factor;
                self.reductions = reductions;
                self.losses = Losses::default();
                self.lacks_evaluation = false;
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
            if self.stopped.is_some() || is_end(self.iteration) || self.commits.is_due(now) {
                self.commit(event, report)?;
            } else if let Some(event) = event {
                self.skip(event, report)?;
            }
            if is_reduced {
                let (iteration, learning_rate) = (self.iteration, self.learning_rate());
                self.ask(&Event::LearningRateReduced { iteration, learning_rate }, report);
            }
        }
        self.agree_on_requests()?;
        self.collect(true, report)?;
        // Without its evaluation, a resumed run would never have it.
        if (self.requested.is_some() || self.callbacks.have_failed()) && !self.lacks_evaluation {
            self.commit_if_unsaved(report)?;
            self.collect(true, report)?;
        }
        // Requests in answer to these come too late.
        if let Some(reason) = self.stopped.clone().or_else(|| self.requested.clone()) {
            self.tell(&Event::Stopped(reason), report);
        }
        self.tell(&Event::Finished { time: start.elapsed() }, report);
        self.commits.end()?;
        Ok(self.report())
    }

    fn will_train(&self, end: u64) -> bool {
        self.stopped.is_none() && !self.must_end() && self.iteration < end
    }

    /// Says whether a request or a failed callback ends the call. With several processes, a callback that fails is a request, since only
    /// the first process has callbacks.
    fn must_end(&self) -> bool {
        self.requested.is_some() || self.callbacks.have_failed() && !self.processes.are_several()
    }

    /// Reports once what makes training slow on this machine.
    fn note_machine(&mut self, report: Report) {
        if std::mem::replace(&mut self.noted, true) {
            return;
        }
        if self.threads.is_none() && self.model.depends_on_threads() && kernels::libtorchs_threads_spin() {
            self.ask(&Event::SpinningThreads, report);
        }
    }

    /// Reports an event and takes the answer.
    fn ask(&mut self, event: &Event, report: Report) {
        let request = self.tell(event, report);
        self.note_request(request);
    }

    /// Evaluates the model as it is now, on the last part of the training batch, which the last process has, and on the held-out sets.
    fn observe(&self, batch: Option<M::Batch>) -> Result<Observation> {
        let mut observation = Observation::of(self.iteration, [(TRAIN_LOSS, self.losses.mean())]);
        let mut add = |set: &str, scores: Scores| {
            for (name, score) in scores.scores {
                // The loss of a single batch is noisy.
                observation.scores.entry(format!("{set}_{name}")).or_insert(score);
            }
            scores.correct
        };
        add("train", self.evaluate_last_part(batch)?);
        let mut correct = None;
        for (name, set) in &self.held_out {
            let found = add(name, self.evaluate_set(&**set, &self.processes)?);
            if name == VALIDATION {
                correct = found;
            }
        }
        observation.epochs = Some(self.epochs());
        observation.mistakes = correct.filter(|_| self.records_mistakes).map(|correct| Mistakes::new(&correct));
        observation.weights_finite = are_finite(self.model.variables())?;
        Ok(observation)
    }

    /// Returns the number of completed epochs. It continues where a run goes on with other batches or data.
    fn epochs(&self) -> u64 {
        let now = self.batches.epochs(self.iteration);
        match self.stopping.last_epochs() {
            Some((iteration, epochs)) => epochs.saturating_add(now.saturating_sub(self.batches.epochs(iteration))),
            None => now,
        }
    }

    /// Evaluates the model as it is now on a data set, such as a test set. Each process that calls it evaluates the whole set.
    ///
    /// # Errors
    ///
    /// Any error of the data set or of the model.
    pub fn evaluate(&self, data: &impl data::Data<Batch = M::Batch>) -> Result<Scores> {
        self.share_variables()?;
        self.evaluate_set(data, &Processes::one())
    }

    /// Returns the next seed of libtorch's generators, if the model draws from them.
    fn next_seed(&self, seeds: &mut ChaCha8Rng) -> Option<u64> {
        self.model.draws_random_numbers().then(|| seeds.next_u64())
    }

    /// Lets the replicas of the model have its variables.
    fn share_variables(&self) -> Result<()> {
        self.threads.as_ref().map_or(Ok(()), |threads| threads.share(self.model.variables()))
    }

    /// Keeps libtorch to one thread, for what is computed here instead of on the threads that compute parts.
    fn on_one_thread(&self) -> Option<OneThread> {
        self.threads.is_some().then(OneThread::begin)
    }

    /// Returns the threads to which this one can give work.
    fn side_by_side(&self) -> Option<&Threads<M::Batch>> {
        self.threads.as_ref().filter(|threads| threads.are_ready())
    }

    /// Reports on the run so far: why it stopped, if it did, and its best evaluation.
    pub fn report(&self) -> StopReport {
        let report = self.stopping.report(self.iteration, self.elapsed);
        StopReport { reason: report.reason.or_else(|| self.requested.clone()), ..report }
    }

    /// Returns the model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Returns the model and drops the trainer.
    pub fn into_model(self) -> M {
        self.model
    }

    /// Returns the processes that train together.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// Returns the number of iterations made, including those before a resume.
    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    /// Returns the learning rate of the next step: that of the optimizer's schedule, multiplied by the reductions on
    /// [plateaus](TrainerBuilder::reduce_on_plateau).
    pub fn learning_rate(&self) -> f64 {
        self.optimizer.learning_rate() * self.reductions.factor
    }

    /// Returns all evaluations so far, including those before a resume.
    ///
    /// If a checkpoint was copied without its history, the first evaluations are missing; [`Event::Resumed`] says so.
    pub fn history(&self) -> &[Observation] {
        self.stopping.history()
    }
}

impl<M: Model> fmt::Debug for Trainer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer")
            .field("iteration", &self.iteration)
            .field("report", &self.report())
            .finish_non_exhaustive()
    }
}
