//! A loss, and arithmetic with it.

use std::fmt::Display;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};
use std::sync::{Arc, Mutex};

use tch::{Device, Kind, TchError, Tensor};

use super::block::{Block, Chain};
use crate::error::{Error, Result};

/// A loss to minimize: one number, from which [`Optimizer::minimize`](crate::Optimizer::minimize) computes gradients.
///
/// [`Network::training_loss`](super::Network::training_loss) returns one. It is not a `Tensor`, because libtorch does not see
/// the layers that run on this crate's own kernels; a `Loss` remembers them, and so do the results of `+`, `-`, `*` and `/`.
/// The other operand is a number, a tensor of one element (a weight penalty, a learned scale), or another loss. A loss that
/// libtorch computed alone is converted by `Loss::from(tensor)`.
///
/// Operators do not fail: if a tensor has more than one element, or libtorch refuses an operation, the resulting loss keeps
/// the reason, its value is NaN, and minimizing it returns the error.
///
/// # Examples
///
/// The mean loss of two batches, with weight decay:
///
/// ```
/// use earlystop::{Optimizer, Network};
/// use tch::{Device, Kind, Tensor};
///
/// let mut network = Network::builder([2, 2, 1]).flatten().softmax_classifier(2).build(Device::Cpu)?;
/// let mut optimizer = Optimizer::adam(&network, 0.1)?;
/// let images = Tensor::ones([1, 4], (Kind::Float, Device::Cpu));
/// let labels = Tensor::from_slice(&[1.0f32, 0.0]).view([1, 2]);
///
/// let first = network.training_loss(&images, &labels, 1)?;
/// let second = network.training_loss(&(&images * 0.5), &labels, 1)?;
/// let penalty: Tensor = network.variables().iter().map(|(_, variable)| variable.square().sum(Kind::Float)).sum();
/// let loss = (first + second) / 2.0 + penalty * 1e-4;
/// println!("loss {}", loss.value());
/// optimizer.minimize(&loss, &mut network)?;
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a loss changes nothing before it is minimized"]
pub struct Loss {
    /// Attached to libtorch's graph, which begins anew behind each of our kernels. Never handed out.
    value: Result<Tensor, Refusal>,
    /// The ways through our kernels that end in `value`: one for each batch.
    chains: Vec<Chain>,
    /// Whether a [`Network`](super::Network) computed it, or a part of it.
    is_networks: bool,
}

/// Why a loss has no value.
#[derive(Debug, Clone)]
struct Refusal {
    expected: &'static str,
    found: String,
}

impl Loss {
    pub(super) fn new(value: Tensor, blocks: Vec<Block>) -> Self {
        let chains = if blocks.is_empty() { Vec::new() } else { vec![Arc::new(Mutex::new(blocks))] };
        Self { chains, is_networks: true, ..Self::of(Ok(value)) }
    }

    fn of(value: Result<Tensor, TchError>) -> Self {
        Self { value: one_number(value), chains: Vec::new(), is_networks: false }
    }

    /// Returns the value; NaN if an operator could not compute it.
    pub fn value(&self) -> f64 {
        self.double_value(&[])
    }

    /// Returns the value, as `Tensor::double_value` does; the indices of a single number are `&[]`.
    pub fn double_value(&self, indices: &[i64]) -> f64 {
        self.value.as_ref().ok().and_then(|value| value.f_double_value(indices).ok()).unwrap_or(f64::NAN)
    }

    /// Copies the value into a tensor from which no gradient can be computed.
    pub fn detach(&self) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        match &self.value {
            Ok(value) => value.detach().copy(),
            Err(_) => Tensor::full([0_i64; 0], f64::NAN, (Kind::Float, Device::Cpu)),
        }
    }

    /// Returns the value as libtorch's graph has it, and the ways through our kernels that this graph leads to.
    pub(super) fn parts(&self) -> Result<(&Tensor, &[Chain])> {
        match &self.value {
            Ok(value) => Ok((value, &self.chains)),
            Err(Refusal { expected, found }) => Err(Error::loss(expected, found)),
        }
    }

    /// Returns whether a network computed it, so that its gradients shall have the same bits on any number of threads.
    pub(crate) fn is_networks(&self) -> bool {
        self.is_networks
    }

    fn map(&self, operation: impl FnOnce(&Tensor) -> Result<Tensor, TchError>) -> Self {
        let value = self.value.as_ref().map_err(Clone::clone).and_then(|value| one_number(operation(value)));
        Self { value, chains: self.chains.clone(), is_networks: self.is_networks }
    }

    fn combine(&self, other: &Self, operation: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor, TchError>) -> Self {
        let other_value = other.value.as_ref().map_err(Clone::clone);
        let mut combined = match other_value {
            Ok(other) => self.map(|value| operation(value, other)),
            Err(refusal) => {
                let value = self.value.as_ref().map_err(Clone::clone).and(Err(refusal));
                Self { value, chains: Vec::new(), is_networks: self.is_networks }
            }
        };
        combined.is_networks |= other.is_networks;
        for chain in &other.chains {
            if !combined.chains.iter().any(|known| Arc::ptr_eq(known, chain)) {
                combined.chains.push(chain.clone());
            }
        }
        combined
    }
}

fn one_number(value: Result<Tensor, TchError>) -> Result<Tensor, Refusal> {
    const EXPECTED: &str = "a single number";
    let refusal = |found: &dyn Display| Refusal { expected: EXPECTED, found: found.to_string() };
    match value {
        Ok(value) if !value.defined() => Err(refusal(&"an undefined tensor")),
        Ok(value) if value.numel() != 1 => Err(refusal(&format_args!("a tensor of shape {:?}", value.size()))),
        Ok(value) => Ok(value),
        Err(source) => Err(refusal(&source)),
    }
}

/// A loss that was computed by libtorch alone.
impl From<Tensor> for Loss {
    fn from(value: Tensor) -> Self {
        Self::of(Ok(value))
    }
}

/// A loss that was computed by libtorch alone.
impl From<&Tensor> for Loss {
    fn from(value: &Tensor) -> Self {
        Self::of(Ok(value.shallow_clone()))
    }
}

impl From<&Loss> for Loss {
    fn from(loss: &Loss) -> Self {
        loss.map(|value| Ok(value.shallow_clone()))
    }
}

impl Neg for &Loss {
    type Output = Loss;

    fn neg(self) -> Loss {
        self.map(Tensor::f_neg)
    }
}

impl Neg for Loss {
    type Output = Loss;

    fn neg(self) -> Loss {
        -&self
    }
}

/// The sum of several losses; of none it is 0, which cannot be minimized.
impl Sum for Loss {
    fn sum<I: Iterator<Item = Loss>>(losses: I) -> Loss {
        losses.reduce(|sum, loss| sum + loss).unwrap_or_else(|| Tensor::from(0.0_f32).into())
    }
}

/// Implements an operator between a loss and a number, a tensor or a loss.
macro_rules! operator {
    ($trait:ident $method:ident, $assign_trait:ident $assign_method:ident, $with_number:ident, $with_tensor:ident) => {
        operator!(@left $trait $method, $with_tensor, Loss => Tensor, &Tensor, Loss, &Loss);
        operator!(@left $trait $method, $with_tensor, &Loss => Tensor, &Tensor, Loss, &Loss);
        operator!(@left $trait $method, $with_tensor, Tensor => Loss, &Loss);
        operator!(@left $trait $method, $with_tensor, &Tensor => Loss, &Loss);

        impl $trait<f64> for &Loss {
            type Output = Loss;

            fn $method(self, number: f64) -> Loss {
                self.map(|value| value.$with_number(number))
            }
        }

        impl $trait<f64> for Loss {
            type Output = Loss;

            fn $method(self, number: f64) -> Loss {
                (&self).$method(number)
            }
        }

        impl<R> $assign_trait<R> for Loss
        where
            for<'a> &'a Loss: $trait<R, Output = Loss>,
        {
            fn $assign_method(&mut self, right: R) {
                *self = (&*self).$method(right);
            }
        }
    };
    (@left $trait:ident $method:ident, $with_tensor:ident, $left:ty => $($right:ty),*) => {$(
        impl $trait<$right> for $left {
            type Output = Loss;

            fn $method(self, right: $right) -> Loss {
                Loss::from(self).combine(&Loss::from(right), Tensor::$with_tensor)
            }
        }
    )*};
}
operator!(Add add, AddAssign add_assign, f_add_scalar, f_add);
operator!(Sub sub, SubAssign sub_assign, f_sub_scalar, f_sub);
operator!(Mul mul, MulAssign mul_assign, f_mul_scalar, f_mul);
operator!(Div div, DivAssign div_assign, f_div_scalar, f_div);

impl Add<Loss> for f64 {
    type Output = Loss;

    fn add(self, loss: Loss) -> Loss {
        loss + self
    }
}

impl Mul<Loss> for f64 {
    type Output = Loss;

    fn mul(self, loss: Loss) -> Loss {
        loss * self
    }
}

impl Mul<&Loss> for f64 {
    type Output = Loss;

    fn mul(self, loss: &Loss) -> Loss {
        loss * self
    }
}
