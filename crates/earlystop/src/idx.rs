//! Reads [IDX](http://yann.lecun.com/exdb/mnist/), the format of MNIST's files, plain or compressed by gzip, once or twice.
//!
//! Two zero bytes, the elements' type, the number of axes, the length of each axis as a big-endian `u32`, then the
//! elements, big-endian, the last axis changing fastest.
//!
//! Reads any stream. The caller adds the path to the error.

use std::fmt;
use std::io::{self, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ndarray::{Array, Dimension, IxDyn};

pub(crate) const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Why a stream is not the IDX array that was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdxError {
    /// The stream does not begin as IDX does.
    #[error("not an IDX file: expected two zero bytes first, found {:02x} {:02x}{}", found[0], found[1], known_magic(*found))]
    Magic {
        /// The first two bytes.
        found: [u8; 2],
    },

    /// The elements are of another type.
    #[error("expected IDX elements of type {expected}, found {}", element_name(*found))]
    ElementType {
        /// The type that was asked for.
        expected: &'static str,
        /// The type's code in the header.
        found: u8,
    },

    /// The array has another number of axes.
    #[error("expected an IDX array of {expected} axes, found {found}")]
    Rank {
        /// The number of axes that was asked for.
        expected: usize,
        /// The number of axes in the header.
        found: usize,
    },

    /// The header promises more than memory can address.
    #[error("expected an IDX array that memory can hold, found the shape {shape:?}")]
    TooLarge {
        /// The lengths of the axes in the header.
        shape: Vec<usize>,
    },

    /// The content ends too early.
    #[error("truncated: expected {expected} bytes of IDX, found {found}")]
    Truncated {
        /// The length of the header and of what it promises, in bytes, before compression.
        expected: u64,
        /// The length of the content, in bytes, before compression.
        found: u64,
    },

    /// The content goes on after the last element.
    #[error("trailing bytes: expected {expected} bytes of IDX, found more")]
    Trailing {
        /// The length of the header and of what it promises, in bytes, before compression.
        expected: u64,
    },

    /// The compressed stream is damaged or cut off.
    #[error("bad gzip: {0}")]
    Gzip(io::Error),

    /// The stream could not be read.
    #[error("cannot read: {0}")]
    Read(io::Error),
}

/// An element type of IDX: `u8`, `i8`, `i16`, `i32`, `f32` or `f64`.
pub trait Element: sealed::Element {}

mod sealed {
    pub trait Element: Sized {
        const CODE: u8;
        const NAME: &'static str;

        /// The elements of a whole number of them in big-endian bytes.
        fn from_be(bytes: Vec<u8>) -> Vec<Self>;
    }
}

impl Element for u8 {}
impl sealed::Element for u8 {
    const CODE: u8 = 0x08;
    const NAME: &'static str = "u8";

    fn from_be(bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

macro_rules! elements {
    ($($type:ident $code:literal)*) => {$(
        impl Element for $type {}
        impl sealed::Element for $type {
            const CODE: u8 = $code;
            const NAME: &'static str = stringify!($type);

            fn from_be(bytes: Vec<u8>) -> Vec<$type> {
                let (elements, _) = bytes.as_chunks();
                elements.iter().map(|&element| $type::from_be_bytes(element)).collect()
            }
        }
    )*};
}
elements! { i8 0x09  i16 0x0b  i32 0x0c  f32 0x0d  f64 0x0e }

/// Names what else is often found in the place of a data file.
fn known_magic(found: [u8; 2]) -> &'static str {
    match &found {
        [b'<', _] => ", as a web page begins: a server sent a message instead of the file",
        b"PK" => ", as a zip archive begins: extract the file from it",
        b"BZ" => ", as a bzip2 file begins: decompress it",
        [0xfd, b'7'] => ", as an xz file begins: decompress it",
        b"ve" => ", as a Git LFS pointer begins: fetch the file with `git lfs pull`",
        &GZIP_MAGIC => ", since it is compressed more than twice: decompress it",
        _ => "",
    }
}

fn element_name(code: u8) -> impl fmt::Display {
    let name = match code {
        0x08 => "u8",
        0x09 => "i8",
        0x0b => "i16",
        0x0c => "i32",
        0x0d => "f32",
        0x0e => "f64",
        _ => return format!("the unknown type 0x{code:02x}"),
    };
    name.to_owned()
}

/// Reads one array from a whole stream. Decompresses it if it begins as gzip does, and does so again if the result does: some
/// servers and programs compress a `.gz` file once more.
///
/// The header is checked before anything is allocated; then memory grows with what the stream delivers, never beyond
/// what the header promises, and never by the promise alone. Buffers the stream by itself.
///
/// # Errors
///
/// If the stream is not IDX, is of another element type or number of axes, ends too early or too late, or is damaged
/// where it is compressed: see [`IdxError`].
///
/// # Examples
///
/// ```
/// use earlystop::idx;
/// use ndarray::{Array1, Ix2, array};
///
/// let file = [0, 0, 0x08, 1, 0, 0, 0, 3, 7, 2, 1]; // u8, one axis of length 3, the elements
/// let labels: Array1<u8> = idx::read(&file[..])?;
/// assert_eq!(labels, array![7, 2, 1]);
///
/// let error = idx::read::<u8, Ix2>(&file[..]).unwrap_err();
/// assert_eq!(error.to_string(), "expected an IDX array of 2 axes, found 1");
/// # Ok::<(), idx::IdxError>(())
/// ```
pub fn read<T: Element, D: Dimension>(reader: impl Read) -> Result<Array<T, D>, IdxError> {
    let mut stream = Stream::new(reader)?;
    let [zero, zero_too, code, rank] = stream.read_array()?;
    let rank = usize::from(rank);
    if [zero, zero_too] != [0, 0] {
        return Err(IdxError::Magic { found: [zero, zero_too] });
    }
    if code != T::CODE {
        return Err(IdxError::ElementType { expected: T::NAME, found: code });
    }
    if let Some(expected) = D::NDIM.filter(|&expected| expected != rank) {
        return Err(IdxError::Rank { expected, found: rank });
    }

    stream.expected += 4 * rank as u64;
    let mut shape = Vec::new();
    for _ in 0..rank {
        shape.push(u32::from_be_bytes(stream.read_array()?) as usize);
    }
    let Some(length) = byte_length(&shape, size_of::<T>()) else {
        return Err(IdxError::TooLarge { shape });
    };
    stream.expected += length as u64;
    let bytes = stream.read(length)?;
    stream.end()?;

    Array::from_shape_vec(IxDyn(&shape), T::from_be(bytes))
        .and_then(Array::into_dimensionality)
        .map_err(|_| IdxError::TooLarge { shape })
}

/// The bytes that an array takes; `None` if memory cannot address them, or could not but for an axis of length 0.
fn byte_length(shape: &[usize], element: usize) -> Option<usize> {
    let lengths = shape.iter().filter(|&&length| length > 0);
    let length = lengths.copied().try_fold(element, usize::checked_mul)?;
    isize::try_from(length).ok()?;
    Some(if shape.contains(&0) { 0 } else { length })
}

/// How often a stream may be compressed.
const MOST_LAYERS: usize = 2;

/// Returns the decompressed content of a stream, whose first two bytes tell whether it is compressed by gzip, and whether it was.
pub(crate) fn unpacked<'r>(reader: impl Read + 'r) -> Result<(Box<dyn Read + 'r>, bool), IdxError> {
    let mut content: Box<dyn Read + 'r> = Box::new(reader);
    for layer in 0..=MOST_LAYERS {
        let gzip = layer > 0;
        let mut start = Vec::new();
        let read = content.by_ref().take(2).read_to_end(&mut start);
        read.map_err(if gzip { IdxError::Gzip } else { IdxError::Read })?;
        let is_compressed = start == GZIP_MAGIC && layer < MOST_LAYERS;
        let whole = BufReader::with_capacity(64 << 10, Cursor::new(start).chain(content));
        if !is_compressed {
            return Ok((Box::new(whole), gzip));
        }
        content = Box::new(MultiGzDecoder::new(whole));
    }
    unreachable!("the last layer is not decompressed")
}

/// A stream that counts what it has delivered of what is expected.
struct Stream<'r> {
    content: Box<dyn Read + 'r>,
    gzip: bool,
    expected: u64,
    found: u64,
}

impl<'r> Stream<'r> {
    fn new(reader: impl Read + 'r) -> Result<Stream<'r>, IdxError> {
        let (content, gzip) = unpacked(reader)?;
        Ok(Stream { content, gzip, expected: 4, found: 0 })
    }

    fn read_array<const N: usize>(&mut self) -> Result<[u8; N], IdxError> {
        let mut array = [0; N];
        array.copy_from_slice(&self.read(N)?);
        Ok(array)
    }

    fn read(&mut self, length: usize) -> Result<Vec<u8>, IdxError> {
        let bytes = self.up_to(length)?;
        if bytes.len() < length {
            return Err(IdxError::Truncated { expected: self.expected, found: self.found });
        }
        Ok(bytes)
    }

    /// Also has gzip compare its checksum, which comes last.
    fn end(&mut self) -> Result<(), IdxError> {
        if self.up_to(1)?.is_empty() { Ok(()) } else { Err(IdxError::Trailing { expected: self.expected }) }
    }

    /// Grows as it fills: a short stream with a large claim costs little.
    fn up_to(&mut self, length: usize) -> Result<Vec<u8>, IdxError> {
        let mut bytes = Vec::with_capacity(length.min(1 << 20));
        let read = self.content.by_ref().take(length as u64).read_to_end(&mut bytes);
        self.found += read.map_err(if self.gzip { IdxError::Gzip } else { IdxError::Read })? as u64;
        bytes.shrink_to_fit();
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ndarray::{Array1, Array2, Array3, ArrayD, Ix1, Ix2, array};

    use super::*;

    const LABELS: [u8; 11] = [0, 0, 0x08, 1, 0, 0, 0, 3, 7, 2, 1];

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn error(bytes: &[u8]) -> String {
        read::<u8, Ix1>(bytes).unwrap_err().to_string()
    }

    #[test]
    fn plain_and_compressed_streams_are_told_by_their_content() {
        let plain: Array1<u8> = read(&LABELS[..]).unwrap();
        let compressed: Array1<u8> = read(&gzip(&LABELS)[..]).unwrap();
        assert_eq!(plain, array![7, 2, 1]);
        assert_eq!(compressed, plain);
    }

    #[test]
    fn a_stream_compressed_twice_is_read() {
        let twice = gzip(&gzip(&LABELS));
        assert_eq!(read::<u8, Ix1>(&twice[..]).unwrap(), array![7, 2, 1]);
        for length in 2..twice.len() {
            let error = error(&twice[..length]);
            assert!(error.starts_with("bad gzip: "), "cut to {length}: {error}");
        }
        assert_eq!(error(&gzip(&gzip(&LABELS[..10]))), "truncated: expected 11 bytes of IDX, found 10");
        let thrice = error(&gzip(&twice));
        assert_eq!(
            thrice,
            "not an IDX file: expected two zero bytes first, found 1f 8b, since it is compressed more than twice: decompress it"
        );
    }

    #[test]
    fn what_is_found_in_the_place_of_data_is_named() {
        let cases: [(&[u8], &str); 7] = [
            (b"<!DOCTYPE html><html>", "3c 21, as a web page begins: a server sent a message instead of the file"),
            (b"<html>", "3c 68, as a web page begins: a server sent a message instead of the file"),
            (b"PK\x03\x04", "50 4b, as a zip archive begins: extract the file from it"),
            (b"BZh9", "42 5a, as a bzip2 file begins: decompress it"),
            (b"\xfd7zXZ", "fd 37, as an xz file begins: decompress it"),
            (b"version https://git-lfs", "76 65, as a Git LFS pointer begins: fetch the file with `git lfs pull`"),
            (b"\x89PNG\r\n", "89 50"),
        ];
        for (content, expected) in cases {
            let expected = format!("not an IDX file: expected two zero bytes first, found {expected}");
            assert_eq!([error(content), error(&gzip(content))], [expected.clone(), expected]);
        }
    }

    #[test]
    fn a_gzip_stream_of_several_members_is_read_to_its_end() {
        let members = [gzip(&LABELS[..5]), gzip(&LABELS[5..])].concat();
        assert_eq!(read::<u8, Ix1>(&members[..]).unwrap(), array![7, 2, 1]);
    }

    #[test]
    fn every_element_type_is_read_as_big_endian() {
        fn one<T: Element + Clone>(code: u8, element: &[u8]) -> Vec<T> {
            let bytes = [&[0, 0, code, 1, 0, 0, 0, 1], element].concat();
            read::<T, Ix1>(&bytes[..]).unwrap().to_vec()
        }
        assert_eq!(one::<u8>(0x08, &[200]), [200]);
        assert_eq!(one::<i8>(0x09, &[0xfe]), [-2]);
        assert_eq!(one::<i16>(0x0b, &[0xfe, 0x0c]), [-500]);
        assert_eq!(one::<i32>(0x0c, &[0, 1, 0, 2]), [65_538]);
        assert_eq!(one::<f32>(0x0d, &1.5f32.to_be_bytes()), [1.5]);
        assert_eq!(one::<f64>(0x0e, &(-0.1f64).to_be_bytes()), [-0.1]);
    }

    #[test]
    fn the_last_axis_changes_fastest() {
        let bytes = [0, 0, 0x08, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
        assert_eq!(read::<u8, Ix2>(&bytes[..]).unwrap(), array![[1, 2, 3], [4, 5, 6]]);
    }

    #[test]
    fn any_number_of_axes_is_read_where_it_is_not_given() {
        let scalar: ArrayD<u8> = read(&[0, 0, 0x08, 0, 9][..]).unwrap();
        assert_eq!((scalar.shape(), scalar.first()), (&[][..], Some(&9)));
        let six_axes = [&[0, 0, 0x08, 6][..], &[0, 0, 0, 1].repeat(6), &[9]].concat();
        assert_eq!(read::<u8, IxDyn>(&six_axes[..]).unwrap().shape(), [1; 6]);
    }

    #[test]
    fn an_axis_of_length_zero_makes_an_empty_array() {
        let bytes = [0, 0, 0x08, 2, 0, 0, 0, 0, 0, 0, 0, 28];
        assert_eq!(read::<u8, Ix2>(&bytes[..]).unwrap(), Array2::<u8>::zeros([0, 28]));
    }

    #[test]
    fn content_longer_than_the_first_buffer_is_read_whole() {
        let images = Array3::from_shape_fn([60, 200, 201], |(n, y, x)| (n * 31 + y * 7 + x) as u8);
        let header = [0, 0, 0x08, 3, 0, 0, 0, 60, 0, 0, 0, 200, 0, 0, 0, 201];
        let bytes = [&header[..], images.as_slice().unwrap()].concat();
        assert_eq!(read::<u8, ndarray::Ix3>(&gzip(&bytes)[..]).unwrap(), images);
    }

    #[test]
    fn another_element_type_is_refused() {
        assert_eq!(error(&[0, 0, 0x0d, 1, 0, 0, 0, 0]), "expected IDX elements of type u8, found f32");
        assert_eq!(
            error(&[0, 0, 0x0a, 1, 0, 0, 0, 0]),
            "expected IDX elements of type u8, found the unknown type 0x0a"
        );
    }

    #[test]
    fn another_number_of_axes_is_refused() {
        assert_eq!(error(&[0, 0, 0x08, 3, 0, 0, 0, 0]), "expected an IDX array of 1 axes, found 3");
    }

    #[test]
    fn a_shape_beyond_memory_is_refused() {
        let bytes = [&[0, 0, 0x08, 3][..], &[0xff; 12]].concat();
        let error = read::<u8, IxDyn>(&bytes[..]).unwrap_err();
        assert!(matches!(error, IdxError::TooLarge { shape } if shape == [0xffff_ffff; 3]));
    }

    #[test]
    fn a_truncated_header_is_refused() {
        assert_eq!(error(&[]), "truncated: expected 4 bytes of IDX, found 0");
        assert_eq!(error(&LABELS[..3]), "truncated: expected 4 bytes of IDX, found 3");
        assert_eq!(error(&LABELS[..6]), "truncated: expected 8 bytes of IDX, found 6");
    }

    #[test]
    fn truncated_content_is_refused() {
        assert_eq!(error(&LABELS[..10]), "truncated: expected 11 bytes of IDX, found 10");
        assert_eq!(error(&gzip(&LABELS[..10])), "truncated: expected 11 bytes of IDX, found 10");
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let longer = [&LABELS[..], &[0]].concat();
        assert_eq!(error(&longer), "trailing bytes: expected 11 bytes of IDX, found more");
        assert_eq!(error(&gzip(&longer)), "trailing bytes: expected 11 bytes of IDX, found more");
    }

    #[test]
    fn a_gzip_stream_cut_anywhere_is_refused() {
        let compressed = gzip(&LABELS);
        for length in 2..compressed.len() {
            let error = error(&compressed[..length]);
            assert!(error.starts_with("bad gzip: "), "cut to {length}: {error}");
        }
    }

    #[test]
    fn a_gzip_stream_of_another_checksum_is_refused() {
        let mut compressed = gzip(&LABELS);
        let checksum = compressed.len() - 8;
        compressed[checksum] ^= 1;
        assert_eq!(error(&compressed), "bad gzip: corrupt gzip stream does not have a matching checksum");
    }

    #[test]
    fn bytes_after_the_gzip_stream_are_refused() {
        let error = error(&[&gzip(&LABELS)[..], b"more"].concat());
        assert!(error.starts_with("bad gzip: "), "{error}");
    }

    #[test]
    fn an_unreadable_stream_is_not_blamed_on_its_content() {
        struct Unreadable;
        impl Read for Unreadable {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("bad sector"))
            }
        }
        let error = read::<u8, Ix1>(LABELS[..6].chain(Unreadable)).unwrap_err();
        assert_eq!(error.to_string(), "cannot read: bad sector");
    }
}
