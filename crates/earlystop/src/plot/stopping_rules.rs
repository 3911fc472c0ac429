//! Compares stopping rules on one run: its accuracy, and below it a row for each rule.

use super::axes::{Axes, BELOW, Measure};
use super::canvas::{Align, Canvas, LABEL_SIZE, MARGIN, Point, Rect};
use super::colormap::{BLACK, Color, DISTINCT, FAINT, FRAME, WHITE};
use super::ticks::Ticks;
use super::{Figure, text};
use crate::early_stopping::score::{TEST_ACCURACY, VALIDATION_ACCURACY};
use crate::early_stopping::{Comparison, Observation};
use crate::{Error, Result};

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 230.0;
/// From the plot to the first lane, and from one lane to the next.
const GAP: f64 = 12.0;
const LANE: f64 = 24.0;
const BAR: f64 = 8.0;
const DOT: f64 = 5.0;

/// Draws a run's accuracy on the validation set, fainter on the test set where it was recorded, and for each rule of a
/// replay a bar that ends where the rule stops, with a dot at the evaluation that it keeps.
///
/// The scale begins at the accuracy after a tenth of the run: the steep start says nothing about stopping.
///
/// # Errors
///
/// If no accuracy in the history is a number.
///
/// ```
/// use earlystop::early_stopping::{Observation, Rule, replay};
///
/// let accuracies = [0.90, 0.95, 0.94, 0.95, 0.96, 0.95];
/// let history: Vec<_> = (1..).zip(accuracies).map(|(i, accuracy)| Observation::new(100 * i, accuracy)).collect();
/// let comparison = replay(&history, [Rule::patience(100), Rule::patience(1000)]);
/// let figure = earlystop::plot::stopping_rules(&history, &comparison)?;
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn stopping_rules(history: &[Observation], comparison: &Comparison) -> Result<Figure> {
    let axes = axes(history, comparison)?;
    let names = ["validation set", "test set"];
    let label_width = |label: &str| text::width(label, LABEL_SIZE);
    let rules = comparison.rows.iter().map(|row| label_width(&row.rule));
    let widest = rules.chain(names.map(|name| 32.0 + label_width(name)));
    let lanes = Rect::new(axes.plot.x, axes.plot.bottom() + GAP, WIDTH, LANE * comparison.rows.len() as f64);
    let mut canvas =
        Canvas::new(axes.plot.right() + 16.0 + widest.fold(0.0, f64::max) + MARGIN, lanes.bottom() + BELOW + MARGIN);
    axes.draw(&mut canvas, lanes.bottom());
    canvas.fill(Rect::new(axes.plot.x - 1.0, axes.plot.bottom(), WIDTH + 1.0, 1.0), FRAME);
    // A history may be longer than the run that was replayed, and is not drawn beyond it.
    let x = |iteration: u64| axes.x(iteration.min(comparison.iterations));
    let point = |iteration: u64, accuracy: f64| {
        let seen = (axes.low..=axes.high).contains(&(100.0 * accuracy));
        seen.then(|| (x(iteration), axes.point(iteration, accuracy).1))
    };

    let curve = |of: fn(&Observation) -> Option<f64>| -> Vec<Vec<Point>> {
        let points: Vec<_> = history
            .iter()
            .map(|observation| of(observation).and_then(|accuracy| point(observation.iteration, accuracy)))
            .collect();
        points.split(Option::is_none).map(|piece| piece.iter().flatten().copied().collect()).collect()
    };
    let curves = [
        (names[1], curve(|observation| observation.score(TEST_ACCURACY)), FAINT, 1.5),
        (names[0], curve(|observation| observation.score(VALIDATION_ACCURACY)), BLACK, 2.0),
    ];
    let seen = curves.iter().rev().filter(|(_, pieces, ..)| pieces.iter().any(|piece| !piece.is_empty()));
    for (i, (name, _, color, width)) in seen.enumerate() {
        let (x, y) = (axes.plot.right() + 16.0, axes.plot.y + (i as f64 + 0.5) * LANE);
        canvas.line(&[(x, y), (x + 24.0, y)], *width, *color);
        canvas.text(name, (x + 32.0, y), Align::Left, LABEL_SIZE, BLACK);
    }
    for (_, pieces, color, width) in &curves {
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            canvas.line(piece, *width, *color);
        }
    }
    for (i, row) in comparison.rows.iter().enumerate() {
        let (color, y) = (DISTINCT[i % DISTINCT.len()], lanes.y + (i as f64 + 0.5) * LANE);
        let stop = x(row.stopped_at);
        canvas.fill(Rect::new(lanes.x, y - BAR / 2.0, stop - lanes.x, BAR), color);
        if row.reason.is_some() {
            canvas.fill(Rect::new(stop - 1.5, y - BAR, 3.0, 2.0 * BAR), color);
        }
        if let Some(kept) = &row.kept {
            dot(&mut canvas, (x(kept.iteration), y), color);
            if let Some(at) = kept.score(VALIDATION_ACCURACY).and_then(|accuracy| point(kept.iteration, accuracy)) {
                dot(&mut canvas, at, color);
            }
        }
        canvas.text(&row.rule, (lanes.right() + 16.0, y), Align::Left, LABEL_SIZE, BLACK);
    }
    let rules: Vec<_> = comparison.rows.iter().map(|row| row.rule.as_str()).collect();
    Ok(canvas.finish(format!("Accuracies over iterations, and where each rule stops: {}", rules.join(", "))))
}

fn dot(canvas: &mut Canvas, at: Point, color: Color) {
    canvas.disc(at, DOT + 1.5, WHITE);
    canvas.disc(at, DOT, color);
}

/// The scale of the accuracies is that of all but the first tenth of the run.
fn axes(history: &[Observation], comparison: &Comparison) -> Result<Axes> {
    let late = history.iter().filter(|observation| 10 * observation.iteration >= comparison.iterations);
    let accuracies = late.filter_map(|observation| observation.score(VALIDATION_ACCURACY));
    let accuracies: Vec<f64> =
        accuracies.filter(|accuracy| accuracy.is_finite()).map(|accuracy| 100.0 * accuracy).collect();
    if accuracies.is_empty() {
        return Err(Error::data("validation accuracies", "at least one number", "none"));
    }
    let tests =
        history.iter().filter_map(|observation| observation.score(TEST_ACCURACY)).filter(|value| value.is_finite());
    let low = accuracies.iter().copied().fold(f64::INFINITY, f64::min);
    let high = accuracies.iter().copied().chain(tests.map(|accuracy| 100.0 * accuracy)).fold(low, f64::max);
    let margin = 0.05 * (high - low).max(0.1);
    let (low, high) = (low - margin, high + margin);
    Ok(Axes::new(Measure::Accuracy, [WIDTH, HEIGHT], comparison.iterations, [low, high], Ticks::new(low, high, 7)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::early_stopping::{Rule, replay};
    use crate::plot::figure::tests::assert_margins_are_white;

    fn history(accuracies: &[f64]) -> Vec<Observation> {
        let observe = |(iteration, &accuracy): (u64, &f64)| {
            Observation::new(iteration, accuracy).with("test_accuracy", accuracy - 0.002)
        };
        (100..).step_by(100).zip(accuracies).map(observe).collect()
    }

    #[test]
    fn nothing_is_clipped_whatever_the_accuracies_are() {
        for accuracies in [&[0.1, 0.5, 0.9][..], &[1.0; 3], &[0.0; 3], &[0.98765, f64::NAN, 0.98766], &[0.5]] {
            let history = history(accuracies);
            let rules = [Rule::patience(100), Rule::never().named("a rule with a rather long name, and more")];
            assert_margins_are_white(&stopping_rules(&history, &replay(&history, rules)).unwrap());
        }
    }

    #[test]
    fn every_rule_has_its_lane() {
        let history = history(&[0.9, 0.95, 0.94]);
        let heights = [1, 2].map(|count| {
            let comparison = replay(&history, (0..count).map(|_| Rule::never()));
            stopping_rules(&history, &comparison).unwrap().size().1
        });
        assert_eq!(heights[1] - heights[0], 24);
    }

    #[test]
    fn a_history_without_numbers_is_refused() {
        for history in [history(&[]), history(&[f64::NAN])] {
            let error = stopping_rules(&history, &replay(&history, [Rule::never()])).unwrap_err().to_string();
            assert_eq!(error, "validation accuracies: expected at least one number, found none");
        }
    }
}
