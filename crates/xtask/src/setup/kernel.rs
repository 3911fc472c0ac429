//! The Rust kernel: `crates/kernel`, compiled into the clone, and the kernelspec by which Jupyter finds it.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::KERNEL_NAME;
use super::diagnosis::advice;
#[cfg(test)]
use super::requirements::parse_version;
use crate::command::{self, Running};
use crate::kernel::PROGRAM;
use crate::progress::Step;
use crate::workspace::Workspace;
use crate::{Error, Result};

pub(super) const EVCXR_VERSION: &str = "0.22.0";

/// The oldest Rust that compiles this evcxr: major and minor version. It is the workspace's `rust-version`.
pub(super) const OLDEST_RUST: (u32, u32) = (1, 95);

/// No settings: those of someone's other notebooks shall not count.
const EVCXR_CONFIG: &str = "[evcxr]\n";

/// The file in `.kernel` with all sources of the kernel that is installed.
const SOURCES: &str = "sources";

/// Starts the kernel's installation, which takes minutes, unless it is there.
pub(super) fn start_install(workspace: &Workspace) -> Result<Option<Running>> {
    if is_installed(workspace)? {
        return Ok(None);
    }
    let kernel = workspace.kernel();
    eprintln!("Compiling the Rust kernel, with evcxr {EVCXR_VERSION}, meanwhile");
    let mut cargo = command::cargo(workspace);
    cargo
        // By force: cargo believes its record, also of a program that is damaged.
        .args(["install", "--force", "--locked", "--path"])
        .arg(workspace.kernel_crate())
        .arg("--root")
        .arg(&kernel)
        .env("CARGO_TARGET_DIR", install_folder(workspace));
    command::start(&mut cargo).map(Some)
}

/// Where the kernel is compiled: below the clone, so that an interrupted installation continues where it stopped.
fn install_folder(workspace: &Workspace) -> PathBuf {
    workspace.kernel().join("install")
}

/// A command for the kernel's own tests. In CI they use what the installation has compiled; elsewhere they compile evcxr again.
pub(crate) fn tests(workspace: &Workspace) -> Command {
    let mut cargo = command::cargo(workspace);
    cargo.args(["test", "--release", "--locked", "--manifest-path"]).arg(workspace.kernel_crate().join("Cargo.toml"));
    cargo.env("CARGO_TARGET_DIR", install_folder(workspace));
    cargo
}

/// Waits for the installation.
pub(super) fn finish_install(workspace: &Workspace, running: Option<Running>) -> Result<()> {
    let Some(running) = running else { return Ok(()) };
    let mut step = Step::start(&format!("Compiling the Rust kernel, with evcxr {EVCXR_VERSION} (about 5 minutes)"));
    let outcome = running.wait(&mut step)?;
    if !outcome.status.success() {
        return Err(Error::new("install the Rust kernel with `cargo install --path crates/kernel`")
            .got(outcome.last_lines())
            .hint(advice(&outcome.output)));
    }
    let installed = workspace.kernel().join(SOURCES);
    std::fs::write(&installed, sources(workspace)?).map_err(|source| Error::io("write", &installed, &source))?;
    if !super::is_ci() {
        let intermediate = install_folder(workspace);
        std::fs::remove_dir_all(&intermediate).map_err(|source| Error::io("remove", &intermediate, &source))?;
    }
    step.done();
    Ok(())
}

/// Whether the program was made from the sources that are here, and starts.
pub(super) fn is_installed(workspace: &Workspace) -> Result<bool> {
    let installed = std::fs::read_to_string(workspace.kernel().join(SOURCES)).unwrap_or_default();
    Ok(installed == sources(workspace)?
        && command::ask(Command::new(workspace.kernel().join("bin").join(PROGRAM)).arg("--help")).is_some())
}

/// All that the program is made from, word for word.
fn sources(workspace: &Workspace) -> Result<String> {
    let kernel = workspace.kernel_crate();
    let mut files = vec![kernel.join("Cargo.toml"), kernel.join("Cargo.lock")];
    files.extend(rust_files(&kernel.join("src"))?);
    let read = |path: PathBuf| std::fs::read_to_string(&path).map_err(|source| Error::io("read", &path, &source));
    files.into_iter().map(read).collect()
}

/// All files in the folder and below, in the order of their names.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    let mut entries = entries.map_err(|source| Error::io("list", folder, &source))?;
    entries.sort_by_key(std::fs::DirEntry::path);
    let mut files = Vec::new();
    for path in entries.iter().map(std::fs::DirEntry::path) {
        if path.is_dir() { files.extend(rust_files(&path)?) } else { files.push(path) }
    }
    Ok(files)
}

/// Puts a copy of this program beside the kernel, which starts it (`kernel.rs`), and writes the kernelspec.
pub(super) fn register(workspace: &Workspace, environment: &Path) -> Result<()> {
    let launcher = workspace.kernel().join("bin/start-kernel");
    write_if_changed(&launcher, &this_program()?, true)?;

    let config = workspace.kernel().join("config");
    std::fs::create_dir_all(&config).map_err(|source| Error::io("create", &config, &source))?;
    write_if_changed(&config.join("evcxr.toml"), EVCXR_CONFIG.as_bytes(), false)?;

    let jupyter = environment.join("share/jupyter");
    let folder = jupyter.join("kernels").join(KERNEL_NAME);
    if !folder.join("logo-64x64.png").exists() {
        // evcxr's own installation, for its logos and its syntax check.
        let evcxr = workspace.kernel().join("bin").join(PROGRAM);
        command::ask(Command::new(evcxr).arg("--install").env("JUPYTER_PATH", &jupyter))
            .ok_or_else(|| Error::new(format!("install the kernelspec into {}", folder.display())))?;
    }
    let toolchain = std::env::var("RUSTUP_TOOLCHAIN").ok();
    // evcxr moves what it compiled out of the folder from which the relative rpath leads to Rust's standard library. It is
    // found all the same where that rpath climbs up to `/`, but not where the clone and the toolchain share a folder.
    let rust = command::ask(Command::new("rustc").args(["--print", "target-libdir"]))
        .ok_or_else(|| Error::new("run `rustc --print target-libdir`").hint("Install Rust: https://rustup.rs"))?;
    let libraries = [&workspace.libtorch_link().join("lib"), Path::new(&rust)];
    let spec = kernelspec(&launcher, &workspace.libtorch_link(), libraries, toolchain.as_deref());
    write_if_changed(&folder.join("kernel.json"), spec.as_bytes(), false)
}

/// The text of kernel.json. Its `env` is all that a kernel needs of its surroundings.
fn kernelspec(launcher: &Path, libtorch: &Path, libraries: [&Path; 2], toolchain: Option<&str>) -> String {
    let library_path = if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };
    let mut env = json!({
        "LIBTORCH": literal(libtorch),
        library_path: libraries.map(literal).join(":"),
        // glibc gives memory back and asks for it again with every batch, which costs up to half of the time.
        // 32 MiB is the largest that it takes for the one, 1 GiB serves for the other.
        "MALLOC_MMAP_THRESHOLD_": "33554432",
        "MALLOC_TRIM_THRESHOLD_": "1073741824",
    });
    if let Some(toolchain) = toolchain {
        // The one that compiled the warm folder, whatever is the default when a notebook is opened.
        env["RUSTUP_TOOLCHAIN"] = toolchain.into();
    }
    let spec = json!({
        "argv": [launcher, "kernel", "{connection_file}"],
        "display_name": "Rust (earlystop)",
        "language": "rust",
        "interrupt_mode": "message",
        "env": env,
    });
    format!("{spec:#}\n")
}

/// A path in the kernelspec's `env`, where Jupyter puts the value of a variable in the place of `$NAME`.
fn literal(path: &Path) -> String {
    path.to_string_lossy().replace('$', "$$")
}

/// Writes `content` under a temporary name and renames it, since the file may be in use.
fn write_if_changed(path: &Path, content: &[u8], executable: bool) -> Result<()> {
    if std::fs::read(path).is_ok_and(|current| current == content) {
        return Ok(());
    }
    let mut temporary = OsString::from(path);
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let write = || {
        std::fs::write(&temporary, content)?;
        if executable {
            std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o755))?;
        }
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| Error::io("write", path, &source))
}

/// This program's file, even where a build has put another in its place meanwhile.
fn this_program() -> Result<Vec<u8>> {
    let running = PathBuf::from("/proc/self/exe");
    let program = if running.exists() { Ok(running) } else { std::env::current_exe() };
    let program = program.map_err(|source| Error::new("find myself").got(source.to_string()))?;
    std::fs::read(&program).map_err(|source| Error::io("read", &program, &source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernelspec_carries_what_tch_needs() {
        let libraries = [Path::new("/c/.libtorch/lib"), Path::new("/rust/lib")];
        let (launcher, libtorch) = (Path::new("/c/.kernel/bin/start-kernel"), Path::new("/c/.libtorch"));
        let spec = kernelspec(launcher, libtorch, libraries, Some("stable"));
        let spec: serde_json::Value = serde_json::from_str(&spec).unwrap();
        assert_eq!(spec["argv"], json!(["/c/.kernel/bin/start-kernel", "kernel", "{connection_file}"]));
        assert_eq!(spec["env"]["LIBTORCH"], "/c/.libtorch");
        #[cfg(target_os = "linux")]
        assert_eq!(spec["env"]["LD_LIBRARY_PATH"], "/c/.libtorch/lib:/rust/lib");
        assert_eq!(spec["env"]["RUSTUP_TOOLCHAIN"], "stable");
    }

    #[test]
    fn a_dollar_in_the_clones_path_is_no_variable_to_jupyter() {
        let libraries = [Path::new("/$c/.libtorch/lib"), Path::new("/rust/lib")];
        let spec = kernelspec(Path::new("/$c/start-kernel"), Path::new("/$c/.libtorch"), libraries, None);
        let spec: serde_json::Value = serde_json::from_str(&spec).unwrap();
        assert_eq!(
            (&spec["env"]["LIBTORCH"], &spec["argv"][0]),
            (&json!("/$$c/.libtorch"), &json!("/$c/start-kernel"))
        );
    }

    #[test]
    fn all_declare_the_rust_version_that_evcxr_demands() {
        let (major, minor) = OLDEST_RUST;
        assert_eq!(env!("CARGO_PKG_RUST_VERSION"), format!("{major}.{minor}"), "Cargo.toml");
        let environment = include_str!("../../../../environment.yml");
        assert!(environment.contains(&format!("\n  - rust>={major}.{minor}\n")), "environment.yml");
        assert!(include_str!("../../../../README.md").contains(&format!("Rust {major}.{minor} or later")), "README.md");
        let ci = include_str!("../../../../.github/workflows/ci.yml");
        assert!(ci.contains(&format!("RUSTUP_TOOLCHAIN: \"{major}.{minor}\"")), "ci.yml");
    }

    /// Where cargo has evcxr's sources, which is where it was compiled.
    #[test]
    fn evcxrs_own_manifest_demands_no_newer_rust() {
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
        let registries = home.and_then(|home| std::fs::read_dir(home.join("registry/src")).ok());
        for registry in registries.into_iter().flatten().flatten() {
            for name in ["evcxr", "evcxr_jupyter"] {
                let manifest = registry.path().join(format!("{name}-{EVCXR_VERSION}/Cargo.toml"));
                let Ok(text) = std::fs::read_to_string(&manifest) else { continue };
                let demanded = text.lines().find_map(|line| line.strip_prefix("rust-version = "));
                let demanded = demanded.and_then(|version| parse_version(version.trim_matches('"')));
                assert!(
                    demanded.is_none_or(|demanded| demanded <= OLDEST_RUST),
                    "{}: {demanded:?}",
                    manifest.display()
                );
            }
        }
    }

    #[test]
    fn an_installation_counts_only_if_it_starts_and_was_made_from_these_sources() {
        let clone = tempfile::tempdir().unwrap();
        let workspace = Workspace { root: clone.path().to_owned() };
        let (folder, bin) = (workspace.kernel_crate(), workspace.kernel().join("bin"));
        std::fs::create_dir_all(folder.join("src/module")).unwrap();
        std::fs::create_dir_all(&bin).unwrap();
        let files = ["Cargo.toml", "Cargo.lock", "src/main.rs", "src/module/inner.rs"];
        files.iter().for_each(|name| std::fs::write(folder.join(name), name).unwrap());
        assert!(!is_installed(&workspace).unwrap());
        write_if_changed(&bin.join(PROGRAM), b"#!/bin/sh\nexit 0\n", true).unwrap();
        std::fs::write(workspace.kernel().join(SOURCES), sources(&workspace).unwrap()).unwrap();
        assert!(is_installed(&workspace).unwrap());
        for name in files {
            std::fs::write(folder.join(name), "changed").unwrap();
            assert!(!is_installed(&workspace).unwrap(), "{name}");
            std::fs::write(folder.join(name), name).unwrap();
        }
        // As a full disk leaves it.
        std::fs::write(bin.join(PROGRAM), "").unwrap();
        assert!(!is_installed(&workspace).unwrap());
    }
}
