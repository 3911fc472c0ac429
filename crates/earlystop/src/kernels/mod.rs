//! Hand-written kernels for what convolutional networks spend their time on: a convolution whose output goes through a
//! 2 x 2 max-pooling and a ReLU, and fully-connected layers.
//!
//! Their results have the same bits on any number of threads: sums are added up in parts and in an order that depend on the
//! sizes alone.
//!
//! In the step of convolution, max-pooling and ReLU, the convolution's output, four times as large as the result, never goes
//! through memory. Kernels of usual sizes make do with fewer products than their definition has (`winograd.rs`). And of
//! max-pooling's gradient three quarters are exact zeros, of ReLU's many more, which libtorch's kernels multiply as any other
//! number, and these pass by.
//!
//! Plain slices in and out: this module knows neither tensors nor networks.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // There, no processor has lanes.

mod backward;
mod dense;
mod forward;
mod lanes;
mod packed;
mod part;
mod team;
mod winograd;

pub(crate) use dense::Dense;
pub(crate) use lanes::Processor;
pub(crate) use team::{libtorchs_threads_spin, share};

/// Names the instructions that libtorch chooses its own kernels by, as its `compute_cpu_capability` does.
pub(crate) fn libtorch_instructions() -> String {
    let chosen = std::env::var("ATEN_CPU_CAPABILITY").ok();
    match chosen.as_deref() {
        Some(chosen @ ("default" | "avx2" | "avx512")) => chosen.to_owned(),
        _ => lanes::libtorch_default().to_owned(),
    }
}

/// What [`ConvPool::forward`] notes of a value that ReLU made zero: no gradient goes through it.
///
/// Of the others it notes which of the window's four values was the largest: 0 and 1 above, 2 and 3 below.
const RECTIFIED: u8 = 4;

/// The largest number of lanes.
const MOST_LANES: usize = 16;

/// A convolution with stride 1, the largest of every 2 x 2 values of its output, and ReLU of that.
///
/// Images are `[batch, height, width, channels]`, weights `[channels_out, kernel, kernel, channels_in]`, all row-major.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConvPool {
    /// `[height, width, channels_in]` of an image.
    input: [usize; 3],
    channels_out: usize,
    kernel: usize,
    /// Border pixels `[left, right, top, bottom]`, of zeros.
    pads: [usize; 4],
    processor: Processor,
}

/// What [`ConvPool::backward`] and [`Dense::backward`] compute, where it is asked for.
pub(crate) struct Gradients<'a> {
    /// As the weights.
    pub(crate) weight: &'a mut [f32],
    /// As the biases.
    pub(crate) bias: &'a mut [f32],
    /// As the images or rows, if it is wanted.
    pub(crate) input: Option<&'a mut [f32]>,
}

impl ConvPool {
    /// Returns nothing where the convolution's output has an odd height or width.
    pub(crate) fn new(
        input: [usize; 3],
        channels_out: usize,
        kernel: usize,
        pads: [usize; 4],
        processor: Processor,
    ) -> Option<Self> {
        let conv_pool = Self { input, channels_out, kernel, pads, processor };
        let [height, width] = conv_pool.convolved();
        (height.is_multiple_of(2) && width.is_multiple_of(2)).then_some(conv_pool)
    }

    /// Returns `[height, width, channels]` of what comes out for one image.
    pub(crate) fn output(&self) -> [usize; 3] {
        let [height, width] = self.convolved();
        [height / 2, width / 2, self.channels_out]
    }

    /// Returns height and width between convolution and pooling.
    fn convolved(&self) -> [usize; 2] {
        let [height, width] = self.padded();
        [height + 1 - self.kernel, width + 1 - self.kernel]
    }

    /// Returns an image's height and width with its border.
    fn padded(&self) -> [usize; 2] {
        let ([height, width, _], [left, right, top, bottom]) = (self.input, self.pads);
        [top + height + bottom, left + width + right]
    }

    /// Returns the number of weights of one output channel.
    fn taps(&self) -> usize {
        self.kernel * self.kernel * self.input[2]
    }

    /// Returns the number of values of an image and of its output.
    fn values(&self) -> [usize; 2] {
        [self.input, self.output()].map(|sizes| sizes.iter().product())
    }

    /// Checks what the unsafe code relies on: the processor, and a batch whose arrays belong together.
    fn check(&self, images: &[f32], weight: &[f32], output: usize, winners: Option<usize>) {
        assert!(self.processor.is_present(), "expected a processor that is {:?}", self.processor);
        let [input, values] = self.values();
        let batch = images.len() / input;
        assert_eq!([images.len(), output], [batch * input, batch * values], "expected whole images and their outputs");
        assert_eq!(winners.unwrap_or(output), output, "expected a winner for each value of the output");
        assert_eq!(weight.len(), self.channels_out * self.taps(), "expected all weights");
    }

    /// Returns how many of a batch's images a part has. It depends on the batch alone, for sums over the parts to have the same
    /// order on any number of threads.
    fn images_each(&self, images: &[f32]) -> usize {
        const PARTS: usize = 16;
        const FEWEST: usize = 8; // with less, the parts' sums cost too much
        (images.len() / self.values()[0]).div_ceil(PARTS).max(FEWEST)
    }
}

#[cfg(test)]
mod tests;
