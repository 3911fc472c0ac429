//! One writer for each folder: another process is refused, and a newer store of the same process takes over.
//!
//! The lock is an advisory lock of the operating system on the file `.lock`, which also records its owner. A lock belongs
//! to an open file description, so a second store in the same process cannot simply lock the file again. It duplicates
//! the descriptor that the record names, and so shares the description and its lock, however long the older store lives.
//! That the duplicate holds the lock proves that both are in one process. No static variable is involved, since every
//! cell of an evcxr notebook links its own copy of this crate.
//!
//! The random token in the record says which store is the newest. An older one compares before each save.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rand::RngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};

use super::Warning;
use super::files::{Disk, Files, is_unsupported, read_at, write_all_at};
use super::process::Process;
use crate::error::{LockHolder, io_error};
use crate::{Error, Result};

/// The size of the record, padded, so that one write replaces all of an older one.
const RECORD_BYTES: usize = 512;

/// Held by the store that saves into a folder. The system releases it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    folder: PathBuf,
    file: File,
    owner: Owner,
    warning: Option<Warning>,
}

/// The content of the lock file.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    process: Process,
    /// The descriptor of the lock file in that process.
    descriptor: i32,
    /// Random: distinguishes the stores of a process.
    token: String,
}

/// What a lock turns out to be when it is looked at again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    Held,
    /// Somebody deleted the lock file, perhaps with the whole folder.
    Lost,
}

impl Lock {
    /// Takes the lock of a folder, from an older store of this process if need be, or says at once who has it.
    ///
    /// The file `.lock` stays in the folder: a file that is deleted could be locked twice.
    pub(super) fn take(files: &dyn Files, folder: &Path) -> Result<Self> {
        let path = folder.join(".lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file =
            file.map_err(io_error(&path, "open the lock file for writing (reading checkpoints needs no lock)"))?;
        let current = Process::current();
        let holder = read_owner(&file);
        let locked = || Err(Error::Locked { folder: folder.to_owned(), holder: describe(&file, &current) });
        let mut warning = None;
        match files.try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => match holder {
                // A forked child has the descriptor too, but is another process.
                Some(owner) if owner.process.is(&current) => match share(files, owner.descriptor, &file) {
                    Some(shared) => file = shared,
                    None => return locked(),
                },
                _ => return locked(),
            },
            Err(TryLockError::Error(error)) if is_unsupported(&error) => {
                // Then the record is all there is. It protects from processes that can be seen from here.
                if holder.is_some_and(|owner| !owner.process.is(&current) && owner.process.is_running(&current)) {
                    return locked();
                }
                warning = Some(Warning::NotLocked { folder: folder.to_owned(), reason: error.to_string() });
            }
            Err(TryLockError::Error(error)) => return Err(io_error(&path, "lock")(error)),
        }
        let token = random_token().map_err(io_error(&path, "draw a random number for"))?;
        let owner = Owner { process: current, descriptor: descriptor(&file), token };
        write_owner(&file, Some(&owner)).map_err(io_error(&path, "write"))?;
        Ok(Lock { folder: folder.to_owned(), file, owner, warning })
    }

    /// Returns what the file system could not guarantee.
    pub(super) fn warning(&self) -> Option<&Warning> {
        self.warning.as_ref()
    }

    /// Checks that this store may still save.
    ///
    /// # Errors
    ///
    /// [`Error::TakenOver`] if a newer store of this process has the folder; [`Error::Locked`] if another process has it.
    pub(super) fn check(&self, files: &dyn Files) -> Result<State> {
        let path = self.folder.join(".lock");
        if !is_file_at(&self.file, &path) {
            return Ok(State::Lost);
        }
        let locked =
            || Err(Error::Locked { folder: self.folder.clone(), holder: describe(&self.file, &self.owner.process) });
        match read_owner(&self.file) {
            Some(owner) if owner.token == self.owner.token => {}
            Some(owner) if !owner.process.is(&self.owner.process) => return locked(),
            _ => return Err(Error::TakenOver { folder: self.folder.clone() }),
        }
        if !self.is_in_its_process() {
            return locked();
        }
        // Does nothing where the lock is held, as it should be, and takes it again where it was lost.
        match files.try_lock(&self.file) {
            Ok(()) => Ok(State::Held),
            Err(TryLockError::WouldBlock) => locked(),
            Err(TryLockError::Error(error)) if is_unsupported(&error) => Ok(State::Held),
            Err(TryLockError::Error(error)) => Err(io_error(&path, "lock")(error)),
        }
    }

    /// Returns false in a forked child of the process that took the lock.
    fn is_in_its_process(&self) -> bool {
        self.owner.process.pid == std::process::id()
    }
}

/// Unlocks explicitly: a child that another thread is just starting has a copy of the descriptor until it runs its
/// program, and closing ours alone would leave the lock with it. A store that was taken over shares the lock with the
/// newer one, and a forked child with its parent: they only close.
impl Drop for Lock {
    fn drop(&mut self) {
        let is_owner = read_owner(&self.file).is_some_and(|owner| owner.token == self.owner.token);
        if is_owner && self.is_in_its_process() {
            let _ = write_owner(&self.file, None);
            let _ = self.file.unlock();
        }
    }
}

/// Duplicates a descriptor of this process if it holds the lock of `file`.
#[cfg(unix)]
fn share(files: &dyn Files, descriptor: i32, file: &File) -> Option<File> {
    use std::os::fd::FromRawFd;
    // SAFETY: `fcntl` takes any number. For one that is no open descriptor of this process it fails.
    let duplicate = unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 3) };
    if duplicate < 0 {
        return None;
    }
    // SAFETY: the descriptor was just created for this function, and nothing else knows of it.
    let duplicate = unsafe { File::from_raw_fd(duplicate) };
    // Locking succeeds only if this very description holds the lock already, as somebody does.
    (same_file(&duplicate, file) && files.try_lock(&duplicate).is_ok()).then_some(duplicate)
}

/// Elsewhere a newer store waits until the older one is dropped.
#[cfg(not(unix))]
fn share(_: &dyn Files, _: i32, _: &File) -> Option<File> {
    None
}

#[cfg(unix)]
fn same_file(a: &File, b: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |file: &File| file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
    identity(a).is_some() && identity(a) == identity(b)
}

#[cfg(unix)]
fn is_file_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let at_path = fs::metadata(path).ok().map(identity);
    at_path.is_some() && at_path == file.metadata().ok().map(identity)
}

/// Elsewhere a file that is open cannot be deleted.
#[cfg(not(unix))]
fn is_file_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(unix)]
fn descriptor(file: &File) -> i32 {
    use std::os::fd::AsRawFd;
    file.as_raw_fd()
}

#[cfg(not(unix))]
fn descriptor(_: &File) -> i32 {
    -1
}

pub(super) fn random_token() -> io::Result<String> {
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read_owner(file: &File) -> Option<Owner> {
    serde_json::from_slice(&read_record(file)).ok()
}

/// Describes the process that the lock file names. Version 0.1.0 wrote the process id alone.
fn describe(file: &File, current: &Process) -> Option<LockHolder> {
    let record = read_record(file);
    match serde_json::from_slice::<Owner>(&record) {
        Ok(Owner { process, .. }) => {
            let is_here = process.shares_ids_with(current);
            let host = || process.host.clone().unwrap_or_else(|| "unknown host".to_owned());
            Some(LockHolder { pid: process.pid, elsewhere: (!is_here).then(host) })
        }
        Err(_) => {
            let pid = String::from_utf8_lossy(&record).trim().parse().ok()?;
            Some(LockHolder { pid, elsewhere: None })
        }
    }
}

fn read_record(file: &File) -> Vec<u8> {
    let mut record = vec![0; RECORD_BYTES];
    let length = read_at(file, &mut record, 0).unwrap_or(0);
    record.truncate(length);
    record
}

/// Writes the record in place, with one operation: another process that reads it at the same time gets one or the other.
fn write_owner(file: &File, owner: Option<&Owner>) -> io::Result<()> {
    let mut record = owner.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    if record.len() >= RECORD_BYTES {
        return Err(io::Error::new(ErrorKind::InvalidData, "the host name is too long"));
    }
    record.resize(RECORD_BYTES - 1, b' ');
    record.push(b'\n');
    write_all_at(&Disk, file, &record, 0)?;
    file.set_len(RECORD_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::super::files::Disk;
    use super::*;

    fn take(folder: &Path) -> Result<Lock> {
        Lock::take(&Disk, folder)
    }

    /// What another process would find: whether anybody holds the lock.
    fn is_locked(folder: &Path) -> bool {
        let file = File::open(folder.join(".lock")).unwrap();
        matches!(file.try_lock(), Err(TryLockError::WouldBlock))
    }

    fn is_held(lock: &Lock) -> bool {
        match lock.check(&Disk) {
            Ok(state) => state == State::Held,
            Err(Error::TakenOver { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    #[cfg(unix)]
    fn the_newest_holds_the_lock_in_whatever_order_the_older_ones_are_dropped() {
        let all = (0..4 * 4 * 4 * 4).map(|n| [n / 64, n / 16 % 4, n / 4 % 4, n % 4]);
        let orders: Vec<[usize; 4]> = all.filter(|order| (0..4).all(|lock| order.contains(&lock))).collect();
        assert_eq!(orders.len(), 24);
        for order in orders {
            let dir = tempfile::tempdir().unwrap();
            let mut locks: Vec<Option<Lock>> = (0..4).map(|_| Some(take(dir.path()).unwrap())).collect();
            for dropped in &order {
                let newest = locks[3].is_some();
                assert_eq!(is_locked(dir.path()), newest, "{order:?}");
                for (number, lock) in locks.iter().enumerate() {
                    assert_eq!(
                        lock.as_ref().is_some_and(is_held),
                        newest && lock.is_some() && number == 3,
                        "{order:?}"
                    );
                }
                locks[*dropped] = None;
            }
            assert!(!is_locked(dir.path()));
        }
    }

    #[test]
    #[cfg(unix)]
    fn each_new_lock_takes_over_while_the_one_before_still_lives() {
        let dir = tempfile::tempdir().unwrap();
        let mut old = take(dir.path()).unwrap();
        for _ in 0..5 {
            let new = take(dir.path()).unwrap();
            let error = old.check(&Disk).unwrap_err();
            assert!(matches!(&error, Error::TakenOver { folder } if folder == dir.path()), "{error}");
            old = new; // as a cell does that is run again
            assert!(is_held(&old) && is_locked(dir.path()));
        }
    }

    #[test]
    #[cfg(unix)]
    fn an_old_lock_stays_without_rights_when_the_newer_one_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let old = take(dir.path()).unwrap();
        drop(take(dir.path()).unwrap());
        assert!(!is_held(&old));
        assert!(!is_locked(dir.path()), "looking must not take the lock");
        assert!(is_held(&take(dir.path()).unwrap()));
    }

    #[test]
    fn a_lock_file_that_was_deleted_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let lock = take(dir.path()).unwrap();
        fs::remove_file(dir.path().join(".lock")).unwrap();
        assert_eq!(lock.check(&Disk).unwrap(), State::Lost);
        let other = take(dir.path()).unwrap();
        assert_eq!(lock.check(&Disk).unwrap(), State::Lost);
        assert!(is_held(&other));
    }

    /// Writes a record as another process would have, into a file that this process then locks without a record.
    #[cfg(unix)]
    fn refused(folder: &Path, record: &[u8]) -> Error {
        let path = folder.join(".lock");
        fs::write(&path, record).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        file.lock().unwrap();
        let error = take(folder).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), record, "the record of the holder stays");
        error
    }

    #[test]
    #[cfg(unix)]
    fn an_equal_process_id_is_not_enough() {
        let dir = tempfile::tempdir().unwrap();
        let current = serde_json::to_value(Process::current()).unwrap();
        let record = |key: &str, value: serde_json::Value, descriptor: i32| {
            let mut process = current.clone();
            process[key] = value;
            serde_json::to_vec(&serde_json::json!({"process": process, "descriptor": descriptor, "token": "t"}))
                .unwrap()
        };
        let pid = std::process::id();
        let host = current["host"].clone();
        // Another container, with the same ids on the same machine. The host name is whatever that one has.
        let error = refused(dir.path(), &record("namespace", "pid:[1]".into(), 0)).to_string();
        if cfg!(target_os = "linux") {
            let holder =
                format!("process {pid} on another machine or in another container ({})", host.as_str().unwrap());
            assert!(error.contains(&holder), "{error}");
        }
        assert!(!error.contains("this process"), "{error}");
        let error = refused(dir.path(), &record("boot", "another machine".into(), 0)).to_string();
        assert!(error.contains("on another machine"), "{error}");
        // An earlier process with this id, whose record is still there: its descriptors say nothing.
        for descriptor in [-1, 0, 1, 2, 1_000_000, i32::MAX, i32::MIN] {
            let error = refused(dir.path(), &record("start", 1.into(), descriptor));
            assert!(matches!(&error, Error::Locked { holder: Some(holder), .. } if holder.pid == pid), "{error}");
            // Even a record that names this process is not enough, if the descriptor does not hold the lock.
            let error = refused(dir.path(), &record("pid", pid.into(), descriptor));
            assert!(matches!(error, Error::Locked { .. }), "{descriptor}: {error}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn whatever_the_lock_file_says_the_lock_is_respected() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refused(dir.path(), b"4321\n").to_string().contains("process 4321 saves"), "as version 0.1.0 wrote it");
        for record in [&b""[..], b"no json", b"{}", b"-1", b"\xff\xfe", &[b'['; 100_000]] {
            assert!(matches!(refused(dir.path(), record), Error::Locked { holder: None, .. }));
            // Without a lock, the record is history.
            assert!(is_held(&take(dir.path()).unwrap()));
        }
    }
}
