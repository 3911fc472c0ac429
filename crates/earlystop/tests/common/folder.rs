//! A run in a folder, and what resuming it reports.

use std::path::{Path, PathBuf};

use earlystop::Trainer;
use earlystop::checkpoint::Store;
use earlystop::early_stopping::Rule;
use earlystop::trainer::{Event, Resume};

use crate::common::builder;

/// Creates a folder with a run of so many iterations.
pub(crate) fn run_of(iterations: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = builder().stop_when(Rule::never()).checkpoints(folder.path()).build().unwrap();
    trainer.optimize(iterations, |_| ()).unwrap();
    folder
}

/// Resumes and returns the notes.
pub(crate) fn notes(trainer: &mut Trainer, resume: Resume) -> Vec<String> {
    let mut notes = Vec::new();
    let resumed = trainer.resume_from(resume, |event| match event {
        Event::Resumed { notes: found, .. } => notes.clone_from(found),
        event => panic!("{event}"),
    });
    assert!(resumed.unwrap());
    notes
}

pub(crate) fn latest(folder: &Path) -> PathBuf {
    Store::open(folder).unwrap().latest().unwrap().unwrap().path
}
