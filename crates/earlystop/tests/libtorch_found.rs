//! Programs find libtorch by what `build.rs` tells cargo. (Small builds under all kinds of settings: `cargo_settings.rs`.)
#![cfg(all(feature = "torch", target_os = "linux"))]

use std::process::Command;

use earlystop::tch;

/// As with a target folder elsewhere.
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
