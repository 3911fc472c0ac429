//! The values of tensors that are no tensors of libtorch: slices, and tensors of other libraries.

use std::sync::{Mutex, PoisonError};

use bytemuck::Pod;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, View};

use super::convert::convert;
use crate::Result;

/// The size of a block in bytes, at most.
pub(super) const BLOCK_BYTES: usize = 4 << 20;

/// Fills a buffer with a tensor's bytes in a file, from a position on.
pub(super) type Read<'a> = &'a mut dyn FnMut(&mut [u8], u64) -> Result<()>;

/// Where the values of a tensor are.
pub(super) trait Place: Send + Sync {
    fn dtype(&self) -> Dtype;
    fn shape(&self) -> Vec<i64>;
    /// The size of the values in bytes.
    fn bytes(&self) -> usize;
    /// Calls `each` with the bytes in row-major order, block by block.
    fn read(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>;
    /// Says why nothing can be written, if so.
    fn why_read_only(&self) -> Option<&'static str>;
    /// Writes what `read` gets from a file, where it has the type `stored`; does nothing where nothing can be written.
    fn overwrite(&self, stored: Dtype, buffer: &mut Vec<u8>, read: Read<'_>) -> Result<()>;
}

/// A type of numbers that checkpoints can hold.
pub trait Element: Pod + Send + Sync {
    /// The name of the type in a file.
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

/// A slice that can be saved.
pub(super) struct ReadOnly<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
}

impl<'a> ReadOnly<'a> {
    pub(super) fn new<T: Element>(values: &'a [T]) -> Self {
        ReadOnly { dtype: T::DTYPE, bytes: bytemuck::cast_slice(values) }
    }
}

impl Place for ReadOnly<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> Vec<i64> {
        length(self.dtype, self.bytes())
    }

    fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn read(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.bytes.chunks(BLOCK_BYTES).try_for_each(each)
    }

    fn why_read_only(&self) -> Option<&'static str> {
        Some("its values are a shared slice, which cannot be written to: use a `&mut` slice to restore")
    }

    fn overwrite(&self, _: Dtype, _: &mut Vec<u8>, _: Read<'_>) -> Result<()> {
        Ok(())
    }
}

/// A slice that can be saved and restored.
pub(super) struct Memory<'a> {
    dtype: Dtype,
    length: usize,
    bytes: Mutex<&'a mut [u8]>,
}

impl<'a> Memory<'a> {
    pub(super) fn new<T: Element>(values: &'a mut [T]) -> Self {
        let bytes = bytemuck::cast_slice_mut(values);
        Memory { dtype: T::DTYPE, length: bytes.len(), bytes: Mutex::new(bytes) }
    }
}

impl Place for Memory<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> Vec<i64> {
        length(self.dtype, self.length)
    }

    fn bytes(&self) -> usize {
        self.length
    }

    fn read(&self, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).chunks(BLOCK_BYTES).try_for_each(each)
    }

    fn why_read_only(&self) -> Option<&'static str> {
        None
    }

    fn overwrite(&self, stored: Dtype, buffer: &mut Vec<u8>, read: Read<'_>) -> Result<()> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
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
        let why = "nothing can be written to it: make its values by Values::restored_by";
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

/// The shape of a slice.
fn length(dtype: Dtype, bytes: usize) -> Vec<i64> {
    vec![(bytes * 8 / dtype.bitsize()) as i64]
}
