//! The four files: their names, the folder, and how they are written completely.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, io_error};
use crate::idx::{self, IdxError};

/// More bytes than the largest file has: nothing that is fetched can fill the memory or keep us busy for ever.
pub(super) const LIMIT: u64 = 64 << 20;

/// A set of files in MNIST's form, and where it can be had.
pub(super) struct Collection {
    pub(super) name: &'static str,
    /// Training images, training labels, test images, test labels.
    pub(super) files: [DataFile; 4],
    pub(super) validation: usize,
    pub(super) train: usize,
    pub(super) test: usize,
    /// Addresses of folders that have the files, in the order in which they are tried.
    pub(super) mirrors: &'static [&'static str],
    /// The environment variable that names one more, or a folder of this machine, to be tried first.
    pub(super) mirror_variable: &'static str,
}

const NAMES: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

pub(super) const MNIST: Collection = Collection {
    name: "MNIST",
    files: data_files([
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ]),
    validation: 5_000,
    train: 55_000,
    test: 10_000,
    mirrors: &["https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"],
    mirror_variable: "EARLYSTOP_MNIST_MIRROR",
};

pub(super) const FASHION_MNIST: Collection = Collection {
    name: "Fashion-MNIST",
    files: data_files([
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ]),
    mirrors: &[
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ],
    mirror_variable: "EARLYSTOP_FASHION_MNIST_MIRROR",
    ..MNIST
};

const fn data_files(sha256: [&'static str; 4]) -> [DataFile; 4] {
    let [a, b, c, d] = sha256;
    let [train_images, train_labels, test_images, test_labels] = NAMES;
    [
        DataFile { name: train_images, sha256: a },
        DataFile { name: train_labels, sha256: b },
        DataFile { name: test_images, sha256: c },
        DataFile { name: test_labels, sha256: d },
    ]
}

pub(super) struct DataFile {
    pub(super) name: &'static str,
    /// Of the content before compression, since archives of the same content differ.
    pub(super) sha256: &'static str,
}

impl DataFile {
    pub(super) fn compressed_name(&self) -> String {
        format!("{}.gz", self.name)
    }

    /// Finds the file in a folder: the compressed one before the plain one. Some archives have a dot in its name, as in
    /// `train-images.idx3-ubyte`, or put it into a folder of its own name.
    pub(super) fn find(&self, dir: &Path) -> Option<PathBuf> {
        let with_dot = self.name.replace("-idx", ".idx");
        let names =
            [self.name, &with_dot].map(|name| [format!("{name}.gz"), name.to_owned(), format!("{name}/{name}")]);
        names.into_iter().flatten().map(|name| dir.join(name)).find(|path| path.is_file())
    }

    /// Hands on content, compressed or not, whose checksum is right.
    pub(super) fn verified(&self, content: Vec<u8>) -> Result<Vec<u8>, String> {
        match sha256(&content[..]) {
            Ok(found) if found == self.sha256 => Ok(content),
            Ok(found) => Err(format!("expected content of SHA-256 {}, found {found}", self.sha256)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Checks that a file in the folder can be joined by ones that are fetched.
    pub(super) fn verify_present(&self, dir: &Path, collection: &str, absent: &str) -> Result<()> {
        let Some(path) = self.find(dir) else { return Ok(()) };
        let file = File::open(&path).map_err(io_error(&path, "open"))?;
        match sha256(file) {
            Ok(found) if found == self.sha256 => Ok(()),
            Ok(found) => Err(Error::data(
                path.display().to_string(),
                format!(
                    "{collection}'s content (SHA-256 {}), since {absent} is absent and only {collection}'s is fetched; delete \
                     this file, and it will be downloaded again; or, if it is another data set's, add {absent} of that",
                    self.sha256
                ),
                found,
            )),
            Err(source) => Err(Error::Idx { path, source, remedy: DOWNLOAD_AGAIN }),
        }
    }

    /// Writes content, compressed if it is not yet, to a temporary name first: the file is complete or does not exist.
    pub(super) fn keep(&self, dir: &Path, content: &[u8]) -> Result<()> {
        let path = dir.join(self.compressed_name());
        let (temporary, file) = create_temporary(dir, &self.compressed_name(), |path| File::create_new(path))?;
        let written = compress(content, file).and_then(|file| {
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) } // elsewhere a folder is no file
        });
        written.map_err(|source| {
            let _ = fs::remove_file(&temporary); // what matters is why it could not be written
            io_error(&path, "write")(source)
        })
    }
}

/// What to do about a file of a collection that can be downloaded.
pub(super) const DOWNLOAD_AGAIN: &str = "; delete this file, and it will be downloaded again";

fn sha256(content: impl Read) -> Result<String, IdxError> {
    let mut hasher = Sha256::new();
    let (content, gzip) = idx::unpacked(content)?;
    let copied = io::copy(&mut content.take(LIMIT), &mut hasher);
    copied.map_err(if gzip { IdxError::Gzip } else { IdxError::Read })?;
    Ok(format!("{:x}", hasher.finalize()))
}

fn compress(content: &[u8], mut file: File) -> io::Result<File> {
    if content.starts_with(&idx::GZIP_MAGIC) {
        file.write_all(content)?;
        return Ok(file);
    }
    let mut encoder = GzEncoder::new(file, Compression::default());
    encoder.write_all(content)?;
    encoder.finish()
}

/// Creates something temporary in a folder under the first name that is free: another process may be at the same work,
/// or have died at it.
pub(super) fn create_temporary<T>(
    dir: &Path,
    name: &str,
    create: impl Fn(&Path) -> io::Result<T>,
) -> Result<(PathBuf, T)> {
    let mut number = 0;
    loop {
        let path = dir.join(format!(".{name}.{number}.tmp"));
        match create(&path) {
            Ok(created) => return Ok((path, created)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(source) => return Err(Error::Io { path, action: "create", source }),
        }
    }
}
