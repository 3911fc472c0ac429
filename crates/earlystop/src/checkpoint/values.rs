//! Named tensors of any library: an element type, a shape and bytes.

use std::fmt;
use std::sync::Arc;

use safetensors::tensor::{Dtype, View};

use super::TensorInfo;
use super::memory::{Element, Memory, Place, Produced, Read, Slice, Viewed};
#[cfg(feature = "torch")]
use super::torch;
use crate::{Error, Result};

/// A tensor with the name under which it is stored.
///
/// ```
/// use earlystop::checkpoint::{Metadata, NamedTensor, Saver};
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("model.safetensors");
/// let mut weights = vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let state = vec![NamedTensor::new("layer_fc1.weight", &weights[..]).with_shape([2, 3])];
/// Saver::new().save(&path, &[&state], &Metadata::new())?;
/// drop(state); // it borrows the weights
///
/// weights.fill(0.0);
/// let state = vec![NamedTensor::new("layer_fc1.weight", &mut weights[..]).with_shape([2, 3])];
/// Saver::new().restore(&path, &[&state])?;
/// drop(state);
/// assert_eq!(weights[5], 6.0);
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug)]
pub struct NamedTensor<'a> {
    /// The name, unique in a file: `"layer_conv1.weight"`.
    pub name: String,
    /// The logical shape: `[out, in, height, width]` for convolutional weights, `[out, in]` for dense ones.
    pub shape: Vec<i64>,
    /// The elements of `shape` in row-major order.
    pub values: Values<'a>,
}

impl<'a> NamedTensor<'a> {
    /// Names a tensor whose dimensions are its logical shape. That of a slice is its length.
    pub fn new(name: impl Into<String>, values: impl Into<Values<'a>>) -> Self {
        let values = values.into();
        NamedTensor { name: name.into(), shape: values.shape(), values }
    }

    /// Sets the logical shape, of as many elements.
    pub fn with_shape(self, shape: impl Into<Vec<i64>>) -> Self {
        NamedTensor { shape: shape.into(), ..self }
    }

    /// Returns a second `NamedTensor` that shares the values.
    pub(super) fn share(&self) -> NamedTensor<'a> {
        NamedTensor { name: self.name.clone(), shape: self.shape.clone(), values: self.values.share() }
    }

    /// Returns what a file says about the tensor.
    pub(super) fn info(&self) -> Result<TensorInfo> {
        let dtype = match &self.values.0 {
            Source::Other(place) => place.dtype(),
            #[cfg(feature = "torch")]
            Source::Torch(tensor) => torch::dtype(&self.name, tensor)?,
        };
        Ok(TensorInfo { name: self.name.clone(), dtype, shape: self.shape.clone() })
    }

    /// Refuses a logical shape that does not hold the elements.
    pub(super) fn expect_elements(&self) -> Result<()> {
        let NamedTensor { name, shape, values } = self;
        let count = shape.iter().try_fold(1i64, |count, &size| count.checked_mul(size).filter(|_| size >= 0));
        let fits = match &values.0 {
            Source::Other(place) => {
                let bits = count.and_then(|count| (count as usize).checked_mul(place.dtype().bitsize()));
                bits == place.bytes().checked_mul(8)
            }
            #[cfg(feature = "torch")]
            Source::Torch(tensor) => count == Some(tensor.numel() as i64),
        };
        if fits {
            return Ok(());
        }
        let found = values.shape();
        Err(Error::state(name, format!("its logical shape {shape:?} does not hold the elements of {found:?}")))
    }

    /// Refuses values that nothing can be written to.
    pub(super) fn expect_writable(&self) -> Result<()> {
        match &self.values.0 {
            Source::Other(place) => {
                place.why_read_only().map_or(Ok(()), |why| Err(Error::state(&self.name, why.to_owned())))
            }
            #[cfg(feature = "torch")]
            Source::Torch(tensor) => torch::expect_writable(&self.name, tensor),
        }
    }

    /// Calls `each` with the elements in row-major order, block by block.
    pub(super) fn for_each_block(&self, each: &mut dyn FnMut(Block<'_>) -> Result<()>) -> Result<()> {
        match &self.values.0 {
            Source::Other(place) => {
                let (expected, mut found) = (place.bytes(), 0usize);
                let wrong = |found: usize| {
                    let problem =
                        format!("its shape {:?} has {expected} bytes, but {found} were passed on", self.shape);
                    Err(Error::state(&self.name, problem))
                };
                place.read(&mut |bytes| {
                    found = found.saturating_add(bytes.len());
                    if found > expected { wrong(found) } else { each(Block::Bytes(bytes)) }
                })?;
                if found == expected { Ok(()) } else { wrong(found) }
            }
            #[cfg(feature = "torch")]
            Source::Torch(tensor) => {
                torch::for_each_block(&self.name, tensor, &mut |block| each(Block::Torch(&self.name, block)))
            }
        }
    }

    /// Overwrites the values with those that `read` gets from a file, where they have the type `stored`.
    ///
    /// `buffer` is memory that is used again for the next tensor.
    pub(super) fn overwrite(&self, stored: Dtype, buffer: &mut Vec<u8>, read: Read<'_>) -> Result<()> {
        match &self.values.0 {
            Source::Other(place) => place.overwrite(stored, buffer, read),
            #[cfg(feature = "torch")]
            Source::Torch(tensor) => torch::overwrite(&self.name, tensor, stored, buffer, read),
        }
    }

    /// Returns the tensor of libtorch that has the values, which shares their memory.
    ///
    /// # Errors
    ///
    /// [`Error::State`](crate::Error::State) if the values are not libtorch's.
    #[cfg(feature = "torch")]
    pub fn tensor(&self) -> Result<tch::Tensor> {
        match &self.values.0 {
            Source::Torch(tensor) => Ok(tensor.shallow_clone()),
            Source::Other(_) => Err(Error::state(&self.name, "expected a tensor of libtorch, found other memory")),
        }
    }
}

/// The values of a tensor. They stay in the memory of their owner: a save reads them there, and a restore overwrites them.
///
/// Created from a `tch::Tensor` (which shares its memory), from a slice (`&mut` to restore into it), or by [`of`](Self::of) from a
/// tensor of any library.
pub struct Values<'a>(Source<'a>);

enum Source<'a> {
    Other(Arc<dyn Place + 'a>),
    #[cfg(feature = "torch")]
    Torch(tch::Tensor),
}

impl<'a> Values<'a> {
    /// Wraps a tensor of another library that implements [`safetensors::View`], as candle's tensors do. It can be saved, but not
    /// restored.
    pub fn of(view: impl View + Send + Sync + 'a) -> Self {
        Values(Source::Other(Arc::new(Viewed::new(view, None))))
    }

    /// As [`of`](Self::of), for tensors that cannot be written to in place: a restore calls `restore` with the bytes, in
    /// row-major order and of the type of `view`.
    ///
    /// ```
    /// # use std::borrow::Cow;
    /// # use std::sync::Mutex;
    /// use earlystop::checkpoint::{Metadata, NamedTensor, Saver, Values};
    /// use earlystop::safetensors::{Dtype, View};
    ///
    /// /// A tensor of another library.
    /// struct Foreign(Vec<u8>);
    ///
    /// impl View for Foreign {
    ///     fn dtype(&self) -> Dtype { Dtype::U8 }
    ///     fn shape(&self) -> &[usize] { &[3] }
    ///     fn data(&self) -> Cow<'_, [u8]> { Cow::Borrowed(&self.0) }
    ///     fn data_len(&self) -> usize { self.0.len() }
    /// }
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("model.safetensors");
    /// let mut model = vec![1, 2, 3];
    /// let values = Values::restored_by(Foreign(model.clone()), |bytes| Ok(model = bytes.to_vec()));
    /// let state = vec![NamedTensor::new("w", values)];
    /// Saver::new().save(&path, &[&state], &Metadata::new())?;
    /// Saver::new().restore(&path, &[&state])?;
    /// # drop(state);
    /// # assert_eq!(model, [1, 2, 3]);
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn restored_by(
        view: impl View + Send + Sync + 'a,
        restore: impl FnMut(&[u8]) -> Result<()> + Send + 'a,
    ) -> Self {
        Values(Source::Other(Arc::new(Viewed::new(view, Some(Box::new(restore))))))
    }

    /// Creates values that are computed, or read from elsewhere, while a save writes them: the whole tensor is never in memory.
    ///
    /// `produce` passes the bytes on in row-major order, in as many pieces as it likes. A save may produce several tensors at once, on
    /// several threads. Its error ends the save, and the path holds
    /// what it held before. The values can be saved, but not restored.
    ///
    /// ```
    /// use earlystop::checkpoint::{Checkpoint, Metadata, NamedTensor, Saver, Values};
    /// use earlystop::safetensors::Dtype;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("model.safetensors");
    /// let squares = Values::produced_by(Dtype::U16, [100, 10], |write| {
    ///     (0..100u16).try_for_each(|row| write(&[(row * row).to_le_bytes(); 10].concat()))
    /// });
    /// Saver::new().save(&path, &[&vec![NamedTensor::new("squares", squares)]], &Metadata::new())?;
    /// assert_eq!(Checkpoint::read(&path)?.bytes("squares")?[1980..1982], 9801u16.to_le_bytes());
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A save returns [`Error::State`](crate::Error::State) if `produce` passes on more or fewer bytes than the shape has.
    pub fn produced_by(
        dtype: Dtype,
        shape: impl Into<Vec<i64>>,
        produce: impl Fn(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> + Send + Sync + 'a,
    ) -> Self {
        Values(Source::Other(Arc::new(Produced { dtype, shape: shape.into(), produce })))
    }

    fn share(&self) -> Values<'a> {
        match &self.0 {
            Source::Other(place) => Values(Source::Other(Arc::clone(place))),
            #[cfg(feature = "torch")]
            Source::Torch(tensor) => Values(Source::Torch(tensor.shallow_clone())),
        }
    }

    fn shape(&self) -> Vec<i64> {
        match &self.0 {
            Source::Other(place) => place.shape(),
            #[cfg(feature = "torch")]
            Source::Torch(tensor) if tensor.defined() => tensor.size(),
            #[cfg(feature = "torch")]
            Source::Torch(_) => Vec::new(),
        }
    }
}

impl fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Other(place) => write!(f, "{:?} {:?}", place.dtype(), place.shape()),
            #[cfg(feature = "torch")]
            Source::Torch(tensor) => tensor.fmt(f),
        }
    }
}

impl<'a, T: Element> From<&'a [T]> for Values<'a> {
    /// Values that can be saved, but not restored.
    fn from(values: &'a [T]) -> Self {
        Values::of(Slice::new(values))
    }
}

impl<'a, T: Element> From<&'a mut [T]> for Values<'a> {
    fn from(values: &'a mut [T]) -> Self {
        Values(Source::Other(Arc::new(Memory::new(values))))
    }
}

/// A live variable, or a view that shares its memory: a restore writes into it. Its layout in memory is arbitrary, and so are
/// its dimensions, as long as it has the elements of the logical shape in the same row-major order.
#[cfg(feature = "torch")]
impl From<tch::Tensor> for Values<'_> {
    fn from(tensor: tch::Tensor) -> Self {
        Values(Source::Torch(tensor))
    }
}

/// Consecutive elements of a tensor, at most a few megabytes.
pub(super) enum Block<'a> {
    Bytes(&'a [u8]),
    #[cfg(feature = "torch")]
    Torch(&'a str, &'a tch::Tensor),
}

impl Block<'_> {
    /// Copies the bytes into a buffer, in place of what it has.
    pub(super) fn copy_to(&self, buffer: &mut Vec<u8>) -> Result<()> {
        match self {
            Block::Bytes(bytes) => {
                buffer.clear();
                buffer.extend_from_slice(bytes);
                Ok(())
            }
            #[cfg(feature = "torch")]
            Block::Torch(name, block) => torch::copy_to(name, block, buffer),
        }
    }
}
