//! Training of a [`Network`] on images.

use super::model::{BatchIter, EvaluateByBatch, Model, Scores};
use super::{Trainer, TrainerBuilder};
use crate::checkpoint::Metadata;
use crate::data::{Examples, ImageBatch};
use crate::early_stopping::Metric;
use crate::error::{Error, Result, torch};
use crate::network::{Loss, Network, Tally};
use crate::optimizer::{Optimizer, Trainable};

impl Model for Network {
    type Batch = ImageBatch;

    fn variables(&self) -> &dyn Trainable {
        self
    }

    fn loss(&self, (images, labels): &ImageBatch, iteration: u64) -> Result<Loss> {
        self.training_loss(images, labels, iteration)
    }

    fn evaluate(&self, batches: BatchIter<ImageBatch>) -> Result<Scores> {
        let numbers = batches.map(|batch| self.evaluate_batch(&batch?)).collect::<Result<Vec<_>>>()?;
        self.combine(&numbers)
    }

    fn by_batch(&self) -> Option<&dyn EvaluateByBatch<Batch = ImageBatch>> {
        Some(self)
    }

    fn metric(&self) -> Metric {
        Metric::validation_accuracy()
    }

    fn settings(&self) -> Metadata {
        let json = |value: serde_json::Result<String>| value.unwrap_or_default();
        Metadata::from([
            ("network".to_owned(), json(serde_json::to_string(self.description()))),
            ("network_seed".to_owned(), self.seed().to_string()),
        ])
    }

    /// Dropout has a generator of its own.
    fn draws_random_numbers(&self) -> bool {
        false
    }

    /// It runs on threads of its own, and libtorch on one.
    fn depends_on_threads(&self) -> bool {
        false
    }
}

/// The numbers of a batch are the sum of the images' losses, and for each image 1 if it is classified correctly, else 0.
impl EvaluateByBatch for Network {
    type Batch = ImageBatch;

    fn evaluate_batch(&self, (images, labels): &ImageBatch) -> Result<Vec<f64>> {
        let mut tally = Tally::default();
        let classes = labels.f_argmax(1, false).map_err(torch("labels"))?;
        tally.add(self, images, &classes)?;
        let correct = tally.correct.iter().map(|&correct| f64::from(u8::from(correct)));
        Ok(std::iter::once(tally.loss).chain(correct).collect())
    }

    fn combine(&self, batches: &[Vec<f64>]) -> Result<Scores> {
        let mut tally = Tally::default();
        for numbers in batches {
            let [loss, correct @ ..] = &numbers[..] else { continue };
            tally.loss += loss;
            tally.correct.extend(correct.iter().map(|&number| number == 1.0));
        }
        let evaluation = tally.finish();
        let scores = Scores::from([("accuracy", evaluation.accuracy()), ("loss", evaluation.loss)]);
        Ok(scores.with_correct(evaluation.correct))
    }
}

impl Trainer<Network> {
    /// Begins a trainer for a network on images; see [`TrainerBuilder`] for its settings. For a model of your own, see
    /// [`Trainer::for_model`].
    pub fn builder(network: Network, optimizer: Optimizer, train: &Examples, validation: &Examples) -> TrainerBuilder {
        let mut problem = None;
        let mut fit = |name, set: &Examples| {
            fit(name, set, &network).unwrap_or_else(|error| {
                problem.get_or_insert(error);
                set.clone()
            })
        };
        let (train, validation) = (fit("training", train), fit("validation", validation));
        let mut builder = TrainerBuilder::new(network, optimizer, train, validation);
        builder.problem = problem;
        builder
    }

    /// Returns the network.
    pub fn network(&self) -> &Network {
        self.model()
    }

    /// Returns the network and drops the trainer.
    pub fn into_network(self) -> Network {
        self.into_model()
    }
}

impl TrainerBuilder<Network> {
    /// Records the accuracy on a test set at each evaluation, to compare stopping rules afterwards. It decides nothing.
    pub fn record_test_accuracy(mut self, test: &Examples) -> Self {
        match fit("test", test, &self.model) {
            Ok(test) => self.evaluate_on("test", test),
            Err(error) => {
                self.problem = self.problem.or(Some(error));
                self
            }
        }
    }
}

/// Checks that a network can classify the images, and gives their labels as many columns as the network has outputs.
fn fit(name: &str, set: &Examples, network: &Network) -> Result<Examples> {
    let ([height, width, channels], num_classes) = (network.description().input, network.num_classes());
    let what = format!("{name} set");
    if set.is_empty() {
        return Err(Error::data(what, "at least one example", "none"));
    }
    if [set.height(), set.width()] != [height, width] {
        let found = format!("{} x {}", set.height(), set.width());
        return Err(Error::data(what, format!("images of {height} x {width} pixels"), found));
    }
    if channels != 1 {
        let expected = format!("images with {channels} channels, as the network's input has");
        return Err(Error::data(what, expected, "grayscale images, with 1 channel"));
    }
    if set.num_classes() > num_classes {
        return Err(Error::data(what, format!("at most {num_classes} classes"), set.num_classes()));
    }
    set.clone().with_num_classes(num_classes)
}
