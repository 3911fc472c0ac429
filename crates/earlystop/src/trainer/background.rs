//! Saves in another thread, one save at a time.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};

use super::save::{Folder, Job, Outcome};
use crate::error::Result;

/// A save that has ended.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) folder: Folder,
    pub(super) job: Job,
    pub(super) outcome: Result<Outcome>,
}

/// A thread that saves.
#[derive(Debug)]
pub(super) struct Background {
    to_do: Option<SyncSender<(Folder, Job)>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
    is_busy: bool,
}

impl Background {
    /// Starts the thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let (to_do, jobs) = sync_channel::<(Folder, Job)>(1);
        let (finished, done) = sync_channel(1);
        let thread = thread::Builder::new().name("earlystop-save".to_owned()).spawn(move || {
            for (mut folder, mut job) in jobs {
                let outcome = job.perform(&mut folder);
                if finished.send(Done { folder, job, outcome }).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { to_do: Some(to_do), done, thread: Some(thread), is_busy: false })
    }

    /// Returns whether a save is going on or its end was not collected.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Begins a save; the one before must have been collected. Gives back what a thread that has ended cannot take.
    pub(super) fn begin(&mut self, folder: Folder, job: Job) -> Result<(), Box<(Folder, Job)>> {
        let Some(to_do) = &self.to_do else { return Err(Box::new((folder, job))) };
        to_do.send((folder, job)).map_err(|refused| Box::new(refused.0))?;
        self.is_busy = true;
        Ok(())
    }

    /// Returns the save that has ended; waits for its end if `waits`.
    pub(super) fn collect(&mut self, waits: bool) -> Option<Done> {
        if !self.is_busy {
            return None;
        }
        let done = if waits { self.done.recv().map_err(TryRecvError::from) } else { self.done.try_recv() };
        match done {
            Ok(done) => {
                self.is_busy = false;
                Some(done)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.is_busy = false;
                match self.thread.take().map(JoinHandle::join) {
                    Some(Err(panic)) => resume_unwind(panic),
                    _ => None,
                }
            }
        }
    }
}

/// Waits for the save that is going on.
impl Drop for Background {
    fn drop(&mut self) {
        self.to_do = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use ndarray::{Array1, Array3};
    use tch::{Device, Kind, Tensor, nn};

    use crate::checkpoint::{Keep, Store};
    use crate::data::TensorData;
    use crate::optimizer::Trainable;
    use crate::trainer::{BatchIter, Model, Scores, Trainer};
    use crate::{Examples, Loss, Network, Optimizer, Result};

    fn trainer(layers: &[i64], folder: &std::path::Path, in_background: bool) -> Trainer {
        let examples =
            Examples::new(Array3::zeros((64, 28, 28)), Array1::from_shape_fn(64, |i| (i % 10) as u8)).unwrap();
        let start = Network::builder([28, 28, 1]).flatten();
        let names = ["layer_fc1", "layer_fc2"].iter().zip(layers);
        let network = names.fold(start, |network, (name, &size)| network.fully_connected(size as usize, name));
        let network = network.softmax_classifier(10).build(Device::Cpu).unwrap();
        let optimizer = Optimizer::adam(&network, 1e-4).unwrap();
        let trainer = Trainer::builder(network, optimizer, &examples, &examples);
        trainer.checkpoints(folder).save_in_background(in_background).build().unwrap()
    }

    /// A model that gets better with each evaluation.
    struct Improving {
        variables: nn::VarStore,
        weight: Tensor,
        evaluations: Cell<i64>,
    }

    impl Model for Improving {
        type Batch = [Tensor; 1];

        fn variables(&self) -> &dyn Trainable {
            &self.variables
        }

        fn loss(&self, [batch]: &Self::Batch, _iteration: u64) -> Result<Loss> {
            Ok((&self.weight * batch).sum(Kind::Float).into())
        }

        fn evaluate(&self, _batches: BatchIter<Self::Batch>) -> Result<Scores> {
            self.evaluations.set(self.evaluations.get() + 1);
            Ok(Scores::from([("loss", -self.evaluations.get() as f64)]))
        }
    }

    /// Allocating the memory for a copy takes at least as long as copying.
    #[test]
    fn the_memory_of_a_copy_is_used_again() {
        for is_best_in_memory in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let variables = nn::VarStore::new(Device::Cpu);
            let weight = variables.root().zeros("weight", &[3]);
            let optimizer = Optimizer::sgd(&variables, 1e-3).unwrap();
            let model = Improving { variables, weight, evaluations: Cell::new(0) };
            let data = || TensorData::new([Tensor::ones([1], (Kind::Float, Device::Cpu))]).unwrap();
            let trainer = Trainer::for_model(model, optimizer, data(), data()).batch_size(1).evaluate_every(1);
            let trainer = trainer.patience(10).checkpoints(folder.path()).keep(Keep::last(1));
            let trainer = trainer.keep_best_in_memory(is_best_in_memory).save_in_background(true);
            let mut trainer = trainer.build().unwrap();
            let mut places = BTreeSet::new();
            for _ in 0..6 {
                trainer.optimize(1, |_| ()).unwrap();
                let spare = trainer.commits.spare.iter().flatten();
                places.extend(spare.map(|copy| copy.tensor().unwrap().data_ptr() as usize));
            }
            // The best one is in one copy, and in turn the other.
            let copies = if is_best_in_memory { 2 } else { 1 };
            let tensors = trainer.tensors().unwrap().len();
            assert_eq!(places.len(), copies * tensors, "the best in memory: {is_best_in_memory}");
        }
    }

    fn median(mut times: Vec<Duration>) -> f64 {
        times.sort();
        1e3 * times[times.len() / 2].as_secs_f64()
    }

    /// `cargo test --release --lib the_training_waits -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures how long a training waits for a save"]
    fn the_training_waits_for_a_copy_of_its_state() {
        for (layers, saves) in [(&[287][..], 101), (&[2000, 3200], 21), (&[8000, 9600], 9)] {
            let mut waits = Vec::new();
            let mut bytes = 0;
            for in_background in [false, true] {
                let folder = tempfile::tempdir().unwrap();
                let mut trainer = trainer(layers, folder.path(), in_background);
                bytes =
                    trainer.tensors().unwrap().iter().map(|named| named.tensor().unwrap().numel() * 4).sum::<usize>();
                trainer.take_folder(&mut |_| None).unwrap();
                let times = (0..saves).map(|_| {
                    let start = Instant::now();
                    trainer.commit(None, &mut |_| None).unwrap();
                    let waited = start.elapsed();
                    trainer.collect(true, &mut |_| None).unwrap();
                    (waited, start.elapsed())
                });
                let (waited, whole): (Vec<_>, Vec<_>) = times.skip(1).unzip();
                waits.push((median(waited), median(whole)));
                assert!(Store::open(folder.path()).unwrap().latest_valid().unwrap().saved.is_some());
            }
            let (from, mut to) = (vec![1u8; bytes], vec![0u8; bytes]);
            let copies = (0..saves).map(|_| {
                let start = Instant::now();
                to.copy_from_slice(std::hint::black_box(&from));
                std::hint::black_box(&mut to);
                start.elapsed()
            });
            let memcpy = median(copies.skip(1).collect());
            println!(
                "{:.1} MB: the training waits {:.2} ms, in the background {:.2} ms of {:.2} ms; a memcpy takes {memcpy:.2} ms",
                bytes as f64 / 1e6,
                waits[0].0,
                waits[1].0,
                waits[1].1
            );
        }
    }
}
