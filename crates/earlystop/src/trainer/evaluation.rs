//! Evaluation of a network on a set of examples.

use ndarray::s;
use tch::{Kind, Tensor};

use crate::error::{Error, Result, torch};
use crate::metrics;
use crate::mnist::Examples;
use crate::network::{Network, Precision};

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

/// Classifies all examples, in batches of 256 and in the network's precision.
///
/// # Errors
///
/// If the images do not have the network's input size, or there are more classes than the network has.
pub fn evaluate(network: &Network, examples: &Examples) -> Result<Evaluation> {
    evaluate_in(network, examples, network.description().precision)
}

/// Classifies all examples like [`evaluate`], in another precision than the network's.
///
/// # Errors
///
/// As [`evaluate`].
pub fn evaluate_in(network: &Network, examples: &Examples, precision: Precision) -> Result<Evaluation> {
    if examples.num_classes() > network.num_classes() {
        return Err(Error::argument(
            "examples",
            format!("at most {} classes", network.num_classes()),
            examples.num_classes(),
        ));
    }
    let mut cls_pred = Vec::with_capacity(examples.len());
    let mut loss = 0.0;
    for begin in (0..examples.len()).step_by(BATCH_SIZE) {
        let range = begin..examples.len().min(begin + BATCH_SIZE);
        let images = Tensor::try_from(examples.images_f32(range.clone())?).map_err(torch("images"))?;
        let logits = network.logits_in(&images, precision)?;
        let labels = examples.labels().slice(s![range.clone()]).mapv(i64::from);
        let labels = Tensor::try_from(labels).map_err(torch("labels"))?.to_device(network.device());
        loss += logits.cross_entropy_for_logits(&labels).double_value(&[]) * range.len() as f64;
        let classes = Vec::<i64>::try_from(logits.argmax(1, false)).map_err(torch("classes"))?;
        cls_pred.extend(classes.into_iter().map(|class| class as usize));
    }
    let correct = cls_pred.iter().zip(examples.labels()).map(|(&pred, &label)| pred == usize::from(label)).collect();
    Ok(Evaluation { cls_pred, correct, loss: loss / examples.len() as f64 })
}

/// Copies a batch of examples into tensors: images `[batch, height * width]`, one-hot labels `[batch, num_classes]`.
pub(super) fn batch(examples: &Examples, indices: &[usize]) -> Result<(Tensor, Tensor)> {
    let (images, labels) = examples.batch(indices)?;
    Ok((images.try_into().map_err(torch("images"))?, labels.try_into().map_err(torch("labels"))?))
}

/// Computes the part of a batch that is classified correctly, 0.0 to 1.0; `labels` are one-hot.
pub(super) fn batch_accuracy(network: &Network, images: &Tensor, labels: &Tensor) -> Result<f64> {
    let predicted = network.predict(images)?.argmax(1, false);
    let labels = labels.to_device(network.device()).argmax(1, false);
    Ok(predicted.eq_tensor(&labels).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]))
}
