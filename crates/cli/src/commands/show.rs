//! `earlystop show`: what a checkpoint contains.

use std::cmp::Reverse;
use std::path::PathBuf;

use earlystop::checkpoint::{Checkpoint, TensorInfo};
use serde_json::{Map, Value, json};

use crate::commands::history::table_of;
use crate::commands::list::seconds;
use crate::elements::{self, Statistics};
use crate::failure::{Answer, Result, note};
use crate::folder::{Entry, TRAINER, open_latest};
use crate::opened::Opened;
use crate::output::{Output, Progress, Table};
use crate::run::{self, Evaluations, Run};
use crate::text;

/// Show what a checkpoint contains
///
/// Shows tensors, settings, environment, metadata and the end of the history. Reads headers only, unless --values is given. Of a folder, shows the latest checkpoint.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  earlystop show checkpoints/run1
  earlystop show checkpoints/run1/step-004800.safetensors
  earlystop show --largest 10 model.safetensors.index.json
  earlystop show --values checkpoints/run1/step-004800.safetensors
  earlystop show --json model.safetensors | jq '.settings.batch_size'")]
pub(crate) struct Args {
    /// A file, the index of several files, a folder or a URL
    path: PathBuf,
    /// Read the tensors and show statistics of their values, for example to find weights that are NaN or all zero
    #[arg(long)]
    values: bool,
    /// Show the largest N tensors only
    #[arg(long, value_name = "N")]
    largest: Option<usize>,
}

/// How many evaluations are shown.
const LAST: usize = 5;

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<Answer> {
    let mut checkpoint = open_latest(&args.path)?;
    if args.values {
        let mut progress = Progress::new(1);
        progress.next(Some(checkpoint.file_bytes()));
        checkpoint.verify()?;
    }
    let checkpoint = &checkpoint;
    let run = Run::of(checkpoint.metadata());
    if output.is_json {
        output.json(&json(args, checkpoint, run)?)?;
        return Ok(Answer::Fine);
    }
    let entry = Entry::of(checkpoint);
    output.line(text::path(checkpoint.path()))?;
    let mut facts = Vec::new();
    facts.extend(entry.step().map(|step| format!("step {step}")));
    facts.extend(entry.score().filter(|_| !entry.has_run).map(|score| format!("score {score}")));
    facts.push(format!(
        "{} in {}",
        text::bytes(checkpoint.file_bytes()),
        text::things(checkpoint.files().count(), "file")
    ));
    facts.extend(entry.modified.map(|modified| format!("saved {}", text::age(modified))));
    facts.push(if entry.is_sealed { "with checksums" } else { "without checksums" }.to_owned());
    output.line(facts.join(", "))?;

    print_tensors(args, checkpoint, output)?;
    let has_run = run.is_some();
    if let Some(Run { settings, environment, .. }) = run {
        print_object("settings", &settings, output)?;
        print_object("environment", &environment, output)?;
    }
    let others = checkpoint.metadata().iter().filter(|(key, _)| !has_run || *key != TRAINER);
    print_pairs("metadata", others.map(|(key, value)| (key.clone(), value.clone())).collect(), output)?;
    print_history(checkpoint, output)?;
    Ok(Answer::Fine)
}

/// The tensors to show, in the order of the file or by their size.
fn shown<'a>(args: &Args, checkpoint: &'a Checkpoint) -> Vec<&'a TensorInfo> {
    let mut infos: Vec<&TensorInfo> = checkpoint.infos().collect();
    if let Some(count) = args.largest {
        infos.sort_by_key(|info| Reverse(elements::size(info)));
        infos.truncate(count);
    }
    infos
}

fn print_tensors(args: &Args, checkpoint: &Checkpoint, output: &mut Output) -> Result<()> {
    let mut table = Table::new().left("tensor").left("type").left("shape").right("size");
    table = table.right("min").right("max").right("mean").right("deviation").right("NaN").right("infinite");
    for info in shown(args, checkpoint) {
        let mut cells = vec![text::escaped(&info.name), info.dtype.to_string(), format!("{:?}", info.shape)];
        let statistics = if args.values { Some(Statistics::of(checkpoint, info)?) } else { None };
        cells.push(if args.values { String::new() } else { text::bytes(elements::size(info)) });
        cells.extend(value_cells(statistics));
        table.row(cells);
    }
    if args.largest.is_none() {
        for tensor in checkpoint.unsupported() {
            let [name, dtype] = [&tensor.name, &tensor.dtype].map(|text| text::escaped(text));
            let size = if args.values { "" } else { "?" }.to_owned();
            table.row([vec![name, dtype, format!("{:?}", tensor.shape), size], value_cells(None).into()].concat());
        }
    }
    let (mut all, mut optimizer) = ([0u64; 3], [0u64; 3]);
    for info in checkpoint.infos() {
        let add = [1, elements::count(&info.shape), elements::size(info)];
        all.iter_mut().zip(add).for_each(|(sum, value)| *sum = sum.saturating_add(value));
        if run::is_of_optimizer(&info.name) {
            optimizer.iter_mut().zip(add).for_each(|(sum, value)| *sum = sum.saturating_add(value));
        }
    }
    if !table.is_empty() {
        output.line("")?;
        output.table(&table)?;
    }
    let sum = |[tensors, elements, bytes]: [u64; 3]| {
        let tensors = text::things(tensors as usize, "tensor");
        format!("{tensors}, {} elements, {}", text::count(elements), text::bytes(bytes))
    };
    output.line("")?;
    output.line(sum(all))?;
    if optimizer[0] > 0 {
        let model = [0, 1, 2].map(|index| all[index] - optimizer[index]);
        output.line(format!("  model:      {}", sum(model)))?;
        output.line(format!("  optimizer:  {}", sum(optimizer)))?;
    }
    let unsupported = checkpoint.unsupported().count();
    if unsupported > 0 {
        output.line(format!("and {} of an unknown type", text::things(unsupported, "tensor")))?;
    }
    Ok(())
}

fn value_cells(statistics: Option<Statistics>) -> [String; 6] {
    let Some(it) = statistics else { return Default::default() };
    let of_finite = |value: f64| if it.finite == 0 { String::new() } else { text::small(value) };
    let some = |count: u64| if count == 0 { String::new() } else { text::count(count) };
    let [min, max, mean] = [it.min, it.max, it.mean].map(of_finite);
    [min, max, mean, of_finite(it.deviation()), some(it.nan), some(it.infinite)]
}

fn print_object(title: &str, object: &Map<String, Value>, output: &mut Output) -> Result<()> {
    print_pairs(title, run::flat(object), output)
}

fn print_pairs(title: &str, pairs: Vec<(String, String)>, output: &mut Output) -> Result<()> {
    if pairs.is_empty() {
        return Ok(());
    }
    let mut table = Table::new().left("").left("");
    for (name, value) in pairs {
        table.row(vec![format!("  {}", text::cut(&name, 60)), short(&value)]);
    }
    output.title(title)?;
    let (_, rows) = table.lines();
    rows.iter().try_for_each(|row| output.line(row))
}

/// Cuts long values; of a checksum the first digits are enough.
pub(crate) fn short(value: &str) -> String {
    let is_checksum = value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    text::cut(value, if is_checksum { 12 } else { 200 })
}

fn print_history(checkpoint: &Opened, output: &mut Output) -> Result<()> {
    // It is next to the checkpoint, which can be shown without it.
    let evaluations = match Evaluations::of(checkpoint) {
        Ok(evaluations) => evaluations,
        Err(failure) => {
            if let crate::failure::Failure::Message(lines) = failure {
                lines.iter().for_each(|line| note(line));
            }
            return Ok(());
        }
    };
    if let Some(why) = &evaluations.missing {
        note(&format!("the beginning of the history is missing: {}", text::escaped(why)));
    }
    let (Some(last), Some(metric)) = (evaluations.observations.last(), evaluations.metric()) else { return Ok(()) };
    let count = text::things(evaluations.observations.len(), "evaluation");
    output.title(&format!("history: {count}, the last at iteration {}", last.iteration))?;
    let names = evaluations.names();
    let first = evaluations.observations.len().saturating_sub(LAST);
    output.table(&table_of(&evaluations.observations[first..], &names, evaluations.best(&metric)))?;
    let best =
        evaluations.best(&metric).and_then(|best| evaluations.observations.iter().find(|it| it.iteration == best));
    if let Some((best, value)) = best.and_then(|best| Some((best, metric.of(best)?))) {
        let metric_name = text::escaped(&metric.to_string());
        output.line(format!("best: {metric_name} {} at iteration {}", metric.format(value), best.iteration))?;
    }
    Ok(())
}

fn json(args: &Args, checkpoint: &Opened, run: Option<Run>) -> Result<Value> {
    let entry = Entry::of(checkpoint);
    let mut tensors = Vec::new();
    for info in shown(args, checkpoint) {
        let (dtype, bytes) = (info.dtype.to_string(), elements::size(info));
        let mut tensor = json!({ "name": info.name, "dtype": dtype, "shape": info.shape, "bytes": bytes });
        if args.values {
            let it = Statistics::of(checkpoint, info)?;
            let of_finite = |value: f64| if it.finite == 0 { Value::Null } else { Value::from(value) };
            tensor["values"] = json!({
                "min": of_finite(it.min), "max": of_finite(it.max), "mean": of_finite(it.mean),
                "deviation": of_finite(it.deviation()), "nan": it.nan, "infinite": it.infinite,
            });
        }
        tensors.push(tensor);
    }
    let unknown = checkpoint.unsupported();
    let unknown = unknown.filter(|_| args.largest.is_none());
    let unknown =
        unknown.map(|it| json!({ "name": it.name, "dtype": it.dtype, "shape": it.shape, "bytes": Value::Null }));
    let metadata: Map<String, Value> = checkpoint
        .metadata()
        .iter()
        .filter(|(key, _)| run.is_none() || *key != TRAINER)
        .map(|(key, value)| (key.clone(), Value::from(value.clone())))
        .collect();
    let run = run.unwrap_or_default();
    Ok(json!({
        "path": text::path(checkpoint.path()),
        "files": checkpoint.files().map(|file| text::path(&file)).collect::<Vec<_>>(),
        "bytes": entry.bytes,
        "modified": entry.modified.map(seconds),
        "checksums": entry.is_sealed,
        "step": entry.step(),
        "score": entry.score(),
        "tensors": tensors.into_iter().chain(unknown).collect::<Vec<_>>(),
        "settings": run.settings,
        "environment": run.environment,
        "metadata": metadata,
    }))
}
