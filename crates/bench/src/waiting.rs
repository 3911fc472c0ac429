//! How long a training waits for a save, in the foreground and in the background.

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use earlystop::checkpoint::Keep;
use earlystop::data::TensorData;
use earlystop::early_stopping::Rule;
use earlystop::optimizer::Trainable;
use earlystop::tch::{Device, Kind, Tensor, nn};
use earlystop::trainer::{BatchIter, Model, Scores};
use earlystop::{Loss, Optimizer, Trainer};
use serde::Serialize;

use crate::Result;
use crate::markdown::{Section, digits, table};
use crate::statistics::median;

/// Bytes of the states, and saves: the tutorial's state first.
const SIZES: [(u64, u64); 3] = [(2_900_000, 41), (100_000_000, 15), (1_000_000_000, 7)];
const TENSORS: i64 = 64;

/// Seconds that a training waits for a save of one size.
#[derive(Debug, Serialize)]
pub(crate) struct Wait {
    pub(crate) bytes: u64,
    pub(crate) foreground: f64,
    pub(crate) background: f64,
    /// The time to copy as many bytes.
    pub(crate) memcpy: f64,
}

/// A model with many frozen values and a step that computes almost nothing, so that the time between two steps is that of a save.
struct Still {
    variables: nn::VarStore,
    trained: Tensor,
    evaluated: Cell<Option<Instant>>,
    /// Seconds from the end of each evaluation to the next step.
    pauses: RefCell<Vec<f64>>,
    /// How long a step takes: long enough for a save in the background to end.
    step: Duration,
}

impl Still {
    fn new(bytes: u64, step: Duration) -> Self {
        let variables = nn::VarStore::new(Device::Cpu);
        let root = variables.root();
        for index in 0..TENSORS {
            let _ = root.ones_no_train(&format!("t{index}"), &[bytes as i64 / 4 / TENSORS]);
        }
        let trained = root.zeros("trained", &[1]);
        Self { variables, trained, evaluated: Cell::new(None), pauses: RefCell::default(), step }
    }
}

impl Model for Still {
    type Batch = [Tensor; 1];

    fn variables(&self) -> &dyn Trainable {
        &self.variables
    }

    fn loss(&self, [batch]: &Self::Batch, _iteration: u64) -> earlystop::Result<Loss> {
        if let Some(evaluated) = self.evaluated.take() {
            self.pauses.borrow_mut().push(evaluated.elapsed().as_secs_f64());
            thread::sleep(self.step);
        }
        Ok((&self.trained * batch).sum(Kind::Float).into())
    }

    fn evaluate(&self, _batches: BatchIter<Self::Batch>) -> earlystop::Result<Scores> {
        self.evaluated.set(Some(Instant::now()));
        Ok(Scores::from([("loss", 0.0)]))
    }
}

/// Measures all sizes.
pub(crate) fn run(out: &Path, quick: bool) -> Result<Vec<Wait>> {
    let sizes = if quick { vec![(1_000_000, 3)] } else { SIZES.to_vec() };
    let folder = out.join("waiting");
    let waits = sizes.into_iter().map(|(bytes, saves)| {
        eprintln!("Background: {} MB", bytes / 1_000_000);
        // The time between two steps without a save, such as that of the check that all values are finite.
        let without = pause_between_steps(None, bytes, saves, false, Duration::ZERO)?;
        let foreground = pause_between_steps(Some(&folder), bytes, saves, false, Duration::ZERO)? - without;
        // Twice as long as a save that has the disk for itself.
        let time_to_save = Duration::from_secs_f64(2.0 * foreground.max(0.0) + 0.01); // noise may exceed a short save
        // Memory that was idle for so long may be slower, especially on virtual machines: all three are measured after such a
        // pause.
        let without = pause_between_steps(None, bytes, saves, false, time_to_save)?;
        let background = pause_between_steps(Some(&folder), bytes, saves, true, time_to_save)? - without;
        Ok(Wait { bytes, foreground, background, memcpy: memcpy(bytes, saves, time_to_save) })
    });
    waits.collect()
}

/// Returns the median time from an evaluation to the next step in seconds, with saves into a folder or without.
fn pause_between_steps(
    folder: Option<&Path>,
    bytes: u64,
    saves: u64,
    in_background: bool,
    time_to_save: Duration,
) -> Result<f64> {
    let model = Still::new(bytes, time_to_save);
    let optimizer = Optimizer::sgd(&model.variables, 1e-3)?;
    let data = || TensorData::new([Tensor::ones([1], (Kind::Float, Device::Cpu))]);
    let mut trainer = Trainer::for_model(model, optimizer, data()?, data()?).batch_size(1).evaluate_every(1);
    trainer = trainer.stop_when(Rule::never()).keep_best_in_memory(false);
    if let Some(folder) = folder {
        let _ = std::fs::remove_dir_all(folder);
        trainer = trainer.checkpoints(folder).keep(Keep::last(1)).save_in_background(in_background);
    }
    let mut trainer = trainer.build()?;
    trainer.optimize(saves + 2, |_| ())?;
    // The first saves take the lock, and allocate what the others use again.
    let pause = median(&trainer.model().pauses.borrow()[2..]);
    drop(trainer);
    folder.map_or(Ok(()), std::fs::remove_dir_all)?;
    Ok(pause)
}

/// Returns the median time to copy bytes that were just read, as the values of a state are, after a pause.
fn memcpy(bytes: u64, rounds: u64, pause: Duration) -> f64 {
    let (from, mut to) = (vec![1u8; bytes as usize], vec![0u8; bytes as usize]);
    let copies = (0..rounds).map(|_| {
        thread::sleep(pause);
        black_box(from.iter().step_by(64).map(|&byte| u64::from(byte)).sum::<u64>());
        let start = Instant::now();
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
        start.elapsed().as_secs_f64()
    });
    median(&copies.collect::<Vec<_>>())
}

/// Writes the section about all sizes.
pub(crate) fn section(waits: &[Wait]) -> Section {
    let about = "Milliseconds that a training waits for a save: for all of it, or with `save_in_background` for the copy of its state, \
                 which is compared with copying as many bytes. The first size is about that of the tutorial's state.";
    let cells = |wait: &Wait| {
        let times = [wait.foreground, wait.background, wait.memcpy].map(|seconds| digits(1e3 * seconds));
        let ratio = format!("{:.2}×", wait.background / wait.memcpy);
        [vec![format!("{} MB", digits(wait.bytes as f64 / 1e6))], times.to_vec(), vec![ratio]].concat()
    };
    let head = ["state", "foreground, ms", "background, ms", "memcpy, ms", "background / memcpy"];
    Section { title: "Saving in the background", about: about.to_owned(), table: table(&head, waits.iter().map(cells)) }
}
