//! Separates marker lines from the text that cells print.

/// evcxr's marker lines. They are searched at the end of a line, because text that a cell printed without a newline
/// precedes them.
const COMPLETE: &[u8] = b"EVCXR_EXECUTION_COMPLETE";
const PANICKED: &[u8] = b"EVCXR_PANIC_NOTIFICATION";
const ENDED_BY_ERROR: &[u8] = b"EVCXR_ERROR_OCCURRED";
const END_CONTENT: &[u8] = b"EVCXR_END_CONTENT";
/// Markers with a payload.
const BEGIN_CONTENT: &[u8] = b"EVCXR_BEGIN_CONTENT ";
const INPUT_REQUEST: &[u8] = b"EVCXR_INPUT_REQUEST";
const TYPE_CHANGED: &[u8] = b"EVCXR_VARIABLE_CHANGED_TYPE:";
const COMMAND: &[u8] = b"\x02earlystop ";

/// The common prefix of evcxr's markers.
const EVCXR: &[u8] = b"EVCXR_";

/// A piece of a cell's standard output.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    Text(Vec<u8>),
    /// The payload of a line `\u{2}earlystop …`.
    Command(String),
    Content {
        mime_type: String,
        body: String,
    },
    Marker(Marker, Vec<u8>),
}

/// A line that must be forwarded to evcxr.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Marker {
    Complete,
    Panicked,
    EndedByError,
    InputRequest,
    TypeChanged,
}

#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The last, incomplete line, without the part that was already returned by `partial`.
    buffer: Vec<u8>,
    /// The buffer has no newline before this index.
    searched: usize,
    /// MIME type and body of the rich output that is being collected.
    content: Option<(String, Vec<u8>)>,
}

impl Lines {
    /// Adds output and returns the complete pieces.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Piece> {
        self.buffer.extend_from_slice(bytes);
        let mut pieces = Vec::new();
        let mut begin = 0;
        while let Some(length) = self.buffer[self.searched.max(begin)..].iter().position(|&byte| byte == b'\n') {
            let end = self.searched.max(begin) + length;
            let line = self.buffer[begin..end].to_vec();
            self.line(line, &mut pieces);
            begin = end + 1;
        }
        self.buffer.drain(..begin);
        self.searched = self.buffer.len();
        pieces
    }

    /// Returns the text of an incomplete line, unless it may be the start of a marker.
    pub(super) fn partial(&mut self) -> Option<Vec<u8>> {
        if self.content.is_some() || find(&self.buffer, EVCXR).or(find(&self.buffer, COMMAND)).is_some() {
            return None;
        }
        let held = [EVCXR, COMMAND].iter().map(|marker| begun(&self.buffer, marker)).max().unwrap_or(0);
        let text = &self.buffer[..self.buffer.len() - held];
        let complete = text.len() - cut_character(text);
        let text: Vec<u8> = self.buffer.drain(..complete).collect();
        self.searched = self.buffer.len();
        (!text.is_empty()).then_some(text)
    }

    /// Whether there is an incomplete line.
    pub(super) fn has_partial(&self) -> bool {
        self.content.is_none() && !self.buffer.is_empty()
    }

    fn line(&mut self, line: Vec<u8>, pieces: &mut Vec<Piece>) {
        if let Some((mime_type, mut body)) = self.content.take() {
            if line == END_CONTENT {
                body.pop();
                pieces.push(Piece::Content { mime_type, body: String::from_utf8_lossy(&body).into_owned() });
                return;
            }
            // A cell that panics within its rich output, or never ends it, must not block evcxr forever.
            if !line.ends_with(PANICKED) && !line.ends_with(COMPLETE) {
                body.extend_from_slice(&line);
                body.push(b'\n');
                self.content = Some((mime_type, body));
                return;
            }
            text(body, pieces);
        }
        if let Some(at) = find(&line, COMMAND) {
            text(line[..at].to_vec(), pieces);
            pieces.push(Piece::Command(String::from_utf8_lossy(&line[at + COMMAND.len()..]).into_owned()));
            return;
        }
        if find(&line, EVCXR).is_some() && self.marker(&line, pieces) {
            return;
        }
        let mut line = line;
        line.push(b'\n');
        text(line, pieces);
    }

    /// Handles a line that contains one of evcxr's markers; returns false if it does not.
    fn marker(&mut self, line: &[u8], pieces: &mut Vec<Piece>) -> bool {
        let ending =
            [(COMPLETE, Marker::Complete), (PANICKED, Marker::Panicked), (ENDED_BY_ERROR, Marker::EndedByError)];
        for (marker, kind) in ending {
            if let Some(before) = line.strip_suffix(marker) {
                text(before.to_vec(), pieces);
                pieces.push(Piece::Marker(kind, marker.to_vec()));
                return true;
            }
        }
        if let Some(at) = find(line, BEGIN_CONTENT) {
            text(line[..at].to_vec(), pieces);
            let mime_type = String::from_utf8_lossy(&line[at + BEGIN_CONTENT.len()..]).into_owned();
            self.content = Some((mime_type, Vec::new()));
            return true;
        }
        for (marker, kind) in [(INPUT_REQUEST, Marker::InputRequest), (TYPE_CHANGED, Marker::TypeChanged)] {
            if let Some(at) = find(line, marker) {
                text(line[..at].to_vec(), pieces);
                pieces.push(Piece::Marker(kind, line[at..].to_vec()));
                return true;
            }
        }
        false
    }
}

/// Appends text, merging it with preceding text.
fn text(bytes: Vec<u8>, pieces: &mut Vec<Piece>) {
    match pieces.last_mut() {
        _ if bytes.is_empty() => {}
        Some(Piece::Text(before)) => before.extend_from_slice(&bytes),
        _ => pieces.push(Piece::Text(bytes)),
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = wanted[0];
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|&byte| byte == first) {
        if bytes[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// The number of trailing bytes that are the start of `marker`.
fn begun(bytes: &[u8], marker: &[u8]) -> usize {
    (1..marker.len()).rev().find(|&length| bytes.ends_with(&marker[..length])).unwrap_or(0)
}

/// The number of trailing bytes that are the start of an incomplete UTF-8 character.
pub(super) fn cut_character(bytes: &[u8]) -> usize {
    for length in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - length];
        let whole = match byte {
            0b1100_0000..=0b1101_1111 => 2,
            0b1110_0000..=0b1110_1111 => 3,
            0b1111_0000..=0b1111_0111 => 4,
            0b1000_0000..=0b1011_1111 => continue,
            _ => return 0,
        };
        return if whole > length { length } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Piece {
        Piece::Text(text.into())
    }

    #[test]
    fn lines_are_handed_out_together_and_a_begun_one_waits() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\ntwo\nth"), [text("one\ntwo\n")]);
        assert!(lines.has_partial());
        assert_eq!(lines.partial().unwrap(), b"th");
        assert_eq!(lines.push(b"ree\n"), [text("ree\n")]);
        assert!(!lines.has_partial());
    }

    #[test]
    fn markers_are_found_behind_text_without_a_lines_end() {
        let mut lines = Lines::default();
        let pieces = lines.push(b"50%EVCXR_PANIC_NOTIFICATION\nEVCXR_EXECUTION_COMPLETE\nEVCXR_INPUT_REQUEST:name?\n");
        let expected = [
            text("50%"),
            Piece::Marker(Marker::Panicked, b"EVCXR_PANIC_NOTIFICATION".to_vec()),
            Piece::Marker(Marker::Complete, b"EVCXR_EXECUTION_COMPLETE".to_vec()),
            Piece::Marker(Marker::InputRequest, b"EVCXR_INPUT_REQUEST:name?".to_vec()),
        ];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn a_begun_marker_is_never_handed_out_as_text() {
        for cut in 1..COMPLETE.len() {
            let mut lines = Lines::default();
            assert_eq!(lines.push(&COMPLETE[..cut]), []);
            assert_eq!(lines.partial(), None, "{cut}");
            let rest = [&COMPLETE[cut..], b"\n"].concat();
            assert_eq!(lines.push(&rest), [Piece::Marker(Marker::Complete, COMPLETE.to_vec())]);
        }
    }

    #[test]
    fn content_is_collected_and_ended_by_a_panic_or_the_cells_end() {
        let mut lines = Lines::default();
        let content = |body: &str| Piece::Content { mime_type: "text/html".into(), body: body.into() };
        let pieces = lines.push(b"a\nEVCXR_BEGIN_CONTENT text/html\n<b>\n</b>\nEVCXR_END_CONTENT\nb\n");
        assert_eq!(pieces, [text("a\n"), content("<b>\n</b>"), text("b\n")]);
        let pieces = lines.push(b"EVCXR_BEGIN_CONTENT text/html\n<b>\nEVCXR_EXECUTION_COMPLETE\n");
        assert_eq!(pieces, [text("<b>\n"), Piece::Marker(Marker::Complete, COMPLETE.to_vec())]);
        assert_eq!(lines.push(b"EVCXR_BEGIN_CONTENT text/html\nEVCXR_END_CONTENT\n"), [content("")]);
    }

    #[test]
    fn a_command_is_found_behind_a_begun_line() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"x\x02earlystop {}\n"), [text("x"), Piece::Command("{}".into())]);
        assert_eq!(lines.push(b"\x02earlystop {"), []);
        assert_eq!(lines.partial(), None);
    }

    #[test]
    fn characters_are_not_cut() {
        let mut lines = Lines::default();
        let text = "größe €";
        assert_eq!(lines.push(&text.as_bytes()[..text.len() - 1]), []);
        assert_eq!(lines.partial().unwrap(), "größe ".as_bytes());
        assert_eq!(lines.push(&text.as_bytes()[text.len() - 1..]), []);
        assert_eq!(lines.partial().unwrap(), "€".as_bytes());
        assert_eq!((cut_character(b"\xff"), cut_character(b"\x80\x80\x80\x80")), (0, 0));
    }
}
