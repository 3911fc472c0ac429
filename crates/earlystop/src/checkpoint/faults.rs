//! Lets each step of a save fail in turn, and requires the old checkpoint or the new one afterwards.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::files::{Disk, Files};
use super::{Keep, Metadata, NamedTensor, Saver, Store};
use crate::Error;

/// A disk on which the operation of number `fails_at` fails, after half of its bytes if it is a write, and on which a
/// write takes at most `most` bytes.
#[derive(Debug)]
pub(super) struct Faulty {
    count: AtomicUsize,
    fails_at: usize,
    error: ErrorKind,
    most: usize,
}

impl Faulty {
    pub(super) fn new(fails_at: usize, error: ErrorKind, most: usize) -> Arc<Self> {
        Arc::new(Faulty { count: AtomicUsize::new(0), fails_at, error, most })
    }

    fn fails(&self) -> io::Result<()> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        if number == self.fails_at { Err(self.error.into()) } else { Ok(()) }
    }
}

impl Files for Faulty {
    fn create(&self, path: &Path, is_private: bool) -> io::Result<File> {
        self.fails().and_then(|()| Disk.create(path, is_private))
    }
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
        if let Err(error) = self.fails() {
            Disk.write_at(file, &bytes[..bytes.len() / 2], at)?;
            return Err(error);
        }
        Disk.write_at(file, &bytes[..bytes.len().min(self.most)], at)
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

const ERRORS: [ErrorKind; 3] = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::WriteZero];
/// About ten writes for each of the small files here.
const SMALL_WRITES: usize = 64;

/// Creates a tensor that lives until the test process ends.
fn named(name: &str, values: &[f32]) -> NamedTensor<'static> {
    NamedTensor::new(name, values.to_vec().leak() as &'static [f32])
}

fn state(value: f64) -> Vec<NamedTensor<'static>> {
    vec![named("w", &[value as f32; 20])]
}

fn value_in(path: &Path) -> f64 {
    let mut values = [-1.0f32; 20];
    Saver::new().restore(path, &[&vec![NamedTensor::new("w", &mut values[..])]]).unwrap();
    values[0].into()
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

mod several;

/// A file system that lacks one operation.
#[cfg(unix)]
mod lacking {
    use std::collections::BTreeSet;
    use std::fs::TryLockError;
    use std::time::{Duration, SystemTime};

    use super::super::Warning;
    use super::super::process::Process;
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Operation {
        Lock,
        Sync,
        SyncFolder,
        CopyPermissions,
    }

    /// Refuses an operation with an error number, as the system would, and does all others.
    #[derive(Debug)]
    struct Lacking(Operation, i32);

    impl Lacking {
        fn try_to(&self, operation: Operation) -> io::Result<()> {
            if self.0 == operation { Err(io::Error::from_raw_os_error(self.1)) } else { Ok(()) }
        }
    }

    impl Files for Lacking {
        fn copy_permissions(&self, file: &File, from: &fs::Metadata) -> io::Result<()> {
            self.try_to(Operation::CopyPermissions).and_then(|()| Disk.copy_permissions(file, from))
        }
        fn sync(&self, file: &File) -> io::Result<()> {
            self.try_to(Operation::Sync).and_then(|()| Disk.sync(file))
        }
        fn sync_folder(&self, folder: &Path) -> io::Result<()> {
            self.try_to(Operation::SyncFolder).and_then(|()| Disk.sync_folder(folder))
        }
        fn try_lock(&self, file: &File) -> Result<(), TryLockError> {
            self.try_to(Operation::Lock).map_err(TryLockError::Error).and_then(|()| Disk.try_lock(file))
        }
        fn lock(&self, file: &File) -> io::Result<()> {
            self.try_to(Operation::Lock).and_then(|()| Disk.lock(file))
        }
    }

    fn store(folder: &Path, operation: Operation, code: i32) -> Store {
        Store::open(folder).unwrap().with_saver(Saver::with_files(Arc::new(Lacking(operation, code))))
    }

    const MISSING: [i32; 4] = [libc::EINVAL, libc::EOPNOTSUPP, libc::ENOSYS, libc::ENOLCK];

    #[test]
    fn saving_goes_on_with_a_warning_where_nothing_can_be_synced() {
        let cases = MISSING.map(|code| (Operation::Sync, code)).into_iter();
        let cases = cases.chain(MISSING.map(|code| (Operation::SyncFolder, code)));
        for (operation, code) in cases.chain([(Operation::SyncFolder, libc::EACCES)]) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a");
            let saver = Saver::with_files(Arc::new(Lacking(operation, code)));
            for value in [1.0, 2.0] {
                let warnings = saver.save(&path, &[&state(value)], &Metadata::new()).unwrap();
                let place = if operation == Operation::Sync { &path } else { dir.path() };
                assert!(
                    matches!(&warnings[..], [Warning::NotSynced { path, .. }] if path == place),
                    "{code}: {warnings:?}"
                );
                assert_eq!(value_in(&path), value);
            }

            let folder = dir.path().join("new/run");
            let mut store = store(&folder, operation, code).keep(Keep::last(2));
            for step in 1..=5 {
                store.save(step, None, &[&state(step as f64)], &Metadata::new()).unwrap();
            }
            assert_eq!(store.list().unwrap().len(), 2);
            let distinct: BTreeSet<String> = store.warnings().iter().map(Warning::to_string).collect();
            assert_eq!(distinct.len(), store.warnings().len(), "each warning comes once: {distinct:?}");
            assert!(store.warnings().iter().all(|warning| matches!(warning, Warning::NotSynced { .. })));
            assert!(!store.warnings().is_empty());
        }
    }

    #[test]
    fn a_sync_that_fails_for_another_reason_is_an_error() {
        for operation in [Operation::Sync, Operation::SyncFolder] {
            for code in [libc::EIO, libc::ENOSPC, libc::EDQUOT] {
                let dir = tempfile::tempdir().unwrap();
                let saver = Saver::with_files(Arc::new(Lacking(operation, code)));
                saver.save(dir.path().join("a"), &[&state(1.0)], &Metadata::new()).unwrap_err();
            }
        }
    }

    #[test]
    fn a_mode_that_cannot_be_kept_is_a_warning() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let saver = Saver::with_files(Arc::new(Lacking(Operation::CopyPermissions, libc::EPERM)));
        assert_eq!(saver.save(&path, &[&state(1.0)], &Metadata::new()).unwrap(), []);
        let warnings = saver.save(&path, &[&state(2.0)], &Metadata::new()).unwrap();
        assert!(matches!(&warnings[..], [Warning::PermissionsChanged { .. }]), "{warnings:?}");
        assert_eq!(value_in(&path), 2.0);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "never more open than before");
    }

    #[test]
    fn without_locks_a_store_saves_with_a_warning_and_the_newest_wins() {
        for code in MISSING {
            let dir = tempfile::tempdir().unwrap();
            let mut old = store(dir.path(), Operation::Lock, code);
            old.save(1, None, &[&state(1.0)], &Metadata::new()).unwrap();
            old.save(2, None, &[&state(2.0)], &Metadata::new()).unwrap();
            assert!(
                matches!(old.warnings(), [Warning::NotLocked { folder, .. }] if folder == dir.path()),
                "{:?}",
                old.warnings()
            );
            let mut new = store(dir.path(), Operation::Lock, code);
            new.save(3, None, &[&state(3.0)], &Metadata::new()).unwrap();
            let error = old.save(4, None, &[&state(4.0)], &Metadata::new()).unwrap_err();
            assert!(matches!(error, Error::TakenOver { .. }), "{error}");
            drop(old);
            new.save(5, None, &[&state(5.0)], &Metadata::new()).unwrap();
            assert_eq!(new.list().unwrap().len(), 4);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn without_locks_a_process_that_is_seen_running_is_respected_and_a_dead_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let record = serde_json::json!({
            "process": Process::of(sleeper.id()),
            "descriptor": 3,
            "token": "another store",
        });
        fs::write(dir.path().join(".lock"), record.to_string()).unwrap();
        let error = store(dir.path(), Operation::Lock, libc::ENOLCK).lock().unwrap_err();
        assert!(matches!(&error, Error::Locked { holder: Some(it), .. } if it.pid == sleeper.id()), "{error}");
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        let mut store = store(dir.path(), Operation::Lock, libc::ENOLCK);
        store.lock().unwrap();

        // A process that cannot be seen from here takes over: what was saved stays, and this store is told.
        store.save(1, None, &[&state(1.0)], &Metadata::new()).unwrap();
        let mut elsewhere = record;
        elsewhere["process"]["boot"] = "another machine".into();
        fs::write(dir.path().join(".lock"), elsewhere.to_string()).unwrap();
        let error = store.save(2, None, &[&state(2.0)], &Metadata::new()).unwrap_err().to_string();
        assert!(error.contains("on another machine"), "{error}");
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn without_locks_only_old_temporary_files_are_taken_for_abandoned() {
        let dir = tempfile::tempdir().unwrap();
        let leftovers = [".step-000001.safetensors.7-1.tmp", ".step-000001.safetensors.7-2.tmp"];
        for (name, hours) in leftovers.iter().zip([1, 25]) {
            fs::write(dir.path().join(name), "half a checkpoint").unwrap();
            let file = File::options().write(true).open(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
        }
        let mut store = store(dir.path(), Operation::Lock, libc::EOPNOTSUPP);
        store.save(1, None, &[&state(1.0)], &Metadata::new()).unwrap();
        assert_eq!(leftovers.map(|name| dir.path().join(name).exists()), [true, false]);
    }
}
