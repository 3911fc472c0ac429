//! What the kernel says of itself.

use serde_json::{Value, json};

use crate::message::PROTOCOL;
use crate::syntax::Completeness;

pub(super) fn kernel_info() -> Value {
    json!({
        "status": "ok",
        "protocol_version": PROTOCOL,
        "implementation": env!("CARGO_PKG_NAME"),
        "implementation_version": env!("CARGO_PKG_VERSION"),
        "language_info": {
            "name": "Rust",
            "version": "",
            "mimetype": "text/rust",
            "file_extension": ".rs",
            "pygments_lexer": "rust",
            "codemirror_mode": "rust",
        },
        "banner": concat!("earlystop's Rust kernel ", env!("CARGO_PKG_VERSION"), ", on evcxr 0.22"),
        "help_links": [{"text": "Rust's standard library", "url": "https://doc.rust-lang.org/stable/std/"}],
    })
}

pub(super) fn completeness(completeness: &Completeness) -> Value {
    match completeness {
        Completeness::Complete => json!({"status": "complete"}),
        Completeness::Incomplete(indent) => json!({"status": "incomplete", "indent": indent}),
        Completeness::Invalid => json!({"status": "invalid"}),
    }
}
