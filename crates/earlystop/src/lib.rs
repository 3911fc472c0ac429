//! Saving, restoring and early stopping of neural networks on libtorch.
#![deny(missing_docs)]

pub mod early_stopping;
mod error;

pub use error::{Error, Result};
