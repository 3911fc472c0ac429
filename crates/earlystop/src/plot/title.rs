//! Titles above figures.

use super::canvas::{Align, Canvas, MARGIN, TITLE_SIZE};
use super::{Figure, colormap, text};

impl Figure {
    /// Puts a title above the figure, which also becomes its alternative text.
    pub fn titled(&self, title: &str) -> Self {
        let (width, height) = self.size();
        let line = 1.8 * TITLE_SIZE;
        let needed = text::width(title, TITLE_SIZE) + 2.0 * MARGIN;
        let mut canvas = Canvas::new(needed.max(width.into()), line + f64::from(height));
        let middle = canvas.width() / 2.0;
        canvas.text(title, (middle, MARGIN / 2.0 + line / 2.0), Align::Center, TITLE_SIZE, colormap::BLACK);
        let head = canvas.finish(title);
        self.below(&head)
    }
}
