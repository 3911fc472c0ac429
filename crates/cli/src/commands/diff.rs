//! `earlystop diff`: how two checkpoints differ.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use earlystop::checkpoint::{Checkpoint, TensorInfo};
use serde_json::{Value, json};

use crate::commands::list::number;
use crate::commands::show::short;
use crate::elements::{self, Difference, Tolerance};
use crate::failure::{Answer, Result};
use crate::folder::{TRAINER, open_latest};
use crate::opened::Opened;
use crate::output::{Output, Progress, Table};
use crate::run::{self, Run};
use crate::text;

/// Compare two checkpoints: tensors, settings and metadata
///
/// Without a tolerance, elements differ if any bit of them does. Of a folder, compares the latest checkpoint. Both files are read
/// completely first, to compare their checksums, and then in pieces of 1 MB. Of the trainer's state, only the settings and the
/// environment are compared. The exit status is 1 if anything differs.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  earlystop diff checkpoints/run1/step-004800.safetensors checkpoints/run1/step-005800.safetensors
  earlystop diff --tolerance 1e-6 checkpoints/run1 checkpoints/run2
  earlystop diff --tensors-only ours.safetensors theirs.safetensors && echo equal")]
pub(crate) struct Args {
    /// A file, a folder or a URL
    a: PathBuf,
    /// Another file, folder or URL
    b: PathBuf,
    /// Ignore elements that differ by no more than this
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, value_parser = not_negative)]
    tolerance: f64,
    /// Ignore elements that differ by no more than this part of the element in B (added to --tolerance)
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, value_parser = not_negative)]
    relative: f64,
    /// Do not compare settings and metadata
    #[arg(long)]
    tensors_only: bool,
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err("expected a number that is not negative".to_owned()),
    }
}

/// What differs.
#[derive(Default)]
struct Report {
    only_in: [Vec<String>; 2],
    /// Tensors of another type or shape.
    unlike: Vec<(String, [String; 2])>,
    differing: Vec<(TensorInfo, Difference)>,
    /// Tensors of unknown types, of which the bytes were compared.
    differing_unknown: Vec<String>,
    /// The number of tensors that differ within the tolerance, and the greatest difference.
    within: (usize, f64),
    identical: usize,
    /// Names with both values.
    metadata: Vec<(String, [Option<String>; 2])>,
}

impl Report {
    fn is_empty(&self) -> bool {
        let Report { only_in, unlike, differing, differing_unknown, metadata, .. } = self;
        only_in.iter().all(Vec::is_empty)
            && unlike.is_empty()
            && differing.is_empty()
            && differing_unknown.is_empty()
            && metadata.is_empty()
    }
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<Answer> {
    let mut both = [open_latest(&args.a)?, open_latest(&args.b)?];
    let mut progress = Progress::new(3);
    for checkpoint in &mut both {
        progress.next(Some(checkpoint.file_bytes()));
        checkpoint.verify()?;
    }
    progress.next(Some(both[0].file_bytes() + both[1].file_bytes()));
    let report = compare(args, &both)?;
    drop(progress);
    if output.is_json {
        output.json(&json(&both, &report))?;
    } else {
        print(&both, &report, output)?;
    }
    Ok(Answer::fine_if(report.is_empty()))
}

fn compare(args: &Args, both: &[Opened; 2]) -> Result<Report> {
    let tolerance = Tolerance { absolute: args.tolerance, relative: args.relative };
    let mut report = Report::default();
    let [a, b] = both.each_ref().map(described);
    for (name, info) in &a {
        match b.get(name) {
            None => report.only_in[0].push(format!("{}: {info}", text::escaped(name))),
            Some(other) if other != info => {
                report.unlike.push(((*name).to_owned(), [info.to_string(), other.to_string()]));
            }
            Some(_) => {}
        }
    }
    let only_in_b = b.iter().filter(|(name, _)| !a.contains_key(*name));
    report.only_in[1] = only_in_b.map(|(name, info)| format!("{}: {info}", text::escaped(name))).collect();
    let is_alike = |name: &str| a.get(name).is_some_and(|info| b.get(name) == Some(info));
    for info in both[0].infos().filter(|info| is_alike(&info.name)) {
        let difference = elements::compare([&both[0], &both[1]], info, tolerance)?;
        if difference.differing > 0 {
            report.differing.push((info.clone(), difference));
        } else if difference.has_other_bytes {
            report.within = (report.within.0 + 1, report.within.1.max(difference.max_abs));
        } else {
            report.identical += 1;
        }
    }
    for tensor in both[0].unsupported().filter(|tensor| is_alike(&tensor.name)) {
        if both[0].bytes(&tensor.name)? == both[1].bytes(&tensor.name)? {
            report.identical += 1;
        } else {
            report.differing_unknown.push(tensor.name.clone());
        }
    }
    if !args.tensors_only {
        // Where only one has settings, that is all there is to say about them.
        let has_settings = both.iter().all(|checkpoint| Run::of(checkpoint.metadata()).is_some());
        let [a, b] = both.each_ref().map(|checkpoint| said(checkpoint, has_settings));
        let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        let pairs = keys.into_iter().map(|key| (key.clone(), [a.get(key).cloned(), b.get(key).cloned()]));
        report.metadata = pairs.filter(|(_, [a, b])| a != b).collect();
    }
    Ok(report)
}

/// The types and shapes of all tensors.
fn described(checkpoint: &Opened) -> BTreeMap<&str, String> {
    let known = checkpoint.infos().map(|info| (&*info.name, info.to_string()));
    let unknown = checkpoint.unsupported().map(|tensor| (&*tensor.name, text::escaped(&tensor.to_string())));
    known.chain(unknown).collect()
}

/// The settings, the environment and the other metadata.
fn said(checkpoint: &Checkpoint, with_settings: bool) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = checkpoint.metadata().clone();
    let Some(Run { settings, environment, .. }) = Run::of(checkpoint.metadata()) else { return all };
    all.insert(TRAINER.to_owned(), "settings and state of a run".to_owned());
    if with_settings {
        for (group, object) in [("settings", settings), ("environment", environment)] {
            all.extend(run::flat(&object).into_iter().map(|(name, value)| (format!("{group}.{name}"), value)));
        }
    }
    all
}

fn print(both: &[Opened; 2], report: &Report, output: &mut Output) -> Result<()> {
    for (letter, checkpoint) in ["A", "B"].iter().zip(both) {
        let step = checkpoint.saved().map_or(String::new(), |saved| format!(" (step {})", saved.step));
        output.line(format!("{letter}  {}{step}", text::path(checkpoint.path())))?;
    }
    if !report.differing.is_empty() {
        let mut table = Table::new().left("tensor").right("elements").right("differ").right("");
        table = table.right("max |a-b|").right("relative").right("NaN\nin A").right("NaN\nin B");
        let has_nan = report.differing.iter().any(|(_, difference)| difference.nan != [0, 0]);
        for (info, difference) in &report.differing {
            let count = elements::count(&info.shape);
            let percent = 100.0 * difference.differing as f64 / count as f64;
            let nan = difference.nan.map(|nan| if has_nan { text::count(nan) } else { String::new() });
            let [nan_a, nan_b] = nan;
            table.row(vec![
                text::escaped(&info.name),
                text::count(count),
                text::count(difference.differing),
                format!("{percent:.0}%"),
                text::small(difference.max_abs),
                text::small(difference.max_relative),
                nan_a,
                nan_b,
            ]);
        }
        output.line("")?;
        output.table(&table)?;
    }
    let names = |names: &[String]| names.iter().map(|name| text::escaped(name)).collect::<Vec<_>>();
    let unlike = report.unlike.iter().map(|(name, [a, b])| format!("{}: {a} | {b}", text::escaped(name)));
    let metadata = report.metadata.iter().map(|(name, values)| {
        let [a, b] = values.each_ref().map(|value| value.as_deref().map_or("-".to_owned(), short));
        format!("{}: {a} | {b}", text::cut(name, 60))
    });
    let lists = [
        ("only in A", report.only_in[0].clone()),
        ("only in B", report.only_in[1].clone()),
        ("of another type or shape", unlike.collect()),
        ("of an unknown type, other bytes", names(&report.differing_unknown)),
        ("settings and metadata, A | B", metadata.collect()),
    ];
    for (title, lines) in lists.into_iter().filter(|(_, lines)| !lines.is_empty()) {
        output.title(title)?;
        lines.iter().try_for_each(|line| output.line(format!("  {line}")))?;
    }
    output.line("")?;
    let differing = report.differing.len() + report.differing_unknown.len();
    if differing > 0 {
        output.line(format!("different: {}", text::things(differing, "tensor")))?;
    }
    if report.within.0 > 0 {
        let within = text::things(report.within.0, "tensor");
        output.line(format!("within the tolerance: {within}, max |a-b| {}", text::small(report.within.1)))?;
    }
    output.line(format!("identical: {}", text::things(report.identical, "tensor")))
}

fn json(both: &[Opened; 2], report: &Report) -> Value {
    let differing = report.differing.iter().map(|(info, difference)| {
        json!({
            "name": info.name,
            "dtype": info.dtype.to_string(),
            "shape": info.shape,
            "elements": elements::count(&info.shape),
            "differing": difference.differing,
            "max_absolute": number(difference.max_abs),
            "max_relative": number(difference.max_relative),
            "nan_a": difference.nan[0],
            "nan_b": difference.nan[1],
        })
    });
    let unlike = report.unlike.iter().map(|(name, [a, b])| json!({ "name": name, "a": a, "b": b }));
    let metadata = report.metadata.iter().map(|(name, [a, b])| json!({ "name": name, "a": a, "b": b }));
    json!({
        "a": text::path(both[0].path()),
        "b": text::path(both[1].path()),
        "equal": report.is_empty(),
        "only_in_a": report.only_in[0],
        "only_in_b": report.only_in[1],
        "unlike": unlike.collect::<Vec<_>>(),
        "differing": differing.collect::<Vec<_>>(),
        "differing_unknown_type": report.differing_unknown,
        "within_tolerance": report.within.0,
        "identical": report.identical,
        "metadata": metadata.collect::<Vec<_>>(),
    })
}
