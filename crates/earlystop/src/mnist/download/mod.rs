//! Downloads missing files from the first source that has them, and keeps only complete files with the right content.

#[cfg(feature = "download")]
mod http;
#[cfg(not(feature = "download"))]
#[path = "no_http.rs"]
mod http;
#[cfg(all(test, feature = "download"))]
mod tests;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::LoadEvent;
use super::files::{Collection, DataFile};
use crate::error::{Error, Result, io_error};

type Progress<'p> = dyn FnMut(&LoadEvent) + 'p;

/// Where the files come from, and how long to wait for an answer.
pub(super) struct Sources<'c> {
    pub(super) collection: &'c Collection,
    /// Addresses of folders, or folders of this machine, in the order in which they are tried.
    mirrors: Vec<String>,
    /// To find and reach a host.
    connect_timeout: Duration,
    /// Between two parts of an answer.
    stall_timeout: Duration,
}

impl<'c> Sources<'c> {
    pub(super) fn from_environment(collection: &'c Collection) -> Self {
        Sources::after(env::var(collection.mirror_variable).ok(), collection)
    }

    /// The user's own mirror, if there is one, then the public mirrors.
    fn after(own: Option<String>, collection: &'c Collection) -> Self {
        let own = own.filter(|mirror| !mirror.is_empty());
        Sources {
            collection,
            mirrors: own.into_iter().chain(collection.mirrors.iter().map(|mirror| mirror.to_string())).collect(),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
        }
    }

    /// Fetches the files that are absent from a folder, and returns where all of them are.
    pub(super) fn complete(&self, dir: &Path, progress: &mut Progress) -> Result<[PathBuf; 4]> {
        let files = &self.collection.files;
        let (present, absent): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.find(dir).is_some());
        if !absent.is_empty() {
            // Fashion-MNIST's files have the same names: labels of the one must not join images of the other.
            for file in present {
                file.verify_present(dir, self.collection.name, &absent[0].compressed_name())?;
            }
            fs::create_dir_all(dir).map_err(io_error(dir, "create"))?;
            self.fetch(dir, absent, progress)?;
        }
        Ok(files.each_ref().map(|file| file.find(dir).unwrap_or_else(|| dir.join(file.compressed_name()))))
    }

    fn fetch(&self, dir: &Path, absent: Vec<&DataFile>, progress: &mut Progress) -> Result<()> {
        let mut fetch = Fetch { dir, absent, tried: Vec::new(), progress };
        for mirror in &self.mirrors {
            fetch.take_from(|file, progress| {
                if !is_address(mirror) {
                    return copied(file, Path::new(mirror), progress);
                }
                let url = format!("{}/{}", mirror.trim_end_matches('/'), file.compressed_name());
                let content = http::get(&url, self.connect_timeout, self.stall_timeout, progress);
                content.and_then(|content| file.verified(content)).map_err(|reason| format!("{url}: {reason}"))
            })?;
        }
        fetch.end(self.collection.mirror_variable)
    }
}

/// Says whether a mirror is an address, and not a folder of this machine.
fn is_address(mirror: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| mirror.starts_with(scheme))
}

/// Reads a file from a folder of this machine.
fn copied(file: &DataFile, folder: &Path, progress: &mut Progress) -> Result<Vec<u8>, String> {
    let path = file.find(folder).unwrap_or_else(|| folder.join(file.compressed_name()));
    let content = fs::read(&path).map_err(|error| error.to_string()).and_then(|content| file.verified(content));
    let content = content.map_err(|reason| format!("{}: {reason}", path.display()))?;
    progress(&LoadEvent::Copying { path });
    Ok(content)
}

struct Fetch<'f> {
    dir: &'f Path,
    absent: Vec<&'f DataFile>,
    /// Each source that failed, and why.
    tried: Vec<String>,
    progress: &'f mut Progress<'f>,
}

impl Fetch<'_> {
    /// Takes the files that are still absent from one source, until it fails.
    fn take_from(
        &mut self,
        mut deliver: impl FnMut(&DataFile, &mut Progress) -> Result<Vec<u8>, String>,
    ) -> Result<()> {
        while let Some(file) = self.absent.first() {
            match deliver(file, self.progress) {
                Ok(content) => file.keep(self.dir, &content)?,
                Err(reason) => {
                    (self.progress)(&LoadEvent::Unavailable { reason: reason.clone() });
                    self.tried.push(reason);
                    break;
                }
            }
            self.absent.remove(0);
        }
        Ok(())
    }

    fn end(self, mirror_variable: &'static str) -> Result<()> {
        if self.absent.is_empty() {
            return Ok(());
        }
        let files = self.absent.iter().map(|file| file.compressed_name()).collect();
        Err(Error::Download { dir: self.dir.into(), files, tried: self.tried, mirror_variable })
    }
}
