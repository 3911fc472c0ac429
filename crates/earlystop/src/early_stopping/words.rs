//! The tokens of a rule's text.

/// What a rule begins with.
pub(super) const KNOWN: [&str; 13] = [
    "patience",
    "noise-aware",
    "GL",
    "PQ",
    "UP",
    "iterations",
    "time",
    "target",
    "divergence",
    "never",
    "any_of",
    "all_of",
    "named",
];

/// What a rule of a program's own begins with, where it is not printed by its name alone.
pub(super) const OWN: &str = "own";

/// Puts a name into quotes, as JSON does.
pub(super) fn quoted(name: &str) -> String {
    serde_json::Value::from(name).to_string()
}

/// Says whether a name with this character needs quotes.
pub(super) fn ends_a_name(character: char) -> bool {
    character.is_whitespace() || character.is_control() || "(),\"".contains(character)
}

/// Says whether a word goes on with this character.
pub(super) fn belongs_to_a_word(character: char) -> bool {
    character.is_alphanumeric() || "-_".contains(character)
}

/// Says whether a text cannot be the name of a rule of a program's own.
pub(super) fn begins_like_a_rule(text: &str) -> bool {
    let text = text.trim_start();
    match text.split(|character| !belongs_to_a_word(character)).next().unwrap_or_default() {
        "" => text.is_empty() || text.starts_with(['(', '"']),
        word => word == OWN || KNOWN.contains(&word),
    }
}
