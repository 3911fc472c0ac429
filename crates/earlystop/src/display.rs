//! Shows pictures in a notebook. The only place of the library that writes to standard output.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::io::{self, Write};

/// Shows a PNG under the running notebook cell, so many CSS pixels wide; outside a notebook, does nothing.
///
/// The evcxr kernel shows one picture per cell, when the cell ends: of two, only the last is seen. Put several into
/// one by [`Figure::beside`](crate::plot::Figure::beside) or [`Figure::stack`](crate::plot::Figure::stack).
///
/// Speaks [evcxr's protocol for rich output][protocol].
///
/// [protocol]: https://github.com/evcxr/evcxr/tree/main/evcxr_jupyter#custom-output
pub fn show_png(png: &[u8], width: u32) {
    // The kernel marks its processes so. Elsewhere the text would fill a terminal and tell nobody anything.
    if std::env::var_os("EVCXR_IS_RUNTIME").is_some() {
        // A kernel that reads no more is going away, with this process.
        write_picture(&mut io::stdout().lock(), png, width).ok();
    }
}

/// Writes the picture as PNG, for what takes a notebook's pictures out of it, and as HTML, which Jupyter prefers: the
/// protocol has no other way to say how large a picture is, and its pixels alone would make it twice as large.
fn write_picture(out: &mut impl Write, png: &[u8], width: u32) -> io::Result<()> {
    let base64 = BASE64_STANDARD.encode(png);
    let html = format!(r#"<img width="{width}" src="data:image/png;base64,{base64}">"#);
    for (mime_type, content) in [("image/png", base64), ("text/html", html)] {
        write!(out, "EVCXR_BEGIN_CONTENT {mime_type}\n{content}\nEVCXR_END_CONTENT\n")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_stands_between_marker_lines_as_png_and_at_its_width() {
        let mut out = Vec::new();
        write_picture(&mut out, &[0x89, b'P', b'N', b'G'], 388).unwrap();
        let expected = "EVCXR_BEGIN_CONTENT image/png\niVBORw==\nEVCXR_END_CONTENT\n\
            EVCXR_BEGIN_CONTENT text/html\n<img width=\"388\" src=\"data:image/png;base64,iVBORw==\">\n\
            EVCXR_END_CONTENT\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
