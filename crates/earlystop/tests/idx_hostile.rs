//! Streams that were made to do harm: each is an error, at once, and costs no more memory than it delivers.
#![cfg(feature = "torch")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;

use earlystop::idx::{self, Element, IdxError};
use flate2::Compression;
use flate2::write::GzEncoder;
use ndarray::{Ix1, Ix3, IxDyn};
use proptest::prelude::*;

/// Remembers the largest piece of memory that this thread asked for.
struct Watched;

thread_local!(static LARGEST: Cell<usize> = const { Cell::new(0) });

#[global_allocator]
static ALLOCATOR: Watched = Watched;

// SAFETY: the system's allocator does all the work; remembering a number allocates nothing.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(layout.size()));
        // SAFETY: the caller ensures what `alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller ensures what `dealloc` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(size));
        // SAFETY: the caller ensures what `realloc` asks for.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn read<T: Element>(bytes: &[u8]) -> Result<usize, IdxError> {
    idx::read::<T, IxDyn>(bytes).map(|array| array.len())
}

/// Reads as every type, and returns the largest piece of memory that this took.
fn read_as_everything(bytes: &[u8]) -> usize {
    LARGEST.set(0);
    let _ = read::<u8>(bytes);
    let _ = read::<i8>(bytes);
    let _ = read::<i16>(bytes);
    let _ = read::<i32>(bytes);
    let _ = read::<f32>(bytes);
    let _ = read::<f64>(bytes);
    let _ = idx::read::<u8, Ix1>(bytes);
    let _ = idx::read::<u8, Ix3>(bytes);
    LARGEST.get()
}

/// The buffer's start and flate2's own, for streams of a few bytes.
const LITTLE: usize = 1 << 20;

/// Found by hand and by the tests below; a new find joins them.
#[rustfmt::skip]
const CASES: [(&str, &[u8]); 13] = [
    ("nothing", &[]),
    ("one byte of gzip's magic", &[0x1f]),
    ("gzip's magic alone", &[0x1f, 0x8b]),
    ("gzip of an unknown method", &[0x1f, 0x8b, 0x07, 0, 0, 0, 0, 0, 0, 0]),
    ("gzip that names a file and ends", &[0x1f, 0x8b, 0x08, 0x08, 0, 0, 0, 0, 0, 0, b'a']),
    ("gzip with an extra field longer than it", &[0x1f, 0x8b, 0x08, 0x04, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
    ("gzip in gzip's place of a block", &[0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff]),
    ("four gigabytes promised", &[0, 0, 0x08, 1, 0xff, 0xff, 0xff, 0xff, 0]),
    ("2^62 bytes promised", &[0, 0, 0x08, 2, 0x80, 0, 0, 0, 0x80, 0, 0, 0, 0]),
    ("a product of 2^64", &[0, 0, 0x08, 4, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0]),
    ("a size that overflows by the element's alone", &[0, 0, 0x0e, 2, 0x80, 0, 0, 0, 0x40, 0, 0, 0]),
    ("an overflow hidden by an axis of length 0",
        &[0, 0, 0x08, 4, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ("255 axes and no lengths", &[0, 0, 0x08, 255]),
];

#[test]
fn every_case_is_an_error_and_takes_little_memory() {
    for (case, bytes) in CASES {
        for stream in [bytes.to_vec(), gzip(bytes)] {
            assert!(read::<u8>(&stream).is_err() && read::<f64>(&stream).is_err(), "{case}");
            let largest = read_as_everything(&stream);
            assert!(largest <= LITTLE, "{case}: {largest} bytes");
        }
    }
}

/// A gzip stream unpacks to up to a thousand times its size: it must not do so beyond what the header promises.
#[test]
fn a_gzip_bomb_is_unpacked_no_further_than_its_header_promises() {
    let bomb = gzip(&[&[0, 0, 0x08, 1, 0, 0, 0, 1][..], &[0; 100 << 20]].concat());
    LARGEST.set(0);
    assert!(matches!(read::<u8>(&bomb), Err(IdxError::Trailing { expected: 9 })));
    assert!(LARGEST.get() <= LITTLE, "{} bytes", LARGEST.get());
}

fn small_file() -> impl Strategy<Value = Vec<u8>> {
    let codes = prop::sample::select(vec![(0x08, 1), (0x09, 1), (0x0b, 2), (0x0c, 4), (0x0d, 4), (0x0e, 8)]);
    (codes, prop::collection::vec(0u8..4, 0..4)).prop_flat_map(|((code, size), shape)| {
        let count: usize = shape.iter().map(|&length| usize::from(length)).product();
        prop::collection::vec(any::<u8>(), count * size).prop_map(move |elements| {
            let lengths = shape.iter().flat_map(|&length| [0, 0, 0, length]);
            [0, 0, code, shape.len() as u8].into_iter().chain(lengths).chain(elements).collect()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read_as_everything(&bytes) <= LITTLE);
    }

    #[test]
    fn any_bytes_behind_a_header_are_read_or_refused(
        code in 7u8..16, rank in 0u8..6, bytes in prop::collection::vec(any::<u8>(), 0..60), compressed: bool,
    ) {
        let stream = [&[0, 0, code, rank], &bytes[..]].concat();
        let stream = if compressed { gzip(&stream) } else { stream };
        prop_assert!(read_as_everything(&stream) <= LITTLE);
    }

    #[test]
    fn a_file_is_read_as_its_own_type_alone(file in small_file()) {
        let types = [read::<u8>(&file), read::<i8>(&file), read::<i16>(&file),
            read::<i32>(&file), read::<f32>(&file), read::<f64>(&file)];
        prop_assert_eq!(types.iter().filter(|result| result.is_ok()).count(), 1);
    }

    #[test]
    fn a_damaged_file_is_read_or_refused(file in small_file(), bit in any::<prop::sample::Index>(), compressed: bool) {
        let mut file = if compressed { gzip(&file) } else { file };
        let bit = bit.index(8 * file.len());
        file[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(read_as_everything(&file) <= LITTLE);
    }

    #[test]
    fn a_file_cut_or_lengthened_is_refused(file in small_file(), at in any::<prop::sample::Index>(), compressed: bool) {
        let file = if compressed { gzip(&file) } else { file };
        let cut = &file[..at.index(file.len())];
        let longer = [&file[..], &[0]].concat();
        for stream in [cut, &longer] {
            prop_assert!(read::<u8>(stream).is_err() && read::<i16>(stream).is_err() && read::<f64>(stream).is_err());
        }
    }
}
