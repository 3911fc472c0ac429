//! What each known notebook promises its reader. A notebook without promises keeps to the conventions alone.

use regex_lite::Regex;

use super::ipynb::Notebook;
use super::problem::Problem;
use super::style;

pub(super) struct Promises {
    /// All headings, in order.
    pub(super) headings: &'static [&'static str],
    /// Regular expressions: for each a whole printed line, later than the one before.
    pub(super) lines: &'static [&'static str],
    /// How many figures are shown inline.
    pub(super) figures: usize,
    /// What the numbers of the whole notebook must tell.
    pub(super) story: fn(&Notebook) -> Vec<Problem>,
}

impl Promises {
    pub(super) fn check(&self, notebook: &Notebook) -> Vec<Problem> {
        let mut problems = self.check_headings(notebook);
        problems.extend(self.check_lines(notebook));
        let figures = notebook.code().flat_map(|(_, cell)| cell.shown("image/png")).count();
        if figures != self.figures {
            problems.push(Problem::of_notebook(format!("expected {} figures, found {figures}", self.figures)));
        }
        problems.extend((self.story)(notebook));
        problems
    }

    fn check_headings(&self, notebook: &Notebook) -> Vec<Problem> {
        let found = style::headings(notebook);
        let same = found.iter().zip(self.headings).take_while(|((_, found), expected)| found == *expected).count();
        match (found.get(same), self.headings.get(same)) {
            (None, None) => Vec::new(),
            (None, Some(expected)) => vec![Problem::of_notebook(format!("the heading \"{expected}\" is missing"))],
            (Some((number, found)), expected) => {
                let expected = expected.map_or("no further heading".to_owned(), |text| format!("\"{text}\""));
                let message = format!("expected {expected}, found the heading \"{found}\"");
                vec![Problem::in_cell((*number, &notebook.cells[number - 1]), message)]
            }
        }
    }

    fn check_lines(&self, notebook: &Notebook) -> Vec<Problem> {
        let printed: String = notebook.code().map(|(_, cell)| cell.stream("stdout")).collect();
        let mut lines = printed.lines();
        let mut last = "the start";
        for expected in self.lines {
            let pattern =
                Regex::new(&format!("^(?:{expected})$")).expect("promised lines are valid regular expressions");
            let Some(line) = lines.find(|line| pattern.is_match(line)) else {
                return vec![Problem::of_notebook(format!("no line `{expected}` is printed after `{last}`"))];
            };
            last = line;
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::problem::list;
    use crate::notebook::samples::{notebook, printing, prose, result};

    const SMALL: Promises = Promises {
        headings: &["Load Data", "Saver"],
        lines: &[r"Size of:", r"- Test-set:\t\t\d+", "done"],
        figures: 0,
        story: |_| Vec::new(),
    };

    fn found(headings: [&str; 2], text: &str) -> String {
        let [first, second] = headings.map(|heading| prose(&format!("## {heading}\nText.")));
        list(&SMALL.check(&notebook(&[first, printing(2, text), second])))
    }

    const HEADINGS: [&str; 2] = ["Load Data", "Saver"];
    const TEXT: &str = "Size of:\nmore\n- Test-set:\t\t10000\ndone\n";

    #[test]
    fn kept_promises_are_silent() {
        assert_eq!(found(HEADINGS, TEXT), "");
    }

    #[test]
    fn the_first_heading_out_of_order_is_named() {
        let problems = found(["Saver", "Load Data"], TEXT);
        assert!(problems.contains("expected \"Load Data\", found the heading \"Saver\""), "{problems}");
        let few = list(&SMALL.check(&notebook(&[prose("# Load Data\nText."), printing(2, TEXT)])));
        assert_eq!(few, "the heading \"Saver\" is missing\n");
        let many = [prose("# Load Data"), prose("# Saver"), prose("# End"), printing(2, TEXT)];
        assert!(
            list(&SMALL.check(&notebook(&many))).contains("expected no further heading, found the heading \"End\"")
        );
    }

    #[test]
    fn the_first_missing_line_is_named_with_the_one_before() {
        let problems = found(HEADINGS, "done\nSize of:\n- Test-set:\t\t10000\n");
        assert_eq!(problems, "no line `done` is printed after `- Test-set:\t\t10000`\n");
        assert!(found(HEADINGS, &TEXT.replace("10000", "many")).contains("no line `- Test-set:"));
    }

    #[test]
    fn figures_are_counted() {
        let mut cells = vec![prose("# Load Data\nText."), printing(2, TEXT), prose("# Saver\nText.")];
        cells.push(result(3, "image/png", "iVBO"));
        assert_eq!(list(&SMALL.check(&notebook(&cells))), "expected 0 figures, found 1\n");
    }
}
