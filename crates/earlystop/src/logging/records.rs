//! Records of TensorBoard's event files: protocol buffers within TFRecord's frames.
//!
//! The messages are those of TensorFlow's `event.proto` and `summary.proto`, with the few fields that scalars need.

/// The first record of a file.
pub(super) fn version(wall_time: f64) -> Vec<u8> {
    framed(&event(wall_time, 0, |event| event.bytes(3, b"brain.Event:2")))
}

/// Tells TensorBoard to discard the points of earlier files from this step on.
pub(super) fn start(wall_time: f64, step: u64) -> Vec<u8> {
    let mut session = Message::default();
    session.varint(1, 1); // START
    framed(&event(wall_time, step, |event| event.bytes(7, &session.0)))
}

/// The values of a step, by their tags.
pub(super) fn scalars(wall_time: f64, step: u64, values: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Message::default();
    for (tag, value) in values {
        let mut entry = Message::default();
        entry.bytes(1, tag.as_bytes());
        entry.float(2, *value as f32);
        summary.bytes(1, &entry.0);
    }
    framed(&event(wall_time, step, |event| event.bytes(5, &summary.0)))
}

fn event(wall_time: f64, step: u64, what: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, wall_time);
    event.varint(2, step);
    what(&mut event);
    event.0
}

/// A protocol buffer that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// Writes a field's number and wire type.
    fn key(&mut self, field: u64, wire_type: u64) {
        self.raw(field << 3 | wire_type);
    }

    fn raw(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.raw(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.raw(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }
}

/// Frames a record: its length and its bytes, each with a checksum.
fn framed(record: &[u8]) -> Vec<u8> {
    let length = (record.len() as u64).to_le_bytes();
    let checksums = [&length, record].map(|bytes| masked(crc32c(bytes)).to_le_bytes());
    [&length[..], &checksums[0], record, &checksums[1]].concat()
}

/// A checksum of data that contains checksums is weak, so TFRecord alters them.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The checksum of RFC 3720. Records are short, so a bit at a time is fast enough.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    let byte = |crc: u32, &byte: &u8| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc));
    !bytes.iter().fold(!0, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
    }

    #[test]
    fn a_frame_begins_as_tensorflows_do() {
        // The first 12 bytes of every event file of TensorFlow, whose first record has 24 bytes.
        assert_eq!(framed(&[0; 24])[..12], *b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22");
    }

    /// Takes a record out of its frame.
    fn unframed<'a>(file: &mut &'a [u8]) -> &'a [u8] {
        let take = |file: &mut &'a [u8], count: usize| file.split_off(..count).unwrap();
        let length = take(file, 8);
        let checksum = |bytes: &[u8]| masked(crc32c(bytes)).to_le_bytes();
        assert_eq!(take(file, 4), checksum(length));
        let record = take(file, u64::from_le_bytes(length.try_into().unwrap()) as usize);
        assert_eq!(take(file, 4), checksum(record));
        record
    }

    /// Reads the fields of a message: their numbers and bytes, or the value of a varint as bytes.
    fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn varint(message: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = *message.split_off_first().unwrap();
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        let mut found = Vec::new();
        while !message.is_empty() {
            let key = varint(&mut message);
            let bytes = match key & 7 {
                0 => varint(&mut message).to_le_bytes().to_vec(),
                1 => message.split_off(..8).unwrap().to_vec(),
                2 => {
                    let length = varint(&mut message) as usize;
                    message.split_off(..length).unwrap().to_vec()
                }
                5 => message.split_off(..4).unwrap().to_vec(),
                other => panic!("wire type {other}"),
            };
            found.push((key >> 3, bytes));
        }
        found
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let values = [("train/loss".to_owned(), 0.5), ("validation/accuracy".to_owned(), f64::NAN)];
        let file = [version(1.5), start(2.5, 300), scalars(3.5, 400, &values)].concat();
        let mut rest = &file[..];
        let mut next = || fields(unframed(&mut rest));
        let [time, step] =
            [|time: f64| (1, time.to_le_bytes().to_vec()), |step| (2, (step as u64).to_le_bytes().to_vec())];
        assert_eq!(next(), [time(1.5), step(0.0), (3, b"brain.Event:2".to_vec())]);
        assert_eq!(next(), [time(2.5), step(300.0), (7, vec![8, 1])]);
        let written = next();
        assert_eq!(written[..2], [time(3.5), step(400.0)]);
        let entries: Vec<_> = fields(&written[2].1).into_iter().map(|(field, entry)| (field, fields(&entry))).collect();
        let entry = |tag: &str, value: f32| (1, vec![(1, tag.as_bytes().to_vec()), (2, value.to_le_bytes().to_vec())]);
        assert_eq!(entries, [entry("train/loss", 0.5), entry("validation/accuracy", f32::NAN)]);
        assert!(rest.is_empty());
    }

    #[test]
    fn large_numbers_take_several_bytes() {
        let mut message = Message::default();
        message.varint(1, 300);
        message.varint(2, u64::MAX);
        let max = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(message.0, [&[0x08, 0xac, 0x02, 0x10][..], &max].concat());
    }
}
