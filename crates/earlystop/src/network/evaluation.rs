//! Evaluation of a network on a set of examples.

use ndarray::s;
use tch::Tensor;

use super::{Network, OneThread};
use crate::data::Examples;
use crate::error::{Error, Result, torch};
use crate::metrics;
use crate::values::tensor_of;

/// How many images are classified at once, which bounds the memory; libtorch is fastest here too.
const BATCH_SIZE: usize = 256;

/// The result of evaluating a network on a set of examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The predicted class of each example.
    pub cls_pred: Vec<usize>,
    /// Whether the prediction is correct, for each example.
    pub correct: Vec<bool>,
    /// The mean cross-entropy.
    pub loss: f64,
}

impl Evaluation {
    /// Returns the accuracy, 0.0 to 1.0.
    pub fn accuracy(&self) -> f64 {
        metrics::accuracy(&self.correct).0
    }
}

/// Classifies all examples, in batches of 256.
///
/// # Errors
///
/// If the images do not have the network's input size, or there are more classes than the network has.
pub fn evaluate(network: &Network, examples: &Examples) -> Result<Evaluation> {
    if examples.num_classes() > network.num_classes() {
        return Err(Error::data(
            "examples",
            format!("at most {} classes", network.num_classes()),
            examples.num_classes(),
        ));
    }
    let mut tally = Tally::default();
    for begin in (0..examples.len()).step_by(BATCH_SIZE) {
        let range = begin..examples.len().min(begin + BATCH_SIZE);
        let images = tensor_of(&examples.images_f32(range.clone())?).map_err(torch("images"))?;
        let classes = examples.labels().slice(s![range]).mapv(i64::from);
        tally.add(network, &images, &Tensor::try_from(classes).map_err(torch("labels"))?)?;
    }
    Ok(tally.finish())
}

/// An evaluation that is not complete.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    cls_pred: Vec<usize>,
    pub(crate) correct: Vec<bool>,
    /// The sum of the examples' losses.
    pub(crate) loss: f64,
}

impl Tally {
    /// Classifies a batch of images; `classes` are the true ones, `[batch]`.
    pub(crate) fn add(&mut self, network: &Network, images: &Tensor, classes: &Tensor) -> Result<()> {
        let logits = network.logits(images)?;
        let _one_thread = OneThread::begin();
        let on_device = classes.to_device(network.device());
        self.loss += logits.cross_entropy_for_logits(&on_device).double_value(&[]) * classes.numel() as f64;
        let predicted = Vec::<i64>::try_from(logits.argmax(1, false)).map_err(torch("classes"))?;
        let classes = Vec::<i64>::try_from(classes).map_err(torch("labels"))?;
        self.correct.extend(predicted.iter().zip(&classes).map(|(predicted, class)| predicted == class));
        self.cls_pred.extend(predicted.into_iter().map(|class| class as usize));
        Ok(())
    }

    pub(crate) fn finish(self) -> Evaluation {
        let loss = self.loss / self.correct.len() as f64;
        Evaluation { cls_pred: self.cls_pred, correct: self.correct, loss }
    }
}
