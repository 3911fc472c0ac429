//! The examples that cargo builds for the tests.

use std::path::{Path, PathBuf};

/// Returns the program of an example. It lies beside the folder of the tests, or with `build.build-dir` in a folder that cargo puts
/// on the search path.
pub(crate) fn example(name: &str) -> PathBuf {
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let this = std::env::current_exe().unwrap();
    let folders = std::env::split_paths(&path).chain(this.ancestors().nth(2).map(Path::to_owned));
    let mut programs = folders.map(|folder| folder.join(format!("examples/{name}{}", std::env::consts::EXE_SUFFIX)));
    programs.find(|program| program.is_file()).expect("cargo builds the examples with all tests")
}
