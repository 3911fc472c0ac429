//! Reads the checkpoints that earlier versions wrote; see `golden/README.md`.
#![cfg(feature = "torch")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use earlystop::checkpoint::{Checkpoint, Metadata, NamedTensor, Savable, Saver, Store, latest_checkpoint};
use earlystop::early_stopping::Rule;
use earlystop::ndarray::{Array1, Array3};
use earlystop::trainer::Resume;
use earlystop::{Examples, Network, Optimizer, Trainer};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// The versions whose files are stored, each in a folder of its name.
const VERSIONS: [&str; 3] = ["0.1.0", "0.1.0-parts", "0.1.0-history"];
/// Those with the runs of trainers.
const WITH_RUNS: [&str; 2] = ["0.1.0", "0.1.0-history"];

/// Returns whether the states in a folder are split into several files.
fn is_split(folder: &Path) -> bool {
    folder.to_str().is_some_and(|name| name.ends_with("-parts"))
}

fn golden(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version)
}

/// Copies a folder, so that nothing writes into the stored one.
fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// Every kind, no elements, no dimensions, values that only their bits tell apart, and a name that JSON escapes.
fn saver_state() -> Vec<NamedTensor<'static>> {
    let kinds = [Kind::Uint8, Kind::Int8, Kind::Int16, Kind::Int, Kind::Half, Kind::BFloat16, Kind::Double];
    let mut state: Vec<NamedTensor<'static>> = kinds
        .into_iter()
        .map(|kind| NamedTensor::new(format!("{kind:?}"), Tensor::from_slice(&[0i64, 1, 100]).to_kind(kind)))
        .collect();
    let floats = [f32::NAN, -0.0, f32::INFINITY, f32::MIN_POSITIVE / 2.0, f32::from_bits(0x7fc0_1234), 0.1];
    state.push(NamedTensor::new("Float", Tensor::from_slice(&floats).reshape([2, 3])));
    state.push(NamedTensor::new("Bool", Tensor::from_slice(&[true, false, true])));
    state.push(NamedTensor::new("Int64", Tensor::from_slice(&[i64::MIN, -1, i64::MAX])));
    state.push(NamedTensor::new("scalar", Tensor::from(5800i64)));
    state.push(NamedTensor::new("empty", Tensor::zeros([0, 3], (Kind::Float, Device::Cpu))));
    state.push(NamedTensor::new("a \"weight\" ö\n", Tensor::from_slice(&[1.0f32, 2.0, 3.0])));
    state
}

fn saver_metadata() -> Metadata {
    let pairs = [("history", r#"[{"iteration":100,"accuracy":0.852}]"#), ("note", "ö \"quoted\"\n"), ("nothing", "")];
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// Step, score and the value of all eight elements. The best is neither the first nor the last.
const STORED: [(u64, Option<f64>, f32); 3] = [(100, Some(0.84375), 1.5), (200, Some(0.9125), 2.5), (300, None, -3.5)];

/// One tensor, or two where they are to be split.
fn store_state(value: f32, is_split: bool) -> Vec<NamedTensor<'static>> {
    let names = if is_split { &["v", "w"][..] } else { &["w"] };
    let tensor = |name: &&str| NamedTensor::new(*name, Tensor::full([8], f64::from(value), (Kind::Float, Device::Cpu)));
    names.iter().map(tensor).collect()
}

/// What a trainer must know again after a resume, as the version that wrote the checkpoints knew it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Expected {
    iteration: u64,
    best: Option<u64>,
    /// Iteration, bits of the validation accuracy and the loss, wrongly classified images.
    history: Vec<(u64, u64, Option<u64>, Vec<usize>)>,
    /// The bits of all variables of the network.
    variables: BTreeMap<String, Vec<u32>>,
    /// The same after `restore_best`.
    best_variables: BTreeMap<String, Vec<u32>>,
}

/// The rules of the two stored runs, by the names of their folders.
fn rules() -> [(&'static str, Rule); 2] {
    let noise_aware = Rule::all_of([Rule::noise_aware(2000), Rule::generalization_loss(500.0)]);
    [("patience", Rule::patience(1000)), ("noise_aware", Rule::any_of([Rule::patience(3000), noise_aware]))]
}

fn examples(count: usize, seed: usize) -> Examples {
    let labels = Array1::from_shape_fn(count, |i| (i * 7 % 4) as u8);
    let images = Array3::from_shape_fn((count, 4, 4), |(i, y, x)| {
        let noise = (((i + seed) * 7919 + y * 104_729 + x * 1_299_709) % 200) as u8;
        noise.saturating_add(if y == usize::from(labels[i]) { 80 } else { 0 })
    });
    Examples::new(images, labels).unwrap()
}

/// A tiny network with a convolution and dropout, on 70 examples in batches of 16, so that epochs end within a batch.
fn trainer(rule: Rule, folder: &Path) -> Trainer {
    let layers = Network::builder([4, 4, 1]).conv2d(3, 2, "layer_conv1").max_pool(2, 2).flatten();
    let layers = layers.fully_connected(6, "layer_fc1").dropout(0.25).softmax_classifier(4).seed(5);
    let network = layers.build(Device::Cpu).unwrap();
    let optimizer = Optimizer::adam(&network, 2f64.powi(-6)).unwrap();
    let builder = Trainer::builder(network, optimizer, &examples(70, 0), &examples(24, 1000));
    let builder = builder.batch_size(16).evaluate_every(10).seed(9).record_mistakes(true);
    builder.stop_when(rule).checkpoints(folder).build().unwrap()
}

fn variables(network: &Network) -> BTreeMap<String, Vec<u32>> {
    let bits = |name: &str| network.variables().values(name).unwrap().iter().map(|value| value.to_bits()).collect();
    network.variables().names().map(|name| (name.to_owned(), bits(name))).collect()
}

/// What is known of a run; leaves the best variables in the network.
fn known(trainer: &mut Trainer) -> Expected {
    let history = trainer.history().iter().map(|seen| {
        let wrong = seen.mistakes.as_ref().expect("the run records mistakes").wrong().collect();
        (
            seen.iteration,
            seen.scores["validation_accuracy"].to_bits(),
            seen.score("validation_loss").map(f64::to_bits),
            wrong,
        )
    });
    let history = history.collect();
    let last = variables(trainer.network());
    let best = trainer.report().best.map(|best| best.iteration);
    trainer.restore_best().unwrap();
    let best_variables = variables(trainer.network());
    Expected { iteration: trainer.iteration(), best, history, variables: last, best_variables }
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    if !bytes.is_empty() {
        tensor.copy_data_u8(&mut bytes, tensor.numel());
    }
    bytes
}

/// Writes the files of this version: `GOLDEN_FOLDER=… cargo test --test checkpoint_golden -- --ignored`.
#[test]
#[ignore = "writes the golden files of a new version"]
fn write_golden_files() {
    let folder = PathBuf::from(std::env::var_os("GOLDEN_FOLDER").expect("GOLDEN_FOLDER names the folder to create"));
    fs::create_dir(&folder).expect("a folder that exists is never written over");
    let is_split = is_split(&folder);
    let limit = if is_split { 32 } else { u64::MAX };
    let saver = Saver::new().split_above(limit);
    saver.save(folder.join("saver.safetensors"), &[&saver_state()], &saver_metadata()).unwrap();

    let mut store = Store::open(folder.join("store")).unwrap().split_above(limit);
    for (step, score, value) in STORED {
        let metadata = Metadata::from([("step".to_owned(), step.to_string())]);
        store.save(step, score, &[&store_state(value, is_split)], &metadata).unwrap();
    }
    if is_split {
        return;
    }
    for (name, rule) in rules() {
        let mut trainer = trainer(rule, &folder.join(name));
        // The best evaluation must not be the last one: it is looked for from the end on.
        while trainer.iteration() == 0
            || trainer.report().best.is_some_and(|best| best.iteration == trainer.iteration())
        {
            trainer.optimize(40, |_| ()).unwrap();
        }
        let json = serde_json::to_string(&known(&mut trainer)).unwrap();
        fs::write(folder.join(format!("{name}.json")), json).unwrap();
    }
}

#[test]
fn a_single_file_has_the_same_bits() {
    for version in VERSIONS {
        let path = golden(version).join("saver.safetensors");
        let checkpoint = Checkpoint::read(&path).unwrap();
        assert!(checkpoint.is_verified());
        assert_eq!(*checkpoint.metadata(), saver_metadata());
        let expected = saver_state();
        assert_eq!(checkpoint.infos().count(), expected.len());

        let live: Vec<NamedTensor<'static>> =
            expected.iter().map(|named| NamedTensor::new(&*named.name, named.tensor().unwrap().zeros_like())).collect();
        assert_eq!(Saver::new().restore(&path, &[&live]).unwrap(), saver_metadata());
        for (expected, live) in expected.iter().zip(&live) {
            let found = checkpoint.tensor(&expected.name).unwrap();
            for found in [&found, &live.tensor().unwrap()] {
                assert_eq!(found.size(), expected.tensor().unwrap().size(), "{:?}", expected.name);
                assert_eq!(bytes(found), bytes(&expected.tensor().unwrap()), "{:?}", expected.name);
            }
        }
    }
}

#[test]
fn a_store_finds_its_checkpoints_and_saves_on() {
    for version in VERSIONS {
        let folder = copy_of(&golden(version).join("store"));
        let is_split = is_split(&golden(version));
        let mut store = Store::open(folder.path()).unwrap();
        let list = store.list().unwrap();
        let found: Vec<(u64, Option<f64>, u64)> = list.iter().map(|it| (it.step, it.score, it.commit)).collect();
        assert_eq!(found, [(100, Some(0.84375), 1), (200, Some(0.9125), 2), (300, None, 3)]);
        for (saved, (step, _, value)) in list.iter().zip(STORED) {
            assert_eq!(saved.path.extension().unwrap() == "json", is_split);
            let live = store_state(0.0, is_split);
            let metadata = Saver::new().restore(&saved.path, &[&live]).unwrap();
            assert_eq!(metadata, Metadata::from([("step".to_owned(), step.to_string())]));
            for (live, expected) in live.iter().zip(store_state(value, is_split)) {
                assert_eq!(live.tensor().unwrap(), expected.tensor().unwrap());
            }
        }
        assert_eq!(store.best().unwrap().unwrap().step, 200);
        assert_eq!(store.latest().unwrap().unwrap().step, 300);
        assert_eq!(store.latest_valid().unwrap().saved.unwrap().path, list[2].path);
        assert_eq!(store.best_valid().unwrap().saved.unwrap().path, list[1].path);
        assert_eq!(latest_checkpoint(folder.path()).unwrap().as_ref(), Some(&list[2].path));

        let new = store.save(400, Some(0.5), &[&store_state(4.0, is_split)], &Metadata::new()).unwrap();
        assert_eq!((new.commit, store.best().unwrap().unwrap().step), (4, 200));
    }
}

#[test]
fn a_run_is_resumed_and_goes_on() {
    for version in WITH_RUNS {
        for (name, rule) in rules() {
            let folder = copy_of(&golden(version).join(name));
            let expected = fs::read(golden(version).join(format!("{name}.json"))).unwrap();
            let expected: Expected = serde_json::from_slice(&expected).unwrap();
            assert!(expected.history.iter().any(|(.., wrong)| !wrong.is_empty()), "some images must be mistaken");
            assert!(expected.best < Some(expected.iteration));

            let mut resumed = trainer(rule.clone(), folder.path());
            assert!(resumed.resume(|_| ()).unwrap(), "{version} {name}");
            assert_eq!(known(&mut resumed), expected, "{version} {name}");
            drop(resumed);

            let live = trainer(rule.clone(), folder.path()).into_network();
            let optimizer = Optimizer::adam(&live, 1.0).unwrap();
            Saver::new().restore(latest_checkpoint(folder.path()).unwrap().unwrap(), &[&live, &optimizer]).unwrap();
            assert_eq!(variables(&live), expected.variables);
            assert!(
                optimizer.tensors().iter().all(|named| named
                    .tensor()
                    .unwrap()
                    .abs()
                    .sum(Kind::Double)
                    .double_value(&[])
                    > 0.0)
            );

            // Another one goes on, from the last commit instead of from the best variables.
            let mut resumed = trainer(rule, folder.path());
            assert!(resumed.resume(|_| ()).unwrap());
            let report = resumed.optimize(20, |_| ()).unwrap();
            assert_eq!(report.iterations, expected.iteration + 20);
            assert_eq!(resumed.history().len(), expected.history.len() + 2);
            assert_ne!(variables(resumed.network()), expected.variables, "the run goes on");
            // In this version's layout, with all evaluations.
            let before = resumed.history().to_vec();
            drop(resumed);
            let mut resumed = trainer(Rule::never(), folder.path());
            let new_rule = Resume::latest().with_new_settings();
            resumed.resume_from(new_rule, |event| assert!(!event.to_string().contains("missing"), "{event}")).unwrap();
            assert_eq!(resumed.history(), before);
        }
    }
}
