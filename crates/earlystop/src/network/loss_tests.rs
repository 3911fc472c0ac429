//! Losses and their gradients, held against libtorch's alone.

use tch::{Device, Kind, Tensor};

use super::plan::plan;
use super::tests::tutorial;
use super::{Activation, Conv2d, Loss, Network, NetworkBuilder};
use crate::Optimizer;
use crate::error::Result;
use crate::kernels::Processor;

/// Builds a network that runs on our kernels, where the processor has them, or on libtorch's alone.
fn build(builder: &NetworkBuilder, by_libtorch_alone: bool) -> Network {
    let mut network = builder.clone().build(Device::Cpu).unwrap();
    if by_libtorch_alone {
        let description = network.description();
        network.plan.ops = plan(description.input, &description.layers, description.default_activation).unwrap().ops;
    }
    network
}

/// Six images, others for each batch.
fn images(batch: i64) -> Tensor {
    let values = (0..6 * 784).map(|index| ((index + 31 * batch) * 7919 % 256) as f32 / 255.0).collect::<Vec<_>>();
    Tensor::from_slice(&values).reshape([6, 784])
}

fn labels() -> Tensor {
    Tensor::eye(10, (Kind::Float, Device::Cpu)).narrow(0, 0, 6)
}

fn batch_loss(network: &Network, batch: i64) -> Loss {
    network.training_loss(&images(batch), &labels(), batch as u64).unwrap()
}

/// The sum of all squared variables.
fn squares(network: &Network) -> Tensor {
    network.variables().iter().map(|(_, variable)| variable.square().sum(Kind::Float)).sum()
}

/// Chains of layers in which our kernels come first, last, next to each other, and with libtorch's between.
fn networks() -> Vec<NetworkBuilder> {
    let begin = || Network::builder([28, 28, 1]).default_activation(Activation::Relu);
    let between = |layer: Conv2d| {
        let chain = begin().conv2d(5, 16, "conv1").max_pool(2, 2).layer(layer).conv2d(3, 20, "conv3").max_pool(2, 2);
        chain.flatten().softmax_classifier(10)
    };
    vec![
        tutorial(),
        tutorial().freeze("layer_conv1"),
        tutorial().freeze("layer_conv2"),
        tutorial().freeze("layer_conv1").freeze("layer_conv2"),
        tutorial().freeze("layer_fc1").freeze("softmax_classifier"),
        begin()
            .layer(Conv2d::new(3, 4, "conv1").stride(2))
            .conv2d(3, 9, "conv2")
            .max_pool(2, 2)
            .flatten()
            .softmax_classifier(10),
        between(Conv2d::new(3, 8, "conv2")),
        between(Conv2d::new(3, 8, "conv2")).freeze("conv1").freeze("conv3"),
        begin().dropout(0.3).conv2d(3, 4, "conv1").max_pool(2, 2).dropout(0.5).flatten().softmax_classifier(10),
        begin().flatten().fully_connected(9, "fc").softmax_classifier(10),
    ]
}

type MakeLoss = fn(&Network) -> Loss;

/// Losses as users put them together.
const LOSSES: [(&str, MakeLoss); 14] = [
    ("one batch", |network| batch_loss(network, 1)),
    ("scaled", |network| batch_loss(network, 1) / 4.0),
    ("scaled from the left", |network| 0.5 * &batch_loss(network, 1)),
    ("negated", |network| -batch_loss(network, 1) * 0.3),
    ("with weight decay", |network| batch_loss(network, 1) + squares(network) * 1e-2),
    ("weight decay first", |network| &squares(network) * 1e-2 + &batch_loss(network, 1)),
    ("less a penalty", |network| &batch_loss(network, 1) - &(squares(network) * 1e-3)),
    ("two batches", |network| (batch_loss(network, 1) + batch_loss(network, 2)) / 2.0),
    ("the difference of two batches", |network| &batch_loss(network, 1) - &batch_loss(network, 2)),
    ("three batches, weight decay", |network| {
        let sum: Loss = (1..=3).map(|batch| batch_loss(network, batch)).sum();
        sum / 3.0 + squares(network) * 1e-3
    }),
    ("one loss twice", |network| {
        let loss = batch_loss(network, 1);
        &loss * 0.25 + &loss
    }),
    ("products", |network| {
        let loss = batch_loss(network, 1);
        &loss * &loss / (1.0 + batch_loss(network, 2))
    }),
    ("scaled by a tensor", |network| batch_loss(network, 1) * squares(network).sqrt()),
    ("in steps", |network| {
        let mut loss = batch_loss(network, 1);
        loss += batch_loss(network, 2);
        loss += squares(network);
        loss /= 3.0;
        loss
    }),
];

type Found = Vec<(String, Tensor)>;

fn assert_close(what: &str, found: &Found, expected: &Found, tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for ((name, gradient), (expected_name, expected)) in found.iter().zip(expected) {
        assert_eq!(name, expected_name, "{what}");
        assert_eq!(gradient.size(), expected.size(), "{what}");
        let difference = (gradient - expected).abs().max().double_value(&[]);
        let largest = expected.abs().max().double_value(&[]);
        assert!(difference <= tolerance * largest, "{what}: {difference} of {largest} at {name}");
    }
}

#[test]
fn our_kernels_and_libtorchs_give_the_same_for_every_loss() {
    // Where the processor has no kernels of ours, libtorch's would be compared with themselves.
    let compared = if Processor::detect().is_some() { networks() } else { vec![tutorial()] };
    for builder in compared {
        for (what, make_loss) in LOSSES {
            let [ours, libtorchs] = [false, true].map(|by_libtorch_alone| {
                let network = build(&builder, by_libtorch_alone);
                let loss = make_loss(&network);
                (loss.value(), network.gradients(&loss).unwrap())
            });
            let what = format!("{what}, {:?}", builder);
            assert!(
                (ours.0 - libtorchs.0).abs() < 1e-5 * libtorchs.0.abs().max(0.1),
                "{what}: {} {}",
                ours.0,
                libtorchs.0
            );
            // Of terms that cancel out, the rounding errors stay.
            assert_close(&what, &ours.1, &libtorchs.1, 2e-4);
        }
    }
}

#[test]
fn one_batch_gives_the_same_to_the_last_digits() {
    for builder in networks() {
        let [ours, libtorchs] = [false, true].map(|by_libtorch_alone| {
            let network = build(&builder, by_libtorch_alone);
            network.gradients(&batch_loss(&network, 1)).unwrap()
        });
        assert_close(&format!("{builder:?}"), &ours, &libtorchs, 1e-5);
    }
}

/// Written out with tensors, from the values of one network, without this crate's network.
#[test]
fn weight_decay_is_the_textbooks() {
    let network = build(&tutorial(), false);
    let loss = (batch_loss(&network, 1) + batch_loss(&network, 2)) / 2.0 + squares(&network) * 1e-3;
    let found = network.gradients(&loss).unwrap();

    let variable = |name: &str| -> Tensor {
        let values = network.variables().values(name).unwrap();
        Tensor::try_from(values).unwrap().set_requires_grad(true)
    };
    let layers = ["layer_conv1", "layer_conv2", "layer_fc1", "softmax_classifier"];
    let names = layers.iter().flat_map(|layer| ["weight", "bias"].map(|kind| format!("{layer}.{kind}")));
    let leaves = names.map(|name| variable(&name)).collect::<Vec<_>>();
    let pool = |x: Tensor| x.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false);
    let conv = |x: &Tensor, i: usize| x.conv2d(&leaves[i], Some(&leaves[i + 1]), [1, 1], [2, 2], [1, 1], 1).relu();
    let mean = |batch| {
        let x = images(batch).reshape([-1, 1, 28, 28]);
        let x = pool(conv(&pool(conv(&x, 0)), 2)).flatten(1, -1);
        let logits = x.linear(&leaves[4], Some(&leaves[5])).relu().linear(&leaves[6], Some(&leaves[7]));
        logits.cross_entropy_for_logits(&labels().argmax(1, false))
    };
    let penalty: Tensor = leaves.iter().map(|leaf| leaf.square().sum(Kind::Float)).sum();
    let expected = Tensor::run_backward(&[(mean(1) + mean(2)) / 2.0 + penalty * 1e-3], &leaves, false, false);
    for (index, ((_, gradient), expected)) in found.iter().zip(&expected).enumerate() {
        // As the variable lies in memory.
        let expected = match index {
            0 | 2 => expected.permute([0, 2, 3, 1]),
            4 => expected.reshape([128, 36, 7, 7]).permute([0, 2, 3, 1]),
            _ => expected.shallow_clone(),
        };
        let expected = expected.reshape([-1]);
        let difference = (gradient - &expected).abs().max().double_value(&[]);
        assert!(difference < 1e-5 * expected.abs().max().double_value(&[]).max(0.01), "{index}: {difference}");
    }
}

#[test]
fn operators_are_libtorchs() {
    let network = build(&tutorial(), false);
    let bias = network.variables().view(1);
    let weight = network.variables().view(0).sum(Kind::Float);
    let sum = || (bias + 2.0).square().sum(Kind::Float) + &weight;
    let loss = || Loss::from(sum());
    let pairs = [
        (loss() + 3.0, sum() + 3.0),
        (loss() - 3.0, sum() - 3.0),
        (loss() * 3.0, sum() * 3.0),
        (loss() / 3.0, sum() / 3.0),
        (3.0 + loss(), sum() + 3.0),
        (3.0 * loss(), sum() * 3.0),
        (-loss(), -sum()),
        (loss() + &weight, sum() + &weight),
        (&weight - loss(), &weight - sum()),
        (loss() / &weight, sum() / &weight),
        (loss() * &loss(), sum() * sum()),
    ];
    for (index, (loss, tensor)) in pairs.into_iter().enumerate() {
        assert_eq!(loss.value(), tensor.double_value(&[]), "{index}");
        assert_eq!(loss.detach(), tensor, "{index}");
        assert!(!loss.detach().requires_grad());
        let [found, expected] = [loss, tensor.into()].map(|loss| network.gradients(&loss).unwrap());
        assert_eq!(found, expected, "{index}");
    }
}

#[test]
fn variables_and_gradients_lie_in_the_same_order() {
    let network = tutorial().build(Device::Cpu).unwrap();
    let weight = network.variables().view(0);
    let factors = Tensor::arange(400, (Kind::Float, Device::Cpu)).reshape([16, 1, 5, 5]);
    let sum: Tensor = network.variables().iter().map(|(_, variable)| variable.sum(Kind::Float)).sum();
    let gradients = network.gradients(&((weight * &factors).sum(Kind::Float) + sum).into()).unwrap();
    let (name, gradient) = &gradients[0];
    assert_eq!(*gradient, (factors.permute([0, 2, 3, 1]) + 1.0).reshape([-1]));
    assert!(gradient.is_contiguous());
    assert_eq!(name, "layer_conv1.weight");
}

#[test]
fn a_loss_can_be_sent_to_another_thread() {
    let network = build(&tutorial(), false);
    let loss = batch_loss(&network, 1) * 2.0;
    let value = loss.value();
    let gradients = std::thread::spawn(move || (loss.value(), network.gradients(&loss).unwrap().len())).join().unwrap();
    assert_eq!(gradients, (value, 8));
}

#[test]
fn what_a_loss_does_not_depend_on_has_no_gradient() {
    let network = build(&tutorial(), false);
    let gradients = network.gradients(&network.variables().view(2).square().sum(Kind::Float).into()).unwrap();
    assert_eq!(gradients.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["layer_conv2.weight"]);
}

fn refusal(result: Result<impl std::fmt::Debug>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_loss_of_another_network_is_told_apart() {
    for by_libtorch_alone in [false, true] {
        let [network, other] = [1, 2].map(|seed| build(&tutorial().seed(seed), by_libtorch_alone));
        let message = refusal(network.gradients(&batch_loss(&other, 1)));
        assert_eq!(
            message,
            "loss: expected a value computed from the model's variables that are trained, found one of other variables"
        );
        let alone = network.gradients(&batch_loss(&network, 1)).unwrap();
        let both = network.gradients(&(batch_loss(&other, 2) + batch_loss(&network, 1))).unwrap();
        assert_eq!(both, alone);
    }
}

/// As libtorch: values that the gradients need must be those of the way forward.
#[test]
fn values_that_were_modified_since_are_refused() {
    type Modify = fn(&mut Network, &mut Optimizer, &mut Tensor);
    let changes: [(&str, Modify); 6] = [
        ("layer_conv1.weight modified", |network, _, _| {
            let _no_grad = tch::no_grad_guard();
            let _ = network.variables().view(0).shallow_clone().fill_(0.1);
        }),
        ("layer_conv2.weight modified", |network, _, _| {
            let _no_grad = tch::no_grad_guard();
            let _ = network.variables().view(2).shallow_clone().fill_(0.1);
        }),
        ("the input of layer_conv1 modified", |_, _, images| {
            let _ = images.fill_(0.5);
        }),
        ("modified", |network, _, _| network.init_variables().unwrap()),
        ("modified", |network, optimizer, _| {
            let loss = network.training_loss(&images(7), &labels(), 7).unwrap();
            optimizer.minimize(&loss, network).unwrap();
        }),
        ("modified", |network, _, _| {
            let state: &dyn crate::checkpoint::Savable = network;
            let _no_grad = tch::no_grad_guard();
            for named in state.tensors() {
                named.tensor().unwrap().copy_(&named.tensor().unwrap().zeros_like());
            }
        }),
    ];
    for by_libtorch_alone in [false, true] {
        for (index, (expected, modify)) in changes.iter().enumerate() {
            let mut network = build(&tutorial(), by_libtorch_alone);
            let mut optimizer = Optimizer::adam(&network, 0.01).unwrap();
            let mut images = images(1);
            let loss = network.training_loss(&images, &labels(), 1).unwrap() + squares(&network);
            modify(&mut network, &mut optimizer, &mut images);
            let before = network.variables().flat().copy();
            let message = refusal(optimizer.minimize(&loss, &mut network));
            assert!(message.contains("modified"), "{index}: {message}");
            // Where libtorch's own check does not come first.
            assert!(message.contains("libtorch") || message.contains(expected), "{index}: {message}");
            assert_eq!(*network.variables().flat(), before);
        }
    }
}

/// Without a penalty, no graph of libtorch's holds the first convolution's weights and images.
#[test]
fn our_own_check_names_what_was_modified() {
    let mut network = build(&tutorial(), false);
    if !network.plan.ops.iter().any(|(_, op)| matches!(op, super::plan::Op::ConvPool { .. })) {
        return; // a processor without kernels of ours
    }
    let mut optimizer = Optimizer::adam(&network, 0.01).unwrap();
    let mut images = images(1);
    let loss = network.training_loss(&images, &labels(), 1).unwrap();
    let _ = images.fill_(0.5);
    let message = refusal(optimizer.minimize(&loss, &mut network));
    let expected = "loss: expected variables and images as they were when it was computed, \
        found the input of layer_conv1 modified in place after the loss was computed";
    assert_eq!(message, expected);
}

#[test]
fn a_loss_is_minimized_once() {
    for by_libtorch_alone in [false, true] {
        for (what, make_loss) in LOSSES {
            let mut network = build(&tutorial(), by_libtorch_alone);
            let mut optimizer = Optimizer::adam(&network, 0.01).unwrap();
            let loss = make_loss(&network);
            optimizer.minimize(&loss, &mut network).unwrap();
            let after = network.variables().flat().copy();
            let message = refusal(optimizer.minimize(&loss, &mut network));
            assert!(message.contains("modified") || message.contains("second time"), "{what}: {message}");
            assert_eq!(*network.variables().flat(), after);
        }
    }
}

#[test]
fn gradients_are_computed_where_the_caller_wants_none() {
    let network = build(&tutorial(), false);
    let (loss, again) = (batch_loss(&network, 1), batch_loss(&network, 1));
    let expected = network.gradients(&loss).unwrap();
    assert_eq!(tch::no_grad(|| network.gradients(&again)).unwrap(), expected);
}

/// The images are learned too, from the network's own bias: both batches lead back to it through one graph.
#[test]
fn losses_whose_images_share_a_graph_are_added_up() {
    let [found, expected] = [false, true].map(|by_libtorch_alone| {
        let network = build(&tutorial(), by_libtorch_alone);
        let images = (images(1) + network.variables().view(1).exp().mean(Kind::Float)).sigmoid();
        let loss = |iteration| network.training_loss(&images, &labels(), iteration).unwrap();
        let loss = loss(1) + loss(2) + images.square().mean(Kind::Float);
        network.gradients(&loss).unwrap()
    });
    assert_close("shared images", &found, &expected, 1e-5);
}

#[test]
fn what_cannot_be_a_loss_is_refused_when_it_is_minimized() {
    let mut network = build(&tutorial(), false);
    let mut optimizer = Optimizer::adam(&network, 0.01).unwrap();
    let one = || batch_loss(&network, 1);
    let cases = [
        (one() + Tensor::from_slice(&[1.0_f32, 2.0]), "a tensor of shape [2]"),
        (Tensor::from_slice(&[1.0_f32, 2.0]) * (one() / 2.0) - one(), "a tensor of shape [2]"),
        (one() + Loss::from(Tensor::new()), "an undefined tensor"),
        (one() + Tensor::from_slice(&[0.0_f32; 0]), "a tensor of shape [0]"),
    ];
    for (loss, expected) in &cases {
        assert!(loss.value().is_nan() && loss.detach().double_value(&[]).is_nan());
        let message = refusal(optimizer.minimize(loss, &mut network));
        assert_eq!(message, format!("loss: expected a single number, found {expected}"));
    }
    let none: Loss = std::iter::empty::<Loss>().sum();
    assert_eq!(none.value(), 0.0);
    assert!(refusal(optimizer.minimize(&none, &mut network)).ends_with("found one without a gradient"));
}
