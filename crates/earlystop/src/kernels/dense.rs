//! Fully-connected layers: products of matrices, and ReLU.
//!
//! The order of every sum follows from the layer's sizes alone: neither the number of threads nor that of lanes changes a bit.

use super::lanes::{Lanes, Processor};
use super::team::share;
use super::{Gradients, MOST_LANES};

/// Products below which another thread costs more than it saves.
const PRODUCTS_EACH: usize = 1 << 18;

/// Rows that are multiplied together, with as many outputs: enough sums to hide an addition's latency, few enough for the registers.
const TILE: usize = 4;

/// A fully-connected layer: `rows * weightᵀ + bias`, and ReLU of that where it is asked for.
///
/// Rows are `[batch, inputs]`, weights `[outputs, inputs]`, all row-major.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dense {
    inputs: usize,
    outputs: usize,
    rectifies: bool,
    processor: Processor,
}

impl Dense {
    pub(crate) fn new([outputs, inputs]: [usize; 2], rectifies: bool, processor: Processor) -> Self {
        Self { inputs, outputs, rectifies, processor }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Computes the output for a batch.
    ///
    /// Of each product of a row and an output's weights, 16 sums of every 16th value are added up, and then these.
    pub(crate) fn forward(&self, rows: &[f32], [weight, bias]: [&[f32]; 2], threads: usize, output: &mut [f32]) {
        self.check(rows, weight, output.len());
        assert_eq!(bias.len(), self.outputs, "expected all biases");
        let each = self.rows_each(rows.len() / self.inputs, threads, TILE);
        let parts = rows.chunks(each * self.inputs).zip(output.chunks_mut(each * self.outputs));
        let mut parts = parts.map(|(rows, output)| Part { rows, output }).collect::<Vec<_>>();
        share(&mut parts, threads, |part| {
            // SAFETY: the processor has the instructions, as checked above.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                match self.processor {
                    Processor::Avx2 => forward_by_eights(self, weight, bias, part),
                    Processor::Avx512 => forward_by_sixteens(self, weight, bias, part),
                }
            }
        });
    }

    /// Computes the gradients for a batch whose [`Dense::forward`] gave `output`; `gradient` is that of the output.
    ///
    /// Each value is one sum, over the rows or over the outputs, in their order.
    pub(crate) fn backward(
        &self,
        [rows, weight]: [&[f32]; 2],
        [output, gradient]: [&[f32]; 2],
        threads: usize,
        gradients: Gradients,
    ) {
        self.check(rows, weight, output.len());
        assert_eq!(gradient.len(), output.len(), "expected a gradient of each value of the output");
        let wanted = gradients.input.as_ref().map_or(rows.len(), |input| input.len());
        assert_eq!([wanted, gradients.weight.len()], [rows.len(), weight.len()], "expected room for all gradients");
        assert_eq!(gradients.bias.len(), self.outputs, "expected room for all gradients");
        let rectified;
        let gradient = if self.rectifies {
            let pass = |(&gradient, &output): (&f32, &f32)| if output <= 0.0 { 0.0 } else { gradient };
            rectified = gradient.iter().zip(output).map(pass).collect::<Vec<_>>();
            &rectified
        } else {
            gradient
        };
        gradients.bias.fill(0.0);
        for gradient in gradient.chunks_exact(self.outputs) {
            gradients.bias.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value);
        }
        let batch = rows.len() / self.inputs;
        let mut products = Vec::new();
        let each = self.rows_each(self.outputs, threads, Product::TILE);
        for (index, to) in gradients.weight.chunks_mut(each * self.inputs).enumerate() {
            let factors = gradient.get(index * each..).unwrap_or_default();
            products.push(Product { to, factors, steps: [1, self.outputs], rows, depth: batch });
        }
        let each = self.rows_each(batch, threads, Product::TILE);
        let input = gradients.input.into_iter().flat_map(|input| input.chunks_mut(each * self.inputs));
        for (to, factors) in input.zip(gradient.chunks(each * self.outputs)) {
            products.push(Product { to, factors, steps: [self.outputs, 1], rows: weight, depth: self.outputs });
        }
        share(&mut products, threads, |product| {
            // SAFETY: the processor has the instructions, as checked above.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                match self.processor {
                    Processor::Avx2 => multiply_by_eights(product, self.inputs),
                    Processor::Avx512 => multiply_by_sixteens(product, self.inputs),
                }
            }
        });
    }

    /// Checks what the unsafe code relies on: the processor, and arrays that belong together.
    fn check(&self, rows: &[f32], weight: &[f32], output: usize) {
        assert!(self.processor.is_present(), "expected a processor that is {:?}", self.processor);
        let batch = rows.len() / self.inputs;
        assert_eq!(
            [rows.len(), output],
            [batch * self.inputs, batch * self.outputs],
            "expected whole rows and outputs"
        );
        assert_eq!(weight.len(), self.outputs * self.inputs, "expected all weights");
    }

    /// Returns how many of `count` rows of a result a part has: two parts for each thread that pays, in whole tiles.
    fn rows_each(&self, count: usize, threads: usize, tile: usize) -> usize {
        let products = count * self.inputs * self.outputs;
        let parts = if products < PRODUCTS_EACH { 1 } else { 2 * threads };
        count.div_ceil(parts.max(1)).max(1).next_multiple_of(tile)
    }
}

/// Some of a batch's rows, and where to put what comes out.
struct Part<'a> {
    rows: &'a [f32],
    output: &'a mut [f32],
}

/// Computes the output for some rows with 16 lanes.
///
/// # Safety
///
/// The processor must be [`Processor::Avx512`], and the slices those of the layer.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
unsafe fn forward_by_sixteens(dense: &Dense, weight: &[f32], bias: &[f32], part: &mut Part) {
    // SAFETY: the caller ensures both.
    unsafe { forward::<super::lanes::Sixteen, 1, TILE>(dense, weight, bias, part) }
}

/// Computes the output for some rows with 8 lanes.
///
/// # Safety
///
/// The processor must be [`Processor::Avx2`] or a later one, and the slices those of the layer.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn forward_by_eights(dense: &Dense, weight: &[f32], bias: &[f32], part: &mut Part) {
    // SAFETY: the caller ensures both.
    unsafe { forward::<super::lanes::Eight, 2, { TILE / 2 }>(dense, weight, bias, part) }
}

/// Computes the output for some rows: N of them with N outputs at a time, whose sums are V vectors each, which hold 16 values.
///
/// # Safety
///
/// The processor must have the lanes' instructions. The weights must be those of all outputs, the output as many as the rows.
#[inline(always)]
unsafe fn forward<L: Lanes, const V: usize, const N: usize>(
    dense: &Dense,
    weight: &[f32],
    bias: &[f32],
    part: &mut Part,
) {
    let (inputs, outputs) = (dense.inputs, dense.outputs);
    let count = part.rows.len() / inputs;
    for output in (0..outputs).step_by(N) {
        for row in (0..count).step_by(N) {
            let (rows, columns) = (indices(row, count), indices(output, outputs));
            // SAFETY: the caller ensures the instructions; each row and each output's weights have `inputs` values.
            let sums = unsafe {
                let from = rows.map(|row| part.rows[row * inputs..][..inputs].as_ptr());
                let weights = columns.map(|output| weight[output * inputs..][..inputs].as_ptr());
                dot_products::<L, V, N>(from, weights, inputs)
            };
            for (&row, sums) in rows.iter().zip(&sums) {
                for (&output, &sum) in columns.iter().zip(sums) {
                    let value = sum + bias[output];
                    // NaN stays NaN.
                    let value = if dense.rectifies && value <= 0.0 { 0.0 } else { value };
                    part.output[row * outputs + output] = value;
                }
            }
        }
    }
}

/// Returns N indices from the first one on; instead of those that are missing at the end, the last one again.
fn indices<const N: usize>(first: usize, count: usize) -> [usize; N] {
    std::array::from_fn(|i| (first + i).min(count - 1))
}

/// Computes the products of N rows with N others.
///
/// # Safety
///
/// The processor must have the lanes' instructions; each row must be valid for reading `length` values.
#[inline(always)]
unsafe fn dot_products<L: Lanes, const V: usize, const N: usize>(
    rows: [*const f32; N],
    others: [*const f32; N],
    length: usize,
) -> [[f32; N]; N] {
    const { assert!(V * L::COUNT == MOST_LANES) }
    // SAFETY: the caller ensures the instructions and the rows; the rest of a row is copied to as many zeros as are read.
    unsafe {
        let zeros = [0.0; MOST_LANES];
        let mut sums = [[[L::load(zeros.as_ptr()); V]; N]; N];
        let rest = length % MOST_LANES;
        for i in (0..length - rest).step_by(MOST_LANES) {
            add_products::<L, V, N>(&mut sums, rows.map(|row| row.add(i)), others.map(|row| row.add(i)));
        }
        if rest > 0 {
            let [rows, others] = [rows, others].map(|rows| {
                rows.map(|row| {
                    let mut filled = zeros;
                    std::ptr::copy_nonoverlapping(row.add(length - rest), filled.as_mut_ptr(), rest);
                    filled
                })
            });
            let [rows, others] = [&rows, &others].map(|rows| rows.each_ref().map(|row| row.as_ptr()));
            add_products::<L, V, N>(&mut sums, rows, others);
        }
        let mut products = [[0.0; N]; N];
        for (products, sums) in products.iter_mut().zip(&sums) {
            for (product, sums) in products.iter_mut().zip(sums) {
                *product = L::total(sums);
            }
        }
        products
    }
}

/// Adds the products of 16 values of each row with those of each other row.
///
/// # Safety
///
/// The processor must have the lanes' instructions; each row must be valid for reading 16 values.
#[inline(always)]
unsafe fn add_products<L: Lanes, const V: usize, const N: usize>(
    sums: &mut [[[L::Vector; V]; N]; N],
    rows: [*const f32; N],
    others: [*const f32; N],
) {
    for vector in 0..V {
        // SAFETY: the caller ensures the same.
        unsafe {
            let mut vectors = [L::load(others[0].add(vector * L::COUNT)); N];
            for (vector_of, row) in vectors.iter_mut().zip(others).skip(1) {
                *vector_of = L::load(row.add(vector * L::COUNT));
            }
            for (sums, row) in sums.iter_mut().zip(rows) {
                let row = L::load(row.add(vector * L::COUNT));
                for (sum, &other) in sums.iter_mut().zip(&vectors) {
                    sum[vector] = L::multiply_add(row, other, sum[vector]);
                }
            }
        }
    }
}

/// A product of two matrices: row `m` of the result is the sum of `rows`, the `k`-th one times factor `[m, k]`.
struct Product<'a> {
    to: &'a mut [f32],
    factors: &'a [f32],
    /// How far it is from one factor to the next, along `m` and `k`.
    steps: [usize; 2],
    rows: &'a [f32],
    /// How many rows are added up.
    depth: usize,
}

impl Product<'_> {
    /// Rows of the result that are computed together.
    const TILE: usize = 8;
}

/// Computes a product with 16 lanes.
///
/// # Safety
///
/// The processor must be [`Processor::Avx512`], and the product's slices as long as its sizes say.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
unsafe fn multiply_by_sixteens(product: &mut Product, width: usize) {
    // SAFETY: the caller ensures both.
    unsafe { multiply::<super::lanes::Sixteen, { Product::TILE }, 3>(product, width) }
}

/// Computes a product with 8 lanes.
///
/// # Safety
///
/// The processor must be [`Processor::Avx2`] or a later one, and the product's slices as long as its sizes say.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_by_eights(product: &mut Product, width: usize) {
    // SAFETY: the caller ensures both.
    unsafe { multiply::<super::lanes::Eight, { Product::TILE / 2 }, 3>(product, width) }
}

/// Computes a product of rows of `width` values: M rows and V vectors at a time.
///
/// # Safety
///
/// The processor must have the lanes' instructions. The result must be whole rows, `rows` as many as are added up, and there must be
/// a factor for each row of the result and each of `rows`.
#[inline(always)]
unsafe fn multiply<L: Lanes, const M: usize, const V: usize>(product: &mut Product, width: usize) {
    let Product { to, factors, steps: [step, next], rows, depth } = product;
    let count = to.len() / width;
    if width < L::COUNT {
        for (m, to) in to.chunks_exact_mut(width).enumerate() {
            to.fill(0.0);
            for (k, row) in rows.chunks_exact(width).take(*depth).enumerate() {
                let factor = factors[m * *step + k * *next];
                to.iter_mut().zip(row).for_each(|(sum, value)| *sum = value.mul_add(factor, *sum));
            }
        }
        return;
    }
    let mut column = 0;
    while column < width {
        let is_wide = width - column >= V * L::COUNT;
        // At the end, a vector overlaps the one before.
        let begin = if is_wide { column } else { column.min(width - L::COUNT) };
        for first in (0..count).step_by(M) {
            let lines = M.min(count - first);
            // SAFETY: the caller ensures the instructions and the sizes; the vectors from `begin` on lie within a row.
            unsafe {
                let factors = factors.as_ptr().wrapping_add(first * *step);
                let (rows, to) = (rows.as_ptr().wrapping_add(begin), to.as_mut_ptr().add(first * width + begin));
                if is_wide {
                    multiply_tile::<L, M, V>(lines, (factors, [*step, *next]), (rows, *depth), to, width);
                } else {
                    multiply_tile::<L, M, 1>(lines, (factors, [*step, *next]), (rows, *depth), to, width);
                }
            }
        }
        column = begin + if is_wide { V * L::COUNT } else { L::COUNT };
    }
}

/// Computes V vectors of up to M rows of a product.
///
/// # Safety
///
/// The processor must have the lanes' instructions. There must be at least one line; for each, `to` must be valid for writing V vectors,
/// and there must be `depth` factors. If `depth` is not 0, as many rows must be valid for reading V vectors.
#[inline(always)]
unsafe fn multiply_tile<L: Lanes, const M: usize, const V: usize>(
    lines: usize,
    (factors, [step, next]): (*const f32, [usize; 2]),
    (rows, depth): (*const f32, usize),
    to: *mut f32,
    width: usize,
) {
    // SAFETY: the caller ensures the same; the array of zeros has as many values as the widest lanes. Lines that are missing take
    // the factors of the last one, and are not written.
    unsafe {
        let mut sums = [[L::load([0.0; MOST_LANES].as_ptr()); V]; M];
        let mut line = [factors; M];
        line.iter_mut().enumerate().for_each(|(m, line)| *line = factors.wrapping_add(m.min(lines - 1) * step));
        for k in 0..depth {
            let row = rows.add(k * width);
            let mut vectors = [L::load(row); V];
            for (v, vector) in vectors.iter_mut().enumerate().skip(1) {
                *vector = L::load(row.add(v * L::COUNT));
            }
            for (sums, line) in sums.iter_mut().zip(line) {
                let factor = L::splat(*line.add(k * next));
                for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                    *sum = L::multiply_add(vector, factor, *sum);
                }
            }
        }
        for (m, sums) in sums.iter().enumerate().take(lines) {
            for (v, &sum) in sums.iter().enumerate() {
                L::store(sum, to.add(m * width + v * L::COUNT));
            }
        }
    }
}
