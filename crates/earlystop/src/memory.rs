//! A tensor's memory as a slice, and what becomes of memory that is freed.

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
    count_change(tensor);
    // SAFETY: as above; and the tensor is the caller's alone.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// Tells libtorch that a tensor's values change, so that it computes no gradient that depends on the old ones.
///
/// libtorch counts the changes that its own operations make in place; this is one of no values.
fn count_change(tensor: &Tensor) {
    let _no_grad = tch::no_grad_guard();
    let _ = tensor.as_strided([0_i64], [1_i64], None).zero_();
}

/// Has memory that is freed kept for what is needed next, in the whole process: call it when a program starts.
///
/// GNU's C library gives large pieces back to the operating system, and asks for them again with every batch, which can take a
/// third of a validation's time. With other C libraries nothing happens. The environment variables
/// `MALLOC_MMAP_THRESHOLD_=33554432` and `MALLOC_TRIM_THRESHOLD_=1073741824` do the same from outside; the notebooks' kernel
/// has them set.
///
/// ```
/// earlystop::keep_freed_memory();
/// ```
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, bytes) in [
        (libc::M_MMAP_THRESHOLD, 32 << 20), // the most that it takes
        (libc::M_TRIM_THRESHOLD, 1 << 30),
    ] {
        // SAFETY: it takes any numbers, and refuses what it does not know.
        unsafe { libc::mallopt(parameter, bytes) };
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// How often this thread touched a page that it did not have.
    fn page_faults() -> i64 {
        // SAFETY: all zeros are a valid `rusage`, which the call fills in.
        unsafe {
            let mut usage = std::mem::zeroed();
            assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage), 0);
            usage.ru_minflt
        }
    }

    #[test]
    fn freed_memory_is_taken_again() {
        keep_freed_memory();
        // As batches do: several large pieces at once, of 2,048 pages each.
        let touch = || drop(std::hint::black_box([(); 3].map(|()| vec![1_u8; 8 << 20])));
        touch();
        let before = page_faults();
        (0..10).for_each(|_| touch());
        let faults = page_faults() - before;
        assert!(faults < 1000, "{faults} page faults");
    }
}
