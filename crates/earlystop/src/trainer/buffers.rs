//! Tensors that a loss changes while it is computed, such as the statistics of batch normalization.

use std::collections::HashSet;
use std::ops::Deref;

use tch::{Kind, Tensor};

use crate::error::{Result, torch};
use crate::optimizer::Trainable;

/// The tensors of a model that are not trained, and their values before the parts of a batch.
///
/// Each part begins with the same values. Afterwards the changes of all parts are added in a fixed order, each multiplied by the
/// part's share of the batch. So it does not matter which parts are computed on which thread or process.
pub(super) struct Buffers {
    tensors: Vec<(String, Tensor)>,
    before: Vec<Tensor>,
}

impl Buffers {
    /// Takes the buffers of a model, with the values that they have now.
    pub(super) fn of(variables: &dyn Trainable) -> Result<Self> {
        let mut buffers = Self::sharing(variables, Vec::new())?;
        let _no_grad = tch::no_grad_guard();
        let copy = |(name, tensor): &(String, Tensor)| {
            let mut copy = tensor.f_empty_like().map_err(torch(name.as_str()))?;
            copy.f_copy_(tensor).map_err(torch(name.as_str()))?;
            Ok(copy)
        };
        buffers.before = buffers.tensors.iter().map(copy).collect::<Result<_>>()?;
        Ok(buffers)
    }

    /// Takes the buffers of a replica, whose values before each part are those of other tensors.
    pub(super) fn sharing(variables: &dyn Trainable, before: Vec<Tensor>) -> Result<Self> {
        let trained: HashSet<_> = variables.variables_to_train().into_iter().map(|named| named.name).collect();
        let buffers = variables.tensors().into_iter().filter(|named| !trained.contains(&named.name));
        let tensors = buffers.map(|named| Ok((named.name.clone(), named.tensor()?))).collect::<Result<_>>()?;
        Ok(Self { tensors, before })
    }

    /// Returns a tensor for each buffer that has the size and kind of its changes.
    pub(super) fn like_changes(&self) -> Result<Vec<Tensor>> {
        self.before.iter().map(|before| in_sum(before).map_err(torch("buffers"))).collect()
    }

    pub(super) fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Returns a guard that resets the buffers when it is dropped, even after an error or a panic of the model.
    pub(super) fn until_reset(&mut self) -> UntilReset<'_> {
        UntilReset(self)
    }

    /// Resets the buffers to the values before the parts.
    pub(super) fn reset(&mut self) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        for ((name, tensor), before) in self.tensors.iter_mut().zip(&self.before) {
            tensor.f_copy_(before).map_err(torch(name.as_str()))?;
        }
        Ok(())
    }

    /// Returns the changes that a part has made to the buffers, as rows, multiplied by its share of the batch.
    pub(super) fn changes(&self, share: f64) -> Result<Vec<Option<Tensor>>> {
        let _no_grad = tch::no_grad_guard();
        let change = |((name, tensor), before): (&(String, Tensor), &Tensor)| {
            if tensor.f_equal(before).map_err(torch(name.as_str()))? {
                return Ok(None);
            }
            let change = in_sum(tensor).and_then(|now| now.f_sub(&in_sum(before)?)?.f_mul_scalar(share));
            change.map(Some).map_err(torch(name.as_str()))
        };
        self.tensors.iter().zip(&self.before).map(change).collect()
    }

    /// Adds the changes of all parts to the values before.
    pub(super) fn add(&mut self, changes: &[Option<Tensor>]) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        for (((name, tensor), before), change) in self.tensors.iter_mut().zip(&self.before).zip(changes) {
            let Some(change) = change else { continue };
            let mut sum = || {
                let sum = in_sum(before)?.f_add(change)?;
                let sum = if before.is_floating_point() { sum } else { sum.f_round()? };
                tensor.f_copy_(&sum.f_view(&before.size()[..])?)
            };
            sum().map_err(torch(name.as_str()))?;
        }
        Ok(())
    }
}

pub(super) struct UntilReset<'a>(&'a mut Buffers);

impl Deref for UntilReset<'_> {
    type Target = Buffers;

    fn deref(&self) -> &Buffers {
        self.0
    }
}

impl Drop for UntilReset<'_> {
    fn drop(&mut self) {
        let _ = self.0.reset(); // between tensors of the same shape
    }
}

/// Flattens a tensor for addition. Integers, such as counts, become floating-point numbers.
fn in_sum(tensor: &Tensor) -> Result<Tensor, tch::TchError> {
    let row = tensor.detach().f_reshape([-1])?;
    if row.is_floating_point() { Ok(row) } else { row.f_to_kind(Kind::Double) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{NamedTensor, Savable};

    struct Counts(Tensor);

    impl Savable for Counts {
        fn tensors(&self) -> Vec<NamedTensor<'_>> {
            vec![NamedTensor::new("counts", self.0.shallow_clone())]
        }
    }

    impl Trainable for Counts {
        fn variables_to_train(&self) -> Vec<NamedTensor<'_>> {
            Vec::new()
        }
    }

    #[test]
    fn whole_numbers_that_each_part_counts_up_are_counted_up_once() {
        let counts = Counts(Tensor::from_slice(&[5_i64, 7]));
        let mut buffers = Buffers::of(&counts).unwrap();
        assert!(buffers.changes(1.0).unwrap()[0].is_none());
        let change = |buffers: &mut Buffers, share| {
            let _ = counts.0.shallow_clone().g_add_scalar_(1);
            let found = buffers.until_reset().changes(share).unwrap().remove(0).unwrap();
            assert_eq!(Vec::<i64>::try_from(&counts.0).unwrap(), [5, 7]);
            found
        };
        let sum = [0.1, 0.3, 0.6].map(|share| change(&mut buffers, share)).into_iter().sum();
        buffers.add(&[Some(sum)]).unwrap();
        assert_eq!(Vec::<i64>::try_from(&counts.0).unwrap(), [6, 8]);
    }
}
