//! Where a plot of scores over iterations is, what its sides mean, and its grid.

use super::canvas::{Align, Canvas, LABEL_SIZE, MARGIN, Point, Rect, TICK_SIZE};
use super::colormap::{BLACK, FRAME, GRID};
use super::text;
use super::ticks::Ticks;

/// The space that ticks and label need below the x axis.
pub(super) const BELOW: f64 = 10.0 + TICK_SIZE + 10.0 + LABEL_SIZE;

/// What a plot's height means.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Measure {
    /// 0.0 to 1.0, shown in percent.
    Accuracy,
    Loss,
    /// Any other score, by its name in words.
    Score(String),
}

impl Measure {
    /// Gives the value as it is shown.
    pub(super) fn shown(&self, value: f64) -> f64 {
        match self {
            Self::Accuracy => 100.0 * value,
            Self::Loss | Self::Score(_) => value,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Accuracy => "Accuracy",
            Self::Loss => "Loss",
            Self::Score(name) => name,
        }
    }

    fn labels(&self, ticks: &Ticks) -> Vec<String> {
        match self {
            Self::Accuracy => ticks.labels().iter().map(|label| format!("{label}%")).collect(),
            Self::Loss | Self::Score(_) => ticks.labels(),
        }
    }
}

/// The plot's place, and what its sides mean.
pub(super) struct Axes {
    pub(super) plot: Rect,
    measure: Measure,
    /// The last iteration; the first is 0.
    last: f64,
    /// As shown.
    pub(super) low: f64,
    pub(super) high: f64,
    x_ticks: Ticks,
    y_ticks: Ticks,
}

impl Axes {
    /// A plot of a width and a height, of the iterations from 0 to `last` and the values, as shown, from `low` to `high`.
    pub(super) fn new(
        measure: Measure,
        [width, height]: [f64; 2],
        last: u64,
        [low, high]: [f64; 2],
        y_ticks: Ticks,
    ) -> Self {
        let last = last.max(1) as f64;
        let labels = measure.labels(&y_ticks);
        let widest = labels.iter().map(|label| text::width(label, TICK_SIZE)).fold(0.0, f64::max);
        let left = MARGIN + LABEL_SIZE + 10.0 + widest.ceil() + 8.0;
        let plot = Rect::new(left, MARGIN, width, height);
        Self { plot, measure, last, low, high, x_ticks: Ticks::new(0.0, last, 8), y_ticks }
    }

    pub(super) fn x(&self, iteration: u64) -> f64 {
        self.plot.x + iteration as f64 / self.last * self.plot.width
    }

    /// The point of a value.
    pub(super) fn point(&self, iteration: u64, value: f64) -> Point {
        (self.x(iteration), self.y(self.measure.shown(value)))
    }

    fn y(&self, shown: f64) -> f64 {
        self.plot.bottom() - (shown - self.low) / (self.high - self.low) * self.plot.height
    }

    /// Draws grid, ticks and labels. The x axis is at `bottom`: the plot's own lower edge, or further down.
    pub(super) fn draw(&self, canvas: &mut Canvas, bottom: f64) {
        let Rect { x: left, y: top, width, .. } = self.plot;
        for (value, label) in self.y_ticks.values.iter().zip(self.measure.labels(&self.y_ticks)) {
            let y = self.y(*value);
            canvas.fill(Rect::new(left, y - 0.5, width, 1.0), GRID);
            canvas.text(&label, (left - 8.0, y), Align::Right, TICK_SIZE, BLACK);
        }
        for (value, label) in self.x_ticks.values.iter().zip(self.x_ticks.labels()) {
            let x = left + value / self.last * width;
            canvas.fill(Rect::new(x - 0.5, top, 1.0, bottom - top), GRID);
            canvas.text(&label, (x, bottom + 8.0 + TICK_SIZE / 2.0), Align::Center, TICK_SIZE, BLACK);
        }
        canvas.fill(Rect::new(left - 1.0, top, 1.0, bottom - top + 1.0), FRAME);
        canvas.fill(Rect::new(left - 1.0, bottom, width + 1.0, 1.0), FRAME);
        let (x, y) = self.plot.center();
        canvas.text("Iteration", (x, bottom + BELOW - LABEL_SIZE / 2.0), Align::Center, LABEL_SIZE, BLACK);
        canvas.text_upward(self.measure.name(), (MARGIN + LABEL_SIZE / 2.0, y), LABEL_SIZE, BLACK);
    }
}
