//! From a loss back to the variables: through libtorch's graphs, and through the layers that ran on our kernels between them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{Kind, TchError, Tensor};

use super::variables::in_memory_order;
use super::{Loss, Network};
use crate::error::{Error, Result, torch};
use crate::kernels::{ConvPool, Gradients};
use crate::values::{values, values_mut};

/// The blocks of one batch, in the order of the layers. Shared by all losses that were computed from it, on any thread.
pub(super) type Chain = Arc<Mutex<Vec<Block>>>;

fn lock(chain: &Chain) -> MutexGuard<'_, Vec<Block>> {
    chain.lock().unwrap_or_else(PoisonError::into_inner) // nobody changes a block
}

/// A batch's way through a kernel of ours, which libtorch does not know: its graph begins anew behind it.
#[derive(Debug)]
pub(super) struct Block {
    conv_pool: ConvPool,
    /// What the kernel read: weight, bias, and images `[batch, height, width, channels]`.
    read: [Unchanged; 3],
    /// As the images; a leaf of libtorch's graph.
    output: Tensor,
    /// What the kernel noted for the way back.
    winners: Vec<u8>,
}

/// A tensor that must keep its values until the gradients are computed.
#[derive(Debug)]
struct Unchanged {
    name: String,
    tensor: Tensor,
    /// How often libtorch had seen the values change.
    version: i64,
}

impl Unchanged {
    fn new(name: String, tensor: &Tensor) -> Result<Self, TchError> {
        Ok(Self { name, tensor: tensor.shallow_clone(), version: tensor.f_internal_version()? })
    }

    /// Refuses values that changed, as libtorch does where it needs the old ones.
    fn check(&self) -> Result<()> {
        let version = self.tensor.f_internal_version().map_err(torch("computing the gradients"))?;
        let found = || format!("{} modified in place after the loss was computed", self.name);
        let expected = "variables and images as they were when it was computed";
        if version == self.version { Ok(()) } else { Err(Error::argument("loss", expected, found())) }
    }
}

impl Block {
    /// Notes the way through a kernel. `layer` is its name.
    pub(super) fn new(
        conv_pool: ConvPool,
        layer: &str,
        [weight, bias, images]: [&Tensor; 3],
        output: &Tensor,
        winners: Vec<u8>,
    ) -> Result<Self, TchError> {
        let read = [
            Unchanged::new(format!("{layer}.weight"), weight)?,
            Unchanged::new(format!("{layer}.bias"), bias)?,
            Unchanged::new(format!("the input of {layer}"), images)?,
        ];
        Ok(Self { conv_pool, read, output: output.shallow_clone(), winners })
    }

    /// Computes the gradients of weight, bias and images; none of the images where nothing before them is trained.
    fn gradients(&self, output_gradient: &Tensor) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        self.read.iter().try_for_each(Unchanged::check)?;
        let [weight, bias, images] = self.read.each_ref().map(|read| &read.tensor);
        let empty_like = |tensor: &Tensor| tensor.f_empty_like().map_err(torch("computing the gradients"));
        let weight = in_memory_order(weight);
        let (mut weight_gradient, mut bias_gradient) = (empty_like(&weight)?, empty_like(bias)?);
        let mut image_gradient = images.requires_grad().then(|| empty_like(images)).transpose()?;
        let threads = tch::get_num_threads() as usize;
        // SAFETY: the three gradients were created above and share memory with nothing. Images, weight and the output's gradient
        // are only read until the kernel is done, here and by libtorch; to modify variables takes `&mut Network` or a tensor
        // that shares their memory, and its owner must not use it on another thread meanwhile, as with libtorch's operations.
        let (read, wanted) = unsafe {
            let wanted = Gradients {
                weight: values_mut(&mut weight_gradient),
                bias: values_mut(&mut bias_gradient),
                images: image_gradient.as_mut().map(|gradient| values_mut(gradient)),
            };
            ([values(images), values(&weight), values(output_gradient)], wanted)
        };
        let [images, weight, output_gradient] = read;
        self.conv_pool.backward(images, weight, &self.winners, output_gradient, threads, wanted);
        Ok((weight_gradient, bias_gradient, image_gradient))
    }
}

impl Network {
    /// Computes the loss's gradient for every variable that is trained and that the loss depends on: its place in the one
    /// buffer, and a gradient in the same order of memory; in the order of the places.
    pub(crate) fn gradients(&self, loss: &Loss) -> Result<Vec<(Range<usize>, Tensor)>> {
        let (value, chains) = loss.parts()?;
        let expected = "a value computed from this network's variables that are trained";
        // libtorch would read through a null pointer.
        if !value.requires_grad() {
            return Err(Error::argument("loss", expected, "one without a gradient"));
        }
        // Several of the parts below may lead through the same graph: it is kept until all are done.
        let mut sums = Sums { keep_graphs: !chains.is_empty(), ..Sums::new(self) };
        let end = |chain: &Chain| lock(chain).last().map(|block| block.output.shallow_clone());
        let ends = chains.iter().filter_map(end).collect::<Vec<_>>();
        let found = sums.pull_back(value, None, &ends)?;
        for (chain, mut gradient) in chains.iter().zip(found) {
            let chain = lock(chain);
            for (index, block) in chain.iter().enumerate().rev() {
                let Some(output_gradient) = gradient.take() else { break };
                let (weight, bias, images) = block.gradients(&dense(output_gradient)?)?;
                let [weight_leaf, bias_leaf, input] = block.read.each_ref().map(|read| &read.tensor);
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
        match sums.finish() {
            gradients if gradients.is_empty() => Err(Error::argument("loss", expected, "one of other variables")),
            gradients => Ok(gradients),
        }
    }
}

/// The gradients of a network's variables, added up over all ways from the loss to them.
struct Sums<'a> {
    /// Those that are trained: places in the one buffer, and leaves of libtorch's graph.
    variables: Vec<(Range<usize>, &'a Tensor)>,
    /// In memory's order; none where no way leads to the variable.
    gradients: Vec<Option<Tensor>>,
    keep_graphs: bool,
}

impl<'a> Sums<'a> {
    fn new(network: &'a Network) -> Self {
        let variables = network.variables.trained().collect::<Vec<_>>();
        Self { gradients: variables.iter().map(|_| None).collect(), variables, keep_graphs: false }
    }

    /// Goes back through libtorch's graph from a value, whose own gradient is 1 if none is given. Adds what reaches the
    /// variables, and returns what reaches the `outputs` of our kernels.
    fn pull_back(
        &mut self,
        value: &Tensor,
        gradient: Option<&Tensor>,
        outputs: &[Tensor],
    ) -> Result<Vec<Option<Tensor>>> {
        let leaves = self.variables.iter().map(|(_, variable)| *variable).chain(outputs);
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
        for (sum, gradient) in self.gradients.iter_mut().zip(&mut gradients) {
            if let Some(gradient) = gradient {
                add_to(sum, dense(in_memory_order(&gradient))?)?;
            }
        }
        Ok(gradients.collect())
    }

    /// Adds a gradient, in memory's order, to that of a variable. Other networks' variables and frozen ones have none.
    fn add(&mut self, variable: &Tensor, gradient: Tensor) -> Result<()> {
        let index = self.variables.iter().position(|(_, trained)| trained.data_ptr() == variable.data_ptr());
        index.map_or(Ok(()), |index| add_to(&mut self.gradients[index], gradient))
    }

    fn finish(self) -> Vec<(Range<usize>, Tensor)> {
        let places = self.variables.into_iter().map(|(place, _)| place);
        places.zip(self.gradients).filter_map(|(place, gradient)| Some((place, gradient?))).collect()
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
