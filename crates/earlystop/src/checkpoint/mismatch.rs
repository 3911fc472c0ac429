//! Compares the tensors of a file with those to restore.

use std::collections::{BTreeMap, BTreeSet};

use super::header::Content;
use crate::error::checkpoint::is_convertible;
use crate::error::{Mismatch, TensorInfo};

/// Returns all that differs: first in the order of `expected`, then the extra ones in the order of `found`.
pub(super) fn compare<'a>(
    expected: &[TensorInfo],
    found: impl IntoIterator<Item = &'a Content>,
    converts_floats: bool,
) -> Vec<Mismatch> {
    let found: Vec<&Content> = found.into_iter().collect();
    let by_name: BTreeMap<&str, &Content> = found.iter().map(|content| (content.name(), *content)).collect();
    let asked_for: BTreeSet<&str> = expected.iter().map(|info| info.name.as_str()).collect();
    let extra: Vec<&Content> = found.into_iter().filter(|content| !asked_for.contains(content.name())).collect();

    let mut mismatches = Vec::new();
    for info in expected {
        match by_name.get(info.name.as_str()) {
            None => mismatches.push(Mismatch::Missing { expected: info.clone(), near: near(&info.name, &extra) }),
            Some(Content::Known(found)) if found == info || (converts_floats && is_convertible(info, found)) => {}
            Some(Content::Known(found)) => {
                mismatches.push(Mismatch::Different { expected: info.clone(), found: found.clone() });
            }
            Some(Content::Unsupported(found)) => {
                mismatches.push(Mismatch::Unsupported { expected: Some(info.clone()), found: found.clone() });
            }
        }
    }
    mismatches.extend(extra.into_iter().map(|content| match content {
        Content::Known(found) => Mismatch::Extra { found: found.clone() },
        Content::Unsupported(found) => Mismatch::Unsupported { expected: None, found: found.clone() },
    }));
    mismatches
}

/// Returns the most similar of the names, if at most a third of it is different.
fn near(name: &str, candidates: &[&Content]) -> Option<String> {
    const MAX_CANDIDATES: usize = 1000; // the search takes time with each
    const MAX_LENGTH: usize = 100; // and with the square of the length
    candidates
        .iter()
        .take(MAX_CANDIDATES)
        .map(|content| content.name())
        .filter(|other| other.len().max(name.len()) <= MAX_LENGTH)
        .map(|other| (edit_distance(name, other), other))
        .filter(|(distance, other)| distance * 3 <= other.len().max(name.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other.to_owned())
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
    use safetensors::tensor::Dtype;

    use super::*;

    fn info(name: &str, shape: &[i64]) -> TensorInfo {
        TensorInfo { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec() }
    }

    fn known(infos: &[TensorInfo]) -> Vec<Content> {
        infos.iter().cloned().map(Content::Known).collect()
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
        let messages: Vec<String> = compare(&expected, &known(&found), false).iter().map(Mismatch::to_string).collect();
        assert_eq!(
            messages,
            [
                r#"missing from the file: "layer_conv1.weight" F32 [1] (the file has "layer_conv3.weight")"#,
                r#"missing from the file: "classifier.bias" F32 [1]"#,
                r#"only in the file: "layer_conv3.weight" F32 [1]"#,
                r#"only in the file: "fc.b" F32 [1]"#,
            ]
        );
    }

    #[test]
    fn what_fits_is_no_mismatch() {
        let both = [info("a", &[2, 3]), info("b", &[])];
        assert_eq!(compare(&both, &known(&both), false), []);
        let other = [info("b", &[]), TensorInfo { dtype: Dtype::F64, ..info("a", &[2, 3]) }];
        let expected = Mismatch::Different { expected: both[0].clone(), found: other[1].clone() };
        let message = r#"different: "a": expected F32 [2, 3], found F64 [2, 3] (convert_floats() converts it)"#;
        assert_eq!(expected.to_string(), message);
        assert_eq!(compare(&both, &known(&other), false), [expected]);
        assert_eq!(compare(&both, &known(&other), true), []);
    }

    #[test]
    fn only_floats_of_one_shape_are_convertible() {
        let float = info("a", &[2, 3]);
        for dtype in [Dtype::F16, Dtype::BF16, Dtype::F64] {
            assert!(is_convertible(&float, &TensorInfo { dtype, ..float.clone() }));
        }
        for dtype in [Dtype::F32, Dtype::I64, Dtype::BOOL, Dtype::U8, Dtype::C64, Dtype::F8_E4M3] {
            assert!(!is_convertible(&float, &TensorInfo { dtype, ..float.clone() }));
        }
        assert!(!is_convertible(&float, &TensorInfo { dtype: Dtype::F16, ..info("a", &[3, 2]) }));
    }
}
