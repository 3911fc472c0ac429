//! The interface between a trainer and a model.

use crate::checkpoint::Metadata;
use crate::early_stopping::Metric;
use crate::error::{Result, torch};
use crate::network::Loss;
use crate::optimizer::Trainable;
use crate::random::with_libtorch_seeded;
use crate::values::is_finite;

/// A model that a [`Trainer`](super::Trainer) can train: a [`Network`](crate::Network), or one of your own.
///
/// Three functions are required: the variables, the loss of a training batch, and the scores on held-out data.
///
/// ```
/// use earlystop::data::TensorData;
/// use earlystop::early_stopping::Metric;
/// use earlystop::trainer::{BatchIter, Model, Scores};
/// use earlystop::{Loss, Optimizer, Result, Trainer, optimizer::Trainable};
/// use tch::{Device, Kind, Tensor, nn, nn::Module};
///
/// struct Regression {
///     variables: nn::VarStore,
///     layer: nn::Linear,
/// }
///
/// impl Model for Regression {
///     type Batch = [Tensor; 2];
///
///     fn variables(&self) -> &dyn Trainable {
///         &self.variables
///     }
///
///     fn loss(&self, [x, y]: &[Tensor; 2], _iteration: u64) -> Result<Loss> {
///         Ok(self.layer.forward(x).f_mse_loss(y, tch::Reduction::Mean)?.into())
///     }
///
///     fn evaluate(&self, batches: BatchIter<[Tensor; 2]>) -> Result<Scores> {
///         let (mut squares, mut count) = (0.0, 0);
///         for batch in batches {
///             let [x, y] = batch?;
///             squares += self.layer.forward(&x).f_mse_loss(&y, tch::Reduction::Sum)?.double_value(&[]);
///             count += y.numel();
///         }
///         Ok(Scores::from([("rmse", (squares / count as f64).sqrt())]))
///     }
///
///     fn metric(&self) -> Metric {
///         Metric::lower("validation_rmse")
///     }
/// }
///
/// let variables = nn::VarStore::new(Device::Cpu);
/// let layer = nn::linear(variables.root() / "layer", 1, 1, Default::default());
/// let line = |begin: i64| {
///     let x = Tensor::arange_start(begin, begin + 20, (Kind::Float, Device::Cpu)).view([20, 1]) / 20.0;
///     TensorData::new([x.shallow_clone(), 3.0 * x - 1.0])
/// };
/// let optimizer = Optimizer::sgd(&variables, 0.1)?;
/// let mut trainer = Trainer::for_model(Regression { variables, layer }, optimizer, line(0)?, line(20)?)
///     .batch_size(10)
///     .patience(1000)
///     .build()?;
/// trainer.optimize(2000, |event| println!("{event}"))?;
/// assert!(trainer.report().best.is_some_and(|best| best.score < 0.01));
/// # Ok::<(), earlystop::Error>(())
/// ```
///
/// # Identical results
///
/// A resumed run has the bits of an uninterrupted one if the loss depends on nothing but the variables and buffers, the batch and
/// the iteration. libtorch's random numbers, such as those of `tch`'s dropout, may be used: the trainer seeds libtorch before each
/// step and each evaluation, by its own seed and the iteration.
/// [`verify_resume`](super::verify_resume) checks it for your model.
pub trait Model {
    /// What the loss is computed of; what the data sets return.
    type Batch;

    /// Returns the variables and buffers: the `VarStore` of the model.
    fn variables(&self) -> &dyn Trainable;

    /// Computes the mean loss over a training batch, in training mode.
    ///
    /// # Errors
    ///
    /// Any error of the model; libtorch's is converted by `?`.
    fn loss(&self, batch: &Self::Batch, iteration: u64) -> Result<Loss>;

    /// Computes the scores over all batches of a data set, in evaluation mode. No gradients are recorded meanwhile.
    ///
    /// Called for each held-out set, and for the last training batch. A score `rmse` of the set `validation` is reported as
    /// `validation_rmse`. The training loss is always reported, as `train_loss`: the mean over the batches since the last
    /// evaluation.
    ///
    /// # Errors
    ///
    /// Any error of a batch or of the model.
    fn evaluate(&self, batches: BatchIter<Self::Batch>) -> Result<Scores>;

    /// Returns how the model is evaluated batch by batch, usually itself: then several processes divide the work. Default: nothing, and
    /// each process evaluates all data sets itself.
    ///
    /// If there is a way, the trainer takes it instead of [`evaluate`](Self::evaluate), with one process too.
    fn by_batch(&self) -> Option<&dyn EvaluateByBatch<Batch = Self::Batch>> {
        None
    }

    /// Returns the score that decides which evaluation is the best, unless the stopping rule names another. Default:
    /// `validation_loss`, where lower is better.
    fn metric(&self) -> Metric {
        Metric::validation_loss()
    }

    /// Returns what else determines the results: sizes, seeds, rates. It is saved, and compared when a run is
    /// resumed. Values that are JSON are compared part by part. Names of the trainer's own settings, such as `seed` and `batch_size`,
    /// are refused. Default: nothing.
    fn settings(&self) -> Metadata {
        Metadata::new()
    }

    /// Returns the number of examples in the batches of an evaluation. Default: 256.
    fn evaluation_batch_size(&self) -> usize {
        256
    }

    /// Says whether [`loss`](Self::loss) or [`evaluate`](Self::evaluate) draw random numbers of libtorch. Default: yes.
    ///
    /// libtorch's generators are global. So trainers on several threads take turns with such models; with others they do not.
    /// Code that draws such numbers without a trainer, on another thread at the same time, disturbs them: the creation of a model, for
    /// example.
    fn draws_random_numbers(&self) -> bool {
        true
    }

    /// Says whether the bits of the results depend on libtorch's number of threads, as those of most of its operations do.
    /// Default: yes. Then a trainer notes it when a run is resumed with another number, and when libtorch's threads spin, unless
    /// [`threads`](super::TrainerBuilder::threads) are set. Those of a [`Network`](crate::Network) do not.
    fn depends_on_threads(&self) -> bool {
        true
    }
}

/// Evaluates a model one batch at a time, so that several [processes](crate::processes) can divide a data set: see [`Model::by_batch`].
///
/// ```
/// use earlystop::Result;
/// use earlystop::trainer::{EvaluateByBatch, Scores};
/// use tch::{Tensor, nn, nn::Module};
///
/// struct Regression {
///     layer: nn::Linear,
/// }
///
/// impl EvaluateByBatch for Regression {
///     type Batch = [Tensor; 2];
///
///     fn evaluate_batch(&self, [x, y]: &[Tensor; 2]) -> Result<Vec<f64>> {
///         let squares = self.layer.forward(x).f_mse_loss(y, tch::Reduction::Sum)?.double_value(&[]);
///         Ok(vec![squares, y.numel() as f64])
///     }
///
///     fn combine(&self, batches: &[Vec<f64>]) -> Result<Scores> {
///         let sum = |column: usize| batches.iter().map(|numbers| numbers[column]).sum::<f64>();
///         Ok(Scores::from([("rmse", (sum(0) / sum(1)).sqrt())]))
///     }
/// }
/// ```
pub trait EvaluateByBatch {
    /// The batches of the model.
    type Batch;

    /// Evaluates one batch, in evaluation mode, and returns any numbers. No gradients are recorded meanwhile.
    ///
    /// # Errors
    ///
    /// Any error of the model.
    fn evaluate_batch(&self, batch: &Self::Batch) -> Result<Vec<f64>>;

    /// Computes the scores of a data set from the numbers of all its batches, in their order.
    ///
    /// # Errors
    ///
    /// Any error of the model.
    fn combine(&self, batches: &[Vec<f64>]) -> Result<Scores>;
}

/// The batches of a data set, one after the other.
pub type BatchIter<'a, B> = &'a mut dyn Iterator<Item = Result<B>>;

/// The scores of a model on one data set, by their names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    pub(super) scores: Vec<(String, f64)>,
    pub(super) correct: Option<Vec<bool>>,
}

impl Scores {
    /// Returns a score by its name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.scores.iter().find(|(known, _)| known == name).map(|&(_, score)| score)
    }

    /// Adds which examples are classified correctly, for the [noise-aware rule](crate::early_stopping::Rule::noise_aware).
    pub fn with_correct(self, correct: Vec<bool>) -> Self {
        Self { correct: Some(correct), ..self }
    }
}

impl<N: Into<String>, const COUNT: usize> From<[(N, f64); COUNT]> for Scores {
    fn from(scores: [(N, f64); COUNT]) -> Self {
        Self { scores: scores.map(|(name, score)| (name.into(), score)).into(), correct: None }
    }
}

/// Does some work of a model, with libtorch's generators beginning with a seed if the model draws from them.
pub(super) fn seeded<T>(seed: Option<u64>, work: impl FnOnce() -> T) -> T {
    match seed {
        Some(seed) => with_libtorch_seeded(seed, work),
        None => work(),
    }
}

/// Says whether all variables and buffers are finite.
pub(super) fn are_finite(variables: &dyn Trainable) -> Result<bool> {
    for named in variables.tensors() {
        if !is_finite(&named.tensor()?).map_err(torch(&named.name))? {
            return Ok(false);
        }
    }
    Ok(true)
}
