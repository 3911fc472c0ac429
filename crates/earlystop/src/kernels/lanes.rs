//! The processor's vectors: several multiplications by one instruction.

/// Processors that the kernels have instructions for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Processor {
    /// x86-64 with 8 lanes (AVX2 and FMA).
    Avx2,
    /// x86-64 with 16 lanes (AVX-512).
    Avx512,
}

impl Processor {
    /// Returns the best of those that this processor is, if any.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn detect() -> Option<Self> {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
        match (avx2, avx512) {
            (_, true) => Some(Self::Avx512),
            (true, _) => Some(Self::Avx2),
            _ => None,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn detect() -> Option<Self> {
        None
    }

    /// Returns the name of the instruction set.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
        }
    }

    /// Whether the processor that this runs on has the instructions.
    pub(super) fn is_present(self) -> bool {
        Self::detect() >= Some(self) // each one has those of the ones before
    }

    /// Returns how many 32-bit floats a vector holds.
    pub(super) fn lanes(self) -> usize {
        match self {
            Self::Avx2 => 8,
            Self::Avx512 => 16,
        }
    }
}

/// Names the best instructions that libtorch has kernels for on this processor.
#[cfg(target_arch = "x86_64")]
pub(super) fn libtorch_default() -> &'static str {
    let fma = is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    match (fma && avx512, fma && is_x86_feature_detected!("avx2")) {
        (true, _) => "avx512",
        (_, true) => "avx2",
        _ => "default",
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn libtorch_default() -> &'static str {
    "default"
}

/// A vector of 32-bit floats.
///
/// The functions are inlined into ones that are compiled for the processor.
///
/// # Safety
///
/// For all unsafe functions: the processor must have the instructions, and a pointer must be valid for what is read or written
/// there, [`Lanes::COUNT`] values if nothing else is said. Pointers need not be aligned to vectors.
pub(super) trait Lanes {
    /// How many 32-bit floats a vector holds.
    const COUNT: usize;
    /// `COUNT` 32-bit floats.
    type Vector: Copy;

    unsafe fn load(values: *const f32) -> Self::Vector;
    unsafe fn store(vector: Self::Vector, values: *mut f32);
    /// Repeats one value in all lanes.
    unsafe fn splat(value: f32) -> Self::Vector;
    /// Computes `a * b + sum`.
    unsafe fn multiply_add(a: Self::Vector, b: Self::Vector, sum: Self::Vector) -> Self::Vector;
    /// Finds the largest of four values, in each lane, and writes down which it is; NaN is larger than any number. Where no
    /// value is above zero, it is zero, and [`RECTIFIED`](super::RECTIFIED) is written down.
    unsafe fn largest(window: [Self::Vector; 4], winners: *mut u8) -> Self::Vector;
    /// Adds up 16 values, of one vector or two, in the same order: each with the one that is eight apart, then four, two and one.
    unsafe fn total(vectors: &[Self::Vector]) -> f32;
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Eight, Sixteen};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::RECTIFIED;
    use super::Lanes;

    /// 8 floats.
    pub(in super::super) struct Eight;

    impl Lanes for Eight {
        const COUNT: usize = 8;
        type Vector = __m256;

        #[inline(always)]
        unsafe fn load(values: *const f32) -> __m256 {
            // SAFETY: the caller ensures what the trait asks for.
            unsafe { _mm256_loadu_ps(values) }
        }

        #[inline(always)]
        unsafe fn store(vector: __m256, values: *mut f32) {
            // SAFETY: the caller ensures what the trait asks for.
            unsafe { _mm256_storeu_ps(values, vector) }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> __m256 {
            // SAFETY: the caller ensures what the trait asks for.
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn multiply_add(a: __m256, b: __m256, sum: __m256) -> __m256 {
            // SAFETY: the caller ensures what the trait asks for.
            unsafe { _mm256_fmadd_ps(a, b, sum) }
        }

        #[inline(always)]
        unsafe fn largest(window: [__m256; 4], winners: *mut u8) -> __m256 {
            // SAFETY: the caller ensures what the trait asks for; the one instruction that uses memory writes 8 bytes.
            unsafe {
                let (mut largest, mut winner) = (window[0], _mm256_setzero_ps());
                for (index, values) in window.into_iter().enumerate().skip(1) {
                    let is_larger = _mm256_cmp_ps::<_CMP_GT_OQ>(values, largest);
                    let wins = _mm256_or_ps(is_larger, _mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
                    largest = _mm256_blendv_ps(largest, values, wins);
                    winner = _mm256_blendv_ps(winner, _mm256_set1_ps(index as f32), wins);
                }
                let rectified = _mm256_cmp_ps::<_CMP_LE_OQ>(largest, _mm256_setzero_ps());
                winner = _mm256_blendv_ps(winner, _mm256_set1_ps(f32::from(RECTIFIED)), rectified);
                let winner = _mm256_cvtps_epi32(winner);
                let winner = _mm_packus_epi32(_mm256_castsi256_si128(winner), _mm256_extracti128_si256::<1>(winner));
                _mm_storel_epi64(winners.cast(), _mm_packus_epi16(winner, winner));
                _mm256_andnot_ps(rectified, largest)
            }
        }

        #[inline(always)]
        unsafe fn total(vectors: &[__m256]) -> f32 {
            // SAFETY: the caller ensures the instructions, which use no memory.
            unsafe { total_of_eight(_mm256_add_ps(vectors[0], vectors[1])) }
        }
    }

    /// 16 floats.
    pub(in super::super) struct Sixteen;

    impl Lanes for Sixteen {
        const COUNT: usize = 16;
        type Vector = __m512;

        #[inline(always)]
        unsafe fn load(values: *const f32) -> __m512 {
            // SAFETY: the caller ensures what the trait asks for.
            unsafe { _mm512_loadu_ps(values) }
        }

        #[inline(always)]
        unsafe fn store(vector: __m512, values: *mut f32) {
            // SAFETY: the caller ensures what the trait asks for.
            unsafe { _mm512_storeu_ps(values, vector) }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> __m512 {
            // SAFETY: the caller ensures what the trait asks for.
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn multiply_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
            // SAFETY: the caller ensures what the trait asks for.
            unsafe { _mm512_fmadd_ps(a, b, sum) }
        }

        #[inline(always)]
        unsafe fn largest(window: [__m512; 4], winners: *mut u8) -> __m512 {
            // SAFETY: the caller ensures what the trait asks for; the one instruction that uses memory writes 16 bytes.
            unsafe {
                let (mut largest, mut winner) = (window[0], _mm512_setzero_si512());
                for (index, values) in window.into_iter().enumerate().skip(1) {
                    let is_larger = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(values, largest);
                    let wins = is_larger | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
                    largest = _mm512_mask_mov_ps(largest, wins, values);
                    winner = _mm512_mask_set1_epi32(winner, wins, index as i32);
                }
                let rectified = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(largest, _mm512_setzero_ps());
                winner = _mm512_mask_set1_epi32(winner, rectified, i32::from(RECTIFIED));
                _mm_storeu_si128(winners.cast(), _mm512_cvtepi32_epi8(winner));
                _mm512_mask_mov_ps(largest, rectified, _mm512_setzero_ps())
            }
        }

        #[inline(always)]
        unsafe fn total(vectors: &[__m512]) -> f32 {
            // SAFETY: the caller ensures the instructions, which use no memory.
            unsafe {
                let upper = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(vectors[0]));
                total_of_eight(_mm256_add_ps(_mm512_castps512_ps256(vectors[0]), _mm256_castpd_ps(upper)))
            }
        }
    }

    /// Adds up 8 values.
    ///
    /// # Safety
    ///
    /// The processor must have AVX2.
    #[inline(always)]
    unsafe fn total_of_eight(vector: __m256) -> f32 {
        // SAFETY: the caller ensures the instructions, which use no memory.
        unsafe {
            let fours = _mm_add_ps(_mm256_castps256_ps128(vector), _mm256_extractf128_ps::<1>(vector));
            let pairs = _mm_add_ps(fours, _mm_movehl_ps(fours, fours));
            _mm_cvtss_f32(_mm_add_ss(pairs, _mm_shuffle_ps::<1>(pairs, pairs)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Processor;

    /// `cargo xtask test --long` sets this variable to the instruction set of the processor that it emulates.
    #[test]
    fn an_emulated_processor_has_the_instructions_that_it_is_emulated_for() {
        let found = Processor::detect().map_or("none", Processor::name);
        if let Ok(expected) = std::env::var("EARLYSTOP_KERNELS") {
            assert_eq!(found, expected);
        }
    }
}
