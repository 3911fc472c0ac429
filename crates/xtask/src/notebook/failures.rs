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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::notebook::problem::list;
    use crate::notebook::samples::{code, notebook, printing, stderr};

    fn found(failing: serde_json::Value) -> String {
        list(&find(&notebook(&[printing(2, "before"), failing])))
    }

    #[test]
    fn what_is_printed_and_shown_is_no_failure() {
        assert_eq!(found(printing(3, "thread 'main' panicked at noon")), "");
    }

    #[test]
    fn a_compile_error_is_told_without_its_colours() {
        let error = json!({
            "output_type": "error", "ename": "Error", "evalue": "cannot add `&str` to `i32`",
            "traceback": [
                "\u{1b}[31m[E0277] Error:\u{1b}[0m cannot add `&str` to `i32`",
                "   \u{1b}[38;5;246m╭\u{1b}[0m\u{1b}[38;5;246m─\u{1b}[0m[ command_3:1:1 ]",
            ],
        });
        let expected =
            "cell 2 (`let a = 1 + \"5\";`): [E0277] Error: cannot add `&str` to `i32`\n   ╭─[ command_3:1:1 ]\n";
        assert_eq!(found(code("let a = 1 + \"5\";", 3, &[error])), expected);
    }

    #[test]
    fn the_end_of_the_process_is_told_in_the_kernels_words() {
        let said = "Subprocess terminated with status: signal: 6 (SIGABRT) (core dumped)";
        let error = json!({"output_type": "error", "ename": "Error", "evalue": said, "traceback": [said]});
        assert_eq!(found(code("abort()", 3, &[error])), format!("cell 2 (`abort()`): {said}\n"));
    }

    #[test]
    fn a_panic_is_told_without_its_backtrace() {
        let said = "\nthread '<unnamed>' (31985) panicked at src/lib.rs:99:21:\nindex out of bounds: the len is 1\n\
                    stack backtrace:\n   0: __rustc::rust_begin_unwind\n";
        let expected = "cell 2 (`show()`): thread '<unnamed>' (31985) panicked at src/lib.rs:99:21:\n\
                        index out of bounds: the len is 1\n";
        assert_eq!(found(stderr(3, said)), expected);
    }

    #[test]
    fn any_other_words_on_stderr_may_be_an_error_passed_on() {
        let expected = "cell 2 (`show()`): a `?` error, or something else on stderr:\nno such file\n";
        assert_eq!(found(stderr(3, "no such file\n")), expected);
    }
}
