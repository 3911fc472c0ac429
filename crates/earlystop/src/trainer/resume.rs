//! Resumes a run from one of its checkpoints.

use std::fs;
use std::path::{Path, PathBuf};

use super::commit::KEY;
use super::history::Found;
use super::state::{Differences, RunState};
use super::vanishing::{is_gone, while_files_go};
use super::{Event, Model, Trainer};
use crate::checkpoint::{Checkpoint, CheckpointPart, Position, Saved, Saver, Store, Valid, is_url};
use crate::early_stopping::{Observation, Plateau, Reductions};
use crate::error::{Error, Result};

/// Which checkpoint to resume from, and whether other settings are accepted: see [`Trainer::resume_from`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Resume {
    from: Source,
    accepts_new_settings: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Latest,
    Best,
    File(PathBuf),
}

impl Resume {
    /// Resumes from the latest checkpoint in the folder, as [`Trainer::resume`] does.
    pub fn latest() -> Self {
        Self::new(Source::Latest)
    }

    /// Goes back to the best evaluation: after NaN, after a divergence, or to train on with a lower learning rate.
    pub fn best() -> Self {
        Self::new(Source::Best)
    }

    /// Goes back to a checkpoint of a trainer: one that [`Store::list`] finds in the folder, or a copy elsewhere, from which
    /// a new run begins in the trainer's own, empty folder.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self::new(Source::File(path.as_ref().to_owned()))
    }

    fn new(from: Source) -> Self {
        Self { from, accepts_new_settings: false }
    }

    fn names_a_file(&self) -> bool {
        matches!(self.from, Source::File(_))
    }

    /// Accepts that the trainer has other settings or other data than the checkpoint's run. The trainer's are used from
    /// there on.
    pub fn with_new_settings(self) -> Self {
        Self { accepts_new_settings: true, ..self }
    }
}

impl<M: Model> Trainer<M> {
    /// Resumes the run in the checkpoint folder from its latest checkpoint; returns whether there was one.
    ///
    /// Damaged checkpoints are skipped, each with an event, and the next older one is used. If the history next to a checkpoint
    /// is missing or was changed, the run continues without that part of it, and [`Event::Resumed`] notes it. All further results are
    /// bit-identical to those of an uninterrupted run, unless [`Event::Resumed`] notes a reason why they may differ: other
    /// processor instructions or versions, or, with a model of your own and without [`threads`](super::TrainerBuilder::threads), another
    /// number of threads. Reads only: the folder may be read-only, or in use by another process.
    ///
    /// # Errors
    ///
    /// [`Error::SettingsDiffer`] if the run had other settings or data, [`Error::NoValidCheckpoint`] if there are only
    /// damaged checkpoints, and [`Error::Setting`] if no folder is set or if another stopping rule needs evaluations that
    /// are missing. Nothing is changed then.
    pub fn resume(&mut self, on_event: impl FnMut(&Event)) -> Result<bool> {
        self.resume_from(Resume::latest(), on_event)
    }

    /// Resumes from any checkpoint, with the same settings or with new ones; returns whether there was one.
    ///
    /// The history up to that checkpoint is kept. Later checkpoints in the folder are moved into a subfolder of it before
    /// the next iteration, with the event [`Event::Archived`]. What differs in the settings is listed in
    /// [`Event::Resumed`]. To continue from there later, after the next checkpoint, use [`resume`](Self::resume) again.
    ///
    /// ```
    /// # use earlystop::ndarray::{Array1, Array3};
    /// # let examples = |n| earlystop::Examples::new(Array3::from_shape_fn((n, 4, 4), |(i, y, x)| (i * 97 + y * 31 + x * 7) as u8), Array1::from_shape_fn(n, |i| (i % 10) as u8)).unwrap();
    /// # let (train, validation) = (examples(200), examples(50));
    /// # let folder = tempfile::tempdir().unwrap();
    /// use earlystop::{Optimizer, Network, Trainer, trainer::Resume};
    /// use tch::Device;
    ///
    /// let new_trainer = |learning_rate| {
    ///     let network = Network::builder([4, 4, 1]).flatten().softmax_classifier(10).build(Device::Cpu)?;
    ///     let optimizer = Optimizer::adam(&network, learning_rate)?;
    ///     Trainer::builder(network, optimizer, &train, &validation).checkpoints(folder.path()).build()
    /// };
    /// new_trainer(1e-1)?.optimize(300, |event| println!("{event}"))?;
    ///
    /// // Train on from the best evaluation with a lower learning rate.
    /// let mut trainer = new_trainer(1e-2)?;
    /// assert!(trainer.resume_from(Resume::best().with_new_settings(), |event| println!("{event}"))?);
    /// trainer.optimize(300, |event| println!("{event}"))?;
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Trainer::resume`]; with new settings [`Error::Mismatch`] if the network's variables differ. Nothing is changed
    /// then.
    pub fn resume_from(&mut self, resume: Resume, mut on_event: impl FnMut(&Event)) -> Result<bool> {
        self.compare_processes()?;
        if !self.processes.is_first() {
            return self.share_resumed(Ok(false));
        }
        let resumed = if resume.names_a_file() {
            self.try_to_resume(&resume, true, &mut on_event)
        } else {
            while_files_go(|is_last_try| self.try_to_resume(&resume, is_last_try, &mut on_event))
        };
        let first_line =
            |error: &Error| error.to_string().lines().next().map(|line| line.trim_end_matches(':').to_owned());
        self.commits.resume_error = resumed.as_ref().err().and_then(first_line);
        self.share_resumed(resumed)
    }

    fn try_to_resume(&mut self, resume: &Resume, is_last_try: bool, on_event: &mut impl FnMut(&Event)) -> Result<bool> {
        // First, so that a commit of another process while this one reads is noticed later.
        let last = self.commits.store().map(Store::latest).transpose()?.flatten();
        let found = match (&resume.from, self.commits.store()) {
            (Source::File(path), store) => match store.map(|store| find(path, store)).transpose()?.flatten() {
                Some(saved) => Some(saved),
                None => return self.resume_elsewhere(path, resume.accepts_new_settings, on_event),
            },
            (_, None) => {
                let expected = "a folder to resume from: set one with checkpoints()";
                return Err(Error::setting("checkpoints", expected, "none"));
            }
            (Source::Latest, Some(store)) => first(store, store.latest_valid()?, is_last_try, on_event)?,
            (Source::Best, Some(store)) => first_best(store, is_last_try, on_event)?,
        };
        let Some(saved) = found else { return Ok(false) };
        let notes = self.load(&saved.path, resume.accepts_new_settings)?;
        self.commits.note(self.iteration, Some(last.map_or(0, |last| last.commit)));
        on_event(&Event::Resumed { path: saved.path.clone(), iteration: self.iteration, notes });
        self.commits.went_back_to = (resume.from != Source::Latest).then_some(saved);
        Ok(true)
    }

    /// Resumes from a file that is not in the folder, which must be empty then.
    fn resume_elsewhere(&mut self, path: &Path, accepts_new: bool, on_event: &mut impl FnMut(&Event)) -> Result<bool> {
        if is_url(path) {
            let expected = "a checkpoint of the trainer's own store, or a file: copy it with Store::latest_valid first";
            return Err(Error::setting("checkpoint", expected, "a URL elsewhere"));
        }
        let notes = self.load(path, accepts_new)?;
        self.commits.note(self.iteration, None);
        if let Some(folder) = &mut self.commits.folder {
            folder.written.forget_folder();
        }
        self.commits.went_back_to = None;
        on_event(&Event::Resumed { path: path.to_owned(), iteration: self.iteration, notes });
        Ok(true)
    }

    /// Loads the state of a checkpoint, and returns the reasons why further results may not be bit-identical.
    fn load(&mut self, path: &Path, accepts_new_settings: bool) -> Result<Vec<String>> {
        let (mut state, position) = read_state(path)?;
        let Differences { settings, mut notes } =
            Differences::between(&state, &self.state(), self.model.depends_on_threads());
        if !settings.is_empty() && !accepts_new_settings {
            return Err(Error::SettingsDiffer { path: path.to_owned(), differences: settings });
        }
        let Found { history, written, missing } = match state.stopping.take_history() {
            Some(history) => Found::within(history),
            None => {
                let folder = path.parent().unwrap_or(Path::new(""));
                Found::read(folder, position, state.stopping.evaluations().unwrap_or_default())
            }
        };
        let stopping = state.stopping.resume(self.stopping.rule().clone(), history, missing.as_deref())?;
        let plateau = &state.settings.reduce_on_plateau;
        let reductions = self.reductions(plateau, state.reductions, stopping.history(), missing.as_deref())?;
        Saver::new().restore(path, &[self.model.variables(), &self.optimizer])?;
        notes.extend(settings);
        notes.extend(missing);
        self.iteration = state.iteration;
        self.elapsed = state.elapsed;
        self.losses = state.losses;
        self.reductions = reductions;
        self.lacks_evaluation = false;
        self.stopping = stopping;
        if let Some(folder) = &mut self.commits.folder {
            folder.written = written;
        }
        self.commits.saved_elapsed = self.elapsed;
        self.stopped = self.stopping.stop_reason(self.iteration);
        self.requested = None;
        self.best.forget();
        Ok(notes)
    }

    /// Returns the reductions of the learning rate: those of the checkpoint if it has the same plateau, else from the history.
    fn reductions(
        &self,
        plateau: &Option<Plateau>,
        saved: Option<Reductions>,
        history: &[Observation],
        missing: Option<&str>,
    ) -> Result<Reductions> {
        match (&self.plateau, saved, missing) {
            (None, ..) => Ok(Reductions::default()),
            (now, Some(saved), _) if now == plateau => Ok(saved),
            (Some(now), _, None) => now.after(history),
            (Some(_), _, Some(missing)) => {
                let expected =
                    format!("as in the checkpoint, since another one needs the whole history, and {missing}");
                Err(Error::setting("reduce_on_plateau", expected, "another one"))
            }
        }
    }
}

fn read_state(path: &Path) -> Result<(RunState, Option<Position>)> {
    let checkpoint = Checkpoint::open(path)?;
    let problem = |problem: String| Error::Checkpoint { path: path.to_owned(), part: CheckpointPart::Header, problem };
    let json = checkpoint.metadata().get(KEY);
    let json = json.ok_or_else(|| problem("expected the state of a trainer, found none".to_owned()))?;
    let read = serde_json::from_str(json);
    let state: RunState = read.map_err(|error| problem(format!("the trainer's state: {error}")))?;
    Ok((state, checkpoint.position()?))
}

/// The first valid checkpoint; an error if there are only invalid ones.
fn first(
    store: &Store,
    mut valid: Valid,
    is_last_try: bool,
    on_event: &mut impl FnMut(&Event),
) -> Result<Option<Saved>> {
    if !is_last_try && let Some(gone) = valid.skipped.iter().position(|skipped| is_gone(&skipped.error)) {
        return Err(valid.skipped.swap_remove(gone).error);
    }
    let mut reasons = Vec::new();
    for skipped in valid.skipped {
        let reason = skipped.error.to_string();
        reasons.push(reason.clone());
        on_event(&Event::Skipped { path: skipped.path, reason });
    }
    if valid.saved.is_none() && !reasons.is_empty() {
        return Err(Error::NoValidCheckpoint { folder: store.folder().to_owned(), reasons });
    }
    Ok(valid.saved)
}

fn first_best(store: &Store, is_last_try: bool, on_event: &mut impl FnMut(&Event)) -> Result<Option<Saved>> {
    let found = first(store, store.best_valid()?, is_last_try, on_event)?;
    if found.is_none() && store.latest()?.is_some() {
        let folder = store.folder().to_owned();
        return Err(Error::NoValidCheckpoint { folder, reasons: vec!["none is of an improvement".to_owned()] });
    }
    Ok(found)
}

/// Finds a file among the folder's checkpoints. In object storage, it is listed by its URL.
fn find(path: &Path, store: &Store) -> Result<Option<Saved>> {
    let place = |path: &Path| if is_url(path) { Some(path.to_owned()) } else { fs::canonicalize(path).ok() };
    let Some(wanted) = place(path) else { return Ok(None) };
    let found = store.list()?.into_iter().find(|saved| place(&saved.path).is_some_and(|listed| listed == wanted));
    found.map(|saved| store.local_copy(saved)).transpose()
}
