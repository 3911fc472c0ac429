//! From images to the rectified maxima of their convolution.

use std::borrow::Cow;

use super::lanes::{Lanes, Processor};
use super::packed::{Blocks, Padded};
use super::part::{Output, Part, Weights};
use super::team::share;
use super::winograd;
use super::{ConvPool, MOST_LANES as MOST};

/// Output columns that are computed together, in two rows: as many sums as hide an addition's latency.
const COLUMNS: usize = 4;

impl ConvPool {
    /// Computes the output for a batch, and, where `winners` are asked for, what [`ConvPool::backward`] needs of it.
    pub(crate) fn forward(
        &self,
        images: &[f32],
        [weight, bias]: [&[f32]; 2],
        threads: usize,
        output: &mut [f32],
        winners: Option<&mut [u8]>,
    ) {
        self.check(images, weight, output.len(), winners.as_ref().map(|winners| winners.len()));
        assert_eq!(bias.len(), self.channels_out, "expected all biases");
        #[cfg(target_arch = "x86_64")]
        {
            use super::lanes::{Eight, Sixteen};
            match self.processor {
                Processor::Avx512 => {
                    let weights = Weights::new::<Sixteen, Eight>(&self.transformed(weight), self.channels_out);
                    // SAFETY: the processor has the instructions, as checked above.
                    self.in_parts(images, threads, output, winners, |part| unsafe {
                        sixteen(self, &weights, bias, part)
                    });
                }
                Processor::Avx2 => {
                    let weights = Weights::new::<Eight, Eight>(&self.transformed(weight), self.channels_out);
                    // SAFETY: as above.
                    self.in_parts(images, threads, output, winners, |part| unsafe {
                        eight(self, &weights, bias, part)
                    });
                }
            }
        }
    }

    /// Returns the weights as they are multiplied.
    fn transformed<'a>(&self, weight: &'a [f32]) -> Cow<'a, [f32]> {
        if self.is_minimal() { self.transform(weight).into() } else { weight.into() }
    }

    /// Shares the images among threads.
    fn in_parts(
        &self,
        images: &[f32],
        threads: usize,
        output: &mut [f32],
        winners: Option<&mut [u8]>,
        work: impl Fn(&mut Part) + Sync,
    ) {
        let (images_each, [input, values]) = (self.images_each(images), self.values());
        let mut winners = winners.map(|winners| winners.chunks_mut(images_each * values));
        let images = images.chunks(images_each * input).zip(output.chunks_mut(images_each * values));
        let part = |(images, values)| {
            let winners = winners.as_mut().and_then(Iterator::next);
            Part { images, output: Output { values, winners } }
        };
        share(&mut images.map(part).collect::<Vec<_>>(), threads, work);
    }
}

/// Computes the output for some images with 16 lanes.
///
/// # Safety
///
/// The processor must be [`Processor::Avx512`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
unsafe fn sixteen(conv: &ConvPool, weights: &Weights, bias: &[f32], part: &mut Part) {
    use super::lanes::{Eight, Sixteen};
    // SAFETY: the caller ensures the instructions.
    unsafe {
        if conv.is_minimal() {
            winograd::run::<Sixteen, Eight>(conv, weights, bias, part);
        } else {
            run::<Sixteen, Eight>(conv, weights, bias, part);
        }
    }
}

/// Computes the output for some images with 8 lanes.
///
/// # Safety
///
/// The processor must be [`Processor::Avx2`] or a later one.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn eight(conv: &ConvPool, weights: &Weights, bias: &[f32], part: &mut Part) {
    use super::lanes::Eight;
    // SAFETY: the caller ensures the instructions.
    unsafe {
        if conv.is_minimal() {
            winograd::run::<Eight, Eight>(conv, weights, bias, part);
        } else {
            run::<Eight, Eight>(conv, weights, bias, part);
        }
    }
}

/// Computes the output for some images.
///
/// # Safety
///
/// The processor must have the lanes' instructions.
#[inline(always)]
unsafe fn run<Wide: Lanes, Narrow: Lanes>(conv: &ConvPool, weights: &Weights, bias: &[f32], part: &mut Part) {
    let mut padded = Padded::new::<Wide>(conv);
    let [input, values] = conv.values();
    for (index, image) in part.images.chunks_exact(input).enumerate() {
        padded.fill(image);
        let mut output = part.output.from(index * values);
        // SAFETY: the caller ensures the instructions; the weights are arranged for these lanes.
        unsafe {
            convolve::<Wide>(conv, &padded, &weights.wide, bias, 0..weights.split, &mut output);
            let narrow = weights.split..conv.channels_out;
            convolve::<Narrow>(conv, &padded, &weights.narrow, bias, narrow, &mut output);
        }
    }
}

/// Computes some of the channels for one image.
///
/// # Safety
///
/// The processor must have the lanes' instructions; the image and the blocks must be arranged for these lanes, and the blocks
/// must have a weight for each tap and lane of all channels.
#[inline(always)]
unsafe fn convolve<L: Lanes>(
    conv: &ConvPool,
    padded: &Padded,
    blocks: &Blocks,
    bias: &[f32],
    channels: std::ops::Range<usize>,
    output: &mut Output,
) {
    let [height, width, _] = conv.output();
    for (block, first) in channels.clone().step_by(L::COUNT).enumerate() {
        let lanes = L::COUNT.min(channels.end - first);
        let weights = &blocks.values[block * blocks.taps * L::COUNT..];
        let mut start = [0.0; MOST];
        start[..lanes].copy_from_slice(&bias[first..first + lanes]);
        for row in 0..height {
            let mut column = 0;
            while column < width {
                let corner = &padded.values[2 * row * padded.row + 2 * column * padded.pixel..];
                let tile = Tile { corner, row: padded.row, pixel: padded.pixel, weights, kernel: conv.kernel };
                let pooled = (COLUMNS / 2).min(width - column);
                let mut largest = [[0.0; MOST]; COLUMNS / 2];
                let mut winner = [[0; MOST]; COLUMNS / 2];
                // SAFETY: the output has even sides, so the tile's two rows and its columns, with the windows around them, lie in
                // the padded image; `weights` begins with this block's.
                unsafe {
                    if pooled == COLUMNS / 2 {
                        tile.pool::<L, COLUMNS>(&start, &mut largest, &mut winner);
                    } else {
                        tile.pool::<L, 2>(&start, &mut largest, &mut winner);
                    }
                }
                for (index, (largest, winner)) in largest.iter().zip(&winner).take(pooled).enumerate() {
                    let begin = (row * width + column + index) * conv.channels_out + first;
                    output.put(begin, &largest[..lanes], &winner[..lanes]);
                }
                column += pooled;
            }
        }
    }
}

/// Some columns of two rows of the convolution's output.
struct Tile<'a> {
    /// The padded image from the tile's first pixel on.
    corner: &'a [f32],
    row: usize,
    pixel: usize,
    /// `[tap][lane]`.
    weights: &'a [f32],
    kernel: usize,
}

impl Tile<'_> {
    /// Computes the convolution in N columns, and the largest of every four of its values.
    ///
    /// # Safety
    ///
    /// The processor must have the lanes' instructions. From the corner on there must be `kernel + 1` rows, and in each
    /// `kernel - 1 + N` pixels; in the weights, a value for each tap and lane.
    #[inline(always)]
    unsafe fn pool<L: Lanes, const N: usize>(
        &self,
        start: &[f32; MOST],
        largest: &mut [[f32; MOST]],
        winner: &mut [[u8; MOST]],
    ) {
        // SAFETY: the caller ensures that the values are there; `start` and each of `largest` and `winner` have `MOST` values, as
        // many as the widest lanes. `wrapping_add` moves pointers behind the last value after the last use.
        unsafe {
            let mut sums = [[L::load(start.as_ptr()); N]; 2];
            let mut weights = self.weights.as_ptr();
            for y in 0..self.kernel {
                let mut pixels = [[self.corner.as_ptr().wrapping_add(y * self.row); N]; 2];
                for (row, pixels) in pixels.iter_mut().enumerate() {
                    for (column, pixel) in pixels.iter_mut().enumerate() {
                        *pixel = pixel.wrapping_add(row * self.row + column * self.pixel);
                    }
                }
                for tap in 0..self.kernel * self.pixel {
                    let weight = L::load(weights);
                    for (sums, pixels) in sums.iter_mut().zip(&pixels) {
                        for (sum, pixel) in sums.iter_mut().zip(pixels) {
                            *sum = L::multiply_add(weight, L::splat(*pixel.wrapping_add(tap)), *sum);
                        }
                    }
                    weights = weights.wrapping_add(L::COUNT);
                }
            }
            for index in 0..N / 2 {
                let [above, below] = &sums;
                let window = [above[2 * index], above[2 * index + 1], below[2 * index], below[2 * index + 1]];
                L::store(L::largest(window, winner[index].as_mut_ptr()), largest[index].as_mut_ptr());
            }
        }
    }
}
