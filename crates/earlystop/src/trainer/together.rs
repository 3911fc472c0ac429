//! What the processes that train together agree on.

use std::fs::File;
use std::io;
use std::time::Duration;

use rand::RngCore as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::best::Restored;
use super::model::{Scores, seeded};
use super::state::{RunState, difference_of_processes};
use super::{Model, Trainer, data};
use crate::early_stopping::{Observation, StopReason};
use crate::error::{Error, Result};
use crate::processes::{Processes, Topic};
use crate::random::{Purpose, stream};
use crate::stop;

/// A run that the first process has resumed, but for its tensors.
#[derive(Serialize, Deserialize)]
struct Resumed {
    state: RunState,
    history: Vec<Observation>,
}

impl<M: Model> Trainer<M> {
    /// Finds out once whether all processes run the same program with the same settings and data, and copies the variables of the
    /// first one to all.
    pub(super) fn compare_processes(&mut self) -> Result<()> {
        if self.are_alike || !self.processes.are_several() {
            return Ok(());
        }
        let mut state = serde_json::to_value(self.state()).map_err(Error::other)?;
        if let Some(state) = state.as_object_mut() {
            state.retain(|name, _| ["settings", "environment", "test_data"].contains(&name.as_str()));
        }
        if !self.model.depends_on_threads()
            && let Some(threads) = state.pointer_mut("/environment/threads")
        {
            *threads = Value::Null;
        }
        state["program"] = json!(program());
        state["iteration"] = json!(self.iteration);
        let words = serde_json::to_vec(&state).map_err(Error::other)?;
        let met = self.processes.meet(Topic::Start, &words)?;
        let read = |words: &Vec<u8>| serde_json::from_slice::<Value>(words).unwrap_or_default();
        let first = met.first().map(read).unwrap_or_default();
        let others = met.iter().enumerate().skip(1);
        let differences: Vec<_> =
            others.flat_map(|(process, words)| difference_of_processes(&first, process, &read(words))).collect();
        if !differences.is_empty() {
            return Err(Error::ProcessesDiffer { differences });
        }
        self.copy_from_first()?;
        self.are_alike = true;
        Ok(())
    }

    /// Begins a call that trains to the iteration `end`.
    pub(super) fn begin_together(&mut self, end: u64, evaluates_at_end: bool) -> Result<()> {
        if !self.processes.are_several() {
            return Ok(());
        }
        let mut words = json!({ "iteration": self.iteration, "end": end, "evaluates at the end": evaluates_at_end });
        words["request"] = json!(stop::requested());
        let met = self.processes.meet(Topic::Train, words.to_string().as_bytes())?;
        let mut met =
            met.iter().map(|words| serde_json::from_slice::<Value>(words).unwrap_or_default()).collect::<Vec<_>>();
        let requests = met.iter_mut().map(|words| words["request"].take());
        self.requested = requests.filter_map(|request| serde_json::from_value(request).ok()).next();
        let others = met.iter().enumerate().skip(1);
        let differences: Vec<_> =
            others.flat_map(|(process, words)| difference_of_processes(&met[0], process, words)).collect();
        if differences.is_empty() { Ok(()) } else { Err(Error::ProcessesDiffer { differences }) }
    }

    /// Looks for requests to stop: a single process follows them at once, several when all know them.
    pub(super) fn listen(&mut self) {
        let is_known = self.requested.is_some() || self.pending.is_some();
        let failed = || stop::request("callback", "it has failed");
        let failed = (self.processes.are_several() && self.callbacks.have_failed()).then(failed);
        self.note_request(if is_known { None } else { failed.or_else(stop::requested) });
    }

    /// Takes note of a request to stop.
    pub(super) fn note_request(&mut self, request: Option<StopReason>) {
        let place = if self.processes.are_several() { &mut self.pending } else { &mut self.requested };
        *place = place.take().or(request);
    }

    /// Returns the request that the others do not know as JSON; nothing if there is none.
    pub(super) fn request_as_words(&self) -> Vec<u8> {
        self.pending.as_ref().and_then(|request| serde_json::to_vec(request).ok()).unwrap_or_default()
    }

    pub(super) fn request_of_words(words: &[u8]) -> Option<StopReason> {
        serde_json::from_slice(words).ok()
    }

    /// Shares requests that came after the last step.
    pub(super) fn agree_on_requests(&mut self) -> Result<()> {
        let met = self.processes.meet(Topic::End, &self.request_as_words())?;
        let request = met.iter().find_map(|words| Self::request_of_words(words));
        self.requested = self.requested.take().or(request);
        Ok(())
    }

    /// Returns the time that the first process has measured.
    pub(super) fn common_time(&self, measured: Duration) -> Result<Duration> {
        if !self.processes.are_several() {
            return Ok(measured);
        }
        let words = self.processes.meet_first(Topic::Time, &(measured.as_nanos() as u64).to_le_bytes())?;
        Ok(words.try_into().map_or(measured, |nanos| Duration::from_nanos(u64::from_le_bytes(nanos))))
    }

    /// Evaluates the last part of the training batch, where it is, and tells all processes its scores.
    pub(super) fn evaluate_last_part(&self, batch: Option<M::Batch>) -> Result<Scores> {
        let evaluate = |batch| self.evaluate_batches(&mut std::iter::once(Ok(batch)));
        let scores = batch.map(evaluate).transpose()?;
        if !self.processes.are_several() {
            return Ok(scores.unwrap_or_default());
        }
        // As bits, since JSON has no NaN.
        let bits = |scores: Scores| {
            scores.scores.into_iter().map(|(name, score)| (name, score.to_bits())).collect::<Vec<(String, u64)>>()
        };
        let words = serde_json::to_vec(&scores.map(bits).unwrap_or_default()).map_err(Error::other)?;
        let met = self.processes.meet(Topic::Scores, &words)?;
        let read = met.last().and_then(|words| serde_json::from_slice::<Vec<(String, u64)>>(words).ok());
        let scores = read.unwrap_or_default().into_iter().map(|(name, bits)| (name, f64::from_bits(bits))).collect();
        Ok(Scores { scores, correct: None })
    }

    /// Evaluates a data set, which these processes divide among them if the model can be evaluated batch by batch.
    pub(super) fn evaluate_set(
        &self,
        data: &dyn data::Data<Batch = M::Batch>,
        processes: &Processes,
    ) -> Result<Scores> {
        let size = self.model.evaluation_batch_size().max(1);
        let batch = |number: usize| {
            let indices = (number * size..data.len().min((number + 1) * size)).collect::<Vec<_>>();
            data.batch(&indices, 0)
        };
        let count = data.len().div_ceil(size);
        let Some(model) = self.model.by_batch() else {
            let scores = self.evaluate_batches(&mut (0..count).map(batch));
            // Each process has all of them; an error in one is an error in all.
            let scores = scores?;
            processes.meet(Topic::Scores, &[])?;
            return Ok(scores);
        };
        let _no_grad = tch::no_grad_guard();
        let mine = processes.mine(count);
        let mut seeds = stream(self.batches.seed(), Purpose::Evaluation, self.iteration);
        if self.model.draws_random_numbers() {
            for _ in 0..mine.start {
                seeds.next_u64(); // that of another process's batch
            }
        }
        let mut numbers = Vec::new();
        let mut batch = |number| Ok((batch(number)?, self.next_seed(&mut seeds)));
        if let Some(threads) = self.side_by_side() {
            numbers = threads.evaluate(mine, batch).collect::<Result<_>>()?;
        } else {
            let _one_thread = self.on_one_thread();
            for number in mine {
                let (batch, seed) = batch(number)?;
                numbers.push(seeded(seed, || model.evaluate_batch(&batch))?);
            }
        }
        if processes.are_several() {
            let words = words_of(&numbers);
            numbers = processes.meet(Topic::Scores, &words)?.iter().flat_map(|words| numbers_of(words)).collect();
        }
        model.combine(&numbers)
    }

    pub(super) fn evaluate_batches(&self, batches: super::BatchIter<M::Batch>) -> Result<Scores> {
        let _no_grad = tch::no_grad_guard();
        let mut seeds = stream(self.batches.seed(), Purpose::Evaluation, self.iteration);
        let _one_thread = self.on_one_thread();
        seeded(self.next_seed(&mut seeds), || self.model.evaluate(batches))
    }

    /// Tells all processes of the run that the first one has resumed, or that there is none.
    pub(super) fn share_resumed(&mut self, resumed: Result<bool>) -> Result<bool> {
        let resumed = self.processes.tell(resumed)?;
        if !self.processes.are_several() {
            return Ok(resumed);
        }
        let state = resumed.then(|| Resumed { state: self.state(), history: self.history().to_vec() });
        let words = serde_json::to_vec(&state).map_err(Error::other);
        let words = self.processes.tell(words)?;
        let words = self.processes.meet_first(Topic::Resume, &words)?;
        let Some(Resumed { state, history }) = serde_json::from_slice(&words).map_err(Error::other)? else {
            return Ok(false);
        };
        if !self.processes.is_first() {
            let missing = "its history is not whole";
            self.stopping = state.stopping.resume(self.stopping.rule().clone(), history, Some(missing))?;
            self.iteration = state.iteration;
            self.elapsed = state.elapsed;
            self.losses = state.losses;
            self.reductions = state.reductions.unwrap_or_default();
            self.lacks_evaluation = false;
            self.stopped = self.stopping.stop_reason(self.iteration);
        }
        self.requested = None;
        self.copy_from_first()?;
        Ok(true)
    }

    /// Tells all processes of the best variables that the first one has restored.
    pub(super) fn share_restored(&mut self, restored: Result<Restored>) -> Result<Restored> {
        let restored = self.processes.tell(restored)?;
        if !self.processes.are_several() {
            return Ok(restored);
        }
        let Restored { iteration, file, best_iteration, notes } = restored;
        let words = serde_json::to_vec(&(iteration, file, best_iteration, notes)).map_err(Error::other);
        let words = self.processes.tell(words)?;
        let words = self.processes.meet_first(Topic::Restore, &words)?;
        let (iteration, file, best_iteration, notes) = serde_json::from_slice(&words).map_err(Error::other)?;
        self.copy_from_first()?;
        Ok(Restored { iteration, file, best_iteration, notes })
    }

    /// Copies the first process's variables and optimizer state to all.
    fn copy_from_first(&self) -> Result<()> {
        self.tensors()?.iter().try_for_each(|named| self.processes.copy_from_first(&named.tensor()?))
    }
}

/// Encodes the numbers of batches: for each batch their count, followed by the numbers.
fn words_of(batches: &[Vec<f64>]) -> Vec<u8> {
    let mut words = Vec::new();
    for numbers in batches {
        words.extend((numbers.len() as u64).to_le_bytes());
        words.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }
    words
}

/// Decodes the numbers that one process has encoded with [`words_of`].
fn numbers_of(mut words: &[u8]) -> Vec<Vec<f64>> {
    let mut batches = Vec::new();
    while let Some((length, rest)) = words.split_first_chunk() {
        let (numbers, others) = rest.split_at(rest.len().min(8 * u64::from_le_bytes(*length) as usize));
        batches.push(
            numbers.chunks_exact(8).map(|word| f64::from_le_bytes(word.try_into().unwrap_or_default())).collect(),
        );
        words = others;
    }
    batches
}

/// Identifies the program that runs: the beginning of the SHA-256 of its file.
fn program() -> Option<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(std::env::current_exe().ok()?).ok()?;
    io::copy(&mut file, &mut hash).ok()?;
    Some(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
