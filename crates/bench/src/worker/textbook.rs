//! tch as its own example `mnist_conv` uses it, with the tutorial's network.

use earlystop::ndarray::ArrayView1;
use earlystop::tch::nn::{self, ModuleT as _, OptimizerConfig as _};
use earlystop::tch::{Device, Tensor};
use earlystop::{Batches, Examples, Mnist};

use super::Worker;
use crate::Result;
use crate::job::{SEED, Settings, Size};

/// Of 256 and 1,000 the faster one.
const VALIDATION_BATCH: usize = 256;

#[derive(Debug)]
struct Net {
    conv1: nn::Conv2D,
    conv2: nn::Conv2D,
    fc1: nn::Linear,
    fc2: nn::Linear,
    flat: i64,
}

impl Net {
    fn new(path: &nn::Path, size: &Size) -> Self {
        let [channels1, channels2, hidden] = [16, 36, 128].map(|tutorials| size.channels(tutorials) as i64);
        let flat = 7 * 7 * channels2;
        let conv = nn::ConvConfig {
            padding: 2,
            ws_init: nn::init::DEFAULT_KAIMING_NORMAL,
            bs_init: nn::Init::Const(0.0),
            ..Default::default()
        };
        let linear = |ws_init| nn::LinearConfig { ws_init, bs_init: Some(nn::Init::Const(0.0)), bias: true };
        let fc1 = linear(nn::init::DEFAULT_KAIMING_NORMAL);
        let limit = (6.0 / (hidden as f64 + 10.0)).sqrt();
        let fc2 = linear(nn::Init::Uniform { lo: -limit, up: limit });
        Self {
            conv1: nn::conv2d(path / "conv1", 1, channels1, 5, conv),
            conv2: nn::conv2d(path / "conv2", channels1, channels2, 5, conv),
            fc1: nn::linear(path / "fc1", flat, hidden, fc1),
            fc2: nn::linear(path / "fc2", hidden, 10, fc2),
            flat,
        }
    }
}

impl nn::ModuleT for Net {
    fn forward_t(&self, xs: &Tensor, _train: bool) -> Tensor {
        xs.view([-1, 1, 28, 28])
            .apply(&self.conv1)
            .relu()
            .max_pool2d_default(2)
            .apply(&self.conv2)
            .relu()
            .max_pool2d_default(2)
            .view([-1, self.flat])
            .apply(&self.fc1)
            .relu()
            .apply(&self.fc2)
    }
}

pub(super) struct Textbook {
    train: (Tensor, Tensor),
    validation: (Tensor, Tensor),
    variables: nn::VarStore,
    net: Net,
    optimizer: nn::Optimizer,
    batches: Batches,
    iteration: u64,
    file: std::path::PathBuf,
}

impl Textbook {
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        let data = Mnist::load(&settings.data, |_| {})?;
        let variables = nn::VarStore::new(Device::Cpu);
        let net = Net::new(&variables.root(), &settings.size);
        let optimizer = nn::Adam::default().build(&variables, 1e-4)?;
        Ok(Self {
            train: tensors(&data.train)?,
            validation: tensors(&data.validation)?,
            variables,
            net,
            optimizer,
            batches: Batches::new(data.train.len(), settings.size.batch, SEED)?,
            iteration: 0,
            file: settings.saves.join("state.safetensors"),
        })
    }
}

/// Gives images `[examples, 784]` and labels `[examples]`, as `tch::vision::mnist` does.
fn tensors(examples: &Examples) -> Result<(Tensor, Tensor)> {
    let labels = |labels: ArrayView1<u8>| labels.mapv(i64::from);
    Ok((examples.images_f32(..)?.try_into()?, labels(examples.labels()).try_into()?))
}

impl Worker for Textbook {
    fn validation_batch(&self) -> usize {
        VALIDATION_BATCH
    }

    fn train(&mut self, iterations: usize) -> Result<()> {
        let (images, labels) = &self.train;
        for _ in 0..iterations {
            self.iteration += 1;
            let indices: Vec<_> = self.batches.indices(self.iteration).into_iter().map(|index| index as i64).collect();
            let indices = Tensor::from_slice(&indices);
            let (images, labels) = (images.index_select(0, &indices), labels.index_select(0, &indices));
            let loss = self.net.forward_t(&images, true).cross_entropy_for_logits(&labels);
            self.optimizer.backward_step(&loss);
        }
        Ok(())
    }

    fn validate(&mut self) -> Result<f64> {
        let (images, labels) = &self.validation;
        Ok(self.net.batch_accuracy_for_logits(images, labels, Device::Cpu, VALIDATION_BATCH as i64))
    }

    fn save(&mut self) -> Result<()> {
        Ok(self.variables.save(&self.file)?)
    }
}
