//! Draws a network, and how it processes one image.

use ndarray::Axis;
use tch::Tensor;

use crate::data::Examples;
use crate::error::{Result, torch};
use crate::network::{Layer, Network, Shape};
use crate::plot::{Figure, FlowKind, FlowLayer, network_flowchart};

/// Draws the network as a flowchart, with its filters and with what each layer makes of one of the examples.
///
/// # Errors
///
/// When there is no such example, or its size is not the network's.
///
/// ```
/// # use earlystop::ndarray::{Array1, Array3};
/// # let examples = earlystop::Examples::new(Array3::from_elem((1, 8, 8), 200), Array1::zeros(1))?;
/// use earlystop::{Network, flowchart, tch::Device};
///
/// let network = Network::builder([8, 8, 1]).conv2d(3, 4, "layer_conv1").max_pool(2, 2).flatten().softmax_classifier(3);
/// let figure = flowchart(&network.build(Device::Cpu)?, &examples, 0)?;
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn flowchart(network: &Network, examples: &Examples, index: usize) -> Result<Figure> {
    let example = examples.take(&[index])?;
    let image = Tensor::try_from(example.images_f32(..)?).map_err(torch("images"))?;
    let mut activations = network.activations(&image)?.into_iter();
    let layers = network.layers().map(|(layer, shape)| flow_layer(network, layer, shape, &mut activations));
    network_flowchart(&example.images().index_axis(Axis(0), 0), &layers.collect::<Result<Vec<_>>>()?)
}

/// Describes a layer; `activations` gives those of the named layers one after the other.
fn flow_layer(
    network: &Network,
    layer: &Layer,
    shape: Shape,
    activations: &mut impl Iterator<Item = (String, ndarray::ArrayD<f32>)>,
) -> Result<FlowLayer> {
    let (name, kind) = match (layer, layer.name()) {
        (Layer::Conv2d(_), Some(name)) => (name, FlowKind::Convolution(network.weights(name)?)),
        (_, Some(name)) => (name, FlowKind::FullyConnected),
        (_, None) => (layer.kind(), FlowKind::Passing),
    };
    let activations =
        layer.name().and_then(|_| activations.next()).map(|(_, values)| values.index_axis_move(Axis(0), 0));
    Ok(FlowLayer { name: name.to_owned(), kind, shape: shape.sizes(), activations })
}
