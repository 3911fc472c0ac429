//! Publishes the output of cells, in order.
//!
//! Text on stderr is held back briefly, because it may turn out to be the message of an error.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::connection::Outgoing;
use crate::failure::Panic;

/// How long text on stderr is held back.
const HOLD: Duration = Duration::from_millis(50);
/// How long text on stdout is held back, so that lines printed one by one become one message.
const GATHER: Duration = Duration::from_millis(10);
/// How many bytes of text become one message at most, unless they were written at once.
const MESSAGE: usize = 1 << 16;
/// How long rich output is held back for further representations of the same value.
const ALTERNATIVES: Duration = Duration::from_millis(300);
/// How many bytes of a cell's stderr are kept to find messages in.
const KEPT: usize = 1 << 20;

/// Marks the rich output of the kernel's own trait for the value of an expression (`prelude`).
pub(crate) const RESULT: &str = "earlystop-result";

/// The output of the current or latest cell.
#[derive(Default)]
pub(crate) struct Output {
    /// The header of the cell's request; `None` before the first.
    parent: Option<Value>,
    /// Whether nothing is published.
    silent: bool,
    count: u32,
    /// Text on stdout that is not published yet.
    stdout: String,
    gathered_at: Option<Instant>,
    /// What the cell wrote to stderr.
    stderr: String,
    /// The length of the published part of `stderr`.
    published: usize,
    held_at: Option<Instant>,
    /// Representations of one value, each with its MIME type.
    bundle: Vec<(String, String)>,
    bundled_at: Option<Instant>,
}

impl Output {
    /// Starts the output of another cell.
    pub(crate) fn begin(&mut self, parent: Value, count: u32, silent: bool, outgoing: &Outgoing) {
        self.flush(outgoing);
        *self = Self { parent: Some(parent), count, silent, ..Self::default() };
    }

    pub(crate) fn publish(&self, kind: &str, content: &Value, outgoing: &Outgoing) {
        if let (Some(parent), false) = (&self.parent, self.silent) {
            outgoing.publish(kind, parent, content);
        }
    }

    fn stream(&self, name: &str, text: &str, outgoing: &Outgoing) {
        if self.parent.is_none() {
            // The user's prelude prints before there is a cell to show its output.
            eprint!("{text}");
        } else if !text.is_empty() {
            self.publish("stream", &json!({"name": name, "text": text}), outgoing);
        }
    }

    pub(crate) fn stdout(&mut self, text: &str, outgoing: &Outgoing) {
        self.flush_bundle(outgoing);
        self.flush_stderr(outgoing);
        self.stdout.push_str(text);
        self.gathered_at.get_or_insert_with(Instant::now);
        if self.stdout.len() >= MESSAGE {
            self.flush_stdout(outgoing);
        }
    }

    pub(crate) fn stderr(&mut self, text: &str, outgoing: &Outgoing) {
        self.flush_bundle(outgoing);
        self.flush_stdout(outgoing);
        self.stderr.push_str(text);
        self.held_at = Some(Instant::now());
        if self.stderr.len() > KEPT {
            self.flush_stderr(outgoing);
            self.stderr.clear();
            self.published = 0;
        }
    }

    /// Publishes the message described by a line `\u{2}earlystop {json}`. Unknown commands are published as text.
    pub(crate) fn command(&mut self, json: &str, outgoing: &Outgoing) {
        self.flush(outgoing);
        let command: Value = serde_json::from_str(json).unwrap_or_default();
        let object = |name: &str| command[name].as_object().cloned().unwrap_or_default();
        match command["type"].as_str() {
            Some(kind @ ("display_data" | "update_display_data")) => {
                let (data, metadata, transient) = (object("data"), object("metadata"), object("transient"));
                self.publish(kind, &json!({"data": data, "metadata": metadata, "transient": transient}), outgoing);
            }
            Some("clear_output") => {
                let wait = command["wait"].as_bool().unwrap_or(false);
                self.publish("clear_output", &json!({"wait": wait}), outgoing);
            }
            _ => self.stream("stdout", &format!("{json}\n"), outgoing),
        }
    }

    /// Adds rich output. Consecutive outputs of different MIME types are representations of one value.
    pub(crate) fn content(&mut self, mime_type: &str, body: String, outgoing: &Outgoing) {
        self.flush_stdout(outgoing);
        self.flush_stderr(outgoing);
        if let Some(mime_type) = mime_type.strip_suffix(RESULT) {
            self.flush_bundle(outgoing);
            return self.result(&[(mime_type.trim().to_owned(), body)], outgoing);
        }
        let mime_type = mime_type.split(' ').next().unwrap_or_default();
        if self.bundle.iter().any(|(other, _)| other == mime_type) {
            self.flush_bundle(outgoing);
        }
        self.bundle.push((mime_type.to_owned(), body));
        self.bundled_at = Some(Instant::now());
    }

    /// Publishes the value of an expression or of one of evcxr's commands.
    pub(crate) fn result(&mut self, representations: &[(String, String)], outgoing: &Outgoing) {
        self.flush(outgoing);
        self.publish_value(representations, outgoing);
    }

    fn publish_value(&self, representations: &[(String, String)], outgoing: &Outgoing) {
        let content = json!({"execution_count": self.count, "data": data(representations), "metadata": {}});
        self.publish("execute_result", &content, outgoing);
    }

    /// Returns the panic that ended the cell, and does not publish its message if that is still held back.
    pub(crate) fn take_panic(&mut self, outgoing: &Outgoing) -> Panic {
        self.flush_bundle(outgoing);
        self.flush_stdout(outgoing);
        let Some((begin, panic)) = Panic::find_last(&self.stderr) else { return Panic::silent() };
        if begin >= self.published {
            self.stream("stderr", &self.stderr[self.published..begin], outgoing);
            self.published = self.stderr.len();
            self.held_at = None;
        }
        panic
    }

    /// Returns the message of the error that a `?` returned.
    pub(crate) fn take_error(&mut self, outgoing: &Outgoing) -> String {
        self.flush_bundle(outgoing);
        self.flush_stdout(outgoing);
        let message = self.stderr[self.published..].trim_end().to_owned();
        self.published = self.stderr.len();
        self.held_at = None;
        // The message was already published.
        if message.is_empty() { self.stderr.lines().last().unwrap_or_default().to_owned() } else { message }
    }

    /// Publishes everything that is held back.
    pub(crate) fn flush(&mut self, outgoing: &Outgoing) {
        self.flush_bundle(outgoing);
        self.flush_stdout(outgoing);
        self.flush_stderr(outgoing);
    }

    /// Publishes what was held back for long enough.
    pub(crate) fn flush_due(&mut self, outgoing: &Outgoing) {
        if self.gathered_at.is_some_and(|at| at.elapsed() >= GATHER) {
            self.flush_stdout(outgoing);
        }
        if self.held_at.is_some_and(|at| at.elapsed() >= HOLD) {
            self.flush_stderr(outgoing);
        }
        if self.bundled_at.is_some_and(|at| at.elapsed() >= ALTERNATIVES) {
            self.flush_bundle(outgoing);
        }
    }

    /// Returns when `flush_due` is to be called next.
    pub(crate) fn due(&self) -> Option<Instant> {
        let held = self.held_at.map(|at| at + HOLD);
        let bundled = self.bundled_at.map(|at| at + ALTERNATIVES);
        let gathered = self.gathered_at.map(|at| at + GATHER);
        [held, bundled, gathered].into_iter().flatten().min()
    }

    fn flush_stdout(&mut self, outgoing: &Outgoing) {
        if self.gathered_at.take().is_some() {
            let text = std::mem::take(&mut self.stdout);
            self.stream("stdout", &text, outgoing);
        }
    }

    fn flush_stderr(&mut self, outgoing: &Outgoing) {
        if self.held_at.take().is_some() {
            self.stream("stderr", &self.stderr[self.published..], outgoing);
            self.published = self.stderr.len();
        }
    }

    fn flush_bundle(&mut self, outgoing: &Outgoing) {
        self.bundled_at = None;
        let bundle = std::mem::take(&mut self.bundle);
        match &bundle[..] {
            [] => {}
            // This is how evcxr displays a value.
            [(mime_type, _)] if mime_type == "text/plain" => self.publish_value(&bundle, outgoing),
            _ => {
                let content = json!({"data": data(&bundle), "metadata": {}, "transient": {}});
                self.publish("display_data", &content, outgoing);
            }
        }
    }
}

fn data(representations: &[(String, String)]) -> Value {
    let value = |mime_type: &str, body: &str| match mime_type.contains("json") {
        true => serde_json::from_str(body).unwrap_or_else(|_| Value::from(body)),
        false => Value::from(body),
    };
    let data: Map<_, _> = representations.iter().map(|(kind, body)| (kind.clone(), value(kind, body))).collect();
    Value::Object(data)
}
