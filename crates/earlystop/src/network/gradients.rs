//! From a loss back to the variables: through libtorch's graphs, and through the layers that ran on our kernels between them.

use tch::{Kind, TchError, Tensor};

use super::Loss;
#[cfg(test)]
use super::Network;
use super::block::{Chain, lock};
use super::one_thread::OneThread;
use crate::error::{Error, Result, torch};

/// A variable to compute gradients for.
#[derive(Debug)]
pub(crate) struct Leaf {
    /// A leaf of libtorch's graph. Its values lie one after the other in memory.
    variable: Tensor,
    /// Its axes, in the order in which memory has them.
    order: Vec<i64>,
}

impl Leaf {
    /// Takes a variable; none if its values do not lie one after the other in memory, in any order of its axes.
    pub(crate) fn new(variable: Tensor) -> Option<Self> {
        let strides = variable.stride();
        let mut order = (0..strides.len() as i64).collect::<Vec<_>>();
        order.sort_by_key(|&axis| -strides[axis as usize]);
        let is_dense = variable.permute(&order).is_contiguous();
        is_dense.then_some(Self { variable, order })
    }

    pub(crate) fn variable(&self) -> &Tensor {
        &self.variable
    }

    /// Shows a tensor of the variable's shape as a row of values in the order in which memory has the variable's.
    pub(crate) fn flatten(&self, tensor: &Tensor) -> Result<Tensor, TchError> {
        tensor.f_permute(&self.order)?.f_reshape([-1])
    }
}

impl Loss {
    /// Computes the loss's gradient for every variable that is trained: a row of values in the order in which memory has the
    /// variable's, or none if the loss does not depend on the variable.
    pub(crate) fn gradients(&self, leaves: &[&Leaf]) -> Result<Vec<Option<Tensor>>> {
        let (value, chains) = self.parts()?;
        let one_thread = self.is_networks().then(OneThread::begin);
        let threads = one_thread.as_ref().map_or(1, OneThread::threads);
        let expected = "a value computed from the model's variables that are trained";
        // libtorch would read through a null pointer.
        if !value.requires_grad() {
            return Err(Error::loss(expected, "one without a gradient"));
        }
        // Several of the parts below may lead through the same graph: it is kept until all are done.
        let mut sums = Sums { keep_graphs: !chains.is_empty(), ..Sums::new(leaves) };
        let end = |chain: &Chain| lock(chain).last().map(|block| block.output.shallow_clone());
        let ends = chains.iter().filter_map(end).collect::<Vec<_>>();
        let found = sums.pull_back(value, None, &ends)?;
        for (chain, mut gradient) in chains.iter().zip(found) {
            let chain = lock(chain);
            for (index, block) in chain.iter().enumerate().rev() {
                let Some(output_gradient) = gradient.take() else { break };
                let (weight, bias, images) = block.gradients(&dense(output_gradient)?, threads)?;
                let [weight_leaf, bias_leaf, input] = block.inputs();
                sums.add(weight_leaf, weight)?;
                sums.add(bias_leaf, bias)?;
                let before = index.checked_sub(1).map(|index| chain[index].output.shallow_clone());
                gradient = match images {
                    // One kernel directly behind the other.
                    Some(images) if before.as_ref().is_some_and(|before| before.data_ptr() == input.data_ptr()) => {
                        Some(images)
                    }
                    Some(images) => sums.pull_back(input, Some(&images), before.as_slice())?.pop().flatten(),
                    None => None,
                };
            }
        }
        if sums.gradients.iter().all(Option::is_none) {
            return Err(Error::loss(expected, "one of other variables"));
        }
        Ok(sums.gradients)
    }
}

#[cfg(test)]
impl Network {
    /// Computes a loss's gradient for the variables that are trained and that the loss depends on, by name.
    pub(crate) fn gradients(&self, loss: &Loss) -> Result<Vec<(String, Tensor)>> {
        let trained = self.variables.iter().filter(|(_, variable)| variable.requires_grad());
        let leaf = |(name, variable): (&str, &Tensor)| Some((name.to_owned(), Leaf::new(variable.shallow_clone())?));
        let (names, leaves): (Vec<_>, Vec<_>) = trained.filter_map(leaf).unzip();
        let gradients = loss.gradients(&leaves.iter().collect::<Vec<_>>())?;
        Ok(names.into_iter().zip(gradients).filter_map(|(name, gradient)| Some((name, gradient?))).collect())
    }
}

/// The gradients of variables, added up over all ways from the loss to them.
struct Sums<'a> {
    leaves: &'a [&'a Leaf],
    /// In memory's order; none where no way leads to the variable.
    gradients: Vec<Option<Tensor>>,
    keep_graphs: bool,
}

impl<'a> Sums<'a> {
    fn new(leaves: &'a [&'a Leaf]) -> Self {
        Self { leaves, gradients: leaves.iter().map(|_| None).collect(), keep_graphs: false }
    }

    /// Goes back through libtorch's graph from a value, whose own gradient is 1 if none is given. Adds what reaches the
    /// variables, and returns what reaches the `outputs` of our kernels.
    fn pull_back(
        &mut self,
        value: &Tensor,
        gradient: Option<&Tensor>,
        outputs: &[Tensor],
    ) -> Result<Vec<Option<Tensor>>> {
        let leaves = self.leaves.iter().map(|leaf| &leaf.variable).chain(outputs);
        let leaves = leaves.collect::<Vec<_>>();
        // Whatever the caller does without gradients, this is no part of it.
        let gradients = tch::with_grad(|| match gradient {
            Some(gradient) => {
                let weighted = value.f_mul(gradient).and_then(|products| products.f_sum(Kind::Float));
                weighted.and_then(|sum| Tensor::f_run_backward(&[&sum], &leaves, self.keep_graphs, false))
            }
            None => Tensor::f_run_backward(&[value], &leaves, self.keep_graphs, false),
        });
        let gradients = gradients.map_err(torch("computing the gradients"))?;
        let mut gradients = gradients.into_iter().map(|gradient| gradient.defined().then_some(gradient));
        for ((sum, leaf), gradient) in self.gradients.iter_mut().zip(self.leaves).zip(&mut gradients) {
            if let Some(gradient) = gradient {
                let gradient = if gradient.is_sparse() { gradient.f_to_dense(None, false) } else { Ok(gradient) };
                let flat = gradient.and_then(|gradient| leaf.flatten(&gradient));
                add_to(sum, flat.map_err(torch("computing the gradients"))?)?;
            }
        }
        Ok(gradients.collect())
    }

    /// Adds a gradient, in memory's order, to that of a variable. Other models' variables and frozen ones have none.
    fn add(&mut self, variable: &Tensor, gradient: Tensor) -> Result<()> {
        let index = self.leaves.iter().position(|leaf| leaf.variable.data_ptr() == variable.data_ptr());
        let Some(index) = index else { return Ok(()) };
        let flat = gradient.f_reshape([-1]).map_err(torch("computing the gradients"))?;
        add_to(&mut self.gradients[index], flat)
    }
}

/// Adds without changing either: libtorch may use one tensor as the gradient of several variables.
fn add_to(sum: &mut Option<Tensor>, gradient: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => sum.f_add(&gradient).map_err(torch("adding up the gradients"))?,
        None => gradient,
    });
    Ok(())
}

/// Arranges a gradient so that its values lie one after the other in memory.
fn dense(gradient: Tensor) -> Result<Tensor> {
    let gradient = if gradient.is_sparse() { gradient.f_to_dense(None, false) } else { Ok(gradient) };
    gradient.and_then(|gradient| gradient.f_contiguous()).map_err(torch("computing the gradients"))
}
