//! `earlystop average`: the mean of several checkpoints.

use std::collections::BTreeMap;
use std::path::PathBuf;

use earlystop::checkpoint::{Metadata, NamedTensor, Saver, TensorInfo, Values};
use serde_json::json;

use crate::commands::export::copied;
use crate::elements;
use crate::failure::{Answer, Failure, Result, note};
use crate::folder::TRAINER;
use crate::opened::Opened;
use crate::output::{Output, Progress};
use crate::run;
use crate::target::Target;
use crate::text;

/// The metadata's key that names the files of an average.
const AVERAGED: &str = "averaged";

/// Average several checkpoints of one model
///
/// Averages the floating-point tensors. The result is a model, not a state to continue a training from: the state of the optimizer and of the trainer is left out.
/// The mean is computed in double precision and rounded once, to the type of the tensor. Tensors of other types, such as
/// counters, are taken from the last file. Metadata stays if it is the same in all files. All files are read completely first, to compare
/// their checksums, and then in pieces of 1 MB.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  earlystop average step-004600.safetensors step-004700.safetensors step-004800.safetensors -o mean.safetensors
  earlystop average checkpoints/run1/step-*.safetensors --output mean.safetensors --force")]
pub(crate) struct Args {
    /// The checkpoints, two or more: files, or URLs of files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<Answer> {
    if args.files.len() < 2 {
        return Err(Failure::message("expected two files or more"));
    }
    let mut progress = Progress::new(args.files.len() + 1);
    let mut inputs = Vec::new();
    for file in &args.files {
        progress.next(std::fs::metadata(file).ok().map(|metadata| metadata.len()));
        inputs.push(Opened::read(file)?);
    }
    args.target.check(&inputs)?;
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
        return Err(Failure::message("expected two files or more"));
    };
    let model: Vec<&TensorInfo> = first.infos().filter(|info| !run::is_of_optimizer(&info.name)).collect();
    let problems = problems(&inputs);
    if !problems.is_empty() {
        let title = "the files are not of one model, so nothing was written:".to_owned();
        return Err(Failure::Message([title].into_iter().chain(problems).collect()));
    }
    let (floats, others): (Vec<&TensorInfo>, Vec<&TensorInfo>) =
        model.into_iter().partition(|info| elements::is_float(info.dtype));
    if floats.is_empty() {
        return Err(Failure::message("there is no floating-point tensor of a model in these files"));
    }
    for info in &others {
        if inputs.iter().any(|input| input.bytes(&info.name).ok() != last.bytes(&info.name).ok()) {
            let name = text::escaped(&info.name);
            note(&format!("{name}: {} is not averaged: taken from {}", info.dtype, text::path(last.path())));
        }
    }
    let mut tensors: Vec<NamedTensor> = floats.iter().map(|info| mean(&inputs, info)).collect();
    tensors.extend(others.iter().map(|info| copied(last, info)));
    progress.next(None);
    let warnings = Saver::new().save(args.target.path(), &[&tensors], &metadata(&inputs))?;
    drop(progress);
    warnings.iter().for_each(|warning| note(&text::escaped(&warning.to_string())));
    let path = text::path(args.target.path());
    if output.is_json {
        let files = inputs.iter().map(|input| text::path(input.path())).collect::<Vec<_>>();
        output.json(&json!({ "path": path, "files": files, "averaged": floats.len(), "copied": others.len() }))?;
    } else {
        let copied = if others.is_empty() { String::new() } else { format!(", {} from the last file", others.len()) };
        let averaged = text::things(floats.len(), "tensor");
        output.line(format!("{path}: {averaged} averaged over {} files{copied}", inputs.len()))?;
    }
    Ok(Answer::Fine)
}

/// Everything that prevents averaging the other files with the first one.
fn problems(inputs: &[Opened]) -> Vec<String> {
    let mut problems = Vec::new();
    for input in inputs {
        for tensor in input.unsupported() {
            let (path, name) = (text::path(input.path()), text::escaped(&tensor.name));
            problems.push(format!("{path}: {name} has the unknown type {}", text::escaped(&tensor.dtype)));
        }
    }
    let described = |input: &Opened| -> BTreeMap<String, String> {
        let model = input.infos().filter(|info| !run::is_of_optimizer(&info.name));
        model.map(|info| (info.name.clone(), info.to_string())).collect()
    };
    let Some((first, others)) = inputs.split_first() else { return problems };
    let (expected, origin) = (described(first), text::path(first.path()));
    for other in others {
        let (found, path) = (described(other), text::path(other.path()));
        for (name, info) in &expected {
            let shown = text::escaped(name);
            match found.get(name) {
                None => problems.push(format!("{path}: lacks {shown}, {info} in {origin}")),
                Some(it) if it != info => problems.push(format!("{path}: {shown} is {it}, but {info} in {origin}")),
                Some(_) => {}
            }
        }
        for (name, info) in found.iter().filter(|(name, _)| !expected.contains_key(*name)) {
            problems.push(format!("{path}: has {}, {info}, which {origin} lacks", text::escaped(name)));
        }
    }
    problems
}

/// The mean of a tensor, computed block by block while it is written.
fn mean<'a>(inputs: &'a [Opened], info: &'a TensorInfo) -> NamedTensor<'a> {
    let values = Values::produced_by(info.dtype, info.shape.clone(), move |write| {
        let (mut bytes, mut sums, mut means) = (Vec::new(), Vec::new(), Vec::new());
        for block in elements::blocks(elements::size(info)) {
            sums.clear();
            sums.resize((block.end - block.start) as usize * 8 / info.dtype.bitsize(), 0.0);
            for input in inputs {
                elements::read_block(input, &info.name, &block, &mut bytes)?;
                elements::decode(info.dtype, &bytes, |(index, value)| sums[index] += value);
            }
            means.clear();
            sums.iter().for_each(|sum| elements::encode(info.dtype, sum / inputs.len() as f64, &mut means));
            write(&means)?;
        }
        Ok(())
    });
    NamedTensor::new(info.name.clone(), values)
}

/// The metadata that all files share, without the trainer's state, and the names of the files.
fn metadata(inputs: &[Opened]) -> Metadata {
    let Some((first, others)) = inputs.split_first() else { return Metadata::new() };
    let mut metadata = first.metadata().clone();
    metadata.retain(|key, value| key != TRAINER && others.iter().all(|other| other.metadata().get(key) == Some(value)));
    let files: Vec<String> = inputs.iter().map(|input| text::file_name(input.path())).collect();
    metadata.insert(AVERAGED.to_owned(), json!(files).to_string());
    metadata
}
