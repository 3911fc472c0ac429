//! Shows pictures in a notebook. The only part of the library that writes to standard output.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::io::{self, Write};

/// Shows a PNG under the running notebook cell; outside a notebook, does nothing.
///
/// `width` is in CSS pixels. `alt` is the text for readers who do not see the picture.
///
/// The evcxr kernel shows one picture per cell, when the cell ends: of two, only the last is seen. Put several into
/// one by [`Figure::beside`](crate::plot::Figure::beside) or [`Figure::stack`](crate::plot::Figure::stack).
///
/// Speaks [evcxr's protocol for rich output][protocol].
///
/// [protocol]: https://github.com/evcxr/evcxr/tree/main/evcxr_jupyter#custom-output
pub fn show_png(png: &[u8], width: u32, alt: &str) {
    // A kernel that reads no more is going away, with this process.
    in_notebook(|out| write_picture(out, png, width, alt));
}

/// Writes a line under the running notebook cell; outside a notebook, does nothing.
pub(crate) fn note(text: &str) {
    in_notebook(|out| writeln!(out, "{text}"));
}

fn in_notebook(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
    // The kernel marks its processes so. Elsewhere the text would fill a terminal and tell nobody anything.
    if std::env::var_os("EVCXR_IS_RUNTIME").is_some() {
        let _ = write(&mut io::stdout().lock());
    }
}

/// Writes the picture as PNG, for programs that extract a notebook's pictures, and as HTML, which Jupyter prefers: the
/// protocol has no other way to give a picture's size, and its pixels alone would make it twice as large.
fn write_picture(out: &mut dyn Write, png: &[u8], width: u32, alt: &str) -> io::Result<()> {
    let base64 = BASE64_STANDARD.encode(png);
    let alt = escaped(alt);
    let html = format!(r#"<img width="{width}" alt="{alt}" src="data:image/png;base64,{base64}">"#);
    for (mime_type, content) in [("image/png", base64), ("text/html", html)] {
        write!(out, "EVCXR_BEGIN_CONTENT {mime_type}\n{content}\nEVCXR_END_CONTENT\n")?;
    }
    out.flush()
}

/// Makes a text safe between an attribute's quotes, on one line as the protocol needs it.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_stands_between_marker_lines_as_png_and_at_its_width() {
        let mut out = Vec::new();
        write_picture(&mut out, &[0x89, b'P', b'N', b'G'], 388, "Filters").unwrap();
        let expected = "EVCXR_BEGIN_CONTENT image/png\niVBORw==\nEVCXR_END_CONTENT\n\
            EVCXR_BEGIN_CONTENT text/html\n\
            <img width=\"388\" alt=\"Filters\" src=\"data:image/png;base64,iVBORw==\">\n\
            EVCXR_END_CONTENT\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn no_title_breaks_out_of_the_alternative_text() {
        let title = "a \"b\" <script>&\nEVCXR_END_CONTENT";
        assert_eq!(escaped(title), "a &quot;b&quot; &lt;script&gt;&amp; EVCXR_END_CONTENT");
    }
}
