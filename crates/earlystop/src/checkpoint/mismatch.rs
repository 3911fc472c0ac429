//! Compares what a file has with what is wanted from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::TensorInfo;

/// One way in which a file does not fit the tensors to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mismatch {
    /// The file has no tensor of this name.
    Missing {
        /// The tensor to restore.
        expected: TensorInfo,
        /// The most similar name that the file has and nobody asks for.
        near: Option<String>,
    },
    /// Nobody asks for this tensor of the file.
    Extra {
        /// The tensor in the file.
        found: TensorInfo,
    },
    /// The tensor has another shape or kind in the file.
    Different {
        /// The tensor to restore.
        expected: TensorInfo,
        /// The tensor in the file.
        found: TensorInfo,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Missing { expected, near } => {
                write!(f, "missing from the file: {:?} {expected}", expected.name)?;
                near.as_ref().map_or(Ok(()), |near| write!(f, " (the file has {near:?})"))
            }
            Mismatch::Extra { found } => write!(f, "only in the file: {:?} {found}", found.name),
            Mismatch::Different { expected, found } => {
                write!(f, "different: {:?}: expected {expected}, found {found}", expected.name)
            }
        }
    }
}

/// Returns all that differs: first in the order of `expected`, then the extra ones in the order of `found`.
pub(super) fn compare<'a>(
    expected: impl IntoIterator<Item = &'a TensorInfo>,
    found: impl IntoIterator<Item = &'a TensorInfo>,
) -> Vec<Mismatch> {
    let expected: Vec<&TensorInfo> = expected.into_iter().collect();
    let found: Vec<&TensorInfo> = found.into_iter().collect();
    let by_name: BTreeMap<&str, &TensorInfo> = found.iter().map(|info| (info.name.as_str(), *info)).collect();
    let asked_for: BTreeSet<&str> = expected.iter().map(|info| info.name.as_str()).collect();
    let extra: Vec<&TensorInfo> = found.into_iter().filter(|info| !asked_for.contains(info.name.as_str())).collect();

    let mut mismatches = Vec::new();
    for info in expected {
        match by_name.get(info.name.as_str()) {
            None => mismatches.push(Mismatch::Missing { expected: info.clone(), near: near(&info.name, &extra) }),
            Some(found) if *found != info => {
                mismatches.push(Mismatch::Different { expected: info.clone(), found: (*found).clone() });
            }
            Some(_) => {}
        }
    }
    mismatches.extend(extra.into_iter().map(|info| Mismatch::Extra { found: info.clone() }));
    mismatches
}

/// Returns the most similar of the names, if at most a third of it is different.
fn near(name: &str, candidates: &[&TensorInfo]) -> Option<String> {
    const MAX_CANDIDATES: usize = 1000; // the search takes time with each
    const MAX_LENGTH: usize = 100; // and with the square of the length
    candidates
        .iter()
        .take(MAX_CANDIDATES)
        .map(|info| &info.name)
        .filter(|other| other.len().max(name.len()) <= MAX_LENGTH)
        .map(|other| (edit_distance(name, other), other))
        .filter(|(distance, other)| distance * 3 <= other.len().max(name.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other.clone())
}

/// The number of insertions, deletions and replacements of characters that turn one string into the other
/// ([Levenshtein](https://en.wikipedia.org/wiki/Levenshtein_distance)).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    fn info(name: &str, shape: &[i64]) -> TensorInfo {
        TensorInfo { name: name.to_owned(), kind: Kind::Float, shape: shape.to_vec() }
    }

    #[test]
    fn edit_distances_are_levenshteins() {
        let distances = [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("héé", "hé", 1)];
        for (a, b, distance) in distances {
            assert_eq!(edit_distance(a, b), distance, "{a:?} {b:?}");
            assert_eq!(edit_distance(b, a), distance, "{b:?} {a:?}");
        }
    }

    #[test]
    fn a_misspelt_name_is_hinted_at_but_not_a_stranger() {
        let expected = [info("layer_conv1.weight", &[1]), info("classifier.bias", &[1])];
        let found = [info("layer_conv3.weight", &[1]), info("fc.b", &[1])];
        let messages: Vec<String> = compare(&expected, &found).iter().map(Mismatch::to_string).collect();
        assert_eq!(
            messages,
            [
                r#"missing from the file: "layer_conv1.weight" Float [1] (the file has "layer_conv3.weight")"#,
                r#"missing from the file: "classifier.bias" Float [1]"#,
                r#"only in the file: "layer_conv3.weight" Float [1]"#,
                r#"only in the file: "fc.b" Float [1]"#,
            ]
        );
    }

    #[test]
    fn what_fits_is_no_mismatch() {
        let both = [info("a", &[2, 3]), info("b", &[])];
        assert_eq!(compare(&both, &both), []);
        let other = [info("b", &[]), TensorInfo { kind: Kind::Double, ..info("a", &[2, 3]) }];
        let expected = Mismatch::Different { expected: both[0].clone(), found: other[1].clone() };
        assert_eq!(expected.to_string(), r#"different: "a": expected Float [2, 3], found Double [2, 3]"#);
        assert_eq!(compare(&both, &other), [expected]);
    }
}
