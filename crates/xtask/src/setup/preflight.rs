//! Checks before anything long begins: the Rust version, a C++ compiler, the standard library's sources, disk space.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::diagnosis::advice;
use super::kernel::OLDEST_RUST;
use super::requirements::parse_version;
use crate::progress::Step;
use crate::{Error, Result, command};

/// libtorch, the kernel, its compiled dependencies and the workspace's own build, with some to spare.
const NEEDED_GIB: u64 = 6;

/// Checks that there is a C++ compiler: the crate `torch-sys` compiles its bindings with it.
pub(super) fn compiler() -> Result<()> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    // CXX may carry flags or a wrapper: "ccache g++".
    let mut words = compiler.split_whitespace();
    let program = words.next().unwrap_or("c++");
    match Command::new(program).args(words).arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(no_compiler(&compiler, String::from_utf8_lossy(&output.stderr).into_owned())),
        Err(source) => Err(no_compiler(&compiler, source.to_string())),
    }
}

fn no_compiler(compiler: &str, got: String) -> Error {
    Error::new(format!("run the C++ compiler `{compiler} --version`")).got(got).hint(
        "Install one: on Debian and Ubuntu: apt install g++; on Fedora: dnf install gcc-c++; on macOS: \
         xcode-select --install; with conda: conda install cxx-compiler. The variable CXX may name another.",
    )
}

/// Checks that the Rust compiler is new enough for the kernel, and for the workspace.
pub(super) fn rust_version() -> Result<()> {
    let said = command::ask(Command::new(rustc()).arg("--version"))
        .ok_or_else(|| Error::new("run `rustc --version`").hint("Install Rust: https://rustup.rs"))?;
    new_enough(&said)
}

/// The compiler that cargo calls.
fn rustc() -> OsString {
    std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

/// Refuses a compiler whose `rustc --version` names an older Rust than the kernel compiles with.
fn new_enough(said: &str) -> Result<()> {
    let (major, minor) = OLDEST_RUST;
    // An answer in other words is no reason to stop: cargo checks the version as well.
    let version = said.strip_prefix("rustc ").and_then(parse_version);
    if version.is_none_or(|version| version >= OLDEST_RUST) {
        return Ok(());
    }
    Err(Error::new(format!("use this Rust compiler: Rust {major}.{minor} or later is needed")).got(said).hint(format!(
        "With rustup: rustup update stable; if another toolchain is the default: rustup default stable, or run \
         `cargo +stable xtask setup`; with conda: conda install \"rust>={major}.{minor}\"."
    )))
}

/// Checks that the standard library's sources are there, which the kernel needs, and lets rustup fetch them if not.
pub(super) fn rust_src() -> Result<()> {
    let tried = "find the sources of Rust's standard library (rust-src)";
    let by_hand = "With rustup: rustup component add rust-src; with conda: conda install rust-src; \
                   with a Linux distribution's Rust: its package rust-src.";
    let sysroot = command::ask(Command::new(rustc()).args(["--print", "sysroot"]))
        .ok_or_else(|| Error::new("run `rustc --print sysroot`").hint("Install Rust: https://rustup.rs"))?;
    let sources = Path::new(&sysroot).join("lib/rustlib/src/rust/library/std/src/lib.rs");
    if sources.exists() {
        return Ok(());
    }
    if command::ask(Command::new("rustup").arg("--version")).is_none() {
        return Err(Error::new(tried).got(format!("{} is not there, nor is rustup", sources.display())).hint(by_hand));
    }
    let mut step = Step::start("Adding rust-src to the Rust toolchain");
    let outcome = command::watch(&mut step, Command::new("rustup").args(["component", "add", "rust-src"]))?;
    if outcome.status.success() && sources.exists() {
        step.done();
        return Ok(());
    }
    Err(Error::new(tried).got(outcome.last_lines()).hint(format!("{}\n{by_hand}", advice(&outcome.output))))
}

/// Checks that the disk has room for what is to be installed.
pub(super) fn disk(root: &Path) -> Result<()> {
    // No answer from df is no reason to stop: a full disk is recognized later as well.
    match command::ask(Command::new("df").arg("-Pk").arg(root)).as_deref().and_then(free_kib) {
        Some(kib) => enough(root, kib),
        None => Ok(()),
    }
}

fn enough(root: &Path, free_kib: u64) -> Result<()> {
    let free_gib = free_kib as f64 / f64::from(1 << 20);
    if free_gib >= NEEDED_GIB as f64 {
        return Ok(());
    }
    Err(Error::new(format!("begin the set-up in {}", root.display()))
        .got(format!("{free_gib:.1} GiB are free on its disk; about {NEEDED_GIB} are needed"))
        .hint("Free some space, or put the clone on another disk."))
}

/// The column "Available" of `df -Pk`.
fn free_kib(df: &str) -> Option<u64> {
    df.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_compiler_is_refused_with_both_versions() {
        for said in
            ["rustc 1.95.0 (59807616e 2026-04-14)", "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)", "rustc 2.0.0"]
        {
            assert!(new_enough(said).is_ok(), "{said}");
        }
        let error = new_enough("rustc 1.94.1 (0123456 2026-03-01)").unwrap_err().to_string();
        assert!(error.contains("rustc 1.94.1") && error.contains("Rust 1.95 or later"), "{error}");
        assert!(error.contains("rustup update stable"), "{error}");
    }

    #[test]
    fn free_space_is_read_from_df() {
        let df =
            "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda 263000000 26000000 68000000 29% /";
        assert_eq!(free_kib(df), Some(68_000_000));
        assert_eq!(free_kib("df: nonsense"), None);
    }

    #[test]
    fn too_little_space_is_told_in_numbers() {
        assert!(enough(Path::new("/clone"), 7 << 20).is_ok());
        let error = enough(Path::new("/clone"), 1 << 20).unwrap_err().to_string();
        assert!(error.contains("1.0 GiB are free") && error.contains("about 6"), "{error}");
    }
}
