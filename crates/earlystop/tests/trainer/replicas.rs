//! Parts of a batch on several threads: the same bits for any number of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use earlystop::early_stopping::{Observation, Rule};
use earlystop::optimizer::Trainable;
use earlystop::trainer::{BatchIter, EvaluateByBatch, Event, Model, Scores, TrainerBuilder};
use earlystop::{Error, Loss, Optimizer, Result, Trainer};
use tch::nn::ModuleT;
use tch::{Reduction, Tensor};

use crate::common;
use crate::model::{Batch, Regression, bits, points};
use crate::threads::with_threads;

/// Nothing goes wrong; an error; a panic: once, in the next loss.
const NOTHING: u64 = 0;
const ERROR: u64 = 1;
const PANIC: u64 = 2;

/// A regression with batch normalization, dropout, a frozen layer, a buffer that counts losses, and one that stays as it is.
struct Own {
    regression: Regression,
    count: Tensor,
    settings: Settings,
}

#[derive(Clone)]
struct Settings {
    dropout: f64,
    is_by_batch: bool,
    fault: Arc<AtomicU64>,
    /// A tensor that the trained model does not have.
    extra: bool,
}

fn settings() -> Settings {
    Settings { dropout: 0.3, is_by_batch: true, fault: Arc::default(), extra: false }
}

impl Own {
    fn new(settings: Settings) -> Self {
        let regression = Regression::new(settings.dropout);
        let root = regression.variables.root();
        let count = root.zeros_no_train("count", &[]);
        let _ = root.ones_no_train("left_alone", &[3]);
        if settings.extra {
            let _ = root.zeros("extra", &[7]);
        }
        Self { regression, count, settings }
    }
}

impl Model for Own {
    type Batch = Batch;

    fn variables(&self) -> &dyn Trainable {
        &self.regression.variables
    }

    fn loss(&self, batch: &Batch, iteration: u64) -> Result<Loss> {
        let _ = tch::no_grad(|| self.count.shallow_clone().f_add_scalar_(1.0))?;
        let loss = self.regression.loss(batch, iteration)?;
        match self.settings.fault.swap(NOTHING, Ordering::Relaxed) {
            ERROR => Err(Error::other("no such luck")),
            PANIC => panic!("a fault of the model"),
            _ => Ok(loss),
        }
    }

    fn evaluate(&self, batches: BatchIter<Batch>) -> Result<Scores> {
        let numbers = batches.map(|batch| self.evaluate_batch(&batch?)).collect::<Result<Vec<_>>>()?;
        self.combine(&numbers)
    }

    fn by_batch(&self) -> Option<&dyn EvaluateByBatch<Batch = Batch>> {
        self.settings.is_by_batch.then_some(self)
    }

    fn evaluation_batch_size(&self) -> usize {
        7
    }

    fn draws_random_numbers(&self) -> bool {
        self.settings.dropout > 0.0
    }
}

impl EvaluateByBatch for Own {
    type Batch = Batch;

    fn evaluate_batch(&self, [x, y]: &Batch) -> Result<Vec<f64>> {
        let found = self.regression.layers.forward_t(x, false);
        Ok(vec![found.f_mse_loss(y, Reduction::Sum)?.double_value(&[]), y.numel() as f64])
    }

    fn combine(&self, batches: &[Vec<f64>]) -> Result<Scores> {
        let sum = |column: usize| batches.iter().map(|numbers| numbers[column]).sum::<f64>();
        Ok(Scores::from([("loss", sum(0) / sum(1))]))
    }
}

/// Batches of 16 in parts of 6, 5 and 5.
fn plain(settings: Settings) -> TrainerBuilder<Own> {
    let model = Own::new(settings);
    let variables = model.regression.variables.variables();
    let _ = variables["norm.bias"].shallow_clone().requires_grad_(false);
    let optimizer = Optimizer::adam_w(&model.regression.variables, 1e-2).unwrap().clip_norm(1.0).unwrap();
    Trainer::for_model(model, optimizer, points(0, 50), points(100, 20))
        .batch_size(16)
        .accumulate(3)
        .evaluate_every(10)
        .stop_when(Rule::never())
        .seed(3)
}

fn builder(settings: &Settings, threads: usize) -> TrainerBuilder<Own> {
    let of_replicas = settings.clone();
    let replica = move || {
        let replica = Own::new(of_replicas.clone());
        for named in replica.variables().tensors() {
            let _ = tch::no_grad(|| named.tensor().map(|mut tensor| tensor.fill_(9.0)))?; // no trainer uses it
        }
        Ok(replica)
    };
    plain(settings.clone()).threads(threads, replica)
}

/// The bits of all tensors, and the evaluations without their times.
fn outcome(trainer: &Trainer<Own>) -> (Vec<u32>, Vec<Observation>) {
    let timeless = |seen: &Observation| Observation { elapsed: None, ..seen.clone() };
    (bits(trainer), trainer.history().iter().map(timeless).collect())
}

fn trained(builder: TrainerBuilder<Own>, iterations: u64) -> Trainer<Own> {
    let mut trainer = builder.build().unwrap();
    trainer.optimize_to(iterations, |_| ()).unwrap();
    trainer
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for (dropout, is_by_batch) in [(0.0, true), (0.3, true), (0.3, false)] {
        let settings = Settings { dropout, is_by_batch, ..settings() };
        // As libtorch alone computes it with one thread.
        let expected = with_threads(1, || outcome(&trained(plain(settings.clone()), 25)));
        assert!(expected.1.windows(2).all(|two| two[0].scores["validation_loss"] != two[1].scores["validation_loss"]));
        for threads in [1, 2, 3, 4, 8] {
            let trainer = trained(builder(&settings, threads), 25);
            assert_eq!(outcome(&trainer), expected, "{threads} threads, dropout {dropout}");
            let variables = trainer.model().regression.variables.variables();
            assert_eq!(variables["count"].double_value(&[]), 25.0, "each step counts once");
            let scores = trainer.evaluate(&points(100, 20)).unwrap();
            assert_eq!(scores.get("loss"), expected.1.last().map(|seen| seen.scores["validation_loss"]));
        }
    }
}

#[test]
fn a_run_resumes_on_another_number_of_threads_without_a_note() {
    let settings = settings();
    let straight = outcome(&trained(builder(&settings, 3), 33));
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |builder: TrainerBuilder<Own>| builder.checkpoints(folder.path());
    drop(trained(in_folder(builder(&settings, 2)), 20));
    let resume = |builder, libtorchs| {
        let mut found = Vec::new();
        let trainer = with_threads(libtorchs, || {
            let mut trainer = in_folder(builder).build().unwrap();
            let resumed = trainer.resume(|event| match event {
                Event::Resumed { notes, .. } => found.clone_from(notes),
                event => panic!("{event}"),
            });
            assert!(resumed.unwrap());
            outcome(&{
                trainer.optimize_to(33, |_| ()).unwrap();
                trainer
            })
        });
        (trainer, found)
    };
    assert_eq!(resume(builder(&settings, 4), 2), (straight, Vec::new()));
    let (_, notes) = resume(plain(settings), 2);
    assert_eq!(notes, ["threads: 1 in the checkpoint, 2 now"]);
}

#[test]
fn an_error_or_a_panic_of_one_part_loses_nothing() {
    let settings = Settings { dropout: 0.0, ..settings() };
    let straight = outcome(&trained(builder(&settings, 2), 25));
    for threads in [1, 2, 5] {
        let mut trainer = trained(builder(&settings, threads), 13);
        settings.fault.store(ERROR, Ordering::Relaxed);
        let error = trainer.optimize_to(25, |_| ()).unwrap_err();
        assert_eq!((error.to_string().as_str(), trainer.iteration()), ("no such luck", 13));
        settings.fault.store(PANIC, Ordering::Relaxed);
        let panic = catch_unwind(AssertUnwindSafe(|| trainer.optimize_to(25, |_| ()))).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"a fault of the model"));
        trainer.optimize_to(25, |_| ()).unwrap();
        assert_eq!(outcome(&trainer).0, straight.0, "{threads} threads");
    }
}

#[test]
fn a_replica_of_another_model_is_refused() {
    let refused = |builder: TrainerBuilder<Own>| builder.build().unwrap_err().to_string();
    let of_replicas = Settings { extra: true, ..settings() };
    assert_eq!(
        refused(plain(settings()).threads(2, move || Ok(Own::new(of_replicas.clone())))),
        "replica of the model: expected \"layer1.bias\" of Float and shape [8], found \"extra\" of Float and shape [7]"
    );
    let no_replica = || Err(Error::other("no memory for it"));
    assert_eq!(refused(plain(settings()).threads(2, no_replica)), "no memory for it");
    assert_eq!(refused(builder(&settings(), 0)), "number of threads: expected at least 1, found 0");
    // Where they are not needed, none is made.
    trained(plain(settings()).threads(1, no_replica), 2);
}

/// It has threads of its own, so that this gains nothing; nor may it change anything.
#[test]
fn a_network_with_replicas_has_the_bits_of_one_without() {
    let parts = || common::builder().accumulate(4).stop_when(Rule::never());
    let mut alone = parts().build().unwrap();
    alone.optimize(25, |_| ()).unwrap();
    for threads in [1, 3] {
        let mut trainer = parts().threads(threads, || Ok(common::network())).build().unwrap();
        trainer.optimize(25, |_| ()).unwrap();
        assert_eq!(common::bits(trainer.network()), common::bits(alone.network()));
        assert_eq!(common::history(&trainer), common::history(&alone));
    }
}
