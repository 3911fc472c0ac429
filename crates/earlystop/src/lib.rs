//! Saving, restoring and early stopping of neural networks on libtorch.
#![deny(missing_docs)]

pub mod early_stopping;
mod error;
pub mod mnist;

pub use error::{Error, Result};
