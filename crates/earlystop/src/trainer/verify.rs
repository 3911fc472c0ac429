//! Verifies that a resumed run has the bits of an uninterrupted one.

use std::env;

use tch::Tensor;

use super::callback::Callbacks;
use super::commit::Commits;
use super::{Model, Trainer};
use crate::checkpoint::Store;
use crate::early_stopping::Observation;
use crate::error::{Error, Result, io_error, torch};
use crate::values::bytes;

/// Verifies that resuming your training is bit-identical to running it without interruption.
///
/// `new_trainer` returns identical trainers. One trains straight to iteration `end`. A second one is interrupted after
/// iteration `break_at`, which may be any iteration before `end`, and a third one resumes from its checkpoint. The
/// checkpoints are written to a temporary folder. Their [callbacks](super::Callback) are not called.
///
/// ```
/// # use earlystop::ndarray::{Array1, Array3};
/// # let examples = |n| earlystop::Examples::new(Array3::from_shape_fn((n, 4, 4), |(i, y, x)| (i * 97 + y * 31 + x * 7) as u8), Array1::from_shape_fn(n, |i| (i % 10) as u8)).unwrap();
/// # let (train, validation) = (examples(200), examples(50));
/// use earlystop::{Optimizer, Network, Trainer, trainer::verify_resume};
/// use tch::Device;
///
/// let new_trainer = || {
///     let layers = Network::builder([4, 4, 1]).flatten().fully_connected(20, "layer_fc1").dropout(0.5);
///     let network = layers.softmax_classifier(10).build(Device::Cpu)?;
///     let optimizer = Optimizer::adam(&network, 1e-2)?;
///     Trainer::builder(network, optimizer, &train, &validation).evaluate_every(10).build()
/// };
/// verify_resume(new_trainer, 33, 65)?;
/// # Ok::<(), earlystop::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::ResumeDiffers`] with the first tensor or evaluation that differs; [`Error::Setting`] if `break_at` is not
/// before `end`; and any error of the training.
pub fn verify_resume<M: Model>(
    mut new_trainer: impl FnMut() -> Result<Trainer<M>>,
    break_at: u64,
    end: u64,
) -> Result<()> {
    if break_at >= end {
        return Err(Error::setting("break", format!("an iteration before the end, {end}"), break_at));
    }
    let mut trainer = || -> Result<Trainer<M>> {
        let mut trainer = new_trainer()?;
        trainer.commits.folder = None;
        trainer.callbacks = Callbacks::new(Vec::new());
        Ok(trainer)
    };
    let (mut straight, mut interrupted, mut resumed) = (trainer()?, trainer()?, trainer()?);
    straight.train(end, true, &mut |_| None)?;
    interrupted.train(break_at, false, &mut |_| None)?;
    let folder = tempfile::tempdir().map_err(io_error(&env::temp_dir(), "create a folder in"))?;
    let commits = |settings| Ok::<_, Error>(Commits::new(Some(Store::open(folder.path())?), settings));
    interrupted.commits = commits(interrupted.commits.settings)?;
    interrupted.save()?;
    drop(interrupted);
    resumed.commits = commits(resumed.commits.settings)?;
    resumed.resume(|_| ())?;
    resumed.commits.folder = None;
    resumed.train(end, true, &mut |_| None)?;
    compare(break_at, &straight, &resumed)
}

fn compare<M: Model>(iteration: u64, straight: &Trainer<M>, resumed: &Trainer<M>) -> Result<()> {
    let differs = |what: String, how: String| Err(Error::ResumeDiffers { iteration, what, how });
    for (straight, resumed) in straight.tensors()?.iter().zip(resumed.tensors()?) {
        let bytes = |tensor: &Tensor| bytes(tensor).map_err(torch(&straight.name));
        let (a, b) = (bytes(&straight.tensor()?)?, bytes(&resumed.tensor()?)?);
        if let Some(index) = a.iter().zip(&b).position(|(a, b)| a != b) {
            return differs(straight.name.clone(), format!("byte {index} is {:#04x} and {:#04x}", a[index], b[index]));
        }
    }
    let timeless = |observation: &Observation| Observation { elapsed: None, ..observation.clone() };
    let histories = [straight, resumed].map(|trainer| trainer.history().iter().map(timeless).collect::<Vec<_>>());
    if straight.iteration != resumed.iteration || histories[0].len() != histories[1].len() {
        let counts = [straight, resumed].map(|trainer| (trainer.iteration, trainer.history().len()));
        return differs("the number of iterations and evaluations".to_owned(), format!("{counts:?}"));
    }
    // Debug representations, since NaN equals itself there.
    match histories[0].iter().zip(&histories[1]).find(|(a, b)| format!("{a:?}") != format!("{b:?}")) {
        Some((a, b)) => differs(format!("the evaluation of iteration {}", a.iteration), format!("{a:?} and {b:?}")),
        None => Ok(()),
    }
}
