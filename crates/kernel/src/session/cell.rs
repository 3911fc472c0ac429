//! The execution of one cell: its state, and how its end is reported.

use std::time::Instant;

use serde_json::{Value, json};

use crate::evaluator::Executed;
use crate::failure::{Failure, Panic};
use crate::history::History;
use crate::message::Message;
use crate::syntax;

pub(super) struct Cell {
    pub(super) request: Message,
    pub(super) count: u32,
    /// Whether evcxr has started to compile it.
    pub(super) begun: bool,
    /// Whether it is running.
    pub(super) started: bool,
    /// How often the stop button was pressed.
    pub(super) presses: u32,
    /// The panic that ended it.
    pub(super) panic: Option<Panic>,
    /// The error returned by a `?`.
    pub(super) error: Option<String>,
    /// The relay of the process that it runs in.
    pub(super) relay: Option<u64>,
    pub(super) end: Option<End>,
}

/// The state of a cell that evcxr is done with, while its last output is pending.
pub(super) struct End {
    pub(super) executed: Executed,
    pub(super) awaits: Awaits,
    /// When to stop waiting.
    pub(super) until: Instant,
    pub(super) is_complete: bool,
}

impl End {
    /// The end of a cell that was not executed.
    pub(super) fn complete() -> Self {
        Self { executed: Executed::default(), awaits: Awaits::Pong, until: Instant::now(), is_complete: true }
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Awaits {
    /// The flush of standard output in the cell process.
    Flush,
    /// The relay's confirmation that all output was forwarded.
    Pong,
    /// The end of the connection of an exited process.
    Closing,
}

impl Cell {
    pub(super) fn new(request: Message, count: u32, relay: Option<u64>) -> Self {
        Self { request, count, begun: false, started: false, presses: 0, panic: None, error: None, relay, end: None }
    }

    pub(super) fn code(&self) -> &str {
        self.request.text("code")
    }

    /// Whether the cell contains the command `:quit`.
    pub(super) fn quits(&self) -> bool {
        syntax::command_lines(self.code()).any(|(command, _)| command == ":quit")
    }

    /// Returns the errors that ended the cell. `status` is the exit status of its process.
    pub(super) fn failures(&self, executed: Executed, status: Option<&str>, history: &History) -> Vec<Failure> {
        if executed.ended {
            let status = status.unwrap_or("it was killed");
            return vec![if self.presses > 1 { Failure::killed() } else { Failure::ended(status) }];
        }
        if let Some(panic) = &self.panic {
            return vec![Failure::panic(panic, &executed.source, history)];
        }
        if let Some(error) = &self.error {
            return vec![Failure::question_mark(error, self.code())];
        }
        if self.presses > 0 {
            return vec![Failure::interrupted()];
        }
        executed.failures
    }

    /// Returns the content of the reply.
    pub(super) fn reply(&self, failures: &[Failure]) -> Value {
        let mut reply = match failures.first() {
            None => json!({"status": "ok", "payload": []}),
            Some(first) => {
                let mut content = first.content();
                // Clients such as nbconvert display the traceback of the reply.
                let all = failures.iter().map(|failure| failure.content()["traceback"].clone());
                content["traceback"] = all.flat_map(|lines| lines.as_array().cloned().unwrap_or_default()).collect();
                content["status"] = "error".into();
                content
            }
        };
        if self.quits() {
            reply["payload"] = json!([{"source": "ask_exit", "keepkernel": false}]);
        }
        let asked = self.request.content["user_expressions"].as_object().cloned().unwrap_or_default();
        let cannot = json!({"status": "error", "ename": "NotSupported", "evalue": "evcxr has no user expressions", "traceback": []});
        reply["user_expressions"] =
            asked.keys().map(|name| (name.clone(), cannot.clone())).collect::<serde_json::Map<_, _>>().into();
        reply["execution_count"] = self.count.into();
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(code: &str) -> Cell {
        let request = Message { identities: Vec::new(), header: json!({}), content: json!({"code": code}) };
        Cell::new(request, 3, None)
    }

    fn first(cell: &Cell, executed: Executed) -> Value {
        let failures = cell.failures(executed, Some("signal: 6 (SIGABRT)"), &History::default());
        cell.reply(&failures)
    }

    #[test]
    fn a_cell_that_nothing_happened_to_is_ok() {
        let reply = first(&cell("1"), Executed::default());
        assert_eq!(reply, json!({"status": "ok", "payload": [], "user_expressions": {}, "execution_count": 3}));
    }

    #[test]
    fn what_is_known_best_is_told() {
        let compiler = || Executed { failures: vec![Failure::new("Error", "killed")], ..Executed::default() };
        let ended = || Executed { ended: true, ..compiler() };
        let mut cell = cell("f()?");
        assert_eq!(first(&cell, compiler())["evalue"], "killed");
        cell.presses = 1;
        assert_eq!(first(&cell, compiler())["evalue"], "stopped by the stop button; all variables are kept");
        cell.error = Some("no such file".into());
        assert_eq!(first(&cell, Executed::default())["evalue"], "no such file");
        assert!(first(&cell, ended())["evalue"].to_string().contains("SIGABRT"));
        cell.presses = 2;
        assert!(first(&cell, ended())["evalue"].to_string().contains("the stop button killed the cell process"));
    }

    #[test]
    fn the_reply_shows_all_errors() {
        let failures = vec![Failure::new("Error", "one"), Failure::new("Error", "two")];
        let reply = first(&cell(":quit"), Executed { failures, ..Executed::default() });
        assert_eq!((reply["evalue"].as_str(), reply["traceback"].as_array().map(Vec::len)), (Some("one"), Some(2)));
        assert_eq!(reply["payload"][0]["source"], "ask_exit");
    }
}
