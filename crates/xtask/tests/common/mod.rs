//! What tests with real kernels share.

use std::path::PathBuf;
use std::process::Command;

/// Makes the kernel ready, which takes minutes where that was never done, and returns the Python that has Jupyter.
/// `None` where long tests are not wanted.
pub(crate) fn python_with_kernel() -> Option<PathBuf> {
    if std::env::var_os("EARLYSTOP_LONG_TESTS").is_none() {
        eprintln!("left out: set EARLYSTOP_LONG_TESTS=1 to run it");
        return None;
    }
    let setup = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("setup").output().unwrap();
    let said = String::from_utf8_lossy(&setup.stdout);
    assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
    let python = said.lines().find_map(|line| line.strip_prefix("Python:")).unwrap().trim();
    Some(PathBuf::from(python))
}
