//! What an optimizer trains.

use std::collections::HashSet;

use tch::{Device, Kind, Tensor, nn};

use crate::checkpoint::{NamedTensor, Savable};
use crate::error::{Error, Result, torch};
use crate::network::{Leaf, Network};

/// Has variables that an [`Optimizer`](super::Optimizer) can train: a [`Network`], or the `VarStore` of a model of your own.
pub trait Trainable: Savable {
    /// Returns the variables to train, those of frozen layers included; not buffers such as the statistics of batch
    /// normalization. Names are unique.
    fn variables_to_train(&self) -> Vec<NamedTensor<'_>>;
}

impl Trainable for Network {
    fn variables_to_train(&self) -> Vec<NamedTensor<'_>> {
        self.tensors()
    }
}

/// Saves and restores all variables and buffers, in the order of their names.
impl Savable for nn::VarStore {
    fn tensors(&self) -> Vec<NamedTensor<'_>> {
        let mut tensors: Vec<_> =
            self.variables().into_iter().map(|(name, tensor)| NamedTensor::new(name, tensor)).collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        tensors
    }
}

impl Trainable for nn::VarStore {
    fn variables_to_train(&self) -> Vec<NamedTensor<'_>> {
        let trainable: HashSet<_> = self.trainable_variables().iter().map(identity).collect();
        let is_trainable =
            |named: &NamedTensor| named.tensor().is_ok_and(|tensor| trainable.contains(&identity(&tensor)));
        self.tensors().into_iter().filter(is_trainable).collect()
    }
}

/// Returns what two tensors have in common if they are one variable: the address of the values, and the shape.
fn identity(tensor: &Tensor) -> (usize, Vec<i64>) {
    (tensor.data_ptr() as usize, tensor.size())
}

/// A variable that an optimizer was made for, and how it is trained.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) leaf: Leaf,
    /// The logical shape, as in checkpoints.
    pub(super) shape: Vec<i64>,
    /// Its values as a row, in the order of memory. Shares the variable's memory.
    pub(super) flat: Tensor,
    /// What the method remembers of each value's gradients: rows as long as `flat`.
    pub(super) moments: Vec<Tensor>,
    /// What the learning rate is multiplied by.
    pub(super) rate_factor: f64,
    pub(super) decays: bool,
}

impl Parameter {
    pub(super) fn new(named: NamedTensor) -> Result<Self> {
        let tensor = named.tensor()?;
        let NamedTensor { name, shape, .. } = named;
        let refuse = |expected: &str, found: String| Err(Error::model(format!("variable {name:?}"), expected, found));
        if !matches!(tensor.kind(), Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double) {
            return refuse("floating-point values", format!("{:?}", tensor.kind()));
        }
        if !tensor.is_leaf() {
            return refuse("a variable", "the result of an operation".to_owned());
        }
        let layout = format!("shape {:?} with strides {:?}", tensor.size(), tensor.stride());
        let Some(leaf) = Leaf::new(tensor) else {
            return refuse("values that lie one after the other in memory", layout);
        };
        let flat = leaf.flatten(&leaf.variable().detach()).map_err(torch(&name))?;
        Ok(Self { name, leaf, shape, flat, moments: Vec::new(), rate_factor: 1.0, decays: true })
    }

    /// Says whether this is the variable of a model.
    pub(super) fn is(&self, named: &NamedTensor) -> bool {
        self.name == named.name
            && named.tensor().is_ok_and(|tensor| identity(&tensor) == identity(self.leaf.variable()))
    }

    /// Refuses a variable that was moved to other memory, as `VarStore::set_device` does.
    pub(super) fn expect_in_place(&self) -> Result<()> {
        if self.leaf.variable().data_ptr() == self.flat.data_ptr() {
            return Ok(());
        }
        let expected = "the memory and device that it had when the optimizer was made";
        Err(Error::model(format!("variable {:?}", self.name), expected, "another one: make a new optimizer"))
    }

    /// Says whether our own code can update the values.
    pub(super) fn is_plain(&self) -> bool {
        self.flat.kind() == Kind::Float && self.flat.device() == Device::Cpu
    }

    /// Begins with zeros for a number of moments.
    pub(super) fn set_moments(&mut self, count: usize) -> Result<()> {
        let zeros = |_| self.flat.f_zeros_like().map_err(torch(&self.name));
        self.moments = (0..count).map(zeros).collect::<Result<_>>()?;
        Ok(())
    }

    /// Names a row of values that belongs to the variable, in its shape.
    pub(super) fn named(&self, row: &Tensor, prefix: &str) -> Result<NamedTensor<'static>> {
        let variable = self.leaf.variable();
        let view = row.f_as_strided(variable.size(), variable.stride(), None).map_err(torch(&self.name))?;
        Ok(NamedTensor::new(format!("{prefix}{}", self.name), view).with_shape(self.shape.clone()))
    }
}
