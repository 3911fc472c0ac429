//! Draws a confusion matrix.

use super::Figure;
use super::canvas::{Align, Canvas, LABEL_SIZE, MARGIN, Rect, TICK_SIZE};
use super::color_bar::ColorBar;
use super::colormap::{BLACK, FRAME, blues, text_on};
use super::text;
use super::ticks::{Ticks, number};
use crate::metrics::ConfusionMatrix;
use crate::{Error, Result};

/// More classes than this leave no space for numbers in the cells.
const MOST_WITH_NUMBERS: usize = 20;

/// Draws a confusion matrix: a cell for each true and each predicted class, with its count and a color.
///
/// The color follows the logarithm of the count, so that a few errors next to a thousand hits are seen.
///
/// # Errors
///
/// If the matrix has no classes.
///
/// ```
/// let matrix = earlystop::metrics::confusion_matrix(&[0_u8, 1, 1], &[0_u8, 1, 0], 2)?;
/// earlystop::plot::confusion_matrix(&matrix)?;
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn confusion_matrix(matrix: &ConfusionMatrix) -> Result<Figure> {
    let num_classes = matrix.num_classes();
    if num_classes == 0 {
        return Err(Error::data("confusion matrix", "some classes", "none"));
    }
    let counts = matrix.counts();
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let shade = |count: u64| (count as f64).ln_1p() / (most as f64).ln_1p();

    let has_numbers = num_classes <= MOST_WITH_NUMBERS;
    let number_width = text::width(&most.to_string(), TICK_SIZE);
    let cell = if has_numbers { (number_width + 9.0).ceil().max(32.0) } else { (640 / num_classes).max(2) as f64 };
    let side = cell * num_classes as f64;
    let classes = Ticks::new(0.0, (num_classes - 1) as f64, if has_numbers { num_classes } else { 11 });
    let label_width = classes.labels().iter().map(|label| text::width(label, LABEL_SIZE)).fold(0.0, f64::max).ceil();

    let bar = ColorBar {
        color: &blues,
        ticks: count_ticks(most).map(|count| (shade(count), number(count as f64, 0))).collect(),
    };
    let axis = LABEL_SIZE + 8.0;
    let bar_gap = 18.0;
    let cells = Rect::new(MARGIN + axis + label_width + 8.0, MARGIN, side, side);
    let below = 8.0 + LABEL_SIZE + axis;
    let mut canvas = Canvas::new(cells.right() + bar_gap + bar.width() + MARGIN, cells.bottom() + below + MARGIN);

    let middle = |class: usize| (class as f64 + 0.5) * cell;
    for ((true_class, predicted), &count) in counts.indexed_iter() {
        let color = blues(shade(count));
        canvas
            .fill(Rect::new(cells.x + predicted as f64 * cell, cells.y + true_class as f64 * cell, cell, cell), color);
        if has_numbers && count > 0 {
            let at = (cells.x + middle(predicted), cells.y + middle(true_class));
            canvas.text(&count.to_string(), at, Align::Center, TICK_SIZE, text_on(color));
        }
    }
    canvas.frame(cells, 1.0, FRAME);
    for (class, label) in classes.values.iter().map(|class| *class as usize).zip(classes.labels()) {
        let (x, y) = (cells.x + middle(class), cells.y + middle(class));
        canvas.text(&label, (x, cells.bottom() + 8.0 + LABEL_SIZE / 2.0), Align::Center, LABEL_SIZE, BLACK);
        canvas.text(&label, (cells.x - 8.0, y), Align::Right, LABEL_SIZE, BLACK);
    }
    let (x, y) = cells.center();
    canvas.text("Predicted", (x, cells.bottom() + below - LABEL_SIZE / 2.0), Align::Center, LABEL_SIZE, BLACK);
    canvas.text_upward("True", (MARGIN + LABEL_SIZE / 2.0, y), LABEL_SIZE, BLACK);
    bar.draw(&mut canvas, (cells.right() + bar_gap, cells.y), side);
    Ok(canvas.finish("Confusion matrix"))
}

/// Gives round counts for a logarithmic scale: 0, 1, 10, 100 ... up to `most`.
fn count_ticks(most: u64) -> impl Iterator<Item = u64> {
    let powers = std::iter::successors(Some(1_u64), |power| power.checked_mul(10));
    std::iter::once(0).chain(powers.take_while(move |power| *power <= most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;
    use crate::plot::figure::tests::assert_margins_are_white;

    #[test]
    fn any_number_of_classes_fits() {
        for num_classes in [1, 2, 10, 20, 21, 300] {
            let classes: Vec<_> = (0..num_classes).collect();
            let matrix = metrics::confusion_matrix(&classes, &classes, num_classes).unwrap();
            assert_margins_are_white(&confusion_matrix(&matrix).unwrap());
        }
    }

    #[test]
    fn a_matrix_without_examples_can_be_drawn_but_not_one_without_classes() {
        let none: [u8; 0] = [];
        confusion_matrix(&metrics::confusion_matrix(&none, &none, 10).unwrap()).unwrap();
        let error = confusion_matrix(&metrics::confusion_matrix(&none, &none, 0).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "confusion matrix: expected some classes, found none");
    }

    #[test]
    fn count_ticks_are_powers_of_ten() {
        assert_eq!(count_ticks(1135).collect::<Vec<_>>(), [0, 1, 10, 100, 1000]);
        assert_eq!(count_ticks(1).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(count_ticks(u64::MAX).count(), 21);
    }
}
