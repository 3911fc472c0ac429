//! What went wrong, told in three parts: what was tried, what came out, what to do.

use std::fmt;
use std::path::Path;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
pub(crate) struct Error {
    tried: String,
    got: String,
    hint: String,
}

impl Error {
    /// Starts an error from what was tried, said as a verb: "make the Python environment .venv".
    pub(crate) fn new(tried: impl Into<String>) -> Self {
        Self { tried: tried.into(), got: String::new(), hint: String::new() }
    }

    /// Adds what came out instead: a program's last words, or what was found.
    pub(crate) fn got(mut self, got: impl Into<String>) -> Self {
        self.got = got.into();
        self
    }

    /// Adds what the reader can do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// An operation on a file or folder that the operating system refused.
    pub(crate) fn io(action: &str, path: &Path, source: &std::io::Error) -> Self {
        let error = Self::new(format!("{action} {}", path.display())).got(source.to_string());
        match source.kind() {
            std::io::ErrorKind::StorageFull => error.hint("Free some disk space and run the same command again."),
            _ => error,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "error: could not {}", self.tried)?;
        for (label, text) in [("what came out", &self.got), ("what to do", &self.hint)] {
            if !text.is_empty() {
                write!(f, "\n\n{label}:")?;
                for line in text.trim_end().lines() {
                    write!(f, "\n    {line}")?;
                }
            }
        }
        Ok(())
    }
}

impl From<lexopt::Error> for Error {
    fn from(source: lexopt::Error) -> Self {
        Self::new("read the command line").got(source.to_string()).hint("`cargo xtask help` lists the verbs.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_tried_what_came_out_and_what_to_do() {
        let error = Error::new("install the kernel").got("two\nlines\n").hint("Try again.");
        assert_eq!(
            error.to_string(),
            "error: could not install the kernel\n\nwhat came out:\n    two\n    lines\n\nwhat to do:\n    Try again."
        );
    }

    #[test]
    fn a_full_disk_is_recognized() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(Error::io("write", Path::new("/x/y"), &full).to_string().contains("Free some disk space"));
    }
}
