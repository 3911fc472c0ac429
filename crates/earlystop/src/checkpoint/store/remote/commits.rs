//! The commits of a store: `commits/00000000000000000001.json` and so on, each a manifest.
//!
//! A writer makes its next commit by creating the object of the next number, which succeeds for one writer only. Of two writers
//! the newer one wins: locking is a commit too, so the older one's next commit finds its number taken. Since old manifests are
//! deleted, a number could be created once more by a writer that has slept. So each commit counts only if no greater number
//! exists afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::super::super::lock::random_token;
use super::super::super::process::Process;
use super::manifest::{Contents, FORMAT, Manifest, Owner};
use super::objects::{Created, Objects};
use crate::checkpoint::CheckpointPart;
use crate::error::{LockHolder, io_error};
use crate::{Error, Result};

const FOLDER: &str = "commits";
pub(super) const DATA: &str = "data";
/// So many manifests stay, for readers that are slow and for people.
const KEPT: u64 = 5;
/// How often something is tried again because others are faster.
pub(super) const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(200);

/// The only one that commits, as long as no newer one does.
#[derive(Debug)]
pub(super) struct Writer {
    owner: Owner,
    /// The number of the last commit.
    number: u64,
    /// What it contains.
    pub(super) contents: Contents,
    /// The highest number of a save so far.
    pub(super) last_commit: u64,
    /// Objects to delete, except for those in `contents`: dropped ones, and those of attempts that have failed.
    garbage: BTreeSet<String>,
    /// Whether the last attempt may have succeeded although it failed.
    is_uncertain: bool,
    /// The history's files of which the local copies continue what is committed.
    pub(super) continued: BTreeSet<String>,
}

/// How an attempt to commit ended that did not fail.
enum Attempt {
    Committed,
    /// Another writer has this number.
    Refused(Owner),
    /// Another writer has a greater number, and may have continued from this commit.
    Overtaken(Owner),
}

/// What a writer turns out to be when it is looked at again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    Held,
    /// Somebody deleted the commits.
    Lost,
}

/// Returns the last commit and its number.
pub(super) fn latest(objects: &Objects) -> Result<Option<(u64, Manifest)>> {
    for _ in 0..TRIES {
        let Some(number) = numbers(objects, None)?.into_iter().max() else { return Ok(None) };
        // If it is gone, there are newer ones.
        if let Some(manifest) = read(objects, number)? {
            return Ok(Some((number, manifest)));
        }
    }
    let problem = "all manifests are deleted as soon as they are listed".to_owned();
    Err(Error::Checkpoint { path: objects.path_of(FOLDER), part: CheckpointPart::Index, problem })
}

/// Says whether there is a later commit than that of a number.
pub(super) fn is_outdated(objects: &Objects, number: u64) -> Result<bool> {
    Ok(!numbers(objects, Some(number))?.is_empty())
}

/// Returns whether there are any commits. Reads none of them.
pub(super) fn exist(objects: &Objects) -> Result<bool> {
    Ok(!numbers(objects, None)?.is_empty())
}

fn numbers(objects: &Objects, after: Option<u64>) -> Result<Vec<u64>> {
    let names = objects.list(FOLDER, after.map(file_of).as_deref())?;
    let numbers = names.iter().filter_map(|name| number_of(name));
    Ok(numbers.filter(|&number| after.is_none_or(|after| number > after)).collect())
}

fn file_of(number: u64) -> String {
    format!("{number:020}.json")
}

fn name_of(number: u64) -> String {
    format!("{FOLDER}/{}", file_of(number))
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(FOLDER)?.strip_prefix('/')?.strip_suffix(".json")?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

fn read(objects: &Objects, number: u64) -> Result<Option<Manifest>> {
    let name = name_of(number);
    let Some(json) = objects.get(&name)? else { return Ok(None) };
    let manifest = Manifest::parse(&json).map_err(|problem| Error::Checkpoint {
        path: objects.path_of(&name),
        part: CheckpointPart::Index,
        problem: format!("{problem}; after deleting this object, the commit before it counts"),
    });
    manifest.map(Some)
}

impl Writer {
    /// Takes over from an older writer, if there is one, and deletes what killed writers have left.
    pub(super) fn take(objects: &Objects) -> Result<Self> {
        let path = objects.path_of(FOLDER);
        let token = random_token().map_err(io_error(&path, "draw a random number for"))?;
        let owner = Owner { process: Process::current(), token };
        for _ in 0..TRIES {
            let (number, contents) =
                latest(objects)?.map_or_else(Default::default, |(number, manifest)| (number, manifest.contents));
            let mut writer = Writer {
                owner: owner.clone(),
                number,
                last_commit: contents.last_commit(),
                contents: Contents::default(),
                garbage: BTreeSet::new(),
                is_uncertain: false,
                continued: BTreeSet::new(),
            };
            if let Attempt::Committed = writer.attempt(objects, &contents)? {
                writer.number += 1;
                writer.contents = contents;
                // What cannot be listed now is found by the next writer.
                let _ = writer.find_leftovers(objects);
                writer.delete_garbage(objects);
                return Ok(writer);
            }
        }
        let problem = "other writers commit all the time: stop them first, or choose another place";
        Err(io_error(&path, "lock")(std::io::Error::other(problem)))
    }

    /// Checks that no newer writer has taken over. Finds out how an attempt ended of which that is not known.
    pub(super) fn check(&mut self, objects: &Objects) -> Result<State> {
        match latest(objects)? {
            Some((number, manifest)) if number > self.number => {
                if manifest.writer.token != self.owner.token {
                    return Err(self.taken_over(objects, &manifest.writer));
                }
                self.number = number;
                self.last_commit = self.last_commit.max(manifest.contents.last_commit());
                self.contents = manifest.contents;
            }
            Some((number, _)) if number == self.number => {}
            _ => return Ok(State::Lost),
        }
        self.is_uncertain = false;
        Ok(State::Held)
    }

    pub(super) fn is_uncertain(&self) -> bool {
        self.is_uncertain
    }

    /// Makes the next commit, then deletes the objects that it does without. Its new ones are `uploaded`.
    ///
    /// After an error the commit before it counts, or perhaps this one: [`check`](Self::check) finds out.
    pub(super) fn commit(&mut self, objects: &Objects, contents: Contents, uploaded: Vec<String>) -> Result<()> {
        match self.attempt(objects, &contents) {
            Ok(Attempt::Committed) => {}
            Ok(Attempt::Refused(owner)) => {
                objects.delete(uploaded.into_iter().collect());
                return Err(self.taken_over(objects, &owner));
            }
            Ok(Attempt::Overtaken(owner)) => return Err(self.taken_over(objects, &owner)),
            Err(error) => return Err(self.give_up(objects, error, uploaded)),
        }
        self.number += 1;
        self.garbage.extend(self.contents.keys().into_iter().map(str::to_owned));
        self.garbage.extend(self.number.checked_sub(KEPT).map(name_of));
        self.contents = contents;
        self.delete_garbage(objects);
        Ok(())
    }

    /// Notes objects that no commit may name, and returns why an upload or a commit has failed.
    ///
    /// A newer writer deletes what an older one is still uploading. Then that is the reason.
    pub(super) fn give_up(&mut self, objects: &Objects, error: Error, uploaded: Vec<String>) -> Error {
        self.garbage.extend(uploaded);
        let may_be_deleted = [ErrorKind::NotFound, ErrorKind::InvalidInput];
        match &error {
            Error::Io { source, .. } if may_be_deleted.contains(&source.kind()) => match self.check(objects) {
                Err(taken @ (Error::TakenOver { .. } | Error::Locked { .. })) => taken,
                _ => error,
            },
            _ => error,
        }
    }

    fn attempt(&mut self, objects: &Objects, contents: &Contents) -> Result<Attempt> {
        let number = self.number + 1;
        let name = name_of(number);
        let path = objects.path_of(&name);
        let token = random_token().map_err(io_error(&path, "draw a random number for"))?;
        let manifest = Manifest { format: FORMAT, token, writer: self.owner.clone(), contents: contents.clone() };
        let json = serde_json::to_vec(&manifest).map_err(|error| io_error(&path, "write")(error.into()))?;
        self.is_uncertain = true;
        let mut tries = 0..TRIES;
        loop {
            let created = objects.create(&name, json.clone());
            if let Ok(Created::Now) = created {
                break;
            }
            // Also after an error: the answer to an earlier try may have been lost.
            let problem = match read(objects, number) {
                Ok(Some(found)) if found.token == manifest.token => break,
                Ok(Some(found)) if found.writer.token != self.owner.token => {
                    self.is_uncertain = false;
                    return Ok(Attempt::Refused(found.writer));
                }
                Ok(Some(_)) => "an earlier attempt to commit has succeeded late: try again",
                // It may have been deleted, since there are newer ones. Perhaps it was this one, and they name its objects.
                Ok(None) => match self.newer(objects, number) {
                    Ok(Some(owner)) => {
                        self.is_uncertain = false;
                        return Ok(Attempt::Overtaken(owner));
                    }
                    // Servers may answer so because of a commit at the same time.
                    Ok(None) if created.is_ok() && tries.next().is_some() => {
                        sleep(PAUSE);
                        continue;
                    }
                    _ => "the server says that the object exists, and that it does not",
                },
                Err(_) => "it exists, but cannot be read",
            };
            created?;
            return Err(io_error(&path, "write")(std::io::Error::other(problem)));
        }
        let newer = self.newer(objects, number)?;
        self.is_uncertain = false;
        Ok(newer.map_or(Attempt::Committed, Attempt::Overtaken))
    }

    /// Returns whose the latest commit is, if there is a later one than that of a number.
    fn newer(&self, objects: &Objects, number: u64) -> Result<Option<Owner>> {
        if !is_outdated(objects, number)? {
            return Ok(None);
        }
        Ok(latest(objects)?.map(|(_, manifest)| manifest.writer))
    }

    fn taken_over(&self, objects: &Objects, by: &Owner) -> Error {
        let folder = std::path::PathBuf::from(objects.url().to_string());
        let current = Process::current();
        if by.process.is(&current) {
            return Error::TakenOver { folder };
        }
        let host = || by.process.host.clone().unwrap_or_else(|| "unknown host".to_owned());
        let elsewhere = (!by.process.shares_ids_with(&current)).then(host);
        Error::Locked { folder, holder: Some(LockHolder { pid: by.process.pid, elsewhere }) }
    }

    /// Finds the objects that no commit names: those of killed writers.
    ///
    /// Listed before it is known that this writer is the newest: so none of them was uploaded by a newer one, and older ones
    /// cannot commit them any more.
    fn find_leftovers(&mut self, objects: &Objects) -> Result<()> {
        let data = objects.list(DATA, None)?;
        let old = numbers(objects, None)?.into_iter().filter(|number| number + KEPT <= self.number);
        let temporaries: Vec<_> = [DATA, FOLDER].into_iter().filter_map(|it| objects.folder_on_disk(it)).collect();
        let temporaries: Vec<_> = temporaries.iter().flat_map(|folder| temporaries_in(folder, self.number)).collect();
        if is_outdated(objects, self.number)? {
            return Ok(());
        }
        self.garbage.extend(data);
        self.garbage.extend(old.map(name_of));
        for temporary in temporaries {
            let _ = fs::remove_file(temporary);
        }
        Ok(())
    }

    /// Deletes what no commit needs. What cannot be deleted now is tried again after the next commit.
    fn delete_garbage(&mut self, objects: &Objects) {
        let mut garbage = std::mem::take(&mut self.garbage);
        for key in self.contents.keys() {
            garbage.remove(key);
        }
        self.garbage = objects.delete(garbage);
    }
}

/// Files that killed writers did not complete, as `object_store` names them: with `#` and a number at the end. Those of commits
/// with a greater number may be complete soon.
fn temporaries_in(folder: &Path, number: u64) -> Vec<std::path::PathBuf> {
    let is_old = |name: &str| {
        name.split_once('#')
            .is_some_and(|(name, _)| number_of(&format!("{FOLDER}/{name}")).is_none_or(|it| it <= number))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| is_old(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sort_as_their_names() {
        assert_eq!(name_of(12), "commits/00000000000000000012.json");
        for number in [0, 1, 12, u64::MAX] {
            assert_eq!(number_of(&name_of(number)), Some(number));
        }
        for other in
            ["commits/12.json", "commits/0000000000000000001x.json", "data/00000000000000000012.json", "commits"]
        {
            assert_eq!(number_of(other), None, "{other}");
        }
    }
}
