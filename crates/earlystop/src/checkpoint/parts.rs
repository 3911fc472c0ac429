//! The files of a checkpoint in several files: finding what is left over of them, deleting them, and moving them.
//!
//! A part is deleted only if this library wrote it, no process writes it any more, and no index in its folder names it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::files::{Files, folder_of, sync_folder};
use super::format::SUM_PREFIX;
use super::header::Header;
use super::layout::{base_of, index_of, is_index, marks_in, part_of, stem_of};
use super::writing::{is_abandoned, lock_folder};
use crate::Result;
use crate::error::io_error;

/// The key, without its prefix, that identifies a part.
pub(super) const MARK: &str = "part";

/// Returns the parts in a folder, by what their names have before the mark.
pub(super) fn parts_in(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let is_part = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.to_str().and_then(part_of).is_some_and(|(stem, _)| is_wanted(stem))
            && entry.file_type().is_ok_and(|kind| !kind.is_dir())
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(is_part).map(|entry| entry.path()).collect()
}

/// The parts of the checkpoint at `base`, those of killed and replaced saves among them.
pub(super) fn parts_of(base: &Path) -> Vec<PathBuf> {
    let Some(wanted) = stem_of(base) else { return Vec::new() };
    parts_in(folder_of(base), |stem| stem == wanted)
}

/// The mark in the name of a part.
fn mark_of(part: &Path) -> &str {
    part.file_name().and_then(|name| part_of(name.to_str()?)).map_or("", |(_, mark)| mark)
}

/// Deletes those of the parts that killed and replaced saves left behind. What cannot be deleted stays for the next time.
///
/// `committed` were named by an index that was deleted or replaced: no process writes them any more.
pub(super) fn remove_leftovers(files: &dyn Files, mut parts: Vec<PathBuf>, committed: &[PathBuf]) -> io::Result<()> {
    let Some(folder) = parts.first().map(|part| folder_of(part).to_owned()) else { return Ok(()) };
    let named = marks_in_indices(&folder)?;
    parts.retain(|part| !named.contains(mark_of(part)));
    parts.retain(|part| committed.contains(part) || (is_abandoned(files, part) && is_marked(part)));
    if parts.is_empty() {
        return Ok(());
    }
    // Once more after the locks were looked at: a saver keeps its parts locked until its index names them.
    let named = marks_in_indices(&folder)?;
    let mut result = Ok(());
    for part in parts.into_iter().filter(|part| !named.contains(mark_of(part))) {
        match files.remove(&part) {
            Err(error) if error.kind() != ErrorKind::NotFound => result = Err(error),
            _ => {}
        }
    }
    result
}

/// The marks that occur in any index of a folder.
fn marks_in_indices(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut marks = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_index(&path) && path.is_file() {
            match marks_in_index(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                found => marks.extend(found?),
            }
        }
    }
    Ok(marks)
}

/// The marks that occur in an index. It is searched as text, so that a damaged one protects its parts too.
fn marks_in_index(index: &Path) -> io::Result<BTreeSet<String>> {
    let text = fs::read(index)?;
    Ok(marks_in(&String::from_utf8_lossy(&text)).map(str::to_owned).collect())
}

/// Returns whether the header of a part says that it is one: this library wrote it.
fn is_marked(part: &Path) -> bool {
    let header = File::open(part).and_then(|mut file| {
        let bytes = file.metadata()?.len();
        Header::read(part, &mut file, bytes).map_err(io::Error::other)
    });
    header.is_ok_and(|header| header.internal.get(MARK).is_some_and(|mark| mark == mark_of(part)))
}

/// Returns the parts of an index that are next to it and have names like those that this library gives.
pub(super) fn named_by(index: &Path) -> Vec<PathBuf> {
    let marks = marks_in_index(index).unwrap_or_default();
    parts_of(&base_of(index)).into_iter().filter(|part| marks.contains(mark_of(part))).collect()
}

/// Deletes an index that does not count because a single file is at `base`, if this library wrote it. Returns its parts,
/// which have become leftovers.
pub(super) fn remove_stale_index(files: &dyn Files, base: &Path) -> io::Result<Vec<PathBuf>> {
    let index = index_of(base);
    if !index.exists() {
        return Ok(Vec::new());
    }
    let _lock = lock_folder(files, folder_of(base));
    if !base.exists() || !fs::read(&index)?.starts_with(SUM_PREFIX) {
        return Ok(Vec::new());
    }
    let committed = named_by(&index);
    files.remove(&index)?;
    Ok(committed)
}

/// Deletes a checkpoint: the only file or the index first, so that it is never found without its parts.
pub(super) fn remove_checkpoint(files: &dyn Files, path: &Path) -> io::Result<()> {
    let base = base_of(path);
    let committed = if is_index(path) { named_by(path) } else { remove_stale_index(files, path)? };
    files.remove(path)?;
    if is_index(path) || !committed.is_empty() {
        // The index must not come back without its parts, if power fails.
        let _ = files.sync_folder(folder_of(path));
        remove_leftovers(files, parts_of(&base), &committed)?;
    }
    Ok(())
}

/// Moves a checkpoint into another folder of the same file system. A relative symbolic link keeps its target.
///
/// A kill at any point leaves it complete in one of the two: the parts have both names until the index has moved.
pub(super) fn move_checkpoint(files: &dyn Files, folder: &Path, path: &Path) -> Result<()> {
    let committed = if is_index(path) { named_by(path) } else { Vec::new() };
    for from in &committed {
        let to = folder.join(from.file_name().unwrap_or_default());
        let linked = fs::hard_link(from, &to).or_else(|_| copy(files, from, &to));
        linked.map_err(io_error(from, "move to the archive"))?;
    }
    if !committed.is_empty() {
        sync_folder(files, folder).map_err(io_error(folder, "sync the folder to the disk"))?;
    }
    move_file(files, folder, path)?;
    remove_leftovers(files, parts_of(&base_of(path)), &committed)
        .map_err(io_error(path, "move its parts to the archive"))
}

/// For file systems on which a file has one name only.
fn copy(files: &dyn Files, from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    files.sync(&File::options().write(true).open(to)?)
}

fn move_file(files: &dyn Files, folder: &Path, path: &Path) -> Result<()> {
    let moved = folder.join(path.file_name().unwrap_or_default());
    #[cfg(unix)]
    if let Some(target) = fs::read_link(path).ok().filter(|target| target.is_relative()) {
        let linked = std::os::unix::fs::symlink(Path::new("..").join(target), &moved);
        return linked.and_then(|()| fs::remove_file(path)).map_err(io_error(path, "move the link to the archive"));
    }
    files.rename(path, &moved).map_err(io_error(path, "move to the archive"))
}
