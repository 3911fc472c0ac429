//! Threads that compute the parts of a batch side by side, each with a replica of the model.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use tch::Tensor;

use super::Model;
use super::buffers::Buffers;
use super::model::seeded;
use super::sum::Sum;
use crate::error::{Error, Result, torch};
use crate::network::OneThread;
use crate::optimizer::{Optimizer, Trainable};
use crate::random::{has_generators, with_libtorch_seeded};

/// How many jobs each thread has at most, so that it need not wait for the next one.
const AHEAD: usize = 2;

/// A part of a batch.
pub(super) struct Part<B> {
    pub(super) batch: B,
    pub(super) iteration: u64,
    /// Which share of the batch it is; at most 1.
    pub(super) share: f64,
    /// For libtorch's generators, if the model draws from them.
    pub(super) seed: Option<u64>,
}

impl<B> Part<B> {
    /// Computes the gradients of the part. Buffers have their earlier values afterwards.
    pub(super) fn compute<M>(&self, model: &M, optimizer: &Optimizer, buffers: Option<&mut Buffers>) -> Result<Sum>
    where
        M: Model<Batch = B>,
    {
        let buffers = buffers.map(Buffers::until_reset);
        let mut loss = seeded(self.seed, || model.loss(&self.batch, self.iteration))?;
        if self.share < 1.0 {
            loss *= self.share;
        }
        let tensors = optimizer.gradients(&loss)?;
        let mut sum = Sum { loss: loss.value(), tensors, on_one_thread: loss.is_networks() };
        if let Some(buffers) = buffers {
            sum.tensors.extend(buffers.changes(self.share)?);
        }
        Ok(sum)
    }
}

/// What a thread is to do, and where its answer goes.
enum Job<B> {
    Share(Shared, Sender<Answer<()>>),
    Part(Part<B>, Sender<Answer<(Sum, B)>>),
    Evaluate { batch: B, seed: Option<u64>, answer: Sender<Answer<Vec<f64>>> },
}

/// A result, or what the model has panicked with.
type Answer<T> = Result<Result<T>, Box<dyn Any + Send>>;

/// The tensors of the trained model, of which replicas use the same memory.
struct Shared {
    variables: Vec<(String, Tensor)>,
    buffers: Vec<(String, Tensor)>,
}

impl Shared {
    fn of(variables: &dyn Trainable) -> Result<Self> {
        let named = variables.variables_to_train().into_iter();
        let buffers = Buffers::sharing(variables, Vec::new())?;
        Ok(Self {
            variables: named.map(|named| Ok((named.name.clone(), named.tensor()?))).collect::<Result<_>>()?,
            buffers: buffers.tensors().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect(),
        })
    }
}

/// Threads on which libtorch computes with one thread each. None of them at all if there is to be only one: then the caller's is it.
pub(super) struct Threads<B> {
    workers: Vec<Worker<B>>,
}

struct Worker<B> {
    /// None when the thread is to end.
    jobs: Option<Sender<Job<B>>>,
    thread: Option<JoinHandle<()>>,
}

impl<B> Drop for Worker<B> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<B> Threads<B> {
    /// Starts threads, each of which makes a replica of the model with `replica` when it gets the model's variables.
    pub(super) fn start<M>(count: usize, replica: impl Fn() -> Result<M> + Clone + Send + 'static) -> Result<Self>
    where
        M: Model<Batch = B> + 'static,
        B: Send + 'static,
    {
        if count == 0 {
            return Err(Error::setting("number of threads", "at least 1", 0));
        }
        let start = |number| {
            let (jobs, received) = channel();
            let replica = replica.clone();
            let builder = thread::Builder::new().name(format!("earlystop-part-{number}"));
            let thread = builder.spawn(move || work(replica, received)).map_err(Error::other)?;
            Ok(Worker { jobs: Some(jobs), thread: Some(thread) })
        };
        let count = if count > 1 { count } else { 0 };
        Ok(Self { workers: (0..count).map(start).collect::<Result<_>>()? })
    }

    /// Says whether jobs can be given to them. They would wait for libtorch's generators while the calling thread has these.
    pub(super) fn are_ready(&self) -> bool {
        !self.workers.is_empty() && !has_generators()
    }

    /// Lets the replicas share the memory of the model's variables.
    pub(super) fn share(&self, variables: &dyn Trainable) -> Result<()> {
        if !self.are_ready() {
            return Ok(());
        }
        let begin = |number| {
            let (answer, received) = channel();
            self.begin(number, Job::Share(Shared::of(variables)?, answer));
            Ok(received)
        };
        Answers::new(0..self.workers.len(), self.workers.len(), begin).collect()
    }

    /// Computes the gradients of parts; returns them in the order of the parts.
    pub(super) fn compute<'a>(
        &'a self,
        numbers: Range<usize>,
        mut part: impl FnMut(usize) -> Result<Part<B>> + 'a,
    ) -> impl Iterator<Item = Result<(Sum, B)>> + 'a {
        Answers::new(numbers, AHEAD * self.workers.len(), move |number| {
            let (answer, received) = channel();
            self.begin(number, Job::Part(part(number)?, answer));
            Ok(received)
        })
    }

    /// Evaluates batches; returns their numbers in the order of the batches.
    pub(super) fn evaluate<'a>(
        &'a self,
        numbers: Range<usize>,
        mut batch: impl FnMut(usize) -> Result<(B, Option<u64>)> + 'a,
    ) -> impl Iterator<Item = Result<Vec<f64>>> + 'a {
        Answers::new(numbers, AHEAD * self.workers.len(), move |number| {
            let (answer, received) = channel();
            let (batch, seed) = batch(number)?;
            self.begin(number, Job::Evaluate { batch, seed, answer });
            Ok(received)
        })
    }

    /// Gives a job to one of the threads. If it has ended, the job's answer is that nothing will come.
    fn begin(&self, number: usize, job: Job<B>) {
        if let Some(jobs) = self.workers[number % self.workers.len()].jobs.as_ref() {
            let _ = jobs.send(job);
        }
    }
}

/// The answers to jobs in their order. Some jobs are begun ahead; all of these have ended when this is dropped.
struct Answers<T, F> {
    numbers: Range<usize>,
    ahead: usize,
    begin: F,
    waiting: VecDeque<Receiver<Answer<T>>>,
}

impl<T, F: FnMut(usize) -> Result<Receiver<Answer<T>>>> Answers<T, F> {
    fn new(numbers: Range<usize>, ahead: usize, begin: F) -> Self {
        Self { numbers, ahead, begin, waiting: VecDeque::new() }
    }
}

impl<T, F: FnMut(usize) -> Result<Receiver<Answer<T>>>> Iterator for Answers<T, F> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        while self.waiting.len() < self.ahead
            && let Some(number) = self.numbers.next()
        {
            match (self.begin)(number) {
                Ok(answer) => self.waiting.push_back(answer),
                Err(error) => return Some(Err(error)),
            }
        }
        let answer = self.waiting.pop_front()?.recv();
        Some(answer.map_or_else(
            |_| Err(Error::other("a thread that computes parts of a batch has ended")),
            |answer| answer.unwrap_or_else(|panic| resume_unwind(panic)),
        ))
    }
}

impl<T, F> Drop for Answers<T, F> {
    fn drop(&mut self) {
        while let Some(answer) = self.waiting.pop_front() {
            let _ = answer.recv();
        }
    }
}

/// A model that shares its variables with the trained one.
struct Replica<M> {
    model: M,
    optimizer: Optimizer,
    buffers: Buffers,
}

impl<M: Model> Replica<M> {
    fn new(model: M, shared: Shared) -> Result<Self> {
        let own = Shared::of(model.variables())?;
        expect_alike(&own.variables, &shared.variables)?;
        expect_alike(&own.buffers, &shared.buffers)?;
        for ((name, mut variable), (_, trained)) in own.variables.into_iter().zip(&shared.variables) {
            variable.f_set_data(&trained.detach()).map_err(torch(&*name))?;
            let _ = variable.f_requires_grad_(trained.requires_grad()).map_err(torch(name))?;
        }
        let optimizer = Optimizer::for_gradients(model.variables())?;
        let buffers = shared.buffers.into_iter().map(|(_, buffer)| buffer).collect();
        let buffers = Buffers::sharing(model.variables(), buffers)?;
        Ok(Self { model, optimizer, buffers })
    }

    fn compute(&mut self, part: &Part<M::Batch>) -> Result<Sum> {
        self.buffers.reset()?;
        let sum = part.compute(&self.model, &self.optimizer, Some(&mut self.buffers))?;
        Ok(Sum { on_one_thread: true, ..sum })
    }

    fn evaluate(&mut self, batch: &M::Batch, seed: Option<u64>) -> Result<Vec<f64>> {
        let _no_grad = tch::no_grad_guard();
        self.buffers.reset()?;
        let model = self.model.by_batch().ok_or_else(|| unlike("a way to evaluate it by batch", "none"))?;
        seeded(seed, || model.evaluate_batch(batch))
    }
}

/// Refuses a replica with other tensors than the trained model.
fn expect_alike(replica: &[(String, Tensor)], trained: &[(String, Tensor)]) -> Result<()> {
    let describe = |tensor: Option<&(String, Tensor)>| match tensor {
        Some((name, tensor)) => format!("{name:?} of {:?} and shape {:?}", tensor.kind(), tensor.size()),
        None => "no more tensors".to_owned(),
    };
    for index in 0..replica.len().max(trained.len()) {
        let [found, expected] = [replica, trained].map(|tensors| describe(tensors.get(index)));
        if found != expected {
            return Err(unlike(expected, found));
        }
    }
    Ok(())
}

fn unlike(expected: impl ToString, found: impl ToString) -> Error {
    Error::model("replica of the model", expected, found)
}

/// Does jobs until there will be no more.
fn work<M: Model>(new: impl Fn() -> Result<M>, jobs: Receiver<Job<M::Batch>>) {
    let _one_thread = OneThread::begin();
    let mut replica: Option<Replica<M>> = None;
    let missing = || Error::other("there is no replica of the model");
    for job in jobs {
        // Who does not wait for an answer does not need it.
        match job {
            Job::Share(shared, answer) => {
                let share = || {
                    // Its initial values may be random: other threads shall have the numbers that they would have anyway.
                    let new = || with_libtorch_seeded(0, &new);
                    let model = replica.take().map_or_else(new, |replica| Ok(replica.model))?;
                    replica = Some(Replica::new(model, shared)?);
                    Ok(())
                };
                let _ = answer.send(catch(share));
            }
            Job::Part(part, answer) => {
                let sum = catch(|| replica.as_mut().ok_or_else(missing)?.compute(&part));
                let _ = answer.send(sum.map(|sum| Ok((sum?, part.batch))));
            }
            Job::Evaluate { batch, seed, answer } => {
                let _ = answer.send(catch(|| replica.as_mut().ok_or_else(missing)?.evaluate(&batch, seed)));
            }
        }
    }
}

/// A replica is set back before each job, so that a panic leaves nothing behind.
fn catch<T>(work: impl FnOnce() -> Result<T>) -> Answer<T> {
    catch_unwind(AssertUnwindSafe(work))
}
