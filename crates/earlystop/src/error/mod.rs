//! The error type of the library.
//!
//! Every message contains everything that is known (path, name, what was expected, what was found and the cause),
//! because a notebook's `?` prints the outer message alone.

pub(crate) mod checkpoint;

use std::path::{Path, PathBuf};

pub use checkpoint::{CheckpointPart, LockHolder, Mismatch, TensorInfo, UnsupportedTensor};

#[cfg(feature = "torch")]
use crate::idx::IdxError;

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read, written or renamed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb: "read", "create the folder".
        action: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// A file is not the IDX file that was expected.
    #[cfg(feature = "torch")]
    #[error("{}: {source}{remedy}", path.display())]
    Idx {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdxError,
        /// What to do about it, where that is known: the end of the message.
        remedy: &'static str,
    },

    /// No source delivered the files that are absent.
    #[cfg(feature = "torch")]
    #[error("{}", not_fetched(dir, files, tried, mirror_variable))]
    Download {
        /// The folder that they belong in.
        dir: PathBuf,
        /// The names of the files that are absent.
        files: Vec<String>,
        /// Everything that was tried, with the reason why it failed.
        tried: Vec<String>,
        /// The environment variable that names one more source.
        mirror_variable: &'static str,
    },

    /// A file is not a complete, valid checkpoint.
    #[error("{}: {part}: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// The part of the file that is wrong.
        part: CheckpointPart,
        /// What is wrong: expected and found.
        problem: String,
    },

    /// A valid checkpoint that belongs to other variables than those to restore. Nothing was changed.
    #[error("{}: does not fit, so nothing was restored:{}", path.display(), lines(mismatches))]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// All that does not fit.
        mismatches: Vec<Mismatch>,
    },

    /// Another process saves into the folder.
    #[error("{}: {} saves into this folder: stop it first, or choose another folder", folder.display(), name_of(holder))]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The process, if it is known.
        holder: Option<LockHolder>,
    },

    /// A newer store of the same process has taken over the folder, for example because a notebook cell was run again.
    #[error("{}: a newer store has taken over this folder: save with that one, or open a new store", folder.display())]
    TakenOver {
        /// The folder.
        folder: PathBuf,
    },

    /// A tensor or a metadata key that no checkpoint can hold.
    #[error("cannot save or restore {name:?}: {problem}")]
    State {
        /// The tensor's name or the metadata's key.
        name: String,
        /// What is wrong with it.
        problem: String,
    },

    /// A setting is out of its range, or does not fit the others: a learning rate, an argument of a stopping rule, a path.
    #[error("{setting}: expected {expected}, found {found}")]
    Setting {
        /// The setting.
        setting: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },

    /// Examples, labels or other numbers have a shape or values that cannot be used.
    #[error("{what}: expected {expected}, found {found}")]
    Data {
        /// The argument, the set or the file.
        what: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },

    /// A layer, a variable or a whole model cannot be used in this way.
    #[error("{part}: expected {expected}, found {found}")]
    Model {
        /// The layer, the variable or the model.
        part: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },

    /// A loss cannot be used for training.
    #[error("loss: expected {expected}, found {found}")]
    Loss {
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },

    /// An evaluation cannot be recorded, or a history does not have what is needed.
    #[error("{what}: expected {expected}, found {found}")]
    History {
        /// The score, or what else of an evaluation.
        what: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },

    /// A text is not a stopping rule.
    #[error("character {position} of the rule {rule:?}: expected {expected}, found {found}")]
    RuleSyntax {
        /// The text.
        rule: String,
        /// The character at which the text is wrong, from 1.
        position: usize,
        /// What is expected there.
        expected: String,
        /// What is there.
        found: String,
    },

    /// There are no best variables to restore.
    #[error("cannot restore the best variables{}: {reason}", of_iteration(best))]
    NoBest {
        /// The iteration of the best evaluation, if there is one.
        best: Option<u64>,
        /// Why its variables are not available, and what to do.
        reason: String,
    },

    /// A name is not among the known ones.
    #[error("no {what} {name:?}: known are {}", known.join(", "))]
    UnknownName {
        /// What the name should have named: "layer", "variable".
        what: &'static str,
        /// The name.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },

    /// A folder contains the checkpoints of a run that the trainer has neither resumed nor deleted.
    #[error("{}: contains the checkpoints of another run: {}; start_over() deletes them", folder.display(), other_run(resume_error.as_deref()))]
    OtherRun {
        /// The folder.
        folder: PathBuf,
        /// Why the trainer could not resume that run, if it tried.
        resume_error: Option<String>,
    },

    /// A folder contains checkpoints, but none of them can be used.
    #[error("{}: none of the checkpoints in it can be used:{}\nput an undamaged copy there, or call start_over() to delete them and begin a new run", folder.display(), lines(reasons))]
    NoValidCheckpoint {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with each file.
        reasons: Vec<String>,
    },

    /// Another trainer has saved to the folder since this one resumed.
    #[error("{}: another trainer has continued this run, to iteration {iteration}: call resume() again", folder.display())]
    RunContinued {
        /// The folder.
        folder: PathBuf,
        /// The iteration of the latest checkpoint in it.
        iteration: u64,
    },

    /// A checkpoint was written by a run with other settings or other data. Nothing was changed.
    #[error("{}: written with other settings:{}\nuse these settings again, or accept the new ones by resume_from(Resume::latest().with_new_settings(), ..)", path.display(), lines(differences))]
    SettingsDiffer {
        /// The checkpoint.
        path: PathBuf,
        /// What differs, in the checkpoint and now.
        differences: Vec<String>,
    },

    /// A resumed run does not end like the run that was never interrupted.
    #[error("resumed after iteration {iteration}: {what} differs from the run that nobody interrupted: {how}")]
    ResumeDiffers {
        /// The iteration of the break.
        iteration: u64,
        /// The first tensor or evaluation that differs.
        what: String,
        /// Both values.
        how: String,
    },

    /// Another of the processes that train together has failed or left.
    #[error("process {process} failed: {reason}")]
    OtherProcess {
        /// The number of the process.
        process: usize,
        /// Its error.
        reason: String,
    },

    /// The processes that shall train together do not run the same program with the same settings and data.
    #[error("the processes differ:{}", lines(differences))]
    ProcessesDiffer {
        /// What differs, and in which process.
        differences: Vec<String>,
    },

    /// libtorch refused an operation.
    #[cfg(feature = "torch")]
    #[error("{context}: libtorch: {source}")]
    Torch {
        /// What was being done.
        context: String,
        /// What libtorch said.
        source: tch::TchError,
    },

    /// An error of a model or a data set of your own: see [`Error::other`].
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

#[cfg(feature = "torch")]
fn not_fetched(dir: &Path, files: &[String], tried: &[String], mirror_variable: &str) -> String {
    format!(
        "{}: cannot fetch {}; tried:\n  {}\nput these files there by hand, with or without .gz, \
         or set {mirror_variable} to the address of a folder that has them",
        dir.display(),
        files.join(", "),
        tried.join("\n  "),
    )
}

/// One line for each, below the first.
fn lines<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(|item| format!("\n  {item}")).collect()
}

impl Error {
    /// Takes any error, or a message, from a model or a data set of your own.
    ///
    /// ```
    /// use earlystop::Error;
    ///
    /// let error = Error::other("no photograph 17");
    /// assert_eq!(error.to_string(), "no photograph 17");
    /// ```
    pub fn other(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other(source.into())
    }

    /// Refuses a tensor or a metadata key.
    pub(crate) fn state(name: &str, problem: impl Into<String>) -> Self {
        Self::State { name: name.to_owned(), problem: problem.into() }
    }

    /// Refuses a setting.
    pub(crate) fn setting(setting: impl Into<String>, expected: impl ToString, found: impl ToString) -> Self {
        Self::Setting { setting: setting.into(), expected: expected.to_string(), found: found.to_string() }
    }

    /// Refuses data.
    pub(crate) fn data(what: impl Into<String>, expected: impl ToString, found: impl ToString) -> Self {
        Self::Data { what: what.into(), expected: expected.to_string(), found: found.to_string() }
    }

    /// Refuses a part of a model.
    pub(crate) fn model(part: impl Into<String>, expected: impl ToString, found: impl ToString) -> Self {
        Self::Model { part: part.into(), expected: expected.to_string(), found: found.to_string() }
    }

    /// Refuses a loss.
    pub(crate) fn loss(expected: impl ToString, found: impl ToString) -> Self {
        Self::Loss { expected: expected.to_string(), found: found.to_string() }
    }

    /// Refuses an evaluation.
    pub(crate) fn history(what: impl Into<String>, expected: impl ToString, found: impl ToString) -> Self {
        Self::History { what: what.into(), expected: expected.to_string(), found: found.to_string() }
    }
}

/// Turns an error of the operating system into ours, with what could not be done to `path`.
pub(crate) fn io_error(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { path: path.to_owned(), action, source }
}

/// For the caller's own operations on tensors.
#[cfg(feature = "torch")]
impl From<tch::TchError> for Error {
    fn from(source: tch::TchError) -> Self {
        torch("a tensor operation")(source)
    }
}

/// Turns libtorch's error into ours, with what was being done.
#[cfg(feature = "torch")]
pub(crate) fn torch(context: impl Into<String>) -> impl FnOnce(tch::TchError) -> Error {
    let context = context.into();
    |source| Error::Torch { context, source }
}

fn of_iteration(best: &Option<u64>) -> String {
    best.map_or_else(String::new, |best| format!(", of iteration {best}"))
}

fn other_run(resume_error: Option<&str>) -> String {
    match resume_error {
        None => "resume() continues it".to_owned(),
        Some(error) => format!("it could not be resumed ({error})"),
    }
}

fn name_of(holder: &Option<LockHolder>) -> String {
    holder.as_ref().map_or_else(|| "another process".to_owned(), LockHolder::to_string)
}
