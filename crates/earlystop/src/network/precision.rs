//! In what numbers a network computes.

use serde::{Deserialize, Serialize};
use tch::Kind;

/// Names the numbers that convolutions and fully-connected layers compute in.
///
/// Variables, gradients and moments, logits, loss and probabilities are 32-bit floats in any case, so that checkpoints are
/// the same files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats with the range of 32-bit ones and 8 bits of precision (bfloat16): faster where the processor has
    /// instructions for them. Convolutions that 32-bit floats compute as fast, by minimal filtering, stay in these.
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
