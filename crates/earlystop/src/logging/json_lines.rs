//! The evaluations as lines of JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::rows::{COLUMNS, Format, Line, Problem, Row, Rows, number, seconds};
use crate::early_stopping::StopReason;
use crate::error::Result;
use crate::trainer::{Callback, Event, Model, Progress};

/// Writes one JSON object for each evaluation, one on each line ([JSON Lines](https://jsonlines.org)).
///
/// An object has the iteration, the elapsed seconds, whether the evaluation is the best so far, the learning rate, and the scores
/// by their names. JSON has no NaN and no infinity: these are the words `"NaN"`, `"inf"` and `"-inf"`.
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
/// # let path = folder.path().join("log.jsonl");
/// use earlystop::{Trainer, logging::JsonLines};
///
/// let trainer = Trainer::builder(network, optimizer, &train, &validation).callback(JsonLines::new(&path));
/// trainer.build()?.optimize(200, |_| ())?;
/// for line in std::fs::read_to_string(&path).unwrap().lines() {
///     let row: serde_json::Value = serde_json::from_str(line).unwrap();
///     assert!(row["validation_accuracy"].is_number() && row["improved"].is_boolean());
/// }
/// # Ok::<(), earlystop::Error>(())
/// ```
///
/// # Errors
///
/// The training ends with an error if the file cannot be written, or if it is not a log of this run.
#[derive(Debug)]
pub struct JsonLines(Rows<Objects>);

impl JsonLines {
    /// Writes to this file. It is created with its folder when the training begins.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self(Rows::new(path.as_ref()))
    }
}

impl<M: Model> Callback<M> for JsonLines {
    fn begin(&mut self, progress: &Progress, _model: &M) -> Result<()> {
        self.0.begin(progress)
    }

    fn event(&mut self, event: &Event, progress: &Progress, _model: &M) -> Result<Option<StopReason>> {
        self.0.event(event, progress).map(|()| None)
    }
}

/// Every line has its own names.
#[derive(Debug, Default)]
struct Objects;

impl Format for Objects {
    const BEGIN: &str = r#"{"iteration":"#;

    fn read(&mut self, text: &str) -> Result<Vec<Line>, Problem> {
        text.lines().enumerate().map(|(index, text)| line(index, text)).collect()
    }

    fn add_columns(&mut self, _row: &Row) -> bool {
        false
    }

    fn header(&self) -> String {
        String::new()
    }

    fn fill(&self, _line: &mut String) {}

    fn line(&self, row: &Row) -> String {
        let Row { iteration, improved, .. } = row;
        let elapsed = row.elapsed.map_or_else(|| "null".to_owned(), seconds);
        let rate = json(row.learning_rate);
        let mut line = format!(
            r#"{{"iteration":{iteration},"elapsed_seconds":{elapsed},"improved":{improved},"learning_rate":{rate}"#
        );
        for (name, &score) in row.scores {
            line += &format!(",{}:{}", Value::from(name.as_str()), json(score));
        }
        line + "}"
    }
}

fn json(value: f64) -> String {
    if value.is_finite() { number(value) } else { format!("\"{value}\"") }
}

fn line(index: usize, text: &str) -> Result<Line, Problem> {
    let expected = |expected: &str| Problem { line: index, expected: expected.to_owned(), found: text.to_owned() };
    let object: Option<Map<String, Value>> = serde_json::from_str(text).ok();
    let mut object = object.ok_or_else(|| expected("a JSON object on each line"))?;
    let own = COLUMNS.map(|name| object.remove(name));
    let [Some(iteration), Some(_), Some(_), Some(_)] = own else {
        return Err(expected(&format!("the names {} on each line", COLUMNS.join(", "))));
    };
    let iteration = iteration.as_u64().ok_or_else(|| expected("a whole number as the iteration"))?;
    let mut scores = BTreeMap::new();
    for (name, value) in object {
        let value = value.as_f64().or_else(|| value.as_str()?.parse().ok());
        scores.insert(name, value.ok_or_else(|| expected("a number as each score"))?);
    }
    Ok(Line { iteration, scores, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let scores = BTreeMap::from([("a \"b\"".to_owned(), 1.0 / 3.0), ("c".to_owned(), f64::NEG_INFINITY)]);
        let elapsed = Some(Duration::from_millis(1500));
        let row = Row { iteration: 100, elapsed, improved: false, learning_rate: 1e-5, scores: &scores };
        let text = Objects.line(&row);
        let values = r#""learning_rate":1e-5,"a \"b\"":0.3333333333333333,"c":"-inf""#;
        assert_eq!(text, format!(r#"{{"iteration":100,"elapsed_seconds":1.500,"improved":false,{values}}}"#));
        assert!(text.starts_with(Objects::BEGIN));
        assert_eq!(Objects.read(&text).unwrap(), [Line { iteration: 100, scores, text: text.clone() }]);
    }
}
