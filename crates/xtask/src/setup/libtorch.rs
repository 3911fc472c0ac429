//! libtorch: the caller's own, the Python environment's, or the PyPI wheel without its CUDA libraries.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{python, scripts};
use crate::progress::Step;
use crate::workspace::Workspace;
use crate::{Error, Result, command};

/// The version that the crate `tch` wants (`=0.26.0` in crates/earlystop/Cargo.toml), exactly.
pub(super) const VERSION: &str = "2.13.0";

/// The two of the wheel's CUDA libraries that libtorch_cpu.so itself links, on Linux.
const LINKED_LIBRARIES: [&str; 2] = ["nvidia-cuda-runtime==13.0.*", "nvidia-cuda-cupti==13.0.*"];

/// Finds or fetches libtorch, and points the clone's link `.libtorch` to it.
pub(super) fn ensure(workspace: &Workspace, environment: &Path) -> Result<()> {
    let link = workspace.libtorch_link();
    // Cargo itself sets LIBTORCH to the link, by .cargo/config.toml, where the caller has set none.
    let callers = std::env::var_os("LIBTORCH").map(PathBuf::from).filter(|path| *path != link);
    if let Some(callers) = callers {
        check_callers(&callers)?;
        return point(&link, &callers);
    }
    find_or_fetch(workspace, environment)
}

/// The clone's own libtorch, the one that was used before, the Python environment's, or a new one.
fn find_or_fetch(workspace: &Workspace, environment: &Path) -> Result<()> {
    let link = workspace.libtorch_link();
    let folder = workspace.root.join(format!(".libtorch-{VERSION}"));
    let own = folder.join("torch");
    // Before what the link names: in a copied clone that is the original's, in a moved one it is gone.
    if is_complete(&own) {
        return point(&link, &own);
    }
    if is_complete(&link) {
        return Ok(());
    }
    if let Some(installed) = installed(environment).filter(|path| is_complete(path)) {
        return point(&link, &installed);
    }
    fetch(environment, &folder)?;
    point(&link, &own)
}

/// Whether a folder has libtorch, in the version that is wanted, and not only what says so.
fn is_complete(libtorch: &Path) -> bool {
    let library = libtorch.join("lib").join(format!("{DLL_PREFIX}torch_cpu{DLL_SUFFIX}"));
    version(libtorch).as_deref() == Some(VERSION) && library.exists()
}

/// Refuses a LIBTORCH that tch could not be built with.
fn check_callers(libtorch: &Path) -> Result<()> {
    let got = match version(libtorch) {
        Some(found) if found == VERSION => return Ok(()),
        Some(found) => format!("it is version {found}"),
        None => "the folder has neither build-version nor version.py, which say libtorch's version".to_owned(),
    };
    Err(Error::new(format!("use LIBTORCH={} as libtorch {VERSION}", libtorch.display())).got(got).hint(format!(
        "Set LIBTORCH to a folder with libtorch {VERSION}, or unset it: a matching one is then fetched."
    )))
}

/// libtorch's version, without what follows a plus sign: from the file `build-version` of the zip archives,
/// or from the wheel's `version.py`.
fn version(libtorch: &Path) -> Option<String> {
    let read = |name| std::fs::read_to_string(libtorch.join(name)).ok();
    let text = read("build-version").or_else(|| read("version.py").as_deref().and_then(version_in_python))?;
    text.trim().split('+').next().map(str::to_owned)
}

/// The value of `__version__ = '2.13.0+cu130'`.
fn version_in_python(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
    Some(value.trim_matches(|c| c == '\'' || c == '"').to_owned())
}

/// The torch of the Python environment, found without importing it.
fn installed(environment: &Path) -> Option<PathBuf> {
    const FIND: &str = "from importlib.util import find_spec; print(find_spec('torch').submodule_search_locations[0])";
    command::ask(Command::new(scripts::python(environment)).args(["-c", FIND])).map(PathBuf::from)
}

/// Installs the wheel into a folder of its own, so that no Python environment is changed.
fn fetch(environment: &Path, folder: &Path) -> Result<()> {
    let mut step = Step::start(&format!("Fetching libtorch {VERSION} (about 600 MB)"));
    // Some Python's wheel: what is used of it is C++, so it need not be this Python's.
    let mut args: Vec<String> =
        ["--no-deps", "--upgrade", "--only-binary=:all:", "--python-version=3.12"].map(str::to_owned).to_vec();
    args.push(format!("--target={}", folder.display()));
    args.push(format!("torch=={VERSION}"));
    if cfg!(target_os = "linux") {
        args.extend(LINKED_LIBRARIES.map(str::to_owned));
    }
    python::pip(&mut step, environment, &format!("fetch libtorch {VERSION} from PyPI"), &args)?;
    step.done();
    Ok(())
}

/// Makes `link` point to `libtorch`; from inside the clone relatively, so that the link moves with the clone.
fn point(link: &Path, libtorch: &Path) -> Result<()> {
    let canonical = libtorch.canonicalize().map_err(|source| Error::io("find", libtorch, &source))?;
    if link.canonicalize().is_ok_and(|current| current == canonical) {
        return Ok(());
    }
    match std::fs::remove_file(link) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("replace the link", link, &source));
        }
        _ => {}
    }
    let beside = link.parent().and_then(|root| root.canonicalize().ok());
    let target = beside.and_then(|root| Some(canonical.strip_prefix(root).ok()?.to_owned())).unwrap_or(canonical);
    std::os::unix::fs::symlink(&target, link).map_err(|source| Error::io("make the link", link, &source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_archives_and_wheels() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(version(folder.path()), None);
        std::fs::write(folder.path().join("version.py"), "x = 1\n__version__ = '2.13.0+cu130'\n").unwrap();
        assert_eq!(version(folder.path()).unwrap(), "2.13.0");
        std::fs::write(folder.path().join("build-version"), "2.12.1+cpu\n").unwrap();
        assert_eq!(version(folder.path()).unwrap(), "2.12.1");
    }

    #[test]
    fn a_libtorch_of_another_version_is_refused_with_both_versions() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("build-version"), "2.12.1\n").unwrap();
        let error = check_callers(folder.path()).unwrap_err().to_string();
        assert!(error.contains("it is version 2.12.1") && error.contains("libtorch 2.13.0"), "{error}");
        let error = check_callers(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("/nowhere") && error.contains("build-version"), "{error}");
    }

    #[test]
    fn a_link_is_made_and_moved() {
        let folder = tempfile::tempdir().unwrap();
        let (link, one, two) = (folder.path().join("link"), folder.path().join("one"), folder.path().join("two"));
        for target in [&one, &two] {
            std::fs::create_dir(target).unwrap();
            point(&link, target).unwrap();
            assert_eq!(link.canonicalize().unwrap(), target.canonicalize().unwrap());
        }
        assert!(point(&link, &folder.path().join("three")).is_err());
    }

    #[test]
    fn a_link_inside_the_clone_moves_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        std::fs::create_dir_all(old.join("libtorch")).unwrap();
        point(&old.join("link"), &old.join("libtorch")).unwrap();
        std::fs::rename(&old, &new).unwrap();
        assert_eq!(new.join("link").canonicalize().unwrap(), new.join("libtorch").canonicalize().unwrap());
    }

    #[test]
    fn a_copied_clone_uses_its_own_libtorch() {
        let folder = tempfile::tempdir().unwrap();
        let library = format!("torch/lib/{DLL_PREFIX}torch_cpu{DLL_SUFFIX}");
        for clone in ["original", "copy"] {
            let own = folder.path().join(clone).join(format!(".libtorch-{VERSION}"));
            std::fs::create_dir_all(own.join("torch/lib")).unwrap();
            std::fs::write(own.join("torch/build-version"), VERSION).unwrap();
            std::fs::write(own.join(&library), "").unwrap();
        }
        let own = |clone: &str| folder.path().join(clone).join(format!(".libtorch-{VERSION}/torch"));
        let copy = Workspace { root: folder.path().join("copy") };
        std::os::unix::fs::symlink(own("original"), copy.libtorch_link()).unwrap();
        find_or_fetch(&copy, Path::new("/no/python")).unwrap();
        assert_eq!(copy.libtorch_link().canonicalize().unwrap(), own("copy").canonicalize().unwrap());
    }
}
