//! Tells what is going on, for everything that may take longer than a few seconds.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How often a step in progress is heard of where lines cannot be rewritten (CI logs, pipes).
const HEARTBEAT: Duration = Duration::from_secs(20);

/// One step of the work: announced at its start, with its time at its end.
pub(crate) struct Step {
    started: Instant,
    last_update: Option<Instant>,
    terminal: bool,
}

impl Step {
    /// Announces what is being done, as "Installing JupyterLab".
    pub(crate) fn start(what: &str) -> Self {
        eprintln!("{what} ...");
        Self { started: Instant::now(), last_update: None, terminal: std::io::stderr().is_terminal() }
    }

    /// Shows how far the step is: rewritten in place on a terminal, now and then as a line elsewhere.
    pub(crate) fn update(&mut self, detail: &str) {
        let pause = if self.terminal { Duration::from_millis(100) } else { HEARTBEAT };
        if self.last_update.unwrap_or(self.started).elapsed() < pause {
            return;
        }
        self.last_update = Some(Instant::now());
        let detail: String = detail.trim().chars().filter(|c| !c.is_control()).take(70).collect();
        let time = seconds(self.started.elapsed());
        if self.terminal {
            eprint!("\r\x1b[2K    {time}: {detail}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("    {time}: {detail}");
        }
    }

    /// Ends the step, and says how long it took.
    pub(crate) fn done(self) {
        self.clear();
        eprintln!("    done in {}", seconds(self.started.elapsed()));
    }

    /// Takes the rewritten line away, so that an error message starts on an empty line.
    pub(crate) fn clear(&self) {
        if self.terminal && self.last_update.is_some() {
            eprint!("\r\x1b[2K");
        }
    }
}

fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1} s", time.as_secs_f32()),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(seconds(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
