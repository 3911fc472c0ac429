//! An element between two arrows of a flowchart.

use crate::plot::canvas::{Align, Canvas, LABEL_SIZE, Rect, TICK_SIZE};
use crate::plot::colormap::{BLACK, Color, FRAME, MUTED, WHITE, blues, ink, text_on};
use crate::plot::filter_grid::{draw_filters, weight_limit};
use crate::plot::{square, text};
use ndarray::{Array2, ArrayD, ArrayView2, ArrayView3, ArrayView4, Axis};

pub(super) const TEXT_LINE: f64 = 17.0;
/// Filters or channels that are drawn at most.
pub(super) const MOST_IN_GRID: usize = 36;
/// Features or classes that are all drawn; of more, some at either end.
const MOST_IN_COLUMN: usize = 12;
const AT_EITHER_END: usize = 5;

const IMAGE_SIDE: f64 = 84.0;
const FILTERS_SIDE: f64 = 112.0;
const CHANNELS_SIDE: f64 = 132.0;
const FILTER_GAP: f64 = 4.0;
const PADDING: f64 = 9.0;
const ROW: f64 = 22.0;

/// A body with its words, and the arrow that leads to it.
pub(super) struct Part<'a> {
    pub(super) title: String,
    pub(super) notes: Vec<String>,
    pub(super) body: Body<'a>,
    pub(super) below: Option<String>,
    /// What stands at the arrow.
    pub(super) arrow: Vec<String>,
}

impl<'a> Part<'a> {
    pub(super) fn new(body: Body<'a>) -> Self {
        Self { title: String::new(), notes: Vec::new(), body, below: None, arrow: Vec::new() }
    }

    pub(super) fn width(&self) -> f64 {
        let small = self.notes.iter().chain(&self.below).map(|note| text::width(note, TICK_SIZE));
        small.fold(text::width(&self.title, LABEL_SIZE), f64::max).max(self.body.size().0).ceil()
    }

    /// Returns the space for what stands at the arrow, 0.0 if nothing does.
    pub(super) fn arrow_names_width(&self) -> f64 {
        self.arrow.iter().map(|name| text::width(name, TICK_SIZE) + 6.0).fold(0.0, f64::max).ceil()
    }

    pub(super) fn height_above(&self) -> f64 {
        TEXT_LINE * (1 + self.notes.len()) as f64 + 4.0
    }

    pub(super) fn height_below(&self) -> f64 {
        if self.below.is_some() { TEXT_LINE + 3.0 } else { 0.0 }
    }

    /// Gives how far below the middle the arrow ends.
    pub(super) fn arrow_offset(&self) -> f64 {
        match &self.body {
            Body::Classes { rows, predicted: Some(predicted) } => {
                let row = rows.iter().position(|row| *row == Some(*predicted)).unwrap_or(0);
                (row as f64 + 0.5 - rows.len() as f64 / 2.0) * ROW
            }
            _ => 0.0,
        }
    }
}

pub(super) enum Body<'a> {
    Image { colors: Array2<Color>, zoom: f64 },
    Filters { filters: ArrayView4<'a, f32>, channels_in: usize },
    Channels { images: Vec<Array2<Color>>, zoom: f64, dim: (usize, usize) },
    Cells { rows: Vec<Option<(Color, String)>>, width: f64 },
    Classes { rows: Vec<Option<usize>>, predicted: Option<usize> },
}

impl<'a> Body<'a> {
    pub(super) fn image(image: ArrayView2<u8>) -> Self {
        let (height, width) = image.dim();
        let zoom = whole(IMAGE_SIDE / height.max(width) as f64);
        Self::Image { colors: image.mapv(|pixel| ink(f32::from(pixel) / 255.0)), zoom }
    }

    /// `activations` is `[height, width, len]`; without, the channels are empty frames.
    pub(super) fn channels(activations: Option<ArrayView3<f32>>, dim: (usize, usize), len: usize) -> Self {
        let images = match activations {
            Some(activations) => {
                let most = largest(activations.iter());
                activations.axis_iter(Axis(2)).map(|channel| channel.mapv(|value| ink(value / most))).collect()
            }
            None => vec![Array2::from_elem((1, 1), WHITE); len],
        };
        Self::Channels { images, zoom: whole(CHANNELS_SIDE / (square(len).0 * dim.0.max(dim.1)) as f64), dim }
    }

    pub(super) fn size(&self) -> (f64, f64) {
        match self {
            Self::Image { colors, zoom } => (zoom * colors.ncols() as f64, zoom * colors.nrows() as f64),
            Self::Filters { filters, channels_in } => {
                let (width, height) = filters_size(filters);
                let between = between_filters(*channels_in).map_or(0.0, |note| text::width(&note, TICK_SIZE));
                let grids = (*channels_in).min(2) as f64;
                let gap = if *channels_in > 1 { TEXT_LINE + 6.0 } else { 0.0 };
                (width.max(between).ceil() + 2.0 * PADDING, grids * height + gap + 2.0 * PADDING)
            }
            Self::Channels { images, zoom, dim } => {
                let ((columns, rows), gap) = (square(images.len()), channel_gap(*zoom, *dim));
                let side = |n: usize, size: usize| n as f64 * (zoom * size as f64 + gap) - gap;
                (side(columns, dim.1), side(rows, dim.0))
            }
            Self::Cells { rows, width } => (*width, ROW * rows.len() as f64),
            Self::Classes { rows, .. } => {
                let widest = rows.iter().map(|row| text::width(&row_text(*row), LABEL_SIZE)).fold(0.0, f64::max);
                (widest.ceil() + 14.0, ROW * rows.len() as f64)
            }
        }
    }

    pub(super) fn draw(&self, canvas: &mut Canvas, (left, top): (f64, f64)) {
        let (width, height) = self.size();
        match self {
            Self::Image { colors, zoom } => {
                canvas.image((left, top), *zoom, colors.view());
                canvas.frame(Rect::new(left, top, width, height), 1.0, FRAME);
            }
            Self::Filters { filters, channels_in } => {
                let (grid_width, grid_height) = filters_size(filters);
                let x = left + ((width - grid_width) / 2.0).round();
                let (limit, zoom) = (weight_limit(filters), filter_zoom(filters));
                let mut y = top + PADDING;
                for channel in 0..(*channels_in).min(2) {
                    draw_filters(canvas, (x, y), filters.view(), channel, limit, zoom, FILTER_GAP);
                    y += grid_height + TEXT_LINE + 6.0;
                }
                if let Some(note) = between_filters(*channels_in) {
                    canvas.text(&note, (left + width / 2.0, top + height / 2.0), Align::Center, TICK_SIZE, MUTED);
                }
                canvas.frame(Rect::new(left, top, width, height), 1.0, FRAME);
            }
            Self::Channels { images, zoom, dim } => {
                let (width, height, gap) = (zoom * dim.1 as f64, zoom * dim.0 as f64, channel_gap(*zoom, *dim));
                let (columns, _) = square(images.len());
                for (i, image) in images.iter().enumerate() {
                    let x = left + (i % columns) as f64 * (width + gap);
                    let y = top + (i / columns) as f64 * (height + gap);
                    canvas.image((x, y), *zoom, image.view());
                    canvas.frame(Rect::new(x, y, width, height), 0.5, FRAME);
                }
            }
            Self::Cells { rows, .. } => {
                for (i, row) in rows.iter().enumerate() {
                    let cell = Rect::new(left, top + i as f64 * ROW, width, ROW);
                    match row {
                        Some((color, text)) => {
                            canvas.fill(cell, *color);
                            canvas.frame(Rect { height: ROW - 1.0, ..cell }, 1.0, FRAME);
                            canvas.text(text, cell.center(), Align::Center, TICK_SIZE, text_on(*color));
                        }
                        None => canvas.text("⋮", cell.center(), Align::Center, LABEL_SIZE, BLACK),
                    }
                }
            }
            Self::Classes { rows, predicted } => {
                for (i, row) in rows.iter().enumerate() {
                    let center = (left + width / 2.0, top + (i as f64 + 0.5) * ROW);
                    if row.is_some() && row == predicted {
                        canvas.disc(center, ROW / 2.0 + 1.0, BLACK);
                        canvas.disc(center, ROW / 2.0 - 0.5, WHITE);
                    }
                    canvas.text(&row_text(*row), center, Align::Center, LABEL_SIZE, BLACK);
                }
            }
        }
    }
}

/// Makes the features of a fully-connected layer.
pub(super) fn features<'a>(len: usize, activations: Option<&ArrayD<f32>>) -> Part<'a> {
    let most = activations.map_or(1.0, |activations| largest(activations.iter()));
    let shade = |i: usize| activations.map_or(WHITE, |activations| ink(0.8 * activations[[i]] / most));
    let rows = listed(len, None).into_iter().map(|row| row.map(|i| (shade(i), String::new()))).collect();
    Part::new(Body::Cells { rows, width: ROW })
}

/// Makes the last layer's outputs and the list of classes.
pub(super) fn classes<'a>(len: usize, probabilities: Option<&ArrayD<f32>>) -> (Part<'a>, Part<'a>) {
    let predicted = probabilities.and_then(|values| {
        (0..len).filter(|i| values[[*i]].is_finite()).max_by(|i, j| values[[*i]].total_cmp(&values[[*j]]))
    });
    let rows = listed(len, predicted);
    let cell = |i: usize| match probabilities {
        Some(values) => (blues(f64::from(values[[i]])), format!("{:.2}", values[[i]])),
        None => (WHITE, String::new()),
    };
    let outputs = Body::Cells { rows: rows.iter().map(|row| row.map(cell)).collect(), width: 40.0 };
    (Part::new(outputs), Part::new(Body::Classes { rows, predicted }))
}

/// Lists the numbers below `len`; of many only some at either end, and `included`. `None` stands for those left out.
fn listed(len: usize, included: Option<usize>) -> Vec<Option<usize>> {
    if len <= MOST_IN_COLUMN {
        return (0..len).map(Some).collect();
    }
    let mut rows: Vec<_> = (0..AT_EITHER_END).map(Some).collect();
    rows.push(None);
    if let Some(included) = included.filter(|i| (AT_EITHER_END..len - AT_EITHER_END).contains(i)) {
        rows.extend([Some(included), None]);
    }
    rows.extend((len - AT_EITHER_END..len).map(Some));
    rows
}

fn row_text(row: Option<usize>) -> String {
    row.map_or("⋮".into(), |class| class.to_string())
}

fn between_filters(channels_in: usize) -> Option<String> {
    (channels_in > 2).then(|| format!("{channels_in} of these …"))
}

fn filters_size(filters: &ArrayView4<f32>) -> (f64, f64) {
    let (height, width, _, len) = filters.dim();
    let (zoom, (columns, rows)) = (filter_zoom(filters), square(len));
    let side = |n: usize, size: usize| n as f64 * (zoom * size as f64 + FILTER_GAP) - FILTER_GAP;
    (side(columns, width), side(rows, height))
}

fn filter_zoom(filters: &ArrayView4<f32>) -> f64 {
    let (height, width, _, len) = filters.dim();
    whole(FILTERS_SIDE / (square(len).0 * height.max(width)) as f64)
}

fn channel_gap(zoom: f64, (height, width): (usize, usize)) -> f64 {
    (zoom * height.max(width) as f64 / 4.0).round().clamp(3.0, 8.0)
}

/// Rounds to whole CSS pixels, where there is at least one, and to no more than 20.
fn whole(zoom: f64) -> f64 {
    if zoom > 1.0 { zoom.floor().min(20.0) } else { zoom }
}

/// Gives the largest finite value above zero, or 1.0.
fn largest<'a>(values: impl Iterator<Item = &'a f32>) -> f32 {
    let most = values.copied().filter(|value| value.is_finite()).fold(0.0, f32::max);
    if most > 0.0 { most } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_rows_the_first_the_last_and_the_included_are_listed() {
        assert_eq!(listed(12, Some(7)).len(), 12);
        let rows: Vec<_> = listed(100, Some(42)).into_iter().map(row_text).collect();
        assert_eq!(rows.join(" "), "0 1 2 3 4 ⋮ 42 ⋮ 95 96 97 98 99");
        let rows: Vec<_> = listed(100, Some(99)).into_iter().map(row_text).collect();
        assert_eq!(rows.join(" "), "0 1 2 3 4 ⋮ 95 96 97 98 99");
    }

    #[test]
    fn the_arrow_ends_at_the_predicted_class() {
        let probabilities =
            ArrayD::from_shape_vec(vec![10], (0..10).map(|i| if i == 7 { 0.9 } else { 0.01 }).collect());
        let (_, classes) = classes(10, Some(&probabilities.unwrap()));
        // Rows 0 to 4 are above the middle, row 7 is the third below it.
        assert_eq!(classes.arrow_offset(), 2.5 * ROW);
    }
}
