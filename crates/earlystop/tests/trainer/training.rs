//! The packaged loop: the same bits as the tutorial's loop written out, and the same bits after a break.

use earlystop::checkpoint::Savable;
use earlystop::early_stopping::{Patience, Rule, StopKind};
use earlystop::ndarray::{Array1, Array3};
use earlystop::network::evaluate;
use earlystop::trainer::{Event, TrainerBuilder, verify_resume};
use earlystop::{Batches, EarlyStopping, Error, Examples, Metadata, Network, Optimizer, Result, Saver, Trainer};
use tch::{Device, Kind, Tensor};

use crate::common::{bits, builder, examples, history, network};

/// Trains to the end and returns the printed lines, but for the times.
fn lines(trainer: &mut Trainer, iterations: u64) -> Vec<String> {
    let mut lines = Vec::new();
    let print = |event: &Event| match event {
        Event::Evaluated { .. } | Event::Stopped(_) => lines.push(event.to_string()),
        _ => {}
    };
    trainer.optimize_to(iterations, print).unwrap();
    lines
}

#[test]
fn the_trainer_is_the_tutorials_loop_bit_for_bit() -> Result<()> {
    let (train, validation) = (examples(150, 0), examples(60, 1000));
    let mut network = network();
    let mut optimizer = Optimizer::adam(&network, 3e-3)?;
    let mut batches = Batches::new(train.len(), 32, 9)?;
    let mut stopping = EarlyStopping::new(40);
    let folder = tempfile::tempdir().unwrap();
    let best = folder.path().join("best.safetensors");
    let mut written_out = Vec::new();
    for iteration in 1..=400 {
        let (x, y_true) = train.batch(&batches.indices(iteration))?;
        let (x, y_true) = (Tensor::try_from(x)?, Tensor::try_from(y_true)?);
        let loss = network.training_loss(&x, &y_true, iteration)?;
        optimizer.minimize(&loss, &mut network)?;
        if iteration % 10 == 0 {
            let correct = network.predict(&x)?.argmax(1, false).eq_tensor(&y_true.argmax(1, false));
            let acc_train = 100.0 * correct.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
            let acc_validation = evaluate(&network, &validation)?.accuracy();
            let improved = stopping.observe(iteration, acc_validation)?.improved;
            if improved {
                Saver::new().save(&best, &[&network, &optimizer], &Metadata::new())?;
            }
            let (train, validation) = (format!("{acc_train:.1}%"), format!("{:.1}%", 100.0 * acc_validation));
            let star = if improved { "*" } else { "" };
            written_out.push(format!(
                "Iter: {iteration:>6}, Train-Batch Accuracy: {train:>6}, Validation Acc: {validation:>6} {star}"
            ));
        }
        if stopping.should_stop(iteration) {
            written_out.push("No improvement found in a while, stopping optimization.".to_owned());
            break;
        }
    }

    let mut trainer = builder().patience(40).checkpoints(folder.path().join("run")).build()?;
    assert_eq!(lines(&mut trainer, 400), written_out);
    assert_eq!(bits(trainer.network()), bits(&network));
    assert!(trainer.iteration() < 400, "the example never stops early");
    trainer.restore_best()?;
    Saver::new().restore(&best, &[&network, &optimizer])?;
    assert_eq!(bits(trainer.network()), bits(&network));
    Ok(())
}

#[test]
fn a_run_goes_on_as_if_nothing_had_happened() {
    let mut straight = builder().build().unwrap();
    let all = lines(&mut straight, 200);
    let folder = tempfile::tempdir().unwrap();
    let mut resumed = Vec::new();
    for end in [10, 70, 120, 200] {
        let mut trainer = builder().checkpoints(folder.path()).build().unwrap();
        trainer.resume(|_| ()).unwrap();
        resumed.extend(lines(&mut trainer, end));
        if end == 200 {
            assert_eq!(bits(trainer.network()), bits(straight.network()));
            assert_eq!(history(&trainer), history(&straight));
        }
    }
    assert_eq!(resumed, all);
}

#[test]
fn the_best_of_a_resumed_run_is_the_best_of_all() {
    let best = |ends: &[u64]| {
        let folder = tempfile::tempdir().unwrap();
        let mut last = None;
        for &end in ends {
            drop(last.take());
            let mut trainer = builder().checkpoints(folder.path()).build().unwrap();
            trainer.resume(|_| ()).unwrap();
            trainer.optimize_to(end, |_| ()).unwrap();
            last = Some(trainer);
        }
        let mut trainer = last.unwrap();
        trainer.restore_best().unwrap();
        (trainer.report().best.unwrap().iteration, bits(trainer.network()))
    };
    let straight = best(&[200]);
    // The first evaluation is an improvement, and others come after it.
    assert!(straight.0 > 10);
    assert_eq!(best(&[10, 200]), straight);
}

#[test]
fn verification_names_what_differs() {
    let mut seed = 0;
    let differing = || {
        seed += 1;
        let network = network();
        // The third trainer, which resumes, has another learning rate than its checkpoint: as if that had been forgotten.
        let optimizer = Optimizer::adam(&network, if seed == 1 { 1e-3 } else { 3e-3 })?;
        Trainer::builder(network, optimizer, &examples(150, 0), &examples(60, 1000)).evaluate_every(10).build()
    };
    let error = verify_resume(differing, 10, 20).unwrap_err();
    assert!(matches!(&error, Error::ResumeDiffers { what, .. } if what == "layer_conv1.weight"), "{error}");
}

#[test]
fn a_stopped_run_says_so_and_does_not_train_on() {
    let folder = tempfile::tempdir().unwrap();
    let run = || builder().stop_when(Patience::new(10)).checkpoints(folder.path()).build().unwrap();
    let stopped = run().optimize(400, |_| ()).unwrap();
    assert!(stopped.iterations < 400);
    let mut again = run();
    again.resume(|_| ()).unwrap();
    let report = again.optimize(400, |_| ()).unwrap();
    assert_eq!((report.iterations, report.reason), (stopped.iterations, stopped.reason));
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_at_once() {
    let network = network();
    let _ = network.tensors()[0].tensor().unwrap().detach().fill_(f64::NAN);
    let optimizer = Optimizer::adam(&network, 3e-3).unwrap();
    let trainer = Trainer::builder(network, optimizer, &examples(150, 0), &examples(60, 1000));
    let report = trainer.build().unwrap().optimize(100, |_| ()).unwrap();
    assert_eq!(report.iterations, 1);
    assert_eq!(report.reason.map(|reason| reason.kind), Some(StopKind::NotFinite));
    assert_eq!(report.best, None);
}

#[test]
fn impossible_settings_are_refused() {
    let refusal = |builder: TrainerBuilder| builder.build().unwrap_err().to_string();
    assert_eq!(refusal(builder().evaluate_every(0)), "evaluate every: expected at least 1 iteration, found 0");
    assert!(refusal(builder().batch_size(151)).starts_with("batch size: expected 1 to"));
    let larger = Examples::new(Array3::zeros((3, 9, 8)), Array1::zeros(3)).unwrap();
    let message = refusal(builder().record_test_accuracy(&larger));
    assert_eq!(message, "test set: expected images of 8 x 8 pixels, found 9 x 8");
    let empty = examples(60, 0).slice(0..0).unwrap();
    let network = network();
    let optimizer = Optimizer::adam(&network, 3e-3).unwrap();
    let message = refusal(Trainer::builder(network, optimizer, &examples(150, 0), &empty));
    assert_eq!(message, "validation set: expected at least one example, found none");
    let message = refusal(builder().stop_when(Rule::any_of([Rule::patience(1000), Rule::target(99.0)])));
    assert_eq!(message, "accuracy of target(99): expected more than 0 and at most 1 (1 is 100%), found 99");
    assert_eq!(refusal(builder().checkpoints("")), "checkpoints: expected the path of a folder, found an empty path");
}

#[test]
fn a_patience_shorter_than_the_evaluation_interval_is_refused() {
    let refusal = |rule: Rule| builder().evaluate_every(100).stop_when(rule).build().unwrap_err().to_string();
    let expected = "patience: expected at least the 100 iterations from one evaluation to the next, found";
    let rules = [
        Rule::patience(50),
        Rule::patience(0),
        Rule::noise_aware(99),
        Rule::any_of([Rule::iterations(1000), Rule::patience(50)]),
        Rule::all_of([Rule::target(0.9), Rule::any_of([Patience::new(50).on_loss().warm_up(500).into()])]),
        Rule::patience(50).named("mine"),
    ];
    for rule in rules {
        let message = refusal(rule);
        assert!(message.starts_with(expected), "{message}");
    }
    assert!(builder().evaluate_every(2000).build().is_err()); // the default patience is 1000
    assert!(builder().evaluate_every(100).patience(100).build().is_ok());
    assert!(builder().evaluate_every(2000).stop_when(Rule::never()).build().is_ok());
}

#[test]
fn data_and_optimizer_must_fit_the_network_before_the_first_step() {
    let refusal = |network: Network, optimizer: Optimizer| {
        Trainer::builder(network, optimizer, &examples(150, 0), &examples(60, 1000)).build().unwrap_err().to_string()
    };
    let small = |input, classes| Network::builder(input).flatten().softmax_classifier(classes);
    let build = |input, classes| small(input, classes).build(Device::Cpu).unwrap();

    let colour = build([8, 8, 3], 4);
    let optimizer = Optimizer::adam(&colour, 3e-3).unwrap();
    let expected = "training set: expected images with 3 channels, as the network's input has, \
                    found grayscale images, with 1 channel";
    assert_eq!(refusal(colour, optimizer), expected);

    let expected = "model: expected the one that the optimizer was made for, found one with other variables";
    // The same layers, as many parameters in other shapes, and another number of them.
    for other in [build([8, 8, 1], 4), build([4, 16, 1], 4), build([8, 8, 1], 5)] {
        let wrong = Network::builder([8, 8, 1]).flatten().fully_connected(4, "layer_fc1").softmax_classifier(4);
        let optimizer = Optimizer::adam(&wrong.build(Device::Cpu).unwrap(), 3e-3).unwrap();
        assert_eq!(refusal(other, optimizer), expected);
    }

    let frozen = small([8, 8, 1], 4).freeze("softmax_classifier").build(Device::Cpu).unwrap();
    let optimizer = Optimizer::adam(&frozen, 3e-3).unwrap();
    assert_eq!(refusal(frozen, optimizer), "network: expected at least one layer to train, found that all are frozen");

    let three_classes = build([8, 8, 1], 3);
    let optimizer = Optimizer::adam(&three_classes, 3e-3).unwrap();
    assert_eq!(refusal(three_classes, optimizer), "training set: expected at most 3 classes, found 4");
    // A class that no training example has is no reason to fail.
    let six_classes = build([8, 8, 1], 6);
    let optimizer = Optimizer::adam(&six_classes, 3e-3).unwrap();
    let trainer = Trainer::builder(six_classes, optimizer, &examples(150, 0), &examples(60, 1000));
    trainer.build().unwrap().optimize(5, |_| ()).unwrap();
}
