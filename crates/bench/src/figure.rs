//! The figure: bars for the milliseconds per iteration and per validation, in the style of the library's own figures.

use ab_glyph::{Font, FontRef, GlyphId, PxScale, ScaleFont, point};
use png::{BitDepth, ColorType, Compression, Encoder, PixelDimensions, Unit};

use crate::contestant::YARDSTICK;
use crate::race::{Standing, Times};
use crate::statistics::{Spread, median as median_of, ratios};

type Color = [u8; 3];

const BLACK: Color = [0, 0, 0];
const FRAME: Color = [70, 70, 70];
const MUTED: Color = [105, 105, 105];
/// This library's bars, and the others': blue and grey, told apart by color-blind eyes.
const OURS: Color = [0, 114, 178];
const OTHERS: Color = [165, 175, 190];

const TITLE_SIZE: f64 = 15.0;
const LABEL_SIZE: f64 = 13.0;
const MARGIN: f64 = 14.0;
/// The height of a bar, and from one bar to the next.
const BAR: f64 = 19.0;
const ROW: f64 = 30.0;
/// The length of the longest bar, and the room for what is written behind it.
const LONGEST: f64 = 210.0;
const BEHIND: f64 = 92.0;
/// From one panel to the next.
const GAP: f64 = 24.0;

/// Draws both panels as a PNG.
pub(crate) fn draw(standings: &[Standing]) -> Vec<u8> {
    let labels = standings.iter().map(|standing| width(standing.contestant.title, LABEL_SIZE)).fold(0.0, f64::max);
    let left = MARGIN + labels + 10.0;
    let top = MARGIN + TITLE_SIZE + 16.0;
    let panel = LONGEST + BEHIND;
    let mut sheet = Sheet::new(left + 2.0 * panel + GAP + MARGIN, top + ROW * standings.len() as f64 + MARGIN);
    for (row, standing) in standings.iter().enumerate() {
        let y = top + (row as f64 + 0.5) * ROW;
        sheet.text(standing.contestant.title, left - 10.0, y, Align::Right, LABEL_SIZE, BLACK);
    }
    let panels: [(&str, Times); 2] = [
        ("Milliseconds per iteration", |standing| &standing.iteration),
        ("Milliseconds per validation", |standing| &standing.validation),
    ];
    for (index, (title, values)) in panels.into_iter().enumerate() {
        let x = left + index as f64 * (panel + GAP);
        sheet.text(title, x, MARGIN + TITLE_SIZE / 2.0, Align::Left, TITLE_SIZE, BLACK);
        bars(&mut sheet, (x, top), standings, values);
    }
    sheet.png()
}

fn bars(sheet: &mut Sheet, (x, top): (f64, f64), standings: &[Standing], values: Times) {
    let spread = |standing: &Standing| Spread::quartiles(values(standing));
    let yardstick = standings.iter().find(|standing| standing.contestant.id == YARDSTICK);
    let longest = standings.iter().map(|standing| spread(standing).high).fold(f64::MIN_POSITIVE, f64::max);
    let length = |seconds: f64| seconds / longest * LONGEST;
    for (row, standing) in standings.iter().enumerate() {
        let y = top + (row as f64 + 0.5) * ROW;
        let Spread { median, low, high } = spread(standing);
        let color = if standing.contestant.is_ours { OURS } else { OTHERS };
        sheet.fill(x, y - BAR / 2.0, length(median), BAR, color);
        // The quartiles.
        sheet.fill(x + length(low), y - 0.75, length(high - low), 1.5, FRAME);
        let text = format!("{:.*}", usize::from(median < 0.1), 1e3 * median);
        let behind = x + length(high) + 7.0;
        sheet.text(&text, behind, y, Align::Left, LABEL_SIZE, BLACK);
        if let Some(yardstick) = yardstick.filter(|_| standing.contestant.id != YARDSTICK) {
            let ratio = format!("{:.1}×", median_of(&ratios(values(yardstick), values(standing))));
            sheet.text(&ratio, behind + width(&text, LABEL_SIZE) + 9.0, y, Align::Left, LABEL_SIZE, MUTED);
        }
    }
    sheet.fill(x - 1.0, top, 1.0, ROW * standings.len() as f64, FRAME);
}

#[derive(Debug, Clone, Copy)]
enum Align {
    Left,
    Right,
}

/// Pixels that stand side by side in one CSS pixel, and samples along each side of a pixel: their mean makes edges smooth.
const PIXEL_RATIO: usize = 2;
const SAMPLES: usize = 2;
const SCALE: f64 = (PIXEL_RATIO * SAMPLES) as f64;

/// A white sheet, drawn on in CSS pixels.
struct Sheet {
    /// Pixels.
    width: usize,
    height: usize,
    samples: Vec<Color>,
}

impl Sheet {
    fn new(width: f64, height: f64) -> Self {
        let [width, height] = [width, height].map(|side| side.ceil() as usize * PIXEL_RATIO);
        Self { width, height, samples: vec![[255; 3]; width * height * SAMPLES * SAMPLES] }
    }

    /// Fills a rectangle.
    fn fill(&mut self, x: f64, y: f64, width: f64, height: f64, color: Color) {
        let [left, right, top, bottom] = [x, x + width, y, y + height].map(|side| (side * SCALE).round() as i32);
        for y in top..bottom {
            for x in left..right {
                self.mix(x, y, 1.0, color);
            }
        }
    }

    /// Writes a line of DejaVu Sans, the middle of its capital letters at the height of the point.
    fn text(&mut self, text: &str, x: f64, y: f64, align: Align, size: f64, color: Color) {
        const CAP_HEIGHT: f64 = 0.729; // in em
        let x = match align {
            Align::Left => x,
            Align::Right => x - width(text, size),
        };
        let origin = point((x * SCALE).round() as f32, ((y + CAP_HEIGHT * size / 2.0) * SCALE).round() as f32);
        let font = font();
        let scale = em(&font, size * SCALE);
        for (id, right) in layout(&font, scale, text).0 {
            let at = point(origin.x + right, origin.y);
            if let Some(outline) = font.outline_glyph(id.with_scale_and_position(scale, at)) {
                let corner = outline.px_bounds().min;
                outline.draw(|x, y, coverage| {
                    self.mix(corner.x as i32 + x as i32, corner.y as i32 + y as i32, coverage, color);
                });
            }
        }
    }

    /// Covers a part of a sample with a color; what lies outside is left out.
    fn mix(&mut self, x: i32, y: i32, coverage: f32, color: Color) {
        let (width, height) = (self.width * SAMPLES, self.height * SAMPLES);
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        if x < width && y < height {
            let sample = &mut self.samples[y * width + x];
            for (below, above) in sample.iter_mut().zip(color) {
                *below = (f32::from(*below) + coverage.min(1.0) * (f32::from(above) - f32::from(*below))).round() as u8;
            }
        }
    }

    /// Averages the samples and encodes them, with the physical size of 192 dots per inch.
    fn png(&self) -> Vec<u8> {
        let mut pixels = Vec::with_capacity(3 * self.width * self.height);
        for (y, x) in (0..self.height).flat_map(|y| (0..self.width).map(move |x| (y, x))) {
            let sample =
                |i: usize| self.samples[(y * SAMPLES + i / SAMPLES) * self.width * SAMPLES + x * SAMPLES + i % SAMPLES];
            let count = SAMPLES * SAMPLES;
            pixels.extend([0, 1, 2].map(|channel| {
                ((0..count).map(|i| usize::from(sample(i)[channel])).sum::<usize>() as f64 / count as f64).round() as u8
            }));
        }
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_compression(Compression::High);
        encoder.set_pixel_dims(Some(PixelDimensions { xppu: 7559, yppu: 7559, unit: Unit::Meter }));
        let written = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(&pixels)?;
            writer.finish()
        });
        written.expect("memory takes all that is written, and the sizes agree");
        bytes
    }
}

fn font() -> FontRef<'static> {
    FontRef::try_from_slice(dejavu::sans::regular()).expect("the font that is built in is whole")
}

/// Scales so that `size` is the em; `ab_glyph` scales by the height of a line.
fn em(font: &FontRef, size: f64) -> PxScale {
    PxScale::from(size as f32 * font.height_unscaled() / font.units_per_em().unwrap_or(2048.0))
}

/// Gives the width of a line of text, in the unit of `size`.
fn width(text: &str, size: f64) -> f64 {
    let font = font();
    layout(&font, em(&font, size), text).1.into()
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
