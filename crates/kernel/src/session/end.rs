//! The end of a request that evcxr answers: a cell ends when all its output has arrived.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;

use super::cell::{Awaits, Cell, End};
use super::{Current, Event, Session};
use crate::connection::Channel;
use crate::evaluator::Answer;
use crate::records::PING;

/// How long a cell waits for its standard output to be flushed, which another thread may have locked.
const FLUSH: Duration = Duration::from_millis(50);
/// How long a cell waits for its last output.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

impl Session {
    /// Handles the answer of evcxr. A cell is finished later, when all its output has arrived.
    pub(super) async fn answered(&mut self, answer: Answer) {
        match (answer, self.current.take()) {
            (Answer::Content(content), Some(Current::Other(request))) => {
                if request.kind() == "comm_open" {
                    let id = request.text("comm_id");
                    self.outgoing.publish("comm_msg", &json!({}), &json!({"comm_id": id, "data": content}));
                    self.outgoing.publish("comm_close", &request.header, &json!({"comm_id": id, "data": {}}));
                } else {
                    self.outgoing.reply(Channel::Shell, &request, &content);
                }
                self.status(&request, "idle");
            }
            (Answer::Executed(executed), Some(Current::Cell(mut cell))) => {
                let awaits = if executed.ended { Awaits::Closing } else { Awaits::Flush };
                let is_open = self.relays.iter().any(|relay| Some(relay.number) == cell.relay);
                let is_complete = executed.ended && !is_open;
                let until = Instant::now() + if executed.ended { LAST_OUTPUT } else { FLUSH };
                cell.end = Some(End { executed, awaits, until, is_complete });
                let flushes = awaits == Awaits::Flush && cell.started;
                self.current = Some(Current::Cell(cell));
                match &mut self.flusher {
                    Some((_, flusher)) if flushes => flusher.ask(b'f').await,
                    _ if awaits == Awaits::Flush => self.ping().await,
                    _ => {}
                }
            }
            (_, current) => self.current = current,
        }
    }

    /// Asks the relay for the last output of the cell.
    pub(super) async fn ping(&mut self) {
        if let Some(relay) = self.relays.last_mut() {
            relay.writer.ask(PING).await;
        }
        let has_relay = !self.relays.is_empty();
        if let Some(end) = self.cell_mut().and_then(|cell| cell.end.as_mut()) {
            end.awaits = Awaits::Pong;
            end.until = Instant::now() + LAST_OUTPUT;
            end.is_complete = !has_relay;
        }
    }

    /// Returns the cell if it has ended and all its output has arrived.
    pub(super) fn take_ended(&mut self) -> Option<Cell> {
        self.cell()?.end.as_ref().filter(|end| end.is_complete)?;
        match self.current.take() {
            Some(Current::Cell(cell)) => Some(*cell),
            other => {
                self.current = other;
                None
            }
        }
    }

    /// Reports the end of the cell to clients.
    pub(super) async fn finish(
        &mut self,
        mut cell: Cell,
        events: &mut UnboundedReceiver<Event>,
        set_aside: &mut VecDeque<Event>,
    ) {
        let _ = std::fs::remove_file(&self.interrupt);
        self.output.flush(&self.outgoing);
        (self.question, self.is_asked, self.question_is_due) = (None, false, false);
        let mut executed = cell.end.take().map(|end| end.executed).unwrap_or_default();
        for shown in std::mem::take(&mut executed.shown) {
            self.output.result(&shown, &self.outgoing);
        }
        let status = self.status.take_if(|_| executed.ended);
        let failures = cell.failures(executed, status.as_deref(), &self.history);
        failures.iter().for_each(|failure| self.output.publish("error", &failure.content(), &self.outgoing));
        let aborts = !failures.is_empty() && cell.request.flag("stop_on_error", true);
        if aborts {
            // Abort what the client has already sent, but nothing that it sends after the reply.
            tokio::time::sleep(Duration::from_millis(2)).await;
            while let Ok(event) = events.try_recv() {
                match event {
                    Event::Request(Channel::Shell, request) => self.pending.push_back(request),
                    other => set_aside.push_back(other),
                }
            }
        }
        self.outgoing.reply(Channel::Shell, &cell.request, &cell.reply(&failures));
        self.status(&cell.request, "idle");
        self.is_leaving |= cell.quits();
        if aborts {
            self.abort_pending();
        }
    }
}
