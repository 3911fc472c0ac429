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
    /// Milliseconds per iteration of a trainer that computes two parts of each batch side by side.
    pub(crate) parts: Spread,
    /// The same as `ratio` for the parts.
    pub(crate) parts_ratio: Spread,
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

    fn draws_random_numbers(&self) -> bool {
        false
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

    let (bare, rows) = (model(), data()?);
    let mut optimizer = nn::Adam::default().build(&bare.variables, 1e-4)?;
    let mut batches = Batches::new(rows.len(), 64, SEED)?;

    // One evaluation, at the end of each round: on as many images as a batch has.
    let builder = || {
        let own = model();
        let adam = Optimizer::adam(&own.variables, 1e-4)?;
        let few = TensorData::new([images.narrow(0, 0, 64), labels.narrow(0, 0, 64)])?;
        let builder = Trainer::for_model(own, adam, data()?, few).stop_when(Rule::never()).seed(SEED);
        Ok::<_, earlystop::Error>(builder.evaluate_every(u64::MAX).keep_best_in_memory(false))
    };
    let mut trainer = builder()?.build()?;
    let mut in_parts = builder()?.accumulate(2).threads(2, move || Ok(model())).build()?;

    let (mut bare_ms, mut trainer_ms, mut parts_ms) = (Vec::new(), Vec::new(), Vec::new());
    let milliseconds = |start: Instant| 1e3 * start.elapsed().as_secs_f64() / iterations as f64;
    let mut iteration = 0;
    // The first round warms up.
    for round in 0..=rounds {
        let start = Instant::now();
        for _ in 0..iterations {
            iteration += 1;
            let batch = rows.batch(&batches.indices(iteration), iteration)?;
            optimizer.backward_step(&bare.cross_entropy(&batch));
        }
        let mut times = [milliseconds(start); 3];
        for (time, trainer) in times[1..].iter_mut().zip([&mut trainer, &mut in_parts]) {
            let start = Instant::now();
            trainer.optimize(iterations as u64, |_| ())?;
            *time = milliseconds(start);
        }
        if round > 0 {
            for (all, time) in [&mut bare_ms, &mut trainer_ms, &mut parts_ms].into_iter().zip(times) {
                all.push(time);
            }
        }
    }
    Ok(Overhead {
        model: name,
        ratio: Spread::quartiles(&ratios(&trainer_ms, &bare_ms)),
        bare: Spread::quartiles(&bare_ms),
        trainer: Spread::quartiles(&trainer_ms),
        parts_ratio: Spread::quartiles(&ratios(&parts_ms, &bare_ms)),
        parts: Spread::quartiles(&parts_ms),
    })
}

/// Writes the section about both models.
pub(crate) fn section(overheads: &[Overhead]) -> Section {
    let about = "Milliseconds per iteration of a model that is written with tch, on batches of 64 images: a bare loop with tch's own Adam, and \
         a trainer with this crate's, by turns in one process. The trainer also keeps the mean loss, seeds libtorch, asks for requests \
         to stop, and evaluates at the end of a round on 64 images. In the last columns it computes two parts of each batch side by \
         side: `accumulate(2).threads(2, ..)`, with the same bits for any number of threads.";
    let spread = |spread: &Spread, digits: usize| {
        let Spread { median, low, high } = spread;
        format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
    };
    let row = |it: &Overhead| {
        let [ratio, parts_ratio] = [&it.ratio, &it.parts_ratio].map(|ratio| format!("{}×", spread(ratio, 3)));
        let [bare, trainer, parts] = [&it.bare, &it.trainer, &it.parts].map(|time| spread(time, 3));
        vec![it.model.to_owned(), bare, trainer, ratio, parts, parts_ratio]
    };
    let head = ["model", "bare loop", "trainer", "trainer / bare", "two parts on two threads", "two parts / bare"];
    Section { title: "Own models", about: about.to_owned(), table: table(&head, overheads.iter().map(row)) }
}
