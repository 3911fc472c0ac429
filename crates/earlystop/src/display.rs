//! Shows pictures in a notebook. Apart from the progress bar, the only part of the library that prints.
//!
//! In this project's kernel a picture appears when it is drawn, in order with the text of its cell, and a [`Live`] picture
//! can be drawn again in place. The published evcxr kernel shows one picture per cell, the last, when the cell ends. Outside
//! a notebook nothing is shown.

use std::env;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

/// Shows a PNG under the running notebook cell; outside a notebook, does nothing.
///
/// `width` is in CSS pixels. `alt` is the text for readers who do not see the picture.
pub fn show_png(png: &[u8], width: u32, alt: &str) {
    show(Message::new(png, width, alt));
}

/// Shows a page of HTML under the running notebook cell, and a PNG where HTML is not shown; outside a notebook, does nothing.
///
/// The page should need no other file. `width` and `alt` are the picture's, as for [`show_png`].
pub fn show_html(html: &str, png: &[u8], width: u32, alt: &str) {
    show(Message { html: Some(html), ..Message::new(png, width, alt) });
}

/// A picture under a notebook cell that can be drawn again, such as a curve during a training.
///
/// ```
/// use earlystop::display::Live;
/// use earlystop::plot::filter_grid;
///
/// let mut live = Live::new();
/// for step in 0..3 {
///     let weights = earlystop::ndarray::Array4::from_elem([5, 5, 1, 4], step as f32);
///     filter_grid(&weights, 0)?.show_in(&mut live); // the first call adds the picture, the others replace it
/// }
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug)]
pub struct Live {
    id: String,
    is_shown: bool,
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

impl Live {
    /// Prepares a picture. It appears when it is first shown, under the cell that runs then.
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { id: format!("earlystop-{}-{}", std::process::id(), now.as_nanos()), is_shown: false }
    }

    /// Shows a PNG in place of the one before. Arguments as for [`show_png`].
    pub fn show_png(&mut self, png: &[u8], width: u32, alt: &str) {
        show(Message { live: Some((&self.id, self.is_shown)), ..Message::new(png, width, alt) });
        self.is_shown = true;
    }
}

/// Writes a line under the running notebook cell; outside a notebook, does nothing.
pub(crate) fn note(text: &str) {
    if is_notebook() {
        let _ = writeln!(io::stdout().lock(), "{text}");
    }
}

/// What is to be shown.
struct Message<'a> {
    png: &'a [u8],
    width: u32,
    alt: &'a str,
    html: Option<&'a str>,
    /// The name of a live picture, and whether it is shown already.
    live: Option<(&'a str, bool)>,
}

impl<'a> Message<'a> {
    fn new(png: &'a [u8], width: u32, alt: &'a str) -> Self {
        Self { png, width, alt, html: None, live: None }
    }
}

/// The kernels mark their processes so. Elsewhere the text would fill a terminal and tell nobody anything.
fn is_notebook() -> bool {
    env::var_os("EVCXR_IS_RUNTIME").is_some()
}

fn show(message: Message) {
    if !is_notebook() {
        return;
    }
    let mut out = io::stdout().lock();
    // A kernel that reads no more is going away, with this process.
    let _ = if env::var_os("EARLYSTOP_FRONT").is_some() {
        writeln!(out, "\u{2}earlystop {}", to_json(&message))
    } else {
        write_for_evcxr(&mut out, &message)
    };
    let _ = out.flush();
}

/// A line for this project's kernel, which publishes it as a message of
/// [Jupyter's protocol](https://jupyter-client.readthedocs.io/en/stable/messaging.html#display-data).
fn to_json(message: &Message) -> Value {
    let mut data = json!({ "image/png": BASE64_STANDARD.encode(message.png), "text/plain": message.alt });
    if let Some(html) = message.html {
        data["text/html"] = html.into();
    }
    let mut size = json!({ "width": message.width, "alt": message.alt });
    if let Some(height) = height(message) {
        size["height"] = height.into();
    }
    let (kind, transient) = match message.live {
        None => ("display_data", json!({})),
        Some((id, false)) => ("display_data", json!({ "display_id": id })),
        Some((id, true)) => ("update_display_data", json!({ "display_id": id })),
    };
    json!({ "type": kind, "data": data, "metadata": { "image/png": size }, "transient": transient })
}

/// Finds the height at which a picture of this width keeps its proportions.
fn height(message: &Message) -> Option<u32> {
    // A PNG begins with 8 bytes of signature and 8 of a chunk's length and type, then width and height.
    let side = |begin: usize| message.png.get(begin..begin + 4)?.try_into().ok().map(u32::from_be_bytes);
    let (width, height) = (side(16)?, side(20)?);
    (width > 0).then(|| (f64::from(message.width) * f64::from(height) / f64::from(width)).round() as u32)
}

/// Writes evcxr's [markers]: the picture as PNG, for programs that extract a notebook's pictures, and as HTML, which Jupyter
/// prefers. Its protocol has no other way to give a picture's size.
///
/// [markers]: https://github.com/evcxr/evcxr/tree/main/evcxr_jupyter#custom-output
fn write_for_evcxr(out: &mut dyn Write, message: &Message) -> io::Result<()> {
    let base64 = BASE64_STANDARD.encode(message.png);
    let html = message.html.map_or_else(
        || {
            let (width, alt) = (message.width, escaped(message.alt));
            format!(r#"<img width="{width}" alt="{alt}" src="data:image/png;base64,{base64}">"#)
        },
        |html| html.replace("EVCXR_END_CONTENT", ""),
    );
    for (mime_type, content) in [("image/png", &base64), ("text/html", &html)] {
        write!(out, "EVCXR_BEGIN_CONTENT {mime_type}\n{content}\nEVCXR_END_CONTENT\n")?;
    }
    Ok(())
}

/// Makes a text safe between an attribute's quotes, on one line as the protocol needs it.
pub(crate) fn escaped(text: &str) -> String {
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

    /// The start of a PNG of 776 x 200 pixels.
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x03\x08\0\0\0\xc8";

    #[test]
    fn for_evcxr_a_picture_stands_between_marker_lines_as_png_and_at_its_width() {
        let mut out = Vec::new();
        write_for_evcxr(&mut out, &Message::new(&[0x89, b'P', b'N', b'G'], 388, "Filters")).unwrap();
        let expected = "EVCXR_BEGIN_CONTENT image/png\niVBORw==\nEVCXR_END_CONTENT\n\
            EVCXR_BEGIN_CONTENT text/html\n\
            <img width=\"388\" alt=\"Filters\" src=\"data:image/png;base64,iVBORw==\">\n\
            EVCXR_END_CONTENT\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_picture_is_plain_png_with_its_size_and_text_beside_it() {
        let message = to_json(&Message::new(PNG, 388, "Filters \"of\"\nlayer 1"));
        assert_eq!(message["type"], "display_data");
        assert_eq!(message["data"]["image/png"], BASE64_STANDARD.encode(PNG));
        assert_eq!(message["data"].get("text/html"), None);
        let size = json!({ "width": 388, "height": 100, "alt": "Filters \"of\"\nlayer 1" });
        assert_eq!(message["metadata"]["image/png"], size);
        assert!(!message.to_string().contains('\n'));
        let damaged = to_json(&Message::new(&PNG[..20], 388, ""));
        assert_eq!(damaged["metadata"]["image/png"], json!({ "width": 388, "alt": "" }));
    }

    #[test]
    fn a_live_picture_is_added_once_and_then_replaced() {
        let kinds = [false, true].map(|is_shown| {
            let message = to_json(&Message { live: Some(("id", is_shown)), ..Message::new(PNG, 388, "") });
            assert_eq!(message["transient"]["display_id"], "id");
            message["type"].as_str().unwrap().to_owned()
        });
        assert_eq!(kinds, ["display_data", "update_display_data"]);
        let mut live = Live::new();
        live.show_png(PNG, 388, "");
        assert!(live.is_shown);
    }

    #[test]
    fn a_page_has_a_picture_for_those_who_do_not_see_it() {
        let page = Message { html: Some("<b>page</b>"), ..Message::new(PNG, 388, "") };
        let message = to_json(&page);
        assert_eq!(message["data"]["text/html"], "<b>page</b>");
        assert_eq!(message["data"]["image/png"], BASE64_STANDARD.encode(PNG));
        let mut out = Vec::new();
        write_for_evcxr(&mut out, &page).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("text/html\n<b>page</b>\n"));
    }

    #[test]
    fn no_title_breaks_out_of_the_alternative_text() {
        let title = "a \"b\" <script>&\nEVCXR_END_CONTENT";
        assert_eq!(escaped(title), "a &quot;b&quot; &lt;script&gt;&amp; EVCXR_END_CONTENT");
    }
}
