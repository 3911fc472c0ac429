//! What figures are drawn on: shapes and text in CSS pixels with smooth edges, rendered to pixels.

use super::colormap::Color;
use super::encode::PIXEL_RATIO;
use super::{Figure, text};
use ndarray::ArrayView2;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Polygon, Rectangle};
use plotters::style::{Color as _, RGBColor, ShapeStyle};
use plotters_bitmap::BitMapBackend;
use std::collections::BTreeSet;

/// Font sizes and white edge of all figures, in CSS pixels.
pub(super) const TITLE_SIZE: f64 = 15.0;
pub(super) const LABEL_SIZE: f64 = 13.0;
pub(super) const TICK_SIZE: f64 = 11.0;
pub(super) const MARGIN: f64 = 10.0;

/// Drawn samples along each side of a pixel: their mean makes edges smooth.
const SAMPLES: u32 = 2;
const SCALE: f64 = (SAMPLES * PIXEL_RATIO) as f64;

/// Where text stands relative to its point.
#[derive(Debug, Clone, Copy)]
pub(super) enum Align {
    Left,
    Center,
    Right,
}

/// A rectangle, in CSS pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Rect {
    pub(super) fn new(x: f64, y: f64, width: f64, height: f64) -> Self {
        Self { x, y, width, height }
    }

    pub(super) fn right(&self) -> f64 {
        self.x + self.width
    }

    pub(super) fn bottom(&self) -> f64 {
        self.y + self.height
    }

    pub(super) fn center(&self) -> (f64, f64) {
        (self.x + self.width / 2.0, self.y + self.height / 2.0)
    }

    fn grown(&self, by: f64) -> Self {
        Self::new(self.x - by, self.y - by, self.width + 2.0 * by, self.height + 2.0 * by)
    }
}

pub(super) type Point = (f64, f64);

/// A white sheet, drawn on in CSS pixels.
pub(super) struct Canvas {
    /// CSS pixels.
    width: u32,
    height: u32,
    samples: Vec<u8>,
    /// The characters that no font has.
    missing: BTreeSet<char>,
}

impl Canvas {
    pub(super) fn new(width: f64, height: f64) -> Self {
        let (width, height) = (width.ceil().max(1.0) as u32, height.ceil().max(1.0) as u32);
        let per_pixel = (SAMPLES * PIXEL_RATIO) as usize;
        let samples = vec![255; 3 * per_pixel * per_pixel * width as usize * height as usize];
        Self { width, height, samples, missing: BTreeSet::new() }
    }

    pub(super) fn width(&self) -> f64 {
        self.width.into()
    }

    /// Fills a rectangle.
    pub(super) fn fill(&mut self, rect: Rect, color: Color) {
        let corners = [sample((rect.x, rect.y)), sample((rect.right(), rect.bottom()))];
        self.area().draw(&Rectangle::new(corners, filled(color))).ok();
    }

    /// Frames a rectangle, the line lying outside it.
    pub(super) fn frame(&mut self, rect: Rect, line: f64, color: Color) {
        let Rect { x, y, width, height } = rect.grown(line);
        self.fill(Rect::new(x, y, width, line), color);
        self.fill(Rect::new(x, rect.bottom(), width, line), color);
        self.fill(Rect::new(x, y, line, height), color);
        self.fill(Rect::new(rect.right(), y, line, height), color);
    }

    /// Fills a polygon.
    pub(super) fn polygon(&mut self, points: &[Point], color: Color) {
        let points: Vec<_> = points.iter().copied().map(sample).collect();
        self.area().draw(&Polygon::new(points, filled(color))).ok();
    }

    /// Fills a circle.
    pub(super) fn disc(&mut self, center: Point, radius: f64, color: Color) {
        // The backend's circles are one sample wider than twice their radius.
        let radius = (radius * SCALE - 0.5).max(0.0) as u32;
        self.area().draw(&Circle::new(sample(center), radius, filled(color))).ok();
    }

    /// Draws a line through points, its joints round.
    pub(super) fn line(&mut self, points: &[Point], width: f64, color: Color) {
        let pen = ShapeStyle { stroke_width: (width * SCALE).round() as u32, ..filled(color) };
        for ends in points.windows(2) {
            let ends = [sample(ends[0]), sample(ends[1])];
            self.area().draw(&PathElement::new(ends, pen)).ok();
        }
        for &joint in points.iter().skip(1).rev().skip(1) {
            self.disc(joint, width / 2.0, color);
        }
    }

    /// Draws an arrow to the right.
    pub(super) fn arrow(&mut self, (x, y): Point, length: f64, color: Color) {
        let head = length.min(9.0);
        self.fill(Rect::new(x, y - 0.75, length - head, 1.5), color);
        self.polygon(&[(x + length - head, y - 4.5), (x + length, y), (x + length - head, y + 4.5)], color);
    }

    /// Draws an image, `zoom` CSS pixels for each of its pixels, `[height, width]`, with its upper left corner at a
    /// point.
    pub(super) fn image(&mut self, (x, y): Point, zoom: f64, colors: ArrayView2<Color>) {
        for ((i, j), &color) in colors.indexed_iter() {
            self.fill(Rect::new(x + j as f64 * zoom, y + i as f64 * zoom, zoom, zoom), color);
        }
    }

    /// Writes a line of text, the middle of its capital letters at the height of the point.
    pub(super) fn text(&mut self, text: &str, at: Point, align: Align, size: f64, color: Color) {
        let (x, y) = start(text, at, align, size);
        self.glyphs(text, size, color, |right, down| (x + right, y + down));
    }

    /// Writes a line of text upward, the middle of its capital letters at the point, as a y axis is labelled.
    pub(super) fn text_upward(&mut self, text: &str, at: Point, size: f64, color: Color) {
        let (along, across) = start(text, (-at.1, at.0), Align::Center, size);
        self.glyphs(text, size, color, |right, down| (across + down, -along - right));
    }

    fn glyphs(&mut self, text: &str, size: f64, color: Color, place: impl Fn(i32, i32) -> (i32, i32)) {
        self.missing.extend(text::missing(text));
        let color = rgb(color);
        let area = self.area();
        text::rasterize(text, size * SCALE, |right, down, alpha| {
            area.draw_pixel(place(right, down), &color.mix(alpha)).ok();
        });
    }

    /// The sheet as plotters draws on it. Drawing into memory cannot fail; what is outside is left out.
    fn area(&mut self) -> DrawingArea<BitMapBackend<'_>, Shift> {
        let scale = SAMPLES * PIXEL_RATIO;
        let size = (self.width * scale, self.height * scale);
        BitMapBackend::with_buffer(&mut self.samples, size).into_drawing_area()
    }

    /// Averages the samples to pixels. `alt` says what the figure shows.
    pub(super) fn finish(self, alt: impl Into<String>) -> Figure {
        let (width, height) = (self.width * PIXEL_RATIO, self.height * PIXEL_RATIO);
        let (side, row_bytes) = (SAMPLES as usize, 3 * (SAMPLES * width) as usize);
        let mut rgb = Vec::with_capacity(3 * width as usize * height as usize);
        for rows in self.samples.chunks_exact(side * row_bytes) {
            for x in 0..width as usize {
                for channel in 0..3 {
                    let value = |row: usize, column: usize| {
                        u32::from(rows[row * row_bytes + 3 * (side * x + column) + channel])
                    };
                    let sum: u32 = (0..side).flat_map(|row| (0..side).map(move |column| value(row, column))).sum();
                    rgb.push(((sum + SAMPLES * SAMPLES / 2) / (SAMPLES * SAMPLES)) as u8);
                }
            }
        }
        Figure::new(width, height, rgb, alt.into(), self.missing)
    }
}

/// Gives the left end of a text's baseline, in samples.
fn start(text: &str, (x, y): Point, align: Align, size: f64) -> (i32, i32) {
    const CAP_HEIGHT: f64 = 0.729; // of DejaVu Sans, in em
    let left = match align {
        Align::Left => 0.0,
        Align::Center => text::width(text, size) / 2.0,
        Align::Right => text::width(text, size),
    };
    sample((x - left, y + CAP_HEIGHT * size / 2.0))
}

fn sample((x, y): Point) -> (i32, i32) {
    ((x * SCALE).round() as i32, (y * SCALE).round() as i32)
}

fn rgb([red, green, blue]: Color) -> RGBColor {
    RGBColor(red, green, blue)
}

fn filled(color: Color) -> ShapeStyle {
    rgb(color).filled()
}
