//! Reads a confusion matrix as numpy prints one: brackets around each row, numbers aligned to the right.

const TITLE: &str = "Confusion Matrix:";

#[derive(Debug, PartialEq)]
pub(super) struct ConfusionMatrix {
    /// `[true class, predicted class]`, square.
    rows: Vec<Vec<u64>>,
}

impl ConfusionMatrix {
    /// The matrix under the first title, if there is one.
    ///
    /// # Errors
    /// When what stands there is not a square matrix in numpy's format.
    pub(super) fn find(text: &str) -> Result<Option<Self>, String> {
        let mut lines = text.lines().skip_while(|line| *line != TITLE).skip(1).peekable();
        if lines.peek().is_none() {
            return Ok(None);
        }
        let printed: Vec<&str> = lines.take_while(|line| line.starts_with(['[', ' '])).collect();
        let row = |line: &&str| -> Option<Vec<u64>> {
            line.trim_matches(['[', ']', ' ']).split_whitespace().map(|number| number.parse().ok()).collect()
        };
        let rows: Option<Vec<Vec<u64>>> = printed.iter().map(row).collect();
        let matrix = rows.map(|rows| Self { rows }).filter(|matrix| matrix.as_numpy() == printed.join("\n"));
        let matrix = matrix.ok_or_else(|| format!("not a matrix as numpy prints it:\n{}", printed.join("\n")))?;
        let classes = matrix.rows.len();
        if matrix.rows.iter().any(|row| row.len() != classes) {
            return Err(format!("the confusion matrix of {classes} rows is not square"));
        }
        Ok(Some(matrix))
    }

    /// The diagonal holds the correct ones, the whole matrix all.
    pub(super) fn check_against(&self, correct: u64, total: u64) -> Result<(), String> {
        let diagonal: u64 = self.rows.iter().enumerate().map(|(class, row)| row[class]).sum();
        let sum: u64 = self.rows.iter().flatten().sum();
        if (diagonal, sum) == (correct, total) {
            return Ok(());
        }
        Err(format!("the matrix has {diagonal} of {sum} on its diagonal, the accuracy line {correct} of {total}"))
    }

    fn as_numpy(&self) -> String {
        let width = self.rows.iter().flatten().map(|number| number.to_string().len()).max().unwrap_or(1);
        let row = |row: &Vec<u64>| {
            let numbers: Vec<String> = row.iter().map(|number| format!("{number:>width$}")).collect();
            format!("[{}]", numbers.join(" "))
        };
        format!("[{}]", self.rows.iter().map(row).collect::<Vec<_>>().join("\n "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "Example errors:\nConfusion Matrix:\n[[ 974    0]\n [   1 1127]]\nmore\n";

    #[test]
    fn numpys_format_is_read() {
        let matrix = ConfusionMatrix::find(PRINTED).unwrap().unwrap();
        assert_eq!(matrix.rows, [[974, 0], [1, 1127]]);
        assert_eq!(matrix.check_against(2101, 2102), Ok(()));
        assert!(matrix.check_against(2100, 2102).unwrap_err().contains("2101 of 2102"));
        assert_eq!(ConfusionMatrix::find("nothing of the kind"), Ok(None));
    }

    #[test]
    fn other_formats_are_refused() {
        for (old, new) in [("[[ 974", "[[974"), (" [   1", "[   1"), ("1127]]", "1127]"), ("   0]", "   x]")] {
            let printed = PRINTED.replace(old, new);
            assert!(ConfusionMatrix::find(&printed).unwrap_err().contains("numpy"), "{printed}");
        }
        let wide = format!("{TITLE}\n[[5 0]]");
        assert!(ConfusionMatrix::find(&wide).unwrap_err().contains("not square"));
    }
}
