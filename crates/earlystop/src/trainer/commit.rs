//! Saves the state of a run to its folder.

use super::builder::FailedSave;
use super::state::{Data, Environment, Fingerprint, Order, RunState, Settings};
use super::{Event, Report, Trainer};
use crate::checkpoint::{Metadata, Saved, Store, Warning};
use crate::error::{Error, Result};

/// The key of the run's state in a checkpoint's metadata.
pub(super) const KEY: &str = "trainer";

/// The checkpoints of a run.
#[derive(Debug)]
pub(super) struct Commits {
    pub(super) store: Option<Store>,
    pub(super) on_failed_save: FailedSave,
    /// The last commit in the folder when this trainer resumed or saved; none before both.
    pub(super) known: Option<u64>,
    /// The checkpoint that the run went back to: the later ones are moved away before the next iteration.
    pub(super) went_back_to: Option<Saved>,
    /// The iteration whose state was last saved or loaded.
    pub(super) saved: u64,
    /// Why the run in the folder could not be resumed, if that was tried.
    pub(super) resume_error: Option<String>,
    /// How many of the store's warnings were reported.
    reported_warnings: usize,
    /// Whether the folder was locked and found to be this run's.
    is_claimed: bool,
    has_failed: bool,
    error: Option<Error>,
}

impl Commits {
    pub(super) fn new(store: Option<Store>, on_failed_save: FailedSave) -> Self {
        Self {
            store,
            on_failed_save,
            known: None,
            went_back_to: None,
            saved: 0,
            resume_error: None,
            reported_warnings: 0,
            is_claimed: false,
            has_failed: false,
            error: None,
        }
    }

    /// Says whether the last save failed.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    fn retries(&self) -> bool {
        self.on_failed_save == FailedSave::Retry
    }

    /// Returns what the file system could not guarantee, each warning once.
    fn new_warnings(&mut self) -> Vec<Warning> {
        let all = self.store.as_ref().map_or(&[][..], Store::warnings);
        let new = all.get(self.reported_warnings..).unwrap_or_default().to_vec();
        self.reported_warnings = all.len();
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

impl Trainer {
    /// Deletes the checkpoints in the folder, so that a new run can begin there.
    ///
    /// # Errors
    ///
    /// If the folder is in use by another process, or a file cannot be deleted.
    pub fn start_over(&mut self) -> Result<()> {
        let Some(store) = &mut self.commits.store else { return Ok(()) };
        store.clear()?;
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
        let Some(store) = &mut commits.store else { return Ok(()) };
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
                self.ask(&Event::Archived { folder }, report);
            }
        }
        Ok(())
    }

    /// Saves the state, keeps the best in memory where it is not in the folder, and reports `event`, then a failed save.
    pub(super) fn commit(&mut self, event: Option<Event>, report: Report) -> Result<()> {
        let saved = self.save();
        let is_kept = self.keep_best(saved.is_ok());
        if let Some(event) = event {
            self.ask(&event, report);
        }
        for warning in self.commits.new_warnings() {
            self.ask(&Event::NotGuaranteed(warning), report);
        }
        is_kept?;
        let Err(error) = saved else { return Ok(()) };
        self.commits.has_failed = true;
        // Anything but a file's error, such as a lost lock, does not get better by waiting.
        if !self.commits.retries() || !matches!(error, Error::Io { .. }) {
            return Err(error);
        }
        self.ask(&Event::SaveFailed { iteration: self.iteration, reason: error.to_string() }, report);
        self.commits.error = Some(error);
        Ok(())
    }

    /// Saves a state that no evaluation has saved: after a request to stop.
    pub(super) fn commit_if_unsaved(&mut self, report: Report) -> Result<()> {
        if self.commits.saved == self.iteration { Ok(()) } else { self.commit(None, report) }
    }

    fn save(&mut self) -> Result<()> {
        if self.commits.store.is_none() {
            return Ok(());
        }
        let metadata = self.metadata()?;
        // Of the rule's improvements the last one is the best.
        let score = self.is_at_best().then_some(self.iteration as f64);
        let Some(store) = &mut self.commits.store else { return Ok(()) };
        if let Some(best) = self.best.before(self.iteration) {
            let saved = store.save(best.iteration, Some(best.iteration as f64), &[&best.tensors], &best.metadata)?;
            self.commits.known = Some(saved.commit);
            self.best.forget();
        }
        let saved = store.save(self.iteration, score, &[&self.network, &self.optimizer], &metadata)?;
        self.commits.note(self.iteration, Some(saved.commit));
        Ok(())
    }

    /// Says whether the rule's best evaluation is that of the current iteration.
    pub(super) fn is_at_best(&self) -> bool {
        self.stopping.best().is_some_and(|best| best.iteration == self.iteration)
    }

    pub(super) fn metadata(&self) -> Result<Metadata> {
        let json = serde_json::to_string(&self.state());
        let json = json.map_err(|error| Error::argument("run", "a state that can be saved", error))?;
        Ok(Metadata::from([(KEY.to_owned(), json)]))
    }

    /// The state of the run besides its tensors.
    pub(super) fn state(&self) -> RunState {
        let data = self.data.get_or_init(|| Data {
            train: Fingerprint::of(&self.train),
            validation: Fingerprint::of(&self.validation),
            test: self.test.as_ref().map(Fingerprint::of),
        });
        RunState {
            settings: Settings {
                network: self.network.description().clone(),
                network_seed: self.network.seed(),
                learning_rate: self.optimizer.schedule(),
                optimizer: self.optimizer.settings(),
                batch_size: self.batches.batch_size(),
                order: Order::ShuffledEpochs,
                seed: self.batches.seed(),
                training_examples: self.train.len(),
                training_data: Some(data.train.clone()),
                validation_data: Some(data.validation.clone()),
                evaluate_every: self.evaluate_every,
                evaluation_precision: self.evaluation_precision,
                rule: self.stopping.rule().clone(),
            },
            iteration: self.iteration,
            stopping: self.stopping.clone().into(),
            losses: self.losses,
            elapsed: self.elapsed,
            environment: Environment::here(self.network.device()),
            test_data: data.test.clone(),
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
