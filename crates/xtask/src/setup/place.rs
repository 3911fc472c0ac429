//! Where the clone lies, and where its kernel's build folders lie because of it.
//!
//! evcxr splits its internal command `LOAD_AND_RUN <path> <function>` at spaces. Where the clone's path has a space, or
//! another unusual character, `.kernel/build` is a link to a folder in the user's cache directory.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::kernel::slots;
use crate::workspace::Workspace;
use crate::{Error, Result};

/// The file in a build folder outside the clone that names the clone.
const OWNER: &str = "clone";

/// Refuses a folder in which nothing could work.
pub(super) fn check(root: &Path) -> Result<()> {
    let refuse = |got: String| {
        let error = Error::new(format!("set up the clone in {}", root.display())).got(got);
        Err(error.hint("Move the clone to a folder with another name, and run the same command there."))
    };
    let Some(text) = root.to_str() else {
        return refuse("its path is not valid UTF-8".to_owned());
    };
    match text.chars().find(|&c| matches!(c, ':' | ';') || c.is_control()) {
        Some(c) => {
            refuse(format!("its path has the character {c:?}, which separates folders in PATH or LD_LIBRARY_PATH"))
        }
        None => Ok(()),
    }
}

/// Makes `.kernel/build` the clone's own, in the clone or outside; compiled dependencies come along from where they were.
pub(super) fn settle(workspace: &Workspace) -> Result<()> {
    let build = workspace.kernel().join("build");
    let root = workspace.root.canonicalize().map_err(|source| Error::io("find", &workspace.root, &source))?;
    if is_plain(&root) { settle_inside(&build) } else { settle_outside(&build, &root, &cache_folder()?) }
}

/// Replaces a link, made while the clone lay elsewhere, by a folder.
fn settle_inside(build: &Path) -> Result<()> {
    let Ok(outside) = std::fs::read_link(build) else { return Ok(()) };
    std::fs::remove_file(build).map_err(|source| Error::io("remove the link", build, &source))?;
    take_over(&outside, build)?;
    if let Some(cache) = outside.parent() {
        prune(cache);
    }
    Ok(())
}

/// Makes `build` a link to this clone's folder in `cache`.
fn settle_outside(build: &Path, root: &Path, cache: &Path) -> Result<()> {
    let outside = cache.join(format!("kernel-{:016x}", hash(root.to_string_lossy().as_bytes())));
    if std::fs::read_link(build).is_ok_and(|target| target == outside) && outside.is_dir() {
        return Ok(());
    }
    if !outside.is_dir() {
        std::fs::create_dir(&outside).map_err(|source| Error::io("create", &outside, &source))?;
        take_over(build, &outside)?;
    }
    let owner = outside.join(OWNER);
    std::fs::write(&owner, root.to_string_lossy().as_bytes()).map_err(|source| Error::io("write", &owner, &source))?;
    let removed = if build.is_symlink() { std::fs::remove_file(build) } else { std::fs::remove_dir_all(build) };
    match removed {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("replace", build, &source));
        }
        _ => {}
    }
    symlink(&outside, build).map_err(|source| Error::io("make the link", build, &source))?;
    prune(cache);
    Ok(())
}

/// Copies the compiled dependencies of one build folder to another, if there are any. The original may be another clone's.
fn take_over(from: &Path, to: &Path) -> Result<()> {
    let warm = from.join("warm");
    if !warm.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(to).map_err(|source| Error::io("create", to, &source))?;
    slots::copy(&warm, &to.join("warm"))
}

/// Removes the build folders of clones that are gone. What cannot be removed now is removed another time.
fn prune(cache: &Path) {
    for folder in std::fs::read_dir(cache).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let is_gone = |root: String| !Path::new(&root).join(".kernel").exists();
        if std::fs::read_to_string(folder.join(OWNER)).is_ok_and(is_gone) {
            let _ = std::fs::remove_dir_all(&folder);
        }
    }
}

/// The project's folder in the user's cache directory, or below /var/tmp where that is none that evcxr can take.
fn cache_folder() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let usual = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let candidates = [named, home.map(|home| home.join(usual))].into_iter().flatten();
    let candidates = candidates.filter(|path| path.is_absolute()).map(|path| path.join("earlystop"));
    let user = std::env::var("USER").unwrap_or_default();
    let shared = PathBuf::from(format!("/var/tmp/earlystop-{user}"));
    let mut refused = Vec::new();
    for folder in candidates.chain([shared]) {
        match prepare(&folder) {
            Ok(folder) => return Ok(folder),
            Err(reason) => refused.push(format!("{}: {reason}", folder.display())),
        }
    }
    Err(Error::new("find a folder outside the clone for the kernel's builds").got(refused.join("\n")).hint(
        "Set XDG_CACHE_HOME to a folder of your own whose path has no spaces, \
         or move the clone to a path without spaces.",
    ))
}

/// Makes a folder that nobody else can write to, and resolves its path; says why it will not do.
fn prepare(folder: &Path) -> Result<PathBuf, String> {
    let make = || {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let folder = folder.canonicalize()?;
        // What we make ourselves is ours, whoever we are.
        let ours = folder.join(format!("probe-{}", std::process::id()));
        std::fs::write(&ours, "")?;
        let us = ours.metadata()?.uid();
        std::fs::remove_file(&ours)?;
        let metadata = folder.metadata()?;
        Ok((folder, metadata.uid() == us && metadata.mode() & 0o022 == 0))
    };
    let (folder, is_ours_alone) = make().map_err(|source: std::io::Error| source.to_string())?;
    // What lies there is run.
    if !is_ours_alone {
        return Err("others can write to it".to_owned());
    }
    if !is_plain(&folder) {
        return Err("its path has a space or another unusual character".to_owned());
    }
    Ok(folder)
}

/// Whether evcxr, and every tool that it calls, can take a path.
fn is_plain(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.chars().all(|c| c.is_alphanumeric() || "/._-+@,=~".contains(c)))
}

/// FNV-1a, which stays the same from one version to the next.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A clone's `.kernel` with compiled dependencies, and a cache directory.
    struct Machine {
        folder: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let machine = Self { folder: tempfile::tempdir().unwrap() };
            std::fs::create_dir(machine.cache()).unwrap();
            machine
        }

        fn cache(&self) -> PathBuf {
            self.folder.path().join("cache")
        }

        fn clone(&self, name: &str) -> PathBuf {
            let root = self.folder.path().join(name);
            std::fs::create_dir_all(root.join(".kernel")).unwrap();
            root
        }

        fn compile(build: &Path) {
            std::fs::create_dir_all(build.join("warm")).unwrap();
            std::fs::write(build.join("warm/compiled"), "dependencies").unwrap();
        }

        fn outside(&self) -> Vec<PathBuf> {
            std::fs::read_dir(self.cache()).unwrap().map(|entry| entry.unwrap().path()).collect()
        }
    }

    #[test]
    fn only_paths_that_cannot_work_are_refused() {
        for works in
            ["/home/me/earlystop", "/home/me/My Projects/a", "/tmp/Größe 日本", "/tmp/it's \"100%\" $HOME #1 (b)&"]
        {
            assert!(check(Path::new(works)).is_ok(), "{works}");
        }
        for refused in ["/tmp/a:b", "/tmp/a;b", "/tmp/a\nb"] {
            let error = check(Path::new(refused)).unwrap_err().to_string();
            assert!(error.contains("Move the clone"), "{error}");
        }
    }

    #[test]
    fn builds_lie_outside_a_clone_with_a_space_and_move_with_it() {
        let machine = Machine::new();
        let old = machine.clone("My Projects");
        settle_outside(&old.join(".kernel/build"), &old, &machine.cache()).unwrap();
        Machine::compile(&old.join(".kernel/build"));
        let before = machine.outside();
        assert!(before.len() == 1 && !before[0].to_str().unwrap().contains(' '), "{before:?}");

        let new = machine.folder.path().join("Your Projects");
        std::fs::rename(&old, &new).unwrap();
        settle_outside(&new.join(".kernel/build"), &new, &machine.cache()).unwrap();
        assert_eq!(std::fs::read_to_string(new.join(".kernel/build/warm/compiled")).unwrap(), "dependencies");
        let after = machine.outside();
        assert!(after.len() == 1 && after != before, "the old one is removed: {after:?}");
    }

    #[test]
    fn a_copied_clone_gets_builds_of_its_own_and_leaves_the_originals() {
        let machine = Machine::new();
        let (one, two) = (machine.clone("one copy"), machine.clone("another copy"));
        settle_outside(&one.join(".kernel/build"), &one, &machine.cache()).unwrap();
        Machine::compile(&one.join(".kernel/build"));
        symlink(std::fs::read_link(one.join(".kernel/build")).unwrap(), two.join(".kernel/build")).unwrap();
        settle_outside(&two.join(".kernel/build"), &two, &machine.cache()).unwrap();
        let of = |clone: &Path| clone.join(".kernel/build").canonicalize().unwrap();
        assert_ne!(of(&one), of(&two));
        assert!(of(&one).join("warm/compiled").exists() && of(&two).join("warm/compiled").exists());
    }

    #[test]
    fn builds_come_back_into_a_clone_that_moved_to_a_plain_path_and_leave_it_again() {
        let machine = Machine::new();
        let spaced = machine.clone("with space");
        Machine::compile(&spaced.join(".kernel/build"));
        settle_outside(&spaced.join(".kernel/build"), &spaced, &machine.cache()).unwrap();
        let plain = machine.folder.path().join("plain");
        std::fs::rename(&spaced, &plain).unwrap();
        settle_inside(&plain.join(".kernel/build")).unwrap();
        assert!(!plain.join(".kernel/build").is_symlink() && plain.join(".kernel/build/warm/compiled").exists());
        assert!(machine.outside().is_empty());
        settle_inside(&plain.join(".kernel/build")).unwrap();
        assert!(plain.join(".kernel/build/warm/compiled").exists());
    }

    #[test]
    fn a_cache_directory_with_a_space_or_that_others_can_write_to_will_not_do() {
        let folder = tempfile::tempdir().unwrap();
        assert!(prepare(&folder.path().join("a b")).unwrap_err().contains("space"));
        let open = folder.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(prepare(&open).unwrap_err().contains("others can write"));
        assert!(prepare(&folder.path().join("closed")).is_ok());
    }
}
