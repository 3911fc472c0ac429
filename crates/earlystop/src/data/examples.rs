//! Images with their labels.

use std::fmt;
use std::fs::File;
use std::ops::{Bound, Range, RangeBounds};
use std::path::Path;

use ndarray::{
    ArcArray, ArcArray1, Array, Array1, Array2, Array3, ArrayD, ArrayView1, ArrayView3, Axis, Dimension, Ix3, s,
};
use tch::Tensor;

use super::Data;
use crate::error::{Error, Result, io_error, torch};
use crate::idx::{self, IdxError};
use crate::values::tensor_of;

/// Images with their labels, held as bytes.
///
/// A clone or a [slice](Examples::slice) shares the bytes of the original and copies none of them; what a network
/// takes in, `f32` and one-hot, is made for as many examples as are asked for at a time.
#[derive(Clone)]
pub struct Examples {
    images: ArcArray<u8, Ix3>, // in standard order
    labels: ArcArray1<u8>,
    num_classes: usize,
}

impl Examples {
    /// Joins images, `[examples, height, width]`, to their labels, `[examples]`, which count classes from 0.
    ///
    /// The number of classes is one more than the highest label: [`with_num_classes`](Examples::with_num_classes)
    /// sets it where that class may be absent.
    ///
    /// # Errors
    ///
    /// If there are more or fewer labels than images.
    ///
    /// # Examples
    ///
    /// ```
    /// use earlystop::Examples;
    /// use ndarray::{Array3, array};
    ///
    /// let examples = Examples::new(Array3::zeros([3, 28, 28]), array![7, 2, 1])?;
    /// assert_eq!(examples.len(), 3);
    /// assert_eq!(examples.num_classes(), 8);
    /// assert_eq!(examples.images_f32(..2)?.dim(), (2, 28 * 28));
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn new(images: Array3<u8>, labels: Array1<u8>) -> Result<Examples> {
        Examples::join(images, "images", labels, "labels")
    }

    /// Reads images and labels from a pair of IDX files, plain or compressed by gzip.
    ///
    /// Images are `[examples, height, width]` of bytes. Labels are `[examples]` of integers, or `[examples, columns]`, of which
    /// the first column is the class.
    ///
    /// # Data sets
    ///
    /// - [QMNIST](https://github.com/facebookresearch/qmnist) has eight 32-bit numbers per label (`qmnist-train-labels-idx2-int`),
    ///   the first of which is the class: its files are read as they are.
    /// - [EMNIST](https://www.nist.gov/itl/products-and-services/emnist-dataset)'s images are transposed, and the labels of its
    ///   letters start at 1. Turn them with [`transposed`](Examples::transposed) and
    ///   [`with_labels_from`](Examples::with_labels_from):
    ///
    /// ```no_run
    /// # use earlystop::Examples;
    /// let images = "emnist-letters-train-images-idx3-ubyte.gz";
    /// let labels = "emnist-letters-train-labels-idx1-ubyte.gz";
    /// let letters = Examples::read(images, labels)?.transposed().with_labels_from(1)?;
    /// assert_eq!(letters.num_classes(), 26);
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If a file cannot be read or is not such an IDX file, if there are more or fewer labels than images, or if a label is not
    /// 0 to 255.
    ///
    /// # Examples
    ///
    /// ```
    /// use earlystop::Examples;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let (images, labels) = (dir.path().join("images.idx"), dir.path().join("labels.idx"));
    /// // Two images of 1 x 2 pixels, and their labels.
    /// std::fs::write(&images, [0, 0, 0x08, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 255, 51, 0])?;
    /// std::fs::write(&labels, [0, 0, 0x08, 1, 0, 0, 0, 2, 1, 0])?;
    ///
    /// let examples = Examples::read(&images, &labels)?;
    /// assert_eq!(examples.images_f32(..)?, ndarray::array![[0.0, 1.0], [0.2, 0.0]]);
    /// assert_eq!(examples.one_hot(..)?, ndarray::array![[0.0, 1.0], [1.0, 0.0]]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(images: impl AsRef<Path>, labels: impl AsRef<Path>) -> Result<Examples> {
        let (images, labels) = (images.as_ref(), labels.as_ref());
        let images_name = format!("images in {}", images.display());
        Examples::join(read_idx(images)?, images_name, read_labels(labels)?, labels.display())
    }

    fn join(
        images: Array3<u8>,
        images_name: impl fmt::Display,
        labels: Array1<u8>,
        labels_name: impl fmt::Display,
    ) -> Result<Examples> {
        if labels.len() != images.len_of(Axis(0)) {
            return Err(Error::data(
                labels_name.to_string(),
                format!("{} labels, as many as {images_name}", images.len_of(Axis(0))),
                labels.len(),
            ));
        }
        let images = if images.is_standard_layout() { images } else { images.as_standard_layout().into_owned() };
        let num_classes = classes_of(labels.view());
        Ok(Examples { images: images.into_shared(), labels: labels.into_shared(), num_classes })
    }

    /// Sets the number of classes, for data in which the last ones may be absent.
    ///
    /// # Errors
    ///
    /// If a label is `num_classes` or more.
    pub fn with_num_classes(self, num_classes: usize) -> Result<Examples> {
        self.with_classes_of("labels", num_classes)
    }

    /// Counts labels that start at `first` from 0: of EMNIST's letters, 1 to 26, makes the classes 0 to 25.
    ///
    /// The number of classes is one more than the highest label then.
    ///
    /// # Errors
    ///
    /// If a label is less than `first`.
    ///
    /// # Examples
    ///
    /// ```
    /// use earlystop::Examples;
    /// use ndarray::{Array3, array};
    ///
    /// let letters = Examples::new(Array3::zeros([3, 28, 28]), array![1, 26, 7])?.with_labels_from(1)?;
    /// assert_eq!(letters.labels(), array![0, 25, 6]);
    /// assert_eq!(letters.num_classes(), 26);
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn with_labels_from(mut self, first: u8) -> Result<Examples> {
        if let Some(index) = self.labels.iter().position(|&label| label < first) {
            let found = format!("{} at index {index}", self.labels[index]);
            return Err(Error::data("labels", format!("labels of at least {first}"), found));
        }
        self.labels = self.labels.mapv(|label| label - first).into_shared();
        self.num_classes = classes_of(self.labels.view());
        Ok(self)
    }

    /// Swaps rows and columns of each image: EMNIST's images are stored column by column.
    ///
    /// # Examples
    ///
    /// ```
    /// use earlystop::Examples;
    /// use ndarray::array;
    ///
    /// let examples = Examples::new(array![[[1, 2, 3], [4, 5, 6]]], array![0])?;
    /// assert_eq!(examples.transposed().images(), array![[[1, 4], [2, 5], [3, 6]]]);
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn transposed(mut self) -> Examples {
        self.images = self.images.permuted_axes([0, 2, 1]).as_standard_layout().into_owned().into_shared();
        self
    }

    /// [`with_num_classes`](Examples::with_num_classes) for labels of the given name.
    pub(crate) fn with_classes_of(mut self, labels_name: impl fmt::Display, num_classes: usize) -> Result<Examples> {
        if let Some(index) = self.labels.iter().position(|&label| usize::from(label) >= num_classes) {
            return Err(Error::data(
                labels_name.to_string(),
                format!("labels below {num_classes}"),
                format!("{} at index {index}", self.labels[index]),
            ));
        }
        self.num_classes = num_classes;
        Ok(self)
    }

    /// Returns the number of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns the height of an image, in pixels.
    pub fn height(&self) -> usize {
        self.images.len_of(Axis(1))
    }

    /// Returns the width of an image, in pixels.
    pub fn width(&self) -> usize {
        self.images.len_of(Axis(2))
    }

    /// Returns the number of classes.
    pub fn num_classes(&self) -> usize {
        self.num_classes
    }

    /// Views the images, `[examples, height, width]`, pixels 0 to 255.
    pub fn images(&self) -> ArrayView3<'_, u8> {
        self.images.view()
    }

    /// Views the labels, `[examples]`, as class numbers from 0 to [`num_classes`](Examples::num_classes) - 1.
    pub fn labels(&self) -> ArrayView1<'_, u8> {
        self.labels.view()
    }

    /// Returns images as a network takes them in, `[examples, height * width]`, pixels 0.0 to 1.0.
    ///
    /// # Errors
    ///
    /// If the range reaches beyond the last example.
    pub fn images_f32(&self, range: impl RangeBounds<usize>) -> Result<Array2<f32>> {
        let range = self.resolve(range)?;
        Ok(unit_rows(self.images.slice(s![range, .., ..])))
    }

    /// Returns labels as one-hot rows, `[examples, num_classes]`: 1.0 for the class, 0.0 for all others.
    ///
    /// # Errors
    ///
    /// If the range reaches beyond the last example.
    pub fn one_hot(&self, range: impl RangeBounds<usize>) -> Result<Array2<f32>> {
        let range = self.resolve(range)?;
        Ok(self.one_hot_rows(self.labels.slice(s![range])))
    }

    /// Returns the chosen images, `[indices, height * width]`, and their one-hot labels, `[indices, num_classes]`.
    ///
    /// # Errors
    ///
    /// If there is no example of one of the indices.
    ///
    /// # Examples
    ///
    /// ```
    /// use earlystop::Examples;
    /// use ndarray::array;
    ///
    /// let examples = Examples::new(array![[[0]], [[51]], [[255]]], array![0, 1, 2])?;
    /// let (x, y_true) = examples.batch(&[2, 1])?;
    /// assert_eq!(x, array![[1.0], [0.2]]);
    /// assert_eq!(y_true, array![[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]);
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn batch(&self, indices: &[usize]) -> Result<(Array2<f32>, Array2<f32>)> {
        let chosen = self.take(indices)?;
        Ok((unit_rows(chosen.images()), chosen.one_hot_rows(chosen.labels())))
    }

    /// Copies the chosen examples, in the order of the indices.
    ///
    /// # Errors
    ///
    /// If there is no example of one of the indices.
    pub fn take(&self, indices: &[usize]) -> Result<Examples> {
        if let Some(index) = indices.iter().find(|&&index| index >= self.len()) {
            return Err(self.outside("an index", index));
        }
        Ok(Examples {
            images: self.images.select(Axis(0), indices).into_shared(),
            labels: self.labels.select(Axis(0), indices).into_shared(),
            num_classes: self.num_classes,
        })
    }

    /// Copies the examples for which `mask` is true: the wrong ones, say.
    ///
    /// # Errors
    ///
    /// If the mask is longer or shorter than the examples.
    ///
    /// # Examples
    ///
    /// ```
    /// use earlystop::Examples;
    /// use ndarray::{Array3, array};
    ///
    /// let examples = Examples::new(Array3::zeros([3, 28, 28]), array![7, 2, 1])?;
    /// let predicted = [7, 2, 4];
    /// let wrong: Vec<bool> = examples.labels().iter().zip(predicted).map(|(&label, p)| label != p).collect();
    /// assert_eq!(examples.select(&wrong)?.labels(), array![1]);
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn select(&self, mask: &[bool]) -> Result<Examples> {
        if mask.len() != self.len() {
            return Err(Error::data("mask", format!("{} values, one for each example", self.len()), mask.len()));
        }
        let indices: Vec<usize> = (0..self.len()).filter(|&index| mask[index]).collect();
        self.take(&indices)
    }

    /// Returns a range of the examples, which shares their bytes.
    ///
    /// # Errors
    ///
    /// If the range reaches beyond the last example.
    ///
    /// # Examples
    ///
    /// ```
    /// use earlystop::Examples;
    /// use ndarray::{Array3, array};
    ///
    /// let examples = Examples::new(Array3::zeros([3, 28, 28]), array![7, 2, 1])?;
    /// assert_eq!(examples.slice(1..)?.labels(), array![2, 1]);
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<Examples> {
        let range = self.resolve(range)?;
        Ok(Examples {
            images: self.images.clone().slice_move(s![range.clone(), .., ..]),
            labels: self.labels.clone().slice_move(s![range]),
            num_classes: self.num_classes,
        })
    }

    fn one_hot_rows(&self, labels: ArrayView1<u8>) -> Array2<f32> {
        let mut rows = Array2::zeros([labels.len(), self.num_classes]);
        for (mut row, &label) in rows.rows_mut().into_iter().zip(labels) {
            row[usize::from(label)] = 1.0;
        }
        rows
    }

    fn resolve(&self, range: impl RangeBounds<usize>) -> Result<Range<usize>> {
        let start = match range.start_bound() {
            Bound::Included(&start) => Some(start),
            Bound::Excluded(&before) => before.checked_add(1),
            Bound::Unbounded => Some(0),
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.checked_add(1),
            Bound::Excluded(&end) => Some(end),
            Bound::Unbounded => Some(self.len()),
        };
        match (start, end) {
            (Some(start), Some(end)) if start <= end && end <= self.len() => Ok(start..end),
            _ => Err(self.outside("a range", shown(&range))),
        }
    }

    fn outside(&self, what: &str, found: impl fmt::Display) -> Error {
        Error::data("examples", format!("{what} within 0..{}", self.len()), found)
    }
}

/// Shows the sizes: a notebook's cell should not print 47 million pixels.
impl fmt::Debug for Examples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Examples")
            .field("images", &self.images.shape())
            .field("labels", &self.labels.shape())
            .field("num_classes", &self.num_classes)
            .finish()
    }
}

/// The range as Rust writes it.
fn shown(range: &impl RangeBounds<usize>) -> String {
    let start = match range.start_bound() {
        Bound::Included(start) => start.to_string(),
        Bound::Excluded(before) => format!("({before})"),
        Bound::Unbounded => String::new(),
    };
    match range.end_bound() {
        Bound::Included(last) => format!("{start}..={last}"),
        Bound::Excluded(end) => format!("{start}..{end}"),
        Bound::Unbounded => format!("{start}.."),
    }
}

fn unit_rows(images: ArrayView3<u8>) -> Array2<f32> {
    let (examples, height, width) = images.dim();
    let units = images.mapv(|pixel| f32::from(pixel) / 255.0);
    units.into_shape_with_order((examples, height * width)).expect("images are in standard order")
}

/// Counts the classes up to the highest label.
fn classes_of(labels: ArrayView1<u8>) -> usize {
    labels.iter().max().map_or(0, |&label| usize::from(label) + 1)
}

fn read_idx<T: idx::Element, D: Dimension>(path: &Path) -> Result<Array<T, D>> {
    let file = File::open(path).map_err(io_error(path, "open"))?;
    idx::read(file).map_err(|source| Error::Idx { path: path.into(), source, remedy: "" })
}

/// Reads labels of any type of integers; of several columns, the first.
fn read_labels(path: &Path) -> Result<Array1<u8>> {
    match read_idx(path) {
        Err(Error::Idx { source: IdxError::ElementType { found: 0x0c, .. }, .. }) => {
            narrow(path, read_idx::<i32, _>(path)?)
        }
        Err(Error::Idx { source: IdxError::ElementType { found: 0x0b, .. }, .. }) => {
            narrow(path, read_idx::<i16, _>(path)?)
        }
        Err(Error::Idx { source: IdxError::ElementType { found: 0x09, .. }, .. }) => {
            narrow(path, read_idx::<i8, _>(path)?)
        }
        labels => labels,
    }
}

fn narrow<T: Copy + TryInto<u8> + fmt::Display>(path: &Path, labels: ArrayD<T>) -> Result<Array1<u8>> {
    let refused = |expected: &str, found: String| Error::data(path.display().to_string(), expected, found);
    let classes = match labels.shape() {
        [_] => labels.view(),
        [_, columns] if *columns > 0 => labels.index_axis(Axis(1), 0),
        shape => return Err(refused("labels of shape [examples] or [examples, columns]", format!("{shape:?}"))),
    };
    let class = |(index, &label): (usize, &T)| {
        label.try_into().map_err(|_| refused("labels of 0 to 255", format!("{label} at index {index}")))
    };
    classes.iter().enumerate().map(class).collect()
}

/// Images `[batch, height * width]` and their one-hot labels `[batch, num_classes]`.
pub type ImageBatch = (Tensor, Tensor);

impl Data for Examples {
    type Batch = ImageBatch;

    fn len(&self) -> usize {
        Examples::len(self)
    }

    fn batch(&self, indices: &[usize], _iteration: u64) -> Result<ImageBatch> {
        let (images, labels) = Examples::batch(self, indices)?;
        Ok((tensor_of(&images).map_err(torch("images"))?, tensor_of(&labels).map_err(torch("labels"))?))
    }

    fn fingerprint(&self) -> Option<String> {
        Some(self.fingerprint_json())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{ShapeBuilder, array};

    use super::*;

    /// Five images of 1 x 2 pixels, whose first pixel is their index; classes 0, 1, 2, 1, 0.
    fn five() -> Examples {
        let images = Array3::from_shape_fn([5, 1, 2], |(n, _, x)| if x == 0 { n as u8 } else { 255 });
        Examples::new(images, array![0, 1, 2, 1, 0]).unwrap()
    }

    #[test]
    fn pixels_are_divided_by_255() {
        let images = Array3::from_shape_fn([1, 16, 16], |(_, y, x)| (16 * y + x) as u8);
        let units = Examples::new(images, array![0]).unwrap().images_f32(..).unwrap();
        assert_eq!(units.dim(), (1, 256));
        assert!(units.iter().enumerate().all(|(pixel, &unit)| unit == pixel as f32 / 255.0));
    }

    /// Writes images `[n, 2, 3]`, pixels 0, 1, 2, ..., and the labels' file, and reads both.
    fn read_with(labels: &[u8], n: u8) -> Result<Examples> {
        let dir = tempfile::tempdir().unwrap();
        let [images_path, labels_path] = ["images", "labels"].map(|name| dir.path().join(name));
        let images = [0, 0, 0x08, 3, 0, 0, 0, n, 0, 0, 0, 2, 0, 0, 0, 3].into_iter().chain(0..6 * n);
        std::fs::write(&images_path, images.collect::<Vec<_>>()).unwrap();
        std::fs::write(&labels_path, labels).unwrap();
        Examples::read(images_path, labels_path)
    }

    /// Labels of 32-bit integers with these axes.
    fn int_labels(axes: &[u8], labels: &[i32]) -> Vec<u8> {
        let lengths = axes.iter().flat_map(|&length| [0, 0, 0, length]);
        let labels = labels.iter().flat_map(|label| label.to_be_bytes());
        [0, 0, 0x0c, axes.len() as u8].into_iter().chain(lengths).chain(labels).collect()
    }

    #[test]
    fn qmnists_labels_are_read() {
        let columns = int_labels(&[2, 8], &[7, 4, 2610, 0, 1, 2, 3, 4, 3, 0, 500, 6, 7, 8, 9, 10]);
        let examples = read_with(&columns, 2).unwrap();
        assert_eq!((examples.labels(), examples.num_classes()), (array![7, 3].view(), 8));
        assert_eq!(read_with(&int_labels(&[2], &[1, 255]), 2).unwrap().labels(), array![1, 255]);
        assert_eq!(read_with(&[0, 0, 0x0b, 1, 0, 0, 0, 1, 0, 9], 1).unwrap().labels(), array![9]);
        assert_eq!(read_with(&[0, 0, 0x09, 1, 0, 0, 0, 1, 9], 1).unwrap().labels(), array![9]);
        let refused = |labels: &[u8], n| read_with(labels, n).unwrap_err().to_string();
        let message = refused(&int_labels(&[2], &[1, 256]), 2);
        assert!(message.ends_with("labels: expected labels of 0 to 255, found 256 at index 1"), "{message}");
        let message = refused(&int_labels(&[1], &[-1]), 1);
        assert!(message.ends_with("labels: expected labels of 0 to 255, found -1 at index 0"), "{message}");
        let message = refused(&int_labels(&[2, 0], &[]), 2);
        assert!(
            message.ends_with("expected labels of shape [examples] or [examples, columns], found [2, 0]"),
            "{message}"
        );
        let message = refused(&int_labels(&[3], &[1, 2, 3]), 2);
        assert!(message.ends_with(", found 3"), "{message}");
        let message = refused(&[0, 0, 0x0d, 1, 0, 0, 0, 0], 2);
        assert!(message.ends_with("expected IDX elements of type u8, found f32"), "{message}");
    }

    #[test]
    fn emnists_letters_are_turned() {
        let letters = read_with(&[0, 0, 0x08, 1, 0, 0, 0, 2, 1, 26], 2).unwrap();
        let letters = letters.transposed().with_labels_from(1).unwrap();
        assert_eq!((letters.height(), letters.width(), letters.num_classes()), (3, 2, 26));
        assert_eq!(letters.images().index_axis(Axis(0), 1), array![[6, 9], [7, 10], [8, 11]]);
        assert_eq!(letters.labels(), array![0, 25]);
        assert_eq!(letters.images_f32(1..).unwrap(), array![[6., 9., 7., 10., 8., 11.]] / 255.0);
        assert_eq!(letters.slice(1..).unwrap().transposed().images(), array![[[6, 7, 8], [9, 10, 11]]]);
        let message = letters.with_labels_from(1).unwrap_err().to_string();
        assert_eq!(message, "labels: expected labels of at least 1, found 0 at index 0");
    }

    #[test]
    fn images_in_column_order_keep_their_places() {
        let images = Array3::from_shape_fn([2, 2, 3].f(), |(n, y, x)| (100 * n + 10 * y + x) as u8);
        let examples = Examples::new(images.clone(), array![0, 1]).unwrap();
        assert_eq!(examples.images(), images);
        assert_eq!(examples.images_f32(1..).unwrap(), array![[100., 101., 102., 110., 111., 112.]] / 255.0);
    }

    #[test]
    fn a_batch_is_made_of_the_chosen_examples_in_their_order() {
        let (images, labels) = five().batch(&[4, 2, 4]).unwrap();
        assert_eq!(images.column(0), array![4.0, 2.0, 4.0] / 255.0);
        assert_eq!(labels, array![[1., 0., 0.], [0., 0., 1.], [1., 0., 0.]]);
    }

    #[test]
    fn an_empty_choice_is_an_empty_batch() {
        let (images, labels) = five().batch(&[]).unwrap();
        assert_eq!((images.dim(), labels.dim()), ((0, 2), (0, 3)));
        assert!(five().select(&[false; 5]).unwrap().is_empty());
        assert_eq!(five().images_f32(5..).unwrap().dim(), (0, 2));
    }

    #[test]
    fn a_slice_shares_the_bytes_and_keeps_the_classes() {
        let examples = five();
        let slice = examples.slice(3..).unwrap();
        assert_eq!(slice.labels(), array![1, 0]);
        assert_eq!(slice.images().as_ptr(), examples.images().slice(s![3.., .., ..]).as_ptr());
        assert_eq!(slice.num_classes(), 3);
        assert_eq!(slice.one_hot(..).unwrap(), examples.one_hot(3..=4).unwrap());
        assert_eq!(slice.batch(&[1]).unwrap(), examples.batch(&[4]).unwrap());
    }

    #[test]
    fn what_lies_outside_is_refused() {
        let message = |error: Error| error.to_string();
        let examples = five();
        assert_eq!(
            message(examples.images_f32(4..6).unwrap_err()),
            "examples: expected a range within 0..5, found 4..6"
        );
        assert_eq!(message(examples.one_hot(..=5).unwrap_err()), "examples: expected a range within 0..5, found ..=5");
        #[allow(clippy::reversed_empty_ranges)] // is what is tested
        let reversed = examples.slice(3..2).unwrap_err();
        assert_eq!(message(reversed), "examples: expected a range within 0..5, found 3..2");
        assert!(examples.slice(..=usize::MAX).is_err());
        assert_eq!(message(examples.batch(&[0, 5]).unwrap_err()), "examples: expected an index within 0..5, found 5");
        assert_eq!(
            message(examples.select(&[true]).unwrap_err()),
            "mask: expected 5 values, one for each example, found 1"
        );
    }

    #[test]
    fn more_labels_than_images_are_refused() {
        let error = Examples::new(Array3::zeros([2, 28, 28]), array![0, 1, 2]).unwrap_err();
        assert_eq!(error.to_string(), "labels: expected 2 labels, as many as images, found 3");
    }

    #[test]
    fn absent_last_classes_can_be_added_and_present_ones_not_taken_away() {
        assert_eq!(five().with_num_classes(10).unwrap().one_hot(..1).unwrap().dim(), (1, 10));
        let error = five().with_num_classes(2).unwrap_err();
        assert_eq!(error.to_string(), "labels: expected labels below 2, found 2 at index 2");
    }
}
