//! Which images of a set are classified wrongly: one bit per image, in memory and in files.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

/// The largest set that is read from a file, so that a damaged number cannot ask for all memory.
const MAX_IMAGES: usize = 1 << 30;

/// Which images of a set are classified wrongly, at one bit per image. Clones share their memory.
///
/// Serialized as the gaps between the wrong images, in a [Rice code][rice] whose parameter is chosen for the shortest
/// result, as Base64. The code is never longer than one bit per image.
///
/// [rice]: https://en.wikipedia.org/wiki/Golomb_coding#Rice_coding
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Mistakes {
    images: usize,
    /// A bit for each image, set if it is wrong; the first image is the lowest bit of the first word.
    words: Arc<[u64]>,
}

impl Mistakes {
    /// Takes, for each image of the set, whether it is classified correctly.
    ///
    /// ```
    /// use earlystop::early_stopping::Mistakes;
    ///
    /// let mistakes = Mistakes::new(&[true, false, true]);
    /// assert_eq!(mistakes.images(), 3);
    /// assert_eq!(mistakes.wrong().collect::<Vec<_>>(), [1]);
    /// ```
    pub fn new(correct: impl IntoIterator<Item = impl Borrow<bool>>) -> Self {
        let mut images = 0;
        let mut words = Vec::new();
        for correct in correct {
            if images % 64 == 0 {
                words.push(0);
            }
            words[images / 64] |= u64::from(!*correct.borrow()) << (images % 64);
            images += 1;
        }
        Self { images, words: words.into() }
    }

    /// Returns the number of images in the set.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Iterates over the indices of the wrongly classified images, in ascending order.
    pub fn wrong(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.images).filter(|&image| self.words[image / 64] >> (image % 64) & 1 == 1)
    }

    /// Counts the images that are wrong here and right in `other`, a classification of the same set.
    pub(super) fn not_in(&self, other: &Self) -> usize {
        self.words.iter().zip(&*other.words).map(|(here, there)| (here & !there).count_ones() as usize).sum()
    }

    fn of_wrong(images: usize, wrong: impl IntoIterator<Item = usize>) -> Result<Self, String> {
        if images > MAX_IMAGES {
            return Err(format!("mistakes: expected at most {MAX_IMAGES} images, found {images}"));
        }
        let mut words = vec![0; images.div_ceil(64)];
        for image in wrong {
            if image >= images {
                return Err(format!("mistakes: expected an image below {images}, found {image}"));
            }
            words[image / 64] |= 1 << (image % 64);
        }
        Ok(Self { images, words: words.into() })
    }
}

impl fmt::Debug for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wrong: Vec<_> = self.wrong().collect();
        f.debug_struct("Mistakes").field("images", &self.images).field("wrong", &wrong).finish()
    }
}

/// The serialized form.
#[derive(Serialize, Deserialize)]
struct Written {
    images: usize,
    wrong: Wrong,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Wrong {
    /// The indices of the wrong images, as versions up to 0.1 write them.
    Indices(Vec<usize>),
    Gaps {
        count: usize,
        rice: u32,
        bits: String,
    },
}

impl From<Mistakes> for Written {
    fn from(mistakes: Mistakes) -> Self {
        let gaps = gaps(mistakes.wrong());
        let length = |rice: &u32| gaps.iter().map(|gap| (gap >> rice) + 1 + *rice as usize).sum::<usize>();
        let rice = (0..16).min_by_key(length).unwrap_or(0);
        let bits = BASE64.encode(encode(&gaps, rice));
        Self { images: mistakes.images, wrong: Wrong::Gaps { count: gaps.len(), rice, bits } }
    }
}

impl TryFrom<Written> for Mistakes {
    type Error = String;

    fn try_from(Written { images, wrong }: Written) -> Result<Self, String> {
        let (count, rice, bits) = match wrong {
            Wrong::Indices(wrong) => return Self::of_wrong(images, wrong),
            Wrong::Gaps { count, rice, bits } => (count, rice, bits),
        };
        let bytes = BASE64.decode(bits).map_err(|error| format!("mistakes: {error}"))?;
        let wrong = decode(&bytes, rice).ok_or("mistakes: expected the Rice code of gaps between images")?;
        if wrong.len() != count {
            return Err(format!("mistakes: expected {count} wrong images, found {}", wrong.len()));
        }
        Self::of_wrong(images, wrong)
    }
}

/// The number of right images before each wrong one.
fn gaps(wrong: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut next = 0;
    wrong.map(|image| image - std::mem::replace(&mut next, image + 1)).collect()
}

/// Writes each gap as `gap >> rice` zeros, a one, and the `rice` lowest bits of the gap, from the lowest bit of each
/// byte upwards. With `rice` 0 the result has one bit for each image.
fn encode(gaps: &[usize], rice: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut length = 0;
    let mut push = |bit: bool| {
        if length % 8 == 0 {
            bytes.push(0);
        }
        bytes[length / 8] |= u8::from(bit) << (length % 8);
        length += 1;
    };
    for gap in gaps {
        (0..gap >> rice).for_each(|_| push(false));
        push(true);
        (0..rice).for_each(|bit| push(gap >> bit & 1 == 1));
    }
    bytes
}

/// Reads the indices of the wrong images from the code of the gaps, or nothing if it is not such a code.
fn decode(bytes: &[u8], rice: u32) -> Option<Vec<usize>> {
    if rice >= 16 {
        return None;
    }
    let mut bits = (0..8 * bytes.len()).map(|index| usize::from(bytes[index / 8] >> (index % 8) & 1));
    let mut wrong = Vec::new();
    let mut next = 0;
    loop {
        // The zeros after the last one fill its byte.
        let Some(zeros) = bits.position(|bit| bit == 1) else { return Some(wrong) };
        let low: Option<usize> = (0..rice).map(|index| Some(bits.next()? << index)).sum();
        let image = next + (zeros << rice) + low?;
        wrong.push(image);
        next = image + 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_what_changed() {
        let before = Mistakes::new((0..100).map(|image| image % 3 != 0));
        let after = Mistakes::new((0..100).map(|image| image % 2 != 0));
        assert_eq!((before.not_in(&after), after.not_in(&before)), (17, 33));
        assert_eq!(before.not_in(&before), 0);
    }

    #[test]
    fn the_list_of_earlier_versions_is_read() {
        let mistakes: Mistakes = serde_json::from_str(r#"{"images":70,"wrong":[1,69]}"#).unwrap();
        assert_eq!(mistakes, Mistakes::new((0..70).map(|image| image != 1 && image != 69)));
    }

    #[test]
    fn what_is_no_set_of_images_is_refused() {
        for (json, problem) in [
            (r#"{"images":3,"wrong":[3]}"#, "expected an image below 3, found 3"),
            (r#"{"images":18446744073709551615,"wrong":[]}"#, "expected at most 1073741824 images"),
            (r#"{"images":3,"wrong":{"count":1,"rice":0,"bits":"CA=="}}"#, "expected an image below 3, found 3"),
            (r#"{"images":3,"wrong":{"count":2,"rice":0,"bits":"Ag=="}}"#, "expected 2 wrong images, found 1"),
            (r#"{"images":3,"wrong":{"count":1,"rice":15,"bits":"Ag=="}}"#, "expected the Rice code"),
            (r#"{"images":3,"wrong":{"count":1,"rice":99,"bits":"Ag=="}}"#, "expected the Rice code"),
            (r#"{"images":3,"wrong":{"count":1,"rice":0,"bits":"?"}}"#, "mistakes: "),
        ] {
            let error = serde_json::from_str::<Mistakes>(json).unwrap_err().to_string();
            assert!(error.contains(problem), "{json}: {error}");
        }
    }

    #[test]
    fn a_set_takes_at_most_a_bit_for_each_image() {
        for every in [1, 2, 3, 10, 100, 1000, 10_000] {
            let mistakes = Mistakes::new((0..5000).map(|image| image % every != 0));
            let Wrong::Gaps { bits, .. } = Written::from(mistakes.clone()).wrong else { unreachable!() };
            assert!(BASE64.decode(bits).unwrap().len() <= 625, "1 of {every} wrong");
            let json = serde_json::to_string(&mistakes).unwrap();
            assert!(every < 10 || 8 * json.len() <= 5000, "1 of {every} wrong: {} bytes", json.len());
        }
    }

    proptest! {
        #[test]
        fn json_keeps_every_image(
            images in prop::collection::vec(0..100u32, 0..300),
            wrong in prop_oneof![Just(1u32), Just(10), Just(50), Just(100)],
        ) {
            let mistakes = Mistakes::new(images.iter().map(|&image| image >= wrong));
            let back: Mistakes = serde_json::from_str(&serde_json::to_string(&mistakes).unwrap()).unwrap();
            prop_assert_eq!(back.wrong().count(), images.iter().filter(|&&image| image < wrong).count());
            prop_assert_eq!(back, mistakes);
        }
    }
}
