//! Converts between floating-point types.

use half::{bf16, f16};
use safetensors::tensor::Dtype;

/// Converts the values in `bytes` to another floating-point type and writes them to `target`.
///
/// Values are rounded to the nearest one of the new type; values beyond its range become infinite. Does nothing unless both types
/// are [supported](is_float).
pub(super) fn convert(from: Dtype, bytes: &[u8], to: Dtype, target: &mut [u8]) {
    match from {
        Dtype::F16 => convert_to(to, target, bytes.as_chunks().0.iter().map(|it| f16::from_le_bytes(*it).to_f64())),
        Dtype::BF16 => convert_to(to, target, bytes.as_chunks().0.iter().map(|it| bf16::from_le_bytes(*it).to_f64())),
        Dtype::F32 => convert_to(to, target, bytes.as_chunks().0.iter().map(|it| f64::from(f32::from_le_bytes(*it)))),
        Dtype::F64 => convert_to(to, target, bytes.as_chunks().0.iter().map(|it| f64::from_le_bytes(*it))),
        _ => {}
    }
}

fn convert_to(to: Dtype, target: &mut [u8], values: impl Iterator<Item = f64>) {
    match to {
        Dtype::F16 => fill(target, values.map(|value| f16::from_f64(value).to_le_bytes())),
        Dtype::BF16 => fill(target, values.map(|value| bf16::from_f64(value).to_le_bytes())),
        Dtype::F32 => fill(target, values.map(|value| (value as f32).to_le_bytes())),
        Dtype::F64 => fill(target, values.map(f64::to_le_bytes)),
        _ => {}
    }
}

fn fill<const N: usize>(target: &mut [u8], values: impl Iterator<Item = [u8; N]>) {
    target.as_chunks_mut().0.iter_mut().zip(values).for_each(|(target, value)| *target = value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted<const N: usize, const M: usize>(from: Dtype, value: [u8; N], to: Dtype) -> [u8; M] {
        let mut target = [0; M];
        convert(from, &value, to, &mut target);
        target
    }

    #[test]
    fn values_that_both_types_have_stay_the_same() {
        for value in [0.0, -0.0, 1.5, -2.0, f64::INFINITY] {
            let double = value.to_le_bytes();
            let half: [u8; 2] = converted(Dtype::F64, double, Dtype::F16);
            let brain: [u8; 2] = converted(Dtype::F16, half, Dtype::BF16);
            let single: [u8; 4] = converted(Dtype::BF16, brain, Dtype::F32);
            assert_eq!(converted::<4, 8>(Dtype::F32, single, Dtype::F64), double);
        }
    }

    #[test]
    fn others_become_the_nearest_or_infinity() {
        let half = |value: f32| f16::from_le_bytes(converted(Dtype::F32, value.to_le_bytes(), Dtype::F16));
        assert_eq!(half(2049.0), f16::from_f32(2048.0)); // to even
        assert_eq!(half(70_000.0), f16::INFINITY);
        assert!(half(f32::NAN).is_nan());
        let single = |value: f64| f32::from_le_bytes(converted(Dtype::F64, value.to_le_bytes(), Dtype::F32));
        assert_eq!((single(0.1), single(1e300)), (0.1, f32::INFINITY));
    }
}
