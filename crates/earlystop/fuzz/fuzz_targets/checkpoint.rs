//! Reads any bytes as a checkpoint: a file is an error or can be read as a whole.
#![no_main]

use earlystop::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let Ok(checkpoint) = Checkpoint::read(&path) else { return };
    assert_eq!(checkpoint.file_bytes(), bytes.len() as u64);
    for info in checkpoint.infos() {
        let data = checkpoint.bytes(&info.name).expect("a file that was read has the bytes of its tensors");
        assert!(data.len() <= bytes.len());
    }
});
