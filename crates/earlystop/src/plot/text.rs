//! Text in DejaVu Sans, matplotlib's font.

use ab_glyph::{Font, FontRef, GlyphId, PxScale, ScaleFont, point};

fn font() -> FontRef<'static> {
    FontRef::try_from_slice(dejavu::sans::regular()).expect("the font that is built in is whole")
}

/// Scales so that `size` is the em, as in CSS and matplotlib; `ab_glyph` scales by the height of a line.
fn scale(font: &FontRef, size: f64) -> PxScale {
    let units_per_em = font.units_per_em().unwrap_or(2048.0);
    PxScale::from(size as f32 * font.height_unscaled() / units_per_em)
}

/// Gives the width of a line of text, in the unit of `size`.
pub(super) fn width(text: &str, size: f64) -> f64 {
    let font = font();
    let (_, width) = layout(&font, scale(&font, size), text);
    width.into()
}

/// Draws a line of text from the baseline's left end at (0, 0): `draw(x, y, coverage 0.0-1.0)`, y downward.
pub(super) fn rasterize(text: &str, size: f64, mut draw: impl FnMut(i32, i32, f64)) {
    let font = font();
    let scale = scale(&font, size);
    for (id, x) in layout(&font, scale, text).0 {
        if let Some(outline) = font.outline_glyph(id.with_scale_and_position(scale, point(x, 0.0))) {
            let corner = outline.px_bounds().min;
            let (left, top) = (corner.x as i32, corner.y as i32);
            outline.draw(|x, y, coverage| draw(left + x as i32, top + y as i32, coverage.into()));
        }
    }
}

/// Places glyphs side by side, kerned; also gives the width of all.
fn layout(font: &FontRef, scale: PxScale, text: &str) -> (Vec<(GlyphId, f32)>, f32) {
    let font = font.as_scaled(scale);
    let mut glyphs: Vec<(GlyphId, f32)> = Vec::new();
    let mut x = 0.0;
    for id in text.chars().map(|c| font.glyph_id(c)) {
        if let Some(&(previous, _)) = glyphs.last() {
            x += font.kern(previous, id);
        }
        glyphs.push((id, x));
        x += font.h_advance(id);
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
}
