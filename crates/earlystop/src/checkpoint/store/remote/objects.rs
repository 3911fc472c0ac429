//! Access to the objects of a store, for callers that wait.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{BackoffConfig, ObjectStore, ObjectStoreExt, PutMode, RetryConfig, WriteMultipart};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};

use super::super::super::checksum::hex;
use super::super::place::{Scheme, Url};
use super::failure::{LastFailure, explain};
use super::http::Connector;
use crate::error::io_error;
use crate::{Error, Result};

/// How much is sent and received at once.
const PART_BYTES: u64 = 8 << 20;
/// S3 takes 10,000 parts.
const MAX_PARTS: u64 = 9_000;
const PARTS_AT_ONCE: usize = 3;
const DELETED_AT_ONCE: usize = 8;
/// What could not be deleted by then is left for the next commit.
const DELETE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a failed request is tried again, and for how long.
const MAX_RETRIES: usize = 10;
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

type Outcome<T> = Result<T, object_store::Error>;

/// The objects whose names start with the path of a URL.
pub(super) struct Objects {
    url: Url,
    prefix: Key,
    objects: Arc<dyn ObjectStore>,
    last: Arc<LastFailure>,
    /// Always there, except while it is dropped.
    runtime: Option<Runtime>,
}

/// Credentials are in there, so only the URL is shown.
impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").field("url", &self.url.to_string()).finish_non_exhaustive()
    }
}

/// How it ended to create an object that must not exist.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Created {
    Now,
    Exists,
}

/// How a download ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Downloaded {
    Complete,
    Missing,
    /// With what is wrong.
    Damaged(String),
}

/// What an object contains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Content {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Content { bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(bytes)) }
    }

    /// Returns the difference from what was expected.
    fn difference(&self, expected: &Content) -> Option<String> {
        let Content { bytes, sha256 } = self;
        if *bytes != expected.bytes {
            return Some(format!("expected {} bytes, found {bytes}", expected.bytes));
        }
        (*sha256 != expected.sha256).then(|| format!("its SHA-256 is {sha256}, expected {}", expected.sha256))
    }
}

impl Objects {
    /// Prepares the access, with credentials from the environment. Sends nothing.
    pub(super) fn new(url: Url) -> Result<Self> {
        let last = Arc::new(LastFailure::default());
        let path = PathBuf::from(url.to_string());
        let found = storage(&url, &last).and_then(|objects| Ok((objects, prefix(&url)?)));
        let (objects, prefix) =
            found.map_err(|error| io_error(&path, "set up the access to")(explain(url.scheme, &error, last.get())))?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = Some(runtime.map_err(io_error(&path, "start the runtime to access"))?);
        Ok(Objects { url, prefix, objects, last, runtime })
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The URL of an object, or of anything that has a name here.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{}/{name}", self.url))
    }

    fn key(&self, name: &str) -> Key {
        name.split('/').fold(self.prefix.clone(), |key, part| key.join(part))
    }

    /// Waits for a future, in a thread of its own: a thread of a caller's runtime must not wait in another.
    fn wait<T: Send>(&self, future: impl Future<Output = Outcome<T>> + Send) -> Outcome<T> {
        self.last.set(None);
        let runtime = self.runtime.as_ref().expect("it is only taken by drop");
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("earlystop-objects".to_owned());
            let thread = thread.spawn_scoped(scope, || runtime.block_on(future));
            let thread =
                thread.map_err(|error| object_store::Error::Generic { store: "earlystop", source: error.into() })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn failed(&self, name: &str, action: &'static str) -> impl FnOnce(object_store::Error) -> Error {
        let path = self.path_of(name);
        move |error| io_error(&path, action)(explain(self.url.scheme, &error, self.last.get()))
    }

    /// Lists the names of the objects in a folder; with `after`, only those that are greater.
    pub(super) fn list(&self, folder: &str, after: Option<&str>) -> Result<Vec<String>> {
        let folder_key = self.key(folder);
        let found = match after {
            None => self.objects.list(Some(&folder_key)),
            Some(name) => self.objects.list_with_offset(Some(&folder_key), &folder_key.clone().join(name)),
        };
        let names = found.map_ok(|object| object.location.filename().map(|name| format!("{folder}/{name}")));
        let names: Vec<Option<String>> = self.wait(names.try_collect()).map_err(self.failed(folder, "list"))?;
        Ok(names.into_iter().flatten().collect())
    }

    /// Reads an object completely.
    pub(super) fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let key = self.key(name);
        let got = async { self.objects.get(&key).await?.bytes().await };
        match self.wait(got) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(name, "read")(error)),
        }
    }

    /// Creates an object, unless there is one. After an error it may exist or not.
    pub(super) fn create(&self, name: &str, bytes: Vec<u8>) -> Result<Created> {
        let key = self.key(name);
        match self.wait(self.objects.put_opts(&key, bytes.into(), PutMode::Create.into())) {
            Ok(_) => Ok(Created::Now),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Created::Exists),
            Err(error) => Err(self.failed(name, "write")(error)),
        }
    }

    /// Writes an object.
    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let key = self.key(name);
        self.wait(self.objects.put(&key, bytes.into())).map(drop).map_err(self.failed(name, "upload"))
    }

    /// Uploads a file, a large one in parts, and returns what it contained.
    pub(super) fn upload(&self, name: &str, path: &Path) -> Result<Content> {
        let mut file = File::open(path).map_err(io_error(path, "open"))?;
        let bytes = file.metadata().map_err(io_error(path, "find the size of"))?.len();
        if bytes <= PART_BYTES {
            let mut data = Vec::new();
            file.read_to_end(&mut data).map_err(io_error(path, "read"))?;
            let content = Content::of(&data);
            self.put(name, data)?;
            return Ok(content);
        }
        let part = PART_BYTES.max(bytes.div_ceil(MAX_PARTS));
        let (key, mut sum, mut sent, mut problem) = (self.key(name), Sha256::new(), 0, None);
        let uploaded = self.wait(async {
            let upload = self.objects.put_multipart(&key).await?;
            let mut upload = WriteMultipart::new_with_chunk_size(upload, part as usize);
            loop {
                let mut data = Vec::with_capacity(part as usize);
                if let Err(error) = (&file).take(part).read_to_end(&mut data) {
                    problem = Some(error);
                    return upload.abort().await;
                }
                if data.is_empty() {
                    return upload.finish().await.map(drop);
                }
                if let Err(error) = upload.wait_for_capacity(PARTS_AT_ONCE).await {
                    let _ = upload.abort().await; // the first error counts
                    return Err(error);
                }
                sum.update(&data);
                sent += data.len() as u64;
                upload.put(data.into());
            }
        });
        match problem {
            Some(error) => Err(io_error(path, "read")(error)),
            None => uploaded.map_err(self.failed(name, "upload")),
        }?;
        Ok(Content { bytes: sent, sha256: hex(&sum.finalize()) })
    }

    /// Downloads an object and compares it with what it must contain. `to` is complete or does not exist afterwards.
    pub(super) fn download(&self, name: &str, expected: &Content, to: &Path) -> Result<Downloaded> {
        let temporary = tempfile::NamedTempFile::new_in(to.parent().unwrap_or(Path::new(".")));
        let temporary = temporary.map_err(io_error(to, "create a temporary file for"))?;
        match self.receive(name, expected, temporary.as_file())? {
            Ok(content) => match content.difference(expected) {
                Some(difference) => Ok(Downloaded::Damaged(difference)),
                None => {
                    temporary.persist(to).map_err(|error| io_error(to, "write")(error.error))?;
                    Ok(Downloaded::Complete)
                }
            },
            Err(unusable) => Ok(unusable),
        }
    }

    fn receive(&self, name: &str, expected: &Content, mut file: &File) -> Result<Result<Content, Downloaded>> {
        let (key, mut sum, mut received, mut problem) = (self.key(name), Sha256::new(), 0, None);
        let got = self.wait(async {
            let size = self.objects.head(&key).await?.size;
            if size != expected.bytes {
                return Ok(size);
            }
            let starts = (0..size).step_by(PART_BYTES as usize);
            let parts = starts.map(|start| self.objects.get_range(&key, start..size.min(start + PART_BYTES)));
            let mut parts = stream::iter(parts).buffered(PARTS_AT_ONCE);
            while let Some(part) = parts.next().await {
                let part = part?;
                sum.update(&part);
                received += part.len() as u64;
                if let Err(error) = file.write_all(&part) {
                    problem = Some(error);
                    break;
                }
            }
            Ok(size)
        });
        match (got, problem) {
            (_, Some(error)) => Err(io_error(&self.path_of(name), "write a local copy of")(error)),
            (Ok(size), None) if size != expected.bytes => {
                Ok(Err(Downloaded::Damaged(format!("expected {} bytes, found {size}", expected.bytes))))
            }
            (Ok(_), None) => Ok(Ok(Content { bytes: received, sha256: hex(&sum.finalize()) })),
            (Err(object_store::Error::NotFound { .. }), None) => Ok(Err(Downloaded::Missing)),
            (Err(error), None) => Err(self.failed(name, "download")(error)),
        }
    }

    /// Deletes objects for a limited time, and returns the names of those that are still there, perhaps.
    pub(super) fn delete(&self, names: BTreeSet<String>) -> BTreeSet<String> {
        let mut left = names.clone();
        let deletions = names.into_iter().map(|name| async move {
            let key = self.key(&name);
            let outcome = self.objects.delete(&key).await;
            (name, matches!(outcome, Ok(()) | Err(object_store::Error::NotFound { .. })))
        });
        let mut deletions = stream::iter(deletions).buffer_unordered(DELETED_AT_ONCE);
        let all = async {
            while let Some((name, is_deleted)) = deletions.next().await {
                if is_deleted {
                    left.remove(&name);
                }
            }
        };
        // What is left because of an error is as good as what is left because of the time.
        let _ = self.wait(async { Ok(tokio::time::timeout(DELETE_TIMEOUT, all).await.is_ok()) });
        left
    }

    /// For `file://`: the folder of a name on the disk, where killed writers may have left temporary files.
    pub(super) fn folder_on_disk(&self, folder: &str) -> Option<PathBuf> {
        (self.url.scheme == Scheme::File).then(|| Path::new("/").join(&self.url.prefix).join(folder))
    }
}

/// A runtime must not be dropped in a thread of another one, except like this.
impl Drop for Objects {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn prefix(url: &Url) -> Outcome<Key> {
    match url.scheme {
        Scheme::File => Ok(Key::from_absolute_path(Path::new("/").join(&url.prefix))?),
        _ => Ok(Key::parse(&url.prefix)?),
    }
}

/// The storage of a URL, with credentials and settings from the environment.
fn storage(url: &Url, last: &Arc<LastFailure>) -> Outcome<Arc<dyn ObjectStore>> {
    let connector = Connector { last: last.clone() };
    let retry = RetryConfig {
        backoff: BackoffConfig { max_backoff: Duration::from_secs(10), ..BackoffConfig::default() },
        max_retries: MAX_RETRIES,
        retry_timeout: RETRY_TIMEOUT,
    };
    let bucket = &url.bucket;
    Ok(match url.scheme {
        Scheme::S3 => {
            let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
            Arc::new(builder.with_retry(retry).with_http_connector(connector).build()?)
        }
        Scheme::Google => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
            Arc::new(builder.with_retry(retry).with_http_connector(connector).build()?)
        }
        Scheme::Azure => {
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket);
            Arc::new(builder.with_retry(retry).with_http_connector(connector).build()?)
        }
        Scheme::File => Arc::new(LocalFileSystem::new().with_fsync(true)),
    })
}
