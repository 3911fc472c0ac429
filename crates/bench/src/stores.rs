//! Opening a store of many checkpoints.

use std::path::Path;
use std::time::Instant;

use earlystop::checkpoint::{Keep, Metadata, NamedTensor, Store};
use earlystop::tch::{Device, Kind, Tensor};
use serde::Serialize;

use crate::Result;
use crate::markdown::{Section, digits, table};
use crate::statistics::median;

/// Numbers of checkpoints.
const SIZES: [u64; 3] = [10, 100, 1_000];
/// The number of values of a checkpoint: 3 MB, about the size of the tutorial's state.
const VALUES: i64 = 750_000;
const ROUNDS: usize = 11;

/// The results for one number of checkpoints.
#[derive(Debug, Serialize)]
pub(crate) struct OpenStore {
    pub(crate) checkpoints: u64,
    /// Opening and locking, in seconds.
    pub(crate) lock: f64,
    /// Listing all checkpoints, in seconds.
    pub(crate) list: f64,
    /// Finding the best and the latest, in seconds.
    pub(crate) find: f64,
}

/// Measures all numbers.
pub(crate) fn run(out: &Path, quick: bool) -> Result<Vec<OpenStore>> {
    let sizes = if quick { vec![3, 6] } else { SIZES.to_vec() };
    let folder = out.join("stores");
    let _ = std::fs::remove_dir_all(&folder);
    let mut saved = 0;
    let stores = sizes.into_iter().map(|checkpoints| {
        eprintln!("Stores: {checkpoints} checkpoints");
        let mut store = Store::open(&folder)?.keep(Keep::all());
        let state = vec![NamedTensor::new("t", Tensor::rand([VALUES], (Kind::Float, Device::Cpu)))];
        for step in saved + 1..=checkpoints {
            store.save(step, Some(step as f64), &[&state], &Metadata::new())?;
        }
        saved = checkpoints;
        drop(store);
        let time = |action: &dyn Fn() -> earlystop::Result<()>| -> Result<f64> {
            let seconds = (0..ROUNDS).map(|_| {
                let start = Instant::now();
                action().map(|()| start.elapsed().as_secs_f64())
            });
            Ok(median(&seconds.collect::<earlystop::Result<Vec<_>>>()?))
        };
        Ok(OpenStore {
            checkpoints,
            lock: time(&|| Store::open(&folder)?.keep(Keep::all()).lock().map(drop))?,
            list: time(&|| Store::open(&folder)?.list().map(drop))?,
            find: time(&|| {
                let store = Store::open(&folder)?;
                store.best()?;
                store.latest().map(drop)
            })?,
        })
    });
    let stores = stores.collect::<Result<_>>()?;
    std::fs::remove_dir_all(&folder)?;
    Ok(stores)
}

/// Writes the section about all numbers.
pub(crate) fn section(stores: &[OpenStore]) -> Section {
    let about = "Milliseconds with a store of checkpoints of 3 MB each, of which only the headers are read: to open and lock it, to list \
                 all checkpoints, and to find the best and the latest one.";
    let cells = |store: &OpenStore| {
        let times = [store.lock, store.list, store.find].map(|seconds| digits(1e3 * seconds));
        [vec![store.checkpoints.to_string()], times.to_vec()].concat()
    };
    let head = ["checkpoints", "open and lock, ms", "list, ms", "best and latest, ms"];
    Section { title: "Many checkpoints", about: about.to_owned(), table: table(&head, stores.iter().map(cells)) }
}
