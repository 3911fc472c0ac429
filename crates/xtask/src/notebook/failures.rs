//! Finds the cells that failed. A compile error is an output of its own; a panic and a `?` error are not:
//! evcxr answers "ok" to both, and only what they print on stderr tells.

use super::ipynb::{Cell, Notebook, Output};
use super::problem::Problem;

/// One problem for each cell that did not do what it should.
pub(super) fn find(notebook: &Notebook) -> Vec<Problem> {
    notebook.code().filter_map(|place| message(place.1).map(|message| Problem::in_cell(place, message))).collect()
}

fn message(cell: &Cell) -> Option<String> {
    let errors: Vec<String> = cell.outputs.iter().filter_map(error).collect();
    if !errors.is_empty() {
        return Some(errors.join("\n"));
    }
    let said = without_backtrace(&cell.stream("stderr"));
    match said.trim() {
        "" => None,
        panic if is_panic(panic) => Some(panic.to_owned()),
        said => Some(format!("a `?` error, or something else on stderr:\n{said}")),
    }
}

/// The compiler's message with its drawing of the code, or the kernel's words on why the process ended.
fn error(output: &Output) -> Option<String> {
    let Output::Error { message, traceback } = output else {
        return None;
    };
    let report = without_colours(traceback);
    if report.contains(message.as_str()) { Some(report) } else { Some(format!("{message}\n{report}")) }
}

/// Whether a text has the panic line: "thread 'main' (123) panicked at src/lib.rs:3:5:".
pub(super) fn is_panic(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("thread '") && line.contains("panicked at "))
}

fn without_backtrace(stderr: &str) -> String {
    let lines = stderr.lines().filter(|line| !line.starts_with("note: "));
    lines.take_while(|line| *line != "stack backtrace:").map(|line| format!("{line}\n")).collect()
}

/// Drops the terminal's colour codes (ESC `[` … `m`).
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default();
    parts.fold(first.to_owned(), |plain, part| plain + part.split_once('m').map_or(part, |(_, rest)| rest))
}
