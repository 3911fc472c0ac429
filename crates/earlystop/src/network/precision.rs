//! The compute precision of a network.

use serde::{Deserialize, Serialize};
use tch::Kind;

/// The compute precision of convolutions and fully-connected layers.
///
/// Variables, gradients, moments, logits, loss and probabilities are always `f32`, so checkpoints do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// bfloat16: the range of `f32` with 8 bits of precision. Faster if the processor has instructions for it. Convolutions
    /// that are as fast in `f32`, by minimal filtering, stay in `f32`.
    Bf16,
}

impl Precision {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }

    /// Says whether this processor has instructions for these numbers; without them it computes them by others, slowly.
    pub fn is_native(self) -> bool {
        match self {
            Self::F32 => true,
            Self::Bf16 => has_bf16(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16") // every processor with AMX has these too
}

#[cfg(target_arch = "aarch64")]
fn has_bf16() -> bool {
    std::arch::is_aarch64_feature_detected!("bf16")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_bf16() -> bool {
    false
}
