//! Aligned columns.

use unicode_width::UnicodeWidthStr;

/// Rows of cells that are escaped already.
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// The title of a column, of one or two lines, and its side.
struct Column {
    title: String,
    is_right: bool,
}

impl Table {
    pub(crate) fn new() -> Self {
        Table { columns: Vec::new(), rows: Vec::new() }
    }

    /// Adds a column of texts.
    pub(crate) fn left(mut self, title: &str) -> Self {
        self.columns.push(Column { title: title.to_owned(), is_right: false });
        self
    }

    /// Adds a column of numbers.
    pub(crate) fn right(mut self, title: &str) -> Self {
        self.columns.push(Column { title: title.to_owned(), is_right: true });
        self
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the lines of the titles and those of the rows. Columns without any text are left out.
    pub(crate) fn lines(&self) -> (Vec<String>, Vec<String>) {
        let rows: Vec<Vec<&str>> = self.rows.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
        let width = |rows: &[Vec<&str>], column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
        let is_empty = |column: usize| width(&rows, column) == 0;
        let titles: Vec<Vec<&str>> = self.columns.iter().map(|column| column.title.split('\n').collect()).collect();
        let shown = titles.iter().enumerate().filter(|(column, _)| !is_empty(*column));
        let height = shown.map(|(_, title)| title.len()).max().unwrap_or(0);
        // Titles of one line stand on the last one.
        let title = |line: usize| -> Vec<&str> {
            let titles = titles.iter();
            titles.map(|title| (line + title.len()).checked_sub(height).map_or("", |line| title[line])).collect()
        };
        let titles: Vec<Vec<&str>> = (0..height).map(title).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| if is_empty(column) { 0 } else { width(&rows, column).max(width(&titles, column)) })
            .collect();
        let line = |cells: &Vec<&str>| {
            let mut line = String::new();
            for ((cell, column), &width) in cells.iter().zip(&self.columns).zip(&widths) {
                if width == 0 {
                    continue;
                }
                let padding = " ".repeat(width.saturating_sub(cell.width()));
                line += &if column.is_right { padding + cell } else { cell.to_string() + &padding };
                line += "  ";
            }
            line.trim_end().to_owned()
        };
        (titles.iter().map(line).collect(), rows.iter().map(line).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_is_in_them() {
        let mut table = Table::new().left("name").right("validation\naccuracy").right("an\nempty\none").left("file");
        table.row(["a", "1.5%", "", "x"].map(String::from).into());
        table.row(["猫猫猫", "100%", "", ""].map(String::from).into());
        let (titles, rows) = table.lines();
        assert_eq!(titles, ["        validation", "name      accuracy  file"]);
        assert_eq!(rows, ["a             1.5%  x", "猫猫猫        100%"]);
    }
}
