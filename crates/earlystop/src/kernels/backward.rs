//! From the output's gradient to those of weights, biases and images.

use super::lanes::{Lanes, Processor};
use super::scratch::{Aligned, Padded};
use super::team::share;
use super::{ConvPool, Gradients, RECTIFIED};

/// The most vectors that are kept in registers.
const MOST: usize = 8;

/// Calls a function for as many of a kernel's vectors at a time as there are registers for.
macro_rules! in_tiles {
    ($function:ident::<$lanes:ident>($hits:expr, $image:expr, $weight:expr, $places:expr)) => {
        let tiles = $places.len().div_ceil(MOST);
        let each = $places.len().div_ceil(tiles);
        for (tile, places) in $places.chunks(each).enumerate() {
            let weight = $weight.add(tile * each * $lanes::COUNT);
            in_tiles!(@match $function, $lanes, $hits, $image, weight, places, 1 2 3 4 5 6 7 8)
        }
    };
    (@match $function:ident, $lanes:ident, $hits:expr, $image:expr, $weight:ident, $places:ident, $($count:literal)*) => {
        match $places.len() {
            $($count => {
                let mut places = [0; $count];
                places.copy_from_slice($places);
                $function::<$lanes, $count>($hits, $image, $weight, places)
            })*
            _ => unreachable!("at most as many as there are registers for"),
        }
    };
}

/// Some of a batch's images, and the gradients that they contribute.
struct Part<'a> {
    images: &'a [f32],
    winners: &'a [u8],
    gradient: &'a [f32],
    /// `[channels_out][kernel][vectors of a row of the kernel]`.
    weight: Aligned<f32>,
    bias: Vec<f32>,
    image_gradients: Option<&'a mut [f32]>,
}

/// A value of the output that a gradient goes through.
#[derive(Clone, Copy, Default)]
struct Hit {
    /// Where in the padded image the window of the value that won begins.
    begin: usize,
    gradient: f32,
}

impl ConvPool {
    /// Adds up the gradients for a batch whose [`ConvPool::forward`] noted `winners`; `gradient` is that of its output.
    ///
    /// The same whatever was rounded on the way forward: all sums and products are of 32-bit floats.
    pub(crate) fn backward(
        &self,
        images: &[f32],
        weight: &[f32],
        winners: &[u8],
        gradient: &[f32],
        threads: usize,
        gradients: Gradients,
    ) {
        let rows = Rows::new(self, weight);
        let (images_each, [input, values]) = (self.images_each(images, threads), self.values());
        let mut image_gradients = gradients.images.map(|images| images.chunks_mut(images_each * input));
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
        share(&mut parts, threads, |part| {
            // SAFETY: these are the processor's instructions.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                match self.processor {
                    Processor::Avx2 => eight(self, &rows, part),
                    Processor::Avx512 | Processor::Avx512Bf16 => sixteen(self, &rows, part),
                }
            }
        });
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
    weight: Aligned<f32>,
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
unsafe fn sixteen(conv: &ConvPool, rows: &Rows, part: &mut Part) {
    unsafe { run::<super::lanes::Sixteen>(conv, rows, part) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn eight(conv: &ConvPool, rows: &Rows, part: &mut Part) {
    unsafe { run::<super::lanes::Eight>(conv, rows, part) }
}

#[inline(always)]
unsafe fn run<L: Lanes<Factor = f32>>(conv: &ConvPool, rows: &Rows, part: &mut Part) {
    let (mut image, mut image_gradient) = (Padded::new::<L>(conv), Padded::new::<L>(conv));
    let mut hits = Hits::new(conv, &image);
    let [input, values] = conv.values();
    // Where the vectors of a kernel lie in an image.
    let vectors = rows.padded / L::COUNT;
    let places =
        (0..conv.kernel * vectors).map(|i| i / vectors * image.row + i % vectors * L::COUNT).collect::<Vec<_>>();
    for (index, pixels) in part.images.chunks_exact(input).enumerate() {
        image.fill::<L>(pixels);
        hits.find(&part.winners[index * values..], &part.gradient[index * values..]);
        for channel in 0..conv.channels_out {
            let hits = hits.of(channel);
            part.bias[channel] += hits.iter().map(|hit| hit.gradient).sum::<f32>();
            let kernel = channel * conv.kernel * rows.padded..(channel + 1) * conv.kernel * rows.padded;
            let (weight_gradient, weight) = (&mut part.weight[kernel.clone()], &rows.weight[kernel]);
            // SAFETY: the hits' windows lie in the padded image, and behind it there is a vector more.
            unsafe {
                in_tiles!(gather::<L>(hits, image.factors.as_ptr(), weight_gradient.as_mut_ptr(), places));
                if part.image_gradients.is_some() {
                    in_tiles!(spread::<L>(hits, image_gradient.factors.as_mut_ptr(), weight.as_ptr(), places));
                }
            }
        }
        if let Some(gradients) = &mut part.image_gradients {
            image_gradient.take(&mut gradients[index * input..][..input]);
        }
    }
}

/// The hits of one image, channel by channel.
struct Hits {
    /// For each value of the output, where in the padded image its first window begins.
    begins: Vec<usize>,
    /// How much further the windows of the four values begin; and that of none.
    further: [usize; 5],
    /// As many places for each channel as it has values, and how many of them are taken.
    places: Vec<Hit>,
    counts: Vec<usize>,
}

impl Hits {
    fn new(conv: &ConvPool, image: &Padded<f32>) -> Self {
        let [height, width, channels] = conv.output();
        let begin = |i: usize| i / width * 2 * image.row + i % width * 2 * image.pixel;
        Self {
            begins: (0..height * width).map(begin).collect(),
            further: [0, image.pixel, image.row, image.row + image.pixel, 0],
            places: vec![Hit::default(); height * width * channels],
            counts: vec![0; channels],
        }
    }

    #[inline(always)]
    fn find(&mut self, winners: &[u8], gradient: &[f32]) {
        self.counts.fill(0);
        let channels = self.counts.len();
        let pixels = winners.chunks_exact(channels).zip(gradient.chunks_exact(channels));
        for ((winners, gradient), &begin) in pixels.zip(&self.begins) {
            let channels = self.places.chunks_exact_mut(self.begins.len()).zip(&mut self.counts);
            for (((places, count), &winner), &gradient) in channels.zip(winners).zip(gradient) {
                places[*count] = Hit { begin: begin + self.further[usize::from(winner.min(RECTIFIED))], gradient };
                *count += usize::from(winner < RECTIFIED && gradient != 0.0); // no branch: nobody can guess these
            }
        }
    }

    fn of(&self, channel: usize) -> &[Hit] {
        &self.places[channel * self.begins.len()..][..self.counts[channel]]
    }
}

/// Adds each hit's gradient times its window of the image to the weights' gradient, for N vectors of it.
#[inline(always)]
unsafe fn gather<L: Lanes<Factor = f32>, const N: usize>(
    hits: &[Hit],
    image: *const f32,
    weight_gradient: *mut f32,
    places: [usize; N],
) {
    unsafe {
        let mut sums = [L::load(weight_gradient); N];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = L::load(weight_gradient.add(i * L::COUNT));
        }
        for hit in hits {
            let gradient = L::splat(&raw const hit.gradient);
            for (sum, &place) in sums.iter_mut().zip(&places) {
                let values = L::load_factors(image.wrapping_add(hit.begin).wrapping_add(place));
                *sum = L::multiply_add(values, gradient, *sum);
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            L::store(*sum, weight_gradient.add(i * L::COUNT));
        }
    }
}

/// Adds each hit's gradient times the weights, N vectors of them, to its window of the image's gradient.
#[inline(always)]
unsafe fn spread<L: Lanes<Factor = f32>, const N: usize>(
    hits: &[Hit],
    image_gradient: *mut f32,
    weight: *const f32,
    places: [usize; N],
) {
    unsafe {
        let mut weights = [L::load_factors(weight); N];
        for (i, factors) in weights.iter_mut().enumerate() {
            *factors = L::load_factors(weight.add(i * L::COUNT));
        }
        for hit in hits {
            let gradient = L::splat(&raw const hit.gradient);
            for (&weights, &place) in weights.iter().zip(&places) {
                let values = image_gradient.wrapping_add(hit.begin).wrapping_add(place);
                L::store(L::multiply_add(weights, gradient, L::load(values)), values);
            }
        }
    }
}
