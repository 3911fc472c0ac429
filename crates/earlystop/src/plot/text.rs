//! Text in DejaVu Sans, matplotlib's font, and in the fonts that the caller adds for other scripts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use ab_glyph::{Font, FontArc, FontVec, GlyphId, PxScale, ScaleFont, point};

use crate::error::io_error;
use crate::{Error, Result};

/// The fonts that were added, in the order in which they are tried.
static ADDED: RwLock<Vec<FontArc>> = RwLock::new(Vec::new());

/// Adds a font for characters that the figures' own font, DejaVu Sans, does not have: Chinese, Japanese, emoji.
///
/// `path` is a TrueType or OpenType file; of a collection (`.ttc`) the first font is used. Fonts are tried in the order in
/// which they were added, in all figures drawn afterwards. Of emoji, use a font with outlines: characters that a font has only
/// as colored pictures are missing.
///
/// [`add_font_bytes`] adds a font that is in memory.
///
/// In a notebook, call it in the cell that draws: evcxr links each cell to its own copy of this crate.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be read, [`Error::Data`] if it is not a font.
///
/// # Examples
///
/// ```no_run
/// use earlystop::plot;
///
/// plot::add_font("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc")?;
/// let images = ndarray::Array3::<u8>::zeros((2, 28, 28));
/// let figure = plot::image_grid(&images, &["猫".to_owned(), "犬".to_owned()])?;
/// assert_eq!(figure.missing_characters(), "");
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn add_font(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let content = fs::read(path).map_err(io_error(path, "read"))?;
    add(content, path.display().to_string(), "another kind of file")
}

/// Adds a font from the content of its file, for example one that is built into the program: see [`add_font`].
///
/// # Errors
///
/// [`Error::Data`] if the content is not a font's.
///
/// # Examples
///
/// ```
/// let error = earlystop::plot::add_font_bytes(*b"<html>").unwrap_err();
/// assert_eq!(error.to_string(), "font: expected a TrueType or OpenType font, found other content");
/// ```
pub fn add_font_bytes(content: impl Into<Vec<u8>>) -> Result<()> {
    add(content.into(), "font".to_owned(), "other content")
}

fn add(content: Vec<u8>, name: String, other: &str) -> Result<()> {
    let font = FontVec::try_from_vec_and_index(content, 0)
        .map_err(|_| Error::data(name, "a TrueType or OpenType font", other))?;
    ADDED.write().unwrap_or_else(PoisonError::into_inner).push(FontArc::new(font));
    Ok(())
}

/// Returns all fonts, in the order in which they are tried.
fn fonts() -> Vec<FontArc> {
    let own = FontArc::try_from_slice(dejavu::sans::regular()).expect("the font that is built in is whole");
    let added = ADDED.read().unwrap_or_else(PoisonError::into_inner);
    [own].into_iter().chain(added.iter().cloned()).collect()
}

/// Returns the characters that no font has, each once.
pub(super) fn missing(text: &str) -> BTreeSet<char> {
    let fonts = fonts();
    text.chars().filter(|&c| !is_blank(c) && font_of(&fonts, c).is_none()).collect()
}

/// Tells characters that leave a gap and no ink.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

/// Returns the first font that can draw a character.
///
/// An added font must have its outline. Fonts of colored emoji have only pictures, which would be gaps. Of DejaVu Sans, the
/// first, all glyphs are right: those without an outline are meant to be invisible.
fn font_of(fonts: &[FontArc], c: char) -> Option<&FontArc> {
    let can_draw = |(i, font): &(usize, &FontArc)| {
        let id = font.glyph_id(c);
        id != GlyphId(0) && (*i == 0 || is_blank(c) || font.outline(id).is_some())
    };
    fonts.iter().enumerate().find(can_draw).map(|(_, font)| font)
}

/// Scales so that `size` is the em, as in CSS and matplotlib; `ab_glyph` scales by the height of a line.
fn scale(font: &FontArc, size: f64) -> PxScale {
    let units_per_em = font.units_per_em().unwrap_or(2048.0);
    PxScale::from(size as f32 * font.height_unscaled() / units_per_em)
}

/// Returns the width of a line of text, in the unit of `size`.
pub(super) fn width(text: &str, size: f64) -> f64 {
    layout(&fonts(), size, text).1.into()
}

/// Draws a line of text from the baseline's left end at (0, 0): `draw(x, y, coverage 0.0-1.0)`, y downward.
pub(super) fn rasterize(text: &str, size: f64, mut draw: impl FnMut(i32, i32, f64)) {
    let fonts = fonts();
    for Glyph { font, id, x } in layout(&fonts, size, text).0 {
        let glyph = id.with_scale_and_position(scale(font, size), point(x, 0.0));
        if let Some(outline) = font.outline_glyph(glyph) {
            let corner = outline.px_bounds().min;
            let (left, top) = (corner.x as i32, corner.y as i32);
            outline.draw(|x, y, coverage| draw(left + x as i32, top + y as i32, coverage.into()));
        }
    }
}

struct Glyph<'f> {
    font: &'f FontArc,
    id: GlyphId,
    x: f32,
}

/// Places glyphs side by side, kerned; also returns the width of all.
fn layout<'f>(fonts: &'f [FontArc], size: f64, text: &str) -> (Vec<Glyph<'f>>, f32) {
    let mut glyphs: Vec<Glyph> = Vec::new();
    let mut x = 0.0;
    for c in text.chars() {
        // A character that no font has is the box of the first; a line break or an unknown space is a space.
        let (font, c) = match font_of(fonts, c) {
            Some(font) => (font, c),
            None => (&fonts[0], if is_blank(c) { ' ' } else { c }),
        };
        let (id, scaled) = (font.glyph_id(c), font.as_scaled(scale(font, size)));
        if let Some(previous) = glyphs.last().filter(|previous| std::ptr::eq(previous.font, font)) {
            x += scaled.kern(previous.id, id);
        }
        glyphs.push(Glyph { font, id, x });
        x += scaled.h_advance(id);
    }
    (glyphs, x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_grow_with_text_and_size() {
        assert_eq!(width("", 10.0), 0.0);
        assert!((width("True", 20.0) - 2.0 * width("True", 10.0)).abs() < 1e-4);
        assert!((width("0", 100.0) - 63.6).abs() < 0.1, "a digit of DejaVu Sans is 0.636 em wide");
    }

    #[test]
    fn ink_stays_within_the_measured_width() {
        let (mut left, mut right) = (f64::MAX, f64::MIN);
        rasterize("Predicted: 7", 40.0, |x, _, coverage| {
            if coverage > 0.0 {
                left = left.min(x.into());
                right = right.max(x.into());
            }
        });
        assert!(left >= 0.0 && right < width("Predicted: 7", 40.0));
    }

    #[test]
    fn characters_that_no_font_has_are_known() {
        let missing = |text| missing(text).into_iter().collect::<String>();
        assert_eq!(missing("True: 7, Größe ≤ µ\n\t"), "");
        assert_eq!(missing("猫 cat 犬 猫"), "犬猫");
    }

    #[test]
    fn line_breaks_and_spaces_of_other_scripts_are_gaps_and_not_boxes() {
        let ink = |text: &str| {
            let mut dots = Vec::new();
            rasterize(text, 40.0, |x, y, coverage| dots.push((x, y, coverage)));
            dots
        };
        for gap in ["\n", "\t", "\r", "\u{3000}"] {
            assert_eq!(ink(&format!("a{gap}b")), ink("a b"), "{gap:?}");
        }
    }

    /// A font that has a character, but not its outline, is like those of colored emoji.
    #[test]
    fn a_font_with_characters_but_no_outlines_does_not_count() {
        let sans = FontArc::try_from_slice(dejavu::sans::regular()).unwrap();
        let invisible = '\u{200d}';
        assert!(sans.glyph_id(invisible) != GlyphId(0) && sans.outline(sans.glyph_id(invisible)).is_none());
        let mono = FontArc::try_from_slice(dejavu::sans_mono::regular()).unwrap();
        assert_eq!(mono.glyph_id(invisible), GlyphId(0));
        assert!(font_of(&[mono.clone(), sans.clone()], invisible).is_none());
        assert!(font_of(&[sans, mono], invisible).is_some());
    }

    /// Another font of the same package: it is tried after DejaVu Sans, so nothing else changes.
    #[test]
    fn a_font_is_added_from_its_file_and_other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("font.ttf");
        fs::write(&path, dejavu::sans_mono::regular()).unwrap();
        let (before, count) = (width("Predicted: 7", 40.0), fonts().len());
        add_font(&path).unwrap();
        assert_eq!(fonts().len(), count + 1);
        assert_eq!(width("Predicted: 7", 40.0), before);

        // Of two fonts the one that has the character draws it.
        let sans = FontArc::try_from_slice(dejavu::sans::regular()).unwrap();
        let mono = FontArc::try_from_slice(dejavu::sans_mono::regular()).unwrap();
        let only_in_sans = ('\u{100}'..'\u{3000}')
            .find(|&c| sans.glyph_id(c) != GlyphId(0) && mono.glyph_id(c) == GlyphId(0))
            .unwrap()
            .to_string();
        let (glyphs, _) = layout(std::slice::from_ref(&mono), 20.0, &only_in_sans);
        assert_eq!(glyphs[0].id, GlyphId(0));
        let both = [mono, sans];
        let (glyphs, width) = layout(&both, 20.0, &only_in_sans);
        assert!(std::ptr::eq(glyphs[0].font, &both[1]) && glyphs[0].id != GlyphId(0) && width > 0.0);

        add_font_bytes(dejavu::sans_mono::regular()).unwrap();
        assert_eq!(fonts().len(), count + 2);

        fs::write(&path, "<html>").unwrap();
        let message = add_font(&path).unwrap_err().to_string();
        assert!(
            message.ends_with("font.ttf: expected a TrueType or OpenType font, found another kind of file"),
            "{message}"
        );
        let message = add_font(folder.path().join("none.ttf")).unwrap_err().to_string();
        assert!(message.contains("none.ttf: cannot read: "), "{message}");
    }
}
