//! Saving and restoring through the public face.
#![cfg(feature = "torch")]

#[path = "common/process.rs"]
mod process;

use std::fs;
use std::path::{Path, PathBuf};

use earlystop::Error;
use earlystop::checkpoint::{Checkpoint, CheckpointPart, Metadata, Mismatch, NamedTensor, Savable, Saver};
use tch::{Device, Kind, Tensor};

use process::passes;

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

type State = Vec<NamedTensor<'static>>;

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("best_validation.safetensors");
    (dir, path)
}

fn numbers(size: &[i64]) -> Tensor {
    Tensor::arange(size.iter().product::<i64>(), F32).reshape(size)
}

fn network() -> State {
    vec![NamedTensor::new("conv.weight", numbers(&[2, 3, 4, 4])), NamedTensor::new("conv.bias", numbers(&[2]))]
}

fn zeroed(state: &State) -> State {
    state.iter().map(|t| NamedTensor::new(&*t.name, t.tensor().unwrap().zeros_like()).with_shape(&*t.shape)).collect()
}

fn assert_same(a: &State, b: &State) {
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.tensor().unwrap(), b.tensor().unwrap(), "{}", a.name);
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_kind_comes_back_with_the_same_bits() {
    let (_dir, path) = scratch();
    let kinds = [Kind::Bool, Kind::Uint8, Kind::Int8, Kind::Int16, Kind::Int, Kind::Int64];
    let kinds = kinds.into_iter().chain([Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double]);
    let mut state: State = kinds
        .map(|kind| NamedTensor::new(format!("{kind:?}"), Tensor::from_slice(&[0i64, 1, 1]).to_kind(kind)))
        .collect();
    let odd = [f32::NAN, -0.0, f32::INFINITY, f32::MIN_POSITIVE / 2.0, f32::from_bits(0x7fc0_1234)];
    state.push(NamedTensor::new("odd", Tensor::from_slice(&odd)));
    state.push(NamedTensor::new("scalar", Tensor::from(2.5f64)));
    state.push(NamedTensor::new("empty", Tensor::zeros([0, 3], F32)));
    state.push(NamedTensor::new("ein Gewicht \"ö\"\n", numbers(&[3])));
    Saver::new().save(&path, &[&state], &Metadata::new()).unwrap();

    let copy = zeroed(&state);
    Saver::new().restore(&path, &[&copy]).unwrap();
    let bytes = |t: &Tensor| {
        let mut bytes = vec![0; t.numel() * t.kind().elt_size_in_bytes()];
        t.copy_data_u8(&mut bytes, t.numel());
        bytes
    };
    for (a, b) in state.iter().zip(&copy) {
        assert_eq!(bytes(&a.tensor().unwrap()), bytes(&b.tensor().unwrap()), "{}", a.name);
        assert_eq!(a.tensor().unwrap().size(), b.tensor().unwrap().size());
    }
}

#[test]
fn the_same_state_always_gives_the_same_file() {
    let (dir, path) = scratch();
    let metadata = Metadata::from([("history".to_owned(), "[1,2]".to_owned()), ("a".to_owned(), String::new())]);
    let other = dir.path().join("other.safetensors");
    Saver::new().save(&path, &[&network()], &metadata).unwrap();
    let reversed: State = network().into_iter().rev().collect();
    Saver::new().save(&other, &[&reversed], &metadata).unwrap();
    assert_eq!(fs::read(&path).unwrap(), fs::read(&other).unwrap());
    assert_eq!(Saver::new().restore(&path, &[&network()]).unwrap(), metadata);
}

#[test]
fn the_layout_in_memory_is_no_part_of_the_file() {
    let (dir, path) = scratch();
    let plain = network();
    Saver::new().save(&path, &[&plain], &Metadata::new()).unwrap();

    let channels_last = |t: &Tensor| t.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    let strided = vec![
        NamedTensor::new("conv.weight", channels_last(&plain[0].tensor().unwrap())),
        NamedTensor::new(
            "conv.bias",
            Tensor::stack(&[&plain[1].tensor().unwrap(), &plain[1].tensor().unwrap()], 1).select(1, 0),
        ),
    ];
    assert!(!strided[0].tensor().unwrap().is_contiguous() && !strided[1].tensor().unwrap().is_contiguous());
    let other = dir.path().join("strided.safetensors");
    Saver::new().save(&other, &[&strided], &Metadata::new()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), fs::read(&other).unwrap());

    for t in &strided {
        let _ = t.tensor().unwrap().shallow_clone().zero_();
    }
    Saver::new().restore(&path, &[&strided]).unwrap();
    assert_same(&plain, &strided);
}

#[test]
fn a_logical_shape_may_differ_from_the_live_dimensions() {
    let (_dir, path) = scratch();
    // A dense layer's weights [out, in], held as a convolution's, channels last.
    let live = numbers(&[5, 3, 2, 2]).permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    let dense = vec![NamedTensor::new("fc.weight", live).with_shape([5, 12])];
    Saver::new().save(&path, &[&dense], &Metadata::new()).unwrap();
    assert_eq!(Checkpoint::read(&path).unwrap().tensor("fc.weight").unwrap(), numbers(&[5, 12]));

    let _ = dense[0].tensor().unwrap().shallow_clone().zero_();
    Saver::new().restore(&path, &[&dense]).unwrap();
    assert_eq!(dense[0].tensor().unwrap(), numbers(&[5, 3, 2, 2]));
    let simple = vec![NamedTensor::new("fc.weight", Tensor::zeros([5, 12], F32))];
    Saver::new().restore(&path, &[&simple]).unwrap();
    assert_eq!(simple[0].tensor().unwrap(), numbers(&[5, 12]));
}

#[test]
fn a_trained_variable_is_restored_in_place() {
    let (_dir, path) = scratch();
    let variable = numbers(&[3]).set_requires_grad(true);
    let state = vec![NamedTensor::new("w", variable.shallow_clone())];
    Saver::new().save(&path, &[&state], &Metadata::new()).unwrap();
    tch::no_grad(|| {
        let _ = variable.shallow_clone().zero_();
    });
    Saver::new().restore(&path, &[&state]).unwrap();
    assert_eq!(variable, numbers(&[3]));
    assert!(variable.requires_grad() && variable.is_leaf());
}

#[test]
fn one_message_tells_all_that_does_not_fit_and_nothing_changes() {
    let (_dir, path) = scratch();
    Saver::new().save(&path, &[&network()], &Metadata::new()).unwrap();
    let other = vec![
        NamedTensor::new("conv.bias", Tensor::zeros([2], (Kind::Double, Device::Cpu))),
        NamedTensor::new("conv.weihgt", Tensor::zeros([2, 3, 4, 4], F32)),
        NamedTensor::new("fc.weight", Tensor::zeros([10, 7], F32)),
    ];
    let error = Saver::new().restore(&path, &[&other]).unwrap_err();
    let expected = format!(
        "{}: does not fit, so nothing was restored:
  different: \"conv.bias\": expected F64 [2], found F32 [2] (convert_floats() converts it)
  missing from the file: \"conv.weihgt\" F32 [2, 3, 4, 4] (the file has \"conv.weight\")
  missing from the file: \"fc.weight\" F32 [10, 7]
  only in the file: \"conv.weight\" F32 [2, 3, 4, 4]",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
    assert_same(&other, &zeroed(&other));
}

#[test]
fn a_shape_that_could_be_broadcast_is_refused() {
    let (_dir, path) = scratch();
    let one = vec![NamedTensor::new("w", numbers(&[1]))];
    Saver::new().save(&path, &[&one], &Metadata::new()).unwrap();
    let ten = vec![NamedTensor::new("w", numbers(&[10]))];
    assert!(matches!(Saver::new().restore(&path, &[&ten]), Err(Error::Mismatch { .. })));
    assert_eq!(ten[0].tensor().unwrap(), numbers(&[10]));
}

#[test]
fn a_tensor_that_cannot_be_written_to_is_named_before_anything_changes() {
    let (_dir, path) = scratch();
    let saved = vec![NamedTensor::new("a", numbers(&[4])), NamedTensor::new("b", numbers(&[4]))];
    Saver::new().save(&path, &[&saved], &Metadata::new()).unwrap();
    // Four elements at one address: libtorch reads them, but does not write them.
    let overlapping = Tensor::ones([1], F32).expand([4], false);
    let live = vec![NamedTensor::new("a", Tensor::ones([4], F32)), NamedTensor::new("b", overlapping)];
    let error = Saver::new().restore(&path, &[&live]).unwrap_err();
    assert!(matches!(&error, Error::State { name, .. } if name == "b"), "{error}");
    assert!(error.to_string().contains("elements share memory"), "{error}");
    assert_eq!(live[0].tensor().unwrap(), Tensor::ones([4], F32));
}

/// Values of which each has its own place, as 16-bit integers repeat too early.
fn many(size: &[i64]) -> Tensor {
    Tensor::arange(size.iter().product::<i64>(), (Kind::Int, Device::Cpu)).reshape(size)
}

#[test]
fn large_tensors_are_cut_into_blocks_and_come_back_whole() {
    let (dir, path) = scratch();
    // 4 MiB is a block. Together they are enough for the threads.
    let state = vec![
        NamedTensor::new("exact", many(&[1 << 20])),
        NamedTensor::new("rows", many(&[3, 1_000_003])),
        NamedTensor::new("strided", many(&[1001, 2003]).transpose(0, 1).contiguous().transpose(0, 1)),
        NamedTensor::new("logical", many(&[5, 6, 70_001])).with_shape([30, 70_001]),
        NamedTensor::new("small", many(&[7])),
        NamedTensor::new("empty", many(&[0, 5])),
        NamedTensor::new("bool", many(&[5_000_000]).remainder(2).to_kind(Kind::Bool)),
    ];
    Saver::new().save(&path, &[&state], &Metadata::new()).unwrap();
    assert!(Checkpoint::read(&path).unwrap().is_verified());
    let live = zeroed(&state);
    let versions: Vec<i64> = live.iter().map(|named| named.tensor().unwrap().internal_version()).collect();
    Saver::new().restore(&path, &[&live]).unwrap();
    assert_same(&live, &state);
    for (named, before) in live.iter().zip(versions).filter(|(named, _)| named.tensor().unwrap().numel() > 0) {
        assert!(named.tensor().unwrap().internal_version() > before, "a backward pass must notice: {}", named.name);
    }
    for named in &state {
        let tensor = Checkpoint::open(&path).unwrap().tensor(&named.name).unwrap();
        assert_eq!(tensor, named.tensor().unwrap().reshape(&named.shape[..]), "{}", named.name);
    }

    // Damage in the last block of each tensor is found, and named, before anything changes.
    let whole = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize + 8;
    let mut ends: Vec<(usize, String)> = Vec::new();
    for info in Checkpoint::open(&path).unwrap().infos() {
        let bytes = info.shape.iter().product::<i64>() as usize * info.dtype.bitsize() / 8;
        let start = ends.last().map_or(length, |(end, _)| *end);
        ends.push((start + bytes, info.name.clone()));
    }
    let spoilt = dir.path().join("spoilt");
    let live = zeroed(&state);
    for (end, name) in ends.iter().filter(|(_, name)| name != "empty") {
        let mut bytes = whole.clone();
        bytes[end - 1] ^= 2;
        fs::write(&spoilt, bytes).unwrap();
        let error = Saver::new().restore(&spoilt, &[&live]).unwrap_err();
        assert!(
            matches!(&error, Error::Checkpoint { part: CheckpointPart::Tensor(found), .. } if found == name),
            "{name}: {error}"
        );
    }
    assert_same(&live, &zeroed(&state));
}

#[test]
fn of_several_damaged_tensors_the_first_one_is_named() {
    let (_dir, path) = scratch();
    let state: State = (0..9).map(|index| NamedTensor::new(format!("t{index}"), many(&[400_000]))).collect();
    Saver::new().save(&path, &[&state], &Metadata::new()).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let data = bytes.len() - 9 * 1_600_000;
    for damaged in [3, 4, 8] {
        bytes[data + damaged * 1_600_000 + 77] ^= 1;
    }
    fs::write(&path, bytes).unwrap();
    for _ in 0..20 {
        let error = Checkpoint::read(&path).unwrap_err();
        assert!(
            matches!(&error, Error::Checkpoint { part: CheckpointPart::Tensor(name), .. } if name == "t3"),
            "{error}"
        );
    }
}

#[test]
fn a_checkpoint_that_is_open_is_read_to_its_end_although_it_is_replaced() {
    let (_dir, path) = scratch();
    Saver::new().save(&path, &[&network()], &Metadata::new()).unwrap();
    let open = Checkpoint::open(&path).unwrap();
    Saver::new().save(&path, &[&zeroed(&network())], &Metadata::new()).unwrap();
    assert_eq!(open.tensor("conv.weight").unwrap(), network()[0].tensor().unwrap());

    // Written to in place, as no saver does.
    let open = Checkpoint::open(&path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = open.tensor("conv.weight").unwrap_err().to_string();
    assert!(error.contains("tensor \"conv.weight\": damaged"), "{error}");
    fs::write(&path, "short").unwrap();
    let error = open.tensor("conv.weight").unwrap_err().to_string();
    assert!(error.contains("another program changed it"), "{error}");
}

#[test]
fn floats_are_converted_only_on_request() {
    let (_dir, path) = scratch();
    let floats = [(Kind::Half, "F16"), (Kind::BFloat16, "BF16"), (Kind::Float, "F32"), (Kind::Double, "F64")];
    let values = Tensor::from_slice(&[0.5f64, -3.0, 1e30, 1.0 + 1e-12, f64::NEG_INFINITY]);
    for (stored, stored_name) in floats {
        let saved = vec![
            NamedTensor::new("w", values.to_kind(stored)),
            NamedTensor::new("large", many(&[3_000_000]).remainder(100).to_kind(stored)),
            NamedTensor::new("step", Tensor::from(7i64)),
        ];
        Saver::new().save(&path, &[&saved], &Metadata::new()).unwrap();
        for (live_kind, live_name) in floats {
            let live = vec![
                NamedTensor::new("w", Tensor::zeros([5], (live_kind, Device::Cpu))),
                NamedTensor::new("large", Tensor::zeros([3_000_000], (live_kind, Device::Cpu))),
                NamedTensor::new("step", Tensor::from(0i64)),
            ];
            let strict = Saver::new().restore(&path, &[&live]);
            if stored == live_kind {
                strict.unwrap();
            } else {
                let message = strict.unwrap_err().to_string();
                let line = format!(
                    "different: \"w\": expected {live_name} [5], found {stored_name} [5] (convert_floats() converts it)"
                );
                assert!(message.contains(&line), "{message}");
                assert_eq!(live[2].tensor().unwrap(), Tensor::from(0i64));
            }
            Saver::new().convert_floats().restore(&path, &[&live]).unwrap();
            for (live, saved) in live.iter().zip(&saved) {
                assert_eq!(
                    live.tensor().unwrap(),
                    saved.tensor().unwrap().to_kind(live.tensor().unwrap().kind()),
                    "{stored_name} into {live_name}"
                );
            }
            let partial = Saver::new().convert_floats().restore_matching(&path, &[&live]).unwrap();
            assert_eq!((partial.restored.len(), partial.mismatches.len()), (3, 0));
        }
    }
    // Integers stay as they are, and shapes must fit.
    let live = vec![
        NamedTensor::new("w", Tensor::zeros([1, 5], F32)),
        NamedTensor::new("large", many(&[3_000_000])),
        NamedTensor::new("step", Tensor::from(0f32)),
    ];
    let Err(Error::Mismatch { mismatches, .. }) = Saver::new().convert_floats().restore(&path, &[&live]) else {
        panic!("nothing fits");
    };
    assert_eq!(mismatches.len(), 3);
    assert!(mismatches.iter().all(|mismatch| !mismatch.to_string().contains("convert_floats")), "{mismatches:?}");
}

#[test]
fn a_network_is_used_without_its_optimizer() {
    let (_dir, path) = scratch();
    let moments = vec![NamedTensor::new("adam.m/conv.bias", numbers(&[2]))];
    let saved = network();
    Saver::new().save(&path, &[&saved, &moments], &Metadata::new()).unwrap();
    let live = zeroed(&saved);
    assert!(Saver::new().restore(&path, &[&live]).is_err());
    Saver::new().ignore_extra().restore(&path, &[&live]).unwrap();
    assert_same(&live, &saved);
    let with_more = vec![NamedTensor::new("new", numbers(&[1]))];
    assert!(Saver::new().ignore_extra().restore(&path, &[&live, &with_more]).is_err());
}

#[test]
fn a_partial_restore_says_what_it_left_out() {
    let (_dir, path) = scratch();
    Saver::new().save(&path, &[&network()], &Metadata::from([("k".to_owned(), "v".to_owned())])).unwrap();
    let changed = vec![
        NamedTensor::new("conv.weight", Tensor::zeros([2, 3, 4, 4], F32)),
        NamedTensor::new("conv.bias", Tensor::zeros([5], F32)),
        NamedTensor::new("conv2.bias", Tensor::zeros([2], F32)),
    ];
    let report = Saver::new().restore_matching(&path, &[&changed]).unwrap();
    assert_eq!(report.restored, ["conv.weight"]);
    assert_eq!(report.metadata["k"], "v");
    let why: Vec<String> = report.mismatches.iter().map(Mismatch::to_string).collect();
    assert_eq!(
        why,
        ["different: \"conv.bias\": expected F32 [5], found F32 [2]", "missing from the file: \"conv2.bias\" F32 [2]"]
    );
    assert_eq!(changed[0].tensor().unwrap(), network()[0].tensor().unwrap());
    assert_eq!(changed[1].tensor().unwrap(), Tensor::zeros([5], F32));
}

#[test]
fn what_cannot_be_saved_is_named() {
    let (dir, path) = scratch();
    let save =
        |state: State, metadata: Metadata| Saver::new().save(&path, &[&state], &metadata).unwrap_err().to_string();
    let twice = || vec![NamedTensor::new("w", numbers(&[1])), NamedTensor::new("w", numbers(&[1]))];
    assert_eq!(save(twice(), Metadata::new()), "cannot save or restore \"w\": two tensors share this name");
    let complex = Tensor::zeros([1], (Kind::ComplexFloat, Device::Cpu));
    let complex = vec![NamedTensor::new("c", complex)];
    assert!(save(complex, Metadata::new()).contains("\"c\": the kind ComplexFloat cannot be stored"));
    let undefined = vec![NamedTensor::new("u", Tensor::new())];
    assert!(save(undefined, Metadata::new()).contains("\"u\": the tensor is undefined"));
    let misfit = |shape: &[i64]| vec![NamedTensor::new("s", numbers(&[6])).with_shape(shape)];
    for shape in [&[7][..], &[-2, -3], &[i64::MAX, i64::MAX], &[]] {
        assert!(save(misfit(shape), Metadata::new()).contains("\"s\": its logical shape"), "{shape:?}");
    }
    let reserved = Metadata::from([("checkpoint.sha256".to_owned(), String::new())]);
    assert!(save(network(), reserved).contains("\"checkpoint.sha256\": metadata keys that start with"));
    assert!(save(vec![NamedTensor::new("__metadata__", numbers(&[1]))], Metadata::new()).contains("safetensors"));
    assert_eq!(names_in(dir.path()), [""; 0]);
    assert!(matches!(Saver::new().restore(&path, &[&twice()]), Err(Error::State { .. })));
}

#[test]
fn a_path_that_is_none_is_named_with_the_step_that_failed() {
    let (dir, path) = scratch();
    let lost = dir.path().join("no_such_folder/a.safetensors");
    let error = Saver::new().save(&lost, &[&network()], &Metadata::new()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: cannot create a temporary file beside it: ", lost.display())), "{error}");
    let error = Saver::new().restore(&path, &[&network()]).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: cannot open: ", path.display())), "{error}");
    let error = Saver::new().restore(dir.path(), &[&network()]).unwrap_err().to_string();
    assert!(error.contains("directory"), "{error}");
    let error = Saver::new().save(dir.path(), &[&network()], &Metadata::new()).unwrap_err().to_string();
    assert!(error.contains("cannot move its temporary file into place"), "{error}");
    let error = Saver::new().save("..", &[&network()], &Metadata::new()).unwrap_err().to_string();
    assert!(error.contains("does not end in a file name"), "{error}");
}

#[test]
fn what_a_killed_saver_left_behind_is_cleaned_up_by_the_next() {
    let (dir, path) = scratch();
    let abandoned = dir.path().join(".best_validation.safetensors.4000000-0.tmp");
    let in_use = dir.path().join(".best_validation.safetensors.4000001-0.tmp");
    let of_another = dir.path().join(".other.safetensors.4000000-0.tmp");
    for leftover in [&abandoned, &in_use, &of_another] {
        fs::write(leftover, "half a checkpoint").unwrap();
    }
    let writer = fs::File::open(&in_use).unwrap();
    writer.lock().unwrap();
    Saver::new().save(&path, &[&network()], &Metadata::new()).unwrap();
    let names = names_in(dir.path());
    assert_eq!(
        names,
        [
            ".best_validation.safetensors.4000001-0.tmp",
            ".other.safetensors.4000000-0.tmp",
            "best_validation.safetensors"
        ]
    );
}

#[test]
fn many_savers_on_one_path_leave_one_whole_file() {
    let (dir, path) = scratch();
    std::thread::scope(|scope| {
        for value in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let state = vec![NamedTensor::new("w", Tensor::full([1000], f64::from(value), F32))];
                for _ in 0..25 {
                    Saver::new().save(path, &[&state], &Metadata::new()).unwrap();
                    Checkpoint::read(path).unwrap();
                }
            });
        }
    });
    assert_eq!(names_in(dir.path()), ["best_validation.safetensors"]);
}

#[test]
fn a_relative_path_without_a_folder_is_saved_in_the_current_one() {
    // The tests of one program share the current folder, so this one runs in a child.
    if std::env::var_os("CHECKPOINT_RELATIVE_CHILD").is_some() {
        Saver::new().save("relative.safetensors", &[&network()], &Metadata::new()).unwrap();
        return;
    }
    let (dir, _) = scratch();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "a_relative_path_without_a_folder_is_saved_in_the_current_one"]);
    passes(child.env("CHECKPOINT_RELATIVE_CHILD", "1").current_dir(dir.path()));
    assert_eq!(names_in(dir.path()), ["relative.safetensors"]);
}

#[test]
fn the_crate_safetensors_reads_our_files_and_we_read_its() {
    use safetensors::tensor::{Dtype, SafeTensors, TensorView};
    let (_dir, path) = scratch();
    let state = network();
    Saver::new().save(&path, &[&state], &Metadata::from([("k".to_owned(), "v".to_owned())])).unwrap();
    let bytes = fs::read(&path).unwrap();
    let theirs = SafeTensors::deserialize(&bytes).unwrap();
    let view = theirs.tensor("conv.weight").unwrap();
    assert_eq!((view.dtype(), view.shape()), (Dtype::F32, &[2, 3, 4, 4][..]));
    assert_eq!(view.data()[4..8], 1.0f32.to_le_bytes());
    assert_eq!(SafeTensors::read_metadata(&bytes).unwrap().1.metadata().as_ref().unwrap()["k"], "v");

    let rewritten = theirs.tensors();
    let rewritten: Vec<(&str, &TensorView)> = rewritten.iter().map(|(name, view)| (&**name, view)).collect();
    fs::write(&path, safetensors::serialize(rewritten, None).unwrap()).unwrap();
    let checkpoint = Checkpoint::read(&path).unwrap();
    assert!(!checkpoint.is_verified());
    let copy = zeroed(&state);
    Saver::new().restore(&path, &[&copy]).unwrap();
    assert_same(&state, &copy);
    assert_eq!(copy.tensors().len(), 2);
}

#[test]
fn damage_leaves_the_live_tensors_alone() {
    let (_dir, path) = scratch();
    let state = network();
    Saver::new().save(&path, &[&state], &Metadata::new()).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let live = zeroed(&state);
    let error = Saver::new().restore(&path, &[&live]).unwrap_err();
    assert!(matches!(&error, Error::Checkpoint { part: CheckpointPart::Tensor(name), .. } if name == "conv.weight"));
    assert!(error.to_string().contains("tensor \"conv.weight\": damaged: its SHA-256 is"), "{error}");
    assert!(Saver::new().restore_matching(&path, &[&live]).is_err());
    assert_same(&live, &zeroed(&state));
}
