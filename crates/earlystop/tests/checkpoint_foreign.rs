//! Files of other programs: other element types, and checkpoints that were rewritten with their metadata.
#![cfg(feature = "torch")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use earlystop::Error;
use earlystop::checkpoint::{Checkpoint, CheckpointPart, Metadata, Mismatch, NamedTensor, Saver, Store};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Device, Kind, Tensor};

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("foreign.safetensors");
    (dir, path)
}

fn values(first: f32) -> Tensor {
    Tensor::arange_start(f64::from(first), f64::from(first) + 6.0, (Kind::Float, Device::Cpu)).reshape([2, 3])
}

/// Several kinds of one width and of others, so that other programs order them in another way; and so many tensors that their
/// random order is never by chance nearly ours.
fn state() -> Vec<NamedTensor<'static>> {
    let mut state = vec![
        NamedTensor::new("z.weight", values(1.0)),
        NamedTensor::new("a.int", Tensor::from_slice(&[7i32, 8])),
        NamedTensor::new("m.double", Tensor::from_slice(&[0.5f64])),
        NamedTensor::new("b.long", Tensor::from_slice(&[9i64])),
        NamedTensor::new("h.half", Tensor::from_slice(&[0.5f32]).to_kind(Kind::Half)),
        NamedTensor::new("g.brain", Tensor::from_slice(&[0.25f32]).to_kind(Kind::BFloat16)),
        NamedTensor::new("flag", Tensor::from_slice(&[true, false])),
        NamedTensor::new("empty", Tensor::zeros([0, 2], (Kind::Float, Device::Cpu))),
    ];
    state.extend((0..12).map(|index: u8| NamedTensor::new(format!("more.{index}"), values(f32::from(index)))));
    state
}

fn zeroed() -> Vec<NamedTensor<'static>> {
    state().iter().map(|named| NamedTensor::new(&*named.name, named.tensor().unwrap().zeros_like())).collect()
}

fn metadata() -> Metadata {
    [("history", "[1,2]"), ("note", "ö \"quoted\"\n")].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// Rewrites a file by the crate `safetensors`, as Python's package does: the metadata in random order.
fn rewrite(path: &Path, change: impl Fn(&mut HashMap<String, String>, &mut Vec<(String, TensorView<'_>)>)) {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
    let mut tensors = file.tensors();
    change(&mut metadata, &mut tensors);
    fs::write(path, safetensors::serialize(tensors, Some(metadata)).unwrap()).unwrap();
}

#[test]
fn a_rewritten_checkpoint_is_verified_as_long_as_its_checksums_match() {
    let (_dir, path) = scratch();
    for _ in 0..20 {
        Saver::new().save(&path, &[&state()], &metadata()).unwrap();
        let ours = fs::read(&path).unwrap();
        rewrite(&path, |_, _| ());
        assert_ne!(fs::read(&path).unwrap(), ours);
        let checkpoint = Checkpoint::read(&path).unwrap();
        assert!(checkpoint.is_verified());
        assert_eq!(*checkpoint.metadata(), metadata());
        let live = zeroed();
        assert_eq!(Saver::new().restore(&path, &[&live]).unwrap(), metadata());
        for (live, saved) in live.iter().zip(&state()) {
            assert_eq!(live.tensor().unwrap(), saved.tensor().unwrap(), "{}", live.name);
        }
    }
}

#[test]
fn a_checkpoint_that_was_rewritten_with_changes_is_valid_but_not_verified() {
    let (_dir, path) = scratch();
    let check = |path: &Path| {
        let checkpoint = Checkpoint::read(path).unwrap();
        assert!(!checkpoint.is_verified());
        checkpoint
    };
    for _ in 0..20 {
        // Other values, under the old checksums.
        let save = || Saver::new().save(&path, &[&state()], &metadata()).unwrap();
        save();
        let doubled = [2.0f32, 4.0, 6.0, 8.0, 10.0, 12.0].map(f32::to_le_bytes).concat();
        let bytes = fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let kept = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone();
        let mut tensors = file.tensors();
        for (name, view) in &mut tensors {
            if name == "z.weight" {
                *view = TensorView::new(Dtype::F32, vec![2, 3], &doubled).unwrap();
            }
        }
        fs::write(&path, safetensors::serialize(tensors, kept).unwrap()).unwrap();
        assert_eq!(check(&path).tensor("z.weight").unwrap(), values(1.0) * 2.0);
        let live = zeroed();
        Saver::new().restore(&path, &[&live]).unwrap();
        assert_eq!(live[0].tensor().unwrap(), values(1.0) * 2.0);

        // A tensor less, a key more, a key less.
        save();
        rewrite(&path, |_, tensors| tensors.retain(|(name, _)| name != "m.double"));
        assert_eq!(check(&path).infos().count(), state().len() - 1);
        save();
        rewrite(&path, |metadata, _| {
            metadata.insert("edited".to_owned(), "by hand".to_owned());
        });
        assert_eq!(check(&path).metadata()["edited"], "by hand");
        save();
        rewrite(&path, |metadata, _| {
            metadata.remove("note");
        });
        check(&path);
    }
}

#[test]
fn a_rewritten_checkpoint_of_a_store_keeps_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    for (step, score) in [(1, 0.5), (2, 0.9), (3, 0.7)] {
        store.save(step, Some(score), &[&state()], &metadata()).unwrap();
    }
    let before = store.list().unwrap();
    for saved in &before {
        rewrite(&saved.path, |_, _| ());
    }
    assert_eq!(store.list().unwrap(), before);
    assert_eq!(store.best_valid().unwrap().saved.unwrap().step, 2);
    assert!(store.latest_valid().unwrap().skipped.is_empty());
}

/// A file of a JSON header and data, as any program may write it.
fn write(path: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend(data);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_tensor_of_an_unsupported_type_does_not_hide_the_others() {
    let (_dir, path) = scratch();
    // Element type, elements, bytes. The last two are not of today.
    let types = [
        ("U16", 2, 4),
        ("U32", 1, 4),
        ("U64", 1, 8),
        ("C64", 1, 8),
        ("F8_E4M3", 4, 4),
        ("F8_E5M2", 4, 4),
        ("F8_E8M0", 4, 4),
        ("F8_E4M3FNUZ", 4, 4),
        ("F8_E5M2FNUZ", 4, 4),
        ("F4", 8, 4),
        ("F6_E2M3", 4, 3),
        ("F6_E3M2", 4, 3),
        ("I4", 8, 4),
        ("F128", 1, 16),
    ];
    for (dtype, count, bytes) in types {
        let header = format!(
            r#"{{"odd":{{"dtype":"{dtype}","shape":[{count}],"data_offsets":[0,{bytes}]}},"w":{{"dtype":"F32","shape":[1],"data_offsets":[{bytes},{}]}}}}"#,
            bytes + 4
        );
        write(&path, &header, &[vec![1; bytes], 2.5f32.to_le_bytes().to_vec()].concat());
        let checkpoint = Checkpoint::read(&path).unwrap();
        let unsupported = checkpoint.unsupported().map(|it| format!("{}: {it}", it.name));
        let known = checkpoint.infos().filter(|info| info.name != "w").map(|info| format!("{}: {info}", info.name));
        let is_known = checkpoint.unsupported().next().is_none();
        assert_eq!(unsupported.chain(known).collect::<Vec<_>>(), [format!("odd: {dtype} [{count}]")]);
        assert_eq!(is_known, !["I4", "F128"].contains(&dtype), "{dtype}");
        assert_eq!(checkpoint.bytes("odd").unwrap(), vec![1; bytes]);
        assert_eq!(checkpoint.tensor("w").unwrap(), Tensor::from_slice(&[2.5f32]));
        let error = checkpoint.tensor("odd").unwrap_err().to_string();
        assert!(error.contains("\"odd\"") && error.contains(dtype), "{error}");

        let live = vec![NamedTensor::new("w", Tensor::from_slice(&[0f32]))];
        let error = Saver::new().restore(&path, &[&live]).unwrap_err().to_string();
        let also = if is_known { "" } else { ", and not supported" };
        assert!(error.contains(&format!("only in the file{also}: \"odd\" {dtype} [{count}]")), "{error}");
        let partial = Saver::new().restore_matching(&path, &[&live]).unwrap();
        assert_eq!((partial.restored, partial.mismatches.len()), (vec!["w".to_owned()], 1));
        let _ = live[0].tensor().unwrap().shallow_clone().zero_();
        Saver::new().ignore_extra().restore(&path, &[&live]).unwrap();
        assert_eq!(live[0].tensor().unwrap(), Tensor::from_slice(&[2.5f32]));

        let wanted = vec![NamedTensor::new("odd", Tensor::zeros([count], (Kind::Float, Device::Cpu)))];
        for saver in [Saver::new().ignore_extra(), Saver::new().ignore_extra().convert_floats()] {
            let Err(Error::Mismatch { mismatches, .. }) = saver.restore(&path, &[&wanted]) else {
                panic!("{dtype} was restored")
            };
            match &mismatches[..] {
                [Mismatch::Unsupported { expected: Some(_), .. }] => assert!(!is_known),
                [Mismatch::Different { .. }] => assert!(is_known),
                _ => panic!("{mismatches:?}"),
            }
            let how = if is_known { "different" } else { "not supported" };
            let line = format!("{how}: \"odd\": expected F32 [{count}], found {dtype} [{count}]");
            assert_eq!(mismatches[0].to_string(), line);
        }
    }
}

#[test]
fn damage_of_a_file_of_ours_is_still_found_where_it_looks_like_a_rewrite() {
    let (_dir, path) = scratch();
    Saver::new().save(&path, &[&state()[..3].iter().map(share).collect::<Vec<_>>()], &metadata()).unwrap();
    let whole = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for bit in 64..(8 + length) * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        let error = Checkpoint::open(&path).unwrap_err();
        assert!(matches!(error, Error::Checkpoint { part: CheckpointPart::Header, .. }), "bit {bit}: {error}");
    }
}

fn share(named: &NamedTensor) -> NamedTensor<'static> {
    NamedTensor::new(&*named.name, named.tensor().unwrap().shallow_clone())
}
