//! From the layers as written to the operations as run: shapes, variables and order, all checked before anything is allocated.

use std::fmt;

use super::layers::{Activation, Conv2d, FullyConnected, Layer, MaxPool, Padding};
use super::variables::{Initializer, VariableSpec};
use crate::error::{Error, Result};
use crate::kernels::{ConvPool, Dense, Processor};

/// The largest number of values in a layer's output or in a variable; beyond it a size is taken for a mistake.
const LARGEST: usize = 1 << 40;

/// The shape of one example between two layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An image `[height, width, channels]`.
    Image {
        /// The height in pixels.
        height: usize,
        /// The width in pixels.
        width: usize,
        /// The number of channels.
        channels: usize,
    },
    /// A row of numbers `[size]`.
    Features {
        /// The number of values.
        size: usize,
        /// `[height, width, channels]` of the image that was flattened, directly before this shape.
        flattened: Option<[usize; 3]>,
    },
}

impl Shape {
    /// Returns the sizes of the axes, without the batch.
    pub fn sizes(&self) -> Vec<usize> {
        match *self {
            Self::Image { height, width, channels } => vec![height, width, channels],
            Self::Features { size, .. } => vec![size],
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.sizes())
    }
}

/// One operation on a batch. Images are `[batch, channels, height, width]` in channels-last memory; variables are given by index.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Op {
    Convolve {
        weight: usize,
        stride: i64,
        pads: Pads,
    },
    Activate(Activation),
    MaxPool {
        kernel: i64,
        stride: i64,
        pads: Pads,
    },
    Flatten,
    Multiply {
        weight: usize,
    },
    Dropout {
        rate: f64,
    },
    /// A convolution, max-pooling and ReLU in one.
    ConvPool {
        weight: usize,
        conv_pool: ConvPool,
    },
    /// A multiplication, and ReLU where it follows, in one.
    Dense {
        weight: usize,
        dense: Dense,
    },
}

/// Border pixels `[left, right, top, bottom]`.
pub(super) type Pads = [i64; 4];

/// The operations in the order in which they run, each with the index of its layer.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) ops: Vec<(usize, Op)>,
    pub(super) variables: Vec<VariableSpec>,
    /// What each layer gives, in the layers' order.
    pub(super) outputs: Vec<Shape>,
}

/// Infers and checks the shapes through the chain, and lists operations and variables.
pub(super) fn plan(input: [usize; 3], layers: &[Layer], default_activation: Activation) -> Result<Plan> {
    let [height, width, channels] = input;
    let mut shape = Shape::Image { height, width, channels };
    if input.contains(&0) || size_of(&input).is_none() {
        return Err(Error::model("input", "an image of at least one pixel and one channel", format!("{shape}")));
    }
    let mut plan = Plan { ops: Vec::new(), variables: Vec::new(), outputs: Vec::new() };
    for (index, layer) in layers.iter().enumerate() {
        let label = label(index, layer);
        if let Some(name) = layer.name() {
            check_name(name, &label, &layers[..index])?;
        }
        if index > 0 && matches!(layers[index - 1], Layer::SoftmaxClassifier { .. }) {
            return Err(Error::model(&label, "no layer after the softmax classifier", layer.kind()));
        }
        shape = plan.add(index, layer, &label, shape, default_activation)?;
        plan.outputs.push(shape);
    }
    match layers.last() {
        Some(Layer::SoftmaxClassifier { .. }) => {}
        Some(layer) => {
            return Err(Error::model(label(layers.len() - 1, layer), "softmax_classifier as last layer", layer.kind()));
        }
        None => return Err(Error::model("input", "softmax_classifier as last layer", "no layer at all")),
    }
    plan.pool_before_relu();
    Ok(plan)
}

impl Plan {
    fn add(&mut self, index: usize, layer: &Layer, label: &str, input: Shape, default: Activation) -> Result<Shape> {
        match layer {
            Layer::Conv2d(conv) => self.add_conv2d(index, conv, label, input, conv.activation.unwrap_or(default)),
            Layer::MaxPool(pool) => self.add_max_pool(index, pool, label, input),
            Layer::Flatten => {
                let Shape::Image { height, width, channels } = input else {
                    return Err(expects_image(label, input));
                };
                self.ops.push((index, Op::Flatten));
                Ok(Shape::Features { size: height * width * channels, flattened: Some([height, width, channels]) })
            }
            Layer::FullyConnected(dense) => {
                self.add_dense(index, dense, label, input, dense.activation.unwrap_or(default))
            }
            Layer::SoftmaxClassifier { num_classes } => {
                if *num_classes < 2 {
                    return Err(Error::model(label, "at least two classes", num_classes));
                }
                let dense = FullyConnected::new(*num_classes, label);
                self.add_dense(index, &dense, label, input, Activation::Linear)
            }
            Layer::Dropout(dropout) => {
                // Masks are `f32`: a rate that rounds to 1 there leaves nothing.
                if !(0.0..1.0).contains(&(dropout.rate as f32)) {
                    return Err(Error::model(label, "a dropout rate from 0.0 to below 1.0", dropout.rate));
                }
                self.ops.push((index, Op::Dropout { rate: dropout.rate }));
                Ok(input)
            }
        }
    }

    fn add_conv2d(
        &mut self,
        index: usize,
        conv: &Conv2d,
        label: &str,
        input: Shape,
        activation: Activation,
    ) -> Result<Shape> {
        let Shape::Image { height, width, channels } = input else {
            return Err(expects_image(label, input));
        };
        let window = Window { kernel: conv.kernel, stride: conv.stride, padding: conv.padding };
        let (height_out, width_out, pads) = window.slide_over(height, width, label)?;
        let output = image(height_out, width_out, conv.channels, label)?;
        let weight = [conv.channels, channels, conv.kernel, conv.kernel];
        let fans = [channels, conv.channels].map(|side| side.saturating_mul(conv.kernel.saturating_mul(conv.kernel)));
        let weight = self.add_variables(&conv.name, label, &weight, &weight, fans, activation)?;
        self.ops.push((index, Op::Convolve { weight, stride: conv.stride as i64, pads }));
        self.activate(index, activation);
        Ok(output)
    }

    fn add_max_pool(&mut self, index: usize, pool: &MaxPool, label: &str, input: Shape) -> Result<Shape> {
        let Shape::Image { height, width, channels } = input else {
            return Err(expects_image(label, input));
        };
        let window = Window { kernel: pool.kernel, stride: pool.stride, padding: pool.padding };
        let (height, width, pads) = window.slide_over(height, width, label)?;
        self.ops.push((index, Op::MaxPool { kernel: pool.kernel as i64, stride: pool.stride as i64, pads }));
        image(height, width, channels, label)
    }

    fn add_dense(
        &mut self,
        index: usize,
        dense: &FullyConnected,
        label: &str,
        input: Shape,
        activation: Activation,
    ) -> Result<Shape> {
        let Shape::Features { size, flattened } = input else {
            return Err(Error::model(label, "a row of features: put flatten() before it", format!("an image {input}")));
        };
        if dense.size == 0 {
            return Err(Error::model(label, "at least one output", 0));
        }
        let shape = [dense.size, size];
        // Behind a flattened image the weight is laid out as the image is, so that flattening need not move a value.
        let weight = match flattened {
            Some([height, width, channels]) => vec![dense.size, channels, height, width],
            None => shape.to_vec(),
        };
        let weight = self.add_variables(&dense.name, label, &shape, &weight, [size, dense.size], activation)?;
        self.ops.push((index, Op::Multiply { weight }));
        self.activate(index, activation);
        Ok(Shape::Features { size: dense.size, flattened: None })
    }

    /// Adds a layer's weight and bias and returns the weight's index; the bias is the next one.
    fn add_variables(
        &mut self,
        name: &str,
        label: &str,
        shape: &[usize],
        layout: &[usize],
        [fan_in, fan_out]: [usize; 2],
        activation: Activation,
    ) -> Result<usize> {
        if size_of(shape).is_none() {
            return Err(Error::model(label, format!("a weight of at most {LARGEST} values"), format!("{shape:?}")));
        }
        let initializer = match activation {
            Activation::Relu => Initializer::HeNormal { fan_in },
            _ => Initializer::XavierUniform { fan_in, fan_out },
        };
        let sizes = |sizes: &[usize]| sizes.iter().map(|&size| size as i64).collect::<Vec<_>>();
        self.variables.push(VariableSpec {
            name: format!("{name}.weight"),
            shape: sizes(shape),
            layout: sizes(layout),
            initializer,
            trainable: true,
        });
        self.variables.push(VariableSpec {
            name: format!("{name}.bias"),
            shape: sizes(&shape[..1]),
            layout: sizes(&shape[..1]),
            initializer: Initializer::Zeros,
            trainable: true,
        });
        Ok(self.variables.len() - 2)
    }

    /// Marks a layer's variables as not to be trained.
    pub(super) fn freeze(&mut self, layer: &str) {
        for variable in &mut self.variables {
            variable.trainable &= variable.name.rsplit_once('.').is_none_or(|(name, _)| name != layer);
        }
    }

    fn activate(&mut self, index: usize, activation: Activation) {
        if activation != Activation::Linear {
            self.ops.push((index, Op::Activate(activation)));
        }
    }

    /// Puts every max-pooling before the ReLU that it follows: the same values and gradients bit for bit, since ReLU keeps the
    /// order of numbers, for a quarter of the work (with windows of 2 x 2).
    fn pool_before_relu(&mut self) {
        for i in 1..self.ops.len() {
            let [(_, first), (_, second)] = &self.ops[i - 1..=i] else { unreachable!("a window of two") };
            if matches!(first, Op::Activate(Activation::Relu)) && matches!(second, Op::MaxPool { .. }) {
                self.ops.swap(i - 1, i);
            }
        }
    }
}

impl Plan {
    /// Replaces the operations that there are kernels for: every convolution with max-pooling and ReLU, and every multiplication,
    /// with ReLU where it follows.
    pub(super) fn fuse(&mut self, input: [usize; 3], processor: Processor) {
        let mut index = 0;
        while index < self.ops.len() {
            if let Some(fused) = self.ops.get(index..index + 3).and_then(|ops| self.fused(input, ops, processor)) {
                self.ops.splice(index..index + 3, [fused]);
            } else if let (layer, Op::Multiply { weight }) = self.ops[index] {
                let rectifies = matches!(self.ops.get(index + 1), Some((_, Op::Activate(Activation::Relu))));
                let shape = &self.variables[weight].shape;
                let dense = Dense::new([shape[0], shape[1]].map(|size| size as usize), rectifies, processor);
                let end = index + if rectifies { 2 } else { 1 };
                self.ops.splice(index..end, [(layer, Op::Dense { weight, dense })]);
            }
            index += 1;
        }
    }

    fn fused(&self, input: [usize; 3], ops: &[(usize, Op)], processor: Processor) -> Option<(usize, Op)> {
        let [
            (layer, Op::Convolve { weight, stride: 1, pads }),
            (_, Op::MaxPool { kernel: 2, stride: 2, pads: [0, 0, 0, 0] }),
            (_, Op::Activate(Activation::Relu)),
        ] = ops
        else {
            return None;
        };
        let input = match layer.checked_sub(1).map(|before| self.outputs[before]) {
            Some(Shape::Image { height, width, channels }) => [height, width, channels],
            _ => input,
        };
        let shape = &self.variables[*weight].shape;
        let [channels_out, kernel] = [shape[0] as usize, shape[2] as usize];
        let conv_pool = ConvPool::new(input, channels_out, kernel, pads.map(|pad| pad as usize), processor)?;
        Some((*layer, Op::ConvPool { weight: *weight, conv_pool }))
    }
}

/// A square window that slides over an image.
struct Window {
    kernel: usize,
    stride: usize,
    padding: Padding,
}

impl Window {
    /// Returns the height and the width of what comes out, and the border that is needed.
    fn slide_over(&self, height: usize, width: usize, label: &str) -> Result<(usize, usize, Pads)> {
        if self.kernel == 0 || self.stride == 0 {
            let found = format!("kernel {} and stride {}", self.kernel, self.stride);
            return Err(Error::model(label, "a kernel and a stride of at least 1 pixel", found));
        }
        if self.kernel > LARGEST || self.stride > LARGEST {
            return Err(Error::model(
                label,
                "a kernel and a stride that fit an image",
                format!("kernel {}", self.kernel),
            ));
        }
        let (height_out, [top, bottom]) = self.slide_along(height, label)?;
        let (width_out, [left, right]) = self.slide_along(width, label)?;
        Ok((height_out, width_out, [left, right, top, bottom]))
    }

    fn slide_along(&self, size: usize, label: &str) -> Result<(usize, [i64; 2])> {
        match self.padding {
            Padding::Same => {
                let out = size.div_ceil(self.stride);
                let pad = ((out - 1) * self.stride + self.kernel).saturating_sub(size);
                Ok((out, [(pad / 2) as i64, (pad - pad / 2) as i64]))
            }
            Padding::Valid if self.kernel <= size => Ok(((size - self.kernel) / self.stride + 1, [0, 0])),
            Padding::Valid => {
                let expected = format!("an image of at least {0} x {0} pixels for valid padding", self.kernel);
                Err(Error::model(label, expected, format!("{size} pixels")))
            }
        }
    }
}

fn image(height: usize, width: usize, channels: usize, label: &str) -> Result<Shape> {
    match size_of(&[height, width, channels]) {
        Some(_) if channels > 0 => Ok(Shape::Image { height, width, channels }),
        _ => Err(Error::model(
            label,
            format!("1 to {LARGEST} values as output"),
            format!("{:?}", [height, width, channels]),
        )),
    }
}

/// Returns the number of values, or nothing where it is beyond [`LARGEST`].
fn size_of(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size)).filter(|&size| size <= LARGEST)
}

fn label(index: usize, layer: &Layer) -> String {
    layer.name().map_or_else(|| format!("{} (layer {})", layer.kind(), index + 1), str::to_owned)
}

fn check_name(name: &str, label: &str, before: &[Layer]) -> Result<()> {
    if name.is_empty() || name.contains(['/', '.']) || name.contains(char::is_whitespace) {
        return Err(Error::model(label, "a name without dots, slashes and spaces", format!("{name:?}")));
    }
    if before.iter().any(|other| other.name() == Some(name)) {
        return Err(Error::model(label, "a name of its own for each layer", format!("a second {name:?}")));
    }
    Ok(())
}

fn expects_image(label: &str, found: Shape) -> Error {
    Error::model(label, "an image [height, width, channels] as input", format!("features {found}"))
}

#[cfg(test)]
mod tests {
    use super::super::layers::Dropout;
    use super::*;

    fn classifier() -> Layer {
        Layer::SoftmaxClassifier { num_classes: 10 }
    }

    fn refusal(layers: &[Layer]) -> String {
        plan([28, 28, 1], layers, Activation::Relu).unwrap_err().to_string()
    }

    fn same_window(kernel: usize, stride: usize, size: usize) -> (usize, [i64; 2]) {
        Window { kernel, stride, padding: Padding::Same }.slide_along(size, "layer").unwrap()
    }

    #[test]
    fn same_padding_puts_the_odd_pixel_last() {
        assert_eq!(same_window(5, 1, 28), (28, [2, 2]));
        assert_eq!(same_window(2, 2, 28), (14, [0, 0]));
        assert_eq!(same_window(2, 2, 7), (4, [0, 1]));
        assert_eq!(same_window(4, 1, 7), (7, [1, 2]));
        assert_eq!(same_window(1, 3, 7), (3, [0, 0]));
    }

    #[test]
    fn max_pooling_comes_before_relu() {
        let layers = [Conv2d::new(5, 16, "conv").into(), MaxPool::new(2, 2).into(), Layer::Flatten, classifier()];
        let ops = plan([28, 28, 1], &layers, Activation::Relu).unwrap().ops;
        assert!(matches!(ops[1], (1, Op::MaxPool { .. })), "{ops:?}");
        assert_eq!(ops[2], (0, Op::Activate(Activation::Relu)));
    }

    #[test]
    fn other_activations_stay_where_they_are() {
        let layers = [Conv2d::new(5, 16, "conv").into(), MaxPool::new(2, 2).into(), Layer::Flatten, classifier()];
        let ops = plan([28, 28, 1], &layers, Activation::Tanh).unwrap().ops;
        assert_eq!(ops[1], (0, Op::Activate(Activation::Tanh)));
    }

    #[test]
    fn errors_name_the_layer() {
        let cases: [(&[Layer], &str); 13] = [
            (&[], "input: expected softmax_classifier as last layer, found no layer at all"),
            (&[Layer::Flatten], "flatten (layer 1): expected softmax_classifier as last layer"),
            (
                &[classifier()],
                "softmax_classifier: expected a row of features: put flatten() before it, found an image [28, 28, 1]",
            ),
            (&[Layer::Flatten, Conv2d::new(5, 16, "conv").into()], "conv: expected an image"),
            (&[Conv2d::new(0, 16, "conv").into()], "conv: expected a kernel and a stride of at least 1 pixel"),
            (&[Conv2d::new(5, 0, "conv").into()], "conv: expected 1 to"),
            (
                &[Conv2d::new(29, 1, "conv").padding(Padding::Valid).into()],
                "conv: expected an image of at least 29 x 29",
            ),
            (&[Dropout::new(1.0).into()], "dropout (layer 1): expected a dropout rate"),
            (&[Dropout::new(1.0 - 1e-12).into()], "dropout (layer 1): expected a dropout rate"),
            (&[Dropout::new(-0.1).into()], "dropout (layer 1): expected a dropout rate"),
            (&[Dropout::new(f64::NAN).into()], "dropout (layer 1): expected a dropout rate"),
            (
                &[Layer::Flatten, Layer::SoftmaxClassifier { num_classes: 1 }],
                "softmax_classifier: expected at least two classes, found 1",
            ),
            (&[Conv2d::new(5, 1, "a.b").into()], "a.b: expected a name without dots"),
        ];
        for (layers, expected) in cases {
            let message = refusal(layers);
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn a_name_cannot_be_given_twice() {
        let layers = [Conv2d::new(5, 16, "conv").into(), Conv2d::new(5, 36, "conv").into()];
        assert_eq!(refusal(&layers), "conv: expected a name of its own for each layer, found a second \"conv\"");
    }

    #[test]
    fn sizes_beyond_all_memory_are_refused() {
        for layer in [Conv2d::new(1, usize::MAX, "huge").into(), Conv2d::new(1 << 40, 1, "huge").into()] {
            let message = refusal(&[layer]);
            assert!(message.starts_with("huge: expected"), "{message}");
        }
        let dense = FullyConnected::new(usize::MAX, "huge").into();
        assert!(refusal(&[Layer::Flatten, dense]).starts_with("huge: expected a weight of at most"));
    }
}
