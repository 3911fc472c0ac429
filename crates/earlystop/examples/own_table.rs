//! A model of your own: predicts the miles per gallon of cars from a table of their properties.
//!
//! `cargo run --release --example own_table [FOLDER [ITERATIONS]]`. A regression, so the score is an error, and lower is better.
//! Stopped or killed, and started again, it resumes from its last checkpoint in the folder.

use std::env;

use earlystop::data::TensorData;
use earlystop::early_stopping::Metric;
use earlystop::optimizer::{Schedule, Trainable};
use earlystop::trainer::{BatchIter, Model, Scores};
use earlystop::{Error, Loss, Optimizer, Result, Trainer, stop};
use tch::nn::Module;
use tch::{Device, Kind, Reduction, Tensor, nn};

/// The number of properties that the model sees; the first column of the table is what it predicts.
const PROPERTIES: i64 = 9;

struct Consumption {
    variables: nn::VarStore,
    layers: nn::Sequential,
}

impl Consumption {
    fn new() -> Self {
        tch::manual_seed(1); // tch draws the initial values
        let variables = nn::VarStore::new(Device::Cpu);
        let layer = |name, inputs, outputs| nn::linear(variables.root() / name, inputs, outputs, Default::default());
        let layers = nn::seq()
            .add(layer("layer1", PROPERTIES, 32))
            .add_fn(Tensor::relu)
            .add(layer("layer2", 32, 16))
            .add_fn(Tensor::relu)
            .add(layer("layer3", 16, 1));
        Self { variables, layers }
    }
}

impl Model for Consumption {
    type Batch = [Tensor; 2];

    fn variables(&self) -> &dyn Trainable {
        &self.variables
    }

    fn loss(&self, [properties, mpg]: &[Tensor; 2], _iteration: u64) -> Result<Loss> {
        Ok(self.layers.forward(properties).f_mse_loss(mpg, Reduction::Mean)?.into())
    }

    fn evaluate(&self, batches: BatchIter<[Tensor; 2]>) -> Result<Scores> {
        let (mut squares, mut cars) = (0.0, 0);
        for batch in batches {
            let [properties, mpg] = batch?;
            squares += self.layers.forward(&properties).f_mse_loss(&mpg, Reduction::Sum)?.double_value(&[]);
            cars += mpg.numel();
        }
        Ok(Scores::from([("rmse", (squares / cars as f64).sqrt())]))
    }

    fn metric(&self) -> Metric {
        Metric::lower("validation_rmse")
    }
}

/// Reads the cars: 252 to train on, 70 each for validation and test, drawn by a fixed permutation.
fn read() -> Result<[TensorData<2>; 3]> {
    let rows = include_str!("own_table.csv").lines().skip(2);
    let numbers: Vec<f32> =
        rows.flat_map(|row| row.split(',').map(str::parse)).collect::<Result<_, _>>().map_err(Error::other)?;
    let table = Tensor::from_slice(&numbers).view([-1, 1 + PROPERTIES]);
    let cars = table.size()[0];
    let shuffled: Vec<i64> = (0..cars).map(|i| i * 149 % cars).collect(); // 149 and 392 have no common divisor
    let table = table.f_index_select(0, &Tensor::from_slice(&shuffled))?;
    let properties = table.narrow(1, 1, PROPERTIES);
    // The model may know the mean and deviation of the training set alone.
    let of_training = properties.narrow(0, 0, 252);
    let (mean, deviation) = (of_training.mean_dim(0, true, Kind::Float), of_training.std_dim(0, true, true));
    let (properties, mpg) = ((properties - mean) / deviation, table.narrow(1, 0, 1));
    let set = |begin, count| TensorData::new([properties.narrow(0, begin, count), mpg.narrow(0, begin, count)]);
    Ok([set(0, 252)?, set(252, 70)?, set(322, 70)?])
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "checkpoints/own_table".to_owned());
    let iterations = arguments.next().map_or(Ok(5000), |count| count.parse()).map_err(Error::other)?;
    stop::on_signals()?;
    let [train, validation, test] = read()?;
    let model = Consumption::new();
    let optimizer = Optimizer::adam_w(&model.variables, Schedule::cosine(3e-3, 5000)?.warm_up(100))?
        .without_weight_decay(|name| name.ends_with(".bias"));
    let mut trainer = Trainer::for_model(model, optimizer, train, validation)
        .batch_size(32)
        .patience(1000)
        .checkpoints(folder)
        .build()?;
    trainer.resume(|event| println!("{event}"))?;
    println!("{}", trainer.optimize_to(iterations, |event| println!("{event}"))?);
    println!("{}", trainer.restore_best()?);
    let rmse = trainer.evaluate(&test)?.get("rmse").unwrap_or(f64::NAN);
    println!("Test set: {rmse:.2} miles per gallon (root mean square error)");
    Ok(())
}
