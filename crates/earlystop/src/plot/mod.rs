//! Figures of training runs and networks, as PNG.
//!
//! Figures have two pixels for each CSS pixel: they are sharp on a high-density screen, and shown at their size. They
//! are combined by [`Figure::beside`], [`Figure::stack`] and [`Figure::titled`].

mod axes;
mod bars;
mod canvas;
mod color_bar;
mod colormap;
mod confusion;
mod curves;
mod encode;
mod figure;
mod filter_grid;
mod flowchart;
mod image_grid;
mod slider;
mod stopping_rules;
mod text;
mod ticks;
mod title;

pub use bars::{Bar, BarRow, bar_panels};
pub use confusion::confusion_matrix;
pub use curves::{Curves, loss_curves, score_curve, training_curve};
pub use figure::Figure;
pub use filter_grid::{filter_grid, filter_grid_within, weight_limit};
pub use flowchart::{FlowKind, FlowLayer, network_flowchart};
pub use image_grid::image_grid;
pub use slider::show_slider;
pub use stopping_rules::stopping_rules;
pub use text::{add_font, add_font_bytes};

/// Gives the columns of the smallest square that holds `n` things, and the rows that are filled.
fn square(n: usize) -> (usize, usize) {
    let columns = (1..=n).find(|side| side * side >= n).unwrap_or(1);
    (columns, n.div_ceil(columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_have_no_empty_rows() {
        assert_eq!([0, 1, 2, 9, 10, 36].map(square), [(1, 0), (1, 1), (2, 1), (3, 3), (4, 3), (6, 6)]);
    }
}
