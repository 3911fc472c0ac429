//! The values of libtorch's tensors: saved and restored in blocks, so that no copy of a whole one is needed.

use safetensors::tensor::Dtype;
use tch::{Device, Kind, TchError, Tensor};

use super::memory::{BLOCK_BYTES, Read};
use crate::{Error, Result};

const KINDS: [(Kind, Dtype); 10] = [
    (Kind::Double, Dtype::F64),
    (Kind::Int64, Dtype::I64),
    (Kind::Float, Dtype::F32),
    (Kind::Int, Dtype::I32),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Int16, Dtype::I16),
    (Kind::Uint8, Dtype::U8),
    (Kind::Int8, Dtype::I8),
    (Kind::Bool, Dtype::BOOL),
];

/// Returns libtorch's name of an element type.
fn kind(name: &str, dtype: Dtype) -> Result<Kind> {
    let known = KINDS.iter().find(|(_, known)| *known == dtype);
    known.map(|(kind, _)| *kind).ok_or_else(|| Error::state(name, format!("libtorch has no kind for {dtype}")))
}

/// Returns the element type of a tensor, or why no file can hold it.
pub(super) fn dtype(name: &str, tensor: &Tensor) -> Result<Dtype> {
    if !tensor.defined() || tensor.is_sparse() {
        return Err(Error::state(name, "the tensor is undefined or sparse"));
    }
    let kind = tensor.f_kind().map_err(torch_error(name))?;
    let known = KINDS.iter().find(|(known, _)| *known == kind);
    Ok(known.ok_or_else(|| Error::state(name, format!("the kind {kind:?} cannot be stored")))?.1)
}

/// Returns whether libtorch has an element type.
pub(super) fn has(dtype: Dtype) -> bool {
    KINDS.iter().any(|(_, known)| *known == dtype)
}

/// Makes a tensor of bytes.
pub(super) fn from_bytes(name: &str, bytes: &[u8], shape: &[i64], dtype: Dtype) -> Result<Tensor> {
    let kind = kind(name, dtype)?;
    let tensor = if bytes.is_empty() {
        // An empty slice has no address that libtorch could read from.
        Tensor::f_zeros(shape, (kind, Device::Cpu))
    } else {
        Tensor::f_from_data_size(bytes, shape, kind)
    };
    tensor.map_err(torch_error(name))
}

/// Refuses what libtorch does not write to: elements that share memory, and tensors made for inference only.
pub(super) fn expect_writable(name: &str, tensor: &Tensor) -> Result<()> {
    let is_repeated = |(&size, &stride): (&i64, &i64)| size > 1 && stride == 0;
    if !tensor.is_sparse() && tensor.size().iter().zip(&tensor.stride()).any(is_repeated) {
        let problem = "its elements share memory, as after expand(), so no values can be written to it";
        return Err(Error::state(name, problem.to_owned()));
    }
    match tensor.f_is_inference().map_err(torch_error(name))? {
        true => Err(Error::state(name, "it is an inference tensor, so no values can be written to it")),
        false => Ok(()),
    }
}

/// Copies the bytes of a block into a buffer, in place of what it has.
pub(super) fn copy_to(name: &str, block: &Tensor, buffer: &mut Vec<u8>) -> Result<()> {
    buffer.resize(block.numel() * block.kind().elt_size_in_bytes(), 0);
    block.f_copy_data_u8(buffer, block.numel()).map_err(torch_error(name))
}

/// Overwrites the values of a tensor with those that `read` gets from a file, where they have the type `stored`.
pub(super) fn overwrite(name: &str, live: &Tensor, stored: Dtype, buffer: &mut Vec<u8>, read: Read<'_>) -> Result<()> {
    const MIN_DIRECT_BYTES: usize = 64 << 10;
    let _no_grad = tch::no_grad_guard();
    let kind = kind(name, stored)?;
    let mut start = 0;
    for_each_block(name, live, &mut |block| {
        let length = block.numel() * kind.elt_size_in_bytes();
        let at = start;
        start += length as u64;
        let is_plain = block.device() == Device::Cpu && block.is_contiguous() && block.kind() == kind;
        if is_plain && length >= MIN_DIRECT_BYTES {
            // SAFETY: `block` is contiguous, in memory and of this kind, so that its elements take `length` bytes from
            // its address on; they are initialized, and any bytes are valid elements (those of a Bool were checked).
            // `live` keeps the memory alive, and no other reference to it exists: the caller of a restore must not use
            // the tensors meanwhile, and each tensor is restored by one thread.
            let bytes = unsafe { std::slice::from_raw_parts_mut(block.data_ptr().cast::<u8>(), length) };
            return read(bytes, at);
        }
        buffer.resize(length, 0);
        read(buffer, at)?;
        let copy = || {
            let values = Tensor::f_from_data_size(buffer, &block.size(), kind)?;
            block.shallow_clone().f_copy_(&values)
        };
        copy().map(drop).map_err(torch_error(name))
    })?;
    // Tells libtorch that the values have changed, as an operation on them would have done.
    if live.dim() > 0 {
        let touch = || live.f_detach()?.f_narrow(0, 0, 0)?.f_zero_();
        touch().map(drop).map_err(torch_error(name))?;
    }
    Ok(())
}

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

fn torch_error(name: &str) -> impl FnOnce(TchError) -> Error {
    crate::error::torch(format!("tensor {name:?}"))
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
