//! The trainer's settings.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::best::Best;
use super::callback::{Callback, Callbacks};
use super::commit::{Commits, SaveSettings};
use super::policy::SavePolicy;
use super::state::{Losses, Settings};
use super::threads::Threads;
use super::{AnyData, Model, Trainer, VALIDATION};
use crate::checkpoint::{Keep, Store, is_url};
use crate::data::{Batches, Data, Order};
use crate::early_stopping::{EarlyStopping, Metric, Patience, Plateau, Reductions, Rule};
use crate::error::{Error, Result};
use crate::network::Network;
use crate::optimizer::Optimizer;
use crate::processes::Processes;

/// Collects the settings of a [`Trainer`]. The defaults are the tutorial's.
#[must_use = "a builder builds nothing before `build`"]
pub struct TrainerBuilder<M: Model = Network> {
    pub(super) model: M,
    optimizer: Optimizer,
    train: AnyData<M>,
    held_out: Vec<(String, AnyData<M>)>,
    /// Why a data set does not fit the model.
    pub(super) problem: Option<Error>,
    batch_size: usize,
    parts: usize,
    order: Order,
    seed: u64,
    evaluate_every: u64,
    rule: Rule,
    plateau: Option<Plateau>,
    checkpoints: Option<PathBuf>,
    save_policy: SavePolicy,
    keep: Keep,
    /// None unless set.
    split_above: Option<u64>,
    stops_on_failed_save: bool,
    /// None unless set.
    saves_in_background: Option<bool>,
    records_mistakes: bool,
    keeps_best_in_memory: bool,
    callbacks: Vec<Box<dyn Callback<M> + Send>>,
    processes: Processes,
    threads: Option<StartThreads<M>>,
}

/// Starts the threads that compute parts side by side.
type StartThreads<M> = Box<dyn FnOnce() -> Result<Threads<<M as Model>::Batch>> + Send>;

impl<M: Model> TrainerBuilder<M> {
    pub(super) fn new(
        model: M,
        optimizer: Optimizer,
        train: impl Data<Batch = M::Batch> + Send + 'static,
        validation: impl Data<Batch = M::Batch> + Send + 'static,
    ) -> Self {
        Self {
            model,
            optimizer,
            train: Box::new(train),
            held_out: vec![(VALIDATION.to_owned(), Box::new(validation))],
            problem: None,
            batch_size: 64,
            parts: 1,
            order: Order::default(),
            seed: 0,
            evaluate_every: 100,
            rule: Patience::new(1000).into(),
            plateau: None,
            checkpoints: None,
            save_policy: SavePolicy::default(),
            keep: Keep::last(2).best(1),
            split_above: None,
            stops_on_failed_save: false,
            saves_in_background: None,
            records_mistakes: false,
            keeps_best_in_memory: true,
            callbacks: Vec::new(),
            processes: Processes::one(),
            threads: None,
        }
    }

    /// Computes the [parts](Self::accumulate) of each batch in parallel on this number of threads, and also the batches of an evaluation
    /// if the model implements [`Model::by_batch`]. Default: one after the other, each on libtorch's threads.
    ///
    /// libtorch then computes on one thread for each part, so that the results have the same bits for any number of threads, 1
    /// included: a run can be resumed with another number. An iteration takes about as long as on libtorch's threads, and next to other
    /// busy processes much less, since no thread spins while it waits. With `threads(1, ..)` all is computed on the thread that
    /// calls the trainer.
    ///
    /// Each thread calls `replica` once, for a model with the same layers and sizes. The replica uses the memory of the trained model's
    /// variables and has its own buffers, so its initial values do not matter. Its [`loss`](Model::loss) should depend on nothing
    /// else that changes during training. If the model [draws random numbers](Model::draws_random_numbers) of libtorch, which is assumed
    /// by default, its losses are computed one after the other, since libtorch's generators are global, and only the gradients
    /// are computed side by side. A [`Network`] needs no such setting: it has threads of its own.
    ///
    /// ```
    /// # use earlystop::data::TensorData;
    /// # use earlystop::optimizer::Trainable;
    /// # use earlystop::trainer::{BatchIter, Model, Scores};
    /// # use earlystop::{Loss, Optimizer, Result, Trainer};
    /// # use tch::{Device, Kind, Tensor, nn, nn::Module};
    /// # struct Line { variables: nn::VarStore, layer: nn::Linear }
    /// # impl Model for Line {
    /// #     type Batch = [Tensor; 2];
    /// #     fn variables(&self) -> &dyn Trainable { &self.variables }
    /// #     fn loss(&self, [x, y]: &[Tensor; 2], _: u64) -> Result<Loss> {
    /// #         Ok(self.layer.forward(x).f_mse_loss(y, tch::Reduction::Mean)?.into())
    /// #     }
    /// #     fn evaluate(&self, _: BatchIter<[Tensor; 2]>) -> Result<Scores> { Ok(Scores::from([("loss", 0.0)])) }
    /// #     fn draws_random_numbers(&self) -> bool { false }
    /// # }
    /// # let x = Tensor::arange(40, (Kind::Float, Device::Cpu)).view([40, 1]);
    /// # let (train, validation) = (TensorData::new([x.copy(), x.copy()])?, TensorData::new([x.copy(), x.copy()])?);
    /// let new_model = || {
    ///     let variables = nn::VarStore::new(Device::Cpu);
    ///     let layer = nn::linear(variables.root() / "layer", 1, 1, Default::default());
    ///     Ok(Line { variables, layer })
    /// };
    /// let model = new_model()?;
    /// let optimizer = Optimizer::adam(&model.variables, 1e-2)?;
    /// let mut trainer = Trainer::for_model(model, optimizer, train, validation)
    ///     .batch_size(16)
    ///     .accumulate(4)
    ///     .threads(2, new_model)
    ///     .build()?;
    /// trainer.optimize(100, |event| println!("{event}"))?;
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn threads(mut self, threads: usize, replica: impl Fn() -> Result<M> + Clone + Send + 'static) -> Self
    where
        M: 'static,
        M::Batch: Send + 'static,
    {
        self.threads = Some(Box::new(move || Threads::start(threads, replica)));
        self
    }

    /// Sets the number of examples in a batch. Default: 64.
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// Sets the number of parts of a batch, whose gradients are computed one after the other and added up: for batches that do not
    /// fit into memory at once, and for [several processes](Self::processes), each of which computes some of the parts. Default: 1.
    ///
    /// The sum is the gradient of the whole batch, up to rounding, unless the model treats the examples of a batch together, as batch
    /// normalization does. The optimizer makes one step for each batch, as without parts.
    ///
    /// The parts are added as a binary tree: the first half of them, and the second half, and then both sums. The order depends on
    /// nothing but their number. So another number of parts changes the bits of the results; another number of processes or
    /// [threads](Self::threads) does not. Meanwhile as many gradients are in memory as the tree is high, and one more: 4 for 8 parts.
    ///
    /// Buffers, such as the statistics of batch normalization, are the same at the beginning of each part. Afterwards they are
    /// changed once, by the mean of what the parts have changed.
    ///
    /// Small parts compute slower: in parts of 16 images, the tutorial's network takes a fifth more time than with 64 at once.
    pub fn accumulate(mut self, parts: usize) -> Self {
        self.parts = parts;
        self
    }

    /// Sets the order of the training examples. Default: each epoch in a new random order.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Sets the seed of the order of the training examples, and of libtorch's random numbers. Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the number of iterations between evaluations. Default: 100.
    pub fn evaluate_every(mut self, iterations: u64) -> Self {
        self.evaluate_every = iterations;
        self
    }

    /// Stops after more than `iterations` iterations without an improvement of the model's [metric](Model::metric), which is the
    /// validation accuracy of a network. Default: 1000.
    pub fn patience(self, iterations: u64) -> Self {
        self.stop_when(Patience::new(iterations))
    }

    /// Sets the rule that decides when to stop and what counts as better. Where it names no score, it monitors the model's
    /// [metric](Model::metric).
    pub fn stop_when(mut self, rule: impl Into<Rule>) -> Self {
        self.rule = rule.into();
        self
    }

    /// Reduces the learning rate when a score has not improved for a number of evaluations. Default: the optimizer's schedule alone.
    ///
    /// The score is the one that the stopping rule monitors, unless the plateau [names](Plateau::on) another. Each reduction is
    /// reported as [`Event::LearningRateReduced`](super::Event::LearningRateReduced).
    ///
    /// ```
    /// # use earlystop::ndarray::{Array1, Array3};
    /// # let examples = |n| earlystop::Examples::new(Array3::zeros((n, 4, 4)), Array1::from_shape_fn(n, |i| (i % 10) as u8)).unwrap();
    /// # let (train, validation) = (examples(200), examples(50));
    /// # let network = earlystop::Network::builder([4, 4, 1]).flatten().softmax_classifier(10).build(tch::Device::Cpu)?;
    /// # let optimizer = earlystop::Optimizer::adam(&network, 1e-2)?;
    /// use earlystop::Trainer;
    /// use earlystop::early_stopping::{Patience, Plateau};
    ///
    /// let mut trainer = Trainer::builder(network, optimizer, &train, &validation)
    ///     .evaluate_every(10)
    ///     .reduce_on_plateau(Plateau::new(2, 0.1))
    ///     .stop_when(Patience::evaluations(6))
    ///     .build()?;
    /// trainer.optimize(100, |event| println!("{event}"))?;
    /// assert!(trainer.learning_rate() < 1e-2);
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn reduce_on_plateau(mut self, plateau: Plateau) -> Self {
        self.plateau = Some(plateau);
        self
    }

    /// Evaluates the model on one more data set at each evaluation. Its scores are named after it: `NAME_loss`.
    ///
    /// The scores of a set called `test` decide nothing. A rule can [monitor](crate::early_stopping::Rule::on) those of any other.
    pub fn evaluate_on(mut self, name: impl Into<String>, data: impl Data<Batch = M::Batch> + Send + 'static) -> Self {
        self.held_out.push((name.into(), Box::new(data)));
        self
    }

    /// Sets whether each evaluation records which validation images are classified wrongly, at most one bit per image.
    /// Default: only if the stopping rule needs it.
    ///
    /// Switch it on to [replay](crate::early_stopping::replay) the [noise-aware rule](Rule::noise_aware) on the history of
    /// a run with another rule.
    pub fn record_mistakes(mut self, record: bool) -> Self {
        self.records_mistakes = record;
        self
    }

    /// Saves the complete state to a folder, at each evaluation unless [`save_policy`](Self::save_policy) says otherwise.
    /// Default: no folder.
    ///
    /// With the feature `object-store`, it may be a URL such as `s3://bucket/runs/1`: see
    /// [Object storage](crate::checkpoint#object-storage).
    pub fn checkpoints(mut self, folder: impl AsRef<Path>) -> Self {
        self.checkpoints = Some(folder.as_ref().to_owned());
        self
    }

    /// Sets when to save. Default: [`SavePolicy::EveryEvaluation`].
    ///
    /// Whatever the policy, the state is also saved when a call ends: after its last iteration, when the rule stops the run
    /// and when a stop is requested. A save that failed is tried again at the next evaluation. The best variables are kept in
    /// memory until the next save if the policy skips them, and that save writes them too; see
    /// [`keep_best_in_memory`](Self::keep_best_in_memory).
    ///
    /// ```
    /// # use earlystop::ndarray::{Array1, Array3};
    /// # let examples = |n| earlystop::Examples::new(Array3::zeros((n, 4, 4)), Array1::from_shape_fn(n, |i| (i % 10) as u8)).unwrap();
    /// # let (train, validation) = (examples(200), examples(50));
    /// # let network = earlystop::Network::builder([4, 4, 1]).flatten().softmax_classifier(10).build(tch::Device::Cpu)?;
    /// # let optimizer = earlystop::Optimizer::adam(&network, 1e-2)?;
    /// # let folder = tempfile::tempdir().unwrap();
    /// use std::time::Duration;
    ///
    /// use earlystop::{Trainer, checkpoint::Keep, trainer::SavePolicy};
    ///
    /// let trainer = Trainer::builder(network, optimizer, &train, &validation)
    ///     .checkpoints(folder.path())
    ///     .save_policy(SavePolicy::EveryTime(Duration::from_secs(600)))
    ///     .keep(Keep::last(3).best(1))
    ///     .build()?;
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn save_policy(mut self, policy: SavePolicy) -> Self {
        self.save_policy = policy;
        self
    }

    /// Sets which checkpoints stay in the folder when another is saved. Default: the last two and the best one.
    ///
    /// The best one is that of the best evaluation, as the stopping rule sees it. Without it, the best variables are kept in
    /// memory only, and a resumed run cannot [restore](Trainer::restore_best) them.
    pub fn keep(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// Sets the size in bytes above which a state is saved in several files. Default: 5 GB.
    ///
    /// See [`Saver::split_above`](crate::checkpoint::Saver::split_above) for the layout. Whatever the size, one checkpoint is one unit: all
    /// of its files become valid at once.
    pub fn split_above(mut self, bytes: u64) -> Self {
        self.split_above = Some(bytes);
        self
    }

    /// Sets whether the trainer saves in another thread while it trains on. Default: only to object storage.
    ///
    /// The training then waits only for a copy of its state, which takes as much memory as the network's variables and the
    /// optimizer's state together. The guarantees are the same: one save ends before the next one begins, and a call returns
    /// after its last save has ended. A failed save is reported when its end is noticed, some iterations later.
    ///
    /// Saving the state of the tutorial's network takes some milliseconds, 2% of its training, so that the copy and the late
    /// reports do not pay. For a state of a gigabyte, seconds become the time of a copy in memory.
    pub fn save_in_background(mut self, in_background: bool) -> Self {
        self.saves_in_background = Some(in_background);
        self
    }

    /// Ends the call with an error at once if a checkpoint cannot be written, because the disk is full for example.
    ///
    /// Unless this is set, the trainer trains on and tries again at the next evaluation, with the event
    /// [`Event::SaveFailed`](super::Event::SaveFailed); if the last save of a call fails, the call returns the error at its end.
    ///
    /// Either way nothing in memory is lost: [`Trainer::optimize`] can be called again, which first saves the state that
    /// could not be saved, and [`Trainer::restore_best`] still finds the best variables.
    pub fn stop_on_failed_save(mut self) -> Self {
        self.stops_on_failed_save = true;
        self
    }

    /// Sets whether the best variables are kept in memory while no checkpoint has them: without a folder, after a failed
    /// save, or where the [policy](Self::save_policy) skips a save. Default: yes.
    ///
    /// The copy takes as much memory as the network's variables and the optimizer's state together, three times the variables
    /// with Adam, and is renewed at each improvement. Switch it off for a model of which a second copy does not fit; without
    /// a folder, [`Trainer::restore_best`] then fails.
    pub fn keep_best_in_memory(mut self, keep: bool) -> Self {
        self.keeps_best_in_memory = keep;
        self
    }

    /// Adds a [`Callback`], which watches each call of [`Trainer::optimize`]. Default: none. Several are called in the order in
    /// which they were added.
    ///
    /// The module `logging`, with the feature of that name, has callbacks that show a progress bar or write log files.
    pub fn callback(mut self, callback: impl Callback<M> + Send + 'static) -> Self {
        self.callbacks.push(Box::new(callback));
        self
    }

    /// Trains on several [processes](crate::processes), which may run on several machines. Default: one process.
    ///
    /// Each process computes its share of the [parts](Self::accumulate) of every batch, and of the held-out batches of every evaluation, and
    /// reads only the examples of these. The results are the same to the bit for any number of processes, also if a run is resumed with
    /// another number. All processes run the same program: they must make the same calls of the trainer, and get the same reports and
    /// errors. Only the first one uses the checkpoint folder, reports events and calls callbacks. A request to stop that any
    /// process receives stops all.
    ///
    /// At the beginning of the first call, the processes compare their programs, settings and data. The variables are those of the first
    /// process, however the others were initialized.
    ///
    /// The number of processes must be a power of two that divides the number of parts.
    pub fn processes(mut self, processes: Processes) -> Self {
        self.processes = processes;
        self
    }

    /// Builds the trainer.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] and [`Error::Data`] if the settings, the sets and the network do not fit together; [`Error::Io`] if the checkpoint
    /// folder cannot be read.
    pub fn build(self) -> Result<Trainer<M>> {
        if self.evaluate_every == 0 {
            return Err(Error::setting("evaluate every", "at least 1 iteration", 0));
        }
        if !(1..=self.batch_size.max(1)).contains(&self.parts) {
            let expected = format!("1 to the batch size, {}", self.batch_size);
            return Err(Error::setting("parts of a batch", expected, self.parts));
        }
        let processes = self.processes.count();
        if !processes.is_power_of_two() || !self.parts.is_multiple_of(processes) {
            let expected = format!(
                "a power of two that divides the number of parts of a batch, {}, which accumulate() sets",
                self.parts
            );
            return Err(Error::setting("number of processes", expected, processes));
        }
        Settings::check_model(&self.model.settings())?;
        let metric = self.model.metric();
        // The rule of a network stays as it is, and as its checkpoints have it.
        let rule =
            if self.rule.lacks_metric() && metric != Metric::default() { self.rule.on(metric) } else { self.rule };
        rule.check()?;
        check_patience(&rule, self.evaluate_every)?;
        let plateau = self.plateau.map(|plateau| plateau.or_on(rule.monitored()));
        plateau.as_ref().map_or(Ok(()), Plateau::check)?;
        self.save_policy.check()?;
        self.optimizer.check(self.model.variables())?;
        self.optimizer.expect_trained()?;
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        check_sets(&*self.train, &self.held_out)?;
        if self.checkpoints.as_ref().is_some_and(|folder| folder.as_os_str().is_empty()) {
            return Err(Error::setting("checkpoints", "the path of a folder", "an empty path"));
        }
        let is_remote = self.checkpoints.as_ref().is_some_and(|folder| is_url(folder));
        // The first process writes, and tells the others what it has read.
        let checkpoints = self.checkpoints.filter(|_| self.processes.is_first());
        let callbacks = if self.processes.is_first() { self.callbacks } else { Vec::new() };
        let store = checkpoints.map(Store::open).transpose()?.map(|store| store.keep(self.keep.clone()));
        let store = store.map(|store| match self.split_above {
            Some(bytes) => store.split_above(bytes),
            None => store,
        });
        let settings = SaveSettings {
            policy: self.save_policy,
            stops_on_failed_save: self.stops_on_failed_save,
            in_background: self.saves_in_background.unwrap_or(is_remote),
            keeps_best: self.keep.keeps_best(),
        };
        let threads = self.threads.map(|start| start()).transpose()?;
        let trainer = Trainer {
            threads,
            batches: Batches::new(self.train.len(), self.batch_size, self.seed)?.with_order(self.order),
            parts: self.parts,
            commits: Commits::new(store, settings),
            best: Best::new(self.keeps_best_in_memory && self.processes.is_first()),
            callbacks: Callbacks::new(callbacks),
            model: self.model,
            optimizer: self.optimizer,
            train: self.train,
            held_out: self.held_out,
            fingerprints: OnceLock::new(),
            evaluate_every: self.evaluate_every,
            records_mistakes: self.records_mistakes || rule.needs_mistakes(),
            stopping: EarlyStopping::with(rule)?,
            plateau,
            reductions: Reductions::default(),
            iteration: 0,
            lacks_evaluation: false,
            losses: Losses::default(),
            elapsed: Duration::ZERO,
            stopped: None,
            requested: None,
            noted: false,
            processes: self.processes,
            are_alike: false,
            pending: None,
        };
        trainer.share_variables()?; // refuses replicas of another model
        Ok(trainer)
    }
}

impl<M: Model> fmt::Debug for TrainerBuilder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrainerBuilder")
            .field("rule", &self.rule)
            .field("checkpoints", &self.checkpoints)
            .finish_non_exhaustive()
    }
}

/// Refuses empty sets and names that are given twice.
fn check_sets<B>(train: &dyn Data<Batch = B>, held_out: &[(String, Box<dyn Data<Batch = B> + Send>)]) -> Result<()> {
    if train.is_empty() {
        return Err(Error::data("training set", "at least one example", "none"));
    }
    for (index, (name, set)) in held_out.iter().enumerate() {
        if set.is_empty() {
            return Err(Error::data(format!("{name} set"), "at least one example", "none"));
        }
        if name == "train" || held_out[..index].iter().any(|(other, _)| other == name) {
            return Err(Error::setting("name of a held-out set", "one that is not in use", format!("{name:?}")));
        }
    }
    Ok(())
}

/// Refuses a patience that always runs out before the next evaluation.
fn check_patience(rule: &Rule, evaluate_every: u64) -> Result<()> {
    match rule.shortest_patience() {
        Some(patience) if patience < evaluate_every => Err(Error::setting(
            "patience",
            format!("at least the {evaluate_every} iterations from one evaluation to the next"),
            patience,
        )),
        _ => Ok(()),
    }
}
