//! The history of a run: complete in memory, and in the checkpoint folder as far as it is saved.

use std::path::Path;

use crate::checkpoint::{FoundHistory, Position, Store, read_history};
use crate::early_stopping::Observation;
use crate::error::{Error, Result};

/// How much of the history is in the files of the folder.
#[derive(Debug, Clone, Default)]
pub(super) struct Written {
    /// The end of the evaluations that are missing in memory.
    missing: Option<Position>,
    /// The end of the evaluations in the folder, if there are any.
    end: Option<Position>,
    /// The number of evaluations in memory up to that end.
    evaluations: usize,
    /// Whether other evaluations than those to come may follow in the file.
    branches: bool,
}

impl Written {
    /// Forgets what is in a folder: it belongs to another run, or was deleted.
    pub(super) fn forget_folder(&mut self) {
        *self = Self { missing: self.missing.take(), ..Self::default() };
    }

    /// Notes that the run went back to an earlier checkpoint, from which another part of it continued.
    pub(super) fn branch(&mut self) {
        self.branches = true;
    }

    /// Returns the lines of the evaluations in memory that are not in the folder.
    pub(super) fn unwritten(&self, history: &[Observation]) -> Result<Lines> {
        Lines::of(history, self.evaluations.min(history.len()))
    }

    /// Writes what is not written of the first `evaluations` in memory, and returns the position after them: nothing in it
    /// before the first evaluation. Returns nothing if the folder has lost what was in it and `new` is not the whole history.
    pub(super) fn write(
        &mut self,
        store: &mut Store,
        new: &Lines,
        evaluations: usize,
    ) -> Result<Option<Option<Position>>> {
        if evaluations <= self.evaluations {
            // Before the first evaluation there may be others in another folder.
            return Ok(Some(self.end.as_ref().or(self.missing.as_ref()).cloned()));
        }
        let end = match &self.end {
            Some(end) if self.branches => {
                Some(store.begin_history(Some(end), new.range(self.evaluations, evaluations))?)
            }
            Some(end) => store.append_history(end, new.range(self.evaluations, evaluations))?,
            None => None,
        };
        let end = match end {
            Some(end) => end,
            None => {
                self.forget_folder();
                if new.first > 0 {
                    return Ok(None);
                }
                store.begin_history(self.missing.as_ref(), new.range(0, evaluations))?
            }
        };
        self.end = Some(end.clone());
        self.evaluations = evaluations;
        self.branches = false;
        Ok(Some(Some(end)))
    }
}

/// Evaluations as lines of the history.
#[derive(Debug)]
pub(super) struct Lines {
    /// The position of the first one in memory.
    first: usize,
    lines: Vec<Vec<u8>>,
}

impl Lines {
    /// Writes the evaluations from the one at `first` on as lines.
    pub(super) fn of(history: &[Observation], first: usize) -> Result<Self> {
        let line = |observation: &Observation| {
            let mut line = serde_json::to_vec(observation)
                .map_err(|error| Error::history("evaluation", "one that can be saved", error))?;
            line.push(b'\n');
            Ok(line)
        };
        let lines = history.get(first..).unwrap_or_default().iter().map(line).collect::<Result<_>>()?;
        Ok(Self { first, lines })
    }

    /// The lines of the evaluations of these positions in memory.
    fn range(&self, start: usize, end: usize) -> &[Vec<u8>] {
        self.lines.get(start.saturating_sub(self.first)..end.saturating_sub(self.first)).unwrap_or_default()
    }
}

/// The history of a checkpoint, as far as it could be read.
pub(super) struct Found {
    pub(super) history: Vec<Observation>,
    pub(super) written: Written,
    /// What is missing, and why.
    pub(super) missing: Option<String>,
}

impl Found {
    /// Takes the history that an earlier version stored within the checkpoint.
    pub(super) fn within(history: Vec<Observation>) -> Self {
        Self { history, written: Written::default(), missing: None }
    }

    /// Reads the history in a folder up to the position that a checkpoint recorded after as many evaluations.
    pub(super) fn read(folder: &Path, position: Option<Position>, evaluations: usize) -> Self {
        let Some(position) = position else {
            let why = "the checkpoint does not record where it is".to_owned();
            let missing = (evaluations > 0).then(|| is_missing(0, evaluations, &why));
            return Self { missing, ..Self::within(Vec::new()) };
        };
        let found = read_history(folder, &position);
        let history: Result<Vec<Observation>, _> = found.lines().map(serde_json::from_slice).collect();
        let FoundHistory { mut missing, .. } = found;
        let history = history.unwrap_or_else(|error| {
            missing = Some((position.clone(), format!("{}: {error}", folder.display())));
            Vec::new()
        });
        let why = missing.as_ref().map(|(_, why)| &**why);
        let why = why.or((history.len() != evaluations).then_some("none of its files contains them"));
        let why = why.map(|why| is_missing(history.len(), evaluations, why));
        // What is unreadable is not continued: a new segment names it.
        let is_there = missing.as_ref().is_none_or(|(end, _)| *end != position);
        let written = Written {
            missing: missing.map(|(end, _)| end),
            end: is_there.then_some(position),
            evaluations: history.len(),
            branches: false,
        };
        Self { history, written, missing: why }
    }
}

fn is_missing(found: usize, evaluations: usize, why: &str) -> String {
    let missing = evaluations.saturating_sub(found);
    format!("the first {missing} of {evaluations} evaluations are missing in the history: {why}")
}
