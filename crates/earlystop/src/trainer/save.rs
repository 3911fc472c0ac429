//! What a save consists of: a state of the run, the evaluations that are new, and how they are written to the folder.

use super::history::{Lines, Written};
use crate::checkpoint::{Metadata, NamedTensor, Position, Store};
use crate::error::Result;

/// A state of the run: what a checkpoint of it contains.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) iteration: u64,
    /// Whether the stopping rule considers it the best so far.
    pub(super) is_best: bool,
    /// The variables and the optimizer's state: the live ones, or copies.
    pub(super) tensors: Vec<NamedTensor<'static>>,
    pub(super) metadata: Metadata,
    /// The number of evaluations in memory until then.
    pub(super) evaluations: usize,
    /// The position after them in the history, if they are in the folder.
    pub(super) position: Option<Position>,
    /// Whether a checkpoint in the folder has it.
    pub(super) is_saved: bool,
}

/// A save, for the thread that owns the store.
#[derive(Debug)]
pub(super) struct Job {
    /// The best state, if a save of it was skipped or has failed. It is saved first.
    pub(super) best: Option<Snapshot>,
    pub(super) now: Snapshot,
    pub(super) lines: Lines,
    /// The last commit that it made.
    pub(super) last_commit: Option<u64>,
}

/// The folder, as far as saving is concerned.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) store: Store,
    /// How much of the history is in it.
    pub(super) written: Written,
}

/// How a save ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Saved,
    /// The history in the folder is gone: all of it must be written again.
    NeedsWholeHistory,
}

impl Job {
    /// Saves what is not saved. May be called again after a failure.
    pub(super) fn perform(&mut self, folder: &mut Folder) -> Result<Outcome> {
        let Folder { store, written } = folder;
        for snapshot in self.best.iter_mut().chain([&mut self.now]).filter(|snapshot| !snapshot.is_saved) {
            // First, so that every checkpoint's history is on the disk.
            if snapshot.position.is_none() {
                match written.write(store, &self.lines, snapshot.evaluations)? {
                    Some(position) => snapshot.position = position,
                    None => return Ok(Outcome::NeedsWholeHistory),
                }
            }
            // Of the rule's improvements the last one is the best.
            let score = snapshot.is_best.then_some(snapshot.iteration as f64);
            let (metadata, position) = (&snapshot.metadata, snapshot.position.as_ref());
            let saved = store.save_with_history(snapshot.iteration, score, &[&snapshot.tensors], metadata, position)?;
            snapshot.is_saved = true;
            self.last_commit = Some(saved.commit);
        }
        Ok(Outcome::Saved)
    }
}
