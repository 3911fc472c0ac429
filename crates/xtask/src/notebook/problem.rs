//! What a notebook is found to be wrong in, and where.

use std::fmt;

use super::ipynb::Cell;

#[derive(Debug)]
pub(super) struct Problem {
    /// The cell's place among all cells, counted from 1, and its first line.
    cell: Option<(usize, String)>,
    message: String,
}

impl Problem {
    pub(super) fn in_cell((number, cell): (usize, &Cell), message: impl Into<String>) -> Self {
        Self { cell: Some((number, cell.first_line().to_owned())), message: message.into() }
    }

    pub(super) fn of_notebook(message: impl Into<String>) -> Self {
        Self { cell: None, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some((number, first_line)) = &self.cell {
            write!(f, "cell {number} (`{first_line}`): ")?;
        }
        f.write_str(self.message.trim_end())
    }
}

/// All problems, one a line.
pub(super) fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}
