//! A step: the parts of a batch are added in an order that depends on nothing but their number.

use std::ops::Range;
use std::time::Duration;

use rand::RngCore as _;
use tch::Tensor;

use super::buffers::Buffers;
use super::sum::{Sum, add_up};
use super::threads::Part;
use super::{Model, Trainer};
use crate::error::{Error, Result};
use crate::processes::Topic;
use crate::random::{Purpose, stream};

/// What a step has done.
pub(super) struct Stepped<B> {
    /// The last part of the batch, if this process has computed it.
    pub(super) batch: Option<B>,
    /// The mean loss of the whole batch.
    pub(super) loss: f64,
    /// The time spent on the run, as the first process measures it.
    pub(super) elapsed: Duration,
}

impl<M: Model> Trainer<M> {
    /// Returns which examples of a batch are in a part: equally many in each, but for one. No part is empty.
    fn part(&self, number: usize) -> Range<usize> {
        let begin = |number: usize| (number * self.batches.batch_size()).div_ceil(self.parts);
        begin(number)..begin(number + 1)
    }

    /// Returns the last part of the batch of an iteration, if this process computes it.
    pub(super) fn last_part(&mut self, iteration: u64) -> Result<Option<M::Batch>> {
        let last = self.parts - 1;
        if !self.processes.mine(self.parts).contains(&last) {
            return Ok(None);
        }
        let indices = self.batches.indices(iteration);
        self.train.batch(&indices[self.part(last)], iteration).map(Some)
    }

    /// Makes a step: computes this process's parts of the gradient, adds those of all, and updates the variables and the buffers.
    pub(super) fn step(&mut self, iteration: u64, elapsed: impl Fn() -> Duration) -> Result<Stepped<M::Batch>> {
        let indices = self.batches.indices(iteration);
        let following = self.batches.indices(iteration + 1);
        let mine = self.processes.mine(self.parts);
        // A model whose batches are whole changes its buffers as it likes.
        let mut buffers = (self.parts > 1).then(|| Buffers::of(self.model.variables())).transpose()?;
        let mut seeds = stream(self.batches.seed(), Purpose::Step, iteration);
        for _ in 0..mine.start {
            seeds.next_u64(); // that of another process's part
        }
        let mut part = |number: usize| {
            let part = &indices[self.part(number)];
            let batch = self.train.batch(part, iteration)?;
            match number + 1 {
                next if next < mine.end => self.train.announce(&indices[self.part(next)], iteration),
                _ => self.train.announce(&following[self.part(mine.start)], iteration + 1),
            }
            let share = part.len() as f64 / indices.len() as f64;
            Ok(Part { batch, iteration, share, seed: self.next_seed(&mut seeds) })
        };
        let mut batch = None;
        let sum = match self.side_by_side().filter(|_| self.parts > 1) {
            Some(threads) => {
                let mut sums = threads.compute(mine.clone(), part);
                let mut next = |_| {
                    let (sum, last) = sums.next().unwrap_or_else(|| Err(Error::other("a part is missing")))?;
                    batch = Some(last);
                    Ok(sum)
                };
                add_up(mine.clone(), &mut next, &Sum::add)?
            }
            None => {
                let _one_thread = self.on_one_thread();
                let mut compute = |number| {
                    batch = None; // its memory, before that of the next one
                    let part = part(number)?;
                    let sum = part.compute(&self.model, &self.optimizer, buffers.as_mut())?;
                    batch = Some(part.batch);
                    Ok(Sum { on_one_thread: sum.on_one_thread || self.threads.is_some(), ..sum })
                };
                add_up(mine.clone(), &mut compute, &Sum::add)?
            }
        };
        let (Sum { loss, tensors, .. }, elapsed) = self.add_processes(sum, buffers.as_ref(), elapsed())?;
        let (gradients, changes) = tensors.split_at(self.optimizer.rows().count());
        self.optimizer.update(gradients, self.reductions.factor)?;
        buffers.as_mut().map_or(Ok(()), |buffers| buffers.add(changes))?;
        Ok(Stepped { batch: batch.filter(|_| mine.end == self.parts), loss, elapsed })
    }

    /// Adds the sums of all processes, and learns of requests to stop.
    fn add_processes(&mut self, sum: Sum, buffers: Option<&Buffers>, elapsed: Duration) -> Result<(Sum, Duration)> {
        if !self.processes.are_several() {
            return Ok((sum, elapsed));
        }
        let mut like: Vec<_> = self.optimizer.rows().map(Tensor::shallow_clone).collect();
        like.extend(buffers.map_or(Ok(Vec::new()), Buffers::like_changes)?);
        let present = sum.are_present();
        let mut words = sum.loss.to_le_bytes().to_vec();
        words.extend((elapsed.as_nanos() as u64).to_le_bytes());
        words.extend(
            present.chunks(8).map(|flags| flags.iter().rev().fold(0, |byte, &flag| byte << 1 | u8::from(flag))),
        );
        words.extend(self.request_as_words());
        let mut losses = Vec::new();
        let mut first_elapsed = None;
        let mut present = vec![false; present.len()];
        let mut request = None;
        for words in self.processes.meet(Topic::Step, &words)? {
            let out_of_step = || Error::other("another process sent a message of another length");
            let (head, rest) = words.split_at_checked(16).ok_or_else(out_of_step)?;
            let (flags, request_words) = rest.split_at_checked(present.len().div_ceil(8)).ok_or_else(out_of_step)?;
            let [loss, nanos] = [0, 8].map(|at| head[at..at + 8].try_into().unwrap_or_default());
            losses.push(f64::from_le_bytes(loss));
            first_elapsed.get_or_insert(Duration::from_nanos(u64::from_le_bytes(nanos)));
            for (index, present) in present.iter_mut().enumerate() {
                *present |= flags[index / 8] >> (index % 8) & 1 == 1;
            }
            request = request.or_else(|| Self::request_of_words(request_words));
        }
        self.requested = self.requested.take().or(request);
        let loss = add_up(0..losses.len(), &mut |process| Ok(losses[process]), &|a, b| Ok(a + b))?;
        let sum = sum.in_rows(&like, &present, |row| self.processes.add_up(row))?;
        Ok((Sum { loss, ..sum }, first_elapsed.unwrap_or(elapsed)))
    }
}
