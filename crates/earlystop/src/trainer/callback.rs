//! Callbacks: they see each iteration, each event and the model, and may stop the run.

use std::time::Duration;

use super::{Event, Model, Report, Trainer};
use crate::early_stopping::{Best, EarlyStopping, Metric, Observation, StopReason};
use crate::error::{Error, Result};
use crate::optimizer::Schedule;
use crate::stop::Response;

/// Watches a run: sees each iteration, each [`Event`] and the model, and may stop the run with a reason.
///
/// Add one by [`TrainerBuilder::callback`](super::TrainerBuilder::callback). All functions have a default that does nothing.
/// Several callbacks are called in the order in which they were added, and before the `on_event` of [`Trainer::optimize`].
///
/// A closure of an event and the model is a callback as well. It returns what `on_event` may return, see [`Response`].
///
/// A callback cannot change the run other than by ending it. Where it ends the run, by a [`StopReason`] or an error, the trainer first
/// finishes the iteration and saves its state, so that the run can be continued with identical results.
///
/// ```
/// # use earlystop::ndarray::{Array1, Array3};
/// # let examples = |n| earlystop::Examples::new(Array3::from_shape_fn((n, 4, 4), |(i, y, x)| (i * 97 + y * 31 + x * 7) as u8), Array1::from_shape_fn(n, |i| (i % 10) as u8)).unwrap();
/// # let (train, validation) = (examples(200), examples(50));
/// # let network = earlystop::Network::builder([4, 4, 1]).flatten().softmax_classifier(10).build(tch::Device::Cpu)?;
/// # let optimizer = earlystop::Optimizer::adam(&network, 1e-2)?;
/// use earlystop::early_stopping::StopReason;
/// use earlystop::trainer::{Callback, Event, Model, Progress};
/// use earlystop::{Network, Result, Trainer};
///
/// /// Stops a run whose loss has become very small.
/// struct SmallLoss(f64);
///
/// impl<M: Model> Callback<M> for SmallLoss {
///     fn step(&mut self, progress: &Progress, _model: &M) -> Result<Option<StopReason>> {
///         let is_small = progress.loss().is_some_and(|loss| loss < self.0);
///         Ok(is_small.then(|| StopReason::requested("the loss is very small")))
///     }
/// }
///
/// let mut trainer = Trainer::builder(network, optimizer, &train, &validation)
///     .callback(SmallLoss(100.0))
///     .callback(|event: &Event, network: &Network| println!("{event} ({} classes)", network.num_classes()))
///     .build()?;
/// let report = trainer.optimize(1000, |_| ())?;
/// assert_eq!(report.iterations, 1);
/// assert_eq!(report.reason.unwrap().to_string(), "callback: the loss is very small");
/// # Ok::<(), earlystop::Error>(())
/// ```
///
/// # Errors
///
/// An error of any of the functions ends the call of [`Trainer::optimize`], which returns it. Nothing is lost: the state is kept in
/// memory and, if a folder is set, saved. Call `optimize` again to continue.
pub trait Callback<M: Model> {
    /// Called when a call of [`Trainer::optimize`] begins, after the checkpoint folder was locked and before the first iteration.
    /// Only events about the folder may come before it.
    ///
    /// # Errors
    ///
    /// Any error that is to end the call before its first iteration.
    fn begin(&mut self, progress: &Progress, model: &M) -> Result<()> {
        let _ = (progress, model);
        Ok(())
    }

    /// Called after each iteration, before the evaluation if one is due.
    ///
    /// # Errors
    ///
    /// Any error that is to end the call.
    fn step(&mut self, progress: &Progress, model: &M) -> Result<Option<StopReason>> {
        let _ = (progress, model);
        Ok(None)
    }

    /// Called for each event of a call of [`Trainer::optimize`]. A request to stop has no effect in answer to [`Event::Stopped`] and
    /// [`Event::Finished`].
    ///
    /// # Errors
    ///
    /// Any error that is to end the call.
    fn event(&mut self, event: &Event, progress: &Progress, model: &M) -> Result<Option<StopReason>> {
        let _ = (event, progress, model);
        Ok(None)
    }
}

/// Calls the closure with each event.
impl<M: Model, F, R> Callback<M> for F
where
    F: FnMut(&Event, &M) -> R,
    R: Response,
{
    fn event(&mut self, event: &Event, _progress: &Progress, model: &M) -> Result<Option<StopReason>> {
        Ok(self(event, model).into_request())
    }
}

/// How far a run is, for a [`Callback`].
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    pub(super) iteration: u64,
    pub(super) end: u64,
    pub(super) has_work: bool,
    pub(super) loss: Option<f64>,
    pub(super) schedule: Schedule,
    pub(super) elapsed: Duration,
    pub(super) stopping: &'a EarlyStopping,
}

impl<'a> Progress<'a> {
    /// Returns the number of iterations made, including those before a resume.
    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    /// Returns the iteration that the call trains to, unless the run is stopped before.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Says whether the call began with something to do: an iteration, an evaluation or a save. For a run that has ended, a call
    /// only reports.
    pub fn has_work(&self) -> bool {
        self.has_work
    }

    /// Returns the mean loss of the last training batch, or nothing before the first one of the trainer.
    pub fn loss(&self) -> Option<f64> {
        self.loss
    }

    /// Returns the learning rate of an iteration.
    pub fn learning_rate(&self, iteration: u64) -> f64 {
        self.schedule.at(iteration)
    }

    /// Returns the time spent on the run so far, including the time before a resume. Within a call it is that of the last iteration
    /// or evaluation.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Returns the score that decides which evaluation is the best.
    pub fn metric(&self) -> &'a Metric {
        self.stopping.metric()
    }

    /// Returns the best evaluation so far, as the stopping rule sees it.
    pub fn best(&self) -> Option<Best> {
        self.stopping.best()
    }

    /// Returns the iteration after which the stopping rule ends the run unless a later evaluation changes that, or nothing if the
    /// rule cannot know it yet.
    pub fn stop_at(&self) -> Option<u64> {
        self.stopping.stop_at()
    }

    /// Returns all evaluations so far, including those before a resume.
    pub fn history(&self) -> &'a [Observation] {
        self.stopping.history()
    }

    /// Returns the evaluations after an iteration, each with whether it was the best until then.
    #[cfg(feature = "logging")]
    pub(crate) fn evaluations_after(&self, iteration: u64) -> Result<Vec<(&'a Observation, bool)>> {
        if self.history().last().is_none_or(|last| last.iteration <= iteration) {
            return Ok(Vec::new());
        }
        let mut stopping = EarlyStopping::with(self.stopping.rule().clone())?;
        let mut judge =
            |observation: &'a Observation| Ok((observation, stopping.record(observation.clone())?.improved));
        let judged: Result<Vec<_>> = self.history().iter().map(&mut judge).collect();
        Ok(judged?.into_iter().filter(|(observation, _)| observation.iteration > iteration).collect())
    }
}

/// The callbacks of a trainer.
pub(super) struct Callbacks<M: Model> {
    list: Vec<Box<dyn Callback<M> + Send>>,
    /// The first error of the current call.
    error: Option<Error>,
    /// The iteration that the current call trains to.
    end: u64,
    has_work: bool,
    /// The loss of the last batch.
    loss: Option<f64>,
}

impl<M: Model> Callbacks<M> {
    pub(super) fn new(list: Vec<Box<dyn Callback<M> + Send>>) -> Self {
        Self { list, error: None, end: 0, has_work: false, loss: None }
    }

    /// Notes what the current call is to do.
    pub(super) fn prepare(&mut self, end: u64, has_work: bool) {
        (self.end, self.has_work) = (end, has_work);
    }

    /// Says whether one of them has failed in the current call.
    pub(super) fn have_failed(&self) -> bool {
        self.error.is_some()
    }

    /// Takes the error that ends the current call.
    pub(super) fn take_error(&mut self) -> Option<Error> {
        self.error.take()
    }
}

impl<M: Model> Trainer<M> {
    /// Tells the callbacks that a call begins.
    pub(super) fn begin_callbacks(&mut self) -> Result<()> {
        self.call(|callback, progress, model| callback.begin(progress, model).map(|()| None));
        self.callbacks.take_error().map_or(Ok(()), Err)
    }

    /// Tells the callbacks of an iteration and takes their answer.
    pub(super) fn step_callbacks(&mut self, loss: f64) {
        self.callbacks.loss = Some(loss);
        let request = self.call(|callback, progress, model| callback.step(progress, model));
        self.note_request(request);
    }

    /// Reports an event to the callbacks and the caller; returns the first request to stop.
    pub(super) fn tell(&mut self, event: &Event, report: Report) -> Option<StopReason> {
        let request = self.call(|callback, progress, model| callback.event(event, progress, model));
        let answer = report(event);
        request.or(answer)
    }

    /// Calls all callbacks; returns the first request to stop and keeps the first error.
    fn call(
        &mut self,
        mut call: impl FnMut(&mut dyn Callback<M>, &Progress, &M) -> Result<Option<StopReason>>,
    ) -> Option<StopReason> {
        let Callbacks { list, error, end, has_work, loss } = &mut self.callbacks;
        if list.is_empty() {
            return None;
        }
        let progress = Progress {
            iteration: self.iteration,
            end: *end,
            has_work: *has_work,
            loss: *loss,
            schedule: self.optimizer.schedule(),
            elapsed: self.elapsed,
            stopping: &self.stopping,
        };
        let mut request = None;
        for callback in list {
            match call(&mut **callback, &progress, &self.model) {
                Ok(answer) => request = request.or(answer),
                Err(failure) => *error = error.take().or(Some(failure)),
            }
        }
        request
    }
}
