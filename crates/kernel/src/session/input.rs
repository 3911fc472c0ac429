//! Lines of input that cells ask for.

use serde_json::json;

use super::{Current, Session};
use crate::connection::Channel;
use crate::message::Message;

impl Session {
    /// Sends a cell's question to the client once all output before it has arrived.
    pub(super) fn ask_for_input(&mut self) {
        if self.question.is_none() || !self.question_is_due || self.is_asked {
            return;
        }
        let (Some(question), Some(Current::Cell(cell))) = (&self.question, &self.current) else { return };
        self.output.flush(&self.outgoing);
        self.is_asked = true;
        if cell.request.flag("allow_stdin", false) && cell.presses == 0 {
            let content = json!({"prompt": question.prompt, "password": question.is_password});
            self.outgoing.send(Channel::Stdin, "input_request", &cell.request, &content);
        } else {
            let _ = question.answer.send(String::new());
            (self.question, self.is_asked, self.question_is_due) = (None, false, false);
        }
    }

    pub(super) fn take_input(&mut self, answer: &Message) {
        if self.is_asked
            && answer.kind() == "input_reply"
            && let Some(question) = self.question.take()
        {
            // Only one line: further lines would be read as instructions.
            let line = answer.text("value").lines().next().unwrap_or_default().to_owned();
            let _ = question.answer.send(line);
            (self.is_asked, self.question_is_due) = (false, false);
        }
    }
}
