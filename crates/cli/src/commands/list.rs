//! `earlystop list`: the checkpoints of a folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use earlystop::Error;
use earlystop::early_stopping::{Metric, Observation};
use serde_json::{Value, json};

use crate::failure::{Answer, Result};
use crate::folder::{ATTEMPTS, Damaged, Entry, Folder, is_gone, nothing_in};
use crate::opened::Opened;
use crate::output::{BAD, GOOD, Output, Progress, Table};
use crate::run::Evaluations;
use crate::text;

/// List the checkpoints of a folder
///
/// Shows the step, scores, size and age of each checkpoint, and marks the best and the latest. Reads headers only. Files that
/// cannot be read are listed with the reason; the exit status is then 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  earlystop list checkpoints/run1
  earlystop list --verify checkpoints/run1
  earlystop list --json checkpoints/run1 | jq -r '.checkpoints[] | select(.best).path'")]
pub(crate) struct Args {
    /// The folder, or the URL of a store
    folder: PathBuf,
    /// Read all files completely and compare their checksums
    #[arg(long)]
    verify: bool,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<Answer> {
    let mut folder = Folder::read(&args.folder)?;
    if args.verify {
        verify(&mut folder);
        // A training may have replaced all of them meanwhile.
        for _ in 1..ATTEMPTS {
            if !folder.entries.is_empty() || !folder.damaged.is_empty() {
                break;
            }
            folder = Folder::read(&args.folder)?;
            verify(&mut folder);
        }
    }
    let scores = Scores::of(&folder);
    if output.is_json {
        output.json(&json(args, &folder, &scores))?;
    } else if !folder.entries.is_empty() {
        print(args, &folder, &scores, output)?;
    }
    if folder.entries.is_empty() {
        return Err(nothing_in(&args.folder, &folder));
    }
    if !output.is_json {
        for Damaged { path, error } in &folder.damaged {
            let damaged = output.paint(BAD, "damaged");
            output.line(format!("{damaged}  {}: {}", text::file_name(path), reason(path, error)))?;
        }
    }
    Ok(Answer::fine_if(folder.damaged.is_empty()))
}

/// Reads all files, and moves damaged ones to the list of damaged files.
fn verify(folder: &mut Folder) {
    let mut progress = Progress::new(folder.entries.len());
    for mut entry in std::mem::take(&mut folder.entries) {
        progress.next(entry.bytes);
        match Opened::read(&entry.path) {
            Ok(checkpoint) => {
                entry.is_sealed = checkpoint.is_verified();
                entry.bytes = Some(checkpoint.file_bytes());
                folder.entries.push(entry);
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => folder.damaged.push(Damaged { path: entry.path, error }),
        }
    }
}

/// Describes what is wrong with a file, without its path, which is shown next to it.
pub(crate) fn reason(path: &Path, error: &Error) -> String {
    let message = error.to_string();
    text::escaped(message.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&message))
}

/// The evaluations of the steps, as far as they are known.
struct Scores {
    by_step: BTreeMap<u64, Observation>,
    /// The scores to show.
    metrics: Vec<Metric>,
}

impl Scores {
    fn of(folder: &Folder) -> Self {
        let latest = folder.latest().and_then(|latest| Opened::open(&latest.path).ok());
        // A history that cannot be read is not what was asked for.
        let evaluations = latest.and_then(|latest| Evaluations::of(&latest).ok());
        let Some(evaluations) = evaluations else { return Scores { by_step: BTreeMap::new(), metrics: Vec::new() } };
        let mut metrics: Vec<Metric> = evaluations.metric().into_iter().collect();
        for other in [Metric::validation_accuracy(), Metric::validation_loss()] {
            if evaluations.names().contains(&other.name()) && metrics.iter().all(|metric| metric.name() != other.name())
            {
                metrics.push(other);
            }
        }
        let by_step = evaluations.observations.into_iter().map(|seen| (seen.iteration, seen)).collect();
        Scores { by_step, metrics }
    }

    /// The evaluation of a checkpoint. Of several checkpoints of a step it is that of the latest.
    fn find(&self, folder: &Folder, entry: &Entry) -> Option<&Observation> {
        let last = folder.entries.iter().rfind(|other| other.step() == entry.step())?;
        if last.path == entry.path { self.by_step.get(&entry.step()?) } else { None }
    }
}

fn is_same(one: Option<&Entry>, entry: &Entry) -> bool {
    one.is_some_and(|one| one.path == entry.path)
}

fn print(args: &Args, folder: &Folder, scores: &Scores, output: &mut Output) -> Result<()> {
    let mut table = Table::new().right("step");
    for metric in &scores.metrics {
        table = table.right(&title(metric.name()));
    }
    let mut table = table.right("score").right("size").right("saved").left("file").left("").left("");
    for entry in &folder.entries {
        let seen = scores.find(folder, entry);
        let mut cells = vec![entry.step().map_or(String::new(), |step| step.to_string())];
        for metric in &scores.metrics {
            cells.push(seen.and_then(|seen| metric.of(seen)).map_or("-".to_owned(), |value| metric.format(value)));
        }
        // A trainer's score is the iteration of an improvement.
        let score = entry.score().filter(|_| !entry.has_run && scores.metrics.is_empty());
        cells.push(score.map_or(String::new(), |score| score.to_string()));
        cells.push(entry.bytes.map_or(String::new(), text::bytes));
        cells.push(entry.modified.map_or(String::new(), text::age));
        cells.push(text::file_name(&entry.path));
        let is_latest = is_same(folder.latest(), entry) && entry.saved.is_some();
        let marks = [(is_same(folder.best(), entry), "best"), (is_latest, "latest")];
        cells.push(marks.iter().filter(|(is_set, _)| *is_set).map(|(_, mark)| *mark).collect::<Vec<_>>().join(", "));
        cells.push(match (args.verify, entry.is_sealed) {
            (true, true) => output.paint(GOOD, "valid"),
            (_, false) => "no checksums".to_owned(),
            (false, true) => String::new(),
        });
        table.row(cells);
    }
    output.table(&table)
}

/// The title of a column of scores, in two lines.
pub(crate) fn title(name: &str) -> String {
    let name = text::cut(name, 40);
    match name.rsplit_once('_') {
        Some((set, what)) => format!("{set}\n{what}"),
        None => name,
    }
}

fn json(args: &Args, folder: &Folder, scores: &Scores) -> Value {
    let checkpoints: Vec<Value> = folder
        .entries
        .iter()
        .map(|entry| {
            json!({
                "path": text::path(&entry.path),
                "step": entry.step(),
                "score": entry.score(),
                "scores": scores.find(folder, entry).map(scores_json),
                "bytes": entry.bytes,
                "modified": entry.modified.map(seconds),
                "best": is_same(folder.best(), entry),
                "latest": is_same(folder.latest(), entry),
                "checksums": entry.is_sealed,
                "verified": args.verify,
            })
        })
        .collect();
    json!({ "folder": text::path(&args.folder), "checkpoints": checkpoints, "damaged": damaged_json(&folder.damaged) })
}

pub(crate) fn damaged_json(damaged: &[Damaged]) -> Vec<Value> {
    let damaged = damaged.iter();
    damaged.map(|it| json!({ "path": text::path(&it.path), "reason": reason(&it.path, &it.error) })).collect()
}

/// The scores of an evaluation by their names.
pub(crate) fn scores_json(seen: &Observation) -> Value {
    seen.scores.iter().map(|(name, &score)| (name.clone(), number(score))).collect()
}

/// JSON has neither infinity nor NaN: they are text.
pub(crate) fn number(value: f64) -> Value {
    if value.is_finite() { Value::from(value) } else { Value::from(value.to_string()) }
}

/// Seconds since 1970.
pub(crate) fn seconds(time: std::time::SystemTime) -> f64 {
    time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
