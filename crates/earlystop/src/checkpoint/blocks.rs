//! Cuts tensors into blocks, so that no copy of a whole one is needed.

use tch::Tensor;

use super::format::torch_error;
use crate::Result;

/// The size of a block in bytes, at most.
const BLOCK_BYTES: usize = 4 << 20;

/// Calls `each` with views of a tensor of at most [`BLOCK_BYTES`] each. Joined, they are its elements in row-major order.
pub(super) fn for_each_block(name: &str, tensor: &Tensor, each: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<()> {
    cut(name, tensor, BLOCK_BYTES, each)
}

fn cut(name: &str, tensor: &Tensor, limit: usize, each: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<()> {
    let error = || torch_error(name);
    let tensor = tensor.f_detach().map_err(error())?;
    let bytes = tensor.numel() * tensor.f_kind().map_err(error())?.elt_size_in_bytes();
    if bytes == 0 {
        return Ok(());
    }
    let Some(&rows) = tensor.size().first().filter(|_| bytes > limit) else {
        return each(&tensor);
    };
    let row_bytes = bytes / rows as usize;
    if row_bytes > limit {
        return (0..rows).try_for_each(|row| cut(name, &tensor.f_select(0, row).map_err(error())?, limit, each));
    }
    let step = (limit / row_bytes) as i64;
    for start in (0..rows).step_by(step as usize) {
        each(&tensor.f_narrow(0, start, step.min(rows - start)).map_err(error())?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    /// 16 elements in a block.
    const LIMIT: usize = 32;

    fn joined(tensor: &Tensor) -> (Vec<i16>, usize) {
        let (mut values, mut count) = (Vec::new(), 0);
        cut("t", tensor, LIMIT, &mut |block| {
            assert!(block.numel() * 2 <= LIMIT && block.numel() > 0);
            count += 1;
            values.extend(Vec::<i16>::try_from(block.contiguous().flatten(0, -1)).unwrap());
            Ok(())
        })
        .unwrap();
        (values, count)
    }

    #[test]
    fn blocks_join_to_the_tensor_whatever_its_dimensions() {
        let shapes: &[(&[i64], usize)] = &[
            (&[], 1),
            (&[0], 0),
            (&[3, 0, 2], 0),
            (&[16], 1),
            (&[17], 2),
            (&[1, 17], 2),
            (&[1, 1, 3, 1, 9], 3),
            (&[3, 16], 3),
            (&[2, 17], 4),
            (&[7, 3, 5], 7),
            (&[100, 2, 2], 25),
        ];
        for (shape, blocks) in shapes {
            let count: i64 = shape.iter().product();
            let tensor = Tensor::arange(count, (Kind::Int16, Device::Cpu));
            let expected = Vec::<i16>::try_from(&tensor).unwrap();
            let tensor = tensor.reshape(*shape);
            assert_eq!(joined(&tensor), (expected.clone(), *blocks), "{shape:?}");
            if shape.len() > 1 {
                // The same elements in another layout of memory.
                let last = shape.len() as i64 - 1;
                let strided = tensor.transpose(0, last).contiguous().transpose(0, last);
                assert_eq!(joined(&strided).0, expected, "{shape:?}");
            }
        }
    }

    #[test]
    fn blocks_share_memory_with_a_variable() {
        let variable = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        for_each_block("t", &variable, &mut |block| {
            let _ = block.shallow_clone().fill_(1.0);
            Ok(())
        })
        .unwrap();
        assert_eq!(variable.sum(Kind::Float).double_value(&[]), 6.0);
    }
}
