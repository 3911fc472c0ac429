//! `earlystop export`: a part of a checkpoint as a file of its own.

use std::path::PathBuf;

use earlystop::checkpoint::{Checkpoint, NamedTensor, Saver, TensorInfo, Values};
use glob::Pattern;
use serde_json::json;

use crate::elements;
use crate::failure::{Answer, Failure, Result, note};
use crate::folder::{TRAINER, open_latest};
use crate::output::{Output, Progress};
use crate::run;
use crate::target::Target;
use crate::text;

/// Write some tensors of a checkpoint into a file of their own
///
/// Keeps the metadata, except for the trainer's state: the result is a model, not a state to continue a training from. Of a folder,
/// exports from the latest checkpoint. The file is read completely first, to compare its checksums, and then in pieces of 1 MB.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  earlystop export checkpoints/run1/step-004800.safetensors --without-optimizer -o model.safetensors
  earlystop export checkpoints/run1 --only 'layer_conv*' --only 'layer_fc1.*' -o layers.safetensors")]
pub(crate) struct Args {
    /// A file, a folder or a URL
    path: PathBuf,
    /// Only tensors whose names match: `*` stands for any characters, `?` for one, `[ab]` for one of these; may be given several times
    #[arg(long, value_name = "PATTERN", value_parser = Pattern::new)]
    only: Vec<Pattern>,
    /// Leave out the state of the optimizer (adam.*, adam_w.*, sgd.*, rms_prop.*)
    #[arg(long)]
    without_optimizer: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<Answer> {
    let mut progress = Progress::new(2);
    let mut input = [open_latest(&args.path)?];
    args.target.check(&input)?;
    progress.next(Some(input[0].file_bytes()));
    input[0].verify()?;
    let [checkpoint] = &input;
    let is_wanted = |name: &str| {
        (args.only.is_empty() || args.only.iter().any(|pattern| pattern.matches(name)))
            && !(args.without_optimizer && run::is_of_optimizer(name))
    };
    if let Some(tensor) = checkpoint.unsupported().find(|tensor| is_wanted(&tensor.name)) {
        let name = text::escaped(&tensor.name);
        return Err(Failure::message(format!("{name}: its type {} is unknown: leave it out by --only", tensor.dtype)));
    }
    let wanted: Vec<&TensorInfo> = checkpoint.infos().filter(|info| is_wanted(&info.name)).collect();
    if wanted.is_empty() {
        let path = text::path(checkpoint.path());
        return Err(Failure::Nothing(format!("{path}: no tensor is wanted: `earlystop show` lists the names")));
    }
    let tensors: Vec<NamedTensor> = wanted.iter().map(|info| copied(checkpoint, info)).collect();
    let mut metadata = checkpoint.metadata().clone();
    metadata.remove(TRAINER);
    progress.next(Some(wanted.iter().map(|info| elements::size(info)).sum()));
    let warnings = Saver::new().save(args.target.path(), &[&tensors], &metadata)?;
    drop(progress);
    warnings.iter().for_each(|warning| note(&text::escaped(&warning.to_string())));
    let path = text::path(args.target.path());
    let all = checkpoint.infos().count() + checkpoint.unsupported().count();
    if output.is_json {
        let from = text::path(checkpoint.path());
        output.json(&json!({ "path": path, "from": from, "tensors": wanted.len(), "of": all }))?;
    } else {
        output.line(format!("{path}: {} of {}", text::count(wanted.len() as u64), text::things(all, "tensor")))?;
    }
    Ok(Answer::Fine)
}

/// A tensor that is copied block by block while it is written.
pub(crate) fn copied<'a>(checkpoint: &'a Checkpoint, info: &'a TensorInfo) -> NamedTensor<'a> {
    let values = Values::produced_by(info.dtype, info.shape.clone(), move |write| {
        let mut bytes = Vec::new();
        elements::blocks(elements::size(info)).try_for_each(|block| {
            elements::read_block(checkpoint, &info.name, &block, &mut bytes)?;
            write(&bytes)
        })
    });
    NamedTensor::new(info.name.clone(), values)
}
