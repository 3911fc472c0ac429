//! Programs find libtorch whatever cargo settings replace this workspace's own (`build.rs`).
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

use earlystop::tch;

/// As with a target folder elsewhere and other rustflags: neither the rpath in `.cargo/config.toml`, which is relative to the
/// target folder, nor cargo leads it to libtorch.
#[test]
fn a_program_that_was_copied_elsewhere_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let output = Command::new(&copy).arg("--list").env_remove("LD_LIBRARY_PATH").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let threads = tch::get_num_threads();
    assert!(threads > 0, "this program uses libtorch");
}

/// The examples in the documentation have no rpath but the one of `rustdocflags`, and programs of other packages have none.
#[test]
fn what_cargo_runs_is_led_to_it() {
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path);
    assert!(folders.any(|folder| is_libtorch(&folder)), "{path:?}");
}

fn is_libtorch(folder: &Path) -> bool {
    folder.join("libtorch_cpu.so").exists()
}
