//! Commits, and what goes on from them: in a new process, with the same bits.

use std::path::Path;

use tch::Tensor;

use super::state::{Environment, RunState, Settings, differences};
use super::{Event, Trainer};
use crate::checkpoint::{Checkpoint, CheckpointPart, Metadata, Savable, Saver};
use crate::early_stopping::{EarlyStopping, Observation};
use crate::error::{Error, Result, torch};

/// The key of the run's state in a checkpoint's metadata.
const KEY: &str = "trainer";

impl Trainer {
    /// Goes on with the run whose checkpoints lie in the folder, from its last commit; says whether there was one.
    ///
    /// Damaged checkpoints are skipped, each with an event, and the next older one is used. All that follows has the same bits
    /// as in a run that nobody interrupted, unless the event [`Event::Resumed`] notes that threads or versions differ.
    ///
    /// # Errors
    ///
    /// When the run was told other settings (nothing is changed then), or no checkpoint in the folder is whole.
    pub fn resume(&mut self, on_event: impl FnMut(&Event)) -> Result<bool> {
        self.resume_from_folder(false, on_event)
    }

    /// Goes on as [`Trainer::resume`] does, but with the trainer's settings where they differ from the checkpoint's.
    ///
    /// # Errors
    ///
    /// When the network's variables differ, or no checkpoint in the folder is whole.
    pub fn resume_with_new_settings(&mut self, on_event: impl FnMut(&Event)) -> Result<bool> {
        self.resume_from_folder(true, on_event)
    }

    /// Deletes the checkpoints of the run whose folder this is, so that a new run can begin there.
    ///
    /// # Errors
    ///
    /// When the folder is in use by another process, or a file cannot be deleted.
    pub fn start_over(&mut self) -> Result<()> {
        let Some(store) = &mut self.store else { return Ok(()) };
        store.clear()
    }

    /// Locks the folder, and refuses it where another run's checkpoints would be mixed with this one's.
    pub(super) fn refuse_another_runs_folder(&mut self) -> Result<()> {
        let Some(store) = &mut self.store else { return Ok(()) };
        store.lock()?;
        match store.latest()? {
            Some(_) => Err(Error::OtherRun { folder: store.folder().to_owned() }),
            None => Ok(()),
        }
    }

    fn resume_from_folder(&mut self, new_settings: bool, mut on_event: impl FnMut(&Event)) -> Result<bool> {
        let Some(store) = &mut self.store else {
            return Err(Error::argument("checkpoints", "a folder to resume from: set one with checkpoints()", "none"));
        };
        store.lock()?;
        let valid = store.latest_valid()?;
        for skipped in valid.skipped {
            on_event(&Event::Skipped { path: skipped.path, reason: skipped.error.to_string() });
        }
        let Some(saved) = valid.saved else { return Ok(false) };
        let notes = self.load(&saved.path, new_settings)?;
        on_event(&Event::Resumed { path: saved.path, iteration: self.iteration, notes });
        Ok(true)
    }

    /// Puts back the variables of the best evaluation, as the stopping rule sees it.
    ///
    /// The moments of the optimizer come with them; the run's place, history and report stay as they are, so this belongs at a run's
    /// end.
    ///
    /// # Errors
    ///
    /// When there is no folder for checkpoints, or no whole one of the best evaluation in it.
    pub fn restore_best(&mut self) -> Result<()> {
        let store = self.store.as_ref().ok_or_else(|| {
            Error::argument("checkpoints", "a folder to restore from: set one with checkpoints()", "none")
        })?;
        let valid = store.best_valid()?;
        let best = self.stopping.best();
        match (valid.saved, best) {
            (Some(saved), Some(best)) if saved.step == best.iteration => {
                Saver::new().restore(&saved.path, &[&self.network, &self.optimizer])?;
                Ok(())
            }
            (found, best) => Err(Error::argument(
                "best checkpoint",
                best.map_or("an evaluated network".to_owned(), |best| {
                    format!("the one of iteration {}", best.iteration)
                }),
                found
                    .map_or("none".to_owned(), |saved| format!("{} of iteration {}", saved.path.display(), saved.step)),
            )),
        }
    }

    /// Writes the whole state to the folder, if there is one.
    pub(super) fn commit(&mut self, improved: bool) -> Result<()> {
        if self.store.is_none() {
            return Ok(());
        }
        let metadata = self.metadata()?;
        // What is better is for the rule to say: of its improvements the last is the best.
        let score = improved.then_some(self.iteration as f64);
        let Some(store) = &mut self.store else { return Ok(()) };
        store.save(self.iteration, score, &[&self.network, &self.optimizer], &metadata)?;
        Ok(())
    }

    fn metadata(&self) -> Result<Metadata> {
        let state = RunState {
            settings: self.settings(),
            iteration: self.iteration,
            stopping: self.stopping.clone(),
            elapsed: self.elapsed,
            environment: Environment::here(self.network.device()),
        };
        let json = serde_json::to_string(&state).map_err(|error| Error::argument("run", "a state to save", error))?;
        Ok(Metadata::from([(KEY.to_owned(), json)]))
    }

    fn settings(&self) -> Settings {
        Settings {
            network: self.network.description().clone(),
            network_seed: self.network.seed(),
            learning_rate: self.optimizer.learning_rate(),
            batch_size: self.batches.batch_size(),
            seed: self.batches.seed(),
            training_examples: self.train.len(),
            evaluate_every: self.evaluate_every,
            evaluation_precision: self.evaluation_precision,
            rule: self.stopping.rule().clone(),
        }
    }

    /// Takes on the state of a checkpoint; returns why the bits may differ from here on.
    fn load(&mut self, path: &Path, new_settings: bool) -> Result<Vec<String>> {
        let checkpoint = Checkpoint::read(path)?;
        let problem =
            |problem: String| Error::Checkpoint { path: path.to_owned(), part: CheckpointPart::Header, problem };
        let json = checkpoint.metadata().get(KEY);
        let json = json.ok_or_else(|| problem("expected the state of a trainer, found none".to_owned()))?;
        let state: RunState =
            serde_json::from_str(json).map_err(|error| problem(format!("the trainer's state: {error}")))?;
        let differing = differences(&state.settings, &self.settings());
        if !differing.is_empty() && !new_settings {
            return Err(Error::SettingsDiffer { path: path.to_owned(), differences: differing });
        }
        Saver::new().restore(path, &[&self.network, &self.optimizer])?;
        let mut notes = differences(&state.environment, &Environment::here(self.network.device()));
        notes.extend(differing);
        self.iteration = state.iteration;
        self.elapsed = state.elapsed;
        self.stopping = EarlyStopping::resume(self.stopping.rule().clone(), state.stopping.history().to_vec());
        self.stopped = self.stopping.stop_reason(self.iteration);
        Ok(notes)
    }

    /// Lists all named tensors of the run.
    fn tensors(&self) -> Vec<(String, Tensor)> {
        let tensors = self.network.tensors().into_iter().chain(self.optimizer.tensors());
        tensors.map(|named| (named.name, named.tensor)).collect()
    }
}

/// Shows on one's own network that a resumed run ends with the same bits as one that nobody interrupted.
///
/// `new_trainer` makes trainers that are equal to the bit. One trains straight to iteration `end`; another one only to `break_at`,
/// a multiple of the iterations between evaluations, where a third one goes on from its checkpoint.
///
/// ```
/// # use earlystop::ndarray::{Array1, Array3};
/// # let examples = |n| earlystop::mnist::Examples::new(Array3::from_shape_fn((n, 4, 4), |(i, y, x)| (i * 97 + y * 31 + x * 7) as u8), Array1::from_shape_fn(n, |i| (i % 10) as u8)).unwrap();
/// # let (train, validation) = (examples(200), examples(50));
/// use earlystop::{Adam, Network, Trainer, trainer::verify_resume};
/// use tch::Device;
///
/// let new_trainer = || {
///     let layers = Network::builder([4, 4, 1]).flatten().fully_connected(20, "layer_fc1").dropout(0.5);
///     let network = layers.softmax_classifier(10).build(Device::Cpu)?;
///     let optimizer = Adam::new(&network, 1e-2)?;
///     Trainer::builder(network, optimizer, &train, &validation).evaluate_every(10).build()
/// };
/// verify_resume(new_trainer, 30, 65)?;
/// # Ok::<(), earlystop::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::ResumeDiffers`] with the first tensor or evaluation that differs; and whatever goes wrong in training.
pub fn verify_resume(mut new_trainer: impl FnMut() -> Result<Trainer>, break_at: u64, end: u64) -> Result<()> {
    let (mut straight, mut interrupted, mut resumed) = (new_trainer()?, new_trainer()?, new_trainer()?);
    if !break_at.is_multiple_of(straight.evaluate_every) || break_at >= end {
        let expected = format!("a multiple of {} before the end, {end}", straight.evaluate_every);
        return Err(Error::argument("break", expected, break_at));
    }
    straight.optimize_to(end, |_| ())?;
    interrupted.optimize_to(break_at, |_| ())?;
    let folder = tempfile::tempdir().map_err(|source| Error::Io {
        path: std::env::temp_dir(),
        action: "create a folder in",
        source,
    })?;
    let path = folder.path().join("break.safetensors");
    Saver::new().save(&path, &[&interrupted.network, &interrupted.optimizer], &interrupted.metadata()?)?;
    drop(interrupted);
    resumed.load(&path, false)?;
    resumed.optimize_to(end, |_| ())?;
    compare(break_at, &straight, &resumed)
}

fn compare(iteration: u64, straight: &Trainer, resumed: &Trainer) -> Result<()> {
    let differs = |what: String, how: String| Err(Error::ResumeDiffers { iteration, what, how });
    for ((name, straight), (_, resumed)) in straight.tensors().iter().zip(resumed.tensors()) {
        let (a, b) = (bytes(name, straight)?, bytes(name, &resumed)?);
        if let Some(index) = a.iter().zip(&b).position(|(a, b)| a != b) {
            return differs(name.clone(), format!("byte {index} is {:#04x} and {:#04x}", a[index], b[index]));
        }
    }
    let timeless = |observation: &Observation| Observation { elapsed: None, ..observation.clone() };
    let histories = [straight, resumed].map(|trainer| trainer.history().iter().map(timeless).collect::<Vec<_>>());
    if straight.iteration != resumed.iteration || histories[0].len() != histories[1].len() {
        let counts = [straight, resumed].map(|trainer| (trainer.iteration, trainer.history().len()));
        return differs("the number of iterations and evaluations".to_owned(), format!("{counts:?}"));
    }
    match histories[0].iter().zip(&histories[1]).find(|(a, b)| a != b) {
        Some((a, b)) => differs(format!("the evaluation of iteration {}", a.iteration), format!("{a:?} and {b:?}")),
        None => Ok(()),
    }
}

fn bytes(name: &str, tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.detach().contiguous().to_device(tch::Device::Cpu);
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel()).map_err(torch(name))?;
    Ok(bytes)
}
