//! Saves a state as one file or several, so that a crash at any instant leaves the old state or the new one.
//!
//! - One file: its renaming commits it.
//! - Several files: all parts first, under names that are new; then the index, whose renaming commits all of them. Where a
//!   single file is at the path, it counts as long as it exists, and its deletion commits the index.
//!
//! Replaced files are deleted last. If a kill prevents that, the next save deletes them.

use std::collections::BTreeMap;
use std::fs::{self, Metadata as FileMetadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::files::{Files, folder_of, follow_links};
use super::format::{Entry, FORMAT, Plan, RESERVED, expect_header_size, prepare};
use super::index::{Part, index_text};
use super::layout::{base_of, index_of, is_index, mark, part_name, stem_of};
use super::lock::random_token;
use super::parts::{MARK, named_by, parts_of, remove_leftovers, remove_stale_index};
use super::writing::{Placed, Writing, lock_folder, remove_temporaries};
use super::{Metadata, NamedTensor, Warning};
use crate::error::io_error;
use crate::{Error, Result};

/// A state that is in place.
pub(super) struct Committed {
    /// The only file, or the index.
    pub(super) path: PathBuf,
    /// What the file system could not guarantee.
    pub(super) warnings: Vec<Warning>,
}

/// Saves tensors to `path`, in several files if their data has more than `limit` bytes.
///
/// `internal` holds this module's own entries, by their keys without [`RESERVED`].
pub(super) fn save(
    files: &dyn Files,
    path: &Path,
    tensors: &[NamedTensor<'_>],
    metadata: &Metadata,
    internal: &[(&str, String)],
    limit: u64,
) -> Result<Committed> {
    if is_index(path) {
        let expected = "one that does not end like an index, since an index is written where it is needed";
        return Err(Error::setting("path", expected, path.display()));
    }
    let (tensors, strings) = prepare(tensors, metadata, internal)?;
    let groups = groups(tensors, limit);
    match <[_; 1]>::try_from(groups) {
        Ok([tensors]) => save_one(files, path, &Plan::new(tensors, strings)?),
        Err(groups) => save_several(files, path, groups, strings),
    }
}

/// Cuts the tensors of a state into groups of at most `limit` bytes, or of one tensor that is larger. Returns at least one group.
fn groups<'a>(tensors: Vec<(&'a NamedTensor<'a>, Entry)>, limit: u64) -> Vec<Vec<(&'a NamedTensor<'a>, Entry)>> {
    let (mut groups, mut bytes) = (vec![Vec::new()], 0u64);
    for tensor in tensors {
        let more = tensor.1.bytes() as u64;
        bytes = bytes.saturating_add(more);
        if bytes > limit && groups.last().is_some_and(|group| !group.is_empty()) {
            groups.push(Vec::new());
            bytes = more;
        }
        groups.last_mut().expect("there is always one").push(tensor);
    }
    groups
}

fn save_one(files: &dyn Files, path: &Path, plan: &Plan<'_>) -> Result<Committed> {
    let target = follow_links(path)?;
    let replaced = file_at(&target).or_else(|| file_at(&index_of(&target)));
    remove_temporaries(files, &target);
    let mut writing = Writing { files, path, base: &target, replaced, warnings: Vec::new() };
    let (temporary, _) = writing.write(|output| plan.write(output))?;
    drop(writing.place(temporary, &target)?);
    writing.sync_folder(&target)?;
    // From here on, what fails is done by the next save.
    if let Ok(stale) = remove_stale_index(files, &target) {
        let _ = remove_leftovers(files, parts_of(&target), &stale);
    }
    Ok(Committed { path: path.to_owned(), warnings: writing.warnings })
}

fn save_several(
    files: &dyn Files,
    path: &Path,
    groups: Vec<Vec<(&NamedTensor<'_>, Entry)>>,
    strings: Metadata,
) -> Result<Committed> {
    let target = follow_links(path)?;
    let index = follow_links(&index_of(&target))?;
    let base = base_of(&index);
    let stem = stem_of(&base).ok_or_else(|| io_error(path, "save")(ErrorKind::InvalidInput.into()))?;
    let id = random_token().map_err(io_error(path, "draw a random number for"))?;
    let (count, total_bytes) = (groups.len(), groups.iter().flatten().map(|(_, entry)| entry.bytes() as u64).sum());
    let plan = |(group, number): (Vec<_>, usize)| {
        let mark = mark(&id, number, count);
        Ok((part_name(&stem, &mark), Plan::new(group, strings_of_part(&strings, mark))?))
    };
    let plans: Vec<(String, Plan<'_>)> = groups.into_iter().zip(1..).map(plan).collect::<Result<_>>()?;
    let tensors: BTreeMap<&str, &str> =
        plans.iter().flat_map(|(name, plan)| plan.names().map(|tensor| (tensor, &**name))).collect();
    let index_text = |sums: &[String]| {
        let part = |((name, plan), sum): (&(String, Plan<'_>), &String)| Part {
            name: name.clone(),
            expected: Some((plan.file_bytes(), sum.clone())),
        };
        let parts: Vec<Part> = plans.iter().zip(sums).map(part).collect();
        index_text(strings.clone(), &parts, total_bytes, &tensors)
    };
    expect_header_size(index_text(&vec!["0".repeat(64); count]).len())?;

    let replaced = file_at(&target).or_else(|| file_at(&index));
    remove_temporaries(files, &base);
    let mut writing = Writing { files, path, base: &base, replaced, warnings: Vec::new() };
    let mut parts = NewParts { files, placed: Vec::new() };
    let mut sums = Vec::new();
    for (name, plan) in &plans {
        let (temporary, sum) = writing.write(|output| plan.write(output))?;
        let part = base.with_file_name(name);
        let file = writing.place(temporary, &part)?;
        parts.placed.push((part, file));
        sums.push(sum);
    }
    writing.sync_folder(&base)?;
    let (temporary, ()) = writing.write(|output| output.write(&index_text(&sums), 0))?;

    let lock = lock_folder(files, folder_of(&target));
    let is_over_single = file_at(&target).is_some();
    let committed = named_by(&index);
    drop(writing.place(temporary, &index)?);
    if is_over_single {
        // The index must be on the disk before the file that counts until now is gone.
        let deleted = writing.sync_folder(&index).and_then(|()| {
            files.remove(&target).map_err(io_error(path, "delete the single file that the parts replace"))
        });
        if let Err(error) = deleted {
            let _ = files.remove(&index);
            return Err(error);
        }
    }
    parts.keep();
    drop(lock);
    writing.sync_folder(&target)?;
    let _ = remove_leftovers(files, parts_of(&base), &committed);
    // A symbolic link leads to the index although the file that it names is gone.
    let path = if target == path { index } else { path.to_owned() };
    Ok(Committed { path, warnings: writing.warnings })
}

fn file_at(path: &Path) -> Option<FileMetadata> {
    fs::metadata(path).ok().filter(FileMetadata::is_file)
}

/// The metadata of a part. The caller's own is in the index, but for `format`, which Hugging Face's programs look for.
fn strings_of_part(strings: &Metadata, mark: String) -> Metadata {
    let shared = [FORMAT, "format"].into_iter().filter_map(|key| Some((key.to_owned(), strings.get(key)?.clone())));
    shared.chain([(format!("{RESERVED}{MARK}"), mark)]).collect()
}

/// New parts that no index names yet. They are deleted on drop, unless [`keep`](Self::keep) was called.
struct NewParts<'a> {
    files: &'a dyn Files,
    /// Each file stays locked while it is in this list, so that no other saver mistakes it for a leftover.
    placed: Vec<(PathBuf, Placed<'a>)>,
}

impl NewParts<'_> {
    fn keep(mut self) {
        self.placed.clear();
    }
}

impl Drop for NewParts<'_> {
    fn drop(&mut self) {
        for (path, _) in &self.placed {
            // What cannot be deleted now is a leftover for the next save.
            let _ = self.files.remove(path);
        }
    }
}
