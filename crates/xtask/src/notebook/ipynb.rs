//! What the checks read of a notebook file: cells, their source and their outputs.
//! The format: <https://nbformat.readthedocs.io/en/latest/format_description.html>.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct Notebook {
    pub(super) cells: Vec<Cell>,
    /// Major and minor version.
    pub(super) format: (u64, u64),
}

#[derive(Debug)]
pub(super) struct Cell {
    pub(super) kind: CellKind,
    pub(super) id: Option<String>,
    pub(super) source: String,
    pub(super) execution_count: Option<u64>,
    pub(super) outputs: Vec<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CellKind {
    Code,
    Markdown,
    Raw,
}

#[derive(Debug)]
pub(super) enum Output {
    /// Text on `stdout` or `stderr`.
    Stream { name: String, text: String },
    /// A result or a figure in several MIME types.
    Shown(Map<String, Value>),
    /// What the kernel itself calls an error.
    Error { message: String, traceback: String },
}

impl Notebook {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let json = std::fs::read_to_string(path).map_err(|source| Error::io("read", path, &source))?;
        Self::parse(&json).map_err(|message| Error::new(format!("read {} as a notebook", path.display())).got(message))
    }

    pub(super) fn parse(json: &str) -> Result<Self, String> {
        let notebook: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let version = |key: &str| notebook[key].as_u64().ok_or(format!("`{key}` is not a number"));
        let format = (version("nbformat")?, version("nbformat_minor")?);
        let cells = notebook["cells"].as_array().ok_or("`cells` is not a list")?;
        let cell = |(number, cell)| Cell::parse(cell).map_err(|message| format!("cell {number}: {message}"));
        Ok(Self { cells: (1..).zip(cells).map(cell).collect::<Result<_, _>>()?, format })
    }

    /// All cells with their place, counted from 1.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (usize, &Cell)> {
        (1..).zip(&self.cells)
    }

    /// The code cells that say something, with their place among all cells.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &Cell)> {
        self.numbered().filter(|(_, cell)| cell.kind == CellKind::Code && !cell.source.trim().is_empty())
    }

    pub(super) fn markdown(&self) -> impl Iterator<Item = (usize, &Cell)> {
        self.numbered().filter(|(_, cell)| cell.kind == CellKind::Markdown)
    }
}

impl Cell {
    fn parse(cell: &Value) -> Result<Self, String> {
        let kind = match cell["cell_type"].as_str() {
            Some("code") => CellKind::Code,
            Some("markdown") => CellKind::Markdown,
            Some("raw") => CellKind::Raw,
            _ => return Err(format!("unknown cell type {}", cell["cell_type"])),
        };
        let outputs = cell["outputs"].as_array().into_iter().flatten();
        Ok(Self {
            kind,
            id: cell["id"].as_str().map(str::to_owned),
            source: text(&cell["source"])?,
            execution_count: cell["execution_count"].as_u64(),
            outputs: outputs.map(Output::parse).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn first_line(&self) -> &str {
        self.source.trim().lines().next().unwrap_or_default()
    }

    /// Everything on the standard output (`stdout`) or the standard error (`stderr`), in one piece.
    pub(super) fn stream(&self, wanted: &str) -> String {
        let texts = self.outputs.iter().filter_map(|output| match output {
            Output::Stream { name, text } if name == wanted => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// The cell's results and figures in one MIME type.
    pub(super) fn shown(&self, mime: &str) -> impl Iterator<Item = String> {
        self.outputs.iter().filter_map(move |output| match output {
            Output::Shown(data) => data.get(mime).and_then(|value| text(value).ok()),
            _ => None,
        })
    }
}

impl Output {
    fn parse(output: &Value) -> Result<Self, String> {
        match output["output_type"].as_str() {
            Some("stream") => Ok(Self::Stream { name: text(&output["name"])?, text: text(&output["text"])? }),
            Some("execute_result" | "display_data") => {
                let data = output["data"].as_object().ok_or("`data` of an output is not an object")?;
                Ok(Self::Shown(data.clone()))
            }
            Some("error") => {
                let lines = output["traceback"].as_array().into_iter().flatten().filter_map(Value::as_str);
                Ok(Self::Error { message: text(&output["evalue"])?, traceback: lines.collect::<Vec<_>>().join("\n") })
            }
            _ => Err(format!("unknown output type {}", output["output_type"])),
        }
    }
}

/// nbformat keeps long texts as lists of lines.
fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(lines) => lines.iter().map(Value::as_str).collect(),
        _ => None,
    }
    .ok_or_else(|| format!("expected a text or a list of lines, found {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_may_be_lists_of_lines() {
        let notebook = Notebook::parse(
            r##"{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
                {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# Saver\n", "Keeps variables."]},
                {"cell_type": "code", "id": "b", "metadata": {}, "source": "1 + 1", "execution_count": 2, "outputs": [
                    {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]},
                    {"output_type": "execute_result", "execution_count": 2, "metadata": {},
                     "data": {"text/plain": ["2"]}}]},
                {"cell_type": "code", "id": "c", "metadata": {}, "source": " ", "execution_count": null, "outputs": []}
            ]}"##,
        )
        .unwrap();
        assert_eq!(notebook.cells[0].source, "# Saver\nKeeps variables.");
        assert_eq!(notebook.code().map(|(number, _)| number).collect::<Vec<_>>(), [2]);
        assert_eq!(notebook.cells[1].stream("stdout"), "one\ntwo\n");
        assert_eq!(notebook.cells[1].shown("text/plain").collect::<Vec<_>>(), ["2"]);
    }

    #[test]
    fn what_is_no_notebook_is_refused() {
        for (json, message) in [
            ("{", "EOF"),
            (r#"{"nbformat": "4"}"#, "`nbformat` is not a number"),
            (r#"{"nbformat": 4, "nbformat_minor": 5}"#, "`cells` is not a list"),
            (r#"{"nbformat": 4, "nbformat_minor": 5, "cells": [{}]}"#, "cell 1: unknown cell type null"),
            (
                r#"{"nbformat": 4, "nbformat_minor": 5, "cells": [{"cell_type": "code", "source": 7}]}"#,
                "cell 1: expected a text or a list of lines, found 7",
            ),
            (
                r#"{"nbformat": 4, "nbformat_minor": 5, "cells": [
                    {"cell_type": "code", "source": "", "outputs": [{"output_type": "surprise"}]}]}"#,
                "cell 1: unknown output type \"surprise\"",
            ),
        ] {
            assert!(Notebook::parse(json).unwrap_err().contains(message), "{json}");
        }
    }
}
