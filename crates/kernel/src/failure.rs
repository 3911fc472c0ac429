//! Errors as clients display them: name, message, and a traceback with the line in the cell.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ariadne::sources;
use evcxr::{CompilationError, Theme};
use serde_json::{Value, json};

use crate::history::History;
use crate::{locate, syntax};

/// An `error` output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    name: String,
    message: String,
    traceback: Vec<String>,
}

impl Failure {
    /// Creates a failure whose traceback is its message.
    pub(crate) fn new(name: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let traceback = format!("{}: {message}", red(name)).lines().map(str::to_owned).collect();
        Self { name: name.to_owned(), message, traceback }
    }

    pub(crate) fn content(&self) -> Value {
        json!({"ename": self.name, "evalue": self.message, "traceback": self.traceback})
    }

    /// The failure of an interrupted cell.
    pub(crate) fn interrupted() -> Self {
        Self::new("Interrupted", "stopped by the stop button; all variables are kept")
    }

    /// The failure of a cell whose process was killed by the stop button.
    pub(crate) fn killed() -> Self {
        Self::new("Interrupted", "the stop button killed the cell process; all variables are lost")
    }

    /// The failure of a cell whose process exited.
    pub(crate) fn ended(status: &str) -> Self {
        Self::new("ProcessEnded", format!("the cell process exited ({status}); all variables are lost"))
    }

    /// The failure of a cell that panicked. `source` is what was compiled; the cell is the latest of `history`.
    pub(crate) fn panic(panic: &Panic, source: &str, history: &History) -> Self {
        let mut failure = Self::new("panic", &panic.message);
        let cells = || history.latest_first();
        let place =
            locate::line_of(&panic.location).and_then(|line| locate::find(source, line, cells().map(|(_, code)| code)));
        match place {
            Some(place) => {
                let count = cells().nth(place.cell).map_or(0, |(count, _)| count);
                failure.traceback.extend(lines_of_cell(&format!("cell [{count}]"), &[(place.line, place.text)]));
            }
            None if panic.location.is_empty() => {}
            None => failure.traceback.push(format!("  {} {}", blue("-->"), panic.location)),
        }
        failure.traceback.extend(panic.backtrace.iter().cloned());
        failure
    }

    /// The failure of a cell that a `?` ended.
    pub(crate) fn question_mark(message: &str, code: &str) -> Self {
        let mut failure = Self::new("Error", message);
        let marks: Vec<(usize, &str)> = syntax::question_marks(code)
            .into_iter()
            .filter_map(|line| Some((line, code.lines().nth(line - 1)?)))
            .collect();
        let place = if marks.len() > 1 { "one of these `?`" } else { "the cell" };
        if !marks.is_empty() {
            failure.traceback.extend(lines_of_cell(place, &marks));
        }
        failure
    }

    /// The failures that evcxr reports for the cell `code`.
    pub(crate) fn of_evcxr(error: &evcxr::Error, code: &str, count: u32) -> Vec<Self> {
        let evcxr::Error::CompilationErrors(errors) = error else {
            return vec![Self::new("Error", error.to_string())];
        };
        errors.iter().map(|error| Self::compilation(error, code, count)).collect()
    }

    fn compilation(error: &CompilationError, code: &str, count: u32) -> Self {
        let mut failure = Self::new("Error", error.message());
        if !error.is_from_user_code() {
            return failure;
        }
        // The report panics if the compiler's columns do not fit the code.
        let drawing = catch_unwind(AssertUnwindSafe(|| drawing(error, code, count))).ok().flatten();
        failure.traceback = drawing.unwrap_or_else(|| plain(error));
        failure
    }
}

/// Returns the compiler's message with an annotated drawing of the code, which must be ASCII.
fn drawing(error: &CompilationError, code: &str, count: u32) -> Option<Vec<String>> {
    let name = format!("cell [{count}]");
    let report = error.build_report(name.clone(), code.to_owned(), Theme::Light)?;
    let mut drawing = Vec::new();
    report.write(sources([(name, code)]), &mut drawing).ok()?;
    Some(String::from_utf8_lossy(&drawing).lines().map(str::to_owned).collect())
}

/// Returns the compiler's message with the lines it refers to.
fn plain(error: &CompilationError) -> Vec<String> {
    let code = error.code().map_or(String::new(), |code| format!("[{code}] "));
    let mut text = vec![format!("{} {}", red(&format!("{code}Error:")), error.message())];
    for spanned in error.spanned_messages() {
        let Some(span) = &spanned.span else {
            text.push(spanned.label.clone());
            continue;
        };
        let numbered = spanned.lines.iter().enumerate();
        text.extend(numbered.map(|(index, line)| format!("{:4} | {line}", span.start_line + index)));
        if span.start_line == span.end_line {
            let marks = "^".repeat(span.end_column.saturating_sub(span.start_column).max(1));
            let space = " ".repeat(span.start_column.saturating_sub(1));
            text.push(format!("     | {space}{} {}", red(&marks), blue(&spanned.label)));
        } else {
            text.push(format!("     = {}", blue(&spanned.label)));
        }
    }
    text.extend(error.help().iter().map(|help| format!("help: {help}")));
    text
}

fn lines_of_cell(place: &str, lines: &[(usize, &str)]) -> Vec<String> {
    let mut text = vec![match lines {
        [(line, _)] => format!("  {} line {line} of {place}", blue("-->")),
        _ => format!("  {} {place}", blue("-->")),
    }];
    text.extend(lines.iter().map(|(number, line)| format!("{number:4} | {line}")));
    text
}

fn red(text: &str) -> String {
    format!("\u{1b}[31m{text}\u{1b}[0m")
}

fn blue(text: &str) -> String {
    format!("\u{1b}[34m{text}\u{1b}[0m")
}

/// A panic, as Rust prints it on stderr.
#[derive(Debug, PartialEq)]
pub(crate) struct Panic {
    pub(crate) message: String,
    /// `FILE:LINE:COLUMN`, or empty.
    pub(crate) location: String,
    backtrace: Vec<String>,
}

impl Panic {
    /// A panic that printed nothing, such as a resumed one.
    pub(crate) fn silent() -> Self {
        Self { message: "a panic without a message".into(), location: String::new(), backtrace: Vec::new() }
    }

    /// Finds the last panic in the text, and the index where its message starts.
    pub(crate) fn find_last(stderr: &str) -> Option<(usize, Self)> {
        let mut begin = None;
        let mut at = 0;
        for line in stderr.split_inclusive('\n') {
            if line.starts_with("thread '") && line.contains("' ") && line.contains(" panicked at ") {
                begin = Some((at, at + line.len(), line));
            }
            at += line.len();
        }
        let (begin, rest, head) = begin?;
        let location = head.rsplit(" panicked at ").next().unwrap_or("").trim_end().trim_end_matches(':');
        let is_message = |line: &&str| !line.starts_with("note: ") && *line != "stack backtrace:";
        let lines: Vec<&str> = stderr[rest..].lines().collect();
        let message: Vec<&str> = lines.iter().copied().take_while(is_message).collect();
        let backtrace = lines[message.len()..].iter().filter(|line| !line.starts_with("note: "));
        // Rust prints an empty line first.
        let begin = if stderr[..begin].ends_with("\n\n") || &stderr[..begin] == "\n" { begin - 1 } else { begin };
        let panic = Self {
            message: message.join("\n").trim_end().to_owned(),
            location: location.to_owned(),
            backtrace: backtrace.map(|line| (*line).to_owned()).collect(),
        };
        Some((begin, panic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STDERR: &str = "before\n\nthread 'main' (31) panicked at src/lib.rs:2:5:\nassertion failed\n  left: 1\n\
        note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";

    #[test]
    fn the_last_panic_is_found_with_all_lines_of_its_message() {
        let (begin, panic) = Panic::find_last(STDERR).unwrap();
        assert_eq!(&STDERR[..begin], "before\n");
        assert_eq!(
            (panic.message.as_str(), panic.location.as_str()),
            ("assertion failed\n  left: 1", "src/lib.rs:2:5")
        );
        let two = format!("{STDERR}\nthread '<unnamed>' (32) panicked at /x y/tch/src/lib.rs:9:1:\nlater\n");
        let (begin, panic) = Panic::find_last(&two).unwrap();
        assert_eq!((begin, panic.message.as_str()), (STDERR.len(), "later"));
        assert_eq!(panic.location, "/x y/tch/src/lib.rs:9:1");
        assert_eq!(Panic::find_last("thread pools\n"), None);
    }

    #[test]
    fn a_panic_names_the_line_of_its_cell() {
        let mut history = History::default();
        history.add(1, "fn f() {\n    g()\n}");
        history.add(2, "let a = 1;\nv[1];");
        let failure = |location: &str| {
            let panic = Panic { location: location.into(), ..Panic::silent() };
            Failure::panic(&panic, "x\nv[1];\nfn f() {\n    g()\n}\n", &history).traceback[1..].join("\n")
        };
        assert!(
            failure("src/lib.rs:2:1").ends_with("line 2 of cell [2]\n   2 | v[1];"),
            "{}",
            failure("src/lib.rs:2:1")
        );
        assert!(failure("src/lib.rs:4:1").ends_with("line 2 of cell [1]\n   2 |     g()"));
        assert!(failure("src/lib.rs:1:1").ends_with(" src/lib.rs:1:1"));
        assert_eq!(failure(""), "");
    }

    #[test]
    fn an_error_names_the_question_marks_that_it_may_come_from() {
        let traceback = |code: &str| Failure::question_mark("no such file", code).traceback.join("\n");
        assert!(traceback("let a = 1;\nf()?;").ends_with("line 2 of the cell\n   2 | f()?;"));
        assert!(traceback("f()?;\ng()?;").ends_with("one of these `?`\n   1 | f()?;\n   2 | g()?;"));
        assert_eq!(traceback("f()"), "\u{1b}[31mError\u{1b}[0m: no such file");
    }
}
