//! Brings an executed notebook into the form in which it is committed: outputs and counts stay, what tells of one
//! machine or of one run's timing goes, and the same notebook always gives the same bytes.

use serde::Serialize as _;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Serializer, Value, json};

use crate::setup::KERNEL_NAME;

/// What stays of a notebook's metadata, beside its kernel.
const NOTEBOOK_METADATA: [&str; 1] = ["language_info"];
/// What stays of a cell's metadata.
const CELL_METADATA: [&str; 1] = ["tags"];
/// Gives the tidy notebook as nbformat would write it: sorted keys, one space a level, a newline at the end.
pub(super) fn tidy(json: &str) -> serde_json::Result<String> {
    let mut notebook: Value = serde_json::from_str(json)?;
    keep_only(notebook.get_mut("metadata"), &NOTEBOOK_METADATA);
    // One's own kernel may go by another display name.
    notebook["metadata"]["kernelspec"] = json!({"display_name": "Rust", "language": "rust", "name": KERNEL_NAME});
    for cell in notebook["cells"].as_array_mut().into_iter().flatten() {
        keep_only(cell.get_mut("metadata"), &CELL_METADATA);
    }
    let mut bytes = Vec::new();
    notebook.serialize(&mut Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b" ")))?;
    bytes.push(b'\n');
    Ok(String::from_utf8(bytes).expect("serde_json writes UTF-8"))
}

fn keep_only(object: Option<&mut Value>, wanted: &[&str]) {
    if let Some(map) = object.and_then(Value::as_object_mut) {
        let kept = std::mem::take(map).into_iter().filter(|(key, _)| wanted.contains(&key.as_str()));
        *map = kept.collect::<Map<_, _>>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_of_a_machine_or_a_run_goes() {
        let executed = r#"{"nbformat": 4, "metadata": {"widgets": {}, "kernelspec": {"name": "rust", "display_name": "Mine"}},
            "cells": [{"source": ["é"], "metadata": {"execution": {"iopub.status.busy": "2016"}, "tags": ["a"]}}]}"#;
        let expected = r#"{
 "cells": [
  {
   "metadata": {
    "tags": [
     "a"
    ]
   },
   "source": [
    "é"
   ]
  }
 ],
 "metadata": {
  "kernelspec": {
   "display_name": "Rust",
   "language": "rust",
   "name": "rust"
  }
 },
 "nbformat": 4
}
"#;
        assert_eq!(tidy(executed).unwrap(), expected);
        assert_eq!(tidy(expected).unwrap(), expected);
    }
}
