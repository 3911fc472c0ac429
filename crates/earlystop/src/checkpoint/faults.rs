//! Lets every step of a save fail in turn: always the old checkpoint or the new one, never neither.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tch::{Device, Kind, Tensor};

use super::files::{Disk, Files};
use super::{Keep, Metadata, NamedTensor, Saver, Store};
use crate::Error;

/// A disk on which the operation of number `fails_at` fails, after half of its bytes if it is a write, and on which a
/// write takes at most `most` bytes.
#[derive(Debug)]
struct Faulty {
    count: AtomicUsize,
    fails_at: usize,
    error: ErrorKind,
    most: usize,
}

impl Faulty {
    fn new(fails_at: usize, error: ErrorKind, most: usize) -> Arc<Self> {
        Arc::new(Faulty { count: AtomicUsize::new(0), fails_at, error, most })
    }

    fn fails(&self) -> io::Result<()> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        if number == self.fails_at { Err(self.error.into()) } else { Ok(()) }
    }
}

impl Files for Faulty {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.fails().and_then(|()| Disk.create(path))
    }
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.fails() {
            Disk.write(file, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        Disk.write(file, &bytes[..bytes.len().min(self.most)])
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        self.fails().and_then(|()| Disk.sync(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fails().and_then(|()| Disk.rename(from, to))
    }
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.fails().and_then(|()| Disk.sync_folder(folder))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.fails().and_then(|()| Disk.remove(path))
    }
}

const ERRORS: [ErrorKind; 3] = [ErrorKind::StorageFull, ErrorKind::PermissionDenied, ErrorKind::WriteZero];
/// About ten writes for each of the small files here.
const SMALL_WRITES: usize = 64;

fn state(value: f64) -> Vec<NamedTensor> {
    vec![NamedTensor::new("w", Tensor::full([20], value, (Kind::Float, Device::Cpu)))]
}

fn value_in(path: &Path) -> f64 {
    let state = state(-1.0);
    Saver::new().restore(path, &[&state]).unwrap();
    state[0].tensor.double_value(&[0])
}

#[test]
fn a_save_that_fails_at_any_step_leaves_the_old_file_or_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("best.safetensors");
    for error in ERRORS {
        let mut steps = Vec::new();
        for fails_at in 0.. {
            Saver::new().save(&path, &[&state(1.0)], &Metadata::new()).unwrap();
            let faulty = Faulty::new(fails_at, error, SMALL_WRITES);
            let Err(failed) = Saver::with_files(faulty).save(&path, &[&state(2.0)], &Metadata::new()) else {
                break;
            };
            let Error::Io { path: named, action, source } = failed else { panic!("{failed}") };
            assert_eq!((named, source.kind()), (path.clone(), error));
            let is_new = action == "sync its folder to the disk";
            assert_eq!(value_in(&path), if is_new { 2.0 } else { 1.0 }, "{action}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file is left after: {action}");
            steps.push(action);
        }
        assert!(steps.iter().filter(|step| **step == "write its temporary file").count() > 5, "{steps:?}");
        steps.dedup();
        let all = [
            "create a temporary file beside it",
            "write its temporary file",
            "sync its temporary file to the disk",
            "move its temporary file into place",
            "sync its folder to the disk",
        ];
        assert_eq!(steps, all);
        assert_eq!(value_in(&path), 2.0);
    }
}

#[test]
fn a_first_save_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for fails_at in 0..4 {
        let faulty = Faulty::new(fails_at, ErrorKind::StorageFull, usize::MAX);
        let error = Saver::with_files(faulty).save(dir.path().join("a"), &[&state(2.0)], &Metadata::new()).unwrap_err();
        assert!(error.to_string().contains("no storage space"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_temporary_file_that_cannot_be_deleted_either_is_cleaned_up_by_the_next_save() {
    /// After the first failure nothing works any more, as when a disk is pulled out.
    #[derive(Debug)]
    struct Gone;
    impl Files for Gone {
        fn sync(&self, _: &File) -> io::Result<()> {
            Err(ErrorKind::NotConnected.into())
        }
        fn remove(&self, _: &Path) -> io::Result<()> {
            Err(ErrorKind::NotConnected.into())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("best.safetensors");
    Saver::with_files(Arc::new(Gone)).save(&path, &[&state(1.0)], &Metadata::new()).unwrap_err();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    Saver::new().save(&path, &[&state(2.0)], &Metadata::new()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(value_in(&path), 2.0);
}

#[test]
fn a_store_keeps_its_last_checkpoint_whatever_fails() {
    for error in ERRORS {
        for fails_at in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let open = || Store::open(dir.path()).unwrap().keep(Keep::last(1));
            open().save(1, None, &[&state(1.0)], &Metadata::new()).unwrap();
            let faulty = Saver::with_files(Faulty::new(fails_at, error, SMALL_WRITES));
            let mut store = open().with_saver(faulty);
            let result = store.save(2, None, &[&state(2.0)], &Metadata::new());

            let found = open().latest_valid().unwrap();
            let latest = found.saved.expect("a checkpoint is there at any time");
            assert!(found.skipped.is_empty());
            assert_eq!(value_in(&latest.path), latest.step as f64);
            assert!(result.is_err() || latest.step == 2);

            if result.is_ok() {
                break;
            }
            // The next save sets everything right.
            store.save(3, None, &[&state(3.0)], &Metadata::new()).unwrap();
            let steps: Vec<u64> = store.list().unwrap().iter().map(|saved| saved.step).collect();
            assert_eq!(steps, [3], "{result:?}");
        }
    }
}
