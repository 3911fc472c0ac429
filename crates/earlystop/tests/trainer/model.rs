//! Models, data and scores of one's own in a trainer.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use earlystop::checkpoint::Metadata;
use earlystop::data::Order;
use earlystop::data::{Data, FromFn, Prefetch, TensorData, from_fn};
use earlystop::early_stopping::{Decision, Metric, Observation, OwnRule, Patience, Plateau, Rule, StopKind, replay};
use earlystop::optimizer::Trainable;
use earlystop::trainer::{BatchIter, Event, Model, Resume, Scores, TrainerBuilder, verify_resume};
use earlystop::{Error, Loss, Optimizer, Result, Trainer};
use tch::nn::ModuleT;
use tch::{Device, Kind, Reduction, Tensor, nn};

use crate::process::passes;
use crate::threads::with_threads;

/// Tells the test program, started again as a child, to disturb libtorch's generators.
const DISTURB: &str = "TRAINER_MODEL_DISTURB";
/// Tells a child how often libtorch's spinning threads are to be reported.
const SPINNING: &str = "TRAINER_MODEL_SPINNING";

pub(crate) type Batch = [Tensor; 2];

/// A regression with batch normalization and libtorch's dropout.
pub(crate) struct Regression {
    pub(crate) variables: nn::VarStore,
    pub(crate) layers: nn::SequentialT,
    dropout: f64,
    /// The name under which the rate of dropout is a setting.
    setting: &'static str,
    /// A score that the model reports besides its error.
    extra: Option<(&'static str, f64)>,
}

impl Regression {
    pub(crate) fn new(dropout: f64) -> Self {
        let variables = nn::VarStore::new(Device::Cpu);
        let root = variables.root();
        let constant =
            nn::LinearConfig { ws_init: nn::Init::Const(0.1), bs_init: Some(nn::Init::Const(0.0)), bias: true };
        let norm = nn::BatchNormConfig { ws_init: nn::Init::Const(1.0), ..Default::default() };
        let layers = nn::seq_t()
            .add(nn::linear(&root / "layer1", 2, 8, constant))
            .add(nn::batch_norm1d(&root / "norm", 8, norm))
            .add_fn_t(move |x, training| x.relu().dropout(dropout, training))
            .add(nn::linear(&root / "layer2", 8, 1, constant));
        for (name, mut variable) in variables.variables() {
            if name == "layer1.weight" {
                tch::no_grad(|| {
                    variable.copy_(&(Tensor::arange(16, (Kind::Float, Device::Cpu)).view([8, 2]) / 16.0 - 0.4))
                });
            }
        }
        Self { variables, layers, dropout, setting: "dropout", extra: None }
    }
}

impl Model for Regression {
    type Batch = Batch;

    fn variables(&self) -> &dyn Trainable {
        &self.variables
    }

    fn loss(&self, [x, y]: &Batch, _iteration: u64) -> Result<Loss> {
        Ok(self.layers.forward_t(x, true).f_mse_loss(y, Reduction::Mean)?.into())
    }

    fn evaluate(&self, batches: BatchIter<Batch>) -> Result<Scores> {
        let (mut squares, mut count) = (0.0, 0);
        for batch in batches {
            let [x, y] = batch?;
            squares += self.layers.forward_t(&x, false).f_mse_loss(&y, Reduction::Sum)?.double_value(&[]);
            count += y.numel();
        }
        let rmse = (squares / count as f64).sqrt();
        Ok(match self.extra {
            Some(extra) => Scores::from([("rmse", rmse), extra]),
            None => Scores::from([("rmse", rmse)]),
        })
    }

    fn metric(&self) -> Metric {
        Metric::lower("validation_rmse")
    }

    fn settings(&self) -> Metadata {
        Metadata::from([(self.setting.to_owned(), self.dropout.to_string())])
    }

    fn evaluation_batch_size(&self) -> usize {
        7
    }
}

pub(crate) fn points(begin: i64, count: i64) -> TensorData<2> {
    let x = Tensor::arange_start(begin, begin + count, (Kind::Float, Device::Cpu));
    let inputs = Tensor::stack(&[x.sin(), (&x * 0.7).cos()], 1);
    TensorData::new([inputs, (x * 0.3).sin().view([-1, 1])]).unwrap()
}

fn with(model: Regression) -> TrainerBuilder<Regression> {
    let optimizer = Optimizer::adam_w(&model.variables, 1e-2).unwrap().clip_norm(1.0).unwrap();
    Trainer::for_model(model, optimizer, points(0, 50), points(100, 20))
        .batch_size(16)
        .evaluate_every(10)
        .stop_when(Rule::never())
        .seed(3)
}

fn builder() -> TrainerBuilder<Regression> {
    with(Regression::new(0.3))
}

pub(crate) fn bits<M: Model>(trainer: &Trainer<M>) -> Vec<u32> {
    let values = |tensor: &Tensor| Vec::<f32>::try_from(tensor.to_kind(Kind::Float).flatten(0, -1)).unwrap();
    let tensors = trainer.model().variables().tensors();
    tensors.iter().flat_map(|named| values(&named.tensor().unwrap())).map(f32::to_bits).collect()
}

fn trained(builder: TrainerBuilder<Regression>, iterations: u64) -> Trainer<Regression> {
    let mut trainer = builder.build().unwrap();
    trainer.optimize_to(iterations, |_| ()).unwrap();
    trainer
}

#[test]
fn every_setting_resumes_bit_for_bit() {
    for order in [Order::ShuffledEpochs, Order::WithReplacement, Order::Sequential] {
        verify_resume(|| builder().order(order).build(), 33, 65).unwrap();
    }
    verify_resume(|| builder().accumulate(3).build(), 37, 65).unwrap();
    verify_resume(|| builder().evaluate_on("other", points(200, 9)).save_in_background(true).build(), 40, 65).unwrap();
}

#[test]
fn random_numbers_are_functions_of_the_seed_and_the_iteration() {
    // libtorch's generators belong to all tests of a program, so the one that disturbs them runs in a child.
    if std::env::var_os(DISTURB).is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "model::random_numbers_are_functions_of_the_seed_and_the_iteration"]);
        return passes(child.env(DISTURB, "1"));
    }
    let straight = bits(&trained(builder(), 30));
    let mut disturbed = builder().build().unwrap();
    for iteration in 1..=30 {
        tch::manual_seed(iteration);
        let _ = Tensor::rand([100], (Kind::Float, Device::Cpu));
        // No evaluations but those of the other run.
        disturbed.optimize_to(iteration as u64, |_| ()).unwrap();
    }
    assert_ne!(bits(&trained(builder().seed(4), 30)), straight);
    // Evaluations at the end of each call draw no numbers that a step would use.
    assert_eq!(bits(&disturbed), straight);
}

#[test]
fn trainers_on_several_threads_do_not_disturb_each_other() {
    let straight = bits(&trained(builder(), 100));
    std::thread::scope(|scope| {
        let threads = [(); 3].map(|()| scope.spawn(|| bits(&trained(builder(), 100))));
        for thread in threads {
            assert_eq!(thread.join().unwrap(), straight);
        }
    });
}

#[test]
fn another_number_of_threads_is_noted_at_a_resume() {
    let folder = tempfile::tempdir().unwrap();
    let notes = |threads| {
        with_threads(threads, || {
            let mut trainer = builder().checkpoints(folder.path()).build().unwrap();
            let mut found = Vec::new();
            let resumed = trainer.resume(|event| match event {
                Event::Resumed { notes, .. } => found.clone_from(notes),
                event => panic!("{event}"),
            });
            resumed.unwrap();
            trainer.optimize(10, |_| ()).unwrap();
            found
        })
    };
    assert_eq!(notes(1), [""; 0]);
    assert_eq!(notes(1), [""; 0]);
    assert_eq!(notes(3), ["threads: 1 in the checkpoint, 3 now"]);
}

#[test]
fn spinning_threads_are_reported_unless_the_environment_forbids_them() {
    if let Ok(expected) = std::env::var(SPINNING) {
        let (mut trainer, mut found) = (builder().build().unwrap(), 0);
        for _ in 0..2 {
            trainer.optimize(1, |event| found += usize::from(matches!(event, Event::SpinningThreads))).unwrap();
        }
        assert_eq!(found.to_string(), expected);
        return;
    }
    let expect = |count: usize, variables: &[(&str, &str)]| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "model::spinning_threads_are_reported_unless_the_environment_forbids_them"]);
        child.env_remove("GOMP_SPINCOUNT").env_remove("OMP_WAIT_POLICY").env_remove("OMP_NUM_THREADS");
        passes(child.envs(variables.iter().copied()).env(SPINNING, count.to_string()));
    };
    let has_threads = std::thread::available_parallelism().unwrap().get() > 1;
    expect(usize::from(cfg!(target_os = "linux") && has_threads), &[]);
    expect(0, &[("GOMP_SPINCOUNT", "1000")]);
    expect(0, &[("OMP_WAIT_POLICY", "passive")]);
    expect(0, &[("OMP_NUM_THREADS", "1")]);
}

#[test]
fn batches_that_are_made_ahead_are_the_same() {
    // A tensor cannot be shared by threads, numbers can.
    let numbers = || {
        from_fn(50, |indices, iteration| {
            let at =
                |i: &usize| [(*i as f32 + iteration as f32).sin(), (*i as f32 * 0.7).cos(), (*i as f32 * 0.3).sin()];
            let table = Tensor::from_slice(&indices.iter().flat_map(at).collect::<Vec<_>>()).view([-1, 3]);
            Ok([table.narrow(1, 0, 2), table.narrow(1, 2, 1)])
        })
        .with_fingerprint("waves")
    };
    let with = |train: Box<dyn FnOnce(Regression, Optimizer) -> TrainerBuilder<Regression>>, parts| {
        let model = Regression::new(0.3);
        let optimizer = Optimizer::sgd(&model.variables, 1e-2).unwrap();
        trained(
            train(model, optimizer).batch_size(16).evaluate_every(10).accumulate(parts).stop_when(Rule::never()),
            45,
        )
    };
    for parts in [1, 3] {
        let plain = with(
            Box::new(move |model, optimizer| Trainer::for_model(model, optimizer, numbers(), points(0, 9))),
            parts,
        );
        let ahead = with(
            Box::new(move |model, optimizer| {
                Trainer::for_model(model, optimizer, Prefetch::new(numbers()), points(0, 9))
            }),
            parts,
        );
        assert_eq!(bits(&ahead), bits(&plain));
    }
}

#[test]
fn parts_of_a_batch_have_the_gradient_of_the_whole() {
    // Without what looks at several examples at once, and without chance.
    struct Linear(nn::VarStore, nn::Linear);
    impl Model for Linear {
        type Batch = Batch;
        fn variables(&self) -> &dyn Trainable {
            &self.0
        }
        fn loss(&self, [x, y]: &Batch, _iteration: u64) -> Result<Loss> {
            Ok(x.linear(&self.1.ws, self.1.bs.as_ref()).f_mse_loss(y, Reduction::Mean)?.into())
        }
        fn evaluate(&self, batches: BatchIter<Batch>) -> Result<Scores> {
            let mut losses = Vec::new();
            for batch in batches {
                losses.push(self.loss(&batch?, 0)?.value());
            }
            Ok(Scores::from([("loss", losses.iter().sum::<f64>() / losses.len() as f64)]))
        }
    }
    let losses = |parts| {
        let variables = nn::VarStore::new(Device::Cpu);
        // Random initial values would disturb the generators of trainers in other tests.
        let zeros = nn::LinearConfig { ws_init: nn::Init::Const(0.0), bs_init: Some(nn::Init::Const(0.0)), bias: true };
        let layer = nn::linear(variables.root(), 2, 1, zeros);
        let optimizer = Optimizer::sgd(&variables, 0.1).unwrap().momentum(0.9).unwrap();
        let mut trainer = Trainer::for_model(Linear(variables, layer), optimizer, points(0, 50), points(60, 20))
            .batch_size(16)
            .evaluate_every(5)
            .accumulate(parts)
            .build()
            .unwrap();
        trainer.optimize_to(50, |_| ()).unwrap();
        let scores =
            trainer.history().iter().flat_map(|seen| [seen.scores["train_loss"], seen.scores["validation_loss"]]);
        scores.collect::<Vec<f64>>()
    };
    let whole = losses(1);
    assert!(whole.windows(3).any(|losses| losses[0] != losses[2]));
    for parts in [2, 5, 16] {
        for (part, whole) in losses(parts).iter().zip(&whole) {
            assert!((part - whole).abs() < 1e-5, "{parts} parts: {part} and {whole}");
        }
    }
}

#[test]
fn the_models_score_decides_and_is_printed() {
    let mut lines = Vec::new();
    let mut trainer = builder().stop_when(Rule::iterations(100)).build().unwrap();
    let evaluations = |event: &Event| {
        if matches!(event, Event::Evaluated { .. }) {
            lines.push(event.to_string());
        }
    };
    let report = trainer.optimize(200, evaluations).unwrap();
    assert!(lines[0].starts_with("Iter:     10, training loss: ") && lines[0].ends_with("improved *"), "{}", lines[0]);
    assert!(lines[0].contains(", training rmse: ") && lines[0].contains(", validation rmse: "), "{}", lines[0]);
    let lowest = trainer.history().iter().map(|seen| seen.scores["validation_rmse"]).fold(f64::INFINITY, f64::min);
    assert_eq!(report.best.unwrap().score, lowest);
    assert!(report.to_string().contains("Best: validation rmse 0."), "{report}");
    assert!(trainer.restore_best().unwrap().is_best());
    let rmse = trainer.evaluate(&points(100, 20)).unwrap().get("rmse").unwrap();
    assert_eq!(rmse, lowest);
}

#[test]
fn a_patience_in_epochs_counts_passes_over_the_data() {
    // 50 examples in batches of 16; nothing but the first evaluation is an improvement.
    let rule = |patience: Patience| builder().stop_when(patience.min_delta(1e9));
    let trainer = trained(rule(Patience::epochs(5)), 100);
    let epochs: Vec<_> = trainer.history().iter().map(|seen| (seen.iteration, seen.epochs)).collect();
    assert_eq!(epochs, [(10, Some(3)), (20, Some(6)), (30, Some(9))]);
    let reason = trainer.report().reason.unwrap().to_string();
    assert!(reason.ends_with(": no improvement for 5 epochs since epoch 3"), "{reason}");
    assert_eq!(trained(rule(Patience::evaluations(3)), 100).iteration(), 40);
    verify_resume(|| rule(Patience::epochs(9)).build(), 33, 100).unwrap();

    // They continue where a run goes on with smaller batches, of which more make an epoch.
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |builder: TrainerBuilder<Regression>| builder.checkpoints(folder.path());
    drop(trained(in_folder(builder()), 20));
    let mut smaller = in_folder(builder().batch_size(8)).build().unwrap();
    smaller.resume_from(Resume::latest().with_new_settings(), |_| ()).unwrap();
    smaller.optimize_to(40, |_| ()).unwrap();
    let epochs: Vec<_> = smaller.history().iter().filter_map(|seen| seen.epochs).collect();
    assert_eq!(epochs, [3, 6, 7, 9]);
}

/// Stops when the monitored score is worse than the one before, so many times in a row.
struct Worsening(u32);

impl OwnRule for Worsening {
    type State = (Option<f64>, u32);

    fn name(&self) -> String {
        format!("worsening({})", self.0)
    }

    fn observe(&self, state: &mut Self::State, seen: &Observation, metric: &Metric) -> Result<Decision> {
        let score = metric.of(seen).ok_or_else(|| Error::other("no score"))?;
        let (before, times) = *state;
        let is_worse =
            before.is_some_and(|before| if metric.lower_is_better() { score > before } else { score < before });
        let times = if is_worse { times + 1 } else { 0 };
        *state = (Some(score), times);
        Ok(Decision { improved: !is_worse, stop: (times >= self.0).then(|| format!("worse {times} times")) })
    }
}

#[test]
fn an_own_rule_resumes_from_its_state() {
    let rule = || Rule::any_of([Rule::own(Worsening(3)).named("mine"), Rule::iterations(900)]);
    let straight = trained(builder().stop_when(rule()), 1000);
    let reason = straight.report().reason.unwrap();
    assert_eq!((reason.kind, &*reason.why), (StopKind::Own, "worse 3 times"));
    let outcome = replay(straight.history(), [rule().on(Metric::lower("validation_rmse"))]).rows.remove(0);
    assert_eq!(outcome.stopped_at, straight.iteration());
    assert_eq!(outcome.kept.map(|kept| kept.iteration), straight.report().best.map(|best| best.iteration));
    for break_at in [1, 10, 33, straight.iteration() - 10, straight.iteration() - 1] {
        verify_resume(|| builder().stop_when(rule()).build(), break_at, 1000).unwrap();
    }

    // A rule of another name is another setting.
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |rule| builder().stop_when(rule).checkpoints(folder.path());
    drop(trained(in_folder(rule()), 20));
    assert!(matches!(resumed(in_folder(Rule::own(Worsening(4))), Resume::latest()), Err(Error::SettingsDiffer { .. })));
    assert_eq!(resumed(in_folder(rule()), Resume::latest()).unwrap(), [""; 0]);
}

#[test]
fn a_score_that_is_not_there_stops_the_run_with_those_that_are() {
    let rule = Patience::new(100).on(Metric::lower("validation_rsme"));
    let reason = trained(builder().stop_when(rule), 100).report().reason.unwrap();
    assert_eq!(reason.kind, StopKind::CannotJudge);
    let expected = "without the validation rsme; known are train_loss, train_rmse, validation_rmse";
    assert!(reason.why.ends_with(expected), "{}", reason.why);
}

#[test]
fn only_the_test_set_decides_nothing() {
    let nan = || Regression { extra: Some(("odd", f64::NAN)), ..Regression::new(0.0) };
    let report = trained(with(nan()), 100).report();
    assert_eq!(report.reason.map(|reason| reason.why).as_deref(), Some("the validation odd is NaN at iteration 10"));

    let on_others = |name: &str| builder().evaluate_on(name, points(300, 20));
    let other = trained(on_others("other").stop_when(Rule::target(9.0).on(Metric::lower("other_rmse"))), 100);
    assert_eq!((other.report().reason.unwrap().kind, other.iteration()), (StopKind::Target, 10));
    assert!(trained(on_others("test"), 20).history()[0].scores.contains_key("test_rmse"));
    for name in ["validation", "train"] {
        let error = on_others(name).build().unwrap_err().to_string();
        assert!(error.starts_with("name of a held-out set: expected one that is not in use"), "{error}");
    }
}

fn resumed(builder: TrainerBuilder<Regression>, resume: Resume) -> Result<Vec<String>> {
    let mut found = Vec::new();
    builder.build()?.resume_from(resume, |event| match event {
        Event::Resumed { notes, .. } => found.clone_from(notes),
        event => panic!("{event}"),
    })?;
    Ok(found)
}

#[test]
fn what_determines_the_results_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |builder: TrainerBuilder<Regression>| builder.checkpoints(folder.path());
    drop(trained(in_folder(builder()), 20));
    assert_eq!(resumed(in_folder(builder()), Resume::latest()).unwrap(), [""; 0]);

    let sgd = || {
        let model = Regression::new(0.3);
        let optimizer = Optimizer::adam_w(&model.variables, 1e-2).unwrap();
        Trainer::for_model(model, optimizer, points(0, 50), points(100, 20)).batch_size(16).evaluate_every(10)
    };
    let cases = [
        (with(Regression::new(0.5)), "dropout: 0.3 in the checkpoint, 0.5 now"),
        (builder().accumulate(2), "parts: 1 in the checkpoint, 2 now"),
        (builder().order(Order::Sequential), r#"order: "shuffled_epochs" in the checkpoint, "sequential" now"#),
        (builder().evaluate_on("more", points(0, 9)), "held_out_data: none in the checkpoint"),
        (sgd().seed(3).stop_when(Rule::never()), "optimizer.clip_norm: 1.0 in the checkpoint, none now"),
    ];
    for (other, expected) in cases {
        let Err(Error::SettingsDiffer { differences, .. }) = resumed(in_folder(other), Resume::latest()) else {
            panic!("{expected}");
        };
        assert!(differences.len() == 1 && differences[0].starts_with(expected), "{differences:?}");
    }
    let accepted = resumed(in_folder(with(Regression::new(0.5))), Resume::latest().with_new_settings()).unwrap();
    assert_eq!(accepted, ["dropout: 0.3 in the checkpoint, 0.5 now"]);
}

#[test]
fn the_learning_rate_falls_on_plateaus_and_resumes_bit_for_bit() {
    let plateau = || Plateau::new(1, 0.5).min_relative_delta(0.02).cooldown(1);
    let with = |plateau| builder().reduce_on_plateau(plateau);
    let mut reduced = Vec::new();
    let mut straight = with(plateau()).build().unwrap();
    straight
        .optimize_to(300, |event| {
            if let Event::LearningRateReduced { iteration, learning_rate } = event {
                reduced.push((*iteration, *learning_rate));
            }
        })
        .unwrap();
    assert!(reduced.len() > 1, "{reduced:?}");
    for (index, &(iteration, learning_rate)) in reduced.iter().enumerate() {
        let seen = &straight.history()[..iteration as usize / 10];
        let factor = plateau().on(Metric::lower("validation_rmse")).rate_factor(seen).unwrap();
        assert_eq!((factor, learning_rate), (0.5f64.powi(index as i32 + 1), 1e-2 * factor));
    }
    assert_eq!(straight.learning_rate(), reduced[reduced.len() - 1].1);
    // The steps are smaller indeed.
    assert_ne!(bits(&straight), bits(&trained(builder(), 300)));

    // Before, at and after a reduction, until its cooldown and between evaluations.
    let (first, _) = reduced[0];
    for break_at in [first - 1, first, first + 3, first + 10, first + 17] {
        verify_resume(|| with(plateau()).build(), break_at, 300).unwrap();
    }

    let folder = tempfile::tempdir().unwrap();
    let in_folder = |builder: TrainerBuilder<Regression>| builder.checkpoints(folder.path());
    drop(trained(in_folder(with(plateau())), first + 20));
    for (other, expected) in [
        (builder(), "reduce_on_plateau: {"),
        (with(plateau().cooldown(2)), "reduce_on_plateau.cooldown: 1 in the checkpoint, 2 now"),
    ] {
        let Err(Error::SettingsDiffer { differences, .. }) = resumed(in_folder(other), Resume::latest()) else {
            panic!("{expected}");
        };
        assert!(differences.len() == 1 && differences[0].starts_with(expected), "{differences:?}");
    }
    // Other settings take in the history from its start.
    let new = || Plateau::new(0, 0.25).on(Metric::lower("validation_rmse"));
    let mut trainer = in_folder(with(new())).build().unwrap();
    trainer.resume_from(Resume::latest().with_new_settings(), |_| ()).unwrap();
    assert_eq!(trainer.learning_rate(), 1e-2 * new().rate_factor(trainer.history()).unwrap());
}

#[test]
fn a_plateau_of_a_score_that_is_not_there_says_which_there_are() {
    let mut trainer = builder().reduce_on_plateau(Plateau::new(5, 0.1).on(Metric::lower("rsme"))).build().unwrap();
    let error = trainer.optimize(20, |_| ()).unwrap_err().to_string();
    let expected =
        "score of the plateau at iteration 10: expected rsme, found only train_loss, train_rmse, validation_rmse";
    assert_eq!(error, expected);
    let error = builder().reduce_on_plateau(Plateau::new(5, 10.0)).build().unwrap_err().to_string();
    assert_eq!(error, "plateau, factor: expected more than 0 and less than 1, found 10");
}

type Points = FromFn<Box<dyn Fn(&[usize], u64) -> Result<Batch> + Send>>;

/// The points without a fingerprint. The batch of the iteration `unreadable` fails.
fn without_fingerprint(unreadable: u64) -> Points {
    let points = points(0, 50);
    from_fn(
        50,
        Box::new(move |indices, iteration| {
            if iteration == unreadable {
                return Err(Error::other("photograph 17 is unreadable"));
            }
            points.batch(indices, iteration)
        }),
    )
}

fn on(train: Points, folder: &std::path::Path) -> Trainer<Regression> {
    let model = Regression::new(0.3);
    let optimizer = Optimizer::adam_w(&model.variables, 1e-2).unwrap().clip_norm(1.0).unwrap();
    let builder = Trainer::for_model(model, optimizer, train, without_fingerprint(u64::MAX));
    builder.batch_size(16).evaluate_every(10).stop_when(Rule::never()).seed(3).checkpoints(folder).build().unwrap()
}

#[test]
fn an_error_of_the_data_ends_the_call_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = on(without_fingerprint(25), folder.path());
    assert_eq!(trainer.optimize(50, |_| ()).unwrap_err().to_string(), "photograph 17 is unreadable");
    assert_eq!(trainer.iteration(), 24);
    drop(trainer);
    let mut trainer = on(without_fingerprint(u64::MAX), folder.path());
    let mut lines = Vec::new();
    assert!(trainer.resume(|event| lines.push(event.to_string())).unwrap());
    assert_eq!(trainer.iteration(), 20);
    for set in ["training", "validation"] {
        let note = format!("{set}_data: has no fingerprint, so not compared");
        assert!(lines[0].contains(&note), "{lines:?}");
    }
    trainer.optimize_to(50, |_| ()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut straight = on(without_fingerprint(u64::MAX), elsewhere.path());
    straight.optimize_to(50, |_| ()).unwrap();
    assert_eq!(bits(&trainer), bits(&straight));
}

#[test]
fn an_evaluation_that_has_failed_is_made_up_for() {
    let in_turn = |fails: [bool; 3]| {
        let calls = AtomicUsize::new(0);
        let set = points(100, 20);
        // One batch is asked for at each evaluation and its repetition: 20 examples in batches of 20.
        from_fn(20, move |indices, iteration| match fails.get(calls.fetch_add(1, Ordering::SeqCst)) {
            Some(true) => Err(Error::other("the network drive is away")),
            _ => set.batch(indices, iteration),
        })
    };
    let new = |fails| {
        let model = Large(Regression::new(0.3));
        let optimizer = Optimizer::adam_w(&model.0.variables, 1e-2).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let builder = Trainer::for_model(model, optimizer, points(0, 50), in_turn(fails)).batch_size(16);
        let builder = builder.evaluate_every(10).accumulate(2).stop_when(Rule::never());
        (builder.checkpoints(folder.path()).build().unwrap(), folder)
    };
    let (mut straight, _folder) = new([false; 3]);
    straight.optimize_to(35, |_| ()).unwrap();
    let (mut failing, _other) = new([false, true, true]);
    for _ in 0..2 {
        assert_eq!(failing.optimize_to(35, |_| ()).unwrap_err().to_string(), "the network drive is away");
        assert_eq!((failing.iteration(), failing.history().len()), (20, 1));
    }
    failing.optimize_to(35, |_| ()).unwrap();
    assert_eq!(bits(&failing), bits(&straight));
    let scores =
        |trainer: &Trainer<Large>| trainer.history().iter().map(|seen| seen.scores.clone()).collect::<Vec<_>>();
    assert_eq!(scores(&failing), scores(&straight));
    assert_eq!(scores(&failing).len(), 4);
}

/// Evaluates in larger batches.
struct Large(Regression);

impl Model for Large {
    type Batch = Batch;

    fn variables(&self) -> &dyn Trainable {
        self.0.variables()
    }

    fn loss(&self, batch: &Batch, iteration: u64) -> Result<Loss> {
        self.0.loss(batch, iteration)
    }

    fn evaluate(&self, batches: BatchIter<Batch>) -> Result<Scores> {
        self.0.evaluate(batches)
    }

    fn metric(&self) -> Metric {
        self.0.metric()
    }

    fn evaluation_batch_size(&self) -> usize {
        20
    }
}

#[test]
fn what_a_resume_could_not_restore_is_found() {
    /// Adds a number that is no part of the state.
    struct Forgetful(Regression, std::cell::Cell<f64>);
    impl Model for Forgetful {
        type Batch = Batch;
        fn variables(&self) -> &dyn Trainable {
            self.0.variables()
        }
        fn loss(&self, batch: &Batch, iteration: u64) -> Result<Loss> {
            self.1.set(self.1.get() + 0.01);
            Ok(self.0.loss(batch, iteration)? * self.1.get())
        }
        fn evaluate(&self, batches: BatchIter<Batch>) -> Result<Scores> {
            self.0.evaluate(batches)
        }
        fn metric(&self) -> Metric {
            self.0.metric()
        }
    }
    let new = || {
        let model = Regression::new(0.0);
        let optimizer = Optimizer::sgd(&model.variables, 1e-2)?;
        let model = Forgetful(model, std::cell::Cell::new(0.0));
        Trainer::for_model(model, optimizer, points(0, 50), points(100, 20)).batch_size(16).evaluate_every(10).build()
    };
    let error = verify_resume(new, 15, 30).unwrap_err();
    assert!(matches!(&error, Error::ResumeDiffers { iteration: 15, .. }), "{error}");
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    let refusal = |builder: TrainerBuilder<Regression>| builder.build().unwrap_err().to_string();
    assert_eq!(refusal(builder().accumulate(0)), "parts of a batch: expected 1 to the batch size, 16, found 0");
    assert_eq!(refusal(builder().accumulate(17)), "parts of a batch: expected 1 to the batch size, 16, found 17");
    assert_eq!(
        refusal(builder().batch_size(51)),
        "batch size: expected 1 to the number of training examples, 50, found 51"
    );
    assert_eq!(
        refusal(builder().evaluate_on("more", points(0, 0))),
        "more set: expected at least one example, found none"
    );
    let named = Regression { setting: "seed", ..Regression::new(0.0) };
    let error = refusal(with(named));
    assert!(error.starts_with("name of a model's setting: expected none of learning_rate,"), "{error}");
    assert!(error.ends_with("found seed"), "{error}");
    let model = Regression::new(0.0);
    let optimizer = Optimizer::sgd(&Regression::new(0.0).variables, 1e-2).unwrap();
    let error = refusal(Trainer::for_model(model, optimizer, points(0, 50), points(0, 9)));
    assert!(error.starts_with("model: expected the one that the optimizer was made for"), "{error}");
}
