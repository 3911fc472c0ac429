//! A file with one line for each evaluation, kept in line with the history of the run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::early_stopping::Observation;
use crate::error::{Error, Result, io_error};
use crate::trainer::{Event, Progress};

/// The columns before the scores.
pub(super) const COLUMNS: [&str; 4] = ["iteration", "elapsed_seconds", "improved", "learning_rate"];

/// What is to be written of an evaluation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) iteration: u64,
    pub(super) elapsed: Option<Duration>,
    pub(super) improved: bool,
    pub(super) learning_rate: f64,
    pub(super) scores: &'a BTreeMap<String, f64>,
}

/// A line of a file: what is compared with the history, and its text without the line break.
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    pub(super) iteration: u64,
    pub(super) scores: BTreeMap<String, f64>,
    pub(super) text: String,
}

/// A line that the logger has not written.
#[derive(Debug)]
pub(super) struct Problem {
    /// The number of the line, from 0.
    pub(super) line: usize,
    pub(super) expected: String,
    pub(super) found: String,
}

/// How rows are written and read.
pub(super) trait Format: Default {
    /// What each file begins with.
    const BEGIN: &str;

    /// Reads complete lines, and takes on their columns.
    fn read(&mut self, text: &str) -> Result<Vec<Line>, Problem>;

    /// Adds columns for the scores that have none; returns whether there are such.
    fn add_columns(&mut self, row: &Row) -> bool;

    /// Returns the header, with its line break; nothing if the format has none.
    fn header(&self) -> String;

    /// Fills up a line to all columns.
    fn fill(&self, line: &mut String);

    /// Formats a row, without a line break.
    fn line(&self, row: &Row) -> String;
}

/// A file with one line for each evaluation.
#[derive(Debug)]
pub(super) struct Rows<F> {
    path: PathBuf,
    format: F,
    /// Open for appending, while a call trains.
    file: Option<File>,
}

impl<F: Format> Rows<F> {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), format: F::default(), file: None }
    }

    /// Makes the file that of the run so far: without later rows, and with all earlier ones.
    pub(super) fn begin(&mut self, progress: &Progress) -> Result<()> {
        self.file = None;
        let (mut lines, is_whole) = self.read()?;
        let (count, now) = (lines.len(), progress.iteration());
        if progress.has_work() && now == 0 {
            if count > 0 {
                self.set_aside()?;
            }
            self.format = F::default();
            return self.write(Vec::new(), &[]);
        }
        // A call that only reports may do so next to another process that trains on.
        if progress.has_work() {
            lines.retain(|line| line.iteration <= now);
        }
        self.compare(&lines, progress.history())?;
        let missing = progress.evaluations_after(lines.last().map_or(0, |line| line.iteration))?;
        if missing.is_empty() && !progress.has_work() {
            return Ok(());
        }
        if missing.is_empty() && lines.len() == count && is_whole {
            return self.open();
        }
        let rows: Vec<Row> = missing.iter().map(|(seen, improved)| row(seen, *improved, progress)).collect();
        self.write(lines, &rows)
    }

    /// Adds the row of an evaluation.
    pub(super) fn event(&mut self, event: &Event, progress: &Progress) -> Result<()> {
        let Event::Evaluated { observation, improved } = event else { return Ok(()) };
        let row = row(observation, *improved, progress);
        check_names(row.scores)?;
        if self.file.is_none() || self.format.add_columns(&row) {
            let (lines, _) = self.read()?;
            return self.write(lines, &[row]);
        }
        let line = self.format.line(&row) + "\n";
        let written = self.file.as_mut().map_or(Ok(()), |file| file.write_all(line.as_bytes()));
        written.map_err(io_error(&self.path, "write"))
    }

    /// Reads the lines of the file; says also whether it ends with a whole one. A file that is not there has none.
    fn read(&mut self) -> Result<(Vec<Line>, bool)> {
        self.format = F::default();
        match fs::metadata(&self.path) {
            Ok(found) if !found.is_file() => {
                return Err(self.refuse("", "a file", "something else: choose another path".to_owned()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((Vec::new(), true)),
            Err(error) => return Err(io_error(&self.path, "read")(error)),
        }
        let bytes = fs::read(&self.path).map_err(io_error(&self.path, "read"))?;
        // A crash can cut off the last line anywhere, also within a character.
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let rest = &bytes[whole..];
        let begin = F::BEGIN.as_bytes();
        let is_torn = whole > 0 || rest.starts_with(begin) || begin.starts_with(rest);
        let problem = |line, expected: String, found: &str| Problem { line, expected, found: found.to_owned() };
        let read = match std::str::from_utf8(&bytes[..whole]) {
            Ok(text) if is_torn => self.format.read(text),
            Ok(_) => Err(problem(0, format!("{} first", F::BEGIN), &String::from_utf8_lossy(rest))),
            Err(_) => Err(problem(0, "text in UTF-8".to_owned(), "other bytes")),
        };
        match read {
            Ok(lines) => Ok((lines, rest.is_empty())),
            Err(Problem { line, expected, found }) => {
                let found: String = found.chars().take(80).collect();
                let expected = format!("a log that this logger has written, with {expected}");
                let found = format!("{found:?}: choose another file, or move this one away");
                Err(self.refuse(&format!(", line {}", line + 1), &expected, found))
            }
        }
    }

    /// Refuses lines that are not of this run.
    fn compare(&self, lines: &[Line], history: &[Observation]) -> Result<()> {
        let (Some(first), Some(last)) = (history.first(), history.last()) else { return Ok(()) };
        // Of a history that begins or ends within the log, only this part can be compared.
        let known = lines.iter().filter(|line| (first.iteration..=last.iteration).contains(&line.iteration));
        for line in known {
            let same = history.binary_search_by_key(&line.iteration, |seen| seen.iteration);
            let seen = same.ok().map(|index| &history[index].scores);
            if seen.is_some_and(|scores| are_equal(scores, &line.scores)) {
                continue;
            }
            let expected = match seen {
                Some(scores) => format!("the log of this run, with {}", in_words(scores)),
                None => "the log of this run, which has no such evaluation".to_owned(),
            };
            let found = in_words(&line.scores);
            let found = format!("another run's, with {found}: choose another file, or move this one away");
            return Err(self.refuse(&format!(", iteration {}", line.iteration), &expected, found));
        }
        Ok(())
    }

    /// Renames the file: `log.csv` to `log.1.csv`, or the next number that is free.
    fn set_aside(&self) -> Result<()> {
        let extension = |number: u64| match self.path.extension() {
            Some(extension) => format!("{number}.{}", extension.to_string_lossy()),
            None => number.to_string(),
        };
        let mut names = (1..).map(|number| self.path.with_extension(extension(number)));
        let free = names.find(|name| fs::symlink_metadata(name).is_err()).unwrap_or_default();
        fs::rename(&self.path, free).map_err(io_error(&self.path, "rename"))
    }

    /// Replaces the file by one with these lines and these rows. A crash leaves the old one or the new one.
    fn write(&mut self, lines: Vec<Line>, rows: &[Row]) -> Result<()> {
        for row in rows {
            check_names(row.scores)?;
            self.format.add_columns(row);
        }
        let mut text = self.format.header();
        for mut line in lines.into_iter().map(|line| line.text).chain(rows.iter().map(|row| self.format.line(row))) {
            self.format.fill(&mut line);
            text += &line;
            text.push('\n');
        }
        self.open()?;
        self.file = None;
        let replace = || {
            let path = fs::canonicalize(&self.path)?; // of a link, the file that it leads to
            let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("")))?;
            file.write_all(text.as_bytes())?;
            file.as_file().set_permissions(fs::metadata(&path)?.permissions())?;
            file.persist(&path).map(drop).map_err(|error| error.error)
        };
        replace().map_err(io_error(&self.path, "write"))?;
        self.open()
    }

    /// Opens the file for appending, and makes it and its folder if they are not there.
    fn open(&mut self) -> Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(io_error(folder, "create the folder"))?;
        }
        let file = File::options().append(true).create(true).open(&self.path).map_err(io_error(&self.path, "open"))?;
        self.file = Some(file);
        Ok(())
    }

    fn refuse(&self, place: &str, expected: &str, found: String) -> Error {
        Error::data(format!("{}{place}", self.path.display()), expected, found)
    }
}

/// Formats a number so that reading it gives the same bits.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 || (1e-4..1e16).contains(&value.abs()) { value.to_string() } else { format!("{value:e}") }
}

/// Formats seconds to the millisecond.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

fn row<'a>(observation: &'a Observation, improved: bool, progress: &Progress) -> Row<'a> {
    Row {
        iteration: observation.iteration,
        elapsed: observation.elapsed,
        improved,
        learning_rate: progress.learning_rate(observation.iteration),
        scores: &observation.scores,
    }
}

/// Refuses names that cannot be told from the other columns or that break a line.
fn check_names(scores: &BTreeMap<String, f64>) -> Result<()> {
    match scores.keys().find(|name| COLUMNS.contains(&name.as_str()) || name.contains(['\n', '\r'])) {
        None => Ok(()),
        Some(name) => {
            let expected = format!("one line that is none of {}, which the log uses", COLUMNS.join(", "));
            Err(Error::data("name of a score", expected, format!("{name:?}")))
        }
    }
}

fn are_equal(a: &BTreeMap<String, f64>, b: &BTreeMap<String, f64>) -> bool {
    let is_same = |(a, b): (&f64, &f64)| a == b || a.is_nan() && b.is_nan();
    a.keys().eq(b.keys()) && a.values().zip(b.values()).all(is_same)
}

fn in_words(scores: &BTreeMap<String, f64>) -> String {
    let scores: Vec<_> = scores.iter().map(|(name, &score)| format!("{name} {}", number(score))).collect();
    scores.join(", ")
}
