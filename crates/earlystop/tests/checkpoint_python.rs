//! Python reads our files, and we read Python's.
#![cfg(feature = "torch")]

#[path = "common/python.rs"]
mod python;

use std::path::Path;
use std::process::Command;

use earlystop::checkpoint::{Checkpoint, Metadata, NamedTensor, Saver};
use earlystop::network::evaluate;
use earlystop::{Mnist, Network, Optimizer, Trainer};
use tch::{Device, Kind, Tensor};

fn numbers(size: &[i64]) -> Tensor {
    Tensor::arange(size.iter().product::<i64>(), (Kind::Float, Device::Cpu)).reshape(size)
}

#[test]
fn numpy_restores_the_network_and_reaches_the_same_accuracy() {
    const COUNT: usize = 1000;
    let Some(python) = python::with("numpy") else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/MNIST");
    let data = Mnist::load(&folder, |_| ()).unwrap();
    let layers = Network::builder([28, 28, 1]).conv2d(5, 16, "layer_conv1").max_pool(2, 2);
    let layers = layers.conv2d(5, 36, "layer_conv2").max_pool(2, 2).flatten().fully_connected(128, "layer_fc1");
    let network = layers.softmax_classifier(10).build(Device::Cpu).unwrap();
    let optimizer = Optimizer::adam(&network, 1e-3).unwrap();
    let validation = data.validation.slice(0..COUNT).unwrap();
    let mut trainer = Trainer::builder(network, optimizer, &data.train, &validation).build().unwrap();
    trainer.optimize(100, |_| ()).unwrap();
    let correct = evaluate(trainer.network(), &data.test.slice(0..COUNT).unwrap()).unwrap().correct;
    let correct = correct.into_iter().filter(|&correct| correct).count();
    assert!(correct > 800, "{correct}");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("network.safetensors");
    Saver::new().save(&path, &[trainer.network()], &Metadata::new()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cnn_numpy.py");
    let files = ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"].map(|name| folder.join(name));
    let output = Command::new(python).arg(script).arg(path).args(files).arg(COUNT.to_string()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), correct.to_string());
}

#[test]
fn numpy_reads_our_file_and_we_read_its() {
    let Some(python) = python::with("numpy") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours.safetensors"), dir.path().join("theirs.safetensors"));
    // Channels last in memory: the file has the logical order all the same.
    let conv = numbers(&[2, 3, 5, 4]).permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    let state = vec![
        NamedTensor::new("conv.weight", conv),
        NamedTensor::new("fc.weight", numbers(&[2, 3])),
        NamedTensor::new("steps", Tensor::from(5800i64)),
    ];
    let history = r#"[{"iteration": 100, "accuracy": 0.852}]"#;
    let metadata = Metadata::from([("history".to_owned(), history.to_owned())]);
    Saver::new().save(&ours, &[&state], &metadata).unwrap();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoint_numpy.py");
    let output = Command::new(python).arg(script).args([&ours, &theirs]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("read by {}", String::from_utf8_lossy(&output.stdout).trim());

    assert!(!Checkpoint::read(&theirs).unwrap().is_verified());
    Saver::new().restore(&theirs, &[&state[..2].iter().map(share).collect::<Vec<_>>()]).unwrap();
    assert_eq!(state[0].tensor().unwrap(), numbers(&[2, 3, 5, 4]) * 2.0);
    assert_eq!(state[1].tensor().unwrap(), numbers(&[2, 3]) * 2.0);
}

fn share(t: &NamedTensor) -> NamedTensor<'static> {
    NamedTensor::new(&*t.name, t.tensor().unwrap().shallow_clone())
}

#[test]
fn python_reads_our_several_files_and_we_read_its() {
    let Some(python) = python::with("safetensors") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours.safetensors"), dir.path().join("theirs.safetensors"));
    let state = || {
        vec![
            NamedTensor::new("conv.weight", numbers(&[2, 3, 5, 4])),
            NamedTensor::new("fc.weight", numbers(&[2, 3])),
            NamedTensor::new("steps", Tensor::from(0i64)),
        ]
    };
    let metadata = Metadata::from([("format".to_owned(), "pt".to_owned())]);
    Saver::new().split_above(24).save(&ours, &[&state()], &metadata).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoint_parts.py");
    let index = dir.path().join("ours.safetensors.index.json");
    let output = Command::new(python).arg(script).args([&index, &theirs]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    assert!(!Checkpoint::read(&theirs).unwrap().is_verified());
    let live = state();
    assert_eq!(Saver::new().restore(&theirs, &[&live]).unwrap(), metadata);
    for (live, named) in live.iter().zip(state()) {
        assert_eq!(live.tensor().unwrap(), named.tensor().unwrap() * 2, "{}", named.name);
    }
}

#[test]
fn files_of_pythons_safetensors_are_read() {
    let Some(python) = python::with("safetensors") else { return };
    let dir = tempfile::tempdir().unwrap();
    let ours = dir.path().join("ours.safetensors");
    let state = || {
        vec![
            NamedTensor::new("conv.weight", numbers(&[2, 3, 5, 4])),
            NamedTensor::new("fc.weight", numbers(&[2, 3])),
            NamedTensor::new("double", Tensor::from_slice(&[0.1f64])),
            NamedTensor::new("steps", Tensor::from(5800i64)),
        ]
    };
    let metadata = Metadata::from([("history".to_owned(), r#"[{"iteration": 100}]"#.to_owned())]);
    Saver::new().save(&ours, &[&state()], &metadata).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoint_safetensors.py");
    let output = Command::new(python).arg(script).arg(&ours).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = |name: &str| dir.path().join(format!("{name}.safetensors"));

    // Rewritten with the metadata: verified as long as all is the same, and valid in any case.
    assert!(Checkpoint::read(path("same")).unwrap().is_verified());
    let live = state();
    assert_eq!(Saver::new().restore(path("same"), &[&live]).unwrap(), metadata);
    assert!(!Checkpoint::read(path("changed")).unwrap().is_verified());
    assert_eq!(Saver::new().restore(path("changed"), &[&live]).unwrap(), metadata);
    assert_eq!(live[1].tensor().unwrap(), numbers(&[2, 3]) + 1.0);
    assert!(!Checkpoint::read(path("fewer")).unwrap().is_verified());

    // Other floating-point kinds, on request.
    let weight = Tensor::from_slice(&[0.5f64, -3.0, 1e-3, 1e4]).reshape([2, 2]);
    for (name, kind) in [("float16", Kind::Half), ("float32", Kind::Float), ("float64", Kind::Double)] {
        let live = vec![NamedTensor::new("w", Tensor::zeros([2, 2], (Kind::Float, Device::Cpu)))];
        assert_eq!(Saver::new().restore(path(name), &[&live]).is_ok(), kind == Kind::Float);
        Saver::new().convert_floats().restore(path(name), &[&live]).unwrap();
        assert_eq!(live[0].tensor().unwrap(), weight.to_kind(kind).to_kind(Kind::Float));
    }
    let odd = Checkpoint::read(path("odd")).unwrap();
    let mut names: Vec<String> = odd.infos().map(|it| format!("{} {it}", it.name)).collect();
    names.sort();
    assert_eq!(names, ["u16 U16 [2]", "u32 U32 [1]", "u64 U64 [1]", "w F16 [2, 2]"]);
    let error = odd.tensor("u32").unwrap_err().to_string();
    assert!(error.contains("\"u32\"") && error.contains("holds it as U32"), "{error}");
    assert_eq!(odd.tensor("w").unwrap(), weight.to_kind(Kind::Half));
}
