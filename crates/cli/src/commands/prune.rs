//! `earlystop prune`: deletes checkpoints that are no longer needed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use earlystop::checkpoint::{Keep, Saved, Store};
use serde_json::{Value, json};

use crate::commands::list::damaged_json;
use crate::failure::{Answer, Failure, Result, note};
use crate::folder::Folder;
use crate::opened::{is_url, store};
use crate::output::{BAD, Output, Progress, Table};
use crate::text;

/// Delete the checkpoints of a folder, except those to keep
///
/// A checkpoint stays if any --keep holds it; the latest always stays. Does not ask for confirmation: try --dry-run first. Files that decide what is
/// deleted are read completely; damaged ones do not count and are never deleted, nor is any file that is not named like
/// `step-000100.safetensors`. Fails while a training is saving to the folder. At a URL, whose lock cannot be seen, the training
/// fails at its next save instead.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  earlystop prune checkpoints/run1 --keep last=3 --keep best=1 --dry-run
  earlystop prune checkpoints/run1 --keep last=3 --keep best=1 --keep every=1000")]
pub(crate) struct Args {
    /// The folder, or the URL of a store
    folder: PathBuf,
    /// Checkpoints to keep: last=N (most recently saved), best=N (highest scores) or every=STEPS (multiples of STEPS); may be given several times
    #[arg(long, value_name = "RULE", required = true)]
    keep: Vec<KeepRule>,
    /// Show what would be deleted, without deleting it
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy)]
enum KeepRule {
    Last(usize),
    Best(usize),
    Every(u64),
}

impl FromStr for KeepRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected last=N, best=N or every=STEPS, with a number of at least 1";
        let (name, number) = text.split_once('=').ok_or(expected)?;
        let number: u64 = number.parse().ok().filter(|&number| number > 0).ok_or(expected)?;
        let count = usize::try_from(number).unwrap_or(usize::MAX);
        match name {
            "last" => Ok(KeepRule::Last(count)),
            "best" => Ok(KeepRule::Best(count)),
            "every" => Ok(KeepRule::Every(number)),
            _ => Err(expected.to_owned()),
        }
    }
}

fn keep_of(rules: &[KeepRule]) -> Result<Keep> {
    let (mut last, mut best, mut every) = (None, None, None);
    for rule in rules {
        let is_twice = match *rule {
            KeepRule::Last(count) => last.replace(count).is_some(),
            KeepRule::Best(count) => best.replace(count).is_some(),
            KeepRule::Every(steps) => every.replace(steps).is_some(),
        };
        if is_twice {
            return Err(Failure::message("--keep: last, best and every may each be given once"));
        }
    }
    Ok(Keep::last(last.unwrap_or(1)).best(best.unwrap_or(0)).every(every.unwrap_or(0)))
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<Answer> {
    let keep = keep_of(&args.keep)?;
    // A folder that does not exist must not be created.
    let before = Folder::read(&args.folder)?;
    if before.entries.is_empty() && before.damaged.is_empty() {
        let folder = text::path(&args.folder);
        return Err(Failure::Nothing(format!("{folder}: no checkpoints in this folder")));
    }
    let sizes: BTreeMap<PathBuf, u64> =
        before.entries.iter().filter_map(|entry| Some((entry.path.clone(), entry.bytes?))).collect();
    let store = if is_url(&args.folder) { store(&args.folder)? } else { Store::open(&args.folder)? };
    let mut store = store.keep(keep);
    let mut progress = Progress::new(1);
    progress.next(Some(sizes.values().sum()));
    let mut deleted = store.prunable()?;
    // The folder is not touched where nothing is to be deleted.
    if !args.dry_run && !deleted.is_empty() {
        deleted = store.prune()?;
    }
    drop(progress);
    for warning in store.warnings() {
        note(&text::escaped(&warning.to_string()));
    }
    let mut kept = store.list()?;
    kept.retain(|saved| !deleted.iter().any(|deleted| deleted.path == saved.path));
    let size = |saved: &Saved| sizes.get(&saved.path).copied();
    if output.is_json {
        let json = |saved: &Saved| json!({ "path": text::path(&saved.path), "step": saved.step, "bytes": size(saved) });
        let [deleted, kept] = [&deleted, &kept].map(|list| list.iter().map(json).collect::<Vec<Value>>());
        let damaged = damaged_json(&before.damaged);
        let summary = json!({ "dry_run": args.dry_run, "deleted": deleted, "kept": kept, "damaged": damaged });
        output.json(&summary)?;
        return Ok(Answer::Fine);
    }
    let mut table = Table::new().left("").right("step").right("size").left("file");
    let verb = if args.dry_run { "would delete" } else { "deleted" };
    let mut all: Vec<(&str, &Saved)> = deleted.iter().map(|saved| (verb, saved)).collect();
    all.extend(kept.iter().map(|saved| ("kept", saved)));
    all.sort_by_key(|(_, saved)| (saved.commit, saved.step));
    for (what, saved) in &all {
        table.row(vec![
            (*what).to_owned(),
            saved.step.to_string(),
            size(saved).map_or(String::new(), text::bytes),
            text::file_name(&saved.path),
        ]);
    }
    output.table(&table)?;
    for damaged in &before.damaged {
        let word = output.paint(BAD, "damaged");
        output.line(format!("{word}, not touched: {}", text::file_name(&damaged.path)))?;
    }
    let bytes: Option<u64> = deleted.iter().map(size).sum();
    let bytes = bytes.map_or(String::new(), |bytes| format!(" ({})", text::bytes(bytes)));
    let (deleted, kept) = (text::things(deleted.len(), "checkpoint"), kept.len());
    output.line(format!("{verb} {deleted}{bytes}, kept {kept}"))?;
    Ok(Answer::Fine)
}
