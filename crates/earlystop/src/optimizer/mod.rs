//! The optimizer: Adam, and the order of the training batches.

mod adam;
mod batches;

pub use adam::Adam;
pub use batches::Batches;
