//! What the forward kernels work on: the weights, some of the images, and where the output goes.

use super::MOST_LANES;
use super::lanes::Lanes;
use super::packed::Blocks;

/// Some of a batch's images, and where to put what comes out.
pub(super) struct Part<'a> {
    pub(super) images: &'a [f32],
    pub(super) output: Output<'a>,
}

/// Where maxima go, and, where they are asked for, the winners.
pub(super) struct Output<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) winners: Option<&'a mut [u8]>,
}

impl Output<'_> {
    /// Returns what lies behind the first `begin` values.
    pub(super) fn from(&mut self, begin: usize) -> Output<'_> {
        let winners = self.winners.as_deref_mut().map(|winners| &mut winners[begin..]);
        Output { values: &mut self.values[begin..], winners }
    }

    /// Writes some channels of one pixel.
    #[inline(always)]
    pub(super) fn put(&mut self, begin: usize, largest: &[f32], winner: &[u8]) {
        copy(&mut self.values[begin..], largest);
        if let Some(winners) = &mut self.winners {
            copy(&mut winners[begin..], winner);
        }
    }
}

/// Copies up to a vector. A whole one, as most are, takes two instructions instead of a call.
#[inline(always)]
fn copy<T: Copy>(to: &mut [T], from: &[T]) {
    match from.first_chunk::<MOST_LANES>() {
        Some(from) => to[..MOST_LANES].copy_from_slice(from),
        None => to[..from.len()].copy_from_slice(from),
    }
}

/// All channels' weights: as many as there are in wide blocks, and what is left in one narrow block, if it fits there.
pub(super) struct Weights {
    pub(super) wide: Blocks,
    pub(super) narrow: Blocks,
    /// How many channels the wide blocks have.
    pub(super) split: usize,
}

impl Weights {
    /// Arranges weights of `channels` output channels, each with the same number of them.
    pub(super) fn new<Wide: Lanes, Narrow: Lanes>(weight: &[f32], channels: usize) -> Self {
        let (taps, rest) = (weight.len() / channels, channels % Wide::COUNT);
        let split = if rest <= Narrow::COUNT { channels - rest } else { channels };
        let (wide, narrow) = weight.split_at(split * taps);
        Self { wide: Blocks::new::<Wide>(wide, taps), narrow: Blocks::new::<Narrow>(narrow, taps), split }
    }
}
