//! The bar next to a figure that says which color means which value.

use super::canvas::{Align, Canvas, Rect, TICK_SIZE};
use super::colormap::{BLACK, Color, FRAME};
use super::text;

const BAR: f64 = 14.0;
const TICK: f64 = 4.0;
const GAP: f64 = 4.0;

/// A scale from bottom to top: a color for each position 0.0-1.0, and labelled ticks.
pub(super) struct ColorBar<'a> {
    pub(super) color: &'a dyn Fn(f64) -> Color,
    pub(super) ticks: Vec<(f64, String)>,
}

impl ColorBar<'_> {
    pub(super) fn width(&self) -> f64 {
        let widest = self.ticks.iter().map(|(_, label)| text::width(label, TICK_SIZE)).fold(0.0, f64::max);
        BAR + TICK + GAP + widest
    }

    pub(super) fn draw(&self, canvas: &mut Canvas, (x, y): (f64, f64), height: f64) {
        let bar = Rect::new(x, y, BAR, height);
        let steps = (2.0 * height).round().max(1.0);
        for step in 0..steps as usize {
            let from_top = step as f64 / steps;
            let color = (self.color)(1.0 - (step as f64 + 0.5) / steps);
            canvas.fill(Rect::new(x, y + from_top * height, BAR, height / steps), color);
        }
        canvas.frame(bar, 1.0, FRAME);
        for (position, label) in &self.ticks {
            let y = bar.bottom() - position * height;
            canvas.fill(Rect::new(bar.right() + 1.0, y - 0.5, TICK, 1.0), FRAME);
            canvas.text(label, (bar.right() + TICK + GAP, y), Align::Left, TICK_SIZE, BLACK);
        }
    }
}
