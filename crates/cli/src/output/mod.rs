//! What the commands print.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use anstyle::{AnsiColor, Style};
use serde_json::Value;

mod table;

pub(crate) use table::Table;

use crate::failure::{Failure, Result};
use crate::text;

const TITLE: Style = Style::new().bold();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default();

/// The standard output. All text that comes from files must be escaped before it is written here.
pub(crate) struct Output {
    stream: BufWriter<Stdout>,
    has_color: bool,
    /// Whether to print JSON.
    pub(crate) is_json: bool,
}

impl Output {
    pub(crate) fn new(color: anstream::ColorChoice, is_json: bool) -> Self {
        let stdout = io::stdout();
        let choice = match color {
            anstream::ColorChoice::Auto => anstream::AutoStream::choice(&stdout),
            choice => choice,
        };
        let has_color = choice != anstream::ColorChoice::Never && !is_json;
        Output { stream: BufWriter::new(stdout), has_color, is_json }
    }

    pub(crate) fn line(&mut self, line: impl AsRef<str>) -> Result<()> {
        writeln!(self.stream, "{}", line.as_ref()).map_err(Failure::Output)
    }

    /// Prints a title, after an empty line.
    pub(crate) fn title(&mut self, title: &str) -> Result<()> {
        let title = self.paint(TITLE, title);
        self.line("")?;
        self.line(title)
    }

    /// Gives a text a color, if the output shows colors.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        if self.has_color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    pub(crate) fn table(&mut self, table: &Table) -> Result<()> {
        let (titles, rows) = table.lines();
        for title in titles {
            let title = self.paint(TITLE, &title);
            self.line(title)?;
        }
        rows.iter().try_for_each(|row| self.line(row))
    }

    /// Prints JSON. What a terminal could obey is escaped within its strings.
    pub(crate) fn json(&mut self, value: &Value) -> Result<()> {
        let json = serde_json::to_string_pretty(value).map_err(|error| Failure::message(error.to_string()))?;
        let mut safe = String::with_capacity(json.len());
        for character in json.chars() {
            // Line breaks are those between the values: those within strings are escaped already.
            if text::is_unsafe(character) && character != '\n' {
                let mut units = [0; 2];
                character.encode_utf16(&mut units).iter().for_each(|unit| safe += &format!("\\u{unit:04x}"));
            } else {
                safe.push(character);
            }
        }
        self.line(safe)
    }

    /// Writes bytes without adding a line break.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(Failure::Output)
    }

    /// Flushes the output.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.stream.flush().map_err(Failure::Output)
    }
}

/// Shows the progress of a command that reads many files, if standard error is a terminal.
pub(crate) struct Progress {
    is_shown: bool,
    all: usize,
    done: usize,
}

impl Progress {
    /// Starts the progress of reading this number of files.
    pub(crate) fn new(all: usize) -> Self {
        Progress { is_shown: io::stderr().is_terminal(), all, done: 0 }
    }

    /// Says that the next file is being read.
    pub(crate) fn next(&mut self, bytes: Option<u64>) {
        self.done += 1;
        if self.is_shown {
            let size = bytes.map_or(String::new(), |bytes| format!(" ({})", text::bytes(bytes)));
            let _ = write!(io::stderr(), "\r\x1b[Kreading {} of {}{size}", self.done, self.all);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
