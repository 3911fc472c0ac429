//! Convolution with fewer multiplications, by S. Winograd's minimal filtering: four neighbours of the output, which a kernel of
//! 5 x 5 makes from 100 products per channel, need no more than 36.
//!
//! Image and kernel are taken for polynomials, and evaluated at a few points; there one product for each point is the whole
//! convolution. See A. Lavin and S. Gray, *Fast Algorithms for Convolutional Neural Networks* (2015). Sums and differences of
//! the values round a little more than the products they replace: results differ by some millionths of the largest.

use super::lanes::Lanes;
use super::packed::{Aligned, Blocks, Padded};
use super::part::{Output, Part, Weights};
use super::{ConvPool, MOST_LANES as MOST};

/// Where the polynomials are evaluated: the first of these, and infinity, as many together as a tile's row has values. Of small
/// numbers, these lose the least in rounding.
const POINTS: [f32; 5] = [0.0, 1.0, -1.0, 2.0, -0.5];

/// Tiles that are multiplied together: as many sums as hide an addition's latency.
const TILES: usize = 8;

/// The matrices for tiles of N x N pixels and kernels of one less, whose outputs are 2 x 2.
struct Transforms<const N: usize>;

impl<const N: usize> Transforms<N> {
    /// For each point the factors of a row's values: the product of `x - other` over all other points, by powers of x.
    const IMAGE: [[f32; N]; N] = {
        let mut rows = [[0.0; N]; N];
        let mut i = 0;
        while i < N {
            rows[i][0] = 1.0;
            let mut j = 0;
            while j < N - 1 {
                if j != i {
                    let mut power = N - 1;
                    while power > 0 {
                        rows[i][power] = rows[i][power - 1] - POINTS[j] * rows[i][power];
                        power -= 1;
                    }
                    rows[i][0] *= -POINTS[j];
                }
                j += 1;
            }
            i += 1;
        }
        rows
    };

    /// For each point its powers, divided by its distances from the others; the last of a row's N factors is never used.
    const WEIGHT: [[f32; N]; N] = {
        let mut rows = [[0.0; N]; N];
        rows[N - 1][N - 2] = 1.0;
        let mut i = 0;
        while i < N - 1 {
            let mut value = 1.0;
            let mut j = 0;
            while j < N - 1 {
                if j != i {
                    value /= POINTS[i] - POINTS[j];
                }
                j += 1;
            }
            let mut power = 0;
            while power < N {
                rows[i][power] = value;
                value *= POINTS[i];
                power += 1;
            }
            i += 1;
        }
        rows
    };

    /// For each of two outputs the points' powers.
    const OUTPUT: [[f32; N]; 2] = {
        let mut rows = [[1.0; N], [1.0; N]];
        rows[0][N - 1] = 0.0;
        let mut i = 0;
        while i < N - 1 {
            rows[1][i] = POINTS[i];
            i += 1;
        }
        rows
    };
}

impl ConvPool {
    /// Whether minimal filtering pays: below, the transforms cost more than they save; above, they round too much.
    pub(super) fn is_minimal(&self) -> bool {
        (3..=5).contains(&self.kernel) && self.input[2] >= 8 && self.channels_out >= 8
    }

    /// Evaluates all kernels at all points: `[channels_out][points][channels_in]`.
    pub(super) fn transform(&self, weight: &[f32]) -> Vec<f32> {
        match self.kernel {
            3 => self.transform_to::<4>(weight),
            4 => self.transform_to::<5>(weight),
            _ => self.transform_to::<6>(weight),
        }
    }

    fn transform_to<const N: usize>(&self, weight: &[f32]) -> Vec<f32> {
        let (pixel, row) = (self.input[2], self.kernel * self.input[2]);
        let mut transformed = vec![0.0; self.channels_out * N * N * pixel];
        let mut rows = vec![0.0; N * row];
        for (weight, points) in weight.chunks_exact(self.taps()).zip(transformed.chunks_exact_mut(N * N * pixel)) {
            for (sum, factors) in rows.chunks_exact_mut(row).zip(&Transforms::<N>::WEIGHT) {
                combine(sum, factors, weight.chunks_exact(row));
            }
            for (points, row) in points.chunks_exact_mut(N * pixel).zip(rows.chunks_exact(row)) {
                for (sum, factors) in points.chunks_exact_mut(pixel).zip(&Transforms::<N>::WEIGHT) {
                    combine(sum, factors, row.chunks_exact(pixel));
                }
            }
        }
        transformed
    }
}

/// Adds up some values, each times its factor.
fn combine<'a>(sum: &mut [f32], factors: &[f32], values: impl Iterator<Item = &'a [f32]>) {
    sum.fill(0.0);
    for (factor, values) in factors.iter().zip(values) {
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
    }
}

/// Computes the output for some images, with transformed weights.
///
/// # Safety
///
/// The processor must have the lanes' instructions; the weights must be transformed by [`ConvPool::transform`].
#[inline(always)]
pub(super) unsafe fn run<Wide: Lanes, Narrow: Lanes>(
    conv: &ConvPool,
    weights: &Weights,
    bias: &[f32],
    part: &mut Part,
) {
    // SAFETY: the caller ensures the same.
    unsafe {
        match conv.kernel {
            3 => run_in::<Wide, Narrow, 4>(conv, weights, bias, part),
            4 => run_in::<Wide, Narrow, 5>(conv, weights, bias, part),
            _ => run_in::<Wide, Narrow, 6>(conv, weights, bias, part),
        }
    }
}

/// [`run`] for tiles of N x N pixels, and so kernels of one less.
///
/// # Safety
///
/// As [`run`].
#[inline(always)]
unsafe fn run_in<Wide: Lanes, Narrow: Lanes, const N: usize>(
    conv: &ConvPool,
    weights: &Weights,
    bias: &[f32],
    part: &mut Part,
) {
    let mut padded = Padded::new::<Wide>(conv);
    let mut tiles = Tiles::<N>::new::<Wide>(conv);
    let ([input, values], [height, width, channels]) = (conv.values(), conv.output());
    for (index, image) in part.images.chunks_exact(input).enumerate() {
        padded.fill(image);
        for row in 0..height {
            let mut output = part.output.from(index * values + row * width * channels);
            // SAFETY: the caller ensures the instructions; image, weights and tiles are arranged for these lanes.
            unsafe {
                tiles.evaluate::<Wide>(&padded, row);
                tiles.convolve::<Wide>(&weights.wide, bias, 0..weights.split, &mut output);
                tiles.convolve::<Narrow>(&weights.narrow, bias, weights.split..channels, &mut output);
            }
        }
    }
}

/// A row of overlapping `N x N` tiles with stride 2.
struct Tiles<const N: usize> {
    count: usize,
    channels: usize,
    /// Channels, filled up to whole vectors.
    filled: usize,
    channels_out: usize,
    /// Of one vector's channels, all columns of pixels evaluated: `[point][column]`.
    columns: Aligned,
    /// `[point][point][tile][filled]`.
    points: Aligned,
    /// Of one block and some tiles, the products at one row of points: `[point][tile][lane]`.
    products: Aligned,
    /// Of the same, the two columns of outputs at all rows of points: `[point][column][tile][lane]`.
    halves: Aligned,
}

impl<const N: usize> Tiles<N> {
    fn new<L: Lanes>(conv: &ConvPool) -> Self {
        let (count, channels) = (conv.output()[1], conv.input[2]);
        let filled = channels.next_multiple_of(L::COUNT);
        Self {
            count,
            channels,
            filled,
            channels_out: conv.channels_out,
            columns: Aligned::new(N * conv.padded()[1] * L::COUNT),
            points: Aligned::new(N * N * count * filled),
            products: Aligned::new(N * TILES * L::COUNT),
            halves: Aligned::new(N * 2 * TILES * L::COUNT),
        }
    }

    /// Evaluates one row of an image's tiles at all points.
    ///
    /// # Safety
    ///
    /// The processor must have the lanes' instructions; the image must be the convolution's, and the tiles made for these lanes.
    #[inline(always)]
    unsafe fn evaluate<L: Lanes>(&mut self, image: &Padded, row: usize) {
        let width = 2 * self.count + N - 2;
        let corner = image.values[2 * row * image.row..].as_ptr();
        let (columns, points) = (self.columns.as_mut_ptr(), self.points.as_mut_ptr());
        for channel in (0..self.channels).step_by(L::COUNT) {
            // SAFETY: the tiles' N rows and their columns lie in the padded image; its last pixel's channels may be less than a
            // vector, and behind the image there is a vector more. The tiles have room for whole vectors.
            unsafe {
                for column in 0..width {
                    let pixel = corner.add(column * image.pixel + channel);
                    let to = columns.add(column * L::COUNT);
                    transform::<L, N, N>(&Transforms::<N>::IMAGE, pixel, image.row, to, width * L::COUNT);
                }
                for point in 0..N {
                    for tile in 0..self.count {
                        let pixel = columns.add((point * width + 2 * tile) * L::COUNT);
                        let to = points.add((point * N * self.count + tile) * self.filled + channel);
                        let next = self.count * self.filled;
                        transform::<L, N, N>(&Transforms::<N>::IMAGE, pixel, L::COUNT, to, next);
                    }
                }
            }
        }
    }

    /// Computes some of the output's channels for the row of tiles.
    ///
    /// # Safety
    ///
    /// The processor must have the lanes' instructions. The blocks must be arranged for these lanes, with a weight for each point,
    /// input channel and lane of all channels.
    #[inline(always)]
    unsafe fn convolve<L: Lanes>(
        &mut self,
        blocks: &Blocks,
        bias: &[f32],
        channels: std::ops::Range<usize>,
        output: &mut Output,
    ) {
        let each = self.count.div_ceil(self.count.div_ceil(TILES));
        for (block, first) in channels.clone().step_by(L::COUNT).enumerate() {
            let lanes = L::COUNT.min(channels.end - first);
            let weights = &blocks.values[block * blocks.taps * L::COUNT..];
            let mut start = [0.0; MOST];
            start[..lanes].copy_from_slice(&bias[first..first + lanes]);
            for begin in (0..self.count).step_by(each) {
                let count = each.min(self.count - begin);
                // SAFETY: the caller ensures the instructions; `weights` begins with this block's, and the tiles are there.
                unsafe {
                    self.multiply::<L>(weights, begin, count);
                    for tile in 0..count {
                        let (mut largest, mut winner) = ([0.0; MOST], [0; MOST]);
                        self.pool::<L>(tile, &start, &mut largest, &mut winner);
                        let place = (begin + tile) * self.channels_out + first;
                        output.put(place, &largest[..lanes], &winner[..lanes]);
                    }
                }
            }
        }
    }

    /// Multiplies some tiles by the weights, at all points, and turns the products of each row of points into two columns.
    ///
    /// # Safety
    ///
    /// The processor must have the lanes' instructions. The weights must have a value for each point, input channel and lane;
    /// there must be `count` tiles from `begin` on, at most [`TILES`].
    #[inline(always)]
    unsafe fn multiply<L: Lanes>(&mut self, weights: &[f32], begin: usize, count: usize) {
        let (products, halves) = (self.products.as_mut_ptr(), self.halves.as_mut_ptr());
        let next = TILES * L::COUNT;
        // SAFETY: the caller ensures the weights and tiles; products and halves have room for `TILES` vectors at every place.
        unsafe {
            for row in 0..N {
                for column in 0..N {
                    let point = row * N + column;
                    let tiles = self.points.as_ptr().add((point * self.count + begin) * self.filled);
                    let weights = weights.as_ptr().add(point * self.channels * L::COUNT);
                    let sums = products.add(column * next);
                    match count {
                        1 => self.multiply_at::<L, 1>(tiles, weights, sums),
                        2 => self.multiply_at::<L, 2>(tiles, weights, sums),
                        3 => self.multiply_at::<L, 3>(tiles, weights, sums),
                        4 => self.multiply_at::<L, 4>(tiles, weights, sums),
                        5 => self.multiply_at::<L, 5>(tiles, weights, sums),
                        6 => self.multiply_at::<L, 6>(tiles, weights, sums),
                        7 => self.multiply_at::<L, 7>(tiles, weights, sums),
                        _ => self.multiply_at::<L, 8>(tiles, weights, sums),
                    }
                }
                for tile in 0..count {
                    let (from, to) = (products.add(tile * L::COUNT), halves.add(row * 2 * next + tile * L::COUNT));
                    transform::<L, 2, N>(&Transforms::<N>::OUTPUT, from, next, to, next);
                }
            }
        }
    }

    /// Multiplies T tiles by the weights, at one point.
    ///
    /// # Safety
    ///
    /// The processor must have the lanes' instructions. The weights must be valid for a vector for each input channel, the tiles
    /// for a value for each input channel of T tiles, the products for writing T vectors.
    #[inline(always)]
    unsafe fn multiply_at<L: Lanes, const T: usize>(&self, tiles: *const f32, weights: *const f32, products: *mut f32) {
        // SAFETY: the caller ensures the same; the array of zeros has as many values as the widest lanes.
        unsafe {
            let mut sums = [L::load([0.0; MOST].as_ptr()); T];
            for channel in 0..self.channels {
                let weight = L::load(weights.add(channel * L::COUNT));
                for (tile, sum) in sums.iter_mut().enumerate() {
                    *sum = L::multiply_add(weight, L::splat(*tiles.add(tile * self.filled + channel)), *sum);
                }
            }
            for (tile, sum) in sums.iter().enumerate() {
                L::store(*sum, products.add(tile * L::COUNT));
            }
        }
    }

    /// Computes a tile's four outputs, and the largest of them.
    ///
    /// # Safety
    ///
    /// The processor must have the lanes' instructions, and the tile must be less than [`TILES`].
    #[inline(always)]
    unsafe fn pool<L: Lanes>(
        &self,
        tile: usize,
        start: &[f32; MOST],
        largest: &mut [f32; MOST],
        winner: &mut [u8; MOST],
    ) {
        let next = TILES * L::COUNT;
        let half = self.halves[tile * L::COUNT..].as_ptr();
        // SAFETY: the caller ensures the instructions; of each tile the halves have two vectors for each row of points, and the
        // arrays have `MOST` values, as many as the widest lanes.
        unsafe {
            let start = L::load(start.as_ptr());
            let [above_left, below_left] = combine_vectors::<L, 2, N>(&Transforms::<N>::OUTPUT, start, half, 2 * next);
            let [above_right, below_right] =
                combine_vectors::<L, 2, N>(&Transforms::<N>::OUTPUT, start, half.add(next), 2 * next);
            let window = [above_left, above_right, below_left, below_right];
            L::store(L::largest(window, winner.as_mut_ptr()), largest.as_mut_ptr());
        }
    }
}

/// Writes down M sums of N vectors, each times its factor. From one vector to the next, it is `next` values.
///
/// # Safety
///
/// The processor must have the lanes' instructions. `from` must be valid for N vectors at these distances, `to` for writing M.
#[inline(always)]
unsafe fn transform<L: Lanes, const M: usize, const N: usize>(
    factors: &[[f32; N]; M],
    from: *const f32,
    next_from: usize,
    to: *mut f32,
    next_to: usize,
) {
    // SAFETY: the caller ensures the same; the array of zeros has as many values as the widest lanes.
    unsafe {
        let zeros = L::load([0.0; MOST].as_ptr());
        for (i, sum) in combine_vectors::<L, M, N>(factors, zeros, from, next_from).into_iter().enumerate() {
            L::store(sum, to.add(i * next_to));
        }
    }
}

/// Adds to each of M sums N vectors, each times its factor.
///
/// # Safety
///
/// The processor must have the lanes' instructions. `from` must be valid for N vectors, `next` values from one to the next.
#[inline(always)]
unsafe fn combine_vectors<L: Lanes, const M: usize, const N: usize>(
    factors: &[[f32; N]; M],
    start: L::Vector,
    from: *const f32,
    next: usize,
) -> [L::Vector; M] {
    let mut sums = [start; M];
    // SAFETY: the caller ensures that the vectors are there.
    unsafe {
        for i in 0..N {
            let values = L::load(from.add(i * next));
            for (sum, factors) in sums.iter_mut().zip(factors) {
                if factors[i] != 0.0 {
                    *sum = L::multiply_add(values, L::splat(factors[i]), *sum);
                }
            }
        }
    }
    sums
}
