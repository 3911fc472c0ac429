//! Measures the overhead of a trainer over a plain tch loop, for a user's own model.

use std::path::Path;
use std::time::Instant;

use earlystop::data::{Data, TensorData};
use earlystop::early_stopping::Rule;
use earlystop::optimizer::Trainable;
use earlystop::tch::nn::{self, ModuleT as _, OptimizerConfig as _};
use earlystop::tch::{Device, Tensor};
use earlystop::trainer::{BatchIter, Model, Scores};
use earlystop::{Batches, Loss, Mnist, Optimizer, Trainer};
use serde::Serialize;

use crate::Result;
use crate::job::SEED;
use crate::markdown::{Section, table};
use crate::statistics::{Spread, ratios};

/// One model, trained alternately by a plain loop and by a trainer.
#[derive(Debug, Serialize)]
pub(crate) struct Overhead {
    pub(crate) model: &'static str,
    /// Milliseconds per iteration of a loop with tch's own optimizer.
    pub(crate) bare: Spread,
    /// Milliseconds per iteration of the trainer.
    pub(crate) trainer: Spread,
    /// The trainer's time divided by that of the loop, in the same round.
    pub(crate) ratio: Spread,
}

type Batch = [Tensor; 2];

struct Classifier {
    variables: nn::VarStore,
    layers: nn::SequentialT,
}

impl Classifier {
    /// The tutorial's layers.
    fn convolutional() -> Self {
        let variables = nn::VarStore::new(Device::Cpu);
        let root = variables.root();
        let padded = nn::ConvConfig { padding: 2, ..Default::default() };
        let layers = nn::seq_t()
            .add_fn(|images| images.view([-1, 1, 28, 28]))
            .add(nn::conv2d(&root / "conv1", 1, 16, 5, padded))
            .add_fn(|x| x.relu().max_pool2d_default(2))
            .add(nn::conv2d(&root / "conv2", 16, 36, 5, padded))
            .add_fn(|x| x.relu().max_pool2d_default(2).flat_view())
            .add(nn::linear(&root / "fc1", 7 * 7 * 36, 128, Default::default()))
            .add_fn(Tensor::relu)
            .add(nn::linear(&root / "fc2", 128, 10, Default::default()));
        Self { variables, layers }
    }

    /// A model so small that every microsecond counts.
    fn small() -> Self {
        let variables = nn::VarStore::new(Device::Cpu);
        let root = variables.root();
        let layers = nn::seq_t()
            .add(nn::linear(&root / "fc1", 784, 32, Default::default()))
            .add_fn(Tensor::relu)
            .add(nn::linear(&root / "fc2", 32, 10, Default::default()));
        Self { variables, layers }
    }

    fn cross_entropy(&self, [images, labels]: &Batch) -> Tensor {
        self.layers.forward_t(images, true).cross_entropy_for_logits(labels)
    }
}

impl Model for Classifier {
    type Batch = Batch;

    fn variables(&self) -> &dyn Trainable {
        &self.variables
    }

    fn loss(&self, batch: &Batch, _iteration: u64) -> earlystop::Result<Loss> {
        Ok(self.cross_entropy(batch).into())
    }

    fn evaluate(&self, batches: BatchIter<Batch>) -> earlystop::Result<Scores> {
        let losses = batches.map(|batch| Ok(self.cross_entropy(&batch?).double_value(&[])));
        let losses = losses.collect::<earlystop::Result<Vec<f64>>>()?;
        Ok(Scores::from([("loss", losses.iter().sum::<f64>() / losses.len() as f64)]))
    }
}

/// Measures both models.
pub(crate) fn run(data: &Path, quick: bool) -> Result<Vec<Overhead>> {
    let data = Mnist::load(data, |_| {})?;
    let labels = Tensor::try_from(data.train.labels().mapv(i64::from))?;
    let images = Tensor::try_from(data.train.images_f32(..)?)?;
    let (rounds, iterations) = if quick { (1, [2, 2]) } else { (9, [150, 3000]) };
    Ok(vec![
        measure("the tutorial's layers", Classifier::convolutional, [&images, &labels], rounds, iterations[0])?,
        measure("784-32-10", Classifier::small, [&images, &labels], rounds, iterations[1])?,
    ])
}

fn measure(
    name: &'static str,
    model: fn() -> Classifier,
    [images, labels]: [&Tensor; 2],
    rounds: usize,
    iterations: usize,
) -> Result<Overhead> {
    eprintln!("Own model: {name}");
    let data = || TensorData::new([images.shallow_clone(), labels.shallow_clone()]);
    let few = TensorData::new([images.narrow(0, 0, 64), labels.narrow(0, 0, 64)])?;

    let (bare, rows) = (model(), data()?);
    let mut optimizer = nn::Adam::default().build(&bare.variables, 1e-4)?;
    let mut batches = Batches::new(rows.len(), 64, SEED)?;

    let own = model();
    let adam = Optimizer::adam(&own.variables, 1e-4)?;
    // One evaluation, at the end of each round: on as many images as a batch has.
    let builder = Trainer::for_model(own, adam, data()?, few).stop_when(Rule::never()).seed(SEED);
    let mut trainer = builder.evaluate_every(u64::MAX).keep_best_in_memory(false).build()?;

    let (mut bare_ms, mut trainer_ms) = (Vec::new(), Vec::new());
    let mut iteration = 0;
    // The first round warms up.
    for round in 0..=rounds {
        let start = Instant::now();
        for _ in 0..iterations {
            iteration += 1;
            let batch = rows.batch(&batches.indices(iteration), iteration)?;
            optimizer.backward_step(&bare.cross_entropy(&batch));
        }
        let bare_time = start.elapsed();
        let start = Instant::now();
        trainer.optimize(iterations as u64, |_| ())?;
        let trainer_time = start.elapsed();
        if round > 0 {
            bare_ms.push(1e3 * bare_time.as_secs_f64() / iterations as f64);
            trainer_ms.push(1e3 * trainer_time.as_secs_f64() / iterations as f64);
        }
    }
    Ok(Overhead {
        model: name,
        ratio: Spread::quartiles(&ratios(&trainer_ms, &bare_ms)),
        bare: Spread::quartiles(&bare_ms),
        trainer: Spread::quartiles(&trainer_ms),
    })
}

/// Writes the section about both models.
pub(crate) fn section(overheads: &[Overhead]) -> Section {
    let about = "Milliseconds per iteration of a model that is written with tch, on batches of 64 images: a bare loop with tch's own Adam, and \
         a trainer with this crate's, by turns in one process. The trainer also keeps the mean loss, seeds libtorch, asks for requests \
         to stop, and evaluates at the end of a round on 64 images.";
    let spread = |spread: &Spread, digits: usize| {
        let Spread { median, low, high } = spread;
        format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
    };
    let row = |it: &Overhead| {
        let ratio = format!("{}×", spread(&it.ratio, 3));
        vec![it.model.to_owned(), spread(&it.bare, 3), spread(&it.trainer, 3), ratio]
    };
    let head = ["model", "bare loop", "trainer", "trainer / bare"];
    Section { title: "Own models", about: about.to_owned(), table: table(&head, overheads.iter().map(row)) }
}
