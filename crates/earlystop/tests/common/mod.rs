//! A small network on small images, with all that a resume could get wrong: dropout, and epochs that end within a batch.

use earlystop::early_stopping::Observation;
use earlystop::ndarray::{Array1, Array3};
use earlystop::tch::Device;
use earlystop::trainer::TrainerBuilder;
use earlystop::{Examples, Network, Optimizer, Trainer};

/// Images of 8 x 8 pixels in which a bright row tells the class, with noise.
pub(crate) fn examples(count: usize, seed: usize) -> Examples {
    let labels = Array1::from_shape_fn(count, |i| (i * 7 % 4) as u8);
    let noise = |i: usize, y: usize, x: usize| (((i + seed) * 7919 + y * 104_729 + x * 1_299_709) % 140) as u8;
    let images = Array3::from_shape_fn((count, 8, 8), |(i, y, x)| {
        let bright = y / 2 == usize::from(labels[i]) && (i + x) % 3 > 0;
        noise(i, y, x).saturating_add(if bright { 110 } else { 0 })
    });
    Examples::new(images, labels).unwrap()
}

pub(crate) fn network() -> Network {
    Network::builder([8, 8, 1])
        .conv2d(3, 4, "layer_conv1")
        .max_pool(2, 2)
        .flatten()
        .fully_connected(16, "layer_fc1")
        .dropout(0.3)
        .softmax_classifier(4)
        .seed(5)
        .build(Device::Cpu)
        .unwrap()
}

/// A trainer whose epochs, of 150 examples, end within a batch of 32.
pub(crate) fn builder() -> TrainerBuilder {
    let network = network();
    let optimizer = Optimizer::adam(&network, 3e-3).unwrap();
    Trainer::builder(network, optimizer, &examples(150, 0), &examples(60, 1000))
        .batch_size(32)
        .evaluate_every(10)
        .seed(9)
}

pub(crate) fn bits(network: &Network) -> Vec<u32> {
    let names = network.variables().names().map(str::to_owned).collect::<Vec<_>>();
    names.iter().flat_map(|name| network.variables().values(name).unwrap()).map(f32::to_bits).collect()
}

/// The evaluations of a run without their times, which no two runs share.
pub(crate) fn history(trainer: &Trainer) -> Vec<Observation> {
    let timeless = |seen: &Observation| Observation { elapsed: None, ..seen.clone() };
    trainer.history().iter().map(timeless).collect()
}
