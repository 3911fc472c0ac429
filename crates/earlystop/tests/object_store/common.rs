//! Stores on the disk as in object storage, and what lies there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use earlystop::checkpoint::{Metadata, NamedTensor, Saved, Store};

pub(crate) fn url(folder: &Path) -> String {
    format!("file://{}", folder.display())
}

pub(crate) fn state(value: f32) -> Vec<NamedTensor<'static>> {
    vec![NamedTensor::new("w", &*vec![value; 3].leak())]
}

pub(crate) fn save(store: &mut Store, step: u64) -> Saved {
    store.save(step, None, &[&state(step as f32)], &Metadata::new()).unwrap()
}

/// The names of all files in a folder, complete or not.
pub(crate) fn keys(root: &Path, folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root.join(folder)).into_iter().flatten();
    entries.map(|entry| format!("{folder}/{}", entry.unwrap().file_name().into_string().unwrap())).collect()
}

/// The latest manifest.
pub(crate) fn manifest(root: &Path) -> serde_json::Value {
    let last = keys(root, "commits").pop_last().unwrap();
    serde_json::from_slice(&fs::read(root.join(last)).unwrap()).unwrap()
}

/// The names of the objects that a manifest names.
pub(crate) fn keys_in(manifest: &serde_json::Value) -> BTreeSet<String> {
    fn find(value: &serde_json::Value, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                found.extend(fields.get("object").map(|key| key.as_str().unwrap().to_owned()));
                fields.values().for_each(|value| find(value, found));
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| find(value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    find(manifest, &mut found);
    found
}

/// The names of the objects that the latest manifest names.
pub(crate) fn named_keys(root: &Path) -> BTreeSet<String> {
    if keys(root, "commits").is_empty() { BTreeSet::new() } else { keys_in(&manifest(root)) }
}
