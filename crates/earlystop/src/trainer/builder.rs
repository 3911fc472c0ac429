//! The trainer's settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Trainer;
use crate::checkpoint::{Keep, Store};
use crate::early_stopping::{EarlyStopping, Patience, Rule};
use crate::error::{Error, Result};
use crate::mnist::Examples;
use crate::network::{Network, Precision};
use crate::optimizer::{Adam, Batches};

/// Collects the settings of a [`Trainer`]: the tutorial's, unless set.
#[derive(Debug)]
#[must_use = "a builder builds nothing before `build`"]
pub struct TrainerBuilder {
    network: Network,
    optimizer: Adam,
    train: Examples,
    validation: Examples,
    test: Option<Examples>,
    batch_size: usize,
    seed: u64,
    evaluate_every: u64,
    evaluation_precision: Option<Precision>,
    rule: Rule,
    checkpoints: Option<PathBuf>,
}

impl TrainerBuilder {
    pub(super) fn new(network: Network, optimizer: Adam, train: &Examples, validation: &Examples) -> Self {
        Self {
            network,
            optimizer,
            train: train.clone(),
            validation: validation.clone(),
            test: None,
            batch_size: 64,
            seed: 0,
            evaluate_every: 100,
            evaluation_precision: None,
            rule: Patience::new(1000).into(),
            checkpoints: None,
        }
    }

    /// Sets the number of examples in a batch; 64 unless set.
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// Sets the seed of the order of the training examples; 0 unless set.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the number of iterations from one evaluation to the next; 100 unless set.
    pub fn evaluate_every(mut self, iterations: u64) -> Self {
        self.evaluate_every = iterations;
        self
    }

    /// Sets the numbers that evaluations compute in; the network's own unless set.
    pub fn evaluate_in(mut self, precision: Precision) -> Self {
        self.evaluation_precision = Some(precision);
        self
    }

    /// Stops after this many iterations without an improvement of the validation accuracy; 1,000 unless set.
    pub fn patience(self, iterations: u64) -> Self {
        self.stop_when(Patience::new(iterations))
    }

    /// Sets the rule that says when to stop and what counts as better.
    pub fn stop_when(mut self, rule: impl Into<Rule>) -> Self {
        self.rule = rule.into();
        self
    }

    /// Notes the accuracy on a test set at each evaluation: to compare stopping rules afterwards, never to decide by it.
    pub fn record_test_accuracy(mut self, test: &Examples) -> Self {
        self.test = Some(test.clone());
        self
    }

    /// Commits the whole state to a folder at each evaluation; the latest and the best are kept. None unless set.
    pub fn checkpoints(mut self, folder: impl AsRef<Path>) -> Self {
        self.checkpoints = Some(folder.as_ref().to_owned());
        self
    }

    /// Makes the trainer.
    ///
    /// # Errors
    ///
    /// When a setting cannot be used, a set has no examples, the images do not fit the network, or the folder for checkpoints
    /// cannot be used or is in use by another process.
    pub fn build(self) -> Result<Trainer> {
        if self.evaluate_every == 0 {
            return Err(Error::argument("evaluate every", "at least 1 iteration", 0));
        }
        let [height, width, _] = self.network.description().input;
        let sets =
            [("training", Some(&self.train)), ("validation", Some(&self.validation)), ("test", self.test.as_ref())];
        for (name, set) in sets.into_iter().filter_map(|(name, set)| Some((name, set?))) {
            check(name, set, [height, width], self.network.num_classes())?;
        }
        Ok(Trainer {
            batches: Batches::new(self.train.len(), self.batch_size, self.seed)?,
            store: self.checkpoints.map(Store::open).transpose()?.map(|store| store.keep(Keep::last(2).best(1))),
            evaluation_precision: self.evaluation_precision.unwrap_or(self.network.description().precision),
            network: self.network,
            optimizer: self.optimizer,
            train: self.train,
            validation: self.validation,
            test: self.test,
            evaluate_every: self.evaluate_every,
            stopping: EarlyStopping::with(self.rule),
            iteration: 0,
            elapsed: Duration::ZERO,
            stopped: None,
        })
    }
}

fn check(name: &str, set: &Examples, image: [usize; 2], num_classes: usize) -> Result<()> {
    let what = format!("{name} set");
    if set.is_empty() {
        return Err(Error::argument(what, "at least one example", "none"));
    }
    if [set.height(), set.width()] != image {
        let found = format!("{} x {}", set.height(), set.width());
        return Err(Error::argument(what, format!("images of {} x {} pixels", image[0], image[1]), found));
    }
    if set.num_classes() > num_classes {
        return Err(Error::argument(what, format!("at most {num_classes} classes"), set.num_classes()));
    }
    Ok(())
}
