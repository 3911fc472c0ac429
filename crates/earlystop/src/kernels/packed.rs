//! Copies of images and weights in the order in which the kernels read them.

use std::ops::{Deref, DerefMut};

use super::ConvPool;
use super::lanes::Lanes;

/// Bytes of a cache line. A vector that lies across two of them costs twice.
const LINE: usize = 64;

/// Values that begin with a cache line.
pub(super) struct Aligned<F> {
    memory: Vec<F>,
    begin: usize,
}

impl<F: Copy + Default> Aligned<F> {
    pub(super) fn new(count: usize) -> Self {
        let memory = vec![F::default(); count + LINE / size_of::<F>()];
        let begin = memory.as_ptr().align_offset(LINE).min(LINE / size_of::<F>());
        Self { memory, begin }
    }
}

impl<F> Deref for Aligned<F> {
    type Target = [F];

    fn deref(&self) -> &[F] {
        &self.memory[self.begin..]
    }
}

impl<F> DerefMut for Aligned<F> {
    fn deref_mut(&mut self) -> &mut [F] {
        &mut self.memory[self.begin..]
    }
}

/// One image with its border of zeros, as factors; behind it lies a vector more, so that whole vectors can be read anywhere.
pub(super) struct Padded<F> {
    pub(super) factors: Aligned<F>,
    /// Factors per row.
    pub(super) row: usize,
    /// Factors per pixel.
    pub(super) pixel: usize,
    /// Where the image begins, behind the border above and to the left.
    begin: usize,
    /// Factors per row without the border.
    inner: usize,
    height: usize,
}

impl<F: Copy + Default> Padded<F> {
    /// Makes an image of zeros. A pixel's channels must fill whole factors.
    pub(super) fn new<L: Lanes<Factor = F>>(conv: &ConvPool) -> Self {
        let ([height, width, channels], [padded_height, padded_width]) = (conv.input, conv.padded());
        let pixel = channels / L::TAPS;
        let row = padded_width * pixel;
        let [left, _, top, _] = conv.pads;
        let factors = Aligned::new(padded_height * row + L::COUNT);
        Self { factors, row, pixel, begin: top * row + left * pixel, inner: width * pixel, height }
    }

    pub(super) fn fill<L: Lanes<Factor = F>>(&mut self, image: &[f32]) {
        let rows = self.factors[self.begin..].chunks_mut(self.row).take(self.height);
        for (row, values) in rows.zip(image.chunks_exact(self.inner * L::TAPS)) {
            for (factor, values) in row[..self.inner].iter_mut().zip(values.chunks_exact(L::TAPS)) {
                *factor = L::factor(values);
            }
        }
    }

    /// Copies the image out and makes it zeros again.
    pub(super) fn take(&mut self, image: &mut [F]) {
        let rows = self.factors[self.begin..].chunks(self.row).take(self.height);
        for (row, values) in rows.zip(image.chunks_exact_mut(self.inner)) {
            values.copy_from_slice(&row[..self.inner]);
        }
        self.factors.fill(F::default());
    }
}

/// Weights for [`Lanes::COUNT`] output channels at a time: `[block][tap][lane]`, with zeros for channels that are not there.
pub(super) struct Blocks<F> {
    pub(super) factors: Aligned<F>,
    /// Factors per block and lane.
    pub(super) taps: usize,
}

impl<F: Copy + Default> Blocks<F> {
    /// Arranges some channels' weights, which lie in `weight` one channel after the other, each with so many values.
    pub(super) fn new<L: Lanes<Factor = F>>(weight: &[f32], values: usize) -> Self {
        let (channels, taps) = (weight.len() / values, values / L::TAPS);
        let mut factors = Aligned::new(channels.div_ceil(L::COUNT) * taps * L::COUNT);
        for (channel, weight) in weight.chunks_exact(values).enumerate() {
            let (block, lane) = (channel / L::COUNT, channel % L::COUNT);
            let begin = block * taps * L::COUNT + lane;
            for (factor, values) in factors[begin..].iter_mut().step_by(L::COUNT).zip(weight.chunks_exact(L::TAPS)) {
                *factor = L::factor(values);
            }
        }
        Self { factors, taps }
    }
}
