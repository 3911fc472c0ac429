//! The values of a tensor, borrowed as a slice.

use ndarray::Array2;
use tch::{Device, Kind, TchError, Tensor};

/// Borrows the values of a contiguous `f32` tensor on the CPU.
///
/// # Panics
///
/// If the tensor is not contiguous, of another kind, or on another device. Callers create or convert the tensor themselves.
///
/// # Safety
///
/// As [`raw_bytes`].
pub(crate) unsafe fn values(tensor: &Tensor) -> &[f32] {
    assert!(tensor.kind() == Kind::Float);
    // SAFETY: the caller ensures what `raw_bytes` asks for.
    match unsafe { raw_bytes(tensor) } {
        [] => &[],
        bytes => bytemuck::cast_slice(bytes),
    }
}

/// Borrows the values of a contiguous `f32` tensor on the CPU for writing, and counts this as a change: libtorch refuses to
/// compute gradients that need the old values.
///
/// # Panics
///
/// As [`values`].
///
/// # Safety
///
/// As [`raw_bytes_mut`].
pub(crate) unsafe fn values_mut(tensor: &mut Tensor) -> &mut [f32] {
    assert!(tensor.kind() == Kind::Float);
    // SAFETY: the caller ensures what `raw_bytes_mut` asks for.
    match unsafe { raw_bytes_mut(tensor) } {
        [] => &mut [],
        bytes => bytemuck::cast_slice_mut(bytes),
    }
}

/// Borrows the bytes of a contiguous tensor of any kind on the CPU.
///
/// # Panics
///
/// If the tensor is not contiguous, or on another device.
///
/// # Safety
///
/// Tensors share memory: views, shallow clones, and the variables with their one buffer. As long as the slice exists, nothing
/// may write to its memory, neither through another such tensor nor on another thread.
pub(crate) unsafe fn raw_bytes(tensor: &Tensor) -> &[u8] {
    let (pointer, count) = memory(tensor);
    if count == 0 {
        return &[]; // libtorch's pointer is null
    }
    // SAFETY: `memory` returns `count` bytes, which the borrowed tensor keeps alive. The caller ensures that nothing writes to
    // them.
    unsafe { std::slice::from_raw_parts(pointer, count) }
}

/// Borrows the bytes of a contiguous tensor of any kind on the CPU for writing, and counts this as a change. Any bytes are values of
/// the numbers that models have.
///
/// # Panics
///
/// As [`raw_bytes`].
///
/// # Safety
///
/// As long as the slice exists, nothing else may read or write its memory, neither through another tensor that shares it (see
/// [`raw_bytes`]) nor on another thread.
pub(crate) unsafe fn raw_bytes_mut(tensor: &mut Tensor) -> &mut [u8] {
    count_change(tensor);
    let (pointer, count) = memory(tensor);
    if count == 0 {
        return &mut []; // libtorch's pointer is null
    }
    // SAFETY: as in `raw_bytes`; the caller ensures that nothing else uses the memory.
    unsafe { std::slice::from_raw_parts_mut(pointer, count) }
}

/// Copies the values of a tensor into another one of the same shape.
///
/// If both are contiguous and on the CPU, the C library copies them. For large tensors it bypasses the caches, and takes two
/// thirds of the time of libtorch's copy.
pub(crate) fn copy_values(from: &Tensor, to: &mut Tensor) -> Result<(), TchError> {
    let is_plain = |tensor: &Tensor| tensor.is_contiguous() && tensor.device() == Device::Cpu;
    if from.kind() != to.kind() || from.size() != to.size() || !is_plain(from) || !is_plain(to) {
        return to.f_copy_(from).map(drop);
    }
    count_change(to);
    let ((from, count), (to, _)) = (memory(from), memory(to));
    if count > 0 {
        // SAFETY: both pointers are those of `count` bytes, which the tensors keep alive; they may overlap. As with libtorch's
        // operations, nothing else may use the memory of `to`, or write to that of `from`, on another thread meanwhile.
        unsafe { std::ptr::copy(from, to, count) };
    }
    Ok(())
}

/// Copies an array into a new tensor.
///
/// Unlike `tch`, it does not fill the tensor with zeros first, for which libtorch would wake all of its threads.
pub(crate) fn tensor_of(array: &Array2<f32>) -> Result<Tensor, TchError> {
    let (rows, columns) = array.dim();
    let mut tensor = Tensor::f_empty([rows as i64, columns as i64], (Kind::Float, Device::Cpu))?;
    let array = array.as_standard_layout();
    if let Some(from) = array.as_slice() {
        // SAFETY: the tensor was just created, and shares its memory with nothing.
        unsafe { values_mut(&mut tensor) }.copy_from_slice(from);
    }
    Ok(tensor)
}

/// Copies the values of a tensor of any kind and layout, on any device: the bytes in row-major order.
pub(crate) fn bytes(tensor: &Tensor) -> Result<Vec<u8>, TchError> {
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}

/// Returns whether all values are finite: neither infinite nor NaN. Reads them once and copies none.
pub(crate) fn is_finite(tensor: &Tensor) -> Result<bool, TchError> {
    let can_be_infinite = matches!(tensor.kind(), Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16);
    if !can_be_infinite || tensor.numel() == 0 {
        return Ok(true);
    }
    // NaN is passed on to both.
    let (least, greatest) = tensor.f_detach()?.f_aminmax(None, false)?;
    Ok(least.f_double_value(&[])?.is_finite() && greatest.f_double_value(&[])?.is_finite())
}

/// Returns where a tensor's bytes begin, and how many they are. Of none, the pointer is null.
fn memory(tensor: &Tensor) -> (*mut u8, usize) {
    assert!(tensor.is_contiguous() && tensor.device() == Device::Cpu);
    (tensor.data_ptr().cast::<u8>(), tensor.numel() * tensor.kind().elt_size_in_bytes())
}

/// Counts a change of a tensor's values, as libtorch does for its own operations in place. This is one on no values.
fn count_change(tensor: &Tensor) {
    let _no_grad = tch::no_grad_guard();
    let _ = tensor.as_strided([0_i64], [1_i64], None).zero_();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeros(size: &[i64]) -> Tensor {
        Tensor::zeros(size, (Kind::Float, Device::Cpu))
    }

    /// libtorch gives a null pointer for no values, from which no slice may be made.
    #[test]
    fn tensors_without_values_are_empty_slices() {
        for size in [&[0][..], &[0, 784], &[0, 28, 28, 1], &[3, 0, 2]] {
            let mut tensor = zeros(size);
            // SAFETY: the tensor is this test's alone.
            let (shared, exclusive) = unsafe { (values(&tensor).len(), values_mut(&mut tensor).len()) };
            assert_eq!((shared, exclusive), (0, 0));
        }
        // A part that is empty is in the memory of another tensor.
        let (end, one) = (zeros(&[3, 4]).narrow(0, 3, 0), Tensor::from(1.5_f32));
        // SAFETY: nothing writes to them.
        let (end, one) = unsafe { (values(&end), values(&one)) };
        assert_eq!((end, one), (&[][..], &[1.5][..]));
    }

    #[test]
    fn a_tensor_has_the_arrays_values_whatever_its_layout_is() {
        let array = Array2::from_shape_fn((3, 2), |(row, column)| (10 * row + column) as f32);
        let expected = Tensor::from_slice(&[0.0_f32, 1.0, 10.0, 11.0, 20.0, 21.0]).view([3, 2]);
        assert_eq!(tensor_of(&array).unwrap(), expected);
        let transposed = array.t().as_standard_layout().into_owned();
        assert_eq!(tensor_of(&transposed.reversed_axes()).unwrap(), expected);
        assert_eq!(tensor_of(&Array2::zeros((0, 4))).unwrap().size(), [0, 4]);
    }

    #[test]
    fn writing_counts_as_a_change_for_all_tensors_that_share_the_memory() {
        for size in [&[][..], &[6], &[2, 3], &[0]] {
            let mut whole = zeros(size);
            let view = whole.view([-1]).set_requires_grad(!size.is_empty());
            let before = [&whole, &view].map(|tensor| tensor.internal_version());
            // SAFETY: the slice is used and gone before the view is.
            unsafe { values_mut(&mut whole) }.fill(2.0);
            let after = [&whole, &view].map(|tensor| tensor.internal_version());
            assert!(after[0] > before[0] && after[1] > before[1], "{before:?} {after:?}");
            assert_eq!(view.eq(2.0).all().int64_value(&[]), 1);
        }
    }

    #[test]
    fn values_are_copied_between_any_two_tensors_of_a_shape() {
        let values = Tensor::randn([40, 30], (Kind::Float, Device::Cpu));
        for from in
            [values.shallow_clone(), values.to_kind(Kind::Double), values.transpose(0, 1).contiguous().transpose(0, 1)]
        {
            for kind in [Kind::Float, Kind::Half] {
                for mut to in
                    [Tensor::zeros([40, 30], (kind, Device::Cpu)), Tensor::zeros([30, 40], (kind, Device::Cpu)).tr()]
                {
                    let version = to.internal_version();
                    copy_values(&from, &mut to).unwrap();
                    assert_eq!(to, values.to_kind(kind));
                    assert!(to.internal_version() > version);
                }
            }
        }
        copy_values(&zeros(&[0, 3]), &mut zeros(&[0, 3])).unwrap();
        assert!(copy_values(&zeros(&[2]), &mut zeros(&[3])).is_err());
    }

    #[test]
    #[should_panic(expected = "is_contiguous")]
    fn memory_with_gaps_is_no_slice() {
        let columns = zeros(&[3, 4]).narrow(1, 0, 2);
        // SAFETY: nothing writes to it.
        let _ = unsafe { values(&columns) };
    }

    #[test]
    fn one_value_that_is_not_finite_is_found() {
        for kind in [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16] {
            for size in [1, 5, 70_000] {
                let tensor = Tensor::randn([size, 2], (Kind::Float, Device::Cpu)).to_kind(kind);
                assert!(is_finite(&tensor).unwrap() && is_finite(&tensor.transpose(0, 1)).unwrap());
                for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                    for row in [0, size / 2, size - 1] {
                        let tensor = tensor.copy();
                        let _ = tensor.get(row).get(1).fill_(value);
                        assert!(!is_finite(&tensor).unwrap(), "{value} in row {row} of {size}, {kind:?}");
                    }
                }
            }
        }
        for tensor in [Tensor::zeros([0, 3], (Kind::Float, Device::Cpu)), Tensor::from(5_i64)] {
            assert!(is_finite(&tensor).unwrap());
        }
    }
}
