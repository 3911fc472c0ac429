//! The examples that cargo builds for the tests, and the checkpoints that they write.

use std::path::{Path, PathBuf};

use earlystop::checkpoint::Checkpoint;

/// Returns the program of an example. It lies beside the folder of the tests, or with `build.build-dir` in a folder that cargo puts
/// on the search path.
pub(crate) fn example(name: &str) -> PathBuf {
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let this = std::env::current_exe().unwrap();
    let folders = std::env::split_paths(&path).chain(this.ancestors().nth(2).map(Path::to_owned));
    let mut programs = folders.map(|folder| folder.join(format!("examples/{name}{}", std::env::consts::EXE_SUFFIX)));
    programs.find(|program| program.is_file()).expect("cargo builds the examples with all tests")
}

/// Returns the names and bytes of all tensors in the checkpoint of an iteration.
pub(crate) fn tensors(folder: &Path, iteration: u64) -> Vec<(String, Vec<u8>)> {
    let checkpoint = Checkpoint::read(folder.join(format!("step-{iteration:06}.safetensors"))).unwrap();
    let bytes = |name: &str| {
        let tensor = checkpoint.tensor(name).unwrap();
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        (name.to_owned(), bytes)
    };
    checkpoint.infos().map(|info| bytes(&info.name)).collect()
}
