//! Saves the state of a run to its folder.

use std::time::Duration;

use tch::Device;

use super::background::{Background, Done};
use super::best::copies_of;
use super::history::{Lines, Written};
use super::policy::{Moment, SavePolicy};
use super::save::{Folder, Job, Outcome, Snapshot};
use super::state::{Environment, Fingerprints, RunState, Settings, json_or_text};
use super::{Event, Model, Report, TEST, Trainer, VALIDATION};
use crate::checkpoint::{Metadata, NamedTensor, Saved, Store, Warning};
use crate::early_stopping::SavedStopping;
use crate::error::{Error, Result};

/// The key of the run's state in a checkpoint's metadata.
pub(super) const KEY: &str = "trainer";

/// The checkpoints of a run.
#[derive(Debug)]
pub(super) struct Commits {
    /// Nothing without a folder, and while a save goes on in the background.
    pub(super) folder: Option<Folder>,
    pub(super) settings: SaveSettings,
    background: Option<Background>,
    /// The last commit in the folder when this trainer resumed or saved; none before both.
    pub(super) known: Option<u64>,
    /// The checkpoint that the run went back to: the later ones are moved away before the next iteration.
    pub(super) went_back_to: Option<Saved>,
    /// The iteration whose state was last saved or loaded.
    pub(super) saved: u64,
    /// The run's time when the last save was begun or loaded.
    pub(super) saved_elapsed: Duration,
    /// Why the run in the folder could not be resumed, if that was tried.
    pub(super) resume_error: Option<String>,
    /// Copies of tensors from an earlier save.
    pub(super) spare: Option<Vec<NamedTensor<'static>>>,
    /// How many of the store's warnings were reported.
    reported_warnings: usize,
    /// Whether the folder was locked and found to be this run's.
    is_claimed: bool,
    has_failed: bool,
    error: Option<Error>,
}

/// What was chosen for saving.
#[derive(Debug, Clone, Copy)]
pub(super) struct SaveSettings {
    pub(super) policy: SavePolicy,
    /// Whether a save that fails ends the call at once.
    pub(super) stops_on_failed_save: bool,
    pub(super) in_background: bool,
    /// Whether the folder keeps the checkpoint of the best evaluation.
    pub(super) keeps_best: bool,
}

impl Commits {
    pub(super) fn new(store: Option<Store>, settings: SaveSettings) -> Self {
        Self {
            folder: store.map(|store| Folder { store, written: Written::default() }),
            settings,
            background: None,
            known: None,
            went_back_to: None,
            saved: 0,
            saved_elapsed: Duration::ZERO,
            resume_error: None,
            spare: None,
            reported_warnings: 0,
            is_claimed: false,
            has_failed: false,
            error: None,
        }
    }

    /// Returns the store, unless there is no folder.
    pub(super) fn store(&self) -> Option<&Store> {
        self.folder.as_ref().map(|folder| &folder.store)
    }

    /// Says whether there is a folder.
    pub(super) fn has_folder(&self) -> bool {
        self.folder.is_some() || self.background.as_ref().is_some_and(Background::is_busy)
    }

    /// Says whether the last save failed.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Says whether to save now.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.has_folder() && (self.settings.policy.is_due(now) || self.has_failed && now.is_evaluated)
    }

    fn retries(&self) -> bool {
        !self.settings.stops_on_failed_save
    }

    /// Returns what the file system could not guarantee, each warning once.
    fn new_warnings(&mut self) -> Vec<Warning> {
        let Some(Folder { store, .. }) = &self.folder else { return Vec::new() };
        let new = store.warnings().get(self.reported_warnings..).unwrap_or_default().to_vec();
        self.reported_warnings = store.warnings().len();
        new
    }

    /// Ends a call with the error of the last save, if it failed.
    pub(super) fn end(&mut self) -> Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// Notes that a checkpoint has the trainer's state, and the last commit in the folder if it is this run's.
    pub(super) fn note(&mut self, iteration: u64, last_commit: Option<u64>) {
        self.known = last_commit;
        self.saved = iteration;
        self.is_claimed &= last_commit.is_some();
        self.has_failed = false;
        self.error = None;
    }
}

impl<M: Model> Trainer<M> {
    /// Deletes the checkpoints in the folder and the history next to them, so that a new run can begin there.
    ///
    /// # Errors
    ///
    /// If the folder is in use by another process, or a file cannot be deleted.
    pub fn start_over(&mut self) -> Result<()> {
        let cleared = self.clear_folder();
        self.processes.conclude(cleared)
    }

    fn clear_folder(&mut self) -> Result<()> {
        let Some(Folder { store, written }) = &mut self.commits.folder else { return Ok(()) };
        store.clear()?;
        written.forget_folder();
        (self.commits.known, self.commits.went_back_to) = (None, None);
        Ok(())
    }

    /// Claims the folder, and catches up on what was not saved.
    pub(super) fn take_folder(&mut self, report: Report) -> Result<()> {
        match self.claim_folder(report) {
            // The folder has become unusable in the middle of a run: the next commit tries again.
            Err(error @ Error::Io { .. }) if self.commits.is_claimed && self.commits.retries() => {
                self.commits.error = self.commits.has_failed.then_some(error);
                return Ok(());
            }
            claimed => claimed?,
        }
        self.commits.is_claimed = true;
        if self.commits.has_failed { self.commit(None, report) } else { Ok(()) }
    }

    /// Locks the folder, refuses to mix runs in it, and moves away what the run went back behind.
    fn claim_folder(&mut self, report: Report) -> Result<()> {
        let commits = &mut self.commits;
        let Some(Folder { store, written }) = &mut commits.folder else { return Ok(()) };
        store.lock()?;
        match commits.known {
            None => refuse_another_run(store, &commits.resume_error)?,
            Some(known) => match store.latest()? {
                Some(latest) if latest.commit > known => {
                    return Err(Error::RunContinued { folder: store.folder().to_owned(), iteration: latest.step });
                }
                _ => {}
            },
        }
        if let Some(saved) = &commits.went_back_to {
            let folder = store.archive_after(saved)?;
            commits.went_back_to = None;
            if let Some(folder) = folder {
                written.branch();
                self.ask(&Event::Archived { folder }, report);
            }
        }
        Ok(())
    }

    /// Saves the state, or begins to in the background, and reports `event`, then a save that has failed.
    pub(super) fn commit(&mut self, event: Option<Event>, report: Report) -> Result<()> {
        self.collect(true, report)?;
        self.commits.saved_elapsed = self.elapsed;
        let saved = self.save_or_begin();
        if let Some(event) = event {
            self.ask(&event, report);
        }
        self.conclude(saved, self.iteration, report)
    }

    /// Reports `event` without saving, and keeps the best in memory.
    pub(super) fn skip(&mut self, event: Event, report: Report) -> Result<()> {
        let kept = if self.is_at_best() { self.keep_best() } else { Ok(()) };
        self.ask(&event, report);
        kept
    }

    /// Saves a state that no evaluation has saved: after a request to stop.
    pub(super) fn commit_if_unsaved(&mut self, report: Report) -> Result<()> {
        self.collect(true, report)?;
        if self.commits.saved == self.iteration { Ok(()) } else { self.commit(None, report) }
    }

    /// Takes note of the save in the background, if it has ended; waits for its end if `waits`.
    pub(super) fn collect(&mut self, waits: bool, report: Report) -> Result<()> {
        let Some(done) = self.commits.background.as_mut().and_then(|background| background.collect(waits)) else {
            return Ok(());
        };
        let Done { folder, job, outcome } = done;
        self.commits.folder = Some(folder);
        let iteration = job.now.iteration;
        let saved = self.settle(job, outcome, true);
        self.conclude(saved, iteration, report)
    }

    /// Reports what the file system did not guarantee, and a save that has failed; returns an error that ends the call.
    fn conclude(&mut self, saved: Result<()>, iteration: u64, report: Report) -> Result<()> {
        for warning in self.commits.new_warnings() {
            self.ask(&Event::NotGuaranteed(warning), report);
        }
        let Err(error) = saved else { return Ok(()) };
        // Anything but a file's error, such as a lost lock, does not get better by waiting.
        if !self.commits.retries() || !matches!(error, Error::Io { .. }) {
            return Err(error);
        }
        self.ask(&Event::SaveFailed { iteration, reason: error.to_string() }, report);
        self.commits.error = Some(error);
        Ok(())
    }

    fn save_or_begin(&mut self) -> Result<()> {
        if self.commits.folder.is_none() {
            return if self.is_at_best() { self.keep_best() } else { Ok(()) };
        }
        if self.commits.settings.in_background && self.begin()? { Ok(()) } else { self.save() }
    }

    /// Saves now.
    pub(super) fn save(&mut self) -> Result<()> {
        let tensors = self.tensors()?;
        let (Some(mut job), Some(folder)) = (self.job(tensors)?, &mut self.commits.folder) else { return Ok(()) };
        let outcome = job.perform(folder);
        self.settle(job, outcome, false)
    }

    /// Copies the state and begins to save it in the background; returns whether that is possible.
    fn begin(&mut self) -> Result<bool> {
        if self.commits.background.is_none() {
            self.commits.background = Background::start().ok();
        }
        if self.commits.background.is_none() {
            return Ok(false);
        }
        let spare = self.commits.spare.take();
        let Ok(copies) = copies_of(&self.tensors()?, spare) else { return Ok(false) };
        let Some(job) = self.job(copies)? else { return Ok(false) };
        let (Some(background), Some(folder)) = (&mut self.commits.background, self.commits.folder.take()) else {
            return Ok(false);
        };
        if let Err(refused) = background.begin(folder, job) {
            let (folder, mut job) = *refused;
            let folder = self.commits.folder.insert(folder);
            let outcome = job.perform(folder);
            self.settle(job, outcome, true)?;
        }
        Ok(true)
    }

    /// Returns the save of the current state, and of the best one if that is not saved.
    fn job(&mut self, tensors: Vec<NamedTensor<'static>>) -> Result<Option<Job>> {
        let now = self.snapshot(tensors)?;
        let Some(Folder { written, .. }) = &self.commits.folder else { return Ok(None) };
        let lines = written.unwritten(self.stopping.history())?;
        let best = self.best.take_unsaved(self.iteration);
        Ok(Some(Job { best, now, lines, last_commit: None }))
    }

    /// Takes note of how a save ended, and keeps in memory what is the best and not in the folder.
    fn settle(&mut self, mut job: Job, mut outcome: Result<Outcome>, is_copy: bool) -> Result<()> {
        if let (Ok(Outcome::NeedsWholeHistory), Some(folder)) = (&outcome, &mut self.commits.folder) {
            job.lines = Lines::of(self.stopping.history(), 0)?;
            outcome = job.perform(folder);
        }
        let commits = &mut self.commits;
        commits.known = job.last_commit.or(commits.known);
        match &outcome {
            Ok(_) => commits.note(job.now.iteration, commits.known),
            Err(_) => commits.has_failed = true,
        }
        let Job { best, mut now, .. } = job;
        let is_in_folder = now.is_saved && commits.settings.keeps_best;
        if now.is_best && !is_in_folder && self.best.is_wanted() {
            let earlier = best.or_else(|| self.best.take()).map(|earlier| earlier.tensors);
            if is_copy {
                commits.spare = earlier;
            } else {
                now.tensors = copies_of(&now.tensors, earlier)?;
            }
            self.best.keep(now);
            return outcome.map(drop);
        }
        // The one before is still needed, unless this one is better or the folder keeps it.
        if let Some(best) = best.filter(|best| !(now.is_best || best.is_saved && commits.settings.keeps_best)) {
            self.best.keep(best);
        }
        if is_copy {
            commits.spare = Some(now.tensors);
        }
        outcome.map(drop)
    }

    /// Says whether the rule's best evaluation is that of the current iteration.
    pub(super) fn is_at_best(&self) -> bool {
        self.stopping.best().is_some_and(|best| best.iteration == self.iteration)
    }

    fn metadata(&self) -> Result<Metadata> {
        let json = serde_json::to_string(&self.state());
        let json = json.map_err(|error| Error::state(KEY, error.to_string()))?;
        Ok(Metadata::from([(KEY.to_owned(), json)]))
    }

    /// Returns the state of the run with these tensors.
    pub(super) fn snapshot(&self, tensors: Vec<NamedTensor<'static>>) -> Result<Snapshot> {
        Ok(Snapshot {
            iteration: self.iteration,
            is_best: self.is_at_best(),
            tensors,
            metadata: if self.commits.has_folder() { self.metadata()? } else { Metadata::new() },
            evaluations: self.stopping.history().len(),
            position: None,
            is_saved: false,
        })
    }

    /// The state of the run besides its tensors.
    pub(super) fn state(&self) -> RunState {
        let data = self.fingerprints.get_or_init(|| Fingerprints {
            train: self.train.fingerprint().map(json_or_text),
            held_out: self
                .held_out
                .iter()
                .map(|(name, set)| (name.clone(), set.fingerprint().map(json_or_text)))
                .collect(),
        });
        let mut held_out = data.held_out.clone();
        let mut take = |name: &str| held_out.remove(name).flatten();
        let (validation_data, test_data) = (take(VALIDATION), take(TEST));
        let variables = self.model.variables().variables_to_train();
        let device =
            variables.first().and_then(|variable| Some(variable.tensor().ok()?.device())).unwrap_or(Device::Cpu);
        RunState {
            settings: Settings {
                model: Settings::of_model(self.model.settings()),
                learning_rate: self.optimizer.schedule(),
                reduce_on_plateau: self.plateau.clone(),
                optimizer: self.optimizer.settings(),
                batch_size: self.batches.batch_size(),
                order: self.batches.order(),
                parts: self.parts,
                seed: self.batches.seed(),
                training_examples: self.train.len(),
                training_data: data.train.clone(),
                validation_data,
                held_out_data: held_out,
                evaluate_every: self.evaluate_every,
                rule: self.stopping.rule().clone(),
            },
            iteration: self.iteration,
            stopping: SavedStopping::without_history(&self.stopping),
            reductions: self.plateau.as_ref().map(|_| self.reductions),
            losses: self.losses,
            elapsed: self.elapsed,
            environment: Environment::here(device, self.threads.is_some()),
            test_data,
        }
    }
}

/// Refuses a folder in which another run's checkpoints would be mixed with this one's.
fn refuse_another_run(store: &Store, resume_error: &Option<String>) -> Result<()> {
    let folder = store.folder().to_owned();
    let found = store.latest_valid()?;
    if found.saved.is_some() {
        return Err(Error::OtherRun { folder, resume_error: resume_error.clone() });
    }
    if found.skipped.is_empty() {
        return Ok(());
    }
    let reasons = found.skipped.iter().map(|skipped| skipped.error.to_string()).collect();
    Err(Error::NoValidCheckpoint { folder, reasons })
}
