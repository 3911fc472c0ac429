//! A tensor's memory as a slice.

use tch::{Device, Kind, Tensor};

/// Shows the values of a tensor that is contiguous, of 32-bit floats and on the CPU.
pub(crate) fn values(tensor: &Tensor) -> &[f32] {
    assert!(tensor.is_contiguous() && tensor.kind() == Kind::Float && tensor.device() == Device::Cpu);
    // SAFETY: the tensor is alive as long as the slice, and the assertion is what makes its memory `numel` floats.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// As [`values`], to be changed. The caller sees to it that nothing else uses the memory meanwhile, such as another view.
pub(crate) fn values_mut(tensor: &mut Tensor) -> &mut [f32] {
    assert!(tensor.is_contiguous() && tensor.kind() == Kind::Float && tensor.device() == Device::Cpu);
    // SAFETY: as above; and the tensor is the caller's alone.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}
