//! From images to the rectified maxima of their convolution.

use super::ConvPool;
use super::lanes::{Lanes, Processor};
use super::scratch::{Blocks, Padded};
use super::team::share;

/// Output columns that are computed together, in two rows: as many sums as hide an addition's latency.
const COLUMNS: usize = 4;
/// The largest number of lanes.
const MOST: usize = 16;

/// Some of a batch's images, and where to put what comes out.
struct Part<'a> {
    images: &'a [f32],
    output: &'a mut [f32],
    winners: Option<&'a mut [u8]>,
}

impl ConvPool {
    /// Computes the output for a batch, and, where `winners` are asked for, what [`ConvPool::backward`] needs of it.
    ///
    /// With `halves`, images and weights are rounded to bfloat16, if the processor multiplies these and the channels come in
    /// pairs; sums are 32-bit floats in any case.
    pub(crate) fn forward(
        &self,
        images: &[f32],
        [weight, bias]: [&[f32]; 2],
        halves: bool,
        threads: usize,
        output: &mut [f32],
        winners: Option<&mut [u8]>,
    ) {
        #[cfg(target_arch = "x86_64")]
        {
            use super::lanes::{Eight, EightPairs, Sixteen, SixteenPairs};
            match self.processor {
                Processor::Avx512Bf16 if halves && self.input[2].is_multiple_of(2) => {
                    let weights = Weights::new::<SixteenPairs, EightPairs>(self, weight);
                    // SAFETY: these are the processor's instructions.
                    self.in_parts(images, threads, output, winners, |part| unsafe {
                        pairs(self, &weights, bias, part)
                    });
                }
                Processor::Avx512 | Processor::Avx512Bf16 => {
                    let weights = Weights::new::<Sixteen, Eight>(self, weight);
                    // SAFETY: as above.
                    self.in_parts(images, threads, output, winners, |part| unsafe {
                        sixteen(self, &weights, bias, part)
                    });
                }
                Processor::Avx2 => {
                    let weights = Weights::new::<Eight, Eight>(self, weight);
                    // SAFETY: as above.
                    self.in_parts(images, threads, output, winners, |part| unsafe {
                        eight(self, &weights, bias, part)
                    });
                }
            }
        }
    }

    /// Gives every thread some of the images.
    fn in_parts(
        &self,
        images: &[f32],
        threads: usize,
        output: &mut [f32],
        winners: Option<&mut [u8]>,
        work: impl Fn(&mut Part) + Sync,
    ) {
        let (images_each, [input, values]) = (self.images_each(images, threads), self.values());
        let mut winners = winners.map(|winners| winners.chunks_mut(images_each * values));
        let images = images.chunks(images_each * input).zip(output.chunks_mut(images_each * values));
        let part = |(images, output)| Part { images, output, winners: winners.as_mut().and_then(Iterator::next) };
        share(&mut images.map(part).collect::<Vec<_>>(), threads, work);
    }
}

/// All channels' weights: as many as there are in wide blocks, and what is left in one narrow block, if it fits there.
struct Weights<F> {
    wide: Blocks<F>,
    narrow: Blocks<F>,
    /// How many channels the wide blocks have.
    split: usize,
}

impl<F: Copy + Default> Weights<F> {
    fn new<Wide: Lanes<Factor = F>, Narrow: Lanes<Factor = F>>(conv: &ConvPool, weight: &[f32]) -> Self {
        let rest = conv.channels_out % Wide::COUNT;
        let split = if rest <= Narrow::COUNT { conv.channels_out - rest } else { conv.channels_out };
        let (wide, narrow) = weight.split_at(split * conv.taps());
        let narrow = Blocks::new::<Narrow>(conv, narrow);
        Self { wide: Blocks::new::<Wide>(conv, wide), narrow, split }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512bf16,avx2,fma")]
unsafe fn pairs(conv: &ConvPool, weights: &Weights<i32>, bias: &[f32], part: &mut Part) {
    use super::lanes::{EightPairs, SixteenPairs};
    unsafe { run::<SixteenPairs, EightPairs>(conv, weights, bias, part) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
unsafe fn sixteen(conv: &ConvPool, weights: &Weights<f32>, bias: &[f32], part: &mut Part) {
    use super::lanes::{Eight, Sixteen};
    unsafe { run::<Sixteen, Eight>(conv, weights, bias, part) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn eight(conv: &ConvPool, weights: &Weights<f32>, bias: &[f32], part: &mut Part) {
    use super::lanes::Eight;
    unsafe { run::<Eight, Eight>(conv, weights, bias, part) }
}

#[inline(always)]
unsafe fn run<Wide: Lanes, Narrow: Lanes<Factor = Wide::Factor>>(
    conv: &ConvPool,
    weights: &Weights<Wide::Factor>,
    bias: &[f32],
    part: &mut Part,
) {
    let mut padded = Padded::new::<Wide>(conv);
    let [input, values] = conv.values();
    let images = part.images.chunks_exact(input);
    for (index, (image, output)) in images.zip(part.output.chunks_exact_mut(values)).enumerate() {
        padded.fill::<Wide>(image);
        let mut winners = part.winners.as_mut().map(|winners| &mut winners[index * values..][..values]);
        unsafe {
            convolve::<Wide>(conv, &padded, &weights.wide, bias, 0..weights.split, output, winners.as_deref_mut());
            let narrow = weights.split..conv.channels_out;
            convolve::<Narrow>(conv, &padded, &weights.narrow, bias, narrow, output, winners);
        }
    }
}

/// Computes some of the channels for one image.
#[inline(always)]
unsafe fn convolve<L: Lanes>(
    conv: &ConvPool,
    padded: &Padded<L::Factor>,
    blocks: &Blocks<L::Factor>,
    bias: &[f32],
    channels: std::ops::Range<usize>,
    output: &mut [f32],
    mut winners: Option<&mut [u8]>,
) {
    let [height, width, _] = conv.output();
    for (block, first) in channels.clone().step_by(L::COUNT).enumerate() {
        let lanes = L::COUNT.min(channels.end - first);
        let weights = &blocks.factors[block * blocks.taps * L::COUNT..];
        let mut start = [0.0; MOST];
        start[..lanes].copy_from_slice(&bias[first..first + lanes]);
        for row in 0..height {
            let mut column = 0;
            while column < width {
                let corner = &padded.factors[2 * row * padded.row + 2 * column * padded.pixel..];
                let tile = Tile { corner, row: padded.row, pixel: padded.pixel, weights, kernel: conv.kernel };
                let pooled = (COLUMNS / 2).min(width - column);
                let mut largest = [[0.0; MOST]; COLUMNS / 2];
                let mut winner = [[0; MOST]; COLUMNS / 2];
                // SAFETY: the tile's columns lie in the image.
                unsafe {
                    if pooled == COLUMNS / 2 {
                        tile.pool::<L, COLUMNS>(&start, &mut largest, &mut winner);
                    } else {
                        tile.pool::<L, 2>(&start, &mut largest, &mut winner);
                    }
                }
                for (index, (largest, winner)) in largest.iter().zip(&winner).take(pooled).enumerate() {
                    let begin = (row * width + column + index) * conv.channels_out + first;
                    output[begin..begin + lanes].copy_from_slice(&largest[..lanes]);
                    if let Some(winners) = &mut winners {
                        winners[begin..begin + lanes].copy_from_slice(&winner[..lanes]);
                    }
                }
                column += pooled;
            }
        }
    }
}

/// Some columns of two rows of the convolution's output.
struct Tile<'a, F> {
    /// The padded image from the tile's first pixel on.
    corner: &'a [F],
    row: usize,
    pixel: usize,
    /// `[tap][lane]`.
    weights: &'a [F],
    kernel: usize,
}

impl<F> Tile<'_, F> {
    /// Computes the convolution in N columns, and the largest of every four of its values.
    #[inline(always)]
    unsafe fn pool<L: Lanes<Factor = F>, const N: usize>(
        &self,
        start: &[f32; MOST],
        largest: &mut [[f32; MOST]],
        winner: &mut [[u8; MOST]],
    ) {
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
                    let weight = L::load_factors(weights);
                    for (sums, pixels) in sums.iter_mut().zip(&pixels) {
                        for (sum, pixel) in sums.iter_mut().zip(pixels) {
                            *sum = L::multiply_add(weight, L::splat(pixel.wrapping_add(tap)), *sum);
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
