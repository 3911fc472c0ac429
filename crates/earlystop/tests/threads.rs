//! The same bits on any number of threads, and none of them but our own.
#![cfg(feature = "torch")]

mod common;
#[path = "common/threads.rs"]
mod threads;
#[path = "common/tutorial.rs"]
mod tutorial;

use std::fs;
use std::process::Command;

use earlystop::data::Data;
use earlystop::early_stopping::Rule;
use earlystop::ndarray::{Array1, Array3};
use earlystop::network::{Activation, Conv2d, MaxPool, NetworkBuilder, Padding, evaluate};
use earlystop::tch::{self, Device, Kind, Tensor};
use earlystop::trainer::Event;
use earlystop::{Examples, Network, Optimizer};

use common::{bits, builder, history};
use threads::with_threads;
use tutorial::tutorial;

/// Networks on our kernels, on libtorch's, and on both.
fn networks() -> Vec<(&'static str, NetworkBuilder)> {
    let on_libtorch = Network::builder([28, 28, 1])
        .default_activation(Activation::Tanh)
        .layer(Conv2d::new(3, 24, "conv1").stride(2).padding(Padding::Valid))
        .layer(Conv2d::new(5, 40, "conv2").activation(Activation::Sigmoid))
        .layer(MaxPool::new(3, 2).padding(Padding::Valid))
        .dropout(0.4)
        .flatten()
        .fully_connected(200, "fc1")
        .dropout(0.5)
        .softmax_classifier(10);
    let mixed = Network::builder([28, 28, 1])
        .max_pool(2, 2)
        .conv2d(5, 16, "conv1")
        .layer(Conv2d::new(3, 32, "conv2").stride(2))
        .conv2d(3, 32, "conv3")
        .max_pool(2, 2)
        .dropout(0.2)
        .flatten()
        .fully_connected(100, "fc1")
        .softmax_classifier(10);
    vec![("tutorial", tutorial()), ("tanh, strides, dropout", on_libtorch), ("mixed", mixed)]
}

/// Random images of 28 x 28 pixels with labels.
fn batch(count: i64) -> (Tensor, Tensor) {
    let values = (0..count * 784).map(|i| (i * 7919 % 1031) as f32 / 1031.0).collect::<Vec<_>>();
    let labels = Tensor::from_slice(&(0..count).map(|i| i * 7 % 10).collect::<Vec<_>>()).one_hot(10);
    (Tensor::from_slice(&values).reshape([count, 28, 28, 1]), labels.to_kind(Kind::Float))
}

fn pictures(count: usize) -> Examples {
    let pixel = |(image, y, x): (usize, usize, usize)| (image * 7919 + y * 104_729 + x * 1_299_709) as u8;
    let labels = Array1::from_shape_fn(count, |i| (i * 7 % 10) as u8);
    Examples::new(Array3::from_shape_fn((count, 28, 28), pixel), labels).unwrap()
}

fn bits_of(tensor: &Tensor) -> Vec<u32> {
    let values = Vec::<f32>::try_from(tensor.contiguous().view([-1])).unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// Trains for some steps and evaluates: everything that comes out.
fn trained(network: NetworkBuilder, count: i64) -> Vec<Vec<u32>> {
    let mut network = network.seed(3).build(Device::Cpu).unwrap();
    let mut optimizer = Optimizer::adam(&network, 1e-3).unwrap();
    let (images, labels) = batch(count);
    let mut found = Vec::new();
    for iteration in 1..=3 {
        let loss = network.training_loss(&images, &labels, iteration).unwrap();
        found.push(bits_of(&loss.detach()));
        optimizer.minimize(&loss, &mut network).unwrap();
    }
    found.push(bits(&network));
    found.push(bits_of(&network.predict(&images).unwrap()));
    for (_, activation) in network.activations(&images).unwrap() {
        found.push(activation.iter().map(|value| value.to_bits()).collect());
    }
    let loss = evaluate(&network, &pictures(count as usize)).unwrap().loss.to_bits();
    found.push(vec![loss as u32, (loss >> 32) as u32]);
    found
}

#[test]
fn every_network_has_the_same_bits_on_any_number_of_threads() {
    for (name, network) in networks() {
        for count in [1, 7, 63, 65] {
            let expected = with_threads(1, || trained(network.clone(), count));
            for threads in [2, 3, 4, 8] {
                let found = with_threads(threads, || trained(network.clone(), count));
                let differing = found.iter().zip(&expected).position(|(found, expected)| found != expected);
                assert_eq!(differing, None, "{name}, {count} images, {threads} threads");
            }
        }
    }
}

/// The loss of so many images is a sum that libtorch would split.
#[test]
fn large_batches_have_the_same_bits_on_any_number_of_threads() {
    let network = || Network::builder([28, 28, 1]).max_pool(4, 4).flatten().softmax_classifier(10);
    let expected = with_threads(1, || trained(network(), 5000));
    for threads in [2, 3, 8] {
        assert!(with_threads(threads, || trained(network(), 5000)) == expected, "{threads} threads");
    }
}

/// libtorch may keep what it prepared for a convolution of the same size, on more threads.
#[test]
fn convolutions_of_others_change_no_bit() {
    let network =
        || Network::builder([28, 28, 1]).layer(Conv2d::new(5, 16, "conv").stride(2)).flatten().softmax_classifier(10);
    let expected = with_threads(1, || trained(network(), 64));
    let found = with_threads(4, || {
        let variables = network().seed(3).build(Device::Cpu).unwrap();
        let weight = variables.variables().iter().next().unwrap().1.shallow_clone();
        let images = batch(64).0.permute([0, 3, 1, 2]).set_requires_grad(true);
        let padded = images.constant_pad_nd([1, 2, 1, 2]);
        let bias = Tensor::zeros([16], (Kind::Float, Device::Cpu));
        padded.conv2d(&weight, Some(&bias), [2, 2], [0, 0], [1, 1], 1).sum(Kind::Float).backward();
        trained(network(), 64)
    });
    assert!(found == expected);
}

#[test]
fn a_run_is_resumed_with_another_number_of_threads() {
    let straight = with_threads(1, || {
        let mut trainer = builder().accumulate(2).stop_when(Rule::never()).build().unwrap();
        trainer.optimize(40, |_| ()).unwrap();
        (bits(trainer.network()), history(&trainer))
    });
    let folder = tempfile::tempdir().unwrap();
    let start = || builder().accumulate(2).stop_when(Rule::never()).checkpoints(folder.path()).build().unwrap();
    with_threads(2, || start().optimize(20, |_| ()).map(drop)).unwrap();
    let resumed = with_threads(3, || {
        let mut trainer = start();
        let resumed = trainer.resume(|event| match event {
            Event::Resumed { notes, .. } => assert_eq!(notes[..], [""; 0]),
            event => panic!("{event}"),
        });
        assert!(resumed.unwrap());
        trainer.optimize_to(40, |_| ()).unwrap();
        (bits(trainer.network()), history(&trainer))
    });
    assert_eq!(resumed, straight);
}

/// libtorch's threads would spin while they wait.
#[test]
#[cfg(target_os = "linux")]
fn no_thread_of_libtorch_is_woken_for_a_network() {
    const CHILD: &str = "EARLYSTOP_TEST_THREADS";
    if std::env::var_os(CHILD).is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "no_thread_of_libtorch_is_woken_for_a_network", "--test-threads=1"]);
        assert!(child.env(CHILD, "1").status().unwrap().success());
        return;
    }
    let others = || {
        let threads = fs::read_dir("/proc/self/task").unwrap();
        let names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).unwrap());
        names.filter(|name| !name.starts_with("earlystop-")).collect::<Vec<_>>()
    };
    tch::set_num_threads(1);
    let (images, labels) = batch(256);
    let prepare = |(name, network): (_, NetworkBuilder)| {
        let network = network.build(Device::Cpu).unwrap();
        let optimizer = Optimizer::adam(&network, 1e-3).unwrap().clip_norm(1.0).unwrap();
        (name, network, optimizer)
    };
    let networks = networks().into_iter().map(prepare).collect::<Vec<_>>();
    let before = others();
    tch::set_num_threads(4);
    for (name, mut network, mut optimizer) in networks {
        let loss = network.training_loss(&images, &labels, 1).unwrap();
        optimizer.minimize(&loss, &mut network).unwrap();
        let _ = network.predict(&images).unwrap();
        evaluate(&network, &pictures(300)).unwrap();
        let _ = Data::batch(&pictures(300), &[7; 256], 1).unwrap();
        assert_eq!(others(), before, "{name}");
    }
}
