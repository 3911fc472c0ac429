//! Reads any bytes as the index of a state in several files, beside a valid part.
#![no_main]

use earlystop::checkpoint::{Checkpoint, Metadata, NamedTensor, Saver};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let weights = vec![NamedTensor::new("w", &[1.0f32, 2.0][..])];
    Saver::new().save(folder.path().join("part.safetensors"), &[&weights], &Metadata::new()).unwrap();
    let path = folder.path().join("model.safetensors.index.json");
    std::fs::write(&path, bytes).unwrap();
    let Ok(checkpoint) = Checkpoint::read(&path) else { return };
    for file in checkpoint.files() {
        assert_eq!(file.parent(), Some(folder.path()), "an index names files of its own folder only");
    }
});
