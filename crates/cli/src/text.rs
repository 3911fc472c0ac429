//! Text for people: escaped, with units.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Escapes what a terminal could obey, or what could make one text look like another: control characters, and invisible ones.
///
/// Names and metadata come from files of others. The result has no line breaks.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unsafe(character) { out.extend(character.escape_debug()) } else { out.push(character) }
    }
    out
}

/// Says whether a character must not reach a terminal: control characters, invisible ones and those that reverse the text.
pub(crate) fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Shows a path. Bytes that are not UTF-8 are shown as `\xff`.
pub(crate) fn path(path: &Path) -> String {
    let mut out = String::new();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        out.push_str(&escaped(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}"); // a string takes everything
        }
    }
    out
}

/// Shows the last part of a path.
pub(crate) fn file_name(of: &Path) -> String {
    path(of.file_name().map_or(of, Path::new))
}

/// Shows a size: `512 B`, `2.91 MB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1000.0, 0);
    // What would be rounded to 1000 has the next unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// Shows a number with a comma between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Shows a number of things: `1 tensor`, `2 tensors`.
pub(crate) fn things(number: usize, what: &str) -> String {
    format!("{} {what}{}", count(number as u64), if number == 1 { "" } else { "s" })
}

/// Shows how long ago a time was.
pub(crate) fn age(time: SystemTime) -> String {
    let seconds = SystemTime::now().duration_since(time).unwrap_or_default().as_secs();
    match seconds {
        0..60 => "just now".to_owned(),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        86_400..172_800 => "1 day ago".to_owned(),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// Shows a duration: `0:03:11`.
pub(crate) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Shows a difference with three digits.
pub(crate) fn small(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        0.001..1e6 => format!("{:.*}", (2 - value.abs().log10().floor() as i32).max(0) as usize, value),
        _ if value.is_finite() => format!("{value:.2e}"),
        _ => value.to_string(),
    }
}

/// Escapes a text and truncates it to a number of characters.
pub(crate) fn cut(text: &str, characters: usize) -> String {
    let escaped = escaped(text);
    match escaped.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &escaped[..end]),
        None => escaped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(escaped("layer_1.weight ö 猫"), "layer_1.weight ö 猫");
        assert_eq!(escaped("a\u{1b}[31m\nb\r\u{7f}\u{9b}2J"), r"a\u{1b}[31m\nb\r\u{7f}\u{9b}2J");
        assert_eq!(escaped("\u{202e}txt\u{200b}"), r"\u{202e}txt\u{200b}");
        for character in ('\0'..=char::MAX).filter(|&character| is_unsafe(character)) {
            assert!(!escaped(&character.to_string()).contains(character), "{character:?}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_path_that_is_not_utf_8_is_shown() {
        use std::os::unix::ffi::OsStrExt;
        let name = Path::new(std::ffi::OsStr::from_bytes(b"runs/\xff\xc3\xb6\x1b.safetensors"));
        assert_eq!(path(name), r"runs/\xffö\u{1b}.safetensors");
        assert_eq!(file_name(name), r"\xffö\u{1b}.safetensors");
    }

    #[test]
    fn sizes_have_three_digits() {
        let sizes = [0, 999, 1000, 2_912_264, 99_949, 99_950, 999_499, 999_500, 5_000_000_000, u64::MAX];
        let expected =
            ["0 B", "999 B", "1.00 kB", "2.91 MB", "99.9 kB", "100 kB", "999 kB", "1.00 MB", "5.00 GB", "18447 PB"];
        assert_eq!(sizes.map(bytes), expected);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.0, 0.012_345, 1.5, 1500.2, 1e-9, 2e12].map(small),
            ["0", "0.0123", "1.50", "1500", "1.00e-9", "2.00e12"]
        );
        assert_eq!(small(f64::INFINITY), "inf");
        assert_eq!(clock(Duration::from_secs(3_791)), "1:03:11");
        assert_eq!(cut("a\nbcd", 4), r"a\nb…");
        let past = |seconds| SystemTime::now() - Duration::from_secs(seconds);
        assert_eq!(
            [5, 61, 7300, 90_000, 400_000].map(past).map(age),
            ["just now", "1 min ago", "2 h ago", "1 day ago", "4 days ago"]
        );
    }
}
