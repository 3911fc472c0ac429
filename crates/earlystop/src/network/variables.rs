//! The named variables of a network, all in one buffer.

use ndarray::ArrayD;
use rand::Rng;
use rand::distributions::Uniform;
use rand_distr::StandardNormal;
use tch::{Device, Kind, Tensor};

use crate::checkpoint::NamedTensor;
use crate::error::{Error, Result, torch};
use crate::random::{Purpose, stream};
use crate::values::is_finite;

/// How a variable's first values are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Initializer {
    /// Normal with standard deviation `sqrt(2 / fan_in)` ([He et al. 2015](https://arxiv.org/abs/1502.01852)).
    HeNormal { fan_in: usize },
    /// Uniform in `±sqrt(6 / (fan_in + fan_out))`
    /// ([Glorot & Bengio 2010](https://proceedings.mlr.press/v9/glorot10a.html)).
    XavierUniform { fan_in: usize, fan_out: usize },
    /// Zero.
    Zeros,
}

impl Initializer {
    fn draw(self, count: usize, generator: &mut impl Rng) -> Vec<f32> {
        match self {
            Self::HeNormal { fan_in } => {
                let sigma = (2.0 / fan_in as f32).sqrt();
                (0..count).map(|_| sigma * generator.sample::<f32, _>(StandardNormal)).collect()
            }
            Self::XavierUniform { fan_in, fan_out } => {
                let limit = (6.0 / (fan_in + fan_out) as f32).sqrt();
                generator.sample_iter(Uniform::new_inclusive(-limit, limit)).take(count).collect()
            }
            Self::Zeros => vec![0.0; count],
        }
    }
}

/// What a variable will be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct VariableSpec {
    pub(super) name: String,
    /// The shape that users and files see.
    pub(super) shape: Vec<i64>,
    /// The shape that the operations see: the same values in the same order, over other axes.
    pub(super) layout: Vec<i64>,
    pub(super) initializer: Initializer,
    /// Whether the optimizer changes it.
    pub(super) trainable: bool,
}

/// The variables of a network: one flat buffer, and a view into it for each name.
///
/// Views with four axes `[out, in, height, width]` are channels-last in memory (`[out, height, width, in]`), the layout for
/// which oneDNN's convolutions are fastest. Files and arrays always have the logical order.
#[derive(Debug)]
pub struct Variables {
    flat: Tensor,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    spec: VariableSpec,
    /// A leaf of the graph: a view into `flat`.
    view: Tensor,
}

impl Variables {
    pub(super) fn new(specs: Vec<VariableSpec>, device: Device) -> Result<Self> {
        let count = specs.iter().map(|spec| spec.shape.iter().product::<i64>()).sum::<i64>();
        let flat = Tensor::f_zeros([count], (Kind::Float, device)).map_err(torch("allocating the variables"))?;
        let views = views(&flat, specs.iter().map(|spec| spec.layout.as_slice()))?;
        let entry = |(spec, view): (VariableSpec, Tensor)| Entry { view: view.set_requires_grad(spec.trainable), spec };
        let entries = specs.into_iter().zip(views).map(entry).collect();
        Ok(Self { flat, entries })
    }

    /// Draws all values anew; the same seed and the same `draw` give the same values.
    pub(super) fn initialize(&mut self, seed: u64, draw: u64) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let mut generator = stream(seed, Purpose::Initialization, draw);
        for entry in &mut self.entries {
            let values = entry.spec.initializer.draw(entry.view.numel(), &mut generator);
            let values = Tensor::from_slice(&values).reshape(&entry.spec.layout);
            entry.view.f_copy_(&values).map_err(torch(&entry.spec.name))?;
        }
        Ok(())
    }

    /// Returns the number of parameters: the values of all variables together.
    pub fn num_parameters(&self) -> usize {
        self.flat.numel()
    }

    /// Returns whether all values are finite: neither infinite nor NaN.
    pub fn are_finite(&self) -> bool {
        is_finite(&self.flat).unwrap_or(false)
    }

    /// Returns the names, in the order of the layers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.spec.name.as_str())
    }

    /// Iterates over the name and the tensor of each variable, in the order of the layers. Use it for a weight penalty.
    ///
    /// The tensors of layers that are not frozen require gradients. The weight of a fully-connected layer after an image has
    /// the axes `[out, channels, height, width]`. All others have those of [`Variables::values`].
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.entries.iter().map(|entry| (entry.spec.name.as_str(), &entry.view))
    }

    /// Returns the number of values of a variable; none where no variable has the name.
    pub(super) fn size(&self, name: &str) -> usize {
        self.entries.iter().find(|entry| entry.spec.name == name).map_or(0, |entry| entry.view.numel())
    }

    /// Copies the values of a variable into an array, in logical order: `[out, in, height, width]`, `[out, in]` or `[out]`.
    ///
    /// # Errors
    ///
    /// If no variable has the name.
    pub fn values(&self, name: &str) -> Result<ArrayD<f32>> {
        let entry = self.entries.iter().find(|entry| entry.spec.name == name).ok_or_else(|| Error::UnknownName {
            what: "variable",
            name: name.to_owned(),
            known: self.names().map(str::to_owned).collect(),
        })?;
        let values = entry.view.detach().reshape(&entry.spec.shape).to_device(Device::Cpu);
        (&values).try_into().map_err(torch(name))
    }

    /// Names the variables as checkpoints do.
    pub(super) fn named(&self) -> Vec<NamedTensor<'static>> {
        let named = |Entry { spec, view }: &Entry| {
            NamedTensor::new(&*spec.name, view.shallow_clone()).with_shape(spec.shape.clone())
        };
        self.entries.iter().map(named).collect()
    }

    /// Returns the view at `index`, as the operations use it.
    pub(super) fn view(&self, index: usize) -> &Tensor {
        &self.entries[index].view
    }

    /// Returns the one buffer behind all variables.
    #[cfg(test)]
    pub(crate) fn flat(&self) -> &Tensor {
        &self.flat
    }
}

/// Returns views into `flat`, one after the other, with four axes as channels-last.
fn views<'a>(flat: &Tensor, layouts: impl Iterator<Item = &'a [i64]>) -> Result<Vec<Tensor>> {
    let mut offset = 0;
    let view = |layout: &[i64]| {
        let (size, strides) = (layout.iter().product::<i64>(), strides(layout));
        let view = flat.f_as_strided(layout, &strides, offset);
        offset += size;
        view.map_err(torch("viewing the variables"))
    };
    layouts.map(view).collect()
}

/// Returns the strides of a tensor that fills its memory: channels-last for four axes, else row-major.
fn strides(layout: &[i64]) -> Vec<i64> {
    match *layout {
        [_, channels, height, width] => vec![height * width * channels, 1, width * channels, channels],
        _ => (0..layout.len()).map(|axis| layout[axis + 1..].iter().product()).collect(),
    }
}

/// Shows a tensor with its axes in the order in which a variable's memory has them.
pub(super) fn in_memory_order(tensor: &Tensor) -> Tensor {
    if tensor.dim() == 4 { tensor.permute([0, 2, 3, 1]) } else { tensor.shallow_clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, shape: &[i64], layout: &[i64], initializer: Initializer) -> VariableSpec {
        VariableSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
            layout: layout.to_vec(),
            initializer,
            trainable: true,
        }
    }

    fn example() -> Variables {
        let specs = vec![
            spec("conv.weight", &[16, 3, 5, 5], &[16, 3, 5, 5], Initializer::HeNormal { fan_in: 75 }),
            spec("conv.bias", &[16], &[16], Initializer::Zeros),
            spec("fc.weight", &[10, 48], &[10, 3, 4, 4], Initializer::XavierUniform { fan_in: 48, fan_out: 10 }),
        ];
        let mut variables = Variables::new(specs, Device::Cpu).unwrap();
        variables.initialize(1, 0).unwrap();
        variables
    }

    #[test]
    fn four_axes_are_channels_last() {
        let variables = example();
        assert_eq!(variables.view(0).stride(), [75, 1, 15, 3]);
        assert_eq!(variables.view(2).stride(), [48, 1, 12, 3]);
    }

    #[test]
    fn values_are_in_logical_order_whatever_the_memory_is() {
        let variables = example();
        let values = variables.values("fc.weight").unwrap();
        assert_eq!(values.shape(), [10, 48]);
        // Logical index 17 of row 2 is channel 1, row 0, column 1.
        assert_eq!(values[[2, 17]], variables.view(2).double_value(&[2, 1, 0, 1]) as f32);
    }

    #[test]
    fn views_and_buffer_share_their_memory() {
        let variables = example();
        let _no_grad = tch::no_grad_guard();
        let _ = variables.flat().shallow_clone().fill_(3.0);
        assert_eq!(variables.values("conv.bias").unwrap()[[7]], 3.0);
    }

    #[test]
    fn initial_values_have_the_promised_spread() {
        let variables = example();
        let weight = variables.values("conv.weight").unwrap();
        let expected = (2.0_f32 / 75.0).sqrt();
        assert!((weight.std(0.0) / expected - 1.0).abs() < 0.1, "{}", weight.std(0.0));
        assert!(variables.values("conv.bias").unwrap().iter().all(|&bias| bias == 0.0));
        let (limit, weight) = ((6.0_f32 / 58.0).sqrt(), variables.values("fc.weight").unwrap());
        let largest = weight.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        assert!(largest <= limit && largest > 0.9 * limit, "{largest}");
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let message = example().values("conv.wieght").unwrap_err().to_string();
        assert_eq!(message, "no variable \"conv.wieght\": known are conv.weight, conv.bias, fc.weight");
    }
}
