//! How a notebook reads: narrow lines, small cells, and a sentence under every heading.

use super::ipynb::{CellKind, Notebook};
use super::problem::Problem;

/// Columns of a line, in code and in prose.
const WIDTH: usize = 88;
/// Lines of the median code cell, at most.
const MEDIAN_LINES: usize = 4;
/// Lines that nine of ten code cells keep to; only the training loop may be longer.
const LONG_LINES: usize = 30;
const TRAINING_LOOP: &str = "fn optimize";

pub(super) fn check(notebook: &Notebook) -> Vec<Problem> {
    let mut problems = check_widths(notebook);
    problems.extend(check_cell_lengths(notebook));
    problems.extend(check_headings(notebook));
    problems
}

/// A markdown heading's text and the number of its cell.
pub(super) fn headings(notebook: &Notebook) -> Vec<(usize, String)> {
    let of_cell = |source| lines_outside_fences(source).filter_map(heading);
    notebook
        .markdown()
        .flat_map(|(number, cell)| of_cell(&cell.source).map(move |text| (number, text.to_owned())))
        .collect()
}

fn check_widths(notebook: &Notebook) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, cell) in notebook.numbered() {
        let unbreakable =
            |line: &str| cell.kind != CellKind::Code && (line.contains("](") || line.starts_with(['|', '<']));
        for line in cell.source.lines().filter(|line| line.chars().count() > WIDTH && !unbreakable(line)) {
            let columns = line.chars().count();
            problems.push(Problem::in_cell((number, cell), format!("{columns} columns, at most {WIDTH} fit: {line}")));
        }
    }
    problems
}

fn check_cell_lengths(notebook: &Notebook) -> Vec<Problem> {
    let mut problems = Vec::new();
    let lines = |source: &str| source.trim().lines().count();
    let mut lengths: Vec<usize> = notebook.code().map(|(_, cell)| lines(&cell.source)).collect();
    lengths.sort_unstable();
    if let Some(&median) = lengths.get(lengths.len() / 2).filter(|median| **median > MEDIAN_LINES) {
        let message =
            format!("the median code cell has {median} lines, expected at most {MEDIAN_LINES}: make cells smaller");
        problems.push(Problem::of_notebook(message));
    }
    let long = lengths.iter().filter(|length| **length > LONG_LINES).count();
    if long > 1 && long * 10 > lengths.len() {
        let message = format!("{long} of {} code cells have more than {LONG_LINES} lines", lengths.len());
        problems.push(Problem::of_notebook(message));
    }
    let too_long = |source: &str| lines(source) > LONG_LINES && !source.contains(TRAINING_LOOP);
    for place in notebook.code().filter(|(_, cell)| too_long(&cell.source)) {
        let message = format!("{} lines, at most {LONG_LINES} expected of all but `optimize`", lines(&place.1.source));
        problems.push(Problem::in_cell(place, message));
    }
    problems
}

/// Under every heading stands prose, before the next heading and before any code; a cell has at most one heading.
fn check_headings(notebook: &Notebook) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut bare: Option<(usize, String)> = None;
    let without_prose = |heading: Option<(usize, String)>, problems: &mut Vec<Problem>| {
        if let Some((number, text)) = heading {
            let place = (number, &notebook.cells[number - 1]);
            problems.push(Problem::in_cell(place, format!("no prose under the heading \"{text}\"")));
        }
    };
    for (number, cell) in notebook.numbered() {
        if cell.kind != CellKind::Markdown {
            without_prose(bare.take(), &mut problems);
            continue;
        }
        let mut headings = 0;
        for line in lines_outside_fences(&cell.source) {
            if let Some(text) = heading(line) {
                headings += 1;
                without_prose(bare.replace((number, text.to_owned())), &mut problems);
            } else if !line.trim().is_empty() {
                bare = None;
            }
        }
        if headings > 1 {
            let message = format!("{headings} headings in one cell: one idea per cell");
            problems.push(Problem::in_cell((number, cell), message));
        }
    }
    without_prose(bare, &mut problems);
    problems
}

/// The text of a markdown heading: "## Load Data" is "Load Data".
fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    ((1..=6).contains(&level) && text.starts_with(' ')).then(|| text.trim())
}

/// A `#` in a fenced block is a comment of some language, not a heading.
fn lines_outside_fences(source: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    source.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::problem::list;
    use crate::notebook::samples::{code, notebook, prose};

    fn found(cells: &[serde_json::Value]) -> String {
        list(&check(&notebook(cells)))
    }

    #[test]
    fn a_heading_with_prose_before_small_cells_is_good_style() {
        let cells = [prose("## Saver\n\nKeeps the variables."), code("let a = 1;", 2, &[]), prose("More.")];
        assert_eq!(found(&cells), "");
        assert_eq!(found(&[prose("## Saver"), prose("Prose may stand in the next cell.")]), "");
    }

    #[test]
    fn a_heading_without_prose_is_found_wherever_it_stands() {
        for cells in [
            vec![prose("## Saver"), code("let a = 1;", 2, &[])],
            vec![prose("## Saver"), prose("### Folder\n\nIts place.")],
            vec![prose("Prose before.\n\n## Saver")],
        ] {
            assert!(found(&cells).contains("no prose under the heading \"Saver\""), "{cells:?}");
        }
    }

    #[test]
    fn two_headings_in_a_cell_are_two_ideas() {
        assert!(found(&[prose("# One\n\nText.\n\n## Two\n\nText.")]).contains("2 headings in one cell"));
    }

    #[test]
    fn comments_in_fenced_blocks_and_hash_tags_are_no_headings() {
        let notebook = notebook(&[prose("# Real #1\nText\n```sh\n# a comment\n```\n#tag"), prose("### Next\nText")]);
        assert_eq!(headings(&notebook), [(1, "Real #1".to_owned()), (2, "Next".to_owned())]);
    }

    #[test]
    fn wide_lines_are_found_but_links_and_tables_may_be_wide() {
        let wide = "w ".repeat(50);
        let problems =
            found(&[code(&wide, 2, &[]), prose(&wide), prose(&format!("[{wide}](x)")), prose(&format!("| {wide}"))]);
        assert_eq!(problems.matches("100 columns, at most 88 fit").count(), 2, "{problems}");
        assert_eq!(found(&[code(&"é".repeat(88), 2, &[])]), "");
    }

    #[test]
    fn large_cells_are_found_but_the_training_loop_may_be_large() {
        let (small, large) = (code("1", 2, &[]), code(&"x;\n".repeat(31), 2, &[]));
        let training = code(&format!("fn optimize() {{\n{}}}", "x;\n".repeat(60)), 2, &[]);
        assert_eq!(found(&[small.clone(), small.clone(), training]), "");
        let problems = found(&[small, large.clone(), large]);
        assert!(problems.contains("the median code cell has 31 lines"), "{problems}");
        assert!(problems.contains("2 of 3 code cells have more than 30 lines"), "{problems}");
        assert!(problems.contains("31 lines, at most 30 expected"), "{problems}");
    }
}
