//! The kinds of layers as plain values: arguments of the builder, and part of a checkpoint.

use serde::{Deserialize, Serialize};

/// The activation function of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// The hyperbolic tangent.
    Tanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// The identity: no activation.
    Linear,
}

/// How the border of an image is padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// Pads with zeros so that there are `ceil(size / stride)` outputs. If the padding is odd, the larger part is below and
    /// to the right, as in TensorFlow.
    Same,
    /// No padding: the kernel stays inside the image.
    Valid,
}

/// Describes a 2-D convolution with a square kernel and a bias per output channel.
///
/// # Shapes
///
/// - input `[height, width, channels_in]`, output `[height_out, width_out, channels]`
/// - weight `[channels, channels_in, kernel, kernel]`, bias `[channels]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conv2d {
    pub(super) name: String,
    pub(super) kernel: usize,
    pub(super) channels: usize,
    pub(super) stride: usize,
    pub(super) padding: Padding,
    pub(super) activation: Option<Activation>,
}

impl Conv2d {
    /// Describes a convolution of `kernel` x `kernel` pixels into `channels` channels, with stride 1, [`Padding::Same`] and
    /// the network's default activation.
    pub fn new(kernel: usize, channels: usize, name: impl Into<String>) -> Self {
        let (name, padding) = (name.into(), Padding::Same);
        Self { name, kernel, channels, stride: 1, padding, activation: None }
    }

    /// Sets the step between the kernel's positions, in pixels.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = stride;
        self
    }

    /// Sets the padding.
    pub fn padding(mut self, padding: Padding) -> Self {
        self.padding = padding;
        self
    }

    /// Sets the activation of this layer.
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = Some(activation);
        self
    }
}

/// Describes the maximum over square windows, channel by channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaxPool {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: Padding,
}

impl MaxPool {
    /// Describes a max-pooling over windows of `kernel` x `kernel` pixels, `stride` pixels apart, with [`Padding::Same`].
    pub fn new(kernel: usize, stride: usize) -> Self {
        Self { kernel, stride, padding: Padding::Same }
    }

    /// Sets the padding.
    pub fn padding(mut self, padding: Padding) -> Self {
        self.padding = padding;
        self
    }
}

/// Describes a fully-connected layer: every output depends on every input.
///
/// # Shapes
///
/// - input `[features_in]`, output `[size]`
/// - weight `[size, features_in]`, bias `[size]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FullyConnected {
    pub(super) name: String,
    pub(super) size: usize,
    pub(super) activation: Option<Activation>,
}

impl FullyConnected {
    /// Describes a fully-connected layer with `size` outputs and the network's default activation.
    pub fn new(size: usize, name: impl Into<String>) -> Self {
        Self { name: name.into(), size, activation: None }
    }

    /// Sets the activation of this layer.
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = Some(activation);
        self
    }
}

/// Describes dropout: in training each value is set to zero with probability `rate`, the others are scaled by
/// `1 / (1 - rate)`; otherwise it does nothing.
///
/// Source: [Srivastava et al. 2014](https://jmlr.org/papers/v15/srivastava14a.html).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    pub(super) rate: f64,
}

impl Dropout {
    /// Describes dropout with the given probability, 0.0 to below 1.0.
    pub fn new(rate: f64) -> Self {
        Self { rate }
    }
}

/// Describes one layer of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "layer")]
pub enum Layer {
    /// A 2-D convolution.
    Conv2d(Conv2d),
    /// A max-pooling.
    MaxPool(MaxPool),
    /// Flattening of an image into one row of numbers.
    Flatten,
    /// A fully-connected layer.
    FullyConnected(FullyConnected),
    /// Dropout.
    Dropout(Dropout),
    /// The last layer: fully connected, followed by a softmax.
    SoftmaxClassifier {
        /// The number of classes.
        num_classes: usize,
    },
}

impl Layer {
    /// Returns the name of a layer with variables.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Conv2d(layer) => Some(&layer.name),
            Self::FullyConnected(layer) => Some(&layer.name),
            Self::SoftmaxClassifier { .. } => Some("softmax_classifier"),
            Self::MaxPool(_) | Self::Flatten | Self::Dropout(_) => None,
        }
    }

    /// Returns the kind of the layer: the name of the builder's method for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Conv2d(_) => "conv2d",
            Self::MaxPool(_) => "max_pool",
            Self::Flatten => "flatten",
            Self::FullyConnected(_) => "fully_connected",
            Self::Dropout(_) => "dropout",
            Self::SoftmaxClassifier { .. } => "softmax_classifier",
        }
    }
}

macro_rules! layer_from {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Layer {
            fn from(layer: $kind) -> Self {
                Self::$kind(layer)
            }
        }
    )*};
}
layer_from!(Conv2d, MaxPool, FullyConnected, Dropout);
