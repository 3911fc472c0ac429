//! What arrives from the relay and the cell process.

use super::cell::Awaits;
use super::{Current, Relay, Session};
use crate::cells;
use crate::processes;
use crate::records::Record;

impl Session {
    pub(super) async fn cells(&mut self, event: cells::Event) {
        match event {
            cells::Event::Relay(number, writer) => {
                self.relays.push(Relay { number, writer, cells: None });
            }
            cells::Event::Record(number, record) => self.record(number, record),
            cells::Event::RelayGone(number) => {
                let latest = self.relays.last().map(|relay| relay.number);
                for relay in self.relays.extract_if(.., |relay| relay.number == number) {
                    // The relay was killed: kill the cell process too.
                    relay.cells.into_iter().for_each(processes::end);
                }
                if let Some(cell) = self.cell_mut() {
                    let relay = cell.relay;
                    if let Some(end) = &mut cell.end {
                        end.is_complete |= match end.awaits {
                            Awaits::Flush => false,
                            Awaits::Pong => latest == Some(number),
                            Awaits::Closing => relay == Some(number),
                        };
                    }
                }
            }
            cells::Event::Flusher(number, writer) => self.flusher = Some((number, writer)),
            cells::Event::Flushed => {
                if self.cell().and_then(|cell| cell.end.as_ref()).is_some_and(|end| end.awaits == Awaits::Flush) {
                    self.ping().await;
                }
            }
            cells::Event::FlusherGone(number) => {
                self.flusher.take_if(|(current, _)| *current == number);
            }
        }
    }

    pub(super) fn record(&mut self, number: u64, record: Record) {
        let (output, outgoing) = (&mut self.output, &self.outgoing);
        let mut cell = match &mut self.current {
            Some(Current::Cell(cell)) => Some(cell),
            _ => None,
        };
        match record {
            Record::Hello { cells, .. } => {
                if let Some(relay) = self.relays.iter_mut().find(|relay| relay.number == number) {
                    relay.cells = Some(cells);
                }
            }
            Record::Stdout(text) => output.stdout(&text, outgoing),
            Record::Stderr(text) => output.stderr(&text, outgoing),
            Record::Command(json) => output.command(&json, outgoing),
            // evcxr evaluates an expression when it starts.
            Record::Content { .. } if cell.as_ref().is_some_and(|cell| !cell.begun) => {}
            Record::Content { mime_type, body } => output.content(&mime_type, body, outgoing),
            Record::Started => {
                // Otherwise the kernel's prelude is running.
                if let Some(cell) = cell.filter(|cell| cell.begun) {
                    cell.started = true;
                    cell.relay = Some(number);
                }
            }
            Record::Panicked => {
                let panic = output.take_panic(outgoing);
                if let Some(cell) = &mut cell {
                    cell.panic = Some(panic);
                }
            }
            Record::EndedByError => {
                let error = output.take_error(outgoing);
                if let Some(cell) = &mut cell {
                    cell.error = Some(error);
                }
            }
            Record::InputRequested => self.question_is_due = true,
            Record::Pong => {
                if let Some(end) = cell.and_then(|cell| cell.end.as_mut()) {
                    end.is_complete |= end.awaits == Awaits::Pong;
                }
            }
            Record::Ended(status) => {
                if let Some(relay) = self.relays.iter_mut().find(|relay| relay.number == number) {
                    relay.cells = None;
                }
                self.status = Some(status);
            }
        }
    }
}
