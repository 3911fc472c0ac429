//! A table of the evaluations.

use std::collections::BTreeMap;
use std::path::Path;

use super::rows::{COLUMNS, Format, Line, Problem, Row, Rows, number, seconds};
use crate::early_stopping::StopReason;
use crate::error::Result;
use crate::trainer::{Callback, Event, Model, Progress};

/// Writes a table with one row for each evaluation, as CSV ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180)).
///
/// The first columns are `iteration`, `elapsed_seconds`, `improved` (`true` or `false`) and `learning_rate`; those of the scores
/// follow. Numbers have all digits that are needed to read the same bits; not finite ones are `NaN`, `inf` and `-inf`. A score
/// that first appears in a later evaluation gets a new column at the right end, which is empty in the rows before: the file is
/// replaced by a wider one.
///
/// A resumed run leaves the file of an uninterrupted one, see [the module](super#resumed-runs).
///
/// ```
/// # use earlystop::ndarray::{Array1, Array3};
/// # let examples = |n| earlystop::Examples::new(Array3::from_shape_fn((n, 4, 4), |(i, y, x)| (i * 97 + y * 31 + x * 7) as u8), Array1::from_shape_fn(n, |i| (i % 10) as u8)).unwrap();
/// # let (train, validation) = (examples(200), examples(50));
/// # let network = earlystop::Network::builder([4, 4, 1]).flatten().softmax_classifier(10).build(tch::Device::Cpu)?;
/// # let optimizer = earlystop::Optimizer::adam(&network, 1e-2)?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("log.csv");
/// use earlystop::{Trainer, logging::Csv};
///
/// let trainer = Trainer::builder(network, optimizer, &train, &validation).callback(Csv::new(&path));
/// trainer.build()?.optimize(200, |_| ())?;
/// let table = std::fs::read_to_string(&path).unwrap();
/// let header = "iteration,elapsed_seconds,improved,learning_rate,train_accuracy,train_loss,validation_accuracy,validation_loss";
/// assert_eq!(table.lines().next(), Some(header));
/// assert!(table.lines().nth(2).is_some_and(|row| row.starts_with("200,")));
/// # Ok::<(), earlystop::Error>(())
/// ```
///
/// # Errors
///
/// The training ends with an error if the file cannot be written, or if it is not a table of this run.
#[derive(Debug)]
pub struct Csv(Rows<Table>);

impl Csv {
    /// Writes to this file. It is created with its folder when the training begins.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self(Rows::new(path.as_ref()))
    }
}

impl<M: Model> Callback<M> for Csv {
    fn begin(&mut self, progress: &Progress, _model: &M) -> Result<()> {
        self.0.begin(progress)
    }

    fn event(&mut self, event: &Event, progress: &Progress, _model: &M) -> Result<Option<StopReason>> {
        self.0.event(event, progress).map(|()| None)
    }
}

/// The columns of the scores, in the order of the file.
#[derive(Debug, Default)]
struct Table {
    scores: Vec<String>,
}

impl Format for Table {
    const BEGIN: &str = "iteration,elapsed_seconds,improved,learning_rate";

    fn read(&mut self, text: &str) -> Result<Vec<Line>, Problem> {
        let mut lines = text.lines().enumerate();
        let Some((_, header)) = lines.next() else { return Ok(Vec::new()) };
        let mut columns = fields(header);
        if !columns.iter().take(COLUMNS.len()).eq(&COLUMNS) {
            return Err(Problem { line: 0, expected: format!("{} first", Self::BEGIN), found: header.to_owned() });
        }
        self.scores = columns.split_off(COLUMNS.len());
        lines.map(|(index, text)| self.row(index, text)).collect()
    }

    fn add_columns(&mut self, row: &Row) -> bool {
        let count = self.scores.len();
        for name in row.scores.keys() {
            if !self.scores.contains(name) {
                self.scores.push(name.clone());
            }
        }
        self.scores.len() > count
    }

    fn header(&self) -> String {
        let columns: Vec<String> =
            COLUMNS.iter().copied().chain(self.scores.iter().map(String::as_str)).map(quoted).collect();
        // Without a score there is no row.
        if self.scores.is_empty() { String::new() } else { columns.join(",") + "\n" }
    }

    fn fill(&self, line: &mut String) {
        let columns = COLUMNS.len() + self.scores.len();
        let separators = line.matches(',').count(); // no field of a row is quoted
        line.extend(std::iter::repeat_n(',', (columns - 1).saturating_sub(separators)));
    }

    fn line(&self, row: &Row) -> String {
        let Row { iteration, improved, .. } = row;
        let (elapsed, rate) = (row.elapsed.map(seconds).unwrap_or_default(), number(row.learning_rate));
        let mut line = format!("{iteration},{elapsed},{improved},{rate}");
        for name in &self.scores {
            line.push(',');
            line += &row.scores.get(name).copied().map(number).unwrap_or_default();
        }
        line
    }
}

impl Table {
    fn row(&self, index: usize, text: &str) -> Result<Line, Problem> {
        let expected = || {
            let count = COLUMNS.len() + self.scores.len();
            Problem { line: index, expected: format!("{count} numbers in this row"), found: text.to_owned() }
        };
        let fields = fields(text);
        let (Some(first), Some(values)) = (fields.first(), fields.get(COLUMNS.len()..)) else { return Err(expected()) };
        if values.len() != self.scores.len() {
            return Err(expected());
        }
        let mut scores = BTreeMap::new();
        for (name, value) in self.scores.iter().zip(values).filter(|(_, value)| !value.is_empty()) {
            scores.insert(name.clone(), value.parse().map_err(|_| expected())?);
        }
        let iteration = first.parse().map_err(|_| expected())?;
        Ok(Line { iteration, scores, text: text.to_owned() })
    }
}

/// Quotes a field if it has to be.
fn quoted(field: &str) -> String {
    if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.to_owned() }
}

/// Splits a line into its fields.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut is_quoted, mut was_quote) = (vec![String::new()], false, false);
    for character in line.chars() {
        let last = fields.len() - 1;
        match character {
            '"' if is_quoted => is_quoted = false,
            '"' => {
                is_quoted = true;
                if was_quote {
                    fields[last].push('"'); // two within quotes are one
                }
            }
            ',' if !is_quoted => fields.push(String::new()),
            _ => fields[last].push(character),
        }
        was_quote = character == '"';
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_commas_and_quotes_are_read_as_they_were_written() {
        let names = ["validation_a,b", "validation_\"x\"", "\"", "plain", ""];
        let line = names.map(quoted).join(",");
        assert_eq!(fields(&line), names);
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let scores = BTreeMap::from([("train_loss".to_owned(), 1.5e-7), ("validation_rmse".to_owned(), f64::NAN)]);
        let row = Row { iteration: 100, elapsed: None, improved: true, learning_rate: 1e-3, scores: &scores };
        let mut table = Table::default();
        assert!(table.add_columns(&row) && !table.add_columns(&row));
        let text = table.header() + &table.line(&row) + "\n";
        assert_eq!(text, format!("{},train_loss,validation_rmse\n100,,true,0.001,1.5e-7,NaN\n", Table::BEGIN));
        let mut read = Table::default();
        let lines = read.read(&text).unwrap();
        assert_eq!((lines.len(), lines[0].iteration, read.scores), (1, 100, table.scores));
        assert!(lines[0].scores["train_loss"] == 1.5e-7 && lines[0].scores["validation_rmse"].is_nan());
    }
}
