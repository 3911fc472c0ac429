//! Layers that ran on our kernels, which libtorch does not know, and their gradients.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{TchError, Tensor};

use super::variables::in_memory_order;
use crate::error::{Error, Result, torch};
use crate::kernels::{ConvPool, Dense, Gradients};
use crate::values::{values, values_mut};

/// The blocks of one batch, in the order of the layers. Shared by all losses that were computed from it, on any thread.
pub(super) type Chain = Arc<Mutex<Vec<Block>>>;

pub(super) fn lock(chain: &Chain) -> MutexGuard<'_, Vec<Block>> {
    chain.lock().unwrap_or_else(PoisonError::into_inner) // nobody changes a block
}

/// A batch's way through a kernel of ours, which libtorch does not know: its graph begins anew behind it.
#[derive(Debug)]
pub(super) struct Block {
    kernel: Kernel,
    /// What the kernel read: weight, bias, and images `[batch, height, width, channels]` or rows `[batch, features]`.
    read: [Unchanged; 3],
    /// As the images or rows; a leaf of libtorch's graph.
    pub(super) output: Tensor,
}

/// What computed a block.
#[derive(Debug)]
pub(super) enum Kernel {
    ConvPool {
        conv_pool: ConvPool,
        /// What the kernel noted for the way back.
        winners: Vec<u8>,
    },
    Dense(Dense),
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
        if version == self.version { Ok(()) } else { Err(Error::loss(expected, found())) }
    }
}

impl Block {
    /// Notes the way through a kernel. `layer` is its name.
    pub(super) fn new(
        kernel: Kernel,
        layer: &str,
        [weight, bias, input]: [&Tensor; 3],
        output: &Tensor,
    ) -> Result<Self, TchError> {
        let read = [
            Unchanged::new(format!("{layer}.weight"), weight)?,
            Unchanged::new(format!("{layer}.bias"), bias)?,
            Unchanged::new(format!("the input of {layer}"), input)?,
        ];
        Ok(Self { kernel, read, output: output.shallow_clone() })
    }

    /// Returns what the kernel read: weight, bias and input.
    pub(super) fn inputs(&self) -> [&Tensor; 3] {
        self.read.each_ref().map(|read| &read.tensor)
    }

    /// Computes the gradients of weight, bias and input; none of the input where nothing before it is trained.
    pub(super) fn gradients(
        &self,
        output_gradient: &Tensor,
        threads: usize,
    ) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        self.read.iter().try_for_each(Unchanged::check)?;
        let [weight, bias, input] = self.inputs();
        let empty_like = |tensor: &Tensor| tensor.f_empty_like().map_err(torch("computing the gradients"));
        let weight = in_memory_order(weight);
        let (mut weight_gradient, mut bias_gradient) = (empty_like(&weight)?, empty_like(bias)?);
        let mut input_gradient = input.requires_grad().then(|| empty_like(input)).transpose()?;
        // SAFETY: the three gradients were created above and share memory with nothing. Input, weight, output and its gradient
        // are only read until the kernel is done, here and by libtorch; to modify variables takes `&mut Network` or a tensor
        // that shares their memory, and its owner must not use it on another thread meanwhile, as with libtorch's operations.
        let (read, wanted) = unsafe {
            let wanted = Gradients {
                weight: values_mut(&mut weight_gradient),
                bias: values_mut(&mut bias_gradient),
                input: input_gradient.as_mut().map(|gradient| values_mut(gradient)),
            };
            ([values(input), values(&weight), values(&self.output), values(output_gradient)], wanted)
        };
        let [input, weight, output, output_gradient] = read;
        match &self.kernel {
            Kernel::ConvPool { conv_pool, winners } => {
                conv_pool.backward(input, weight, winners, output_gradient, threads, wanted);
            }
            Kernel::Dense(dense) => dense.backward([input, weight], [output, output_gradient], threads, wanted),
        }
        Ok((weight_gradient, bias_gradient, input_gradient))
    }
}
