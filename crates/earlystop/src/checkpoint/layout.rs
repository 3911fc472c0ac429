//! The names of the files of a checkpoint.
//!
//! `best.safetensors` is one file, or it is `best.safetensors.index.json` with parts next to it:
//! `best-0123456789abcdef-00001-of-00003.safetensors`. The digits in the middle are the random id of a save.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::checksum::hex_sha256;

pub(super) const EXTENSION: &str = ".safetensors";
const INDEX: &str = ".index.json";
const ID_DIGITS: usize = 16;

/// Returns the path of the index of a checkpoint that was saved to `base`.
pub(super) fn index_of(base: &Path) -> PathBuf {
    let mut index = base.as_os_str().to_owned();
    index.push(INDEX);
    index.into()
}

pub(super) fn is_index(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.len() > INDEX.len() && name.ends_with(INDEX.as_bytes())
}

/// Returns the path to which a checkpoint was saved: that of its only file, or that of its index without the ending.
pub(super) fn base_of(path: &Path) -> PathBuf {
    // The ending has two dots, and each call takes away one.
    if is_index(path) { path.with_extension("").with_extension("") } else { path.to_owned() }
}

/// Returns what the names of the parts of a checkpoint start with. Long names are shortened.
pub(super) fn stem_of(base: &Path) -> Option<String> {
    let name = base.file_name()?;
    let short = name.to_str().filter(|name| name.len() <= MAX_NAME_BYTES).map(str::to_owned);
    let name = short.unwrap_or_else(|| shortened(name));
    Some(name.strip_suffix(EXTENSION).map_or(name.clone(), str::to_owned))
}

/// Returns what distinguishes the part `number` of `count` from all other files: it follows the stem in the part's name.
pub(super) fn mark(id: &str, number: usize, count: usize) -> String {
    format!("{}-{number:05}-of-{count:05}", &id[..ID_DIGITS])
}

pub(super) fn part_name(stem: &str, mark: &str) -> String {
    format!("{stem}-{mark}{EXTENSION}")
}

/// Splits the name of a part into its stem and its mark. Returns `None` for all other names.
pub(super) fn part_of(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_suffix(EXTENSION)?;
    let mark = marks_in(name).filter(|mark| name.ends_with(mark)).last()?;
    Some((name[..name.len() - mark.len()].strip_suffix('-')?, mark))
}

/// Returns where the checkpoint of a part was saved, if its name was not shortened.
pub(super) fn base_of_part(part: &Path) -> Option<PathBuf> {
    let (stem, _) = part_of(part.file_name()?.to_str()?)?;
    Some(part.with_file_name(format!("{stem}{EXTENSION}")))
}

/// Returns all marks that occur in a text: in an index, those of its parts.
pub(super) fn marks_in(text: &str) -> impl Iterator<Item = &str> {
    const OF: &str = "-of-";
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    text.match_indices(OF).filter_map(move |(at, _)| {
        let bytes = text.as_bytes();
        let end = at + OF.len() + digits(&bytes[at + OF.len()..]);
        let number = bytes[..at].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let dash = (at - number).checked_sub(1).filter(|&dash| bytes[dash] == b'-')?;
        let start = dash.checked_sub(ID_DIGITS)?;
        let is_id = bytes[start..dash].iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (is_id && number >= 5 && end - at - OF.len() >= 5).then(|| &text[start..end])
    })
}

const MAX_NAME_BYTES: usize = 80;

/// Returns what the names of temporary files start with. A long name is shortened, so that theirs are not too long.
pub(super) fn temporary_prefix(path: &Path) -> Option<OsString> {
    let name = path.file_name()?;
    let mut prefix = OsString::from(".");
    if name.len() <= MAX_NAME_BYTES {
        prefix.push(name)
    } else {
        prefix.push(shortened(name))
    }
    prefix.push(".");
    Some(prefix)
}

fn shortened(name: &std::ffi::OsStr) -> String {
    let start: String = name.to_string_lossy().chars().take(MAX_NAME_BYTES / 4).collect();
    format!("{start}~{}", &hex_sha256(name.as_encoded_bytes())[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123";

    #[test]
    fn an_index_leads_to_its_base_and_back() {
        for base in ["best.safetensors", "a/step-000100.2.safetensors", "model", "v1.2", ".hidden"] {
            let base = Path::new(base);
            assert!(is_index(&index_of(base)) && !is_index(base));
            assert_eq!(base_of(&index_of(base)), base);
            assert_eq!(base_of(base), base);
        }
        assert!(!is_index(Path::new(".index.json")));
    }

    #[test]
    fn a_part_is_told_from_all_other_files() {
        for base in ["best.safetensors", "step-000100.2.safetensors", "with-many-dashes-00001-of-00002", "ö"] {
            let stem = stem_of(Path::new(base)).unwrap();
            let mark = mark(ID, 2, 13);
            assert_eq!(mark, "0123456789abcdef-00002-of-00013");
            assert_eq!(part_of(&part_name(&stem, &mark)), Some((&*stem, &*mark)));
        }
        let long = "x".repeat(200);
        assert!(part_name(&stem_of(Path::new(&long)).unwrap(), &mark(ID, 1, 1)).len() < 120);
        for other in [
            "model-00001-of-00003.safetensors",
            "best-0123456789abcdeg-00001-of-00003.safetensors",
            "best-0123456789ABCDEF-00001-of-00003.safetensors",
            "best-0123456789abcdef-00001-of-00003.bin",
            "best-0123456789abcdef-0001-of-00003.safetensors",
            "best-0123456789abcdef-00001-to-00003.safetensors",
            "step-000100.safetensors",
        ] {
            assert_eq!(part_of(other), None, "{other}");
        }
    }
}
