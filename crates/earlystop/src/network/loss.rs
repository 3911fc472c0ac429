//! The loss, and the way back from it to the variables.

use std::ops::{Deref, Range};

use tch::{Kind, Tensor};

use super::Network;
use super::variables::in_memory_order;
use crate::error::{Error, Result, torch};
use crate::kernels::{ConvPool, Gradients};
use crate::memory::{values, values_mut};

/// A loss to be minimized: a scalar tensor, whose gradient [`Adam::minimize`](crate::Adam::minimize) finds.
#[derive(Debug)]
pub struct Loss {
    value: Tensor,
    /// Where the way here went through kernels of ours, in the order of the layers.
    blocks: Vec<Block>,
}

/// A batch's way through a kernel of ours, which libtorch does not know: its graph begins anew behind it.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) conv_pool: ConvPool,
    /// The weight's index; the bias is the next one.
    pub(super) weight: usize,
    /// `[batch, height, width, channels]`.
    pub(super) input: Tensor,
    /// As the input; a leaf of libtorch's graph.
    pub(super) output: Tensor,
    /// What the kernel noted for the way back.
    pub(super) winners: Vec<u8>,
}

impl Loss {
    pub(super) fn new(value: Tensor, blocks: Vec<Block>) -> Self {
        Self { value, blocks }
    }
}

/// A loss that was computed by libtorch alone.
impl From<Tensor> for Loss {
    fn from(value: Tensor) -> Self {
        Self { value, blocks: Vec::new() }
    }
}

impl Deref for Loss {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.value
    }
}

impl Network {
    /// Computes the loss's gradient for every variable that is trained: its place in the one buffer, and a gradient in the
    /// same order of memory; in the order of the places.
    pub(crate) fn gradients(&self, loss: &Loss) -> Result<Vec<(Range<usize>, Tensor)>> {
        // libtorch would read through a null pointer.
        if !loss.requires_grad() {
            let expected = "a value computed from variables that are trained";
            return Err(Error::argument("loss", expected, "one without a gradient"));
        }
        let mut gradients = Vec::new();
        // From the loss down: a value, its gradient (none is 1), and where the variables end that it was computed from.
        let (mut value, mut gradient, mut end) = (loss.shallow_clone(), None, self.variables.len());
        for block in loss.blocks.iter().rev() {
            let (places, mut leaves): (Vec<_>, Vec<_>) = self.variables.trained(block.weight + 2..end).unzip();
            leaves.insert(0, &block.output);
            let mut found = pull_back(&value, gradient, &leaves)?;
            let output_gradient = found.remove(0).contiguous();
            gradients.extend(places.into_iter().zip(found.into_iter().map(in_order)));
            let variables = [block.weight, block.weight + 1].map(|index| self.variables.view(index));
            let [weight, bias, input] = block.gradients(variables, &output_gradient)?;
            let trained = self.variables.trained(block.weight..block.weight + 2).map(|(place, _)| place);
            gradients.extend(trained.zip([weight, bias]));
            (value, gradient, end) = (block.input.shallow_clone(), Some(input), block.weight);
        }
        if value.requires_grad() {
            let (places, leaves): (Vec<_>, Vec<_>) = self.variables.trained(0..end).unzip();
            let found = pull_back(&value, gradient, &leaves)?;
            gradients.extend(places.into_iter().zip(found.into_iter().map(in_order)));
        }
        gradients.sort_by_key(|(place, _)| place.start);
        Ok(gradients)
    }
}

/// Arranges a variable's gradient as the variable lies in memory.
fn in_order(gradient: Tensor) -> Tensor {
    in_memory_order(&gradient).contiguous()
}

/// Computes the leaves' gradients from that of a value, by libtorch's graph.
fn pull_back(value: &Tensor, gradient: Option<Tensor>, leaves: &[&Tensor]) -> Result<Vec<Tensor>> {
    let gradients = match gradient {
        // One kernel directly behind the other: the value is the leaf.
        Some(gradient) if leaves.len() == 1 && leaves[0].data_ptr() == value.data_ptr() => return Ok(vec![gradient]),
        Some(gradient) => {
            let weighted = value.f_mul(&gradient).and_then(|products| products.f_sum(Kind::Float));
            weighted.and_then(|sum| Tensor::f_run_backward(&[&sum], leaves, false, false))
        }
        None => Tensor::f_run_backward(&[value], leaves, false, false),
    };
    gradients.map_err(torch("computing the gradients"))
}

impl Block {
    /// Computes the gradients of weight, bias and input; the input's is undefined where nothing before it is trained.
    fn gradients(&self, [weight, bias]: [&Tensor; 2], output_gradient: &Tensor) -> Result<[Tensor; 3]> {
        let empty_like = |tensor: &Tensor| tensor.f_empty_like().map_err(torch("computing the gradients"));
        let weight = in_memory_order(weight);
        let (mut weight_gradient, mut bias_gradient) = (empty_like(&weight)?, empty_like(bias)?);
        let is_wanted = self.input.requires_grad();
        let mut input_gradient = if is_wanted { empty_like(&self.input)? } else { Tensor::new() };
        let wanted = Gradients {
            weight: values_mut(&mut weight_gradient),
            bias: values_mut(&mut bias_gradient),
            images: is_wanted.then(|| values_mut(&mut input_gradient)),
        };
        let threads = tch::get_num_threads() as usize;
        let (input, weight, output_gradient) = (values(&self.input), values(&weight), values(output_gradient));
        self.conv_pool.backward(input, weight, &self.winners, output_gradient, threads, wanted);
        Ok([weight_gradient, bias_gradient, input_gradient])
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::super::plan::plan;
    use super::super::tests::tutorial;
    use super::super::{Activation, Conv2d, NetworkBuilder};
    use super::*;

    /// Computes the loss and its gradients, by our kernels or by libtorch's alone.
    fn gradients(builder: &NetworkBuilder, by_libtorch_alone: bool) -> (f64, Vec<(Range<usize>, Tensor)>) {
        let mut network = builder.clone().build(Device::Cpu).unwrap();
        if by_libtorch_alone {
            let description = network.description();
            let plan = plan(description.input, &description.layers, description.default_activation).unwrap();
            network.plan.ops = plan.ops;
        }
        let values = (0..6 * 784).map(|index| (index * 7919 % 256) as f32 / 255.0).collect::<Vec<_>>();
        let labels = Tensor::eye(10, (Kind::Float, Device::Cpu)).narrow(0, 0, 6);
        let loss = network.training_loss(&Tensor::from_slice(&values).reshape([6, 784]), &labels, 1).unwrap();
        (loss.double_value(&[]), network.gradients(&loss).unwrap())
    }

    #[test]
    fn our_kernels_and_libtorchs_give_the_same() {
        let begin = || Network::builder([28, 28, 1]).default_activation(Activation::Relu);
        let between = |layer: Conv2d| {
            let chain =
                begin().conv2d(5, 16, "conv1").max_pool(2, 2).layer(layer).conv2d(3, 20, "conv3").max_pool(2, 2);
            chain.flatten().softmax_classifier(10)
        };
        let chains = [
            tutorial(),
            tutorial().freeze("layer_conv1"),
            tutorial().freeze("layer_conv2"),
            tutorial().freeze("layer_conv1").freeze("layer_conv2"),
            tutorial().freeze("layer_fc1").freeze("softmax_classifier"),
            // One of libtorch's convolutions before, and one between.
            begin()
                .layer(Conv2d::new(3, 4, "conv1").stride(2))
                .conv2d(3, 9, "conv2")
                .max_pool(2, 2)
                .flatten()
                .softmax_classifier(10),
            between(Conv2d::new(3, 8, "conv2")),
            between(Conv2d::new(3, 8, "conv2")).freeze("conv1").freeze("conv3"),
            begin().dropout(0.3).conv2d(3, 4, "conv1").max_pool(2, 2).dropout(0.5).flatten().softmax_classifier(10),
        ];
        for chain in chains {
            let ((loss, ours), (expected_loss, expected)) = (gradients(&chain, false), gradients(&chain, true));
            assert!((loss - expected_loss).abs() < 1e-5 * expected_loss, "{loss} {expected_loss}");
            assert_eq!(ours.len(), expected.len());
            for ((place, gradient), (expected_place, expected)) in ours.iter().zip(&expected) {
                assert_eq!(place, expected_place);
                assert_eq!(gradient.size(), expected.size());
                let difference = (gradient - expected).abs().max().double_value(&[]);
                assert!(difference < 1e-5 * expected.abs().max().double_value(&[]), "{difference} at {place:?}");
            }
        }
    }

    #[test]
    fn variables_and_gradients_lie_in_the_same_order() {
        let network = tutorial().build(Device::Cpu).unwrap();
        let weight = network.variables().view(0);
        let factors = Tensor::arange(400, (Kind::Float, Device::Cpu)).reshape([16, 1, 5, 5]);
        let loss = (0..network.variables().len())
            .map(|index| network.variables().view(index).sum(Kind::Float))
            .fold((weight * &factors).sum(Kind::Float), |sum, variable| sum + variable);
        let gradients = network.gradients(&loss.into()).unwrap();
        let (place, gradient) = &gradients[0];
        assert_eq!(*gradient, factors.permute([0, 2, 3, 1]) + 1.0);
        assert!(gradient.is_contiguous());
        assert_eq!(*place, 0..400);
    }
}
