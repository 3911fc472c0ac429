//! From the output's gradient to those of weights, biases and images.

use super::lanes::{Lanes, Processor};
use super::packed::{Aligned, Padded};
use super::team::share_with;
use super::{ConvPool, Gradients, RECTIFIED};

/// The most vectors that are kept in registers.
const MOST: usize = 8;

/// Some of a batch's images, and the gradients that they contribute.
struct Part<'a> {
    images: &'a [f32],
    winners: &'a [u8],
    gradient: &'a [f32],
    /// `[channels_out][kernel][vectors of a row of the kernel]`.
    weight: Aligned,
    bias: Vec<f32>,
    image_gradients: Option<&'a mut [f32]>,
}

/// A value of the output that a gradient goes through.
#[derive(Clone, Copy, Default)]
struct Hit {
    /// Where what the gradient is multiplied by begins: in the padded image the window of the value that won, or in the
    /// weights the kernel of its channel.
    begin: usize,
    gradient: f32,
}

impl ConvPool {
    /// Adds up the gradients for a batch whose [`ConvPool::forward`] noted `winners`; `gradient` is that of its output.
    ///
    /// The same whatever was rounded on the way forward: all sums and products are of 32-bit floats. And the same on any number
    /// of threads.
    pub(crate) fn backward(
        &self,
        images: &[f32],
        weight: &[f32],
        winners: &[u8],
        gradient: &[f32],
        threads: usize,
        gradients: Gradients,
    ) {
        self.check(images, weight, gradient.len(), Some(winners.len()));
        let wanted = gradients.input.as_ref().map_or(images.len(), |input| input.len());
        assert_eq!([wanted, gradients.weight.len()], [images.len(), weight.len()], "expected room for all gradients");
        assert_eq!(gradients.bias.len(), self.channels_out, "expected room for all gradients");
        let rows = Rows::new(self, weight);
        let (images_each, [input, values]) = (self.images_each(images), self.values());
        let wants_images = gradients.input.is_some();
        let mut image_gradients = gradients.input.map(|images| images.chunks_mut(images_each * input));
        let chunks = images.chunks(images_each * input).zip(winners.chunks(images_each * values));
        let part = |((images, winners), gradient)| Part {
            images,
            winners,
            gradient,
            weight: Aligned::new(rows.count),
            bias: vec![0.0; self.channels_out],
            image_gradients: image_gradients.as_mut().and_then(Iterator::next),
        };
        let mut parts = chunks.zip(gradient.chunks(images_each * values)).map(part).collect::<Vec<_>>();
        #[cfg(target_arch = "x86_64")]
        match self.processor {
            Processor::Avx2 => {
                let scratch = || Scratch::new::<super::lanes::Eight>(self, &rows, wants_images);
                // SAFETY: the processor has the instructions, as checked above.
                share_with(&mut parts, threads, scratch, |scratch, part| unsafe { eight(self, &rows, scratch, part) });
            }
            Processor::Avx512 => {
                let scratch = || Scratch::new::<super::lanes::Sixteen>(self, &rows, wants_images);
                // SAFETY: as above.
                share_with(&mut parts, threads, scratch, |scratch, part| unsafe {
                    sixteen(self, &rows, scratch, part)
                });
            }
        }
        gradients.weight.fill(0.0);
        gradients.bias.fill(0.0);
        for part in parts {
            let padded = part.weight.chunks_exact(rows.padded);
            for (sums, row) in gradients.weight.chunks_exact_mut(rows.length).zip(padded) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            gradients.bias.iter_mut().zip(part.bias).for_each(|(sum, value)| *sum += value);
        }
    }
}

/// The weights, each row of a kernel filled up with zeros to whole vectors.
struct Rows {
    weight: Aligned,
    count: usize,
    length: usize,
    padded: usize,
}

impl Rows {
    fn new(conv: &ConvPool, weight: &[f32]) -> Self {
        let length = conv.kernel * conv.input[2];
        let padded = length.next_multiple_of(conv.processor.lanes());
        let count = weight.len() / length * padded;
        let mut rows = Aligned::new(count);
        for (row, values) in rows.chunks_exact_mut(padded).zip(weight.chunks_exact(length)) {
            row[..length].copy_from_slice(values);
        }
        Self { weight: rows, count, length, padded }
    }
}

/// Adds up the gradients of some images with 16 lanes.
///
/// # Safety
///
/// The processor must be [`Processor::Avx512`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
unsafe fn sixteen(conv: &ConvPool, rows: &Rows, scratch: &mut Scratch, part: &mut Part) {
    // SAFETY: the caller ensures the instructions.
    unsafe { run::<super::lanes::Sixteen>(conv, rows, scratch, part) }
}

/// Adds up the gradients of some images with 8 lanes.
///
/// # Safety
///
/// The processor must be [`Processor::Avx2`] or a later one.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn eight(conv: &ConvPool, rows: &Rows, scratch: &mut Scratch, part: &mut Part) {
    // SAFETY: the caller ensures the instructions.
    unsafe { run::<super::lanes::Eight>(conv, rows, scratch, part) }
}

/// What a thread works in: the padded image, its gradient, and its hits.
struct Scratch {
    image: Padded,
    image_gradient: Padded,
    hits: Hits,
}

impl Scratch {
    fn new<L: Lanes>(conv: &ConvPool, rows: &Rows, wants_images: bool) -> Self {
        let (image, image_gradient) = (Padded::new::<L>(conv), Padded::new::<L>(conv));
        let hits = Hits::new(conv, rows, &image, wants_images);
        Self { image, image_gradient, hits }
    }
}

/// Adds up the gradients of some images.
///
/// # Safety
///
/// The processor must have the lanes' instructions, and be the convolution's: its rows are filled up for these lanes, and the
/// scratch is made for them.
#[inline(always)]
unsafe fn run<L: Lanes>(conv: &ConvPool, rows: &Rows, scratch: &mut Scratch, part: &mut Part) {
    let Scratch { image, image_gradient, hits } = scratch;
    let [input, values] = conv.values();
    // Where the vectors of a kernel lie in an image.
    let vectors = rows.padded / L::COUNT;
    let places =
        (0..conv.kernel * vectors).map(|i| i / vectors * image.row + i % vectors * L::COUNT).collect::<Vec<_>>();
    let each = places.len().div_ceil(places.len().div_ceil(MOST));
    for (index, pixels) in part.images.chunks_exact(input).enumerate() {
        image.fill(pixels);
        let (winners, gradient) =
            (&part.winners[index * values..][..values], &part.gradient[index * values..][..values]);
        add_bias_gradient(&mut part.bias, winners, gradient);
        hits.find(winners, gradient);
        for (tile, places) in places.chunks(each).enumerate() {
            let begin = tile * each * L::COUNT;
            // SAFETY: the caller ensures the instructions. The hits' windows lie in the padded image. The last vector of a row of
            // a window may reach beyond it, by less than a vector, and behind the image there is a vector more. Kernels lie in
            // rows that are filled up to whole vectors.
            unsafe {
                let factors = [image.values.as_ptr(), rows.weight[begin..].as_ptr()];
                let gradients = [image_gradient.values.as_mut_ptr(), part.weight[begin..].as_mut_ptr()];
                // Constant numbers, for the vectors to stay in registers.
                macro_rules! add_gradients_of {
                    ($($count:literal)*) => {
                        match places.len() {
                            $($count => {
                                let mut in_window = [0; $count];
                                in_window.copy_from_slice(places);
                                add_gradients::<L, $count>(in_window, hits, factors, gradients);
                            })*
                            _ => unreachable!("at most as many as there are registers for"),
                        }
                    };
                }
                add_gradients_of!(1 2 3 4 5 6 7 8);
            }
        }
        if let Some(gradients) = &mut part.image_gradients {
            image_gradient.take(&mut gradients[index * input..][..input]);
        }
    }
}

/// Adds each channel's gradients to that of its bias.
fn add_bias_gradient(bias: &mut [f32], winners: &[u8], gradient: &[f32]) {
    for (winners, gradient) in winners.chunks_exact(bias.len()).zip(gradient.chunks_exact(bias.len())) {
        for ((bias, &winner), &gradient) in bias.iter_mut().zip(winners).zip(gradient) {
            *bias += if winner < RECTIFIED { gradient } else { 0.0 };
        }
    }
}

/// The hits of one image, in the two orders in which they are added up.
struct Hits {
    /// For each channel, with their windows of the image.
    of_channels: Lists,
    /// For each window, with their channels' kernels; none where no image's gradient is wanted.
    of_windows: Lists,
    /// Where the channels' kernels begin in the weights.
    kernels: Vec<usize>,
    /// Where the windows begin in the padded image: four for each pixel of the output.
    windows: Vec<usize>,
}

impl Hits {
    fn new(conv: &ConvPool, rows: &Rows, image: &Padded, of_windows: bool) -> Self {
        let [height, width, channels] = conv.output();
        let pixels = height * width;
        let begin = |i: usize| i / width * 2 * image.row + i % width * 2 * image.pixel;
        let further = [0, image.pixel, image.row, image.row + image.pixel];
        Self {
            of_channels: Lists::new(channels, pixels),
            of_windows: Lists::new(if of_windows { 4 * pixels } else { 0 }, channels),
            kernels: (0..channels).map(|channel| channel * conv.kernel * rows.padded).collect(),
            windows: (0..pixels).flat_map(|i| further.map(|further| begin(i) + further)).collect(),
        }
    }

    /// Finds the hits among the values of the output.
    #[inline(always)]
    fn find(&mut self, winners: &[u8], gradient: &[f32]) {
        self.of_channels.clear();
        self.of_windows.clear();
        let channels = self.kernels.len();
        let pixels = winners.chunks_exact(channels).zip(gradient.chunks_exact(channels));
        for ((winners, gradient), first) in pixels.zip((0..self.windows.len()).step_by(4)) {
            let values = winners.iter().zip(gradient).zip(&self.kernels);
            for (channel, ((&winner, &gradient), &kernel)) in values.enumerate() {
                let window = first + usize::from(winner % RECTIFIED);
                let is_hit = (winner < RECTIFIED) & (gradient != 0.0);
                self.of_channels.offer(channel, Hit { begin: self.windows[window], gradient }, is_hit);
                if !self.of_windows.ends.is_empty() {
                    self.of_windows.offer(window, Hit { begin: kernel, gradient }, is_hit);
                }
            }
        }
    }
}

/// Lists of hits, each with places for as many as there can be.
struct Lists {
    places: Vec<Hit>,
    most: usize,
    /// Where each list ends.
    ends: Vec<usize>,
}

impl Lists {
    fn new(count: usize, most: usize) -> Self {
        Self { places: vec![Hit::default(); count * most], most, ends: vec![0; count] }
    }

    fn clear(&mut self) {
        self.ends.iter_mut().enumerate().for_each(|(list, end)| *end = list * self.most);
    }

    /// Adds to a list what is a hit. Without a branch: nobody can guess which are hits. What is none, the next one overwrites.
    #[inline(always)]
    fn offer(&mut self, list: usize, hit: Hit, is_hit: bool) {
        let end = &mut self.ends[list];
        self.places[*end] = hit;
        *end += usize::from(is_hit);
    }

    fn iter(&self) -> impl Iterator<Item = &[Hit]> {
        self.ends.iter().enumerate().map(|(list, &end)| &self.places[list * self.most..end])
    }
}

/// Adds what the hits contribute to the gradients, for N vectors of the kernels and windows.
///
/// # Safety
///
/// The processor must have the lanes' instructions. The images must be valid at `in_window` behind the beginning of every
/// window, the weights for N vectors behind that of every kernel; the gradients for writing. No two may overlap.
#[inline(always)]
unsafe fn add_gradients<L: Lanes, const N: usize>(
    in_window: [usize; N],
    hits: &Hits,
    [image, weight]: [*const f32; 2],
    [image_gradient, weight_gradient]: [*mut f32; 2],
) {
    let in_kernel = std::array::from_fn(|i| i * L::COUNT);
    // SAFETY: the caller ensures the same.
    unsafe {
        add_products::<L, N>(&hits.of_channels, &hits.kernels, (weight_gradient, in_kernel), (image, in_window));
        add_products::<L, N>(&hits.of_windows, &hits.windows, (image_gradient, in_window), (weight, in_kernel));
    }
}

/// For each list, adds its hits' gradients times their factors to the sums that begin where `begins` says. Of both, sums and
/// factors, these are the N vectors that lie at the given places behind where they begin.
///
/// # Safety
///
/// The processor must have the lanes' instructions. `sums` must be valid for reading and writing a vector at every place behind
/// every beginning, `factors` for reading one at every place behind every hit's; the two may not overlap.
#[inline(always)]
unsafe fn add_products<L: Lanes, const N: usize>(
    lists: &Lists,
    begins: &[usize],
    (sums, sum_places): (*mut f32, [usize; N]),
    (factors, factor_places): (*const f32, [usize; N]),
) {
    for (hits, &begin) in lists.iter().zip(begins).filter(|(hits, _)| !hits.is_empty()) {
        // SAFETY: the caller ensures that the vectors are there.
        unsafe {
            let in_memory = sum_places.map(|place| sums.wrapping_add(begin + place));
            let mut sums = [L::load(in_memory[0]); N];
            for (sum, &from) in sums.iter_mut().zip(&in_memory) {
                *sum = L::load(from);
            }
            for hit in hits {
                let gradient = L::splat(hit.gradient);
                for (sum, &place) in sums.iter_mut().zip(&factor_places) {
                    let factors = L::load(factors.wrapping_add(hit.begin + place));
                    *sum = L::multiply_add(factors, gradient, *sum);
                }
            }
            for (sum, &to) in sums.iter().zip(&in_memory) {
                L::store(*sum, to);
            }
        }
    }
}
