//! How a command ends.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::text::escaped;

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// The answer of a command that did its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Success.
    Fine,
    /// Different, damaged, or nothing found.
    Otherwise,
}

impl Answer {
    pub(crate) fn fine_if(is_fine: bool) -> Self {
        if is_fine { Answer::Fine } else { Answer::Otherwise }
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was found.
    Nothing(String),
    /// Any other failure. The lines are escaped.
    Message(Vec<String>),
    /// The output cannot be written, for example because the pipe is closed.
    Output(io::Error),
}

impl Failure {
    pub(crate) fn message(text: impl AsRef<str>) -> Self {
        Failure::Message(vec![escaped(text.as_ref())])
    }
}

impl From<earlystop::Error> for Failure {
    fn from(error: earlystop::Error) -> Self {
        Failure::message(error.to_string())
    }
}

/// Prints a note to standard error.
pub(crate) fn note(text: &str) {
    // There is nobody to tell if it is closed.
    let _ = writeln!(io::stderr(), "earlystop: {text}");
}

/// Says what went wrong, and returns the exit status: 0 if all is fine, 1 for an answer that is not, 2 for a failure.
pub(crate) fn end(result: Result<Answer>) -> ExitCode {
    let (status, lines) = match result {
        Ok(Answer::Fine) => (0, Vec::new()),
        Ok(Answer::Otherwise) => (1, Vec::new()),
        Err(Failure::Nothing(text)) => (1, vec![text]),
        Err(Failure::Message(lines)) => (2, lines),
        // Whoever reads the output has seen enough, as `head` has.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => (0, Vec::new()),
        Err(Failure::Output(error)) => (2, vec![format!("cannot write the output: {error}")]),
    };
    for (index, line) in lines.iter().enumerate() {
        if index == 0 {
            note(line);
        } else {
            let _ = writeln!(io::stderr(), "  {line}");
        }
    }
    ExitCode::from(status)
}
