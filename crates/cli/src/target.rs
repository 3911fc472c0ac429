//! The file that a command is asked to write.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};
use crate::opened::{Opened, is_url};
use crate::text;
use clap::Args;

/// Where to write.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The file to write
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Replace OUT if it exists; never one of the files that are read
    #[arg(long)]
    force: bool,
}

impl Target {
    pub(crate) fn path(&self) -> &Path {
        &self.output
    }

    /// Refuses a file that exists, unless it may be replaced, and one that is read.
    pub(crate) fn check(&self, inputs: &[Opened]) -> Result<()> {
        let shown = text::path(&self.output);
        if is_url(&self.output) {
            return Err(Failure::message(format!("{shown}: cannot write to a URL: name a file to write")));
        }
        if self.output.is_dir() {
            return Err(Failure::message(format!("{shown}: this is a folder: name a file to write")));
        }
        // A state in several files is at the path without the ending of its index.
        let index = with_index(&self.output);
        let read = inputs.iter().flat_map(|input| input.files().chain([input.path().to_owned()]));
        let read = read.chain(inputs.iter().map(|input| with_index(input.path())));
        let read: Vec<PathBuf> = read.filter_map(|path| fs::canonicalize(path).ok()).collect();
        let mut there = [&self.output, &index].into_iter().filter_map(|path| fs::canonicalize(path).ok());
        if there.any(|path| read.contains(&path)) {
            return Err(Failure::message(format!("{shown}: this file is read: write to another one")));
        }
        refuse_existing(&self.output, self.force)?;
        refuse_existing(&index, self.force)
    }
}

/// Refuses a file that exists, unless it may be replaced.
pub(crate) fn refuse_existing(path: &Path, may_replace: bool) -> Result<()> {
    if may_replace || fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    Err(Failure::message(format!("{}: exists already: --force replaces it", text::path(path))))
}

fn with_index(path: &Path) -> PathBuf {
    let mut index = path.as_os_str().to_owned();
    index.push(".index.json");
    index.into()
}
