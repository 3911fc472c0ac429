//! Saving, restoring and early stopping of neural networks on libtorch.
#![deny(missing_docs)]

pub mod early_stopping;
pub mod checkpoint;
mod error;
pub mod mnist;

pub use error::{Error, Result};
