//! The packaged loop: the same bits as the tutorial's loop written out, and the same bits after a break.

mod common;

use std::path::Path;

use earlystop::checkpoint::{Savable, Store};
use earlystop::early_stopping::{Patience, StopKind};
use earlystop::ndarray::{Array1, Array3};
use earlystop::network::Precision;
use earlystop::trainer::{Event, TrainerBuilder, evaluate, verify_resume};
use earlystop::{Adam, Batches, EarlyStopping, Error, Examples, Metadata, Network, Result, Saver, Trainer};
use tch::{Device, Kind, Tensor};

use common::{bits, builder, examples, network};

/// Trains to the end and returns the printed lines, but for the times.
fn lines(trainer: &mut Trainer, iterations: u64) -> Vec<String> {
    let mut lines = Vec::new();
    let print = |event: &Event| match event {
        Event::Finished { .. } | Event::Resumed { .. } => {}
        event => lines.push(event.to_string()),
    };
    trainer.optimize_to(iterations, print).unwrap();
    lines
}

#[test]
fn the_trainer_is_the_tutorials_loop_bit_for_bit() -> Result<()> {
    let (train, validation) = (examples(150, 0), examples(60, 1000));
    let mut network = network();
    let mut optimizer = Adam::new(&network, 3e-3)?;
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
            let improved = stopping.observe(iteration, acc_validation).improved;
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
            let iterations =
                |trainer: &Trainer| trainer.history().iter().map(|seen| seen.iteration).collect::<Vec<_>>();
            assert_eq!(iterations(&trainer), iterations(&straight));
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
fn the_precision_of_evaluations_is_a_setting_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let precise = || builder().evaluate_in(Precision::Bf16).checkpoints(folder.path()).build().unwrap();
    precise().optimize_to(10, |_| ()).unwrap();
    let mut trainer = builder().checkpoints(folder.path()).build().unwrap();
    let message = trainer.resume(|_| ()).unwrap_err().to_string();
    assert!(message.contains("evaluation_precision: \"bf16\" in the checkpoint, \"f32\" now"), "{message}");
}

#[test]
fn resuming_is_verified_with_dropout_and_within_an_epoch() {
    verify_resume(|| builder().build(), 30, 75).unwrap();
    let message = verify_resume(|| builder().build(), 35, 75).unwrap_err().to_string();
    assert_eq!(message, "break: expected a multiple of 10 before the end, 75, found 35");
}

#[test]
fn verification_names_what_differs() {
    let mut seed = 0;
    let differing = || {
        seed += 1;
        let network = network();
        // The third trainer, which resumes, has another learning rate than its checkpoint: as if that had been forgotten.
        let optimizer = Adam::new(&network, if seed == 1 { 1e-3 } else { 3e-3 })?;
        Trainer::builder(network, optimizer, &examples(150, 0), &examples(60, 1000)).evaluate_every(10).build()
    };
    let error = verify_resume(differing, 10, 20).unwrap_err();
    assert!(matches!(&error, Error::ResumeDiffers { what, .. } if what == "layer_conv1.weight"), "{error}");
}

#[test]
fn other_settings_are_named_and_the_caller_chooses() {
    let folder = tempfile::tempdir().unwrap();
    builder().checkpoints(folder.path()).build().unwrap().optimize(20, |_| ()).unwrap();
    let mut other = builder().batch_size(16).patience(50).checkpoints(folder.path()).build().unwrap();
    let before = bits(other.network());
    let message = other.resume(|_| ()).unwrap_err().to_string();
    assert!(message.contains("batch_size: 32 in the checkpoint, 16 now"), "{message}");
    assert!(message.contains("1000 in the checkpoint, 50 now"), "{message}");
    assert_eq!(bits(other.network()), before);
    assert!(other.resume_with_new_settings(|_| ()).unwrap());
    assert_eq!(other.optimize(10, |_| ()).unwrap().iterations, 30);
}

#[test]
fn another_network_is_refused_even_with_new_settings() {
    let folder = tempfile::tempdir().unwrap();
    builder().checkpoints(folder.path()).build().unwrap().optimize(10, |_| ()).unwrap();
    let network = Network::builder([8, 8, 1]).flatten().softmax_classifier(4).build(Device::Cpu).unwrap();
    let optimizer = Adam::new(&network, 3e-3).unwrap();
    let trainer = Trainer::builder(network, optimizer, &examples(150, 0), &examples(60, 1000));
    let mut trainer = trainer.checkpoints(folder.path()).build().unwrap();
    assert!(matches!(trainer.resume(|_| ()), Err(Error::SettingsDiffer { .. })));
    assert!(matches!(trainer.resume_with_new_settings(|_| ()), Err(Error::Mismatch { .. })));
}

#[test]
fn a_new_run_does_not_mix_with_an_older_one() {
    let folder = tempfile::tempdir().unwrap();
    builder().checkpoints(folder.path()).build().unwrap().optimize(10, |_| ()).unwrap();
    let mut anew = builder().checkpoints(folder.path()).build().unwrap();
    let message = anew.optimize(10, |_| ()).unwrap_err().to_string();
    assert!(message.contains("resume()") && message.contains("start_over()"), "{message}");
    anew.start_over().unwrap();
    assert_eq!(anew.optimize(10, |_| ()).unwrap().iterations, 10);
}

#[test]
fn a_folder_is_for_one_trainer_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = builder().checkpoints(folder.path()).build().unwrap();
    first.optimize(10, |_| ()).unwrap();
    let mut second = builder().checkpoints(folder.path()).build().unwrap();
    assert!(matches!(second.resume(|_| ()), Err(Error::Locked { .. })));
}

#[test]
fn a_stopped_run_says_so_and_does_not_train_on() {
    let folder = tempfile::tempdir().unwrap();
    let run = || builder().stop_when(Patience::new(5)).checkpoints(folder.path()).build().unwrap();
    let stopped = run().optimize(400, |_| ()).unwrap();
    assert!(stopped.iterations < 400);
    let mut again = run();
    again.resume(|_| ()).unwrap();
    let report = again.optimize(400, |_| ()).unwrap();
    assert_eq!((report.iterations, report.reason), (stopped.iterations, stopped.reason));
}

#[test]
fn a_damaged_checkpoint_is_skipped_with_an_event() {
    let folder = tempfile::tempdir().unwrap();
    builder().checkpoints(folder.path()).build().unwrap().optimize(40, |_| ()).unwrap();
    let latest = Store::open(folder.path()).unwrap().latest().unwrap().unwrap().path;
    flip_a_bit(&latest);
    let mut trainer = builder().checkpoints(folder.path()).build().unwrap();
    let mut events = Vec::new();
    assert!(trainer.resume(|event| events.push(event.clone())).unwrap());
    assert!(matches!(&events[0], Event::Skipped { path, .. } if *path == latest), "{events:?}");
    assert_eq!(trainer.iteration(), 30);
}

fn flip_a_bit(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() - 100;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_at_once() {
    let network = network();
    let _ = network.tensors()[0].tensor.detach().fill_(f64::NAN);
    let optimizer = Adam::new(&network, 3e-3).unwrap();
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
    let optimizer = Adam::new(&network, 3e-3).unwrap();
    let message = refusal(Trainer::builder(network, optimizer, &examples(150, 0), &empty));
    assert_eq!(message, "validation set: expected at least one example, found none");
}
