// The links of the README lead to source files. Here they lead to items: Markdown takes the first definition of a link.
#![cfg_attr(
    all(feature = "torch", feature = "plot", feature = "logging"),
    doc = "
[`Checkpoint`]: checkpoint::Checkpoint
[`EarlyStopping`]: EarlyStopping
[`Model`]: trainer::Model
[`Saver`]: Saver
[`Store`]: checkpoint::Store
[`Trainer`]: Trainer
[`checkpoint`]: mod@checkpoint
[`data`]: mod@data
[`display`]: mod@display
[`early_stopping`]: mod@early_stopping
[`idx`]: mod@idx
[`logging`]: mod@logging
[`metrics`]: mod@metrics
[`mnist`]: mod@mnist
[`network`]: mod@network
[`optimizer`]: mod@optimizer
[`plot`]: mod@plot
[`processes`]: mod@processes
[`replay`]: early_stopping::replay()
[`stop`]: mod@stop
[`trainer`]: mod@trainer
"
)]
#![cfg_attr(feature = "torch", doc = include_str!("../README.md"))]
#![cfg_attr(not(feature = "torch"), doc = "Saving, restoring and early stopping of neural networks of any library.")]
#![deny(missing_docs)]
// Parts of the rules and checkpoints are there for the trainer alone.
#![cfg_attr(not(feature = "torch"), allow(dead_code, unused_imports))]

pub mod checkpoint;
#[cfg(feature = "torch")]
pub mod data;
#[cfg(feature = "plot")]
pub mod display;
pub mod early_stopping;
mod error;
#[cfg(all(feature = "torch", feature = "plot"))]
mod flowchart;
#[cfg(feature = "torch")]
pub mod idx;
#[cfg(feature = "torch")]
mod kernels;
#[cfg(feature = "logging")]
pub mod logging;
#[cfg(feature = "torch")]
mod memory;
pub mod metrics;
#[cfg(feature = "torch")]
pub mod mnist;
#[cfg(feature = "torch")]
pub mod network;
#[cfg(feature = "torch")]
pub mod optimizer;
#[cfg(feature = "plot")]
pub mod plot;
#[cfg(feature = "torch")]
pub mod processes;
#[cfg(feature = "torch")]
mod random;
pub mod stop;
#[cfg(feature = "torch")]
pub mod trainer;
#[cfg(feature = "torch")]
mod values;

pub use checkpoint::{Metadata, Saver};
#[cfg(feature = "torch")]
pub use data::{Batches, Examples};
pub use early_stopping::EarlyStopping;
pub use error::{Error, Result};
#[cfg(all(feature = "torch", feature = "plot"))]
pub use flowchart::flowchart;
#[cfg(feature = "torch")]
pub use memory::keep_freed_memory;
#[cfg(feature = "torch")]
pub use mnist::Mnist;
#[cfg(feature = "torch")]
pub use network::{Loss, Network};
#[cfg(feature = "torch")]
pub use optimizer::Optimizer;
#[cfg(feature = "torch")]
pub use processes::Processes;
#[cfg(feature = "torch")]
pub use tch;
#[cfg(feature = "torch")]
pub use trainer::Trainer;
pub use {ndarray, safetensors};

/// The version of this crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The version of the crate `tch`.
#[cfg(feature = "torch")]
pub const TCH_VERSION: &str = "0.26.0";
/// The version of libtorch that `tch` wants, and no other.
#[cfg(feature = "torch")]
pub const LIBTORCH_VERSION: &str = "2.13.0";
