//! The parts of a batch: their gradients are added in an order that depends on nothing but their number.

use std::ops::Range;
use std::time::Duration;

use rand::RngCore as _;

use super::{Model, Trainer};
use crate::error::{Error, Result};
use crate::optimizer::Gradients;
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

/// The sum of some parts of a batch.
struct Sum {
    loss: f64,
    gradients: Gradients,
}

impl Sum {
    fn add(self, other: Self) -> Result<Self> {
        Ok(Self { loss: self.loss + other.loss, gradients: self.gradients.add(other.gradients)? })
    }
}

/// Adds up parts as a binary tree: the first half of them, the second half, and then both sums.
fn add_up<T>(
    parts: Range<usize>,
    of: &mut impl FnMut(usize) -> Result<T>,
    add: &impl Fn(T, T) -> Result<T>,
) -> Result<T> {
    if parts.len() == 1 {
        return of(parts.start);
    }
    let middle = parts.start + parts.len().div_ceil(2);
    let first = add_up(parts.start..middle, of, add)?;
    let second = add_up(middle..parts.end, of, add)?;
    add(first, second)
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

    /// Makes a step: computes this process's parts of the gradient, adds those of all, and updates the variables.
    pub(super) fn step(&mut self, iteration: u64, elapsed: impl Fn() -> Duration) -> Result<Stepped<M::Batch>> {
        let indices = self.batches.indices(iteration);
        let following = self.batches.indices(iteration + 1);
        let mine = self.processes.mine(self.parts);
        let mut seeds = stream(self.batches.seed(), Purpose::Step, iteration);
        for _ in 0..mine.start {
            seeds.next_u64(); // that of another process's part
        }
        let mut batch = None;
        let mut part = |number: usize| {
            batch = None; // its memory, before that of the next one
            let part = &indices[self.part(number)];
            let current = batch.insert(self.train.batch(part, iteration)?);
            match number + 1 {
                next if next < mine.end => self.train.announce(&indices[self.part(next)], iteration),
                _ => self.train.announce(&following[self.part(mine.start)], iteration + 1),
            }
            let mut loss = self.seeded(&mut seeds, || self.model.loss(current, iteration))?;
            if part.len() < indices.len() {
                loss *= part.len() as f64 / indices.len() as f64;
            }
            Ok(Sum { loss: loss.value(), gradients: self.optimizer.gradients(&loss)? })
        };
        let sum = add_up(mine.clone(), &mut part, &Sum::add)?;
        let (sum, elapsed) = self.add_processes(sum, elapsed())?;
        self.optimizer.update(&sum.gradients, self.reductions.factor)?;
        let batch = batch.filter(|_| mine.end == self.parts);
        Ok(Stepped { batch, loss: sum.loss, elapsed })
    }

    /// Adds the sums of all processes, and learns of requests to stop.
    fn add_processes(&mut self, sum: Sum, elapsed: Duration) -> Result<(Sum, Duration)> {
        if !self.processes.are_several() {
            return Ok((sum, elapsed));
        }
        let present = sum.gradients.are_present();
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
        let gradients = self.optimizer.in_rows(sum.gradients, &present, |row| self.processes.add_up(row))?;
        Ok((Sum { loss, gradients }, first_elapsed.unwrap_or(elapsed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree as text: `((0+1)+2)`.
    fn tree(parts: Range<usize>) -> String {
        add_up(parts, &mut |part| Ok(part.to_string()), &|a, b| Ok(format!("({a}+{b})"))).unwrap()
    }

    #[test]
    fn parts_are_added_as_a_tree_of_halves() {
        assert_eq!(tree(0..1), "0");
        assert_eq!(tree(0..2), "(0+1)");
        assert_eq!(tree(0..3), "((0+1)+2)");
        assert_eq!(tree(0..6), "(((0+1)+2)+((3+4)+5))");
    }

    #[test]
    fn the_share_of_each_process_is_a_branch_of_the_tree() {
        for parts in [4, 8, 12, 20, 28] {
            for processes in [1, 2, 4] {
                let share = |process: usize| tree(process * parts / processes..(process + 1) * parts / processes);
                let shares = (0..processes).map(share).collect::<Vec<_>>();
                let together =
                    add_up(0..processes, &mut |process| Ok(shares[process].clone()), &|a, b| Ok(format!("({a}+{b})")));
                assert_eq!(together.unwrap(), tree(0..parts), "{parts} parts, {processes} processes");
            }
        }
    }
}
