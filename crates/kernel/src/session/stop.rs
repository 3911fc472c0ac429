//! The control socket, the stop button, and the end of the kernel.

use std::time::Duration;

use serde_json::json;

use super::{Session, info};
use crate::connection::Channel;
use crate::message::Message;
use crate::processes;
use crate::records::KILL;

impl Session {
    pub(super) async fn control(&mut self, request: &Message) {
        self.control_on(Channel::Control, request).await;
    }

    pub(super) async fn control_on(&mut self, channel: Channel, request: &Message) {
        match request.kind() {
            "kernel_info_request" => self.outgoing.reply(channel, request, &info::kernel_info()),
            "interrupt_request" => {
                self.press().await;
                self.outgoing.reply(channel, request, &json!({"status": "ok"}));
            }
            "shutdown_request" => {
                let content = json!({"status": "ok", "restart": request.flag("restart", false)});
                self.outgoing.publish("shutdown_reply", &request.header, &content);
                self.outgoing.reply(channel, request, &content);
                self.is_leaving = true;
            }
            _ => {}
        }
    }

    /// Handles the stop button: the first press is a request, the second kills the cell process.
    pub(super) async fn press(&mut self) {
        let Some(cell) = self.cell_mut() else { return };
        cell.presses += 1;
        let presses = cell.presses;
        if presses == 1 {
            if let Err(error) = std::fs::write(&self.interrupt, "") {
                eprintln!("could not write {}: {error}", self.interrupt.display());
            }
            let text =
                "Stopping after the current step. Press stop again to end the process, which loses the variables.\n";
            self.output.stderr(text, &self.outgoing);
            self.output.flush(&self.outgoing);
        } else if let Some(relay) = self.relays.last_mut() {
            relay.writer.ask(KILL).await;
        }
        // A cell that waits for input continues without it.
        if let Some(question) = self.question.take() {
            let _ = question.answer.send(String::new());
        }
        if self.compiles_in_vain() {
            processes::end_compilers();
        }
    }

    /// Whether an interrupted cell is still compiling.
    pub(super) fn compiles_in_vain(&self) -> bool {
        self.cell().is_some_and(|cell| cell.presses > 0 && cell.begun && !cell.started && cell.end.is_none())
    }

    /// Kills all processes and sends the remaining messages.
    pub(super) async fn leave(mut self) {
        for relay in &mut self.relays {
            relay.writer.ask(KILL).await;
            relay.cells.into_iter().for_each(processes::end);
        }
        processes::end_compilers();
        self.output.flush(&self.outgoing);
        self.outgoing.close(Duration::from_millis(500)).await;
    }
}
