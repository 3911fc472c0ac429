//! Tensor values outside libtorch: slices, and tensors of other libraries.

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::Pod;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, View};

use super::convert::convert;
use crate::Result;

/// The maximum size of a block in bytes.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

/// Reads bytes of a tensor from a file into a buffer, starting at an offset in the tensor's data.
pub(super) type Read<'a> = &'a mut dyn FnMut(&mut [u8], u64) -> Result<()>;

/// Memory that contains the values of a tensor.
pub(super) trait Place: Send + Sync {
    fn dtype(&self) -> Dtype;
    fn shape(&self) -> Vec<i64>;
    /// The size of the values in bytes.
    fn bytes(&self) -> usize;
    /// Calls `each` with the bytes in row-major order, block by block.
    fn read(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>;
    /// Returns why the values cannot be overwritten, or `None` if they can.
    fn why_read_only(&self) -> Option<&'static str>;
    /// Overwrites the values with those that `read` returns, which have the type `stored` in the file. Does nothing if the values
    /// are read-only.
    fn overwrite(&self, stored: Dtype, buffer: &mut Vec<u8>, read: Read<'_>) -> Result<()>;
}

/// A number type that checkpoints can store.
pub trait Element: Pod + Send + Sync {
    /// The element type in a safetensors file.
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($element:ty => $dtype:ident),* $(,)?) => {$(
        impl Element for $element {
            const DTYPE: Dtype = Dtype::$dtype;
        }
    )*};
}

elements! {
    f64 => F64, f32 => F32, f16 => F16, bf16 => BF16,
    i64 => I64, i32 => I32, i16 => I16, i8 => I8,
    u64 => U64, u32 => U32, u16 => U16, u8 => U8,
}

/// A read-only slice, viewed as a one-dimensional tensor.
pub(super) struct Slice<'a> {
    dtype: Dtype,
    shape: [usize; 1],
    bytes: &'a [u8],
}

impl<'a> Slice<'a> {
    pub(super) fn new<T: Element>(values: &'a [T]) -> Self {
        Slice { dtype: T::DTYPE, shape: [values.len()], bytes: bytemuck::cast_slice(values) }
    }
}

impl View for Slice<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// A mutable slice, which can be saved and restored.
pub(super) struct Memory<'a> {
    dtype: Dtype,
    /// The number of elements.
    length: usize,
    bytes: Mutex<&'a mut [u8]>,
}

impl<'a> Memory<'a> {
    pub(super) fn new<T: Element>(values: &'a mut [T]) -> Self {
        Memory { dtype: T::DTYPE, length: values.len(), bytes: Mutex::new(bytemuck::cast_slice_mut(values)) }
    }

    fn lock(&self) -> MutexGuard<'_, &'a mut [u8]> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place for Memory<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> Vec<i64> {
        vec![self.length as i64]
    }

    fn bytes(&self) -> usize {
        self.lock().len()
    }

    fn read(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.lock().chunks(BLOCK_BYTES).try_for_each(each)
    }

    fn why_read_only(&self) -> Option<&'static str> {
        None
    }

    fn overwrite(&self, stored: Dtype, buffer: &mut Vec<u8>, read: Read<'_>) -> Result<()> {
        let mut bytes = self.lock();
        if stored == self.dtype {
            return read(&mut bytes, 0);
        }
        let [from, to] = [stored, self.dtype].map(|dtype| dtype.bitsize() / 8);
        let block = BLOCK_BYTES / from.max(to);
        for (number, target) in bytes.chunks_mut(block * to).enumerate() {
            buffer.resize(target.len() / to * from, 0);
            read(buffer, (number * block * from) as u64)?;
            convert(stored, buffer, self.dtype, target);
        }
        Ok(())
    }
}

/// A tensor of another library.
pub(super) struct Viewed<'a, V> {
    view: V,
    restore: Option<Mutex<Box<Restore<'a>>>>,
}

type Restore<'a> = dyn FnMut(&[u8]) -> Result<()> + Send + 'a;

impl<'a, V> Viewed<'a, V> {
    pub(super) fn new(view: V, restore: Option<Box<Restore<'a>>>) -> Self {
        Viewed { view, restore: restore.map(Mutex::new) }
    }
}

impl<V: View + Send + Sync> Place for Viewed<'_, V> {
    fn dtype(&self) -> Dtype {
        self.view.dtype()
    }

    fn shape(&self) -> Vec<i64> {
        self.view.shape().iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect()
    }

    fn bytes(&self) -> usize {
        self.view.data_len()
    }

    fn read(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.view.data().chunks(BLOCK_BYTES).try_for_each(each)
    }

    fn why_read_only(&self) -> Option<&'static str> {
        let why = "its values can only be read: restore into a `&mut` slice, or make them by Values::restored_by";
        self.restore.is_none().then_some(why)
    }

    fn overwrite(&self, stored: Dtype, buffer: &mut Vec<u8>, read: Read<'_>) -> Result<()> {
        let Some(restore) = &self.restore else { return Ok(()) };
        let (dtype, bytes) = (self.dtype(), self.bytes());
        buffer.resize(bytes * stored.bitsize() / dtype.bitsize(), 0);
        read(buffer, 0)?;
        let mut restore = restore.lock().unwrap_or_else(PoisonError::into_inner);
        if stored == dtype {
            return restore(buffer);
        }
        let mut converted = vec![0; bytes];
        convert(stored, buffer, dtype, &mut converted);
        restore(&converted)
    }
}

/// Values that a function passes on while they are saved.
pub(super) struct Produced<F> {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<i64>,
    pub(super) produce: F,
}

impl<F> Place for Produced<F>
where
    F: Fn(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> + Send + Sync,
{
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> Vec<i64> {
        self.shape.clone()
    }

    fn bytes(&self) -> usize {
        let size = |size: &i64| usize::try_from(*size).unwrap_or(usize::MAX);
        let count = self.shape.iter().map(size).fold(1, usize::saturating_mul);
        count.saturating_mul(self.dtype.bitsize()) / 8
    }

    fn read(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        (self.produce)(&mut |bytes| bytes.chunks(BLOCK_BYTES).try_for_each(&mut *each))
    }

    fn why_read_only(&self) -> Option<&'static str> {
        Some("its values can only be saved: restore into a `&mut` slice, or make them by Values::restored_by")
    }

    fn overwrite(&self, _: Dtype, _: &mut Vec<u8>, _: Read<'_>) -> Result<()> {
        Ok(()) // nothing to write to, see `why_read_only`
    }
}
