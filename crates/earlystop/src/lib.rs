#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

pub mod checkpoint;
pub mod data;
pub mod display;
pub mod early_stopping;
mod error;
mod flowchart;
mod kernels;
#[cfg(feature = "logging")]
pub mod logging;
mod memory;
pub mod metrics;
pub mod mnist;
pub mod network;
pub mod optimizer;
pub mod plot;
mod random;
pub mod stop;
pub mod trainer;
mod values;

pub use checkpoint::{Metadata, Saver};
pub use early_stopping::EarlyStopping;
pub use error::{Error, Result};
pub use flowchart::flowchart;
pub use memory::keep_freed_memory;
pub use mnist::{Examples, Mnist};
pub use network::{Loss, Network, Precision};
pub use optimizer::{Batches, Optimizer};
pub use trainer::Trainer;
pub use {ndarray, tch};

/// The version of this crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The version of the crate `tch`.
pub const TCH_VERSION: &str = "0.26.0";
/// The version of libtorch that `tch` wants, and no other.
pub const LIBTORCH_VERSION: &str = "2.13.0";
