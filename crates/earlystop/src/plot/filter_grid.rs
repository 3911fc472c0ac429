//! The filters of a convolutional layer.

use super::canvas::{Canvas, MARGIN, Rect};
use super::color_bar::ColorBar;
use super::colormap::{FRAME, blue_white_red};
use super::ticks::Ticks;
use super::{Figure, square};
use crate::{Error, Result};
use ndarray::{ArrayBase, ArrayView4, Axis, Data, Ix4};

/// Width and height that the filters fill, about, in CSS pixels.
const GRID_SIDE: f64 = 330.0;

/// Draws a convolutional layer's filters for one input channel in a square grid.
///
/// `weights` is `[height, width, channels_in, channels_out]`. One color scale holds for all: white is zero, red
/// positive, blue negative, and the deepest color is the layer's largest weight by magnitude. Weights that are not
/// finite are yellow.
///
/// # Errors
///
/// If there is no such input channel, or nothing to draw.
///
/// ```
/// let weights = ndarray::Array4::<f32>::zeros((5, 5, 1, 16));
/// earlystop::plot::filter_grid(&weights, 0)?;
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn filter_grid(weights: &ArrayBase<impl Data<Elem = f32>, Ix4>, input_channel: usize) -> Result<Figure> {
    filter_grid_within(weights, input_channel, weight_limit(weights))
}

/// Draws filters as [`filter_grid`] does, on the color scale from `-limit` to `limit`, so that figures can be compared.
///
/// # Errors
///
/// Those of [`filter_grid`], or if `limit` is not a positive number.
///
/// ```
/// # let (before, after) = (ndarray::Array4::<f32>::zeros((5, 5, 1, 16)), ndarray::Array4::<f32>::ones((5, 5, 1, 16)));
/// use earlystop::plot::{Figure, filter_grid_within, weight_limit};
///
/// let limit = weight_limit(&before).max(weight_limit(&after));
/// let before = filter_grid_within(&before, 0, limit)?.titled("Before");
/// let after = filter_grid_within(&after, 0, limit)?.titled("After");
/// let comparison = Figure::beside(&[before, after]);
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn filter_grid_within(
    weights: &ArrayBase<impl Data<Elem = f32>, Ix4>,
    input_channel: usize,
    limit: f32,
) -> Result<Figure> {
    let (height, width, channels_in, channels_out) = weights.dim();
    if weights.is_empty() {
        let expected = "[height, width, channels_in, channels_out], none of them 0";
        return Err(Error::data("weights", expected, format!("{:?}", weights.shape())));
    }
    if input_channel >= channels_in {
        return Err(Error::setting("input channel", format!("a number below {channels_in}"), input_channel));
    }
    if !(limit > 0.0 && limit.is_finite()) {
        return Err(Error::setting("limit of the color scale", "a positive number", limit));
    }

    let (columns, rows) = square(channels_out);
    let zoom = (GRID_SIDE / (columns * height.max(width)) as f64).floor().clamp(1.0, 24.0);
    let gap = (zoom * height.max(width) as f64 / 6.0).round().clamp(3.0, 14.0);
    let (step_x, step_y) = (zoom * width as f64 + gap, zoom * height as f64 + gap);
    let (grid_width, grid_height) = (columns as f64 * step_x - gap, rows as f64 * step_y - gap);

    let ticks = Ticks::new((-limit).into(), limit.into(), 7);
    let position = |value: &f64| (value / f64::from(limit) + 1.0) / 2.0;
    let bar = ColorBar {
        color: &|position| blue_white_red(2.0 * position as f32 - 1.0),
        ticks: ticks.values.iter().map(position).zip(ticks.labels()).collect(),
    };
    let bar_gap = 20.0;
    let mut canvas = Canvas::new(2.0 * MARGIN + grid_width + bar_gap + bar.width(), 2.0 * MARGIN + grid_height);
    draw_filters(&mut canvas, (MARGIN, MARGIN), weights.view(), input_channel, limit, zoom, gap);
    bar.draw(&mut canvas, (MARGIN + grid_width + bar_gap, MARGIN), grid_height);
    Ok(canvas.finish(format!("{channels_out} filters of {height} x {width} pixels, input channel {input_channel}")))
}

/// Draws the filters for one input channel, without checks.
pub(super) fn draw_filters(
    canvas: &mut Canvas,
    (left, top): (f64, f64),
    weights: ArrayView4<f32>,
    input_channel: usize,
    limit: f32,
    zoom: f64,
    gap: f64,
) {
    let (height, width, _, channels_out) = weights.dim();
    let (columns, _) = square(channels_out);
    let (width, height) = (zoom * width as f64, zoom * height as f64);
    for (i, filter) in weights.index_axis(Axis(2), input_channel).axis_iter(Axis(2)).enumerate() {
        let x = left + (i % columns) as f64 * (width + gap);
        let y = top + (i / columns) as f64 * (height + gap);
        canvas.image((x, y), zoom, filter.mapv(|weight| blue_white_red(weight / limit)).view());
        canvas.frame(Rect::new(x, y, width, height), 0.5, FRAME);
    }
}

/// Gives the largest finite weight by magnitude: the limit of a color scale that is symmetric around zero. 1.0 if all
/// are zero.
pub fn weight_limit(weights: &ArrayBase<impl Data<Elem = f32>, Ix4>) -> f32 {
    let limit = weights.iter().map(|weight| weight.abs()).filter(|weight| weight.is_finite()).fold(0.0, f32::max);
    if limit > 0.0 { limit } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::colormap::{NOT_A_VALUE, WHITE};
    use crate::plot::figure::tests::{assert_margins_are_white, pixel};
    use ndarray::Array4;

    /// The color of weight [i, j] of the first filter, in a grid of 16 filters of 5 x 5.
    fn weight_color(figure: &Figure, i: u32, j: u32) -> [u8; 3] {
        let (start, step) = (2 * MARGIN as u32, 2 * 16);
        pixel(figure, start + j * step + step / 2, start + i * step + step / 2)
    }

    #[test]
    fn zero_is_white_though_the_weights_are_lopsided() {
        let mut weights = Array4::zeros((5, 5, 1, 16));
        weights[[0, 0, 0, 0]] = 0.9;
        weights[[0, 1, 0, 0]] = -0.1;
        let figure = filter_grid(&weights, 0).unwrap();
        assert_eq!(weight_color(&figure, 0, 0), blue_white_red(1.0));
        assert_eq!(weight_color(&figure, 0, 1), blue_white_red(-0.1 / 0.9));
        assert_eq!(weight_color(&figure, 4, 4), WHITE);
    }

    #[test]
    fn any_weights_can_be_drawn() {
        for shape in [(5, 5, 1, 16), (3, 7, 2, 5), (1, 1, 1, 1), (5, 5, 1, 200)] {
            assert_margins_are_white(&filter_grid(&Array4::from_elem(shape, -1e-12), 0).unwrap());
        }
        let mut weights = Array4::from_elem((5, 5, 1, 16), f32::INFINITY);
        weights[[2, 1, 0, 0]] = f32::NAN;
        let figure = filter_grid(&weights, 0).unwrap();
        assert_eq!(weight_color(&figure, 2, 1), NOT_A_VALUE);
        assert_eq!(weight_limit(&weights), 1.0);
        filter_grid(&Array4::from_elem((5, 5, 1, 16), f32::MAX), 0).unwrap();
        filter_grid(&Array4::from_elem((5, 5, 1, 16), 1e-45), 0).unwrap();
    }

    #[test]
    fn what_cannot_be_drawn_is_named() {
        let weights = Array4::zeros((5, 5, 2, 16));
        let message = |result: Result<Figure>| result.unwrap_err().to_string();
        let error = message(filter_grid(&weights, 2));
        assert_eq!(error, "input channel: expected a number below 2, found 2");
        let error = message(filter_grid(&Array4::zeros((5, 5, 0, 16)), 0));
        assert_eq!(
            error,
            "weights: expected [height, width, channels_in, channels_out], none of them 0, found [5, 5, 0, 16]"
        );
        let error = message(filter_grid_within(&weights, 0, f32::NAN));
        assert_eq!(error, "limit of the color scale: expected a positive number, found NaN");
    }
}
