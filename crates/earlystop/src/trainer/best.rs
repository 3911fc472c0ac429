//! The variables of the best evaluation: kept in memory while no checkpoint has them, and restored to the network.

use std::fmt;
use std::path::PathBuf;

use super::save::Snapshot;
use super::vanishing::{is_gone, while_files_go};
use super::{Model, Trainer};
use crate::checkpoint::{Checkpoint, NamedTensor, Savable, Saved, Saver, Skipped, Store};
use crate::error::{Error, Result, torch};
use crate::values::copy_values;

/// The best variables, where no checkpoint has them.
#[derive(Debug)]
pub(super) struct Best {
    is_wanted: bool,
    kept: Option<Snapshot>,
}

impl Best {
    /// `is_wanted`: whether there is memory for a copy.
    pub(super) fn new(is_wanted: bool) -> Self {
        Self { is_wanted, kept: None }
    }

    /// Says whether there is memory for a copy.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Takes out the copy if it was made before this iteration and is not saved; one that is saved stays.
    pub(super) fn take_unsaved(&mut self, iteration: u64) -> Option<Snapshot> {
        self.kept.take_if(|kept| !kept.is_saved && kept.iteration < iteration)
    }

    /// Keeps a copy, unless there is a better one.
    pub(super) fn keep(&mut self, copy: Snapshot) {
        let is_better = self.kept.as_ref().is_none_or(|kept| kept.iteration < copy.iteration);
        if self.is_wanted && is_better {
            self.kept = Some(copy);
        }
    }

    /// Takes out the copy.
    pub(super) fn take(&mut self) -> Option<Snapshot> {
        self.kept.take()
    }

    pub(super) fn forget(&mut self) {
        self.kept = None;
    }
}

/// Which variables [`Trainer::restore_best`] restored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// The iteration after which the variables had these values.
    pub iteration: u64,
    /// The checkpoint that they came from; nothing if they were in memory.
    pub file: Option<PathBuf>,
    /// The iteration of the best evaluation, as the stopping rule sees it.
    pub best_iteration: u64,
    /// Why better checkpoints could not be used.
    pub notes: Vec<String>,
}

impl Restored {
    /// Says whether these are the variables of the best evaluation.
    pub fn is_best(&self) -> bool {
        self.iteration == self.best_iteration
    }
}

/// Prints one line, and one for each note.
impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Restored the variables of iteration {} from ", self.iteration)?;
        match &self.file {
            Some(file) => write!(f, "{}", file.display())?,
            None => write!(f, "memory")?,
        }
        if !self.is_best() {
            write!(f, ", since those of the best, iteration {}, are not available", self.best_iteration)?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\nNote: {note}"))
    }
}

impl<M: Model> Trainer<M> {
    /// Restores the variables of the best evaluation, as the stopping rule sees it, and says where they came from.
    ///
    /// They are in memory if no folder is set or if saving them failed, else in a checkpoint. If neither has them any more,
    /// the best variables that are available are restored, and [`Restored::is_best`] is false. The optimizer's state is
    /// restored with them. The iteration, the history and the report stay as they are, so this belongs at the end of a run;
    /// to train further from the best evaluation, use [`Resume::best`](super::Resume::best). Reads only.
    ///
    /// # Errors
    ///
    /// If nothing was evaluated, or no variables of an improvement are available; the message says what to do. Nothing is
    /// changed then.
    pub fn restore_best(&mut self) -> Result<Restored> {
        self.compare_processes()?;
        let restored = if self.processes.is_first() {
            while_files_go(|is_last_try| self.try_to_restore_best(is_last_try))
        } else {
            Ok(Restored { iteration: 0, file: None, best_iteration: 0, notes: Vec::new() }) // until it knows better
        };
        self.share_restored(restored)
    }

    fn try_to_restore_best(&mut self, is_last_try: bool) -> Result<Restored> {
        let Some(best) = self.stopping.best() else {
            return Err(Error::NoBest {
                best: None,
                reason: format!("nothing was evaluated so far: {}", self.how_to_get_a_best()),
            });
        };
        let mut notes = Vec::new();
        let in_memory = self.best.kept.as_ref().map(|kept| kept.iteration);
        let in_file = match (self.commits.store(), in_memory) {
            (_, Some(kept)) if kept == best.iteration => None,
            (Some(store), _) => match best_file(store, best.iteration, is_last_try, &mut notes) {
                Ok(found) => found,
                Err(error) if !is_last_try && is_gone(&error) => return Err(error),
                Err(error) => {
                    notes.push(error.to_string());
                    None
                }
            },
            (None, _) => None,
        };
        let (iteration, file) = match (in_file, in_memory) {
            (Some(saved), kept) if kept.is_none_or(|kept| kept < saved.step) => {
                Saver::new().restore(&saved.path, &[self.model.variables(), &self.optimizer])?;
                (saved.step, Some(saved.path))
            }
            (_, Some(kept)) => {
                self.restore_kept()?;
                (kept, None)
            }
            (_, None) => return Err(self.no_best(best.iteration, notes)),
        };
        Ok(Restored { iteration, file, best_iteration: best.iteration, notes })
    }

    fn how_to_get_a_best(&self) -> &'static str {
        match self.commits.store() {
            Some(_) => "call resume() to continue the run in the folder, or optimize() to train",
            None => "call optimize() first",
        }
    }

    fn no_best(&self, best: u64, notes: Vec<String>) -> Error {
        let found = match self.commits.store() {
            Some(store) if notes.is_empty() => {
                format!("no checkpoint of an improvement in {}", store.folder().display())
            }
            Some(_) => notes.join("; "),
            None => "they are neither in memory nor in a checkpoint: set a folder with checkpoints(), or leave keep_best_in_memory() on".to_owned(),
        };
        Error::NoBest { best: Some(best), reason: found }
    }

    /// Keeps a copy of the current state, which is the best.
    pub(super) fn keep_best(&mut self) -> Result<()> {
        if !self.best.is_wanted {
            self.best.forget();
            return Ok(());
        }
        let spare = self.best.take().map(|kept| kept.tensors);
        let copies = copies_of(&self.tensors()?, spare)?;
        self.best.kept = Some(self.snapshot(copies)?);
        Ok(())
    }

    fn restore_kept(&mut self) -> Result<()> {
        match &self.best.kept {
            Some(kept) => copy(&kept.tensors, &self.tensors()?, "restoring the best variables"),
            None => Ok(()),
        }
    }

    /// Returns all named tensors of the run, which share memory with the live ones.
    pub(super) fn tensors(&self) -> Result<Vec<NamedTensor<'static>>> {
        let live = self.model.variables().tensors().into_iter().chain(self.optimizer.tensors());
        live.map(|named| {
            let tensor = named.tensor()?;
            Ok(NamedTensor::new(named.name, tensor).with_shape(named.shape))
        })
        .collect()
    }
}

/// Finds the checkpoint of the best evaluation, or else of the last improvement before it that can be used.
fn best_file(store: &Store, best: u64, is_last_try: bool, notes: &mut Vec<String>) -> Result<Option<Saved>> {
    let mut found = store.best_valid()?;
    if !is_last_try && let Some(gone) = found.skipped.iter().position(|Skipped { error, .. }| is_gone(error)) {
        return Err(found.skipped.swap_remove(gone).error);
    }
    notes.extend(found.skipped.iter().map(|Skipped { error, .. }| error.to_string()));
    let found_best = found.saved.as_ref().is_some_and(|saved| saved.step == best);
    if !found_best {
        // Another rule's best may be older than the folder's.
        let mut listed = store.list()?;
        listed.retain(|saved| saved.step == best);
        if let Some(saved) = listed.pop().and_then(|saved| store.local_copy(saved).ok())
            && Checkpoint::read(&saved.path).is_ok()
        {
            return Ok(Some(saved));
        }
    }
    Ok(found.saved)
}

/// Copies tensors, into the memory of earlier copies where there are some.
pub(super) fn copies_of(
    tensors: &[NamedTensor],
    spare: Option<Vec<NamedTensor<'static>>>,
) -> Result<Vec<NamedTensor<'static>>> {
    let empty = |named: &NamedTensor| {
        let tensor = named.tensor()?.f_detach().and_then(|tensor| tensor.f_empty_like());
        let tensor = tensor.map_err(torch("copying the variables"))?;
        Ok(NamedTensor::new(&*named.name, tensor).with_shape(named.shape.clone()))
    };
    let copies = match spare.filter(|spare| spare.len() == tensors.len()) {
        Some(spare) => spare,
        None => tensors.iter().map(empty).collect::<Result<_>>()?,
    };
    copy(tensors, &copies, "copying the variables")?;
    Ok(copies)
}

/// Copies the values of tensors into others of the same shapes.
fn copy(from: &[NamedTensor], to: &[NamedTensor], purpose: &str) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    from.iter().zip(to).try_for_each(|(from, to)| {
        let (from, to) = (from.tensor()?, to.tensor()?);
        to.f_detach().and_then(|mut to| copy_values(&from, &mut to)).map_err(torch(purpose))
    })
}
