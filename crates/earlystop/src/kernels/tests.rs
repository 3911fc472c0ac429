//! The kernels against libtorch, on every processor that this one can stand for.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::*;

/// Returns the processors whose instructions this one has.
fn processors() -> Vec<Processor> {
    match Processor::detect() {
        None => vec![],
        Some(Processor::Avx2) => vec![Processor::Avx2],
        Some(Processor::Avx512) => vec![Processor::Avx2, Processor::Avx512],
    }
}

/// One convolution, pooling and ReLU, to be computed by both.
struct Case {
    conv: ConvPool,
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    /// With the same axes as the output: `[batch, height, width, channels]`.
    gradient: Tensor,
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.contiguous().view([-1]).try_into().unwrap()
}

impl Case {
    fn new(input: [usize; 3], channels_out: usize, kernel: usize, pads: [usize; 4], processor: Processor) -> Self {
        Self::of_batch(5, input, channels_out, kernel, pads, processor)
    }

    fn of_batch(
        batch: usize,
        input: [usize; 3],
        channels_out: usize,
        kernel: usize,
        pads: [usize; 4],
        processor: Processor,
    ) -> Self {
        let conv = ConvPool::new(input, channels_out, kernel, pads, processor).unwrap();
        // Always the same: of two values that are nearly the same, two ways of rounding could find either to be the largest.
        let mut generator = ChaCha8Rng::seed_from_u64(4);
        let mut random = |size: &[usize]| {
            let values: Vec<f32> = (0..size.iter().product()).map(|_| generator.gen_range(-1.0..1.0)).collect();
            Tensor::from_slice(&values).reshape(size.iter().map(|&size| size as i64).collect::<Vec<_>>())
        };
        let [height, width, channels] = conv.output();
        Self {
            images: random(&[batch, input[0], input[1], input[2]]),
            weight: random(&[channels_out, kernel, kernel, input[2]]),
            bias: random(&[channels_out]),
            gradient: random(&[batch, height, width, channels]),
            conv,
        }
    }

    fn found(&self, threads: usize) -> [Vec<f32>; 4] {
        let (images, weight, bias) = (values(&self.images), values(&self.weight), values(&self.bias));
        let mut output = vec![f32::NAN; self.gradient.numel()];
        let mut winners = vec![9; output.len()];
        self.conv.forward(&images, [&weight, &bias], threads, &mut output, Some(&mut winners));
        let mut gradients = [weight.len(), bias.len(), images.len()].map(|length| vec![f32::NAN; length]);
        let [weight_gradient, bias_gradient, image_gradient] = &mut gradients;
        let wanted = Gradients { weight: weight_gradient, bias: bias_gradient, input: Some(image_gradient) };
        self.conv.backward(&images, &weight, &winners, &values(&self.gradient), threads, wanted);
        let [weight, bias, images] = gradients;
        [output, weight, bias, images]
    }

    fn expected(&self) -> [Vec<f32>; 4] {
        let leaves = [&self.images, &self.weight, &self.bias].map(|leaf| leaf.copy().set_requires_grad(true));
        let [images, weight, bias] = &leaves;
        let [left, right, top, bottom] = self.conv.pads.map(|pad| pad as i64);
        let padded = images.permute([0, 3, 1, 2]).constant_pad_nd([left, right, top, bottom]);
        let convolved = padded.conv2d(&weight.permute([0, 3, 1, 2]), Some(bias), [1, 1], [0, 0], [1, 1], 1);
        let output = convolved.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false).relu().permute([0, 2, 3, 1]);
        let loss = (&output * &self.gradient).sum(Kind::Float);
        let gradients = Tensor::run_backward(&[loss], &[weight, bias, images], false, false);
        [values(&output), values(&gradients[0]), values(&gradients[1]), values(&gradients[2])]
    }
}

/// Says how far apart two lists are, in parts of the largest value.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max) / largest
}

#[test]
fn values_and_gradients_are_libtorchs() {
    for processor in processors() {
        for (input, channels_out, kernel, pads) in [
            ([28, 28, 1], 16, 5, [2, 2, 2, 2]),
            ([14, 14, 16], 36, 5, [2, 2, 2, 2]),
            ([6, 10, 3], 7, 3, [1, 1, 1, 1]),
            ([8, 8, 4], 25, 4, [1, 2, 1, 2]),
            ([6, 6, 2], 1, 3, [0, 0, 0, 0]),
            ([2, 2, 40], 50, 1, [0, 0, 0, 0]),
            // Minimal filtering: more tiles than are multiplied together; channels for more than one vector.
            ([10, 34, 8], 25, 3, [1, 1, 1, 1]),
            ([8, 8, 20], 8, 4, [1, 2, 1, 2]),
            ([14, 14, 16], 36, 7, [3, 3, 3, 3]),
        ] {
            let case = Case::new(input, channels_out, kernel, pads, processor);
            for (found, expected) in case.found(2).iter().zip(case.expected()) {
                let distance = distance(found, &expected);
                assert!(distance < 5e-6, "{distance} of {input:?}, {channels_out}, {kernel} on {processor:?}");
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for processor in processors() {
        for batch in [1, 7, 63, 65] {
            let case = Case::of_batch(batch, [14, 14, 16], 36, 5, [2, 2, 2, 2], processor);
            let expected = case.found(1);
            for threads in [2, 3, 4, 8] {
                assert_eq!(case.found(threads), expected, "{threads} threads, {batch} images, {processor:?}");
            }
        }
    }
}

/// The images' gradients are added up in tiles of the kernels that are as large as the registers allow.
#[test]
fn the_number_of_lanes_changes_no_bit_but_of_the_images_gradients() {
    for (input, channels_out, kernel) in
        [([28, 28, 1], 16, 5), ([14, 14, 16], 36, 5), ([14, 14, 16], 36, 7), ([6, 10, 3], 7, 3)]
    {
        let mut found = processors().into_iter().map(|processor| {
            let case = Case::of_batch(20, input, channels_out, kernel, [kernel / 2; 4], processor);
            let [output, weight, bias, _] = case.found(2);
            [output, weight, bias]
        });
        let Some(first) = found.next() else { return };
        assert!(found.all(|other| other == first), "{input:?}, {channels_out}, {kernel}");
    }
}

#[test]
fn nan_comes_through() {
    let ways = [(2, 3), (8, 9)];
    for (processor, (channels_in, channels)) in processors().into_iter().flat_map(|one| ways.map(|way| (one, way))) {
        let mut case = Case::new([6, 6, channels_in], channels, 3, [1, 1, 1, 1], processor);
        let _ = case.images.get(1).get(2).get(2).fill_(f64::NAN);
        let [output, weight, ..] = case.found(2);
        // The pixel is in windows of rows and columns 1 to 3, which go into two pooled rows and columns.
        let per_image = output.len() / 5;
        for (index, value) in output.iter().enumerate() {
            let (row, column) = (index % per_image / (3 * channels), index % per_image / channels % 3);
            let expected = index / per_image == 1 && row < 2 && column < 2;
            assert_eq!(value.is_nan(), expected, "image {}, row {row}, column {column}", index / per_image);
        }
        assert!(weight.iter().any(|value| value.is_nan()));
        case.bias = Tensor::full([channels as i64], f64::NAN, (Kind::Float, Device::Cpu));
        assert!(case.found(2)[0].iter().all(|value| value.is_nan()));
    }
}

#[test]
fn an_odd_output_is_not_for_these_kernels() {
    let processor = Processor::Avx2;
    assert_eq!(ConvPool::new([7, 8, 1], 1, 3, [1, 1, 1, 1], processor), None);
    assert_eq!(ConvPool::new([8, 8, 1], 1, 4, [0, 0, 0, 0], processor), None);
}

/// A fully-connected layer with random values.
struct DenseCase {
    dense: Dense,
    inputs: usize,
    rows: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    gradient: Vec<f32>,
    rectifies: bool,
}

impl DenseCase {
    fn new(batch: usize, inputs: usize, outputs: usize, rectifies: bool, processor: Processor) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(5);
        let mut random = |count: usize| (0..count).map(|_| generator.gen_range(-1.0..1.0)).collect::<Vec<f32>>();
        let [rows, weight, bias] = [batch * inputs, outputs * inputs, outputs].map(&mut random);
        let gradient = random(batch * outputs);
        let dense = Dense::new([outputs, inputs], rectifies, processor);
        Self { dense, inputs, rows, weight, bias, gradient, rectifies }
    }

    /// Returns output, and gradients of weight, bias and rows.
    fn found(&self, threads: usize) -> [Vec<f32>; 4] {
        let mut output = vec![f32::NAN; self.gradient.len()];
        self.dense.forward(&self.rows, [&self.weight, &self.bias], threads, &mut output);
        let mut gradients = [&self.weight, &self.bias, &self.rows].map(|values| vec![f32::NAN; values.len()]);
        let [weight, bias, input] = &mut gradients;
        let wanted = Gradients { weight, bias, input: Some(input) };
        self.dense.backward([&self.rows, &self.weight], [&output, &self.gradient], threads, wanted);
        let [weight, bias, input] = gradients;
        [output, weight, bias, input]
    }

    /// Computes the same by the definition.
    fn expected(&self, output: &[f32]) -> [Vec<f32>; 4] {
        let (inputs, outputs) = (self.inputs, self.bias.len());
        let [mut expected, mut weight] = [&self.gradient, &self.weight].map(|values| vec![0.0; values.len()]);
        let [mut bias, mut input] = [&self.bias, &self.rows].map(|values| vec![0.0; values.len()]);
        for row in 0..self.rows.len() / inputs {
            for column in 0..outputs {
                let place = row * outputs + column;
                let sum =
                    (0..inputs).map(|i| self.rows[row * inputs + i] * self.weight[column * inputs + i]).sum::<f32>();
                expected[place] = sum + self.bias[column];
                if self.rectifies {
                    expected[place] = expected[place].max(0.0);
                }
                let gradient = if self.rectifies && output[place] <= 0.0 { 0.0 } else { self.gradient[place] };
                bias[column] += gradient;
                for i in 0..inputs {
                    weight[column * inputs + i] += gradient * self.rows[row * inputs + i];
                    input[row * inputs + i] += gradient * self.weight[column * inputs + i];
                }
            }
        }
        [expected, weight, bias, input]
    }
}

/// Batch, inputs and outputs: the tutorial's layers, sizes that no tile or vector divides, and the smallest.
const DENSE_SIZES: [[usize; 3]; 8] =
    [[64, 1764, 128], [64, 128, 10], [7, 100, 37], [65, 33, 5], [1, 1, 1], [3, 7, 9], [1, 500, 3], [33, 16, 64]];

#[test]
fn fully_connected_layers_are_what_their_definition_says() {
    for processor in processors() {
        for ([batch, inputs, outputs], rectifies) in
            DENSE_SIZES.into_iter().flat_map(|size| [(size, false), (size, true)])
        {
            let case = DenseCase::new(batch, inputs, outputs, rectifies, processor);
            let found = case.found(2);
            for (found, expected) in found.iter().zip(case.expected(&found[0])) {
                let distance = distance(found, &expected);
                assert!(distance < 5e-6, "{distance} of {batch} x {inputs} x {outputs} on {processor:?}");
            }
        }
    }
}

#[test]
fn neither_threads_nor_lanes_change_a_bit_of_fully_connected_layers() {
    for ([batch, inputs, outputs], rectifies) in DENSE_SIZES.into_iter().flat_map(|size| [(size, false), (size, true)])
    {
        let mut found = processors().into_iter().flat_map(|processor| {
            let case = DenseCase::new(batch, inputs, outputs, rectifies, processor);
            [1, 2, 3, 4, 8].map(|threads| case.found(threads))
        });
        let Some(first) = found.next() else { return };
        assert!(found.all(|other| other == first), "{batch} x {inputs} x {outputs}");
    }
}

#[test]
fn fully_connected_layers_take_no_rows_and_keep_nan() {
    for processor in processors() {
        let mut case = DenseCase::new(0, 20, 5, true, processor);
        assert_eq!(case.found(2), [vec![], vec![0.0; 100], vec![0.0; 5], vec![]]);
        case = DenseCase::new(3, 20, 5, true, processor);
        case.rows[20 + 19] = f32::NAN;
        let [output, weight, ..] = case.found(2);
        assert_eq!(
            output.iter().map(|value| value.is_nan()).collect::<Vec<_>>(),
            [[false; 5], [true; 5], [false; 5]].concat()
        );
        assert!(weight.chunks(20).all(|row| row[19].is_nan() && !row[18].is_nan()));
    }
}
