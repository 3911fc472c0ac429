//! The network: a chain of layers with named variables.
//!
//! Stands in for `prettytensor.wrap(x_image).conv2d(…).…softmax_classifier(…)`.

mod block;
mod builder;
mod evaluation;
mod forward;
mod gradients;
mod layers;
mod loss;
#[cfg(test)]
mod loss_tests;
mod one_thread;
mod plan;
mod summary;
mod variables;

use ndarray::{Array4, ArrayD, Ix4};
use serde::{Deserialize, Serialize};
use tch::Device;

pub use builder::NetworkBuilder;
pub use evaluation::{Evaluation, evaluate};
pub use layers::{Activation, Conv2d, Dropout, FullyConnected, Layer, MaxPool, Padding};
pub use loss::Loss;
pub use plan::Shape;
pub use variables::Variables;

pub(crate) use evaluation::Tally;
pub(crate) use gradients::Leaf;
pub(crate) use one_thread::OneThread;

use crate::checkpoint::{NamedTensor, Savable};
use crate::error::{Error, Result};
use plan::Plan;

/// Describes a network completely, except for the values of its variables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// `[height, width, channels]` of the images.
    pub input: [usize; 3],
    /// The activation of layers that set none.
    pub default_activation: Activation,
    /// The layers, in order.
    pub layers: Vec<Layer>,
    /// The names of the frozen layers.
    #[serde(default)]
    pub frozen: Vec<String>,
}

impl Description {
    /// Finds the layer of a name.
    fn layer(&self, name: &str) -> Result<&Layer> {
        self.layers.iter().find(|layer| layer.name() == Some(name)).ok_or_else(|| Error::UnknownName {
            what: "layer",
            name: name.to_owned(),
            known: self.layers.iter().filter_map(Layer::name).map(str::to_owned).collect(),
        })
    }
}

/// A network that classifies images.
///
/// # Shapes
///
/// - input: images `[batch, height, width, channels]`, or flat `[batch, height * width * channels]`, pixels 0.0 to 1.0
/// - output: `[batch, num_classes]`
///
/// ```
/// use earlystop::Network;
/// use tch::{Device, Kind, Tensor};
///
/// let network = Network::builder([28, 28, 1])
///     .conv2d(5, 16, "layer_conv1")
///     .max_pool(2, 2)
///     .conv2d(5, 36, "layer_conv2")
///     .max_pool(2, 2)
///     .flatten()
///     .fully_connected(128, "layer_fc1")
///     .softmax_classifier(10)
///     .build(Device::Cpu)?;
/// let images = Tensor::zeros([3, 28, 28, 1], (Kind::Float, Device::Cpu));
/// assert_eq!(network.predict(&images)?.size(), [3, 10]);
/// assert_eq!(network.weights("layer_conv1")?.shape(), [5, 5, 1, 16]);
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug)]
pub struct Network {
    description: Description,
    plan: Plan,
    variables: Variables,
    device: Device,
    seed: u64,
    draws: u64,
}

impl Network {
    /// Starts a network for images of `[height, width, channels]`.
    pub fn builder(input: [usize; 3]) -> NetworkBuilder {
        NetworkBuilder::new(input)
    }

    /// Initializes all variables with new random values, different ones at each call.
    ///
    /// The values are a function of the network's seed and of the number of earlier calls. Stands in for
    /// `session.run(tf.global_variables_initializer())`.
    ///
    /// # Errors
    ///
    /// If libtorch runs out of memory.
    pub fn init_variables(&mut self) -> Result<()> {
        self.draws += 1;
        self.variables.initialize(self.seed, self.draws)
    }

    /// Returns the description of the network.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Returns the variables.
    pub fn variables(&self) -> &Variables {
        &self.variables
    }

    /// Returns the device of the variables and operations.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Returns the seed of the initial values and of the dropout masks.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns the number of classes.
    pub fn num_classes(&self) -> usize {
        self.plan.outputs.last().map_or(0, |output| output.sizes()[0])
    }

    /// Returns the number of parameters: the values of all variables together.
    pub fn num_parameters(&self) -> usize {
        self.variables.num_parameters()
    }

    /// Returns each layer with the shape of its output, without the batch.
    pub fn layers(&self) -> impl Iterator<Item = (&Layer, Shape)> {
        self.description.layers.iter().zip(self.plan.outputs.iter().copied())
    }

    /// Copies the weights of a convolutional layer into an array `[height, width, channels_in, channels_out]`.
    ///
    /// Stands in for `session.run(get_weights_variable(layer_name))`; see [`Variables::values`] for the other variables.
    ///
    /// # Errors
    ///
    /// If no layer has the name, or it is not a convolutional layer.
    pub fn weights(&self, layer_name: &str) -> Result<Array4<f32>> {
        let layer = self.description.layer(layer_name)?;
        let weights: ArrayD<f32> = self.variables.values(&format!("{layer_name}.weight"))?;
        let found = format!("{} with weights {:?}", layer.kind(), weights.shape());
        let weights = weights
            .into_dimensionality::<Ix4>()
            .map_err(|_| Error::model(layer_name, "a convolutional layer", found))?;
        Ok(weights.permuted_axes([2, 3, 1, 0]).as_standard_layout().into_owned())
    }
}

/// Saves and restores the variables.
impl Savable for Network {
    fn tensors(&self) -> Vec<NamedTensor<'_>> {
        self.variables.named()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The tutorial's network.
    pub(crate) fn tutorial() -> NetworkBuilder {
        Network::builder([28, 28, 1])
            .conv2d(5, 16, "layer_conv1")
            .max_pool(2, 2)
            .conv2d(5, 36, "layer_conv2")
            .max_pool(2, 2)
            .flatten()
            .fully_connected(128, "layer_fc1")
            .softmax_classifier(10)
    }

    #[test]
    fn the_tutorials_network_has_the_tutorials_shapes() {
        let network = tutorial().build(Device::Cpu).unwrap();
        let shapes = network.layers().map(|(_, shape)| shape.sizes()).collect::<Vec<_>>();
        let expected: [&[usize]; 7] =
            [&[28, 28, 16], &[14, 14, 16], &[14, 14, 36], &[7, 7, 36], &[1764], &[128], &[10]];
        assert_eq!(shapes, expected);
        assert_eq!(network.num_parameters(), 416 + 14_436 + 225_920 + 1_290);
    }

    #[test]
    fn every_initialization_draws_other_values_and_a_seed_repeats_them_all() {
        let draws = |seed| {
            let mut network = tutorial().seed(seed).build(Device::Cpu).unwrap();
            let first = network.weights("layer_conv1").unwrap();
            network.init_variables().unwrap();
            (first, network.weights("layer_conv1").unwrap())
        };
        let (first, second) = draws(1);
        assert_ne!(first, second);
        assert_eq!(draws(1), (first.clone(), second));
        assert_ne!(draws(2).0, first);
    }

    #[test]
    fn weights_are_asked_for_by_a_convolutional_layers_name() {
        let network = tutorial().build(Device::Cpu).unwrap();
        let message = network.weights("layer_fc1").unwrap_err().to_string();
        assert_eq!(
            message,
            "layer_fc1: expected a convolutional layer, found fully_connected with weights [128, 1764]"
        );
        let message = network.weights("layer_conv3").unwrap_err().to_string();
        assert!(message.starts_with("no layer \"layer_conv3\": known are layer_conv1, layer_conv2"), "{message}");
    }

    #[test]
    fn a_description_survives_json() {
        let network = tutorial().default_activation(Activation::Tanh).build(Device::Cpu).unwrap();
        let json = serde_json::to_string(network.description()).unwrap();
        assert_eq!(&serde_json::from_str::<Description>(&json).unwrap(), network.description());
    }

    #[test]
    fn a_description_of_an_earlier_version_is_read() {
        let network = tutorial().build(Device::Cpu).unwrap();
        let mut json = serde_json::to_value(network.description()).unwrap();
        json["precision"] = "bf16".into();
        assert_eq!(&serde_json::from_value::<Description>(json).unwrap(), network.description());
    }
}
