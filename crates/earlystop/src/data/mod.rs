//! Data sets: functions from indices to a batch.
//!
//! - [`Data`] is the trait: implement it for data of any kind and size.
//! - [`Examples`] holds images with their labels, as bytes.
//! - [`TensorData`] holds tensors in memory, one row for each example.
//! - [`Prefetch`] makes the batches of any of them on another thread.
//! - [`from_fn`] makes a data set of a function that reads or computes a batch.
//! - [`Batches`] chooses the examples of each batch, in an [`Order`].

mod batches;
mod examples;
mod fingerprint;
mod prefetch;
mod tensors;

use std::sync::Arc;

use crate::error::Result;

pub use batches::{Batches, Order};
pub use examples::{Examples, ImageBatch};
pub use prefetch::Prefetch;
pub use tensors::TensorData;

/// A data set: makes a batch of the examples of some indices.
///
/// A data set does not choose the order of the examples; a [`Trainer`](crate::Trainer) chooses the indices. A batch must depend on nothing
/// but the arguments, so that a resumed run continues with the same bits: draw random numbers for augmentation from a generator
/// that is seeded by the iteration.
pub trait Data {
    /// What a model takes in.
    type Batch;

    /// Returns the number of examples.
    fn len(&self) -> usize;

    /// Says whether there are no examples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes a batch of the examples of these indices, each less than [`len`](Self::len), in this order.
    ///
    /// `iteration` is the number of the training step, from 1, for seeded augmentation. In evaluations it is 0.
    ///
    /// # Errors
    ///
    /// Any error, for instance of a file: see [`Error::other`](crate::Error::other).
    fn batch(&self, indices: &[usize], iteration: u64) -> Result<Self::Batch>;

    /// Announces the batch that will be asked for next, so that it can be prepared. Does nothing by default.
    fn announce(&self, indices: &[usize], iteration: u64) {
        let _ = (indices, iteration);
    }

    /// Identifies the examples, so that a run is not resumed on other data: a checksum, or a name with a version.
    ///
    /// Nothing by default. Then a resumed run cannot compare its data, and says so.
    fn fingerprint(&self) -> Option<String> {
        None
    }
}

/// The same data set, in several places.
impl<D: Data + ?Sized> Data for Arc<D> {
    type Batch = D::Batch;

    fn len(&self) -> usize {
        (**self).len()
    }

    fn batch(&self, indices: &[usize], iteration: u64) -> Result<D::Batch> {
        (**self).batch(indices, iteration)
    }

    fn announce(&self, indices: &[usize], iteration: u64) {
        (**self).announce(indices, iteration);
    }

    fn fingerprint(&self) -> Option<String> {
        (**self).fingerprint()
    }
}

/// A data set that is a function: see [`from_fn`].
#[derive(Debug, Clone)]
pub struct FromFn<F> {
    len: usize,
    batch: F,
    fingerprint: Option<String>,
}

/// Makes a data set of so many examples from a function of their indices and of the iteration.
///
/// ```
/// use earlystop::data::{Data, from_fn};
///
/// let squares = from_fn(100, |indices, _iteration| Ok(indices.iter().map(|i| i * i).collect::<Vec<_>>()))
///     .with_fingerprint("the squares below 10,000");
/// assert_eq!(squares.batch(&[3, 1], 1)?, [9, 1]);
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn from_fn<B, F: Fn(&[usize], u64) -> Result<B>>(len: usize, batch: F) -> FromFn<F> {
    FromFn { len, batch, fingerprint: None }
}

impl<F> FromFn<F> {
    /// Sets what identifies the examples, see [`Data::fingerprint`].
    pub fn with_fingerprint(self, fingerprint: impl Into<String>) -> Self {
        Self { fingerprint: Some(fingerprint.into()), ..self }
    }
}

impl<B, F: Fn(&[usize], u64) -> Result<B>> Data for FromFn<F> {
    type Batch = B;

    fn len(&self) -> usize {
        self.len
    }

    fn batch(&self, indices: &[usize], iteration: u64) -> Result<B> {
        (self.batch)(indices, iteration)
    }

    fn fingerprint(&self) -> Option<String> {
        self.fingerprint.clone()
    }
}
