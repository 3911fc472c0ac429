//! The processor's vectors: several multiplications by one instruction.

/// Processors that the kernels have instructions for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

    /// Returns the name of the instruction set.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
            Self::Avx512Bf16 => "AVX-512 with bf16",
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
            Self::Avx512 | Self::Avx512Bf16 => 16,
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

/// A vector of 32-bit floats, and what it is multiplied by.
///
/// The functions are inlined into ones that are compiled for the processor.
///
/// # Safety
///
/// For all unsafe functions: the processor must have the instructions, and a pointer must be valid for what is read or written
/// there, [`Lanes::COUNT`] values or factors if nothing else is said. Pointers need not be aligned to vectors.
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
    /// Repeats one factor in all lanes; reads no other.
    unsafe fn splat(factor: *const Self::Factor) -> Self::Factors;
    /// Computes `a * b + sum`.
    unsafe fn multiply_add(a: Self::Factors, b: Self::Factors, sum: Self::Vector) -> Self::Vector;
    /// Finds the largest of four values, in each lane, and writes down which it is; NaN is larger than any number. Where no
    /// value is above zero, it is zero, and [`RECTIFIED`] is written down.
    unsafe fn largest(window: [Self::Vector; 4], winners: *mut u8) -> Self::Vector;
    /// Adds up 16 values, of one vector or two, in the same order: each with the one that is eight apart, then four, two and one.
    unsafe fn total(vectors: &[Self::Vector]) -> f32;
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Eight, EightPairs, Sixteen, SixteenPairs};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use half::bf16;

    use super::super::RECTIFIED;
    use super::Lanes;

    macro_rules! lanes {
        (
            $(#[$documentation:meta])* $name:ident: $count:literal x $taps:literal, $vector:ty, $factor:ty, $factors:ty;
            factor($values:ident) $make:expr;
            load($from:ident) $load:expr;
            store($sum:ident, $to:ident) $store:expr;
            load_factors($place:ident) $load_factors:expr;
            splat($one:ident) $splat:expr;
            multiply_add($a:ident, $b:ident, $addend:ident) $multiply_add:expr;
            largest $largest:ident;
            total $total:ident;
        ) => {
            $(#[$documentation])*
            pub(in super::super) struct $name;

            impl Lanes for $name {
                const COUNT: usize = $count;
                const TAPS: usize = $taps;
                type Vector = $vector;
                type Factor = $factor;
                type Factors = $factors;

                fn factor($values: &[f32]) -> $factor {
                    $make
                }

                #[inline(always)]
                unsafe fn load($from: *const f32) -> $vector {
                    // SAFETY: the caller ensures what the trait asks for.
                    unsafe { $load }
                }

                #[inline(always)]
                unsafe fn store($sum: $vector, $to: *mut f32) {
                    // SAFETY: the caller ensures what the trait asks for.
                    unsafe { $store }
                }

                #[inline(always)]
                unsafe fn load_factors($place: *const $factor) -> $factors {
                    // SAFETY: the caller ensures what the trait asks for.
                    unsafe { $load_factors }
                }

                #[inline(always)]
                unsafe fn splat($one: *const $factor) -> $factors {
                    // SAFETY: the caller ensures what the trait asks for.
                    unsafe { $splat }
                }

                #[inline(always)]
                unsafe fn multiply_add($a: $factors, $b: $factors, $addend: $vector) -> $vector {
                    // SAFETY: the caller ensures what the trait asks for.
                    unsafe { $multiply_add }
                }

                #[inline(always)]
                unsafe fn largest(window: [$vector; 4], winners: *mut u8) -> $vector {
                    // SAFETY: the caller ensures what the trait asks for.
                    unsafe { $largest(window, winners) }
                }

                #[inline(always)]
                unsafe fn total(vectors: &[$vector]) -> f32 {
                    // SAFETY: the caller ensures what the trait asks for.
                    unsafe { $total(vectors) }
                }
            }
        };
    }

    lanes! {
        /// 8 floats.
        Eight: 8 x 1, __m256, f32, __m256;
        factor(values) values[0];
        load(from) _mm256_loadu_ps(from);
        store(sum, to) _mm256_storeu_ps(to, sum);
        load_factors(place) _mm256_loadu_ps(place);
        splat(one) _mm256_set1_ps(*one);
        multiply_add(a, b, sum) _mm256_fmadd_ps(a, b, sum);
        largest largest_of_eights;
        total total_of_eights;
    }

    lanes! {
        /// 16 floats.
        Sixteen: 16 x 1, __m512, f32, __m512;
        factor(values) values[0];
        load(from) _mm512_loadu_ps(from);
        store(sum, to) _mm512_storeu_ps(to, sum);
        load_factors(place) _mm512_loadu_ps(place);
        splat(one) _mm512_set1_ps(*one);
        multiply_add(a, b, sum) _mm512_fmadd_ps(a, b, sum);
        largest largest_of_sixteens;
        total total_of_sixteens;
    }

    lanes! {
        /// 8 floats, to which the products of pairs of bfloat16 are added.
        EightPairs: 8 x 2, __m256, i32, __m256i;
        factor(values) pair(values);
        load(from) _mm256_loadu_ps(from);
        store(sum, to) _mm256_storeu_ps(to, sum);
        load_factors(place) _mm256_loadu_si256(place.cast());
        splat(one) _mm256_set1_epi32(*one);
        multiply_add(a, b, sum) _mm256_dpbf16_ps(sum, transmute::<__m256i, __m256bh>(a), transmute::<__m256i, __m256bh>(b));
        largest largest_of_eights;
        total total_of_eights;
    }

    lanes! {
        /// 16 floats, to which the products of pairs of bfloat16 are added.
        SixteenPairs: 16 x 2, __m512, i32, __m512i;
        factor(values) pair(values);
        load(from) _mm512_loadu_ps(from);
        store(sum, to) _mm512_storeu_ps(to, sum);
        load_factors(place) _mm512_loadu_si512(place.cast());
        splat(one) _mm512_set1_epi32(*one);
        multiply_add(a, b, sum) _mm512_dpbf16_ps(sum, transmute::<__m512i, __m512bh>(a), transmute::<__m512i, __m512bh>(b));
        largest largest_of_sixteens;
        total total_of_sixteens;
    }

    /// See [`Lanes::largest`].
    ///
    /// # Safety
    ///
    /// The processor must have AVX2, and `winners` must be valid for writing 8 bytes.
    #[inline(always)]
    unsafe fn largest_of_eights(window: [__m256; 4], winners: *mut u8) -> __m256 {
        // SAFETY: the caller ensures both; the one instruction that uses memory writes 8 bytes.
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

    /// See [`Lanes::largest`].
    ///
    /// # Safety
    ///
    /// The processor must have AVX-512 F and VL, and `winners` must be valid for writing 16 bytes.
    #[inline(always)]
    unsafe fn largest_of_sixteens(window: [__m512; 4], winners: *mut u8) -> __m512 {
        // SAFETY: the caller ensures both; the one instruction that uses memory writes 16 bytes.
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

    /// See [`Lanes::total`].
    ///
    /// # Safety
    ///
    /// The processor must have AVX2.
    #[inline(always)]
    unsafe fn total_of_eights(vectors: &[__m256]) -> f32 {
        // SAFETY: the caller ensures the instructions, which use no memory.
        unsafe { total_of_eight(_mm256_add_ps(vectors[0], vectors[1])) }
    }

    /// See [`Lanes::total`].
    ///
    /// # Safety
    ///
    /// The processor must have AVX-512 F.
    #[inline(always)]
    unsafe fn total_of_sixteens(vectors: &[__m512]) -> f32 {
        // SAFETY: the caller ensures the instructions, which use no memory.
        unsafe {
            let upper = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(vectors[0]));
            total_of_eight(_mm256_add_ps(_mm512_castps512_ps256(vectors[0]), _mm256_castpd_ps(upper)))
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

    /// Rounds two values to bfloat16 and packs them, the first into the lower bits.
    fn pair(values: &[f32]) -> i32 {
        let bits = |value: f32| u32::from(bf16::from_f32(value).to_bits());
        (bits(values[0]) | bits(values[1]) << 16).cast_signed()
    }
}
