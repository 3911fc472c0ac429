//! A checkpoint that is open: a file of this machine, or a copy of one in object storage.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use earlystop::Error;
use earlystop::checkpoint::{Checkpoint, Store};

/// A checkpoint, and where its user finds it.
pub(crate) struct Opened {
    checkpoint: Checkpoint,
    /// The path, or the URL.
    path: PathBuf,
    /// Has the copy, and the history next to it, until it is dropped.
    store: Option<Store>,
}

impl Deref for Opened {
    type Target = Checkpoint;

    fn deref(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

impl Opened {
    /// Opens a file and reads its header. Of a URL, downloads the file first.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        if !is_url(path) {
            return Ok(Opened { checkpoint: Checkpoint::open(path)?, path: path.to_owned(), store: None });
        }
        let store = store(path.parent().unwrap_or(path))?;
        let saved = store.list()?.into_iter().find(|saved| saved.path.file_name() == path.file_name());
        let missing = || Error::other(format!("{}: no such checkpoint", path.display()));
        let copy = store.local_copy(saved.ok_or_else(missing)?)?;
        Opened::copy(&copy.path, path.to_owned(), store)
    }

    /// Opens a file and reads it completely.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        if !is_url(path) {
            return Ok(Opened { checkpoint: Checkpoint::read(path)?, path: path.to_owned(), store: None });
        }
        let mut opened = Opened::open(path)?;
        opened.verify()?;
        Ok(opened)
    }

    /// Opens the copy that a store has made of the file at a URL.
    pub(crate) fn copy(copy: &Path, url: PathBuf, store: Store) -> Result<Self, Error> {
        let checkpoint = Checkpoint::open(copy).map_err(|error| at(&url, error))?;
        Ok(Opened { checkpoint, path: url, store: Some(store) })
    }

    /// Reads everything and compares the checksums.
    pub(crate) fn verify(&mut self) -> Result<(), Error> {
        self.checkpoint.verify().map_err(|error| at(&self.path, error))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The files that have the tensors.
    pub(crate) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let url = self.store.as_ref().map(Store::folder);
        self.checkpoint.files().map(move |file| match url {
            Some(url) => url.join(file.file_name().unwrap_or_default()),
            None => file.to_owned(),
        })
    }

    /// When a file was written; not known of one at a URL.
    pub(crate) fn modified(&self) -> Option<SystemTime> {
        self.checkpoint.modified().filter(|_| self.store.is_none())
    }
}

/// Returns whether a path is a URL of object storage.
pub(crate) fn is_url(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.contains("://"))
}

/// Opens the store at a URL.
pub(crate) fn store(url: &Path) -> Result<Store, Error> {
    if cfg!(feature = "object-store") {
        return Store::open(url);
    }
    // The library would name the feature of a dependency.
    let remedy = "this command was built without object storage: install it with `--features object-store`";
    Err(Error::other(format!("{}: {remedy}", url.display())))
}

/// Names the URL instead of the copy.
fn at(url: &Path, mut error: Error) -> Error {
    if let Error::Checkpoint { path, .. } | Error::Io { path, .. } = &mut error {
        url.clone_into(path);
    }
    error
}
