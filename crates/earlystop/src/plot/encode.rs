//! PNG encoding, small and with the figure's physical size stated in it.

use super::colormap::Color;
use png::{BitDepth, ColorType, Compression, Encoder, Filter, PixelDimensions, Unit};
use std::cmp::Reverse;
use std::collections::HashMap;

/// Pixels that stand side by side in one CSS pixel: figures are sharp on high-density screens.
pub(super) const PIXEL_RATIO: u32 = 2;
const DOTS_PER_INCH: u32 = 96 * PIXEL_RATIO;
const MOST_COLORS: usize = 256;

/// Encodes `rgb` `[height, width, 3]` with a palette: half the size of three bytes per pixel.
pub(super) fn png(width: u32, height: u32, rgb: &[u8]) -> Vec<u8> {
    let (palette, indices) = indexed(rgb);
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width, height);
    let dots_per_meter = (f64::from(DOTS_PER_INCH) / 0.0254).round() as u32;
    encoder.set_pixel_dims(Some(PixelDimensions { xppu: dots_per_meter, yppu: dots_per_meter, unit: Unit::Meter }));
    encoder.set_color(ColorType::Indexed);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_palette(palette.concat());
    encoder.set_compression(Compression::High);
    encoder.set_filter(Filter::NoFilter); // neighboring indices are not neighboring colors
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(&indices)?;
        writer.finish()
    });
    written.expect("memory takes all that is written, and the sizes agree");
    bytes
}

/// Splits pixels into a palette and each pixel's index.
///
/// If there are too many colors, those that differ least become one: the commoner of them, so that even areas stay
/// exact.
fn indexed(rgb: &[u8]) -> (Vec<Color>, Vec<u8>) {
    let pixels = || rgb.chunks_exact(3).map(|pixel| [pixel[0], pixel[1], pixel[2]]);
    let mut counts: HashMap<Color, usize> = HashMap::new();
    for color in pixels() {
        *counts.entry(color).or_default() += 1;
    }
    let mut commonest_first: Vec<_> = counts.into_iter().collect();
    commonest_first.sort_unstable_by_key(|&(color, count)| (Reverse(count), color));
    let colors: Vec<_> = commonest_first.into_iter().map(|(color, _)| color).collect();
    let palette = (0..).find_map(|tolerance| thinned(&colors, tolerance)).unwrap_or_default();
    let nearest = |color| (0..palette.len()).min_by_key(|&i| distance(palette[i], color)).unwrap_or(0) as u8;
    let index: HashMap<_, _> = colors.iter().map(|&color| (color, nearest(color))).collect();
    let indices = pixels().map(|color| index[&color]).collect();
    (palette, indices)
}

/// Leaves out colors that differ from an earlier one by no more than `tolerance`; `None` if still too many are left.
fn thinned(colors: &[Color], tolerance: u32) -> Option<Vec<Color>> {
    let mut palette: Vec<Color> = Vec::new();
    for &color in colors {
        if palette.iter().all(|&kept| distance(kept, color) > tolerance.pow(2)) {
            palette.push(color);
        }
        if palette.len() > MOST_COLORS {
            return None;
        }
    }
    Some(palette)
}

/// The square of the distance between two colors.
fn distance(a: Color, b: Color) -> u32 {
    a.into_iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(b)).pow(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use png::{Decoder, Transformations};
    use std::io::Cursor;

    fn decoded(png: &[u8]) -> (Vec<u8>, PixelDimensions) {
        let mut decoder = Decoder::new(Cursor::new(png));
        decoder.set_transformations(Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        (rgb, reader.info().pixel_dims.unwrap())
    }

    #[test]
    fn pixels_come_back_and_the_physical_size_is_stated() {
        let rgb: Vec<u8> = (0..2 * 3 * 3).map(|i| i * 10).collect();
        let (pixels, dims) = decoded(&png(3, 2, &rgb));
        assert_eq!(pixels, rgb);
        assert_eq!((dims.xppu, dims.yppu, dims.unit), (7559, 7559, Unit::Meter), "192 dots per inch");
    }

    #[test]
    fn of_too_many_colors_the_most_alike_become_the_commoner() {
        let common: Vec<u8> = (0..=255).flat_map(|gray| [gray; 6]).collect();
        let (pixels, _) = decoded(&png(171, 3, &[common.as_slice(), &[100, 101, 100]].concat()));
        assert_eq!(pixels[..common.len()], common);
        assert_eq!(pixels[common.len()..], [100; 3]);
    }
}
