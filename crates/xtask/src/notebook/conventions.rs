//! What every committed notebook keeps to: executed once from the top, nothing failed, nothing left over.

use std::collections::HashSet;

use super::ipynb::{Cell, CellKind, Notebook};
use super::problem::Problem;
use super::{failures, figures};
use crate::workspace::Workspace;

/// Where a path of somebody's machine starts.
const HOMES: [&str; 5] = ["/home/", "/root/", "/Users/", "\\Users\\", "/tmp/"];

pub(super) fn check(notebook: &Notebook) -> Vec<Problem> {
    let mut problems = check_format(notebook);
    problems.extend(failures::find(notebook));
    problems.extend(check_execution_counts(notebook));
    let root = Workspace::locate().root;
    for place in notebook.code() {
        problems
            .extend(check_outputs(place.1, &root.to_string_lossy()).map(|message| Problem::in_cell(place, message)));
        let pictures = place.1.shown("image/png").filter_map(|png| figures::check(&png).err());
        problems.extend(pictures.map(|message| Problem::in_cell(place, message)));
    }
    problems
}

fn check_format(notebook: &Notebook) -> Vec<Problem> {
    let mut problems = Vec::new();
    let (major, minor) = notebook.format;
    if major != 4 || minor < 5 {
        problems.push(Problem::of_notebook(format!("expected notebook format 4.5, found {major}.{minor}")));
    }
    let mut ids = HashSet::new();
    for place in notebook.numbered() {
        if !place.1.id.as_deref().is_some_and(|id| ids.insert(id)) {
            problems.push(Problem::in_cell(place, "has no id of its own"));
        }
        if place.1.kind == CellKind::Code && place.1.source.trim().is_empty() {
            problems.push(Problem::in_cell(place, "is empty"));
        }
    }
    problems
}

/// One complete run counts its cells without a gap; this kernel starts at 1, evcxr's own at 2.
fn check_execution_counts(notebook: &Notebook) -> Vec<Problem> {
    let first = notebook.code().next().and_then(|(_, cell)| cell.execution_count).unwrap_or(1).clamp(1, 2);
    let wrong = (first..).zip(notebook.code()).find(|(expected, (_, cell))| cell.execution_count != Some(*expected));
    let Some((expected, place)) = wrong else {
        return Vec::new();
    };
    let found = place.1.execution_count.map_or("none".to_owned(), |count| count.to_string());
    let message =
        format!("expected execution count {expected}, found {found}: run the whole notebook from a new kernel");
    vec![Problem::in_cell(place, message)]
}

fn check_outputs(cell: &Cell, root: &str) -> impl Iterator<Item = String> {
    let mut messages = Vec::new();
    let results: Vec<String> = cell.shown("text/plain").collect();
    if results.iter().any(|result| result.trim() == "()") {
        messages.push("shows `()`: end the cell in a semicolon".to_owned());
    }
    let printed = cell.stream("stdout");
    if let Some(line) = cell.stream("stderr").lines().next() {
        messages.push(format!("writes to stderr: {line}"));
    }
    for line in results.iter().flat_map(|result| result.lines()).chain(printed.lines()) {
        if line.contains(root) || HOMES.iter().any(|home| line.contains(home)) {
            messages.push(format!("shows a path of this machine: {line}"));
        }
    }
    messages.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::problem::list;
    use crate::notebook::samples::{code, notebook, printing, result, stderr};

    #[test]
    fn a_clean_run_is_accepted_from_one_or_two() {
        for first in [1, 2] {
            let cells = [printing(first, "1"), printing(first + 1, "2"), result(first + 2, "text/plain", "3")];
            assert_eq!(list(&check(&notebook(&cells))), "");
        }
    }

    #[test]
    fn a_gap_a_missing_and_a_late_count_are_found() {
        for (counts, found) in [([2, 4], "expected execution count 3, found 4"), ([7, 8], "found 7")] {
            let problems = check(&notebook(&counts.map(|count| printing(count, "1"))));
            assert_eq!(problems.len(), 1);
            assert!(problems[0].to_string().contains(found), "{}", problems[0]);
        }
        let unexecuted = check(&notebook(&[code("1 + 1", serde_json::Value::Null, &[])]));
        assert!(list(&unexecuted).contains("expected execution count 1, found none"));
    }

    #[test]
    fn unit_results_machine_paths_and_stderr_are_found() {
        for (cell, found) in [
            (result(2, "text/plain", "()"), "end the cell in a semicolon"),
            (result(2, "text/plain", "\"/home/somebody/data\""), "a path of this machine"),
            (printing(2, "Saved /root/best\n"), "a path of this machine"),
            (stderr(2, "warning"), "writes to stderr: warning"),
        ] {
            let problems = list(&check(&notebook(&[cell])));
            assert!(problems.contains(found), "{problems}");
        }
    }

    #[test]
    fn cells_need_ids_of_their_own() {
        let mut twice = notebook(&[printing(2, "1"), printing(3, "2")]);
        twice.cells[1].id = twice.cells[0].id.clone();
        assert_eq!(list(&check(&twice)), "cell 2 (`show()`): has no id of its own\n");
    }

    #[test]
    fn an_old_format_is_named() {
        let mut old = notebook(&[]);
        old.format = (4, 4);
        assert_eq!(list(&check(&old)), "expected notebook format 4.5, found 4.4\n");
    }
}
