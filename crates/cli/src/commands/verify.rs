//! `earlystop verify`: reads checkpoints completely.

use std::path::{Path, PathBuf};

use earlystop::Error;
use serde_json::{Value, json};

use crate::commands::list::reason;
use crate::failure::{Answer, Failure, Result, note};
use crate::folder::{Folder, is_folder, is_gone};
use crate::opened::Opened;
use crate::output::{BAD, GOOD, Output, Progress};
use crate::text;

/// Read checkpoints completely and compare their checksums
///
/// Prints one line for each. A file of another program has no checksums: only its header and size can be checked. The exit status is 1 if any file is damaged. Reads in pieces of 256 kB.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  earlystop verify checkpoints/run1
  earlystop verify best.safetensors model.safetensors.index.json
  earlystop verify --json checkpoints/run1 | jq -r '.damaged[].path'")]
pub(crate) struct Args {
    /// Files, indices of several files, folders or URLs
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<Answer> {
    let (mut files, mut has_failed, mut is_damaged) = (Vec::new(), false, false);
    for path in &args.paths {
        if !is_folder(path) {
            files.push((path.clone(), true));
            continue;
        }
        let folder = Folder::read(path)?;
        if folder.entries.is_empty() && folder.damaged.is_empty() {
            note(&format!("{}: no checkpoints in this folder", text::path(path)));
            is_damaged = true; // nothing is found
        }
        files.extend(folder.entries.into_iter().map(|entry| (entry.path, false)));
        files.extend(folder.damaged.into_iter().map(|damaged| (damaged.path, false)));
    }
    let mut progress = Progress::new(files.len());
    let (mut valid, mut damaged) = (Vec::new(), Vec::new());
    for (path, is_named) in files {
        progress.next(std::fs::metadata(&path).ok().map(|metadata| metadata.len()));
        match Opened::read(&path) {
            Ok(checkpoint) if output.is_json => valid.push(json(&path, &checkpoint)),
            Ok(checkpoint) => print(&path, &checkpoint, output)?,
            // A training has deleted it since the folder was listed.
            Err(error) if is_gone(&error) && !is_named => {}
            Err(error @ Error::Io { .. }) => {
                has_failed = true;
                note(&text::escaped(&error.to_string()));
            }
            Err(error) => {
                is_damaged = true;
                if output.is_json {
                    damaged.push(json!({ "path": text::path(&path), "reason": reason(&path, &error) }));
                } else {
                    let word = output.paint(BAD, "damaged");
                    output.line(format!("{word}  {}: {}", text::path(&path), reason(&path, &error)))?;
                }
            }
        }
    }
    drop(progress);
    if output.is_json {
        output.json(&json!({ "valid": valid, "damaged": damaged }))?;
    }
    // What could not be read was named above.
    if has_failed { Err(Failure::Message(Vec::new())) } else { Ok(Answer::fine_if(!is_damaged)) }
}

fn print(path: &Path, checkpoint: &Opened, output: &mut Output) -> Result<()> {
    let word = output.paint(GOOD, "valid");
    let without = if checkpoint.is_verified() { "" } else { ", without checksums" };
    output.line(format!("{word}    {} ({}{without})", text::path(path), text::bytes(checkpoint.file_bytes())))
}

fn json(path: &Path, checkpoint: &Opened) -> Value {
    json!({ "path": text::path(path), "bytes": checkpoint.file_bytes(), "checksums": checkpoint.is_verified() })
}
