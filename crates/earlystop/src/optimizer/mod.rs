//! Optimizers and learning-rate schedules.

mod method;
mod minimize;
mod parameter;
mod schedule;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

pub use parameter::Trainable;
pub use schedule::Schedule;

use crate::checkpoint::{NamedTensor, Savable};
use crate::error::{Error, Result};
use method::Method;
use parameter::Parameter;

/// Trains a model's variables step by step, against the gradient of a loss.
///
/// Unlike tch's `nn::Optimizer`, which hides its state, an optimizer saves and restores everything that its next step depends on,
/// as [named tensors](Savable). So training can be resumed with bit-identical results.
///
/// | | state | source |
/// |---|---|---|
/// | [`adam`](Self::adam) | `adam.m/NAME`, `adam.v/NAME`, `adam.steps` | [Kingma & Ba 2015](https://arxiv.org/abs/1412.6980) |
/// | [`adam_w`](Self::adam_w) | `adam_w.m/NAME`, `adam_w.v/NAME`, `adam_w.steps` | [Loshchilov & Hutter 2019](https://arxiv.org/abs/1711.05101) |
/// | [`sgd`](Self::sgd) | `sgd.steps`, with momentum `sgd.momentum/NAME` | [Sutskever et al. 2013](https://proceedings.mlr.press/v28/sutskever13.html) |
/// | [`rms_prop`](Self::rms_prop) | `rms_prop.v/NAME`, `rms_prop.steps`, with momentum `rms_prop.momentum/NAME` | [Hinton 2012](https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf) |
///
/// All compute what PyTorch's optimizers of these names compute. The learning rate is a number or a [`Schedule`].
///
/// # Examples
///
/// ```
/// use earlystop::{Network, Optimizer};
/// use tch::{Device, Kind, Tensor};
///
/// let mut network = Network::builder([2, 2, 1]).flatten().softmax_classifier(2).build(Device::Cpu)?;
/// let mut optimizer = Optimizer::adam(&network, 0.1)?;
/// let images = Tensor::ones([1, 4], (Kind::Float, Device::Cpu));
/// let labels = Tensor::from_slice(&[1.0f32, 0.0]).view([1, 2]);
///
/// let before = network.training_loss(&images, &labels, 1)?;
/// optimizer.minimize(&before, &mut network)?;
/// let after = network.training_loss(&images, &labels, 2)?;
/// assert!(after.value() < before.value());
/// # Ok::<(), earlystop::Error>(())
/// ```
///
/// A model of your own, with weight decay on everything but the biases, and clipped gradients:
///
/// ```
/// use earlystop::{Loss, Optimizer, optimizer::Schedule};
/// use tch::{Device, Kind, Tensor, nn, nn::Module};
///
/// let mut variables = nn::VarStore::new(Device::Cpu);
/// let layer = nn::linear(variables.root() / "layer", 3, 1, Default::default());
/// let mut optimizer = Optimizer::adam_w(&variables, Schedule::cosine(1e-2, 1000)?.warm_up(10))?
///     .weight_decay(0.1)?
///     .without_weight_decay(|name| name.ends_with(".bias"))
///     .clip_norm(1.0)?;
/// let inputs = Tensor::ones([8, 3], (Kind::Float, Device::Cpu));
/// let loss = Loss::from(layer.forward(&inputs).square().mean(Kind::Float));
/// optimizer.minimize(&loss, &mut variables)?;
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug)]
pub struct Optimizer {
    method: Method,
    schedule: Schedule,
    weight_decay: f64,
    clip_value: Option<f64>,
    clip_norm: Option<f64>,
    parameters: Vec<Parameter>,
    /// `[1]`: how often the variables were updated; a tensor, so that it is saved with the moments.
    steps: Tensor,
    tensors: Vec<NamedTensor<'static>>,
}

/// What determines an optimizer's steps, besides its state and its schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    method: Method,
    weight_decay: f64,
    clip_value: Option<f64>,
    clip_norm: Option<f64>,
    /// The variables that have a learning rate of their own, or no weight decay.
    groups: Vec<Group>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Group {
    name: String,
    rate_factor: f64,
    decays: bool,
}

/// Those of the only optimizer of earlier versions.
impl Default for Settings {
    fn default() -> Self {
        Self { method: ADAM, weight_decay: 0.0, clip_value: None, clip_norm: None, groups: Vec::new() }
    }
}

const ADAM: Method = Method::Adam { betas: [0.9, 0.999], epsilon: 1e-8 };

impl Optimizer {
    /// Prepares Adam: steps scaled by running means of the gradients (m) and of their squares (v).
    ///
    /// β₁ is 0.9, β₂ 0.999, ε 1e-8. Stands in for `tf.train.AdamOptimizer`.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if the learning rate is not a positive number within the range of `f32`, or a variable cannot be
    /// trained; [`Error::Torch`] if libtorch runs out of memory.
    pub fn adam(model: &impl Trainable, learning_rate: impl Into<Schedule>) -> Result<Self> {
        Self::new(model, ADAM, learning_rate.into())
    }

    /// Prepares AdamW: Adam with a weight decay of 0.01 that is not part of the gradient.
    ///
    /// # Errors
    ///
    /// As [`Optimizer::adam`].
    pub fn adam_w(model: &impl Trainable, learning_rate: impl Into<Schedule>) -> Result<Self> {
        let method = Method::AdamW { betas: [0.9, 0.999], epsilon: 1e-8 };
        Self::new(model, method, learning_rate.into())?.weight_decay(0.01)
    }

    /// Prepares stochastic gradient descent; see [`momentum`](Self::momentum) and [`nesterov`](Self::nesterov).
    ///
    /// # Errors
    ///
    /// As [`Optimizer::adam`].
    pub fn sgd(model: &impl Trainable, learning_rate: impl Into<Schedule>) -> Result<Self> {
        Self::new(model, Method::Sgd { momentum: 0.0, nesterov: false }, learning_rate.into())
    }

    /// Prepares RMSprop: steps scaled by a running mean of the gradients' squares (v), with decay 0.99 and ε 1e-8.
    ///
    /// # Errors
    ///
    /// As [`Optimizer::adam`].
    pub fn rms_prop(model: &impl Trainable, learning_rate: impl Into<Schedule>) -> Result<Self> {
        Self::new(model, Method::RmsProp { decay: 0.99, momentum: 0.0, epsilon: 1e-8 }, learning_rate.into())
    }

    /// Creates an optimizer that is only used to compute gradients.
    pub(crate) fn for_gradients(model: &dyn Trainable) -> Result<Self> {
        Self::new(model, Method::Sgd { momentum: 0.0, nesterov: false }, 1.0.into())
    }

    fn new(model: &(impl Trainable + ?Sized), method: Method, schedule: Schedule) -> Result<Self> {
        // Variables are usually `f32`: what rounds to zero or infinity there never trains or destroys them at once.
        let rounded = schedule.rate() as f32;
        if !(rounded > 0.0 && rounded.is_finite()) {
            let expected = "a positive number within the range of f32";
            return Err(Error::setting("learning rate", expected, schedule.rate()));
        }
        let parameters = model.variables_to_train().into_iter().map(Parameter::new).collect::<Result<Vec<_>>>()?;
        if parameters.is_empty() {
            return Err(Error::model("model", "at least one variable to train", "none"));
        }
        let optimizer = Self {
            method,
            schedule,
            weight_decay: 0.0,
            clip_value: None,
            clip_norm: None,
            parameters,
            steps: Tensor::zeros([1], (Kind::Int64, Device::Cpu)),
            tensors: Vec::new(),
        };
        optimizer.with_method(method)
    }

    /// Sets the method, with new moments.
    fn with_method(mut self, method: Method) -> Result<Self> {
        self.method = method;
        let moments = method.moments();
        self.parameters.iter_mut().try_for_each(|parameter| parameter.set_moments(moments.len()))?;
        self.tensors = Vec::new();
        for (index, name) in moments.iter().enumerate() {
            let prefix = format!("{}.{name}/", method.name());
            for parameter in &self.parameters {
                self.tensors.push(parameter.named(&parameter.moments[index], &prefix)?);
            }
        }
        self.tensors.push(NamedTensor::new(format!("{}.steps", method.name()), self.steps.shallow_clone()));
        Ok(self)
    }

    /// Sets the momentum of [`sgd`](Self::sgd) or [`rms_prop`](Self::rms_prop), 0.0 to below 1.0. Default: 0.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if it is out of range or the method has no momentum.
    pub fn momentum(self, momentum: f64) -> Result<Self> {
        let momentum = part("momentum", momentum)?;
        let method = match self.method {
            Method::Sgd { nesterov, .. } => Method::Sgd { momentum, nesterov },
            Method::RmsProp { decay, epsilon, .. } => Method::RmsProp { decay, momentum, epsilon },
            _ => return Err(self.refuse("momentum", "sgd or rms_prop")),
        };
        self.with_method(method)
    }

    /// Lets [`sgd`](Self::sgd) with momentum compute each step from where the momentum leads.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if the method is not `sgd`, or its [`momentum`](Self::momentum) was not set before.
    pub fn nesterov(self) -> Result<Self> {
        match self.method {
            Method::Sgd { momentum, .. } if momentum > 0.0 => {
                self.with_method(Method::Sgd { momentum, nesterov: true })
            }
            _ => Err(self.refuse("nesterov", "sgd with momentum")),
        }
    }

    /// Sets how much of their values the running means of [`adam`](Self::adam) and [`adam_w`](Self::adam_w) keep in a step, 0.0 to
    /// below 1.0. Defaults: 0.9 and 0.999.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if one is out of range or the method is another.
    pub fn betas(self, beta1: f64, beta2: f64) -> Result<Self> {
        let betas = [part("beta1", beta1)?, part("beta2", beta2)?];
        let method = match self.method {
            Method::Adam { epsilon, .. } => Method::Adam { betas, epsilon },
            Method::AdamW { epsilon, .. } => Method::AdamW { betas, epsilon },
            _ => return Err(self.refuse("betas", "adam or adam_w")),
        };
        self.with_method(method)
    }

    /// Sets the number that keeps divisions finite. Default: 1e-8.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if it is not a positive number within the range of `f32`, or the method is [`sgd`](Self::sgd).
    pub fn epsilon(self, epsilon: f64) -> Result<Self> {
        let epsilon = positive("epsilon", epsilon)?;
        let method = match self.method {
            Method::RmsProp { decay, momentum, .. } => Method::RmsProp { decay, momentum, epsilon },
            Method::Adam { betas, .. } => Method::Adam { betas, epsilon },
            Method::AdamW { betas, .. } => Method::AdamW { betas, epsilon },
            Method::Sgd { .. } => return Err(self.refuse("epsilon", "adam, adam_w or rms_prop")),
        };
        self.with_method(method)
    }

    /// Sets the weight decay. Defaults: 0.01 for [`adam_w`](Self::adam_w), else 0.
    ///
    /// AdamW shrinks each value by `learning_rate * weight_decay` of it in a step. The other methods add `weight_decay * value`
    /// to the gradient, after it was clipped.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if it is negative or not finite.
    pub fn weight_decay(self, weight_decay: f64) -> Result<Self> {
        if !(weight_decay >= 0.0 && (weight_decay as f32).is_finite()) {
            return Err(Error::setting("weight decay", "0 or a positive number", weight_decay));
        }
        Ok(Self { weight_decay, ..self })
    }

    /// Excludes variables from the weight decay, by their names: `|name| name.ends_with(".bias")`.
    pub fn without_weight_decay(mut self, is_excluded: impl Fn(&str) -> bool) -> Self {
        for parameter in &mut self.parameters {
            parameter.decays &= !is_excluded(&parameter.name);
        }
        self
    }

    /// Multiplies the learning rate of variables by a factor, by their names: `|name| name.starts_with("encoder.")`.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if the factor is not a positive number, or there is no such variable.
    pub fn scale_learning_rate(mut self, factor: f64, is_scaled: impl Fn(&str) -> bool) -> Result<Self> {
        let factor = positive("factor of the learning rate", factor)?;
        let mut scaled = self.parameters.iter_mut().filter(|parameter| is_scaled(&parameter.name)).peekable();
        if scaled.peek().is_none() {
            return Err(Error::setting("scale_learning_rate", "the name of a variable at least", "none that matches"));
        }
        scaled.for_each(|parameter| parameter.rate_factor *= factor);
        Ok(self)
    }

    /// Limits the norm of all gradients together: if it is greater, all are multiplied by the same factor. Default: no limit.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if the limit is not a positive number.
    pub fn clip_norm(self, norm: f64) -> Result<Self> {
        Ok(Self { clip_norm: Some(positive("clip_norm", norm)?), ..self })
    }

    /// Limits the magnitude of each value of the gradients, before their norm is limited. Default: no limit.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if the limit is not a positive number.
    pub fn clip_value(self, value: f64) -> Result<Self> {
        Ok(Self { clip_value: Some(positive("clip_value", value)?), ..self })
    }

    /// Returns the learning rate of the next step.
    pub fn learning_rate(&self) -> f64 {
        self.schedule.at(self.num_steps().saturating_add(1))
    }

    /// Returns how often the variables were updated.
    pub fn num_steps(&self) -> u64 {
        self.steps.int64_value(&[0]).max(0) as u64
    }

    /// Returns the schedule of the learning rate.
    pub fn schedule(&self) -> Schedule {
        self.schedule
    }

    pub(crate) fn settings(&self) -> Settings {
        let is_special =
            |parameter: &&Parameter| parameter.rate_factor != 1.0 || (!parameter.decays && self.weight_decay != 0.0);
        let group = |parameter: &Parameter| Group {
            name: parameter.name.clone(),
            rate_factor: parameter.rate_factor,
            decays: parameter.decays,
        };
        Settings {
            method: self.method,
            weight_decay: self.weight_decay,
            clip_value: self.clip_value,
            clip_norm: self.clip_norm,
            groups: self.parameters.iter().filter(is_special).map(group).collect(),
        }
    }

    fn refuse(&self, setting: &str, methods: &str) -> Error {
        Error::setting(setting, format!("the method {methods}"), self.method.name())
    }
}

/// Saves and restores the moments and the number of steps.
impl Savable for Optimizer {
    fn tensors(&self) -> Vec<NamedTensor<'_>> {
        self.tensors.tensors()
    }
}

fn part(what: &str, value: f64) -> Result<f64> {
    let is_valid = (0.0..1.0).contains(&value) && (value as f32) < 1.0;
    if is_valid { Ok(value) } else { Err(Error::setting(what, "at least 0 and below 1", value)) }
}

fn positive(what: &str, value: f64) -> Result<f64> {
    let is_valid = value as f32 > 0.0 && (value as f32).is_finite();
    if is_valid { Ok(value) } else { Err(Error::setting(what, "a positive number within the range of f32", value)) }
}
