//! Makes the next batches on another thread.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::Data;
use crate::error::{Error, Result};

/// A data set whose batches are made on another thread while the model trains on the one before.
///
/// The batches are the same as without it, to the bit. Errors arrive where the batch is used. A trainer announces the batch of
/// its next iteration; batches that were not announced, as in an evaluation, are made when they are asked for.
///
/// Pays where making a batch takes long: reading and decoding files, augmentation. The thread takes a core while it works.
///
/// ```
/// use earlystop::data::{Data, Prefetch, from_fn};
///
/// let squares = Prefetch::new(from_fn(100, |indices, _iteration| Ok(indices.iter().map(|i| i * i).collect::<Vec<_>>())));
/// squares.announce(&[3, 1], 1);
/// assert_eq!(squares.batch(&[3, 1], 1)?, [9, 1]);
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug)]
pub struct Prefetch<D: Data> {
    data: Arc<D>,
    thread: Mutex<Option<Ahead<D::Batch>>>,
}

/// What identifies a batch: its indices and its iteration.
type Key = (Vec<usize>, u64);

/// The thread, as seen from outside.
#[derive(Debug)]
struct Ahead<B> {
    requests: Sender<Key>,
    ready: Receiver<Result<B>>,
    announced: Vec<Key>,
}

impl<D: Data + Send + Sync + 'static> Prefetch<D>
where
    D::Batch: Send,
{
    /// Wraps a data set.
    pub fn new(data: D) -> Self {
        let data = Arc::new(data);
        let (requests, to_do) = channel::<Key>();
        let (done, ready) = channel();
        let worker = data.clone();
        let work = move || {
            for (indices, iteration) in to_do {
                if done.send(worker.batch(&indices, iteration)).is_err() {
                    return; // nobody waits for it any more
                }
            }
        };
        // Without a thread, batches are made when they are asked for.
        let thread = thread::Builder::new().name("earlystop-data".to_owned()).spawn(work);
        let thread = thread.ok().map(|_| Ahead { requests, ready, announced: Vec::new() });
        Self { data, thread: Mutex::new(thread) }
    }
}

impl<D: Data> Data for Prefetch<D> {
    type Batch = D::Batch;

    fn len(&self) -> usize {
        self.data.len()
    }

    fn batch(&self, indices: &[usize], iteration: u64) -> Result<D::Batch> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ahead) = thread.as_mut() else { return self.data.batch(indices, iteration) };
        let is_asked_for = |(announced, of): &Key| announced == indices && *of == iteration;
        let Some(position) = ahead.announced.iter().position(is_asked_for) else {
            return self.data.batch(indices, iteration);
        };
        let mut batch = None;
        // Those before it were announced and never used: a training that was stopped there.
        for _ in ahead.announced.drain(..=position) {
            batch = ahead.ready.recv().ok();
        }
        batch.unwrap_or_else(|| {
            *thread = None;
            Err(Error::other("the thread that makes batches has panicked: see its message above"))
        })
    }

    fn announce(&self, indices: &[usize], iteration: u64) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ahead) = thread.as_mut() {
            let key = (indices.to_vec(), iteration);
            if !ahead.announced.contains(&key) && ahead.requests.send(key.clone()).is_ok() {
                ahead.announced.push(key);
            }
        }
    }

    fn fingerprint(&self) -> Option<String> {
        self.data.fingerprint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::data::from_fn;

    /// A data set that counts how often it makes a batch.
    fn counting() -> (Arc<AtomicUsize>, impl Data<Batch = Vec<u64>> + Send + Sync) {
        let made = Arc::new(AtomicUsize::new(0));
        let counter = made.clone();
        let data = from_fn(10, move |indices, iteration| {
            counter.fetch_add(1, Ordering::SeqCst);
            if indices.contains(&9) {
                return Err(Error::other("example 9 is unreadable"));
            }
            assert!(!indices.contains(&8), "this one panics, as it should");
            Ok(indices.iter().map(|&index| index as u64 + 100 * iteration).collect())
        });
        (made, data)
    }

    #[test]
    fn batches_are_the_same_announced_or_not() {
        let (made, data) = counting();
        let data = Prefetch::new(data);
        for iteration in 1..50 {
            data.announce(&[2, 1], iteration + 1);
            data.announce(&[2, 1], iteration + 1); // once is enough
            assert_eq!(data.batch(&[2, 1], iteration).unwrap(), [2 + 100 * iteration, 1 + 100 * iteration]);
            assert_eq!(data.batch(&[4], 0).unwrap(), [4]); // an evaluation
        }
        assert_eq!(data.batch(&[2, 1], 50).unwrap(), [5002, 5001]);
        assert_eq!(made.load(Ordering::SeqCst), 50 + 49);
    }

    #[test]
    fn what_was_announced_and_not_used_is_passed_over() {
        let data = Prefetch::new(counting().1);
        for iteration in 1..5 {
            data.announce(&[1], iteration);
        }
        assert_eq!(data.batch(&[1], 3).unwrap(), [301]);
        assert_eq!(data.batch(&[1], 1).unwrap(), [101]);
        assert_eq!(data.batch(&[1], 4).unwrap(), [401]);
    }

    #[test]
    fn errors_and_panics_arrive_where_the_batch_is_used() {
        let data = Prefetch::new(counting().1);
        data.announce(&[9], 1);
        data.announce(&[1], 2);
        assert_eq!(data.batch(&[9], 1).unwrap_err().to_string(), "example 9 is unreadable");
        assert_eq!(data.batch(&[1], 2).unwrap(), [201]);
        data.announce(&[8], 3);
        assert!(data.batch(&[8], 3).unwrap_err().to_string().contains("has panicked"));
        assert_eq!(data.batch(&[1], 4).unwrap(), [401]);
    }
}
