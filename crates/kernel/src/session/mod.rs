//! The kernel's main loop: one task that owns all state and never blocks.
//!
//! Requests on the shell socket are answered in order, requests on the control socket immediately.

mod cell;
mod end;
mod info;
mod input;
mod output;
mod shell;
mod stop;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver};

use self::cell::{Awaits, Cell};
use crate::cells::{self, Writer};
use crate::connection::{Channel, Outgoing};
use crate::evaluator::{Job, Question};
use crate::history::History;
use crate::message::Message;
use crate::output::Output;
use crate::{evaluator, processes};

/// How often the compilers of an interrupted cell are killed until it ends.
const COMPILERS: Duration = Duration::from_millis(30);
/// How many bytes may wait to be sent to clients before the output of cells is no longer read.
const BACKLOG: usize = 32 << 20;

/// An event for the main loop.
pub(crate) enum Event {
    Request(Channel, Message),
    Evaluator(evaluator::Event),
    /// SIGINT, which acts as the stop button.
    Interrupt,
    /// The kernel must exit.
    End,
}

pub(crate) struct Session {
    outgoing: Outgoing,
    jobs: Sender<Job>,
    interrupt: PathBuf,
    output: Output,
    history: History,
    count: u32,
    /// Requests on the shell socket.
    pending: VecDeque<Message>,
    current: Option<Current>,
    /// The last is the current one; the others belong to exiting cell processes.
    relays: Vec<Relay>,
    /// The exit status of the latest cell process that exited.
    status: Option<String>,
    flusher: Option<(u64, Writer)>,
    question: Option<Question>,
    /// Whether all output before the question has arrived.
    question_is_due: bool,
    /// Whether the question was sent to the client.
    is_asked: bool,
    is_leaving: bool,
}

enum Current {
    Cell(Box<Cell>),
    /// Another request that evcxr answers.
    Other(Message),
}

struct Relay {
    number: u64,
    writer: Writer,
    /// The cell process, until it has exited.
    cells: Option<u32>,
}

impl Session {
    pub(crate) fn new(outgoing: Outgoing, jobs: Sender<Job>, interrupt: PathBuf) -> Self {
        outgoing.publish("status", &json!({}), &json!({"execution_state": "starting"}));
        Self {
            outgoing,
            jobs,
            interrupt,
            output: Output::default(),
            history: History::default(),
            count: 0,
            pending: VecDeque::new(),
            current: None,
            relays: Vec::new(),
            status: None,
            flusher: None,
            question: None,
            question_is_due: false,
            is_asked: false,
            is_leaving: false,
        }
    }

    /// Runs until the kernel must exit.
    pub(crate) async fn run(mut self, mut events: UnboundedReceiver<Event>, mut cells: Receiver<cells::Event>) {
        // Events that were received while looking for others.
        let mut set_aside = VecDeque::new();
        while !self.is_leaving {
            let due = self.due();
            if let Some(event) = set_aside.pop_front() {
                self.event(event).await;
            } else {
                tokio::select! {
                    biased;
                    Some(event) = events.recv() => self.event(event).await,
                    Some(event) = cells.recv(), if self.may_read() => self.cells(event).await,
                    () = tokio::time::sleep_until(due.into()) => self.tick().await,
                }
            }
            self.ask_for_input();
            self.output.flush_due(&self.outgoing);
            if let Some(cell) = self.take_ended() {
                self.finish(cell, &mut events, &mut set_aside).await;
            }
            while !self.is_leaving
                && self.current.is_none()
                && let Some(request) = self.pending.pop_front()
            {
                self.begin(request).await;
            }
        }
        self.leave().await;
    }

    async fn event(&mut self, event: Event) {
        match event {
            Event::Request(Channel::Shell, request) => self.pending.push_back(request),
            Event::Request(Channel::Stdin, answer) => self.take_input(&answer),
            Event::Request(Channel::Control, request) => self.control(&request).await,
            Event::Evaluator(evaluator::Event::Begun) => {
                if let Some(cell) = self.cell_mut() {
                    cell.begun = true;
                }
            }
            Event::Evaluator(evaluator::Event::Answer(answer)) => self.answered(answer).await,
            Event::Evaluator(evaluator::Event::Question(question)) => self.question = Some(question),
            Event::Interrupt => self.press().await,
            Event::End => self.is_leaving = true,
        }
    }

    /// Whether to read more output of cells: not while clients do not keep up, unless the process is being killed.
    fn may_read(&self) -> bool {
        self.outgoing.backlog() < BACKLOG || self.cell().is_some_and(|cell| cell.presses > 1)
    }

    /// Returns when `tick` is to be called next.
    fn due(&self) -> Instant {
        let now = Instant::now();
        let end = self.cell().and_then(|cell| cell.end.as_ref()).map(|end| end.until);
        let compilers = self.compiles_in_vain().then(|| now + COMPILERS);
        let backlog = (!self.may_read()).then(|| now + Duration::from_millis(10));
        let dues = [end, compilers, backlog, self.output.due()];
        dues.into_iter().flatten().min().unwrap_or(now + Duration::from_secs(3600))
    }

    async fn tick(&mut self) {
        if self.compiles_in_vain() {
            processes::end_compilers();
        }
        if let Some(end) = self.cell_mut().and_then(|cell| cell.end.as_mut())
            && Instant::now() >= end.until
        {
            match end.awaits {
                Awaits::Flush => self.ping().await,
                Awaits::Pong | Awaits::Closing => end.is_complete = true,
            }
        }
    }

    fn cell(&self) -> Option<&Cell> {
        match &self.current {
            Some(Current::Cell(cell)) => Some(cell),
            _ => None,
        }
    }

    fn cell_mut(&mut self) -> Option<&mut Cell> {
        match &mut self.current {
            Some(Current::Cell(cell)) => Some(cell),
            _ => None,
        }
    }

    fn status(&self, request: &Message, state: &str) {
        self.outgoing.publish("status", &request.header, &json!({"execution_state": state}));
    }
}
