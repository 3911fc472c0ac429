//! The store of a URL in object storage.
//!
//! Checkpoints and the history are written in a private folder on this machine first, then uploaded, then committed by a
//! manifest; see `docs/checkpoint-format.md` for the layout. Reading goes through local copies in the same folder.

mod commits;
mod failure;
mod http;
mod manifest;
mod objects;
mod transfer;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;

use super::super::files::Files;
use super::super::keep::by_score;
use super::super::{Checkpoint, CheckpointPart, Keep, Metadata, Savable, Saver, Warning};
use super::folder::FolderStore;
use super::history::{number_of, segments};
use super::place::Url;
use super::{PREFIX, Position, Saved, Skipped, Valid, internal_entries, next_saved};
use crate::error::io_error;
use crate::{Error, Result};
use commits::{State, TRIES, Writer};
use manifest::{Archive, Contents, Entry, Segment};
use objects::Objects;
use transfer::Unusable;

/// The store of a URL.
#[derive(Debug)]
pub(super) struct RemoteStore {
    objects: Objects,
    /// The URL.
    path: PathBuf,
    /// The name of the archive that this store reads, if it is one.
    archive: Option<String>,
    keep: Keep,
    writer: Option<Writer>,
    /// Held while local copies are made: those of deleted checkpoints are deleted then.
    copying: Mutex<()>,
    /// The folder on this machine.
    local: FolderStore,
    /// Deleted on drop.
    directory: TempDir,
}

/// Files that need not outlast a power failure.
#[derive(Debug)]
struct Unsynced;

impl Files for Unsynced {
    fn sync(&self, _: &File) -> io::Result<()> {
        Ok(())
    }
    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl RemoteStore {
    /// Opens the store of a URL. Lists the commits, to know that it can be reached.
    pub(super) fn open(url: Url) -> Result<Self> {
        let path = PathBuf::from(url.to_string());
        let (objects, archive) = find(url)?;
        let directory = tempfile::Builder::new().prefix("earlystop-").tempdir();
        let directory = directory.map_err(io_error(&std::env::temp_dir(), "create a folder for local copies in"))?;
        let local = FolderStore::open(directory.path())?.with_saver(Saver::with_files(Arc::new(Unsynced)));
        Ok(RemoteStore {
            objects,
            path,
            archive,
            keep: Keep::all(),
            writer: None,
            copying: Mutex::new(()),
            local,
            directory,
        })
    }

    /// Says which checkpoints stay when another is saved.
    pub(super) fn keep(self, keep: Keep) -> Self {
        RemoteStore { keep, ..self }
    }

    /// Sets the size in bytes above which a state is saved in several files.
    pub(super) fn split_above(self, bytes: u64) -> Self {
        RemoteStore { local: self.local.split_above(bytes), ..self }
    }

    #[cfg(test)]
    pub(super) fn with_saver(self, saver: Saver) -> Self {
        RemoteStore { local: self.local.with_saver(saver), ..self }
    }

    /// Takes over from an older store, if there is one, and deletes what killed ones have left.
    pub(super) fn lock(&mut self) -> Result<()> {
        self.check(true)?;
        self.writer().map(drop)
    }

    /// Checks that no newer store has taken over: always, or only if it is not known how the last commit ended.
    fn check(&mut self, always: bool) -> Result<()> {
        if let Some(writer) = &mut self.writer
            && (always || writer.is_uncertain())
            && writer.check(&self.objects)? == State::Lost
        {
            self.writer = None;
        }
        Ok(())
    }

    fn writer(&mut self) -> Result<&mut Writer> {
        if self.archive.is_some() {
            let expected = "a store to save into: this one is an archive, which can only be read";
            return Err(Error::setting("checkpoint folder", expected, self.path.display()));
        }
        self.check(false)?;
        if self.writer.is_none() {
            self.writer = Some(Writer::take(&self.objects)?);
        }
        Ok(self.writer.as_mut().expect("it was just set"))
    }

    /// Returns nothing: object storage guarantees all that a store needs.
    pub(super) fn warnings(&self) -> &[Warning] {
        &[]
    }

    /// Saves a checkpoint, then deletes those that [`keep`](Self::keep) does not hold.
    pub(super) fn save(
        &mut self,
        step: u64,
        score: Option<f64>,
        state: &[&dyn Savable],
        metadata: &Metadata,
        history: Option<&Position>,
    ) -> Result<Saved> {
        let (saver, keep) = (self.local.saver.clone(), self.keep.clone());
        let folder = self.directory.path().to_owned();
        let writer = self.writer()?;
        let listed: Vec<Saved> = writer.contents.checkpoints.iter().map(|entry| entry.saved(&folder)).collect();
        let mut new = next_saved(&folder, &listed, writer.last_commit, step, score);
        new.path = saver.save_with(&new.path, state, metadata, &internal_entries(&new, history))?.path;
        let files = transfer::files_of(&new.path);
        let mut uploaded = Vec::new();
        let added = self.upload(&new, &keep, &mut uploaded);
        for file in files {
            let _ = fs::remove_file(file);
        }
        let writer = self.writer.as_mut().expect("it was locked above");
        match added {
            Ok(contents) => writer.commit(&self.objects, contents, uploaded)?,
            Err(error) => return Err(writer.give_up(&self.objects, error, uploaded)),
        }
        writer.last_commit = new.commit;
        new.path = self.reported(&new.path);
        Ok(new)
    }

    /// Uploads a checkpoint and the history so far, and returns what the store contains with them.
    fn upload(&self, new: &Saved, keep: &Keep, uploaded: &mut Vec<String>) -> Result<Contents> {
        let writer = self.writer.as_ref().expect("a save has locked the store");
        let mut contents = writer.contents.clone();
        for (_, path) in segments(self.directory.path())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let place = contents.history.iter().position(|segment| segment.name == name);
            if place.is_some() && !writer.continued.contains(&name) {
                continue; // read only
            }
            let segment = place.map(|place| contents.history.remove(place));
            let segment = segment.unwrap_or(Segment { name, chunks: Vec::new() });
            contents.history.push(transfer::upload_segment(&self.objects, &path, segment, uploaded)?);
        }
        contents.history.sort_by(|a, b| a.name.cmp(&b.name));
        let files = transfer::upload_checkpoint(&self.objects, &new.path, uploaded)?;
        let name = new.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let score = new.score.map(|score| score.to_string());
        let entry = Entry { name, step: new.step, score, commit: new.commit, files };
        contents.checkpoints.retain(|old| old.base() != entry.base());
        contents.checkpoints.push(entry);
        contents.checkpoints = contents.split(keep).0;
        Ok(contents)
    }

    /// Appends lines to the local copy of the history; the next save uploads them.
    pub(super) fn append_history(&mut self, at: &Position, lines: &[Vec<u8>]) -> Result<Option<Position>> {
        let path = self.directory.path().join(&at.file);
        let writer = self.writer()?;
        if let Some(segment) = writer.contents.history.iter().find(|segment| segment.name == at.file) {
            if !writer.continued.contains(&at.file) && !transfer::is_continued(&path, segment) {
                return Ok(None);
            }
            writer.continued.insert(at.file.clone());
            // What is committed stays.
            if segment.bytes() > at.bytes {
                return self.begin_history(Some(at), lines).map(Some);
            }
        }
        self.local.append_history(at, lines)
    }

    /// Begins a new segment of the history; the next save uploads it.
    pub(super) fn begin_history(&mut self, parent: Option<&Position>, lines: &[Vec<u8>]) -> Result<Position> {
        let history = &self.writer()?.contents.history;
        let last = history.iter().filter_map(|segment| number_of(&segment.name)).max().unwrap_or(0);
        let begun = self.local.begin_history_after(last, parent, lines)?;
        self.writer()?.continued.insert(begun.file.clone());
        Ok(begun)
    }

    /// Deletes the checkpoints that are not kept according to [`keep`](Self::keep), and returns them.
    pub(super) fn prune(&mut self) -> Result<Vec<Saved>> {
        let keep = self.keep.clone();
        let mut contents = self.writer()?.contents.clone();
        let (kept, deleted) = contents.split(&keep);
        if deleted.is_empty() {
            return Ok(Vec::new());
        }
        contents.checkpoints = kept;
        self.commit(contents)?;
        Ok(self.saved(&deleted))
    }

    /// Returns the checkpoints that [`prune`](Self::prune) would delete.
    pub(super) fn prunable(&self) -> Result<Vec<Saved>> {
        let (_, contents) = self.contents()?;
        Ok(self.saved(&contents.split(&self.keep).1))
    }

    /// Returns the URL.
    pub(super) fn folder(&self) -> &Path {
        &self.path
    }

    /// Deletes all checkpoints and the history next to them.
    pub(super) fn clear(&mut self) -> Result<()> {
        let archives = self.writer()?.contents.archives.clone();
        self.commit(Contents { archives, ..Contents::default() })?;
        self.local.clear()
    }

    /// Moves every checkpoint committed after `saved` into an archive, and returns its URL.
    pub(super) fn archive_after(&mut self, saved: &Saved) -> Result<Option<PathBuf>> {
        let mut contents = self.writer()?.contents.clone();
        let is_it = |entry: &Entry| saved.path.file_name().is_some_and(|name| name == &*entry.name);
        if !contents.checkpoints.iter().any(|entry| is_it(entry) && entry.commit == saved.commit) {
            let expected = format!("one of those in {}", self.path.display());
            return Err(Error::setting("checkpoint", expected, saved.path.display()));
        }
        let (kept, later) = contents.checkpoints.into_iter().partition(|entry: &Entry| entry.commit <= saved.commit);
        contents.checkpoints = kept;
        let later: Vec<Entry> = later;
        if later.is_empty() {
            return Ok(None);
        }
        let name = format!("after-{PREFIX}{:06}", saved.step);
        let is_taken = |name: &str| contents.archives.iter().any(|archive| archive.name == name);
        let others = (2..).map(|count: u64| format!("{name}.{count}"));
        let mut names = std::iter::once(name.clone()).chain(others);
        let name = names.find(|name| !is_taken(name)).expect("there are as many names as numbers");
        let archive = self.objects.path_of(&name);
        let history = contents.history.clone();
        contents.archives.push(Archive { name, checkpoints: later, history });
        self.commit(contents)?;
        let writer = self.writer()?;
        writer.last_commit = writer.contents.last_commit();
        Ok(Some(archive))
    }

    fn commit(&mut self, contents: Contents) -> Result<()> {
        self.writer()?;
        let writer = self.writer.as_mut().expect("it was just locked");
        writer.commit(&self.objects, contents, Vec::new())
    }

    /// Lists the checkpoints, the earliest save first. Reads the manifest only.
    pub(super) fn list(&self) -> Result<Vec<Saved>> {
        Ok(self.saved(&self.contents()?.1.checkpoints))
    }

    /// Returns the last saved checkpoint of which there is a valid local copy now, and says which later ones are not valid, and why.
    pub(super) fn latest_valid(&self) -> Result<Valid> {
        self.first_valid(|mut saved| {
            saved.reverse();
            saved
        })
    }

    /// Returns the best checkpoint of which there is a valid local copy now, and says which better ones are not valid, and why.
    pub(super) fn best_valid(&self) -> Result<Valid> {
        self.first_valid(|saved| by_score(&saved).into_iter().cloned().collect())
    }

    /// Returns a listed checkpoint with the path of a local copy.
    pub(super) fn local_copy(&self, saved: Saved) -> Result<Saved> {
        let _copying = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, contents) = self.contents()?;
        match self.copy(&contents, &saved)? {
            Ok((copy, _)) => Ok(copy),
            Err(unusable) => Err(self.unusable(&saved, unusable)),
        }
    }

    fn first_valid(&self, order: impl Fn(Vec<Saved>) -> Vec<Saved>) -> Result<Valid> {
        let _copying = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tries = 0..TRIES;
        'tries: loop {
            let (number, contents) = self.contents()?;
            // Objects that are missing may have been deleted since the manifest was read.
            let mut is_outdated =
                || Ok::<_, Error>(tries.next().is_some() && commits::is_outdated(&self.objects, number)?);
            let mut skipped = Vec::new();
            for saved in order(self.saved(&contents.checkpoints)) {
                match self.copy(&contents, &saved)? {
                    Ok((_, false)) if is_outdated()? => continue 'tries,
                    Err(Unusable::Missing(_)) if is_outdated()? => continue 'tries,
                    Err(unusable) => {
                        let error = self.unusable(&saved, unusable);
                        skipped.push(Skipped { path: saved.path, error });
                    }
                    Ok((copy, _)) => match Checkpoint::read(&copy.path) {
                        Ok(_) => return Ok(Valid { saved: Some(copy), skipped }),
                        Err(error) => skipped.push(Skipped { path: saved.path, error }),
                    },
                }
            }
            return Ok(Valid { saved: None, skipped });
        }
    }

    /// Makes a local copy with the history, unless it is there; returns it, and whether the history is complete.
    fn copy(&self, contents: &Contents, saved: &Saved) -> Result<Result<(Saved, bool), Unusable>> {
        let is_it = |entry: &&Entry| saved.path.file_name().is_some_and(|name| name == &*entry.name);
        let Some(entry) = contents.checkpoints.iter().find(is_it) else {
            return Ok(Err(Unusable::Missing("it was deleted".to_owned())));
        };
        let folder = self.directory.path();
        transfer::remove_outdated(contents, folder);
        let path = match transfer::fetch_checkpoint(&self.objects, entry, folder)? {
            Ok(path) => path,
            Err(unusable) => return Ok(Err(unusable)),
        };
        // If it cannot be read, reading it says so.
        let position = Checkpoint::open(&path).and_then(|checkpoint| checkpoint.position()).unwrap_or_default();
        let is_complete = transfer::fetch_history(&self.objects, contents, position, folder)?;
        Ok(Ok((Saved { path, ..entry.saved(folder) }, is_complete)))
    }

    fn unusable(&self, saved: &Saved, unusable: Unusable) -> Error {
        let (Unusable::Missing(problem) | Unusable::Damaged(problem)) = unusable;
        Error::Checkpoint { path: self.reported(&saved.path), part: CheckpointPart::File, problem }
    }

    /// Reads what the store contains, and the number of the commit that says so; 0 if there is none.
    fn contents(&self) -> Result<(u64, Contents)> {
        let Some((number, manifest)) = commits::latest(&self.objects)? else { return Ok(Default::default()) };
        let Some(wanted) = &self.archive else { return Ok((number, manifest.contents)) };
        let archive = manifest.contents.archives.into_iter().find(|archive| archive.name == *wanted);
        let contents =
            archive.map(|Archive { checkpoints, history, .. }| Contents { checkpoints, history, archives: Vec::new() });
        Ok((number, contents.unwrap_or_default()))
    }

    fn saved(&self, entries: &[Entry]) -> Vec<Saved> {
        entries.iter().map(|entry| entry.saved(&self.path)).collect()
    }

    /// The URL of a file, as reported to the caller.
    fn reported(&self, path: &Path) -> PathBuf {
        self.path.join(path.file_name().unwrap_or_default())
    }
}

/// Finds the objects of a store, and the name of the archive if the URL is that of one.
fn find(url: Url) -> Result<(Objects, Option<String>)> {
    let (folder, name) = url.prefix.rsplit_once('/').unwrap_or(("", &url.prefix));
    let (parent, name) = (Url { prefix: folder.to_owned(), ..url.clone() }, name.to_owned());
    let objects = Objects::new(url)?;
    if commits::exist(&objects)? || !name.starts_with(&format!("after-{PREFIX}")) {
        return Ok((objects, None));
    }
    let parent = Objects::new(parent)?;
    let archives = commits::latest(&parent)?.map(|(_, manifest)| manifest.contents.archives).unwrap_or_default();
    let is_archive = archives.iter().any(|archive| archive.name == name);
    Ok(if is_archive { (parent, Some(name)) } else { (objects, None) })
}
