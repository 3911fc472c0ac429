//! The processor's vectors: several multiplications by one instruction.

/// Processors that the kernels have instructions for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Processor {
    /// x86-64 with 8 lanes (AVX2 and FMA).
    Avx2,
    /// x86-64 with 16 lanes (AVX-512).
    Avx512,
    /// The same, with products of pairs of bfloat16 (AVX512-BF16).
    Avx512Bf16,
}

impl Processor {
    /// Returns the best of those that this processor is, if any.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn detect() -> Option<Self> {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
        let bf16 = avx512 && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512bf16");
        match (avx2, avx512, bf16) {
            (_, _, true) => Some(Self::Avx512Bf16),
            (_, true, _) => Some(Self::Avx512),
            (true, ..) => Some(Self::Avx2),
            _ => None,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn detect() -> Option<Self> {
        None
    }

    /// Returns how many 32-bit floats a vector holds.
    pub(super) fn lanes(self) -> usize {
        match self {
            Self::Avx2 => 8,
            Self::Avx512 | Self::Avx512Bf16 => 16,
        }
    }
}

/// A vector of 32-bit floats, and what it is multiplied by.
///
/// # Safety
///
/// The processor must have the instructions, pointers must be valid for [`Lanes::COUNT`] values. The functions are to be
/// inlined into one that is compiled for the processor.
pub(super) trait Lanes {
    /// How many 32-bit floats a vector holds.
    const COUNT: usize;
    /// How many values a factor holds, whose products are summed up.
    const TAPS: usize;
    /// `COUNT` 32-bit floats.
    type Vector: Copy;
    /// One factor in memory.
    type Factor: Copy + Default;
    /// `COUNT` factors.
    type Factors: Copy;

    /// Makes a factor of [`Lanes::TAPS`] values.
    fn factor(values: &[f32]) -> Self::Factor;
    unsafe fn load(values: *const f32) -> Self::Vector;
    unsafe fn store(vector: Self::Vector, values: *mut f32);
    unsafe fn load_factors(factors: *const Self::Factor) -> Self::Factors;
    /// Repeats one factor in all lanes.
    unsafe fn splat(factor: *const Self::Factor) -> Self::Factors;
    /// Computes `a * b + sum`.
    unsafe fn multiply_add(a: Self::Factors, b: Self::Factors, sum: Self::Vector) -> Self::Vector;
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Eight, EightPairs, Sixteen, SixteenPairs};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::Lanes;

    /// 8 floats.
    pub(in super::super) struct Eight;
    /// 16 floats.
    pub(in super::super) struct Sixteen;
    /// 8 floats, to which products of pairs of bfloat16 are added.
    pub(in super::super) struct EightPairs;
    /// 16 floats, to which products of pairs of bfloat16 are added.
    pub(in super::super) struct SixteenPairs;

    impl Lanes for Eight {
        const COUNT: usize = 8;
        const TAPS: usize = 1;
        type Vector = __m256;
        type Factor = f32;
        type Factors = __m256;

        fn factor(values: &[f32]) -> f32 {
            values[0]
        }

        #[inline(always)]
        unsafe fn load(values: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(values) }
        }

        #[inline(always)]
        unsafe fn store(vector: __m256, values: *mut f32) {
            unsafe { _mm256_storeu_ps(values, vector) }
        }

        #[inline(always)]
        unsafe fn load_factors(factors: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(factors) }
        }

        #[inline(always)]
        unsafe fn splat(factor: *const f32) -> __m256 {
            unsafe { _mm256_set1_ps(*factor) }
        }

        #[inline(always)]
        unsafe fn multiply_add(a: __m256, b: __m256, sum: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, sum) }
        }
    }

    impl Lanes for Sixteen {
        const COUNT: usize = 16;
        const TAPS: usize = 1;
        type Vector = __m512;
        type Factor = f32;
        type Factors = __m512;

        fn factor(values: &[f32]) -> f32 {
            values[0]
        }

        #[inline(always)]
        unsafe fn load(values: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(values) }
        }

        #[inline(always)]
        unsafe fn store(vector: __m512, values: *mut f32) {
            unsafe { _mm512_storeu_ps(values, vector) }
        }

        #[inline(always)]
        unsafe fn load_factors(factors: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(factors) }
        }

        #[inline(always)]
        unsafe fn splat(factor: *const f32) -> __m512 {
            unsafe { _mm512_set1_ps(*factor) }
        }

        #[inline(always)]
        unsafe fn multiply_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, sum) }
        }
    }

    /// Rounds two values to bfloat16, the first in the lower bits; a missing second one is zero.
    fn pair(values: &[f32]) -> i32 {
        let half = |index: usize| u32::from(bf16::from_f32(values.get(index).copied().unwrap_or(0.0)).to_bits());
        (half(0) | half(1) << 16).cast_signed()
    }

    impl Lanes for EightPairs {
        const COUNT: usize = 8;
        const TAPS: usize = 2;
        type Vector = __m256;
        type Factor = i32;
        type Factors = __m256i;

        fn factor(values: &[f32]) -> i32 {
            pair(values)
        }

        #[inline(always)]
        unsafe fn load(values: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(values) }
        }

        #[inline(always)]
        unsafe fn store(vector: __m256, values: *mut f32) {
            unsafe { _mm256_storeu_ps(values, vector) }
        }

        #[inline(always)]
        unsafe fn load_factors(factors: *const i32) -> __m256i {
            unsafe { _mm256_loadu_si256(factors.cast()) }
        }

        #[inline(always)]
        unsafe fn splat(factor: *const i32) -> __m256i {
            unsafe { _mm256_set1_epi32(*factor) }
        }

        #[inline(always)]
        unsafe fn multiply_add(a: __m256i, b: __m256i, sum: __m256) -> __m256 {
            unsafe {
                _mm256_dpbf16_ps(
                    sum,
                    std::mem::transmute::<__m256i, __m256bh>(a),
                    std::mem::transmute::<__m256i, __m256bh>(b),
                )
            }
        }
    }

    impl Lanes for SixteenPairs {
        const COUNT: usize = 16;
        const TAPS: usize = 2;
        type Vector = __m512;
        type Factor = i32;
        type Factors = __m512i;

        fn factor(values: &[f32]) -> i32 {
            pair(values)
        }

        #[inline(always)]
        unsafe fn load(values: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(values) }
        }

        #[inline(always)]
        unsafe fn store(vector: __m512, values: *mut f32) {
            unsafe { _mm512_storeu_ps(values, vector) }
        }

        #[inline(always)]
        unsafe fn load_factors(factors: *const i32) -> __m512i {
            unsafe { _mm512_loadu_si512(factors.cast()) }
        }

        #[inline(always)]
        unsafe fn splat(factor: *const i32) -> __m512i {
            unsafe { _mm512_set1_epi32(*factor) }
        }

        #[inline(always)]
        unsafe fn multiply_add(a: __m512i, b: __m512i, sum: __m512) -> __m512 {
            unsafe {
                _mm512_dpbf16_ps(
                    sum,
                    std::mem::transmute::<__m512i, __m512bh>(a),
                    std::mem::transmute::<__m512i, __m512bh>(b),
                )
            }
        }
    }
}
