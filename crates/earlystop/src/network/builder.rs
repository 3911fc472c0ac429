//! The builder: one method per kind of layer.

use tch::Device;

use super::layers::{Activation, Conv2d, Dropout, FullyConnected, Layer, MaxPool};
use super::plan::plan;
use super::variables::Variables;
use super::{Description, Network};
use crate::error::Result;
use crate::kernels::Processor;

/// Collects the layers of a [`Network`], from the image to the classifier.
///
/// [`NetworkBuilder::build`] checks everything; its error names the layer that does not fit.
#[derive(Debug, Clone)]
#[must_use = "a builder builds nothing before `build`"]
pub struct NetworkBuilder {
    description: Description,
    seed: u64,
}

impl NetworkBuilder {
    pub(super) fn new(input: [usize; 3]) -> Self {
        let description =
            Description { input, default_activation: Activation::Relu, layers: Vec::new(), frozen: Vec::new() };
        Self { description, seed: 0 }
    }

    /// Adds a convolution of `kernel` x `kernel` pixels into `channels` channels, with stride 1 and "same" padding.
    pub fn conv2d(self, kernel: usize, channels: usize, name: &str) -> Self {
        self.layer(Conv2d::new(kernel, channels, name))
    }

    /// Adds a max-pooling over windows of `kernel` x `kernel` pixels, `stride` pixels apart.
    pub fn max_pool(self, kernel: usize, stride: usize) -> Self {
        self.layer(MaxPool::new(kernel, stride))
    }

    /// Flattens an image into a row of numbers, in the order channel, row, column.
    pub fn flatten(self) -> Self {
        self.layer(Layer::Flatten)
    }

    /// Adds a fully-connected layer with `size` outputs.
    pub fn fully_connected(self, size: usize, name: &str) -> Self {
        self.layer(FullyConnected::new(size, name))
    }

    /// Adds dropout: in training each value is set to zero with probability `rate`.
    pub fn dropout(self, rate: f64) -> Self {
        self.layer(Dropout::new(rate))
    }

    /// Adds the last layer: one output per class, followed by a softmax.
    pub fn softmax_classifier(self, num_classes: usize) -> Self {
        self.layer(Layer::SoftmaxClassifier { num_classes })
    }

    /// Adds a layer with settings of its own, such as
    /// `Conv2d::new(3, 32, "layer_conv3").stride(2).padding(Padding::Valid)`.
    pub fn layer(mut self, layer: impl Into<Layer>) -> Self {
        self.description.layers.push(layer.into());
        self
    }

    /// Sets the activation of all layers that set none. Default: [`Activation::Relu`].
    ///
    /// Stands in for `pt.defaults_scope(activation_fn=…)`.
    pub fn default_activation(mut self, activation: Activation) -> Self {
        self.description.default_activation = activation;
        self
    }

    /// Freezes a layer: the optimizer does not change its variables. They can still be restored.
    pub fn freeze(mut self, layer_name: &str) -> Self {
        self.description.frozen.push(layer_name.to_owned());
        self
    }

    /// Sets the seed of the initial values and of the dropout masks. Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Builds the network and initializes its variables: He-normal weights where ReLU follows, Xavier-uniform weights
    /// elsewhere, biases of zero.
    ///
    /// # Errors
    ///
    /// If a layer does not fit the one before it: the message names the layer, what it expects and what it found. If a layer
    /// to be frozen does not exist.
    pub fn build(self, device: Device) -> Result<Network> {
        let Self { description, seed } = self;
        let mut plan = plan(description.input, &description.layers, description.default_activation)?;
        for name in &description.frozen {
            description.layer(name)?;
            plan.freeze(name);
        }
        if let (Device::Cpu, Some(processor)) = (device, Processor::detect()) {
            plan.fuse(description.input, processor);
        }
        let mut variables = Variables::new(std::mem::take(&mut plan.variables), device)?;
        variables.initialize(seed, 0)?;
        Ok(Network { description, plan, variables, device, seed, draws: 0 })
    }
}
