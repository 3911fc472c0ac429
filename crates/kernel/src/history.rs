//! The cells of the session, for clients that offer earlier inputs again, and for the lines of errors.

use serde_json::{Value, json};

#[derive(Debug, Default)]
pub(crate) struct History {
    /// With their execution counts.
    cells: Vec<(u32, String)>,
}

impl History {
    pub(crate) fn add(&mut self, count: u32, code: &str) {
        self.cells.push((count, code.to_owned()));
    }

    /// The cells with their counts, the latest first.
    pub(crate) fn latest_first(&self) -> impl Iterator<Item = (u32, &str)> {
        self.cells.iter().rev().map(|(count, code)| (*count, code.as_str()))
    }

    /// The content of a `history_reply`.
    pub(crate) fn answer(&self, request: &Value) -> Value {
        let number = |name: &str| request[name].as_i64();
        let count = usize::try_from(number("n").unwrap_or(10)).unwrap_or(0);
        let mut found: Vec<&(u32, String)> = match request["hist_access_type"].as_str() {
            Some("range") => {
                let (start, stop) = (number("start").unwrap_or(0), number("stop").unwrap_or(i64::MAX));
                self.cells.iter().filter(|(count, _)| (start..stop).contains(&i64::from(*count))).collect()
            }
            Some("search") => {
                let pattern = request["pattern"].as_str().unwrap_or("*");
                let found = self.cells.iter().filter(|(_, code)| matches(pattern.as_bytes(), code.as_bytes()));
                last(found.collect(), count)
            }
            _ => last(self.cells.iter().collect(), count),
        };
        if request["unique"].as_bool() == Some(true) {
            let mut seen = std::collections::HashSet::new();
            found.retain(|(_, code)| seen.insert(code));
        }
        let output = request["output"].as_bool() == Some(true);
        let entry = |(count, code): &(u32, String)| match output {
            true => json!([0, count, [code, null]]),
            false => json!([0, count, code]),
        };
        json!({"status": "ok", "history": found.into_iter().map(entry).collect::<Vec<_>>()})
    }
}

fn last<T>(mut all: Vec<T>, count: usize) -> Vec<T> {
    all.split_off(all.len().saturating_sub(count))
}

/// Whether all of `text` matches a pattern with `*` and `?`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on when the text does not match: behind the latest `*`, which then stands for one byte more.
    let (mut p, mut t, mut retry) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star, from)) = retry else { return false };
                retry = Some((star, from + 1));
                p = star + 1;
                t = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(request: Value) -> Value {
        let mut history = History::default();
        for (count, code) in [(1, "let a = 1;"), (2, "a"), (3, "a"), (4, "b")] {
            history.add(count, code);
        }
        history.answer(&request)["history"].clone()
    }

    #[test]
    fn the_last_cells_a_range_and_a_search() {
        assert_eq!(answer(json!({"hist_access_type": "tail", "n": 2})), json!([[0, 3, "a"], [0, 4, "b"]]));
        let range = json!({"hist_access_type": "range", "start": 1, "stop": 3, "output": true});
        assert_eq!(answer(range), json!([[0, 1, ["let a = 1;", null]], [0, 2, ["a", null]]]));
        let search = json!({"hist_access_type": "search", "pattern": "*a*", "unique": true});
        assert_eq!(answer(search), json!([[0, 1, "let a = 1;"], [0, 2, "a"]]));
        assert_eq!(answer(json!({"n": -1})), json!([]));
    }

    #[test]
    fn patterns() {
        for (pattern, text) in [("*", ""), ("a*c", "abbc"), ("?b*", "ab"), ("*b*d", "abcbd"), ("", "")] {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("a*c", "ab"), ("?", ""), ("", "a")] {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }
}
