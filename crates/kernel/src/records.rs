//! The messages between the kernel and the process that runs the cells, over a Unix socket.
//!
//! The first byte of a connection tells who connects: [`RELAY`] or [`FLUSHER`]. A relay then sends records: a tag, the
//! length in four bytes, and the content.

use std::io::{self, Write};

/// The process between evcxr and the cell process (`relay`).
pub(crate) const RELAY: u8 = b'R';
/// The thread in the cell process that flushes standard output (`prelude`).
pub(crate) const FLUSHER: u8 = b'F';

/// Asks the relay to forward all pending output and to answer with [`Record::Pong`].
pub(crate) const PING: u8 = b'p';
/// Asks the relay to kill the cell process.
pub(crate) const KILL: u8 = b'k';

/// The environment variable that holds the path of the kernel's socket.
pub(crate) const SOCKET: &str = "EARLYSTOP_KERNEL_SOCKET";

/// A report of the relay. Records arrive in the order of what they report.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    /// The process ids of the relay and of the cell process.
    Hello {
        relay: u32,
        cells: u32,
    },
    Stdout(String),
    Stderr(String),
    /// A line `\u{2}earlystop {json}`: the JSON.
    Command(String),
    /// Rich output: the lines between evcxr's marker lines.
    Content {
        mime_type: String,
        body: String,
    },
    /// A compiled cell starts to run.
    Started,
    /// The cell ended in a panic.
    Panicked,
    /// The cell ended in an error returned by `?`.
    EndedByError,
    /// The cell asks for a line of input. The request itself arrives through evcxr.
    InputRequested,
    Pong,
    /// The cell process ended with this status.
    Ended(String),
}

impl Record {
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (tag, content) = match self {
            Self::Hello { relay, cells } => (b'h', [relay.to_le_bytes(), cells.to_le_bytes()].concat()),
            Self::Stdout(text) => (b'o', text.clone().into_bytes()),
            Self::Stderr(text) => (b'e', text.clone().into_bytes()),
            Self::Command(json) => (b'c', json.clone().into_bytes()),
            Self::Content { mime_type, body } => (b'm', format!("{mime_type}\n{body}").into_bytes()),
            Self::Started => (b's', Vec::new()),
            Self::Panicked => (b'!', Vec::new()),
            Self::EndedByError => (b'?', Vec::new()),
            Self::InputRequested => (b'i', Vec::new()),
            Self::Pong => (b'p', Vec::new()),
            Self::Ended(status) => (b'x', status.clone().into_bytes()),
        };
        let length = u32::try_from(content.len()).map_err(|_| io::Error::other("an output of more than 4 GB"))?;
        let mut frame = Vec::with_capacity(content.len() + 5);
        frame.push(tag);
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(&content);
        out.write_all(&frame)
    }

    /// Removes the first record from `bytes` and returns it, or `None` if it is incomplete.
    ///
    /// # Errors
    /// If the bytes are not a record. The connection is unusable then.
    pub(crate) fn take(bytes: &mut bytes::BytesMut) -> io::Result<Option<Self>> {
        let Some(head) = bytes.first_chunk::<5>() else { return Ok(None) };
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let tag = head[0];
        if bytes.len() < 5 + length {
            bytes.reserve(5 + length - bytes.len());
            return Ok(None);
        }
        let frame = bytes.split_to(5 + length);
        let content = &frame[5..];
        let text = || String::from_utf8_lossy(content).into_owned();
        Ok(Some(match tag {
            b'h' => {
                let ids: [u8; 8] = content.try_into().map_err(|_| io::Error::other("a greeting without ids"))?;
                let [a, b, c, d, e, f, g, h] = ids;
                Self::Hello { relay: u32::from_le_bytes([a, b, c, d]), cells: u32::from_le_bytes([e, f, g, h]) }
            }
            b'o' => Self::Stdout(text()),
            b'e' => Self::Stderr(text()),
            b'c' => Self::Command(text()),
            b'm' => {
                let text = text();
                let (mime_type, body) = text.split_once('\n').unwrap_or((&text, ""));
                Self::Content { mime_type: mime_type.to_owned(), body: body.to_owned() }
            }
            b's' => Self::Started,
            b'!' => Self::Panicked,
            b'?' => Self::EndedByError,
            b'i' => Self::InputRequested,
            b'p' => Self::Pong,
            b'x' => Self::Ended(text()),
            _ => return Err(io::Error::other(format!("an unknown record {tag}"))),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_written_also_byte_by_byte() {
        let records = [
            Record::Hello { relay: 1, cells: 70_000 },
            Record::Stdout("größer\n".into()),
            Record::Stderr(String::new()),
            Record::Command("{}".into()),
            Record::Content { mime_type: "text/html".into(), body: "<b>\nx</b>".into() },
            Record::Started,
            Record::Panicked,
            Record::EndedByError,
            Record::InputRequested,
            Record::Pong,
            Record::Ended("exit status: 3".into()),
        ];
        let mut written = Vec::new();
        records.iter().for_each(|record| record.write(&mut written).unwrap());
        let (mut bytes, mut read) = (bytes::BytesMut::new(), Vec::new());
        for byte in written {
            bytes.extend_from_slice(&[byte]);
            read.extend(Record::take(&mut bytes).unwrap());
        }
        assert_eq!(read, records);
        assert!(bytes.is_empty());
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(Record::take(&mut bytes::BytesMut::from(&b"z\0\0\0\0"[..])).is_err());
        assert!(Record::take(&mut bytes::BytesMut::from(&b"h\x01\0\0\0x"[..])).is_err());
    }
}
