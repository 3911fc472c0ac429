//! Saving, keeping, restoring and stopping without libtorch: this test is the same with and without the feature `torch`.

use std::borrow::Cow;
use std::path::PathBuf;

use earlystop::Error;
use earlystop::checkpoint::{Checkpoint, Keep, Metadata, NamedTensor, Saver, Store, Values};
use earlystop::early_stopping::{EarlyStopping, Metric, Observation, Patience};
use earlystop::safetensors::{Dtype, View};
use half::{bf16, f16};
use proptest::prelude::*;

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    (dir, path)
}

/// A tensor of another library that cannot be written to in place.
struct Foreign {
    shape: Vec<usize>,
    bytes: Vec<u8>,
    dtype: Dtype,
}

impl View for Foreign {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

#[test]
fn every_type_of_number_comes_back() {
    let (_dir, path) = scratch();
    macro_rules! round_trip {
        ($($element:ty: $value:expr),*) => {$(
            let values = [$value, Default::default()];
            Saver::new().save(&path, &[&vec![NamedTensor::new("w", &values[..])]], &Metadata::new()).unwrap();
            let mut restored: [$element; 2] = Default::default();
            Saver::new().restore(&path, &[&vec![NamedTensor::new("w", &mut restored[..])]]).unwrap();
            assert_eq!(restored, values);
        )*};
    }
    round_trip!(f64: -0.1, f32: 0.1, f16: f16::MAX, bf16: bf16::MIN, i64: i64::MIN, i32: -7, i16: -7, i8: -7);
    round_trip!(u64: u64::MAX, u32: 7, u16: 7, u8: 7);
}

#[test]
fn a_restore_that_fails_changes_nothing_and_says_why() {
    let (_dir, path) = scratch();
    let state = vec![NamedTensor::new("a", &[1.0f32; 6][..]).with_shape([2, 3]), NamedTensor::new("b", &[2u8][..])];
    Saver::new().save(&path, &[&state], &Metadata::new()).unwrap();

    let (mut a, mut b) = ([0.0f32; 6], [0.0f32; 1]);
    let live = vec![NamedTensor::new("a", &mut a[..]).with_shape([3, 2]), NamedTensor::new("b", &mut b[..])];
    let error = Saver::new().convert_floats().restore(&path, &[&live]).unwrap_err().to_string();
    assert!(error.contains(r#"different: "a": expected F32 [3, 2], found F32 [2, 3]"#), "{error}");
    assert!(error.contains(r#"different: "b": expected F32 [1], found U8 [1]"#), "{error}");
    drop(live);

    let mut right = [0u8];
    let read_only = vec![
        NamedTensor::new("a", &mut a[..]).with_shape([2, 3]),
        NamedTensor::new("b", Values::of(Foreign { shape: vec![1], bytes: vec![0], dtype: Dtype::U8 })),
    ];
    let error = Saver::new().restore(&path, &[&read_only]).unwrap_err();
    assert!(matches!(&error, Error::State { name, .. } if name == "b"), "{error}");
    drop(read_only);
    let shared =
        vec![NamedTensor::new("a", &[0.0f32; 6][..]).with_shape([2, 3]), NamedTensor::new("b", &mut right[..])];
    let error = Saver::new().restore(&path, &[&shared]).unwrap_err().to_string();
    assert!(error.contains("\"a\"") && error.contains("&mut"), "{error}");
    drop(shared);
    assert_eq!((a, b, right), ([0.0; 6], [0.0], [0]));
}

#[test]
fn shapes_that_do_not_hold_the_elements_are_refused() {
    let (_dir, path) = scratch();
    for shape in [&[2, 2][..], &[-1, -6], &[i64::MAX, i64::MAX], &[]] {
        let state = vec![NamedTensor::new("w", &[1.0f32; 6][..]).with_shape(shape)];
        let error = Saver::new().save(&path, &[&state], &Metadata::new()).unwrap_err().to_string();
        assert!(error.contains("\"w\"") && error.contains("[6]"), "{shape:?}: {error}");
    }
    let lying = Foreign { shape: vec![5], bytes: vec![0; 3], dtype: Dtype::U16 };
    let state = vec![NamedTensor::new("w", Values::of(lying))];
    Saver::new().save(&path, &[&state], &Metadata::new()).unwrap_err();
    assert!(!path.exists());
}

#[test]
fn tensors_of_another_library_are_restored_by_a_function() {
    let (_dir, path) = scratch();
    let values = [1.5f32, -2.0, 1e30];
    Saver::new().save(&path, &[&vec![NamedTensor::new("w", &values[..])]], &Metadata::new()).unwrap();
    let mut restored = Vec::new();
    let half = Foreign { shape: vec![3], bytes: vec![0; 6], dtype: Dtype::F16 };
    let live = vec![NamedTensor::new(
        "w",
        Values::restored_by(half, |bytes| {
            restored.extend_from_slice(bytes);
            Ok(())
        }),
    )];
    Saver::new().restore(&path, &[&live]).unwrap_err();
    Saver::new().convert_floats().restore(&path, &[&live]).unwrap();
    drop(live);
    let expected = values.map(|value| f16::from_f32(value).to_le_bytes()).concat();
    assert_eq!(restored, expected);
}

#[test]
fn an_error_of_such_a_function_is_returned() {
    let (_dir, path) = scratch();
    Saver::new().save(&path, &[&vec![NamedTensor::new("w", &[1u8][..])]], &Metadata::new()).unwrap();
    let foreign = Foreign { shape: vec![1], bytes: vec![0], dtype: Dtype::U8 };
    let live = vec![NamedTensor::new("w", Values::restored_by(foreign, |_| Err(Error::other("no device"))))];
    assert_eq!(Saver::new().restore(&path, &[&live]).unwrap_err().to_string(), "no device");
}

#[test]
fn produced_values_must_have_the_size_of_their_shape() {
    let (_dir, path) = scratch();
    let save = |pieces: &[&[u8]]| {
        let values = Values::produced_by(Dtype::U8, [4], |write| pieces.iter().try_for_each(|piece| write(piece)));
        Saver::new().save(&path, &[&vec![NamedTensor::new("w", values)]], &Metadata::new())
    };
    save(&[&[1, 2], &[], &[3, 4]]).unwrap();
    for (wrong, found) in [(&[&[5u8, 6, 7][..]][..], 3), (&[&[5, 6, 7], &[8, 9]], 5), (&[], 0)] {
        let error = save(wrong).unwrap_err().to_string();
        let expected = format!("\"w\": its shape [4] has 4 bytes, but {found} were passed on");
        assert!(error.contains(&expected), "{error}");
    }
    let failing = Values::produced_by(Dtype::U8, [4], |write| {
        write(&[0])?;
        Err(Error::other("the source is gone"))
    });
    let error = Saver::new().save(&path, &[&vec![NamedTensor::new("w", failing)]], &Metadata::new()).unwrap_err();
    assert_eq!(error.to_string(), "the source is gone");
    assert_eq!(Checkpoint::read(&path).unwrap().bytes("w").unwrap(), [1, 2, 3, 4]);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");

    let values = Values::produced_by(Dtype::U8, [4], |write| write(&[0; 4]));
    let error = Saver::new().restore(&path, &[&vec![NamedTensor::new("w", values)]]).unwrap_err();
    assert!(matches!(&error, Error::State { name, .. } if name == "w"), "{error}");
}

#[test]
fn a_range_of_a_tensor_is_read_from_whichever_file_has_it() {
    let (_dir, path) = scratch();
    let (a, b) = ([1u8, 2, 3, 4], [5u8, 6, 7, 8]);
    let state = vec![NamedTensor::new("a", &a[..]), NamedTensor::new("b", &b[..])];
    Saver::new().split_above(4).save(&path, &[&state], &Metadata::new()).unwrap();
    let checkpoint = Checkpoint::read(&path).unwrap();
    let mut bytes = [0; 2];
    checkpoint.read_range("b", 2, &mut bytes).unwrap();
    assert_eq!(bytes, [7, 8]);
    for start in [3, u64::MAX] {
        assert!(matches!(checkpoint.read_range("b", start, &mut bytes), Err(Error::State { .. })));
    }
    assert!(matches!(checkpoint.read_range("c", 0, &mut bytes), Err(Error::State { .. })));
    let sizes = checkpoint.files().map(|file| std::fs::metadata(file).unwrap().len());
    assert_eq!((checkpoint.files().count(), checkpoint.file_bytes()), (2, sizes.sum()));
    assert!(checkpoint.modified().is_some());
}

#[test]
fn a_large_state_is_converted_block_by_block() {
    let (_dir, path) = scratch();
    let values: Vec<f64> = (0..3_000_000).map(|number| f64::from(number % 1000) / 8.0).collect();
    Saver::new().save(&path, &[&vec![NamedTensor::new("w", &values[..])]], &Metadata::new()).unwrap();
    let mut singles = vec![0.0f32; values.len()];
    let live = vec![NamedTensor::new("w", &mut singles[..])];
    Saver::new().convert_floats().restore(&path, &[&live]).unwrap();
    drop(live);
    assert!(values.iter().zip(&singles).all(|(value, single)| *value == f64::from(*single)));
}

#[test]
fn a_store_and_a_rule_work_as_ever() {
    let dir = tempfile::tempdir().unwrap();
    let metric = Metric::lower("validation_loss");
    let mut stopping = EarlyStopping::with(Patience::new(2).on(metric)).unwrap();
    let mut store = Store::open(dir.path()).unwrap().keep(Keep::last(1).best(1));
    for (step, loss) in (1..).zip([0.9, 0.5, 0.6, 0.7, 0.8]) {
        let verdict = stopping.record(Observation::of(step, [("validation_loss", loss)])).unwrap();
        let metadata = Metadata::from([("stopping".to_owned(), serde_json::to_string(&stopping).unwrap())]);
        store.save(step, Some(-loss), &[&vec![NamedTensor::new("w", &[loss][..])]], &metadata).unwrap();
        assert_eq!(verdict.stop.is_some(), step == 5);
    }
    let best = store.best_valid().unwrap().saved.unwrap();
    assert_eq!(best.step, 2);
    let checkpoint = Checkpoint::read(best.path).unwrap();
    assert_eq!(checkpoint.bytes("w").unwrap(), 0.5f64.to_le_bytes());
    let read: EarlyStopping = serde_json::from_str(&checkpoint.metadata()["stopping"]).unwrap();
    assert_eq!(read.best().unwrap().iteration, 2);
}

proptest! {
    #[test]
    fn any_state_comes_back(
        floats in prop::collection::vec(any::<u32>(), 0..40),
        bytes in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let (_dir, path) = scratch();
        let floats: Vec<f32> = floats.into_iter().map(f32::from_bits).collect();
        let state = vec![NamedTensor::new("floats", &floats[..]), NamedTensor::new("bytes", &bytes[..])];
        Saver::new().save(&path, &[&state], &Metadata::new()).unwrap();
        let (mut a, mut b) = (vec![0.0f32; floats.len()], vec![0u8; bytes.len()]);
        let live = vec![NamedTensor::new("floats", &mut a[..]), NamedTensor::new("bytes", &mut b[..])];
        Saver::new().restore(&path, &[&live]).unwrap();
        drop(live);
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
        prop_assert_eq!(bits(&a), bits(&floats));
        prop_assert_eq!(&b, &bytes);
    }
}
