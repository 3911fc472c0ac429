//! Measures how the costs of rules, commits and resuming grow with the length of a run.

use std::path::{Path, PathBuf};
use std::time::Instant;

use earlystop::checkpoint::Store;
use earlystop::early_stopping::{EarlyStopping, Mistakes, Observation, Rule};
use earlystop::ndarray::{Array1, Array3};
use earlystop::tch::Device;
use earlystop::trainer::SavePolicy;
use earlystop::{Examples, Network, Optimizer, Trainer};
use serde::Serialize;

use crate::Result;
use crate::markdown::{Section, digits, table};
use crate::statistics::median;

/// The lengths of the runs, in evaluations. The bars compare the longest run with the shortest.
const LENGTHS: [usize; 4] = [100, 1_000, 10_000, 100_000];
const IMAGES: usize = 5_000;
/// How many evaluations and commits are measured at a length.
const SAMPLES: usize = 51;

/// What was measured after a number of evaluations.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Length {
    pub(crate) evaluations: usize,
    /// All evaluations of a patience, in seconds.
    pub(crate) patience: f64,
    /// One evaluation of the noise-aware rule on 5,000 images, in seconds.
    pub(crate) noise_aware: f64,
    /// A call of the trainer with one iteration, an evaluation and a commit, in seconds.
    pub(crate) commit: f64,
    /// The size of a checkpoint.
    pub(crate) checkpoint_bytes: u64,
    /// Resuming with the whole history, in seconds.
    pub(crate) resume: f64,
}

/// Measures all lengths.
pub(crate) fn run(folder: &Path, quick: bool) -> Result<Vec<Length>> {
    let lengths = if quick { vec![10, 20] } else { LENGTHS.to_vec() };
    let samples = if quick { 3 } else { SAMPLES };
    let folder = folder.join("growth");
    let _ = std::fs::remove_dir_all(&folder);
    let commits = commits(&folder, &lengths, samples)?;
    let mut noise_aware = EarlyStopping::with(Rule::noise_aware(u64::MAX / 2))?;
    let measured = lengths.into_iter().zip(commits).map(|(evaluations, commit)| {
        eprintln!("Growth: rules and resuming after {evaluations} evaluations");
        Ok(Length {
            evaluations,
            patience: patience(evaluations)?,
            noise_aware: one_noise_aware(&mut noise_aware, evaluations, samples)?,
            commit: commit.seconds,
            checkpoint_bytes: commit.checkpoint_bytes,
            resume: resume(&commit.folder)?,
        })
    });
    let measured = measured.collect();
    std::fs::remove_dir_all(&folder)?;
    measured
}

fn patience(evaluations: usize) -> Result<f64> {
    let mut stopping = EarlyStopping::with(Rule::patience(1000))?;
    let start = Instant::now();
    for index in 0..evaluations {
        stopping.observe(index as u64 + 1, accuracy(index))?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// An accuracy that rises more and more slowly, with noise.
fn accuracy(index: usize) -> f64 {
    0.99 - 0.5 / (1.0 + index as f64 / 50.0) + 0.005 * ((index * 7919 % 101) as f64 / 101.0)
}

/// Continues a run up to a number of evaluations, and then measures single ones.
fn one_noise_aware(stopping: &mut EarlyStopping, evaluations: usize, samples: usize) -> Result<f64> {
    let observation = |index: usize| {
        let wrong = (IMAGES as f64 * (1.0 - accuracy(index))) as usize;
        let correct = (0..IMAGES).map(|image| (image * 31 + index * 17) % IMAGES >= wrong);
        let mistakes = Some(Mistakes::new(correct));
        Observation { mistakes, ..Observation::new(index as u64 + 1, accuracy(index)) }
    };
    while stopping.history().len() < evaluations {
        stopping.record(observation(stopping.history().len()))?;
    }
    let mut seconds = Vec::new();
    for _ in 0..samples {
        let observation = observation(stopping.history().len());
        let start = Instant::now();
        stopping.record(observation)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(median(&seconds))
}

/// A trainer of a small network that evaluates after each iteration, and saves at the end of each call.
fn trainer(folder: &Path) -> earlystop::Result<Trainer> {
    let examples = |count: usize| {
        let pixel = |(image, y, x): (usize, usize, usize)| (image * 97 + y * 31 + x * 7) as u8;
        Examples::new(
            Array3::from_shape_fn((count, 4, 4), pixel),
            Array1::from_shape_fn(count, |image| image as u8 % 10),
        )
    };
    let network = Network::builder([4, 4, 1]).flatten().softmax_classifier(10).build(Device::Cpu)?;
    let optimizer = Optimizer::adam(&network, 1e-3)?;
    let trainer = Trainer::builder(network, optimizer, &examples(20)?, &examples(10)?).batch_size(10);
    let trainer = trainer.evaluate_every(1).stop_when(Rule::never()).checkpoints(folder);
    trainer.save_policy(SavePolicy::EveryIterations(u64::MAX)).build()
}

/// The commits of a run of one length.
struct Commits {
    folder: PathBuf,
    /// The median time of a commit in seconds.
    seconds: f64,
    checkpoint_bytes: u64,
}

/// Trains runs of all lengths, then measures their commits alternately, because the speed of a disk changes over time.
fn commits(folder: &Path, lengths: &[usize], samples: usize) -> Result<Vec<Commits>> {
    let mut runs = Vec::new();
    for &evaluations in lengths {
        eprintln!("Growth: a run of {evaluations} evaluations");
        let folder = folder.join(evaluations.to_string());
        let mut trainer = trainer(&folder)?;
        trainer.optimize_to(evaluations as u64, |_| ())?;
        runs.push((folder, trainer, Vec::new()));
    }
    for _ in 0..samples {
        for (_, trainer, seconds) in &mut runs {
            let start = Instant::now();
            trainer.optimize(1, |_| ())?;
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let commits = runs.into_iter().map(|(folder, trainer, seconds)| {
        drop(trainer);
        let latest = Store::open(&folder)?.latest()?.ok_or("no checkpoint was saved")?;
        let checkpoint_bytes = std::fs::metadata(latest.path)?.len();
        Ok(Commits { folder, seconds: median(&seconds), checkpoint_bytes })
    });
    commits.collect()
}

fn resume(folder: &Path) -> Result<f64> {
    let mut trainer = trainer(folder)?;
    let start = Instant::now();
    trainer.resume(|_| ())?;
    Ok(start.elapsed().as_secs_f64())
}

/// Writes the section about all lengths.
pub(crate) fn section(lengths: &[Length]) -> Section {
    let about = "What a run costs after more and more evaluations: all evaluations of the tutorial's patience together, one evaluation of \
         the noise-aware rule on 5,000 images, one commit of a small network (a call of the trainer with an iteration, an \
         evaluation, a line of the history and a checkpoint, with fsync; runs of all lengths by turns), the size of that checkpoint, and resuming with the whole \
         history. Patience and resuming take time for each evaluation; the others must not grow.";
    let mut head = vec!["evaluations".to_owned()];
    head.extend(lengths.iter().map(|length| length.evaluations.to_string()));
    head.push("last / first".to_owned());
    let head: Vec<_> = head.iter().map(String::as_str).collect();
    let row = |name: &str, factor: f64, value: fn(&Length) -> f64| {
        let mut cells = vec![name.to_owned()];
        cells.extend(lengths.iter().map(|length| digits(factor * value(length))));
        cells.push(match lengths {
            [first, .., last] => format!("{:.2}×", value(last) / value(first)),
            _ => "–".to_owned(),
        });
        cells
    };
    let rows = [
        row("patience, all, ms", 1e3, |length| length.patience),
        row("noise-aware, one, µs", 1e6, |length| length.noise_aware),
        row("a commit, ms", 1e3, |length| length.commit),
        row("a checkpoint, kB", 1e-3, |length| length.checkpoint_bytes as f64),
        row("resuming, ms", 1e3, |length| length.resume),
    ];
    Section { title: "Long runs", about: about.to_owned(), table: table(&head, rows.into_iter()) }
}
