//! Saving, restoring and early stopping of neural networks on libtorch.
#![deny(missing_docs)]

mod error;

pub use error::{Error, Result};
