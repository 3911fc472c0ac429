//! Layers that ran on our kernels, which libtorch does not know, and their gradients.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{TchError, Tensor};

use super::variables::in_memory_order;
use crate::error::{Error, Result, torch};
use crate::kernels::{ConvPool, Gradients};
use crate::values::{values, values_mut};

/// The blocks of one batch, in the order of the layers. Shared by all losses that were computed from it, on any thread.
pub(super) type Chain = Arc<Mutex<Vec<Block>>>;

pub(super) fn lock(chain: &Chain) -> MutexGuard<'_, Vec<Block>> {
    chain.lock().unwrap_or_else(PoisonError::into_inner) // nobody changes a block
}

/// A batch's way through a kernel of ours, which libtorch does not know: its graph begins anew behind it.
#[derive(Debug)]
pub(super) struct Block {
    conv_pool: ConvPool,
    /// What the kernel read: weight, bias, and images `[batch, height, width, channels]`.
    read: [Unchanged; 3],
    /// As the images; a leaf of libtorch's graph.
    pub(super) output: Tensor,
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
        if version == self.version { Ok(()) } else { Err(Error::loss(expected, found())) }
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

    /// Returns what the kernel read: weight, bias and images.
    pub(super) fn inputs(&self) -> [&Tensor; 3] {
        self.read.each_ref().map(|read| &read.tensor)
    }

    /// Computes the gradients of weight, bias and images; none of the images where nothing before them is trained.
    pub(super) fn gradients(&self, output_gradient: &Tensor) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        self.read.iter().try_for_each(Unchanged::check)?;
        let [weight, bias, images] = self.inputs();
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
