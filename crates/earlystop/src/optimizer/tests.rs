//! Optimizers over variables of one's own, held against PyTorch's.

use serde_json::Value;
use tch::{Device, Kind, Tensor, nn};

use super::*;
use crate::kernels::Processor;
use crate::network::{Loss, Network};

/// The variables of the recorded runs.
fn variables(kind: Kind) -> nn::VarStore {
    let store = nn::VarStore::new(Device::Cpu);
    let path = store.root() / "layer";
    let mut weight = path.zeros("weight", &[2, 3]);
    let mut bias = path.zeros("bias", &[2]);
    tch::no_grad(|| {
        weight.copy_(&Tensor::from_slice(&[1.0_f32, -2.0, 3.0, 0.5, 0.25, -0.125]).view([2, 3]));
        bias.copy_(&Tensor::from_slice(&[0.1_f32, -0.2]));
    });
    let mut store = store;
    if kind == Kind::Double {
        store.double();
    }
    store
}

fn values(store: &nn::VarStore) -> Vec<f64> {
    let variables = store.variables();
    let row = |name: &str| Vec::<f64>::try_from(variables[name].detach().to_kind(Kind::Double).view([-1])).unwrap();
    [row("layer.weight"), row("layer.bias")].concat()
}

/// A loss whose gradient at a step is that of the recorded runs.
fn loss(store: &nn::VarStore, step: u32) -> Loss {
    let gradient = |index: u32| (1.7 * f64::from(step) + 0.9 * f64::from(index)).sin() * f64::from(1 + index) * 0.3;
    let gradients = Tensor::from_slice(&(0..8).map(|index| gradient(index) as f32).collect::<Vec<_>>());
    let variables = store.variables();
    let part =
        |name: &str, begin, count| (variables[name].view([-1]) * gradients.narrow(0, begin, count)).sum(Kind::Float);
    Loss::from(part("layer.weight", 0, 6) + part("layer.bias", 6, 2))
}

#[test]
fn a_factor_scales_the_rate_of_one_step() {
    let [mut scaled, mut lower] = [(); 2].map(|()| variables(Kind::Float));
    let mut optimizer = Optimizer::adam_w(&scaled, 0.04).unwrap();
    let mut slower = Optimizer::adam_w(&lower, 0.01).unwrap();
    for step in 1..4 {
        optimizer.minimize_scaled(&loss(&scaled, step), &mut scaled, 0.25).unwrap();
        slower.minimize(&loss(&lower, step), &mut lower).unwrap();
    }
    assert_eq!(values(&scaled), values(&lower));
    assert_eq!(optimizer.learning_rate(), 0.04);
    for factor in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(optimizer.minimize_scaled(&loss(&scaled, 4), &mut scaled, factor).is_err());
    }
    assert_eq!(optimizer.num_steps(), 3);
}

type Make = fn(&nn::VarStore) -> Result<Optimizer>;

const RUNS: [(&str, Make); 12] = [
    ("sgd", |v| Optimizer::sgd(v, 0.01)),
    ("sgd momentum", |v| Optimizer::sgd(v, 0.01)?.momentum(0.9)),
    ("sgd nesterov decay", |v| Optimizer::sgd(v, 0.01)?.momentum(0.9)?.nesterov()?.weight_decay(0.1)),
    ("rms_prop", |v| Optimizer::rms_prop(v, 0.01)),
    ("rms_prop momentum decay", |v| Optimizer::rms_prop(v, 0.01)?.momentum(0.5)?.weight_decay(0.1)),
    ("adam", |v| Optimizer::adam(v, 0.01)),
    ("adam betas epsilon decay", |v| Optimizer::adam(v, 0.01)?.betas(0.8, 0.9)?.epsilon(1e-3)?.weight_decay(0.1)),
    ("adam_w", |v| Optimizer::adam_w(v, 0.01)),
    ("adam_w groups", |v| {
        let is_bias = |name: &str| name.ends_with(".bias");
        let optimizer = Optimizer::adam_w(v, 0.01)?.weight_decay(0.5)?.without_weight_decay(is_bias);
        optimizer.scale_learning_rate(0.1, is_bias)
    }),
    ("sgd clip norm", |v| Optimizer::sgd(v, 0.01)?.clip_norm(1.0)),
    ("adam clip value", |v| Optimizer::adam(v, 0.01)?.clip_value(0.5)),
    ("sgd one cycle", |v| Optimizer::sgd(v, Schedule::one_cycle(0.1, 301)?)),
];

#[test]
fn steps_are_pytorchs() {
    let recorded: Value = serde_json::from_str(include_str!("../../tests/pytorch/optimizers.json")).unwrap();
    assert_eq!(recorded["runs"].as_object().unwrap().len(), RUNS.len());
    // In double precision libtorch's operations compute, in single precision our own.
    for (kind, tolerance) in [(Kind::Float, 2e-6), (Kind::Double, 2e-5)] {
        for (name, make) in RUNS {
            let mut store = variables(kind);
            let mut optimizer = make(&store).unwrap();
            let steps = recorded["steps"].as_array().unwrap().iter().map(|step| step.as_u64().unwrap() as u32);
            for (step, expected) in steps.clone().zip(recorded["runs"][name].as_array().unwrap()) {
                while (optimizer.num_steps() as u32) < step {
                    let loss = loss(&store, optimizer.num_steps() as u32 + 1);
                    optimizer.minimize(&loss, &mut store).unwrap();
                }
                for (found, expected) in values(&store).into_iter().zip(expected.as_array().unwrap()) {
                    let expected = expected.as_f64().unwrap();
                    let difference = (found - expected).abs();
                    assert!(
                        difference <= tolerance * (1.0 + expected.abs()),
                        "{name} {kind:?} {step}: {found} {expected}"
                    );
                }
            }
        }
    }
}

/// Saved after some steps, and restored into an optimizer that was made anew.
#[test]
fn a_restored_optimizer_goes_on_with_the_same_bits() {
    use crate::checkpoint::{Metadata, Saver};
    let folder = tempfile::tempdir().unwrap();
    for (name, make) in RUNS {
        let train = |store: &mut nn::VarStore, optimizer: &mut Optimizer, until: u64| {
            while optimizer.num_steps() < until {
                let loss = loss(store, optimizer.num_steps() as u32 + 1);
                optimizer.minimize(&loss, store).unwrap();
            }
        };
        let mut store = variables(Kind::Float);
        let mut optimizer = make(&store).unwrap();
        train(&mut store, &mut optimizer, 7);
        let path = folder.path().join(format!("{name}.safetensors"));
        Saver::new().save(&path, &[&store, &optimizer], &Metadata::new()).unwrap();
        train(&mut store, &mut optimizer, 20);

        let mut restored = variables(Kind::Float);
        let mut optimizer = make(&restored).unwrap();
        Saver::new().restore(&path, &[&restored, &optimizer]).unwrap();
        assert_eq!(optimizer.num_steps(), 7);
        train(&mut restored, &mut optimizer, 20);
        assert_eq!(values(&restored), values(&store), "{name}");
    }
}

#[test]
fn another_optimizers_state_does_not_fit() {
    use crate::checkpoint::{Metadata, Saver};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adam.safetensors");
    let store = variables(Kind::Float);
    Saver::new().save(&path, &[&Optimizer::adam(&store, 0.1).unwrap()], &Metadata::new()).unwrap();
    let other = Optimizer::sgd(&store, 0.1).unwrap().momentum(0.9).unwrap();
    let message = Saver::new().restore(&path, &[&other]).unwrap_err().to_string();
    for name in ["adam.m/layer.weight", "adam.v/layer.bias", "adam.steps", "sgd.momentum/layer.weight", "sgd.steps"] {
        assert!(message.contains(name), "{name}: {message}");
    }
}

/// Buffers are saved with the model, and no optimizer has moments of them.
#[test]
fn buffers_are_not_trained() {
    let store = nn::VarStore::new(Device::Cpu);
    let _norm = nn::batch_norm1d(store.root() / "norm", 3, Default::default());
    let names = |tensors: Vec<NamedTensor>| tensors.into_iter().map(|named| named.name).collect::<Vec<_>>();
    let all = ["norm.bias", "norm.running_mean", "norm.running_var", "norm.weight"];
    assert_eq!(names(store.tensors()), all);
    assert_eq!(names(store.variables_to_train()), ["norm.bias", "norm.weight"]);
    let expected = ["norm.bias", "norm.weight"].map(|name| format!("sgd.momentum/{name}"));
    let optimizer = Optimizer::sgd(&store, 0.1).unwrap().momentum(0.5).unwrap();
    assert_eq!(names(optimizer.tensors())[..2], expected);
}

#[test]
fn frozen_layers_stay_as_they_are() {
    let layers = Network::builder([2, 2, 1]).flatten().fully_connected(3, "layer_fc1").softmax_classifier(2);
    let mut network = layers.freeze("layer_fc1").build(Device::Cpu).unwrap();
    let values = |network: &Network, name: &str| network.variables().values(name).unwrap();
    let names = ["layer_fc1.weight", "layer_fc1.bias", "softmax_classifier.weight", "softmax_classifier.bias"];
    let before = names.map(|name| values(&network, name));
    let mut optimizer = Optimizer::adam(&network, 0.1).unwrap();
    let images = Tensor::ones([1, 4], (Kind::Float, Device::Cpu));
    let labels = Tensor::from_slice(&[0.0_f32, 1.0]).view([1, 2]);
    let loss = network.training_loss(&images, &labels, 1).unwrap();
    optimizer.minimize(&loss, &mut network).unwrap();
    let changed = [0, 1, 2, 3].map(|index| values(&network, names[index]) != before[index]);
    // The classifier's weights change where the layer before gives anything, its biases in any case.
    assert_eq!(changed[..2], [false, false]);
    assert!(changed[3]);
    let all_frozen = Network::builder([2, 2, 1]).flatten().softmax_classifier(2).freeze("softmax_classifier");
    let loss = all_frozen.build(Device::Cpu).unwrap().training_loss(&images, &labels, 1).unwrap();
    let message = optimizer.minimize(&loss, &mut network).unwrap_err().to_string();
    assert!(
        message.starts_with("loss: expected a value computed from the model's variables that are trained"),
        "{message}"
    );
}

#[test]
fn moments_and_steps_have_names() {
    let network = Network::builder([2, 2, 1]).flatten().softmax_classifier(2).build(Device::Cpu).unwrap();
    let optimizer = Optimizer::adam(&network, 0.1).unwrap();
    let names = optimizer.tensors().into_iter().map(|named| named.name).collect::<Vec<_>>();
    let expected = [
        "adam.m/softmax_classifier.weight",
        "adam.m/softmax_classifier.bias",
        "adam.v/softmax_classifier.weight",
        "adam.v/softmax_classifier.bias",
        "adam.steps",
    ];
    assert_eq!(names, expected);
}

#[test]
fn what_cannot_be_minimized_is_refused() {
    let build = |classes| Network::builder([2, 2, 1]).flatten().softmax_classifier(classes).build(Device::Cpu).unwrap();
    let (mut network, mut other) = (build(2), build(3));
    for learning_rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-60, 1e60] {
        let message = Optimizer::adam(&network, learning_rate).unwrap_err().to_string();
        assert!(message.starts_with("learning rate: expected a positive number within the range of f32"), "{message}");
    }
    let mut optimizer = Optimizer::adam(&network, 0.1).unwrap();
    let one = || Loss::from(Tensor::from_slice(&[1.0_f32]));
    let message = optimizer.minimize(&one(), &mut network).unwrap_err().to_string();
    assert_eq!(
        message,
        "loss: expected a value computed from the model's variables that are trained, found one without a gradient"
    );
    let images = Tensor::ones([1, 4], (Kind::Float, Device::Cpu));
    let labels = Tensor::from_slice(&[0.0_f32, 1.0]).view([1, 2]);
    let loss = network.training_loss(&images, &labels, 1).unwrap();
    optimizer.minimize(&loss, &mut network).unwrap();
    let message = optimizer.minimize(&loss, &mut network).unwrap_err().to_string();
    // Our kernels name what was modified.
    let expected = match Processor::detect() {
        Some(_) => {
            "loss: expected variables and images as they were when it was computed, found softmax_classifier.weight"
        }
        None => "computing the gradients: libtorch",
    };
    assert!(message.starts_with(expected), "{message}");
    let message = optimizer.minimize(&one(), &mut other).unwrap_err().to_string();
    assert_eq!(message, "model: expected the one that the optimizer was made for, found one with other variables");
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    let store = variables(Kind::Float);
    let refused: [(Make, &str); 11] = [
        (|v| Optimizer::adam(v, 0.1)?.momentum(0.9), "momentum: expected the method sgd or rms_prop, found adam"),
        (|v| Optimizer::sgd(v, 0.1)?.nesterov(), "nesterov: expected the method sgd with momentum, found sgd"),
        (|v| Optimizer::sgd(v, 0.1)?.betas(0.9, 0.9), "betas: expected the method adam or adam_w, found sgd"),
        (|v| Optimizer::sgd(v, 0.1)?.epsilon(0.1), "epsilon: expected the method adam, adam_w or rms_prop, found sgd"),
        (|v| Optimizer::sgd(v, 0.1)?.momentum(1.0), "momentum: expected at least 0 and below 1, found 1"),
        (|v| Optimizer::adam(v, 0.1)?.betas(0.9, f64::NAN), "beta2: expected at least 0 and below 1, found NaN"),
        (|v| Optimizer::adam(v, 0.1)?.weight_decay(-1.0), "weight decay: expected 0 or a positive number, found -1"),
        (
            |v| Optimizer::adam(v, 0.1)?.clip_norm(0.0),
            "clip_norm: expected a positive number within the range of f32, found 0",
        ),
        (
            |v| Optimizer::adam(v, 0.1)?.clip_value(f64::INFINITY),
            "clip_value: expected a positive number within the range of f32, found inf",
        ),
        (
            |v| Optimizer::adam(v, 0.1)?.scale_learning_rate(0.1, |_| false),
            "scale_learning_rate: expected the name of a variable at least, found none that matches",
        ),
        (
            |_| Optimizer::adam(&nn::VarStore::new(Device::Cpu), 0.1),
            "model: expected at least one variable to train, found none",
        ),
    ];
    for (make, expected) in refused {
        assert_eq!(make(&store).unwrap_err().to_string(), expected);
    }
}

/// `VarStore::double` and `set_device` put the values elsewhere.
#[test]
fn variables_that_moved_are_refused() {
    let mut store = variables(Kind::Float);
    let mut optimizer = Optimizer::adam(&store, 0.1).unwrap();
    store.double();
    let message = optimizer.minimize(&loss(&store, 1), &mut store).unwrap_err().to_string();
    assert!(message.ends_with("found another one: make a new optimizer"), "{message}");
}

#[test]
fn gradients_that_are_not_finite_are_not_hidden_by_a_clip() {
    for (name, make) in RUNS {
        let mut store = variables(Kind::Float);
        let mut optimizer = make(&store).unwrap();
        let broken = loss(&store, 1) * f64::NAN;
        optimizer.minimize(&broken, &mut store).unwrap();
        assert!(values(&store).iter().all(|value| value.is_nan()), "{name}: {:?}", values(&store));
    }
}
