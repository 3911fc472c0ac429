//! Finds the cells that failed: those with an error among their outputs.

use super::ipynb::{Cell, Notebook, Output};
use super::problem::Problem;

/// One problem for each cell that failed.
pub(super) fn find(notebook: &Notebook) -> Vec<Problem> {
    notebook.code().filter_map(|place| message(place.1).map(|message| Problem::in_cell(place, message))).collect()
}

/// The kernel's words, which name the line of the cell; all of them, where the compiler found several errors.
fn message(cell: &Cell) -> Option<String> {
    let errors: Vec<String> = cell.outputs.iter().filter_map(error).collect();
    (!errors.is_empty()).then(|| errors.join("\n"))
}

fn error(output: &Output) -> Option<String> {
    let Output::Error { message, traceback } = output else {
        return None;
    };
    let report = without_colours(traceback);
    if report.contains(message.as_str()) { Some(report) } else { Some(format!("{message}\n{report}")) }
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
        list(&find(&notebook(&[printing(1, "before"), failing])))
    }

    #[test]
    fn what_is_printed_and_shown_is_no_failure() {
        assert_eq!(found(printing(2, "thread 'main' panicked at noon")), "");
        assert_eq!(found(stderr(2, "no such file\n")), "");
    }

    #[test]
    fn errors_are_told_without_their_colours() {
        let error = json!({
            "output_type": "error", "ename": "Error", "evalue": "cannot add `&str` to `i32`",
            "traceback": [
                "\u{1b}[31m[E0277] Error:\u{1b}[0m cannot add `&str` to `i32`",
                "   \u{1b}[38;5;246m╭\u{1b}[0m\u{1b}[38;5;246m─\u{1b}[0m[ cell [2]:1:1 ]",
            ],
        });
        let expected =
            "cell 2 (`let a = 1 + \"5\";`): [E0277] Error: cannot add `&str` to `i32`\n   ╭─[ cell [2]:1:1 ]\n";
        assert_eq!(found(code("let a = 1 + \"5\";", 2, &[error])), expected);
    }

    #[test]
    fn a_message_that_the_text_does_not_have_stands_before_it() {
        let error = json!({"output_type": "error", "ename": "panic", "evalue": "no value", "traceback": ["line 2"]});
        assert_eq!(found(code("show()", 2, &[error])), "cell 2 (`show()`): no value\nline 2\n");
    }
}
