//! Trainers on threads that stand for processes: one run, whatever their number is.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;

use tch::{Device, Kind, Tensor, nn};

use crate::data::{Data, from_fn};
use crate::early_stopping::{Observation, Rule};
use crate::error::{Error, Result};
use crate::ndarray::{Array1, Array3};
use crate::optimizer::Trainable;
use crate::processes::Processes;
use crate::processes::threads::on_threads;
use crate::trainer::{BatchIter, EvaluateByBatch, Event, Model, Scores, TrainerBuilder};
use crate::values::bytes;
use crate::{Examples, Loss, Network, Optimizer, Trainer};

fn examples(count: usize) -> Examples {
    let images = Array3::from_shape_fn((count, 6, 6), |(i, y, x)| (i * 37 + y * 101 + x * (7 + i % 4)) as u8);
    Examples::new(images, Array1::from_shape_fn(count, |i| (i % 4) as u8)).unwrap()
}

/// Batches of 30 in four parts of 8 and 7 images.
fn builder() -> TrainerBuilder {
    let network = Network::builder([6, 6, 1]).conv2d(3, 4, "layer_conv1").max_pool(2, 2).flatten();
    let network =
        network.fully_connected(9, "layer_fc1").dropout(0.3).softmax_classifier(4).build(Device::Cpu).unwrap();
    let optimizer = Optimizer::adam(&network, 3e-3).unwrap();
    let builder = Trainer::builder(network, optimizer, &examples(150), &examples(700));
    builder.batch_size(30).accumulate(4).evaluate_every(10).stop_when(Rule::never())
}

/// The bits of all tensors, and the evaluations without their times.
fn outcome<M: Model>(trainer: &Trainer<M>) -> (Vec<Vec<u8>>, Vec<Observation>) {
    let tensors = trainer.tensors().unwrap();
    let timeless = |seen: &Observation| Observation { elapsed: None, ..seen.clone() };
    (
        tensors.iter().map(|named| bytes(&named.tensor().unwrap()).unwrap()).collect(),
        trainer.history().iter().map(timeless).collect(),
    )
}

/// Collects what each process has, by its number.
fn of_each<T: Send>(count: usize, work: impl Fn(Processes) -> T + Send + Sync) -> Vec<T> {
    let found = Mutex::new((0..count).map(|_| None).collect::<Vec<_>>());
    on_threads(count, |processes| {
        let rank = processes.rank();
        let done = work(processes);
        found.lock().unwrap()[rank] = Some(done);
    });
    found.into_inner().unwrap().into_iter().map(|done| done.expect("each thread ends")).collect()
}

#[test]
fn a_network_ends_with_the_same_bits_on_any_number_of_processes() {
    let mut alone = builder().build().unwrap();
    alone.optimize(25, |_| ()).unwrap();
    for count in [1, 2, 4] {
        for found in of_each(count, |processes| {
            let mut trainer = builder().processes(processes).build().unwrap();
            let report = trainer.optimize(25, |_| ()).unwrap();
            assert_eq!(report.iterations, 25);
            outcome(&trainer)
        }) {
            assert_eq!(found, outcome(&alone), "{count} processes");
        }
    }
    // The parts do matter.
    let mut other = builder().accumulate(2).build().unwrap();
    other.optimize(25, |_| ()).unwrap();
    assert_ne!(outcome(&other).0, outcome(&alone).0);
}

/// Draws random numbers, and has a variable that only some parts of a batch depend on, and a running mean of the batches.
struct Own {
    variables: nn::VarStore,
    running_mean: Tensor,
    weights: Tensor,
    rare: Tensor,
    never: Tensor,
    is_by_batch: bool,
}

impl Own {
    fn new(is_by_batch: bool) -> Self {
        let variables = nn::VarStore::new(Device::Cpu);
        let root = variables.root();
        // At random, and different in each process.
        let [weights, rare] = ["weights", "rare"].map(|name| root.randn_standard(name, &[3, 5]));
        let never = root.zeros("never", &[2]);
        let running_mean = root.zeros_no_train("running_mean", &[1]);
        Self { variables, running_mean, weights, rare, never, is_by_batch }
    }
}

impl Model for Own {
    type Batch = Tensor;

    fn variables(&self) -> &dyn Trainable {
        &self.variables
    }

    fn loss(&self, batch: &Tensor, _iteration: u64) -> Result<Loss> {
        let mut running_mean = self.running_mean.shallow_clone();
        running_mean.copy_(&(0.9 * &self.running_mean + 0.1 * batch.mean(Kind::Float)));
        let noise = Tensor::rand_like(batch);
        let mut loss = ((batch + noise) * self.weights.sum(Kind::Float)).square().mean(Kind::Float);
        if batch.double_value(&[0]) < 10.0 {
            loss += self.rare.square().mean(Kind::Float);
        }
        Ok(loss.into())
    }

    fn evaluate(&self, batches: BatchIter<Tensor>) -> Result<Scores> {
        let numbers = batches.map(|batch| self.evaluate_batch(&batch?)).collect::<Result<Vec<_>>>()?;
        self.combine(&numbers)
    }

    fn by_batch(&self) -> Option<&dyn EvaluateByBatch<Batch = Tensor>> {
        self.is_by_batch.then_some(self)
    }

    fn evaluation_batch_size(&self) -> usize {
        7
    }
}

impl EvaluateByBatch for Own {
    type Batch = Tensor;

    fn evaluate_batch(&self, batch: &Tensor) -> Result<Vec<f64>> {
        let noisy = batch * Tensor::rand_like(batch) + self.never.sum(Kind::Float);
        Ok(vec![(noisy * self.weights.sum(Kind::Float)).sum(Kind::Double).double_value(&[])])
    }

    fn combine(&self, batches: &[Vec<f64>]) -> Result<Scores> {
        Ok(Scores::from([("loss", batches.concat().iter().sum::<f64>() / batches.len() as f64)]))
    }
}

fn numbers(count: usize) -> impl Data<Batch = Tensor> + Send + 'static {
    from_fn(count, |indices, _| Ok(Tensor::from_slice(&indices.iter().map(|&i| i as f32).collect::<Vec<_>>())))
        .with_fingerprint("numbers")
}

fn own(is_by_batch: bool) -> TrainerBuilder<Own> {
    let model = Own::new(is_by_batch);
    let optimizer = Optimizer::adam_w(&model.variables, 1e-2).unwrap().weight_decay(0.3).unwrap();
    let builder = Trainer::for_model(model, optimizer, numbers(40), numbers(30));
    builder.batch_size(12).accumulate(4).evaluate_every(4).stop_when(Rule::never())
}

#[test]
fn a_model_of_ones_own_ends_with_the_same_bits_if_it_draws_random_numbers_and_gradients_are_missing() {
    for is_by_batch in [false, true] {
        let start = of_each(4, |processes| {
            let mut trainer = own(is_by_batch).processes(processes).build().unwrap();
            trainer.optimize(0, |_| ()).unwrap();
            outcome(&trainer).0
        });
        assert!(start.iter().all(|bits| *bits == start[0]), "all begin with the variables of the first");
        let folder = tempfile::tempdir().unwrap();
        own(is_by_batch).checkpoints(folder.path()).build().unwrap().optimize(1, |_| ()).unwrap();
        let run = |processes: Processes| {
            let copy = tempfile::tempdir().unwrap();
            for file in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
                std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
            }
            let mut trainer = own(is_by_batch).checkpoints(copy.path()).processes(processes).build().unwrap();
            assert!(trainer.resume(|_| ()).unwrap());
            trainer.optimize(20, |_| ()).unwrap();
            outcome(&trainer)
        };
        let alone = run(Processes::one());
        assert!(alone.1.len() >= 5);
        for count in [2, 4] {
            assert!(of_each(count, run).iter().all(|found| *found == alone), "{count} processes, {is_by_batch}");
        }
    }
}

fn train_on(folder: &Path, processes: Processes, end: u64) -> (Vec<Vec<u8>>, Vec<Observation>) {
    let mut trainer = builder().checkpoints(folder).processes(processes).build().unwrap();
    trainer.resume(|_| ()).unwrap();
    trainer.optimize_to(end, |_| ()).unwrap();
    outcome(&trainer)
}

#[test]
fn a_run_resumes_with_any_other_number_of_processes() {
    let folder = tempfile::tempdir().unwrap();
    let mut straight = builder().build().unwrap();
    straight.optimize(50, |_| ()).unwrap();
    let mut last = Vec::new();
    for (count, end) in [(2, 13), (4, 20), (1, 31), (2, 50)] {
        last = of_each(count, |processes| train_on(folder.path(), processes, end));
    }
    // An interruption between evaluations is one more evaluation in the history, at its end.
    let kept =
        |found: &[Observation]| found.iter().filter(|seen| seen.iteration % 10 == 0).cloned().collect::<Vec<_>>();
    for (bits, history) in last {
        assert_eq!(bits, outcome(&straight).0);
        assert_eq!(kept(&history).last(), outcome(&straight).1.last());
    }
}

#[test]
fn one_process_reports_and_calls_back_and_all_stop_together_on_its_request() {
    let reports = of_each(2, |processes| {
        let rank = processes.rank();
        let folder = tempfile::tempdir().unwrap();
        let mut trainer = builder().checkpoints(folder.path()).processes(processes).build().unwrap();
        let mut events = 0;
        let report = trainer.optimize(100, |event| {
            events += 1;
            match event {
                Event::Evaluated { observation, .. } if observation.iteration == 20 => ControlFlow::Break("enough"),
                _ => ControlFlow::Continue(()),
            }
        });
        let report = report.unwrap();
        let best = trainer.restore_best().unwrap();
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!((events > 0, files > 0), (rank == 0, rank == 0));
        (report.iterations, report.reason, report.best, best, outcome(&trainer).0)
    });
    assert_eq!(reports[0], reports[1]);
    assert_eq!(reports[0].1.as_ref().unwrap().to_string(), "callback: enough");
    // All learn of a request in the step that follows it.
    assert_eq!(reports[0].0, 21);
}

#[test]
fn differences_are_named_with_their_process() {
    for error in of_each(4, |processes| {
        let rank = processes.rank();
        let mut builder = builder().processes(processes).seed(if rank == 2 { 5 } else { 0 });
        if rank == 3 {
            builder = builder.evaluate_every(20);
        }
        builder.build().unwrap().optimize(10, |_| ()).unwrap_err().to_string()
    }) {
        let expected = "the processes differ:\n  seed: 0 in process 0, 5 in process 2\n  evaluate_every: 10 in process 0, 20 in process 3";
        assert_eq!(error, expected);
    }
    for error in of_each(2, |processes| {
        let data = numbers(40 + processes.rank());
        let model = Own::new(true);
        let optimizer = Optimizer::adam(&model.variables, 1e-2).unwrap();
        let trainer = Trainer::for_model(model, optimizer, data, numbers(30)).batch_size(12).accumulate(2);
        trainer.processes(processes).build().unwrap().optimize(1, |_| ()).unwrap_err().to_string()
    }) {
        assert!(error.contains("training_examples: 40 in process 0, 41 in process 1"), "{error}");
    }
    for error in of_each(2, |processes| {
        let end = 10 + processes.rank() as u64;
        builder().processes(processes).build().unwrap().optimize(end, |_| ()).unwrap_err().to_string()
    }) {
        assert_eq!(error, "the processes differ:\n  end: 10 in process 0, 11 in process 1");
    }
}

#[test]
fn numbers_of_processes_that_do_not_fit_are_refused() {
    for (count, parts) in [(3, 3), (4, 2), (2, 3)] {
        for error in of_each(count, |processes| {
            builder().accumulate(parts).processes(processes).build().unwrap_err().to_string()
        }) {
            let expected = format!(
                "number of processes: expected a power of two that divides the number of parts of a batch, {parts}, which \
                 accumulate() sets, found {count}"
            );
            assert_eq!(error, expected);
        }
    }
}

#[test]
fn an_error_of_one_process_ends_the_call_in_all_and_they_can_continue() {
    let found = of_each(2, |processes| {
        let (rank, fails) = (processes.rank(), std::cell::Cell::new(true));
        let train = from_fn(40, move |indices: &[usize], iteration| {
            if rank == 1 && iteration == 7 && fails.replace(false) {
                return Err(Error::other("no photograph 17"));
            }
            Ok(Tensor::from_slice(&indices.iter().map(|&i| i as f32).collect::<Vec<_>>()))
        });
        let model = Own::new(true);
        let optimizer = Optimizer::adam(&model.variables, 1e-2).unwrap();
        let trainer = Trainer::for_model(model, optimizer, train, numbers(30)).batch_size(12).accumulate(2);
        let mut trainer = trainer.evaluate_every(5).stop_when(Rule::never()).processes(processes).build().unwrap();
        let error = trainer.optimize_to(12, |_| ()).unwrap_err().to_string();
        let iteration = trainer.iteration();
        trainer.optimize_to(12, |_| ()).unwrap();
        (error, iteration, outcome(&trainer))
    });
    assert_eq!(found[0].0, "process 1 failed: no photograph 17");
    assert_eq!(found[1].0, "no photograph 17");
    assert!(found.iter().all(|process| process.1 == 6 && process.2 == found[0].2));
}

#[test]
fn each_process_reads_only_its_part_of_the_data() {
    for (count, read) in [(1, 12), (2, 6), (4, 3)] {
        let each = of_each(count, |processes| {
            let seen = std::sync::Arc::new(Mutex::new([Vec::<usize>::new(), Vec::new()]));
            let set = |place: usize, len| {
                let seen = seen.clone();
                from_fn(len, move |indices: &[usize], _| {
                    seen.lock().unwrap()[place].extend(indices);
                    Ok(Tensor::from_slice(&indices.iter().map(|&i| i as f32).collect::<Vec<_>>()))
                })
            };
            let model = Own::new(true);
            let optimizer = Optimizer::adam(&model.variables, 1e-2).unwrap();
            let trainer = Trainer::for_model(model, optimizer, set(0, 48), set(1, 28)).batch_size(12).accumulate(4);
            trainer.stop_when(Rule::never()).processes(processes).build().unwrap().optimize(4, |_| ()).unwrap();
            let seen = seen.lock().unwrap();
            seen.clone()
        });
        // An epoch of four steps and one evaluation: together they see every example once.
        for (place, len) in [(0, 48), (1, 28)] {
            let mut all = each.iter().flat_map(|seen| seen[place].clone()).collect::<Vec<_>>();
            all.sort();
            assert_eq!(all, (0..len).collect::<Vec<_>>());
        }
        assert!(each.iter().all(|seen| seen[0].len() == 4 * read && seen[1].len() == 28 / count));
    }
}

#[test]
fn a_step_sends_less_than_two_gradients_and_a_fixed_number_of_bytes() {
    for count in [2, 4] {
        for (sent, gradient) in of_each(count, |processes| {
            let mut trainer = builder().processes(processes.clone()).evaluate_every(1000).build().unwrap();
            trainer.optimize(1, |_| ()).unwrap();
            let before = processes.traffic();
            // The last iteration is evaluated in a call of its own.
            trainer.train(51, false, &mut |_| None).unwrap();
            let variables = trainer.model().variables_to_train();
            let gradient: usize = variables.iter().map(|named| named.tensor().unwrap().numel() * 4).sum();
            (processes.traffic() - before, gradient as u64)
        }) {
            let messages = 50 * 128 * (count as u64 - 1) + 10_000;
            assert!(sent > 50 * gradient, "{count} processes: {sent} bytes for gradients of {gradient}");
            let most = 50 * 2 * gradient * (count as u64 - 1) / count as u64;
            assert!(sent <= most + messages, "{count} processes: {sent} bytes for gradients of {gradient}");
        }
    }
}
