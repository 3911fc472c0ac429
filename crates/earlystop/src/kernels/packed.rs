//! Copies of images and weights in the order in which the kernels read them.

use std::ops::{Deref, DerefMut};

use super::ConvPool;
use super::lanes::Lanes;

/// Bytes of a cache line. A vector that lies across two of them costs twice.
const LINE: usize = 64;

/// Values that begin with a cache line.
pub(super) struct Aligned {
    memory: Vec<f32>,
    begin: usize,
}

impl Aligned {
    pub(super) fn new(count: usize) -> Self {
        let memory = vec![0.0; count + LINE / size_of::<f32>()];
        let begin = memory.as_ptr().align_offset(LINE).min(LINE / size_of::<f32>());
        Self { memory, begin }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[self.begin..]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.begin..]
    }
}

/// One image with its border of zeros, followed by one more vector, so that whole vectors can be read at any position.
pub(super) struct Padded {
    pub(super) values: Aligned,
    /// Values per row.
    pub(super) row: usize,
    /// Values per pixel.
    pub(super) pixel: usize,
    /// Where the image begins, behind the border above and to the left.
    begin: usize,
    /// Values per row without the border.
    inner: usize,
    height: usize,
}

impl Padded {
    /// Makes an image of zeros.
    pub(super) fn new<L: Lanes>(conv: &ConvPool) -> Self {
        let ([height, width, pixel], [padded_height, padded_width]) = (conv.input, conv.padded());
        let row = padded_width * pixel;
        let [left, _, top, _] = conv.pads;
        let values = Aligned::new(padded_height * row + L::COUNT);
        Self { values, row, pixel, begin: top * row + left * pixel, inner: width * pixel, height }
    }

    /// Copies an image in.
    pub(super) fn fill(&mut self, image: &[f32]) {
        let rows = self.values[self.begin..].chunks_mut(self.row).take(self.height);
        for (row, values) in rows.zip(image.chunks_exact(self.inner)) {
            row[..self.inner].copy_from_slice(values);
        }
    }

    /// Copies the image out and makes it zeros again.
    pub(super) fn take(&mut self, image: &mut [f32]) {
        let rows = self.values[self.begin..].chunks(self.row).take(self.height);
        for (row, values) in rows.zip(image.chunks_exact_mut(self.inner)) {
            values.copy_from_slice(&row[..self.inner]);
        }
        self.values.fill(0.0);
    }
}

/// Weights for [`Lanes::COUNT`] output channels at a time: `[block][tap][lane]`, with zeros for channels that are not there.
pub(super) struct Blocks {
    pub(super) values: Aligned,
    /// Weights per block and lane.
    pub(super) taps: usize,
}

impl Blocks {
    /// Arranges the weights of some channels. `weight` contains one channel after the other, with `taps` weights each.
    pub(super) fn new<L: Lanes>(weight: &[f32], taps: usize) -> Self {
        let channels = weight.len() / taps;
        let mut values = Aligned::new(channels.div_ceil(L::COUNT) * taps * L::COUNT);
        for (channel, weight) in weight.chunks_exact(taps).enumerate() {
            let (block, lane) = (channel / L::COUNT, channel % L::COUNT);
            let begin = block * taps * L::COUNT + lane;
            values[begin..].iter_mut().step_by(L::COUNT).zip(weight).for_each(|(value, weight)| *value = *weight);
        }
        Self { values, taps }
    }
}
