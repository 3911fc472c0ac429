//! Saving, restoring and early stopping of neural networks on libtorch.
#![deny(missing_docs)]

pub mod checkpoint;
pub mod display;
pub mod early_stopping;
mod error;
pub mod metrics;
pub mod mnist;
pub mod network;
pub mod optimizer;
pub mod plot;
mod random;
pub mod trainer;

pub use checkpoint::{Metadata, Saver};
pub use early_stopping::EarlyStopping;
pub use error::{Error, Result};
pub use mnist::{Examples, Mnist};
pub use network::Network;
pub use optimizer::{Adam, Batches};
pub use trainer::Trainer;
pub use {ndarray, tch};
