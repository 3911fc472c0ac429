//! Requests on the shell socket, which are answered in order.

use std::collections::VecDeque;

use serde_json::json;

use super::cell::{Cell, End};
use super::{Current, Session, info};
use crate::connection::Channel;
use crate::evaluator::Job;
use crate::message::Message;
use crate::syntax;

/// The comm target that evcxr's `kernel.js` uses to check cells.
const CHECK: &str = "evcxr-cargo-check";

impl Session {
    /// Starts to answer a request on the shell socket.
    pub(super) async fn begin(&mut self, request: Message) {
        self.status(&request, "busy");
        let reply = match request.kind() {
            "execute_request" => return self.begin_cell(request),
            "complete_request" => return self.ask_evcxr(request, |code, position| Job::Complete { code, position }),
            "inspect_request" => return self.ask_evcxr(request, |code, position| Job::Inspect { code, position }),
            "comm_open" if request.text("target_name") == CHECK => {
                let code = request.content["data"]["code"].as_str().unwrap_or_default().to_owned();
                let _ = self.jobs.send(Job::Check { code });
                self.current = Some(Current::Other(request));
                return;
            }
            "comm_open" => {
                self.outgoing.publish(
                    "comm_close",
                    &request.header,
                    &json!({"comm_id": request.text("comm_id"), "data": {}}),
                );
                None
            }
            "kernel_info_request" => Some(info::kernel_info()),
            "is_complete_request" => Some(info::completeness(&syntax::completeness(request.text("code")))),
            "comm_info_request" => Some(json!({"status": "ok", "comms": {}})),
            "history_request" => Some(self.history.answer(&request.content)),
            // Old clients send these here.
            "interrupt_request" | "shutdown_request" => {
                self.control_on(Channel::Shell, &request).await;
                None
            }
            _ => None,
        };
        if let Some(reply) = reply {
            self.outgoing.reply(Channel::Shell, &request, &reply);
        }
        self.status(&request, "idle");
    }

    pub(super) fn ask_evcxr(&mut self, request: Message, job: fn(String, usize) -> Job) {
        let code = request.text("code").to_owned();
        let position = request.content["cursor_pos"].as_u64().and_then(|position| usize::try_from(position).ok());
        let _ = self.jobs.send(job(code, position.unwrap_or(usize::MAX)));
        self.current = Some(Current::Other(request));
    }

    pub(super) fn begin_cell(&mut self, request: Message) {
        let _ = std::fs::remove_file(&self.interrupt);
        let silent = request.flag("silent", false);
        let code = request.text("code").to_owned();
        if !silent && request.flag("store_history", true) && !code.trim().is_empty() {
            self.count += 1;
        }
        self.history.add(self.count, &code);
        self.output.begin(request.header.clone(), self.count, silent, &self.outgoing);
        self.output.publish("execute_input", &json!({"code": code, "execution_count": self.count}), &self.outgoing);
        let mut cell = Cell::new(request, self.count, self.relays.last().map(|relay| relay.number));
        if cell.quits() {
            cell.end = Some(End::complete());
        } else {
            let _ = self.jobs.send(Job::Execute { code, count: self.count });
        }
        self.current = Some(Current::Cell(Box::new(cell)));
    }

    pub(super) fn abort_pending(&mut self) {
        let (aborted, kept): (VecDeque<_>, _) =
            std::mem::take(&mut self.pending).into_iter().partition(|request| request.kind() == "execute_request");
        self.pending = kept;
        for request in aborted {
            self.status(&request, "busy");
            // Without a count, as it was not counted: clients show none beside the cell.
            self.outgoing.reply(Channel::Shell, &request, &json!({"status": "aborted"}));
            self.status(&request, "idle");
        }
    }
}
