//! The kernels' build folders: compiled dependencies are kept between kernels, and no two kernels share a folder.
//!
//! evcxr writes each cell to the same file of its build folder: with one folder, two kernels would run each other's
//! code. So each takes a folder by a lock of the operating system, and a new folder is a copy of the warm one. (Hard
//! links would not do: rustc writes into files that are there.)

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Result};

/// Free folders beyond these are removed: each takes about 400 MB.
const KEPT: u32 = 3;

/// Names the state of the dependencies that a folder holds compiled; absent while there are none.
const STAMP: &str = "stamp";

/// evcxr writes its crate into `ctx`. A workspace around it gives it what evcxr has no setting for: a Cargo.lock (the
/// crate `pins` keeps the whole of it in use, where evcxr's own first build, without dependencies, would empty it), and
/// dependencies compiled without debug assertions. The crate's own profile is evcxr's, but for `lto`: optimizing across
/// codegen units would take up to 0.4 seconds of each cell. `earlystop` is one unit for that, since its convolutions need
/// the whole of it. Without optimization torch-sys, which hands calls on to libtorch, and zstd-sys, which nothing calls,
/// compile in half of the time.
const WORKSPACE: &str = r#"[workspace]
resolver = "3"
members = ["ctx", "pins"]

[profile.dev]
opt-level = 2
debug = false
strip = "debuginfo"
rpath = true
lto = "off"
codegen-units = 16
incremental = true

[profile.dev.package."*"]
debug-assertions = false
overflow-checks = false

[profile.dev.package.earlystop]
opt-level = 3
codegen-units = 1
debug-assertions = false
overflow-checks = false

[profile.dev.package.torch-sys]
opt-level = 0

[profile.dev.package.zstd-sys]
opt-level = 0
"#;

/// All build folders: `.kernel/build`.
pub(crate) struct Builds {
    folder: PathBuf,
    clone: PathBuf,
}

/// One kernel's folder, with the file that is locked for it.
#[derive(Debug)]
pub(crate) struct Slot {
    folder: PathBuf,
    lock: File,
}

impl Slot {
    /// The folder that evcxr writes its crate into.
    pub(crate) fn crate_folder(&self) -> PathBuf {
        self.folder.join("ctx")
    }

    /// One more handle of the lock, for a process that this one becomes.
    pub(crate) fn lock(&self) -> Result<File> {
        self.lock.try_clone().map_err(|source| Error::io("keep the lock of", &self.folder, &source))
    }
}

impl Drop for Slot {
    /// Outright, since closing is not enough: a child that another thread is starting has the file open too, for an instant.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

impl Builds {
    pub(crate) fn new(kernel: &Path, clone: &Path) -> Self {
        // As evcxr spells the crate's path: with two spellings, cargo would see two crates.
        let clone = clone.canonicalize().unwrap_or_else(|_| clone.to_owned());
        // A link where the clone's path has characters that evcxr cannot take (setup/place.rs): evcxr is given where it leads.
        let folder = kernel.join("build");
        Self { folder: folder.canonicalize().unwrap_or(folder), clone }
    }

    /// Takes a free folder, made or made anew from the warm one where needed.
    pub(crate) fn take(&self) -> Result<Slot> {
        let slot =
            (1..).find_map(|number| self.lock(&number.to_string()).transpose()).expect("numbers do not run out")?;
        self.refresh(&slot.folder)?;
        self.prune();
        Ok(slot)
    }

    /// Takes the folder that the others are copied from, to be completed anew.
    pub(crate) fn take_warm(&self) -> Result<Slot> {
        // A kernel that copies it is done in a second, the compilers of an interrupted warm-up in a minute or two.
        let slot = self.open("warm")?;
        slot.lock.lock().map_err(|source| Error::io("lock", &slot.folder, &source))?;
        self.lay_out(&slot.folder)?;
        Ok(slot)
    }

    /// What the warm folder was made from, if it was completed and is still there.
    pub(crate) fn stamp(&self) -> Option<String> {
        let warm = self.folder.join("warm");
        warm.join("ctx/target").exists().then(|| read_stamp(&warm)).flatten()
    }

    /// Completes the warm folder.
    pub(crate) fn set_stamp(&self, stamp: &str) -> Result<()> {
        let path = self.folder.join("warm").join(STAMP);
        std::fs::write(&path, stamp).map_err(|source| Error::io("write", &path, &source))
    }

    /// Locks the folder `name`, unless a kernel has it.
    fn lock(&self, name: &str) -> Result<Option<Slot>> {
        let slot = self.open(name)?;
        match slot.lock.try_lock() {
            Ok(()) => Ok(Some(slot)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::io("lock", &slot.folder, &source)),
        }
    }

    /// The folder `name` with its lock's file, which lies beside it and stays, not yet locked.
    fn open(&self, name: &str) -> Result<Slot> {
        std::fs::create_dir_all(&self.folder).map_err(|source| Error::io("create", &self.folder, &source))?;
        let path = self.folder.join(format!("{name}.lock"));
        let file = File::options().create(true).append(true).read(true).open(&path);
        let lock = file.map_err(|source| Error::io("open", &path, &source))?;
        Ok(Slot { folder: self.folder.join(name), lock })
    }

    /// Makes `folder` a copy of the warm one, unless it is as new.
    fn refresh(&self, folder: &Path) -> Result<()> {
        let warm = self.folder.join("warm");
        // Any number may copy it at a time, but not while it is being warmed up.
        let shared = self.open("warm")?;
        match shared.lock.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if folder.exists() => return Ok(()),
            Err(TryLockError::WouldBlock) => return self.lay_out(folder),
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", &warm, &source)),
        }
        match (read_stamp(&warm), read_stamp(folder)) {
            (None, _) => self.lay_out(folder),
            (warm, slot) if warm == slot => Ok(()),
            _ => copy(&warm, folder),
        }
    }

    /// Writes the workspace around evcxr's crate. What is compiled there already is cargo's to judge.
    fn lay_out(&self, folder: &Path) -> Result<()> {
        let pins = folder.join("pins");
        // For a target that does not exist: in Cargo.lock all the same, but nothing for evcxr's analysis to load.
        let manifest = format!(
            "[package]\nname = \"pins\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[lib]\npath = \"lib.rs\"\n\n\
             [target.'cfg(any())'.dependencies]\nearlystop = {{ path = {} }}\n",
            self.library()
        );
        std::fs::create_dir_all(&pins).map_err(|source| Error::io("create", &pins, &source))?;
        // Of evcxr's own crate, which it writes anew, nothing is taken over: the manifest names where the clone was, and what
        // was compiled from the source finds Rust's libraries only from the folder that it was compiled in.
        for stale in ["ctx/Cargo.toml", "ctx/src/lib.rs", STAMP].map(|name| folder.join(name)) {
            if stale.exists() {
                std::fs::remove_file(&stale).map_err(|source| Error::io("remove", &stale, &source))?;
            }
        }
        for (path, text) in [("Cargo.toml", WORKSPACE), ("pins/Cargo.toml", &manifest), ("pins/lib.rs", "")] {
            let path = folder.join(path);
            std::fs::write(&path, text).map_err(|source| Error::io("write", &path, &source))?;
        }
        let lock = self.clone.join("Cargo.lock");
        std::fs::copy(&lock, folder.join("Cargo.lock")).map_err(|source| Error::io("copy", &lock, &source))?;
        Ok(())
    }

    /// The path of the library, as a string of TOML.
    pub(crate) fn library(&self) -> String {
        toml_string(&self.clone.join("crates/earlystop"))
    }

    /// Removes folders that no kernel has, beyond the first few. What cannot be removed now is removed another time.
    fn prune(&self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return;
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        for name in names.filter(|name| name.parse::<u32>().is_ok_and(|number| number > KEPT)) {
            if let Ok(Some(slot)) = self.lock(&name) {
                let _ = std::fs::remove_dir_all(&slot.folder);
            }
        }
    }
}

/// All that the layout adds to what the compiled dependencies depend on.
pub(crate) fn layout() -> &'static str {
    WORKSPACE
}

/// A path as a string of TOML. In paths that hold a quote or a backslash, JSON escapes both as TOML does.
fn toml_string(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

fn read_stamp(folder: &Path) -> Option<String> {
    std::fs::read_to_string(folder.join(STAMP)).ok()
}

/// Copies a folder with all times, by which cargo knows what is up to date; half a copy is never seen.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let copying = to.with_extension("copying");
    for old in [&copying, to] {
        if old.exists() {
            std::fs::remove_dir_all(old).map_err(|source| Error::io("remove", old, &source))?;
        }
    }
    let output = Command::new("cp").arg("-a").arg(from).arg(&copying).output();
    let tried = || Error::new(format!("copy {} to {}", from.display(), to.display()));
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => return Err(tried().got(String::from_utf8_lossy(&output.stderr))),
        Err(source) => return Err(tried().got(source.to_string())),
    }
    std::fs::rename(&copying, to).map_err(|source| Error::io("rename", &copying, &source))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clone with a warm folder whose compiled dependencies are one file.
    fn warm_clone() -> (tempfile::TempDir, Builds) {
        let clone = tempfile::tempdir().unwrap();
        std::fs::write(clone.path().join("Cargo.lock"), "version = 4\n").unwrap();
        let builds = Builds::new(&clone.path().join(".kernel"), clone.path());
        let warm = builds.take_warm().unwrap();
        std::fs::write(warm.folder.join("compiled"), "dependencies").unwrap();
        builds.set_stamp("one").unwrap();
        (clone, builds)
    }

    fn compiled(slot: &Slot) -> Option<String> {
        std::fs::read_to_string(slot.folder.join("compiled")).ok()
    }

    #[test]
    fn two_kernels_at_once_get_two_folders_and_both_are_warm() {
        let (_clone, builds) = warm_clone();
        let (one, two) = (builds.take().unwrap(), builds.take().unwrap());
        assert_ne!(one.crate_folder(), two.crate_folder());
        assert_eq!(compiled(&one).as_deref(), Some("dependencies"));
        assert_eq!(compiled(&two).as_deref(), Some("dependencies"));
    }

    #[test]
    fn two_kernels_may_copy_the_warm_folder_at_the_same_time() {
        let (_clone, builds) = warm_clone();
        let other = builds.open("warm").unwrap();
        other.lock.lock_shared().unwrap();
        assert_eq!(compiled(&builds.take().unwrap()).as_deref(), Some("dependencies"));
    }

    #[test]
    fn a_folder_goes_to_the_next_kernel_with_what_it_holds() {
        let (_clone, builds) = warm_clone();
        let one = builds.take().unwrap();
        let folder = one.crate_folder();
        std::fs::write(one.folder.join("compiled"), "more").unwrap();
        drop(one);
        let next = builds.take().unwrap();
        assert_eq!((next.crate_folder(), compiled(&next).as_deref()), (folder, Some("more")));
    }

    #[test]
    fn a_folder_of_other_dependencies_is_made_anew() {
        let (_clone, builds) = warm_clone();
        drop(builds.take().unwrap());
        std::fs::write(builds.folder.join("warm/compiled"), "newer").unwrap();
        builds.set_stamp("two").unwrap();
        assert_eq!(compiled(&builds.take().unwrap()).as_deref(), Some("newer"));
    }

    #[test]
    fn a_kernel_started_during_the_warm_up_gets_a_cold_folder_and_a_warm_one_the_next_time() {
        let (_clone, builds) = warm_clone();
        let warming = builds.take_warm().unwrap();
        let slot = builds.take().unwrap();
        assert_eq!(compiled(&slot), None);
        assert!(slot.folder.join("pins/Cargo.toml").exists());
        drop((warming, slot));
        builds.set_stamp("one").unwrap();
        assert!(compiled(&builds.take().unwrap()).is_some());
    }

    #[test]
    fn evcxr_is_given_where_a_link_leads() {
        let (clone, builds) = warm_clone();
        let outside = tempfile::tempdir().unwrap();
        let (from, to) = (builds.folder.clone(), outside.path().canonicalize().unwrap().join("builds"));
        std::fs::rename(&from, &to).unwrap();
        std::os::unix::fs::symlink(&to, &from).unwrap();
        let builds = Builds::new(&clone.path().join(".kernel"), clone.path());
        assert!(builds.take().unwrap().crate_folder().starts_with(&to));
    }

    #[test]
    fn a_moved_clones_manifests_name_the_new_place() {
        let (clone, builds) = warm_clone();
        let warm = builds.folder.join("warm");
        std::fs::create_dir_all(warm.join("ctx")).unwrap();
        std::fs::write(
            warm.join("ctx/Cargo.toml"),
            "[dependencies]\nearlystop = { path = \"/old/crates/earlystop\" }\n",
        )
        .unwrap();
        let new = clone.path().join("it's \"new\"");
        std::fs::create_dir(&new).unwrap();
        std::fs::copy(clone.path().join("Cargo.lock"), new.join("Cargo.lock")).unwrap();
        drop(Builds::new(&clone.path().join(".kernel"), &new).take_warm().unwrap());
        let pins = std::fs::read_to_string(warm.join("pins/Cargo.toml")).unwrap();
        assert!(pins.contains(r#"it's \"new\"/crates/earlystop" }"#), "{pins}");
        assert!(!warm.join("ctx/Cargo.toml").exists() && !warm.join(STAMP).exists());
    }

    #[test]
    fn free_folders_beyond_the_first_few_are_removed() {
        let (_clone, builds) = warm_clone();
        let mut slots: Vec<_> = (0..=KEPT).map(|_| builds.take().unwrap()).collect();
        let last = slots.pop().unwrap().folder.clone();
        assert!(last.exists());
        drop(slots);
        drop(builds.take().unwrap());
        assert!(!last.exists());
    }
}
