//! A model of your own: classifies coloured images, with batch normalization and dropout, from data that is made as it is needed.
//!
//! `cargo run --release --example own_images [FOLDER [ITERATIONS [MNIST [PHOTOGRAPHS]]]]`. The images are MNIST's digits, of which
//! each stands out from a part of a photograph, as in [MNIST-M](https://arxiv.org/abs/1505.07818). In training every digit gets a
//! new background each time, which depends on its index and the iteration alone; so a run that is stopped or killed, and
//! started again, continues with the same images. PHOTOGRAPHS is a folder of coloured PNG or JPEG files of 28 x 28 pixels or more.

use std::sync::Arc;
use std::{env, fs};

use earlystop::data::Data;
use earlystop::early_stopping::Metric;
use earlystop::ndarray::{Array3, ArrayD, ArrayView3, Ix3, s};
use earlystop::optimizer::{Schedule, Trainable};
use earlystop::trainer::{BatchIter, Model, Scores};
use earlystop::{Error, Examples, Loss, Mnist, Optimizer, Result, Trainer, stop};
use tch::nn::ModuleT;
use tch::{Device, Tensor, nn};

const SIDE: usize = 28;

/// Digits on parts of photographs: images `[batch, 3, 28, 28]` from 0.0 to 1.0, and the classes `[batch]`.
struct Coloured {
    digits: Examples,
    photographs: Arc<Vec<Array3<u8>>>,
}

/// Reads all photographs of a folder, each `[3, height, width]`.
fn photographs(folder: &str) -> Result<Vec<Array3<u8>>> {
    let problem = |problem: String| Error::other(format!("{folder}: {problem}; put coloured photographs there"));
    let entries = fs::read_dir(folder).map_err(|error| problem(error.to_string()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort(); // the same order on every machine
    let mut found = Vec::new();
    for path in paths {
        let image: ArrayD<u8> = (&tch::vision::image::load(&path)?).try_into()?;
        let image = image.into_dimensionality::<Ix3>().map_err(Error::other)?;
        match image.dim() {
            (3, SIDE.., SIDE..) => found.push(image),
            size => return Err(problem(format!("{} has the size {size:?}", path.display()))),
        }
    }
    if found.is_empty() { Err(problem("no files".to_owned())) } else { Ok(found) }
}

impl Coloured {
    /// A part of a photograph, `[3, 28, 28]`.
    fn background(&self, index: usize, iteration: u64) -> ArrayView3<'_, u8> {
        // Numbers without a visible pattern, from the index and the iteration (SplitMix64).
        let mut state = (index as u64) << 32 ^ iteration;
        let mut below = move |end: usize| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ mixed >> 31) % end as u64) as usize
        };
        let photograph = &self.photographs[below(self.photographs.len())];
        let (_, height, width) = photograph.dim();
        let (y, x) = (below(height - SIDE + 1), below(width - SIDE + 1));
        photograph.slice(s![.., y..y + SIDE, x..x + SIDE])
    }
}

impl Data for Coloured {
    type Batch = (Tensor, Tensor);

    fn len(&self) -> usize {
        self.digits.len()
    }

    fn batch(&self, indices: &[usize], iteration: u64) -> Result<Self::Batch> {
        let digits = self.digits.take(indices)?;
        let mut values = Vec::with_capacity(indices.len() * 3 * SIDE * SIDE);
        for (digit, &index) in digits.images().outer_iter().zip(indices) {
            for channel in self.background(index, iteration).outer_iter() {
                values.extend(channel.iter().zip(digit).map(|(&under, &ink)| f32::from(under.abs_diff(ink)) / 255.0));
            }
        }
        let images = Tensor::from_slice(&values).view([-1, 3, SIDE as i64, SIDE as i64]);
        let classes: Vec<i64> = digits.labels().iter().copied().map(i64::from).collect();
        Ok((images, Tensor::from_slice(&classes)))
    }

    /// The sizes of the photographs tell whether they are others.
    fn fingerprint(&self) -> Option<String> {
        let sizes: Vec<_> = self.photographs.iter().map(|photograph| photograph.dim()).collect();
        Some(format!("{} on photographs of {sizes:?}", Data::fingerprint(&self.digits)?))
    }
}

struct Classifier {
    variables: nn::VarStore,
    layers: nn::SequentialT,
}

impl Classifier {
    fn new() -> Self {
        tch::manual_seed(1); // tch draws the initial values
        let variables = nn::VarStore::new(Device::Cpu);
        let root = variables.root();
        let convolution = |name: &str, inputs, outputs| {
            let config = nn::ConvConfig { padding: 2, ..Default::default() };
            nn::conv2d(&root / name, inputs, outputs, 5, config)
        };
        let layers = nn::seq_t()
            .add(convolution("conv1", 3, 16))
            .add(nn::batch_norm2d(&root / "norm1", 16, Default::default()))
            .add_fn(|x| x.relu().max_pool2d_default(2))
            .add(convolution("conv2", 16, 32))
            .add(nn::batch_norm2d(&root / "norm2", 32, Default::default()))
            .add_fn(|x| x.relu().max_pool2d_default(2).flat_view())
            .add_fn_t(|x, training| x.dropout(0.3, training))
            .add(nn::linear(&root / "output", 32 * 7 * 7, 10, Default::default()));
        Self { variables, layers }
    }
}

impl Model for Classifier {
    type Batch = (Tensor, Tensor);

    fn variables(&self) -> &dyn Trainable {
        &self.variables
    }

    fn loss(&self, (images, classes): &Self::Batch, _iteration: u64) -> Result<Loss> {
        Ok(self.layers.forward_t(images, true).cross_entropy_for_logits(classes).into())
    }

    fn evaluate(&self, batches: BatchIter<Self::Batch>) -> Result<Scores> {
        let (mut correct, mut loss) = (Vec::new(), 0.0);
        for batch in batches {
            let (images, classes) = batch?;
            let logits = self.layers.forward_t(&images, false);
            loss += logits.cross_entropy_for_logits(&classes).double_value(&[]) * classes.numel() as f64;
            correct.extend(Vec::<bool>::try_from(logits.argmax(-1, false).eq_tensor(&classes))?);
        }
        let count = correct.len() as f64;
        let accuracy = correct.iter().filter(|&&correct| correct).count() as f64 / count;
        Ok(Scores::from([("accuracy", accuracy), ("loss", loss / count)]).with_correct(correct))
    }

    fn metric(&self) -> Metric {
        Metric::validation_accuracy()
    }
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "checkpoints/own_images".to_owned());
    let iterations = arguments.next().map_or(Ok(5000), |count| count.parse()).map_err(Error::other)?;
    let mnist = arguments.next().unwrap_or_else(|| "data/MNIST".to_owned());
    let photographs = Arc::new(photographs(&arguments.next().unwrap_or_else(|| "data/photographs".to_owned()))?);
    stop::on_signals()?;
    let data = Mnist::load(mnist, |event| println!("{event}"))?;

    let coloured = |digits| Coloured { digits, photographs: Arc::clone(&photographs) };

    let model = Classifier::new();
    let schedule = Schedule::one_cycle(3e-3, 5000)?;
    let optimizer = Optimizer::sgd(&model.variables, schedule)?.momentum(0.9)?.nesterov()?;
    let mut trainer =
        Trainer::for_model(model, optimizer, coloured(data.train), coloured(data.validation.slice(..1000)?))
            .evaluate_every(50)
            .patience(1000)
            .checkpoints(folder)
            .build()?;
    trainer.resume(|event| println!("{event}"))?;
    println!("{}", trainer.optimize_to(iterations, |event| println!("{event}"))?);
    println!("{}", trainer.restore_best()?);
    println!(
        "Test accuracy: {:.2}%",
        100.0 * trainer.evaluate(&coloured(data.test))?.get("accuracy").unwrap_or(f64::NAN)
    );
    Ok(())
}
