//! MNIST: reads the images of handwritten digits, and downloads them if they are missing.

mod download;
mod event;
mod files;

use std::path::Path;
use std::thread;

use crate::data::Examples;
use crate::error::{Error, Result};
pub use event::LoadEvent;

use download::Sources;
use files::{DOWNLOAD_AGAIN, FASHION_MNIST, MNIST};

/// The classes of [Fashion-MNIST](https://github.com/zalandoresearch/fashion-mnist), in the order of their numbers.
pub const FASHION_CLASSES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// [MNIST](http://yann.lecun.com/exdb/mnist/), or another data set of the same form, split as in TensorFlow's tutorials.
///
/// Images have 28 × 28 pixels and one of ten classes. Training and validation set share one buffer.
#[derive(Clone, Debug)]
pub struct Mnist {
    /// 55,000 examples: the training files without their first 5,000.
    pub train: Examples,
    /// 5,000 examples: the first of the training files.
    pub validation: Examples,
    /// 10,000 examples: the test files.
    pub test: Examples,
}

impl Mnist {
    /// Loads the four files from a folder, compressed by gzip or not, and downloads the missing ones.
    ///
    /// Their names are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    /// `t10k-labels-idx1-ubyte`, with or without `.gz`, also with a dot before `idx`. They may contain another data set of the
    /// same form and size. For data of other sizes, such as EMNIST and QMNIST, see [`Examples::read`].
    ///
    /// # Downloads
    ///
    /// The sources are tried in this order: the environment variable `EARLYSTOP_MNIST_MIRROR`, which is the address of a folder or
    /// the path of one on this machine, and the public mirrors of Google and PyTorch. A file is kept only if it is complete and its
    /// checksum is MNIST's.
    ///
    /// The usual environment variables set a proxy (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`). Servers are trusted as by the
    /// system: by its certificate store, or by the file that `SSL_CERT_FILE` names, which helps behind a proxy with its own
    /// certificate. Where there is no store, Mozilla's certificates are used.
    ///
    /// `progress` receives what happens; nothing is printed. The images take 55 MB of memory, as bytes.
    ///
    /// Stands in for `input_data.read_data_sets`.
    ///
    /// # Errors
    ///
    /// If a file is not the expected one: the message names the file, what was expected and found, and what to do. If a missing
    /// file could not be downloaded: the message lists what was tried. If the folder cannot be written.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use earlystop::mnist::Mnist;
    ///
    /// let data = Mnist::load("data/MNIST", |event| println!("{event}"))?;
    /// assert_eq!(data.train.len(), 55_000);
    /// assert_eq!(data.validation.len(), 5_000);
    /// assert_eq!(data.test.images().dim(), (10_000, 28, 28));
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn load(dir: impl AsRef<Path>, mut progress: impl FnMut(&LoadEvent)) -> Result<Mnist> {
        load(dir.as_ref(), &Sources::from_environment(&MNIST), &mut progress)
    }

    /// Loads [Fashion-MNIST](https://github.com/zalandoresearch/fashion-mnist): as many images of the same size, of ten
    /// kinds of clothes ([`FASHION_CLASSES`]), which are harder to distinguish.
    ///
    /// Works as [`Mnist::load`], from the folder that `EARLYSTOP_FASHION_MNIST_MIRROR` names, or from the mirrors of its authors.
    ///
    /// # Errors
    ///
    /// As [`Mnist::load`].
    pub fn load_fashion(dir: impl AsRef<Path>, mut progress: impl FnMut(&LoadEvent)) -> Result<Mnist> {
        load(dir.as_ref(), &Sources::from_environment(&FASHION_MNIST), &mut progress)
    }
}

fn load(dir: &Path, sources: &Sources, progress: &mut dyn FnMut(&LoadEvent)) -> Result<Mnist> {
    let collection = sources.collection;
    let [train_images, train_labels, test_images, test_labels] = &sources.complete(dir, progress)?;
    for path in [train_images, train_labels, test_images, test_labels] {
        progress(&LoadEvent::Extracting { path: path.clone() });
    }
    let (train, test) = thread::scope(|scope| {
        let test = scope.spawn(|| read(test_images, test_labels, collection.test));
        let train = read(train_images, train_labels, collection.train + collection.validation);
        (train, test.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (train, test) = (train.map_err(offer_download)?, test.map_err(offer_download)?);
    Ok(Mnist { train: train.slice(collection.validation..)?, validation: train.slice(..collection.validation)?, test })
}

/// Says of a damaged file that a new one can be downloaded.
fn offer_download(error: Error) -> Error {
    match error {
        Error::Idx { path, source, .. } => Error::Idx { path, source, remedy: DOWNLOAD_AGAIN },
        error => error,
    }
}

fn read(images: &Path, labels: &Path, count: usize) -> Result<Examples> {
    let examples = Examples::read(images, labels)?;
    let (expected, found) = ((count, 28, 28), examples.images().dim());
    if found != expected {
        return Err(Error::data(
            images.display().to_string(),
            format!("images of shape {expected:?}"),
            format!("{found:?}; Examples::read reads data of other sizes"),
        ));
    }
    examples.with_classes_of(labels.display(), 10)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::files::Collection;
    use super::*;

    /// 7 examples in the training files, 2 of them for validation, and 3 in the test files.
    const SMALL: Collection = Collection { validation: 2, train: 5, test: 3, ..MNIST };

    fn images(count: u8) -> Vec<u8> {
        let header = [0, 0, 0x08, 3, 0, 0, 0, count, 0, 0, 0, 28, 0, 0, 0, 28];
        header.into_iter().chain((0..count).flat_map(|image| [image; 28 * 28])).collect()
    }

    fn labels(labels: &[u8]) -> Vec<u8> {
        [&[0, 0, 0x08, 1, 0, 0, 0, labels.len() as u8], labels].concat()
    }

    /// A folder of all four files, of which the given one is another.
    fn folder(other: &str, content: &[u8]) -> TempDir {
        let dir = TempDir::new().unwrap();
        let contents = [images(7), labels(&[0, 1, 2, 3, 4, 5, 6]), images(3), labels(&[7, 8, 9])];
        for (file, right) in SMALL.files.iter().zip(contents) {
            fs::write(dir.path().join(file.name), if file.name == other { content } else { &right }).unwrap();
        }
        dir
    }

    fn load_small(dir: &Path) -> Result<Mnist> {
        load(dir, &Sources::from_environment(&SMALL), &mut |_| {})
    }

    /// The message, which must begin with the path of the file.
    fn refused(name: &str, content: &[u8]) -> String {
        let dir = folder(name, content);
        let message = load_small(dir.path()).unwrap_err().to_string();
        let path = format!("{}: ", dir.path().join(name).display());
        message.strip_prefix(&path).unwrap_or_else(|| panic!("{message}")).to_owned()
    }

    #[test]
    fn validation_is_the_first_of_the_training_files() {
        let data = load_small(folder("", &[]).path()).unwrap();
        assert_eq!(data.validation.labels().to_vec(), [0, 1]);
        assert_eq!(data.train.labels().to_vec(), [2, 3, 4, 5, 6]);
        assert_eq!(data.test.labels().to_vec(), [7, 8, 9]);
        assert_eq!(data.train.images().dim(), (5, 28, 28));
        assert_eq!(data.train.images()[[0, 27, 27]], 2);
    }

    #[test]
    fn training_and_validation_set_share_one_buffer() {
        let data = load_small(folder("", &[]).path()).unwrap();
        let end_of_validation = data.validation.images().as_slice().unwrap().as_ptr_range().end;
        assert_eq!(data.train.images().as_ptr(), end_of_validation);
    }

    #[test]
    fn ten_classes_are_there_whichever_are_seen() {
        let data = load_small(folder("", &[]).path()).unwrap();
        assert_eq!([&data.train, &data.validation, &data.test].map(Examples::num_classes), [10; 3]);
    }

    #[test]
    fn each_file_is_told_in_order_under_the_folder_as_it_was_named() {
        let dir = folder("", &[]);
        let mut lines = Vec::new();
        load(dir.path(), &Sources::from_environment(&SMALL), &mut |event| lines.push(event.to_string())).unwrap();
        assert_eq!(lines, SMALL.files.map(|file| format!("Extracting {}/{}", dir.path().display(), file.name)));
    }

    #[test]
    fn the_compressed_file_comes_before_the_plain_one() {
        let dir = folder("", &[]);
        fs::write(dir.path().join("t10k-labels-idx1-ubyte.gz"), labels(&[1, 1, 1])).unwrap();
        assert_eq!(load_small(dir.path()).unwrap().test.labels().to_vec(), [1, 1, 1]);
    }

    #[test]
    fn names_with_a_dot_and_folders_of_the_files_names_are_found() {
        let dir = folder("", &[]);
        for file in &SMALL.files {
            let with_dot = dir.path().join(file.name.replace("-idx", ".idx"));
            fs::rename(dir.path().join(file.name), with_dot).unwrap();
        }
        let nested = dir.path().join("t10k-labels-idx1-ubyte");
        fs::create_dir(&nested).unwrap();
        fs::rename(dir.path().join("t10k-labels.idx1-ubyte"), nested.join("t10k-labels-idx1-ubyte")).unwrap();
        let data = load_small(dir.path()).unwrap();
        assert_eq!((data.train.len(), data.validation.len()), (5, 2));
        assert_eq!(data.test.labels().to_vec(), [7, 8, 9]);
    }

    #[test]
    fn images_where_labels_belong_are_refused() {
        let message = refused("t10k-labels-idx1-ubyte", &images(3));
        assert!(message.starts_with("expected an IDX array of 1 axes, found 3"), "{message}");
    }

    /// What is left of a download that was interrupted, or of one that a proxy or a login page answered.
    #[test]
    fn a_damaged_file_is_named_and_can_be_had_again() {
        let gzip = |content: &[u8]| {
            use std::io::Write;
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        };
        let remedy = "; delete this file, and it will be downloaded again";
        let web_page = "not an IDX file: expected two zero bytes first, found 3c 68, as a web page begins: \
            a server sent a message instead of the file";
        let cases = [
            (images(7)[..1000].to_vec(), "truncated: expected 5504 bytes of IDX, found 1000"),
            (gzip(&images(7))[..50].to_vec(), "bad gzip: "),
            (b"<html>Please log in".to_vec(), web_page),
            (Vec::new(), "truncated: expected 4 bytes of IDX, found 0"),
        ];
        for (content, expected) in cases {
            let message = refused("train-images-idx3-ubyte", &content);
            assert!(message.starts_with(expected) && message.ends_with(remedy), "{message}");
        }
    }

    #[test]
    fn a_file_compressed_twice_is_read() {
        let dir = folder("", &[]);
        let twice = (0..2).fold(labels(&[7, 8, 9]), |content, _| {
            use std::io::Write;
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&content).unwrap();
            encoder.finish().unwrap()
        });
        fs::write(dir.path().join("t10k-labels-idx1-ubyte.gz"), twice).unwrap();
        assert_eq!(load_small(dir.path()).unwrap().test.labels().to_vec(), [7, 8, 9]);
    }

    #[test]
    fn labels_above_nine_are_refused() {
        let message = refused("t10k-labels-idx1-ubyte", &labels(&[7, 8, 10]));
        assert_eq!(message, "expected labels below 10, found 10 at index 2");
    }

    #[test]
    fn labels_of_another_number_are_refused() {
        let message = refused("t10k-labels-idx1-ubyte", &labels(&[7, 8]));
        assert!(message.starts_with("expected 3 labels, as many as images in "), "{message}");
        assert!(message.ends_with("t10k-images-idx3-ubyte, found 2"), "{message}");
    }

    #[test]
    fn images_of_another_number_are_refused() {
        let dir = folder("t10k-images-idx3-ubyte", &images(2));
        fs::write(dir.path().join("t10k-labels-idx1-ubyte"), labels(&[7, 8])).unwrap();
        let message = load_small(dir.path()).unwrap_err().to_string();
        assert!(
            message.contains("t10k-images-idx3-ubyte: expected images of shape (3, 28, 28), found (2, 28, 28); "),
            "{message}"
        );
    }

    #[test]
    fn progress_is_told_in_sizes_to_read() {
        let begin = |bytes| LoadEvent::Downloading { source: "it".to_owned(), bytes }.to_string();
        assert_eq!(begin(Some(28_477)), "Downloading it (28 kB)");
        assert_eq!(begin(Some(9_912_422)), "Downloading it (9.9 MB)");
        assert_eq!(begin(None), "Downloading it");
        let line = |bytes, total| LoadEvent::Received { bytes, total }.to_string();
        assert_eq!(line(2_000_000, Some(9_912_422)), "- 2.0 of 9.9 MB");
        assert_eq!(line(2_000_000, None), "- 2.0 MB");
    }
}
