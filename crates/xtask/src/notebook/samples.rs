//! Small notebooks for the tests of the checks, as nbconvert leaves them.

use serde_json::{Value, json};

use super::ipynb::Notebook;

pub(super) fn notebook(cells: &[Value]) -> Notebook {
    let mut cells = cells.to_vec();
    for (number, cell) in cells.iter_mut().enumerate() {
        cell["id"] = json!(format!("cell-{number}"));
    }
    let json = json!({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5});
    Notebook::parse(&json.to_string()).unwrap()
}

pub(super) fn prose(source: &str) -> Value {
    json!({"cell_type": "markdown", "metadata": {}, "source": source})
}

pub(super) fn code(source: &str, execution_count: impl Into<Value>, outputs: &[Value]) -> Value {
    let execution_count = execution_count.into();
    json!({"cell_type": "code", "metadata": {}, "source": source, "execution_count": execution_count, "outputs": outputs})
}

pub(super) fn printing(execution_count: u32, text: &str) -> Value {
    code("show()", execution_count, &[json!({"output_type": "stream", "name": "stdout", "text": text})])
}

pub(super) fn stderr(execution_count: u32, text: &str) -> Value {
    code("show()", execution_count, &[json!({"output_type": "stream", "name": "stderr", "text": text})])
}

pub(super) fn result(execution_count: u32, mime: &str, text: &str) -> Value {
    let data = json!({mime: text});
    let output =
        json!({"output_type": "execute_result", "execution_count": execution_count, "metadata": {}, "data": data});
    code("show()", execution_count, &[output])
}
