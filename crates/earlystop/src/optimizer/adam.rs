//! Adam, with its moments as named tensors.

use std::ops::Range;

use tch::{Device, Kind, TchError, Tensor};

use crate::checkpoint::{NamedTensor, Savable};
use crate::error::{Error, Result, torch};
use crate::kernels::share;
use crate::network::{Loss, Network};
use crate::values::{values, values_mut};

/// Decay of the running mean of the gradients.
const BETA1: f64 = 0.9;
/// Decay of the running mean of the squared gradients.
const BETA2: f64 = 0.999;
/// How many values a thread updates at a time.
const PART: usize = 1 << 15;
/// Keeps the division finite where all gradients were zero.
const EPSILON: f64 = 1e-8;

/// Minimizes a network's loss by Adam: steps scaled by running means of the gradients (m) and of their squares (v).
///
/// β₁ is 0.9, β₂ 0.999, ε 1e-8. Source: [Kingma & Ba 2015](https://arxiv.org/abs/1412.6980), algorithm 1. Stands in for
/// `tf.train.AdamOptimizer`.
///
/// ```
/// use earlystop::{Adam, Network};
/// use tch::{Device, Kind, Tensor};
///
/// let mut network = Network::builder([2, 2, 1]).flatten().softmax_classifier(2).build(Device::Cpu)?;
/// let mut optimizer = Adam::new(&network, 0.1)?;
/// let images = Tensor::ones([1, 4], (Kind::Float, Device::Cpu));
/// let labels = Tensor::from_slice(&[1.0f32, 0.0]).view([1, 2]);
///
/// let before = network.training_loss(&images, &labels, 1)?;
/// optimizer.minimize(&before, &mut network)?;
/// let after = network.training_loss(&images, &labels, 2)?;
/// assert!(after.value() < before.value());
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug)]
pub struct Adam {
    learning_rate: f64,
    m: Moment,
    v: Moment,
    /// `[1]`: how often the variables were updated; a tensor, so that it is saved with the moments.
    steps: Tensor,
    tensors: Vec<NamedTensor>,
}

/// A running mean for each value of the variables.
#[derive(Debug)]
struct Moment {
    flat: Tensor,
    views: Vec<Tensor>,
}

impl Adam {
    /// Prepares Adam for a network.
    ///
    /// # Errors
    ///
    /// If the learning rate is not a positive number within the range of `f32`, or libtorch runs out of memory.
    pub fn new(network: &Network, learning_rate: f64) -> Result<Self> {
        // The variables are `f32`: what rounds to zero or infinity there never trains or destroys them at once.
        let rounded = learning_rate as f32;
        if !(rounded > 0.0 && rounded.is_finite()) {
            return Err(Error::argument("learning rate", "a positive number within the range of f32", learning_rate));
        }
        let variables = network.variables();
        let moment = || variables.zeros_like().map(|(flat, views)| Moment { flat, views });
        let (m, v) = (moment()?, moment()?);
        let steps = Tensor::zeros([1], (Kind::Int64, Device::Cpu));
        let mut tensors = variables.named(Some(&m.views), "adam.m/");
        tensors.extend(variables.named(Some(&v.views), "adam.v/"));
        tensors.push(NamedTensor { name: "adam.steps".to_owned(), shape: vec![1], tensor: steps.shallow_clone() });
        Ok(Self { learning_rate, m, v, steps, tensors })
    }

    /// Returns the learning rate.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    /// Checks that this optimizer was made for such a network, and that there is something to train.
    pub(crate) fn check(&self, network: &Network) -> Result<()> {
        let moments = network.variables().named(None, "adam.m/");
        let describe = |named: &NamedTensor| (named.name.clone(), named.shape.clone());
        if !moments.iter().map(describe).eq(self.tensors.iter().take(self.m.views.len()).map(describe)) {
            let expected = "an optimizer made for this network: Adam::new(&network, ..)";
            return Err(Error::argument("optimizer", expected, "one for other variables"));
        }
        if network.variables().trained().next().is_none() {
            return Err(Error::argument("network", "at least one layer to train", "that all are frozen"));
        }
        Ok(())
    }

    /// Updates the network's variables by one step against the loss's gradient, which is computed here.
    ///
    /// `loss` comes from [`Network::training_loss`], perhaps scaled, added to other losses, or with a penalty: see [`Loss`].
    /// Variables that it does not depend on stay as they are. Stands in for `session.run(optimizer, feed_dict=…)`.
    ///
    /// # Errors
    ///
    /// If the loss does not depend on the network's trained variables; if variables or images were modified after it was
    /// computed, as `minimize` itself does: compute the loss again for the next step; if it is not a single number; if the
    /// network is not the one that the optimizer was made for. Then nothing was changed.
    pub fn minimize(&mut self, loss: &Loss, network: &mut Network) -> Result<()> {
        if network.num_parameters() != self.m.flat.numel() {
            let expected = format!("the network of the optimizer, with {} parameters", self.m.flat.numel());
            return Err(Error::argument("network", expected, network.num_parameters()));
        }
        let gradients = network.gradients(loss)?;
        let _no_grad = tch::no_grad_guard();
        let _ = self.steps.f_add_scalar_(1).map_err(torch("adam.steps"))?;
        let step = Step::new(self.learning_rate, self.steps.int64_value(&[0]));
        let flat = network.variables().flat().shallow_clone();
        if network.device() == Device::Cpu {
            // SAFETY: libtorch and our kernels compute gradients into new memory; the variables and each moment have a buffer of
            // their own, which nothing else uses here: both owners are borrowed mutably. Whoever has tensors that share their
            // memory must not use them on another thread meanwhile, as with libtorch's operations.
            unsafe { step.update_on_cpu(&gradients, flat, &mut self.m.flat, &mut self.v.flat) };
            Ok(())
        } else {
            step.update_anywhere(&gradients, &flat, &self.m.flat, &self.v.flat).map_err(torch("adam"))
        }
    }
}

/// Saves and restores the moments and the number of steps.
impl Savable for Adam {
    fn tensors(&self) -> Vec<NamedTensor> {
        self.tensors.tensors()
    }
}

/// The numbers that all values share in one step.
struct Step {
    /// `learning_rate / (1 - β₁ᵗ)`
    rate: f64,
    /// `sqrt(1 - β₂ᵗ)`
    root: f64,
}

impl Step {
    fn new(learning_rate: f64, t: i64) -> Self {
        let t = t as f64;
        Self { rate: learning_rate / (1.0 - BETA1.powf(t)), root: (1.0 - BETA2.powf(t)).sqrt() }
    }

    /// Updates in one pass over the memory, several times faster than libtorch's separate operations. Gradients come in the order
    /// of their places.
    ///
    /// # Safety
    ///
    /// No two of the tensors may share memory, except gradients, and nothing else may use it meanwhile.
    unsafe fn update_on_cpu(
        &self,
        gradients: &[(Range<usize>, Tensor)],
        mut flat: Tensor,
        m: &mut Tensor,
        v: &mut Tensor,
    ) {
        // SAFETY: the caller ensures that nothing else uses these three buffers.
        let (flat, m, v) = unsafe { (values_mut(&mut flat), values_mut(m), values_mut(v)) };
        let (mut rest, mut begin) = ([flat, m, v], 0);
        let mut parts = Vec::new();
        for (place, gradient) in gradients {
            let skipped = place.start - begin;
            let [values, m, v] = rest.each_mut().map(|rest| take(rest, skipped, place.len()).chunks_mut(PART));
            // SAFETY: the caller ensures that nothing writes to the gradients.
            let gradient = unsafe { self::values(gradient) };
            parts.extend(values.zip(m).zip(v).zip(gradient.chunks(PART)));
            begin = place.end;
        }
        share(&mut parts, tch::get_num_threads() as usize, |(((values, m), v), gradient)| {
            self.update(values, m, v, gradient);
        });
    }

    fn update(&self, values: &mut [f32], m: &mut [f32], v: &mut [f32], gradient: &[f32]) {
        let (rate, root) = (self.rate as f32, self.root as f32);
        let (keep1, add1, keep2, add2) = (BETA1 as f32, (1.0 - BETA1) as f32, BETA2 as f32, (1.0 - BETA2) as f32);
        for (((value, m), v), &g) in values.iter_mut().zip(m).zip(v).zip(gradient) {
            *m = keep1 * *m + add1 * g;
            *v = keep2 * *v + add2 * g * g;
            *value -= rate * *m / (v.sqrt() / root + EPSILON as f32);
        }
    }

    fn update_anywhere(
        &self,
        gradients: &[(Range<usize>, Tensor)],
        flat: &Tensor,
        m: &Tensor,
        v: &Tensor,
    ) -> Result<(), TchError> {
        for (place, gradient) in gradients {
            let gradient = gradient.f_reshape([-1])?;
            let part = |buffer: &Tensor| buffer.f_narrow(0, place.start as i64, place.len() as i64);
            let (mut flat, mut m, mut v) = (part(flat)?, part(m)?, part(v)?);
            let _ = m.f_mul_scalar_(BETA1)?.f_add_(&gradient.f_mul_scalar(1.0 - BETA1)?)?;
            let _ = v.f_mul_scalar_(BETA2)?.f_add_(&gradient.f_square()?.f_mul_scalar(1.0 - BETA2)?)?;
            let scale = v.f_sqrt()?.f_div_scalar(self.root)?.f_add_scalar(EPSILON)?;
            let _ = flat.f_sub_(&m.f_mul_scalar(self.rate)?.f_div(&scale)?)?;
        }
        Ok(())
    }
}

/// Cuts off what lies behind the first `skipped` values, `count` of them.
fn take<'a>(rest: &mut &'a mut [f32], skipped: usize, count: usize) -> &'a mut [f32] {
    let (taken, others) = std::mem::take(rest).split_at_mut(skipped + count);
    *rest = others;
    &mut taken[skipped..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Tensor {
        Tensor::from_slice(values)
    }

    /// Three steps of `torch.optim.Adam([w], lr=0.1)` in PyTorch 2.13 with these gradients.
    #[test]
    fn steps_are_pytorchs() {
        let gradients = [[0.5, -1.0, 0.0, 1e-6], [0.25, 2.0, -3.0, 0.0], [-4.0, 0.125, 1.0, 1e-3]];
        let expected: [[f64; 4]; 3] = [
            [0.900000036, -1.89999998, 3.0, 0.400990099],
            [0.806782067, -1.93661034, 3.07441378, 0.334918886],
            [0.860085011, -1.96843374, 3.10877109, 0.270986915],
        ];
        for on_cpu in [true, false] {
            let (flat, mut m, mut v) = (floats(&[1.0, -2.0, 3.0, 0.5]), floats(&[0.0; 4]), floats(&[0.0; 4]));
            for (index, gradient) in gradients.iter().enumerate() {
                // Two gradients for one buffer, as with two variables.
                let gradient = [(0..1, floats(&gradient[..1])), (1..4, floats(&gradient[1..]))];
                let step = Step::new(0.1, index as i64 + 1);
                if on_cpu {
                    // SAFETY: the tensors are this test's alone.
                    unsafe { step.update_on_cpu(&gradient, flat.shallow_clone(), &mut m, &mut v) };
                } else {
                    step.update_anywhere(&gradient, &flat, &m, &v).unwrap();
                }
                // SAFETY: as above.
                for (found, expected) in unsafe { values(&flat) }.iter().zip(expected[index]) {
                    assert!(
                        (f64::from(*found) - expected).abs() <= 2e-7 * expected.abs(),
                        "{found} {expected} {on_cpu}"
                    );
                }
            }
        }
    }

    #[test]
    fn frozen_layers_stay_as_they_are() {
        let layers = Network::builder([2, 2, 1]).flatten().fully_connected(3, "layer_fc1").softmax_classifier(2);
        let mut network = layers.freeze("layer_fc1").build(Device::Cpu).unwrap();
        let values = |network: &Network, name: &str| network.variables().values(name).unwrap();
        let names = ["layer_fc1.weight", "layer_fc1.bias", "softmax_classifier.weight", "softmax_classifier.bias"];
        let before = names.map(|name| values(&network, name));
        let mut optimizer = Adam::new(&network, 0.1).unwrap();
        let (images, labels) = (floats(&[1.0; 4]).view([1, 4]), floats(&[0.0, 1.0]).view([1, 2]));
        let loss = network.training_loss(&images, &labels, 1).unwrap();
        optimizer.minimize(&loss, &mut network).unwrap();
        let changed = [0, 1, 2, 3].map(|index| values(&network, names[index]) != before[index]);
        // The classifier's weights change where the layer before gives anything, its biases in any case.
        assert_eq!(changed[..2], [false, false]);
        assert!(changed[3]);
        let all_frozen = Network::builder([2, 2, 1]).flatten().softmax_classifier(2).freeze("softmax_classifier");
        let loss = all_frozen.build(Device::Cpu).unwrap().training_loss(&images, &labels, 1).unwrap();
        let message = optimizer.minimize(&loss, &mut network).unwrap_err().to_string();
        assert!(
            message.starts_with("loss: expected a value computed from this network's variables that are trained"),
            "{message}"
        );
    }

    #[test]
    fn moments_and_steps_have_names() {
        let network = Network::builder([2, 2, 1]).flatten().softmax_classifier(2).build(Device::Cpu).unwrap();
        let names = Adam::new(&network, 0.1).unwrap().tensors().into_iter().map(|named| named.name).collect::<Vec<_>>();
        let expected = [
            "adam.m/softmax_classifier.weight",
            "adam.m/softmax_classifier.bias",
            "adam.v/softmax_classifier.weight",
            "adam.v/softmax_classifier.bias",
            "adam.steps",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn what_cannot_be_minimized_is_refused() {
        let build =
            |classes| Network::builder([2, 2, 1]).flatten().softmax_classifier(classes).build(Device::Cpu).unwrap();
        let (mut network, mut other) = (build(2), build(3));
        for learning_rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-60, 1e60] {
            let message = Adam::new(&network, learning_rate).unwrap_err().to_string();
            assert!(
                message.starts_with("learning rate: expected a positive number within the range of f32"),
                "{message}"
            );
        }
        let mut optimizer = Adam::new(&network, 0.1).unwrap();
        let message = optimizer.minimize(&floats(&[1.0]).into(), &mut network).unwrap_err().to_string();
        assert_eq!(
            message,
            "loss: expected a value computed from this network's variables that are trained, found one without a gradient"
        );
        let (images, labels) = (floats(&[1.0; 4]).view([1, 4]), floats(&[0.0, 1.0]).view([1, 2]));
        let loss = network.training_loss(&images, &labels, 1).unwrap();
        optimizer.minimize(&loss, &mut network).unwrap();
        let message = optimizer.minimize(&loss, &mut network).unwrap_err().to_string();
        assert!(message.starts_with("computing the gradients: libtorch"), "{message}");
        let message = optimizer.minimize(&floats(&[1.0]).into(), &mut other).unwrap_err().to_string();
        assert_eq!(message, "network: expected the network of the optimizer, with 10 parameters, found 15");
    }
}
