//! Elements of tensors, as numbers and as bytes.

use std::ops::Range;

use earlystop::checkpoint::{Checkpoint, TensorInfo};
use earlystop::safetensors::Dtype;
use half::{bf16, f16};

use crate::failure::Result;

/// How many bytes of a tensor are read at once.
pub(crate) const BLOCK_BYTES: u64 = 1 << 20;

/// The number of elements.
pub(crate) fn count(shape: &[i64]) -> u64 {
    shape.iter().map(|&size| u64::try_from(size).unwrap_or(0)).fold(1, u64::saturating_mul)
}

/// The size of a tensor's data in bytes.
pub(crate) fn size(info: &TensorInfo) -> u64 {
    (u128::from(count(&info.shape)) * info.dtype.bitsize() as u128 / 8).try_into().unwrap_or(u64::MAX)
}

/// Says whether a type is a floating-point type that can be averaged, see [`encode`].
pub(crate) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
}

/// The blocks of a tensor's data.
pub(crate) fn blocks(bytes: u64) -> impl Iterator<Item = Range<u64>> {
    (0..bytes).step_by(BLOCK_BYTES as usize).map(move |start| start..bytes.min(start + BLOCK_BYTES))
}

/// Reads a block of a tensor into a buffer.
pub(crate) fn read_block(
    checkpoint: &Checkpoint,
    name: &str,
    block: &Range<u64>,
    buffer: &mut Vec<u8>,
) -> earlystop::Result<()> {
    buffer.resize((block.end - block.start) as usize, 0);
    checkpoint.read_range(name, block.start, buffer)
}

/// Calls `each` with the values of the elements, in their order. Does nothing for types that are no numbers here, such as `F8_E4M3`.
pub(crate) fn decode(dtype: Dtype, bytes: &[u8], each: impl FnMut((usize, f64))) {
    match dtype {
        Dtype::F64 => of(bytes, f64::from_le_bytes).enumerate().for_each(each),
        Dtype::F32 => of(bytes, f32::from_le_bytes).map(f64::from).enumerate().for_each(each),
        Dtype::F16 => of(bytes, f16::from_le_bytes).map(f16::to_f64).enumerate().for_each(each),
        Dtype::BF16 => of(bytes, bf16::from_le_bytes).map(bf16::to_f64).enumerate().for_each(each),
        Dtype::I64 => of(bytes, i64::from_le_bytes).map(|value| value as f64).enumerate().for_each(each),
        Dtype::U64 => of(bytes, u64::from_le_bytes).map(|value| value as f64).enumerate().for_each(each),
        Dtype::I32 => of(bytes, i32::from_le_bytes).map(f64::from).enumerate().for_each(each),
        Dtype::U32 => of(bytes, u32::from_le_bytes).map(f64::from).enumerate().for_each(each),
        Dtype::I16 => of(bytes, i16::from_le_bytes).map(f64::from).enumerate().for_each(each),
        Dtype::U16 => of(bytes, u16::from_le_bytes).map(f64::from).enumerate().for_each(each),
        Dtype::I8 => of(bytes, i8::from_le_bytes).map(f64::from).enumerate().for_each(each),
        Dtype::U8 | Dtype::BOOL => of(bytes, u8::from_le_bytes).map(f64::from).enumerate().for_each(each),
        _ => {}
    }
}

/// Appends the bytes of a value, rounded to the nearest one of a floating-point type.
pub(crate) fn encode(dtype: Dtype, value: f64, bytes: &mut Vec<u8>) {
    match dtype {
        Dtype::F16 => bytes.extend(f16::from_f64(value).to_le_bytes()),
        Dtype::BF16 => bytes.extend(bf16::from_f64(value).to_le_bytes()),
        Dtype::F32 => bytes.extend((value as f32).to_le_bytes()),
        Dtype::F64 => bytes.extend(value.to_le_bytes()),
        _ => {}
    }
}

fn of<const N: usize, T>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    bytes.as_chunks().0.iter().map(move |bytes| from(*bytes))
}

/// Statistics of the values of a tensor.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct Statistics {
    /// The number of finite values. The four that follow are those of finite values.
    pub(crate) finite: u64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
    /// The sum of the squared distances from the mean.
    squares: f64,
    pub(crate) nan: u64,
    pub(crate) infinite: u64,
}

impl Statistics {
    /// Reads a tensor. Memory: one block.
    pub(crate) fn of(checkpoint: &Checkpoint, info: &TensorInfo) -> Result<Self> {
        let (mut statistics, mut bytes) = (Statistics::default(), Vec::new());
        for block in blocks(size(info)) {
            read_block(checkpoint, &info.name, &block, &mut bytes)?;
            decode(info.dtype, &bytes, |(_, value)| statistics.add(value));
        }
        Ok(statistics)
    }

    /// Adds a value, by Welford's method.
    fn add(&mut self, value: f64) {
        if !value.is_finite() {
            self.nan += u64::from(value.is_nan());
            self.infinite += u64::from(value.is_infinite());
            return;
        }
        (self.min, self.max) = match self.finite {
            0 => (value, value),
            _ => (self.min.min(value), self.max.max(value)),
        };
        self.finite += 1;
        let distance = value - self.mean;
        self.mean += distance / self.finite as f64;
        self.squares += distance * (value - self.mean);
    }

    /// The standard deviation of all values.
    pub(crate) fn deviation(&self) -> f64 {
        (self.squares / self.finite.max(1) as f64).sqrt()
    }
}

/// How two tensors differ.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Difference {
    /// The elements that differ by more than the tolerance; without one, in any bit.
    pub(crate) differing: u64,
    /// The greatest distance of two elements, unless one is NaN.
    pub(crate) max_abs: f64,
    /// The greatest distance in proportion to the greater one of the two.
    pub(crate) max_relative: f64,
    /// The elements that are NaN in each of the two.
    pub(crate) nan: [u64; 2],
    /// Whether any byte differs.
    pub(crate) has_other_bytes: bool,
}

/// Which differences count.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tolerance {
    pub(crate) absolute: f64,
    /// In proportion to the element of the second tensor.
    pub(crate) relative: f64,
}

impl Tolerance {
    fn is_zero(self) -> bool {
        self.absolute == 0.0 && self.relative == 0.0
    }
}

impl Difference {
    /// Adds two blocks of the same elements.
    fn add(&mut self, dtype: Dtype, a: &[u8], b: &[u8], tolerance: Tolerance) {
        let has_nan = is_float(dtype);
        if a == b && !has_nan {
            return;
        }
        self.has_other_bytes |= a != b;
        macro_rules! pairs {
            ($from:expr, $to:expr) => {{
                let pairs = of(a, $from).zip(of(b, $from));
                pairs.for_each(|(a, b)| self.add_pair($to(a), $to(b), a.to_le_bytes() == b.to_le_bytes(), tolerance));
            }};
        }
        macro_rules! integers {
            ($element:ty) => {{
                let pairs = of(a, <$element>::from_le_bytes).zip(of(b, <$element>::from_le_bytes));
                pairs.for_each(|(a, b)| self.add_integers(i128::from(a), i128::from(b), tolerance));
            }};
        }
        match dtype {
            Dtype::F64 => pairs!(f64::from_le_bytes, f64::from),
            Dtype::F32 => pairs!(f32::from_le_bytes, f64::from),
            Dtype::F16 => pairs!(f16::from_le_bytes, f16::to_f64),
            Dtype::BF16 => pairs!(bf16::from_le_bytes, bf16::to_f64),
            Dtype::I64 => integers!(i64),
            Dtype::I32 => integers!(i32),
            Dtype::I16 => integers!(i16),
            Dtype::I8 => integers!(i8),
            Dtype::U64 => integers!(u64),
            Dtype::U32 => integers!(u32),
            Dtype::U16 => integers!(u16),
            Dtype::U8 | Dtype::BOOL => integers!(u8),
            // Of other types, the bytes are compared.
            _ => self.differing += a.iter().zip(b).filter(|(a, b)| a != b).count() as u64,
        }
    }

    fn add_pair(&mut self, a: f64, b: f64, has_same_bits: bool, tolerance: Tolerance) {
        self.nan[0] += u64::from(a.is_nan());
        self.nan[1] += u64::from(b.is_nan());
        if has_same_bits {
            return;
        }
        let is_equal = a == b || (a.is_nan() && b.is_nan());
        let distance = if is_equal { 0.0 } else { (a - b).abs() };
        if !distance.is_nan() {
            self.measure(distance, a.abs().max(b.abs()));
        }
        // A number and NaN differ by any tolerance.
        let is_within = is_equal || distance <= tolerance.absolute + tolerance.relative * b.abs();
        self.differing += u64::from(tolerance.is_zero() || !is_within || distance.is_infinite());
    }

    fn add_integers(&mut self, a: i128, b: i128, tolerance: Tolerance) {
        if a == b {
            return;
        }
        let distance = (a - b).unsigned_abs() as f64;
        self.measure(distance, a.unsigned_abs().max(b.unsigned_abs()) as f64);
        self.differing += u64::from(distance > tolerance.absolute + tolerance.relative * b.unsigned_abs() as f64);
    }

    fn measure(&mut self, distance: f64, greater: f64) {
        self.max_abs = self.max_abs.max(distance);
        if greater > 0.0 && greater.is_finite() {
            self.max_relative = self.max_relative.max(distance / greater);
        }
    }
}

/// Compares two tensors of one type and shape. Memory: two blocks.
pub(crate) fn compare(checkpoints: [&Checkpoint; 2], info: &TensorInfo, tolerance: Tolerance) -> Result<Difference> {
    let mut difference = Difference::default();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for block in blocks(size(info)) {
        read_block(checkpoints[0], &info.name, &block, &mut a)?;
        read_block(checkpoints[1], &info.name, &block, &mut b)?;
        difference.add(info.dtype, &a, &b, tolerance);
    }
    Ok(difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(a: &[f32], b: &[f32], tolerance: Tolerance) -> Difference {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let mut difference = Difference::default();
        difference.add(Dtype::F32, &bytes(a), &bytes(b), tolerance);
        difference
    }

    #[test]
    fn without_a_tolerance_every_bit_counts() {
        let found = difference(&[0.0, f32::NAN, 1.0, 2.0], &[-0.0, f32::NAN, 1.5, 2.0], Tolerance::default());
        let expected =
            Difference { differing: 2, max_abs: 0.5, max_relative: 0.5 / 1.5, nan: [1, 1], has_other_bytes: true };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_tolerance_is_a_distance_and_never_holds_for_nan_or_infinity() {
        let absolute = |absolute| Tolerance { absolute, relative: 0.0 };
        assert_eq!(difference(&[0.0, 1.0, 2.0], &[-0.0, 1.5, 2.25], absolute(0.25)).differing, 1);
        assert_eq!(difference(&[f32::NAN, 1.0], &[1.0, f32::NAN], absolute(1e9)).differing, 2);
        let both = [f32::INFINITY, f32::NEG_INFINITY];
        assert_eq!(difference(&both, &[f32::INFINITY, 0.0], absolute(f64::MAX)).differing, 1);
        let relative = Tolerance { absolute: 0.0, relative: 0.1 };
        assert_eq!(difference(&[1.05, 1.2], &[1.0, 1.0], relative).differing, 1);
    }

    #[test]
    fn integers_are_compared_exactly() {
        let mut difference = Difference::default();
        let (a, b) = ([u64::MAX, 5].map(u64::to_le_bytes).concat(), [u64::MAX - 1, 5].map(u64::to_le_bytes).concat());
        difference.add(Dtype::U64, &a, &b, Tolerance::default());
        assert_eq!((difference.differing, difference.max_abs), (1, 1.0));
    }

    #[test]
    fn statistics_are_those_of_the_finite_values() {
        let mut found = Statistics::default();
        [2.0, f64::NAN, 4.0, f64::INFINITY, 9.0].into_iter().for_each(|value| found.add(value));
        assert_eq!((found.finite, found.nan, found.infinite), (3, 1, 1));
        assert_eq!((found.min, found.max, found.mean), (2.0, 9.0, 5.0));
        assert!((found.deviation() - (26.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(Statistics::default().deviation(), 0.0);
        // Far from zero, squares would lose all digits.
        let mut found = Statistics::default();
        [1e9, 1e9 + 1.0, 1e9 + 2.0].into_iter().for_each(|value| found.add(value));
        assert!((found.deviation() - (2.0f64 / 3.0).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn blocks_cover_everything_once() {
        assert_eq!(blocks(0).count(), 0);
        let all: Vec<_> = blocks(2 * BLOCK_BYTES + 8).collect();
        assert_eq!(all, [0..BLOCK_BYTES, BLOCK_BYTES..2 * BLOCK_BYTES, 2 * BLOCK_BYTES..2 * BLOCK_BYTES + 8]);
    }
}
