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
use earlystop::trainer::{BatchIter, Model, SavePolicy, Scores};
use earlystop::{Loss, Optimizer, Trainer};
use serde::Serialize;

use crate::Result;
use crate::markdown::{Section, digits, spread_of_ratios, table};
use crate::statistics::{median, ratios};

/// Bytes of the states, and rounds: the tutorial's state first.
const SIZES: [(u64, u64); 3] = [(2_900_000, 41), (100_000_000, 21), (1_000_000_000, 11)];
const TENSORS: i64 = 64;
/// Rounds that are not counted: the first saves take the lock, and allocate what the others use again.
const WARM_UP: usize = 2;

/// Seconds of each round that a training waits for a save of one size.
#[derive(Debug, Serialize)]
pub(crate) struct Wait {
    pub(crate) bytes: u64,
    pub(crate) foreground: Vec<f64>,
    pub(crate) background: Vec<f64>,
    /// The time to copy as many bytes.
    pub(crate) memcpy: Vec<f64>,
}

/// A model with many frozen values and a step that computes almost nothing, so that the time between two steps is that of a save, or
/// of an evaluation without one.
struct Still {
    variables: nn::VarStore,
    trained: Tensor,
    evaluated: Cell<Option<Instant>>,
    /// How long a step rests: long enough for a save in the background to end.
    rest: Duration,
    buffers: RefCell<Buffers>,
    rounds: RefCell<Rounds>,
}

/// As many bytes as the state has, twice.
struct Buffers {
    from: Vec<u8>,
    to: Vec<u8>,
}

/// Seconds of each round.
#[derive(Default)]
struct Rounds {
    /// From an evaluation with a save to the next step.
    saved: Vec<f64>,
    /// From an evaluation without a save to the next step, such as for the check that all values are finite.
    unsaved: Vec<f64>,
    memcpy: Vec<f64>,
}

impl Still {
    fn new(bytes: u64, rest: Duration) -> Self {
        let variables = nn::VarStore::new(Device::Cpu);
        let root = variables.root();
        for index in 0..TENSORS {
            let _ = root.ones_no_train(&format!("t{index}"), &[bytes as i64 / 4 / TENSORS]);
        }
        let trained = root.zeros("trained", &[1]);
        let buffers = RefCell::new(Buffers { from: vec![1; bytes as usize], to: vec![0; bytes as usize] });
        Self { variables, trained, evaluated: Cell::new(None), rest, buffers, rounds: RefCell::default() }
    }
}

impl Buffers {
    /// Returns the seconds to copy bytes that were just read, as the values of a state are.
    fn copy(&mut self) -> f64 {
        black_box(self.from.iter().step_by(64).map(|&byte| u64::from(byte)).sum::<u64>());
        let start = Instant::now();
        self.to.copy_from_slice(black_box(&self.from));
        black_box(&mut self.to);
        start.elapsed().as_secs_f64()
    }
}

impl Model for Still {
    type Batch = [Tensor; 1];

    fn variables(&self) -> &dyn Trainable {
        &self.variables
    }

    fn loss(&self, [batch]: &Self::Batch, iteration: u64) -> earlystop::Result<Loss> {
        if let Some(evaluated) = self.evaluated.take() {
            let pause = evaluated.elapsed().as_secs_f64();
            let mut rounds = self.rounds.borrow_mut();
            thread::sleep(self.rest);
            if is_saved(iteration - 1) {
                rounds.saved.push(pause);
            } else {
                rounds.unsaved.push(pause);
                rounds.memcpy.push(self.buffers.borrow_mut().copy());
                thread::sleep(self.rest);
            }
        }
        Ok((&self.trained * batch).sum(Kind::Float).into())
    }

    fn evaluate(&self, _batches: BatchIter<Self::Batch>) -> earlystop::Result<Scores> {
        self.evaluated.set(Some(Instant::now()));
        Ok(Scores::from([("loss", 0.0)]))
    }
}

/// Says whether the state is saved after an iteration.
fn is_saved(iteration: u64) -> bool {
    iteration.is_multiple_of(2)
}

/// Measures all sizes.
pub(crate) fn run(out: &Path, quick: bool) -> Result<Vec<Wait>> {
    let sizes = if quick { vec![(1_000_000, 3)] } else { SIZES.to_vec() };
    let folder = out.join("waiting");
    let waits = sizes.into_iter().map(|(bytes, rounds)| {
        eprintln!("Background: {} MB", bytes / 1_000_000);
        let (foreground, _) = measure(&folder, bytes, rounds, false, Duration::ZERO)?;
        // Twice as long as a save that has the disk for itself; noise may exceed a short save.
        let rest = Duration::from_secs_f64(2.0 * median(&foreground).max(0.0) + 0.01);
        let (background, memcpy) = measure(&folder, bytes, rounds, true, rest)?;
        Ok(Wait { bytes, foreground, background, memcpy })
    });
    waits.collect()
}

/// Returns how much longer an evaluation with a save takes until the next step than the one without that follows it, and how long a
/// copy takes after that, in seconds of each round. Memory that was idle may be slower, especially on virtual machines: all three are
/// measured after the same rest.
fn measure(
    folder: &Path,
    bytes: u64,
    rounds: u64,
    in_background: bool,
    rest: Duration,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let model = Still::new(bytes, rest);
    let optimizer = Optimizer::sgd(&model.variables, 1e-3)?;
    let data = || TensorData::new([Tensor::ones([1], (Kind::Float, Device::Cpu))]);
    let _ = std::fs::remove_dir_all(folder);
    let mut trainer = Trainer::for_model(model, optimizer, data()?, data()?)
        .batch_size(1)
        .evaluate_every(1)
        .stop_when(Rule::never())
        .keep_best_in_memory(false)
        .checkpoints(folder)
        .save_policy(SavePolicy::EveryIterations(2))
        .keep(Keep::last(1))
        .save_in_background(in_background)
        .build()?;
    // The step after iteration 1 ends an evaluation without a save, the last one is not followed by a step.
    trainer.optimize(2 * (WARM_UP as u64 + rounds) + 2, |_| ())?;
    let Rounds { saved, unsaved, memcpy } = trainer.model().rounds.take();
    drop(trainer);
    std::fs::remove_dir_all(folder)?;
    let waits = saved.iter().zip(&unsaved[1..]).map(|(saved, unsaved)| saved - unsaved);
    Ok((waits.skip(WARM_UP).collect(), memcpy[1 + WARM_UP..].to_vec()))
}

/// Writes the section about all sizes.
pub(crate) fn section(waits: &[Wait]) -> Section {
    let about = "Milliseconds that a training waits for a save: for all of it, or with `save_in_background` for the copy of its state, \
                 which is compared with copying as many bytes. In each round a step with a save, one without, and a copy follow one \
                 another, each after a rest in which the save can end; the table has medians of the rounds, and the ratio its least \
                 and its most. The first size is about that of the tutorial's state.";
    let cells = |wait: &Wait| {
        let times = [&wait.foreground, &wait.background, &wait.memcpy].map(|seconds| digits(1e3 * median(seconds)));
        let ratio = spread_of_ratios(&ratios(&wait.background, &wait.memcpy));
        [vec![format!("{} MB", digits(wait.bytes as f64 / 1e6))], times.to_vec(), vec![ratio]].concat()
    };
    let head = ["state", "foreground, ms", "background, ms", "memcpy, ms", "background / memcpy"];
    Section { title: "Saving in the background", about: about.to_owned(), table: table(&head, waits.iter().map(cells)) }
}
