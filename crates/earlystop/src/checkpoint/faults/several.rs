//! Faults while a state in several files is saved, and while it replaces a single file or is replaced by one.

use super::*;

const LAYOUTS: [u64; 2] = [8, u64::MAX];

fn state(value: f64) -> Vec<NamedTensor<'static>> {
    ["a", "b", "c"].map(|name| named(name, &[value as f32; 2])).into()
}

/// The value of all tensors.
fn value_in(path: &Path) -> f64 {
    let mut values = [-1.0f32; 6];
    let tensors = ["a", "b", "c"].into_iter().zip(values.chunks_mut(2));
    let state: Vec<NamedTensor> = tensors.map(|(name, values)| NamedTensor::new(name, values)).collect();
    Saver::new().restore(path, &[&state]).unwrap();
    drop(state);
    assert!(values.iter().all(|value| *value == values[0]), "a mix of two saves: {values:?}");
    values[0].into()
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() != ".lock").count()
}

fn files(layout: u64) -> usize {
    if layout == 8 { 4 } else { 1 }
}

#[test]
fn a_save_that_fails_at_any_step_leaves_the_old_state_or_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("best.safetensors");
    let save = |saver: Saver, layout, value| {
        saver.split_above(layout).save(&path, &[&state(value)], &Metadata::new()).map(|_| ())
    };
    for (old, new) in LAYOUTS.into_iter().flat_map(|old| LAYOUTS.map(|new| (old, new))) {
        let mut failed = Vec::new();
        for fails_at in 0.. {
            save(Saver::new(), old, 1.0).unwrap();
            assert_eq!(count(dir.path()), files(old), "the save before cleans up");
            let faulty = Faulty::new(fails_at, ErrorKind::StorageFull, usize::MAX);
            let result = save(Saver::with_files(faulty.clone()), new, 2.0);
            let value = value_in(&path);
            match result {
                Ok(()) => assert_eq!(value, 2.0),
                Err(Error::Io { path: named, action, source }) => {
                    assert_eq!((named, source.kind()), (path.clone(), ErrorKind::StorageFull));
                    let is_last = action == "sync its folder to the disk";
                    assert!(value == 1.0 || is_last, "{action}");
                    let layout = if value == 1.0 { old } else { new };
                    assert!(count(dir.path()) == files(layout) || value == 2.0, "files are left after: {action}");
                    failed.push(action);
                }
                Err(error) => panic!("{error}"),
            }
            save(Saver::new(), new, 3.0).unwrap();
            assert_eq!((value_in(&path), count(dir.path())), (3.0, files(new)), "{fails_at}");
            if faulty.count.load(Ordering::Relaxed) <= fails_at {
                break;
            }
        }
        failed.dedup();
        if new == 8 {
            assert!(failed.len() >= 4 * 4 + 2, "{failed:?}");
            let last = "delete the single file that the parts replace";
            assert_eq!(failed.contains(&last), old != 8, "{failed:?}");
        }
    }
}

#[test]
fn a_disk_that_is_gone_at_any_step_leaves_the_old_state_or_the_new_one() {
    /// All operations fail from a given one on, as if the process had been killed there.
    #[derive(Debug)]
    struct Gone(Arc<Faulty>);
    impl Gone {
        fn lives(&self) -> io::Result<()> {
            let number = self.0.count.fetch_add(1, Ordering::Relaxed);
            if number >= self.0.fails_at { Err(ErrorKind::NotConnected.into()) } else { Ok(()) }
        }
    }
    impl Files for Gone {
        fn create(&self, path: &Path, is_private: bool) -> io::Result<File> {
            self.lives().and_then(|()| Disk.create(path, is_private))
        }
        fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
            self.lives().and_then(|()| Disk.write_at(file, bytes, at))
        }
        fn sync(&self, file: &File) -> io::Result<()> {
            self.lives().and_then(|()| Disk.sync(file))
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.lives().and_then(|()| Disk.rename(from, to))
        }
        fn sync_folder(&self, folder: &Path) -> io::Result<()> {
            self.lives().and_then(|()| Disk.sync_folder(folder))
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            self.lives().and_then(|()| Disk.remove(path))
        }
    }
    for (old, new) in LAYOUTS.into_iter().flat_map(|old| LAYOUTS.map(|new| (old, new))) {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path()).unwrap().keep(Keep::last(2));
        let path = dir.path().join("step-000002.safetensors");
        for fails_at in 0.. {
            let mut store = open().split_above(old);
            store.clear().unwrap();
            assert_eq!(count(dir.path()), 0, "a store cleans up after every kill");
            store.save(1, None, &[&state(1.0)], &Metadata::new()).unwrap();
            store.save(2, None, &[&state(2.0)], &Metadata::new()).unwrap();
            drop(store);
            let faulty = Faulty::new(fails_at, ErrorKind::NotConnected, usize::MAX);
            let mut store = open().with_saver(Saver::with_files(Arc::new(Gone(faulty.clone())))).split_above(new);
            // The same step again, and one more, which deletes the first.
            let again = store.save(2, None, &[&state(2.5)], &Metadata::new());
            let more = store.save(3, None, &[&state(3.0)], &Metadata::new());
            drop(store);

            let found = open().latest_valid().unwrap();
            assert!(found.skipped.is_empty(), "{:?}", found.skipped);
            let latest = found.saved.unwrap();
            let value = value_in(&latest.path);
            let expected = if again.is_ok() && more.is_ok() { &[3.0][..] } else { &[2.0, 2.5, 3.0] };
            assert!(expected.contains(&value), "{value}");
            assert!([2.0, 2.5].contains(&value_in(&path)) || value == 3.0);
            for saved in open().list().unwrap() {
                value_in(&saved.path);
            }
            if faulty.count.load(Ordering::Relaxed) <= fails_at {
                break;
            }
        }
    }
}
