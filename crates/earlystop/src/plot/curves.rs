//! Accuracies, losses and other scores over iterations.

use super::axes::{Axes, BELOW, Measure};
use super::canvas::{Align, Canvas, LABEL_SIZE, MARGIN, Point, Rect};
use super::colormap::{BLACK, Color, DISTINCT, FAINT, SHADE};
use super::ticks::{Ticks, number};
use super::{Figure, text};
use crate::early_stopping::score::{TRAIN_LOSS, VALIDATION_LOSS};
use crate::early_stopping::{Metric, Observation};
use crate::{Error, Result};

const PLOT_WIDTH: f64 = 560.0;
const PLOT_HEIGHT: f64 = 320.0;
/// A line of the legend: its height, and the width of the sample before its text.
const LINE: f64 = 22.0;
const SAMPLE: f64 = 24.0;

/// Draws how a network learned: the accuracy on the validation set, and fainter that on the training batches.
///
/// `iterations`, `train` and `validation` have one item for each evaluation; accuracies are 0.0 to 1.0. Marked are the
/// best validation accuracy (the first, of equals) and the last iteration.
///
/// # Errors
///
/// If the three have different lengths, or no accuracy is a number.
///
/// ```
/// let figure = earlystop::plot::training_curve(&[100, 200, 300], &[0.8, 0.9, 1.0], &[0.85, 0.91, 0.9])?;
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn training_curve(iterations: &[u64], train: &[f64], validation: &[f64]) -> Result<Figure> {
    let mut curves = Curves::new(iterations).faint_curve("training batch", train).curve("validation set", validation);
    if let Some((iteration, accuracy)) = best(iterations, validation, &Metric::default()) {
        let label = format!("best: {:.1}% at {}", 100.0 * accuracy, number(iteration as f64, 0));
        curves = curves.mark(iteration, &label);
    }
    if let Some(&last) = iterations.last() {
        curves = curves.mark(last, &format!("last: {}", number(last as f64, 0)));
    }
    curves.draw()
}

/// Draws the loss on the validation set, and fainter that on the training batches: where they part, the network begins to
/// learn its training images by heart. Marked is the lowest validation loss (the first, of equals).
///
/// The scale ends at the highest loss after a tenth of the run, and what is above it is left out: the steep start tells
/// nothing about over-fitting.
///
/// # Errors
///
/// If no loss in the history is a number.
///
/// ```
/// use earlystop::early_stopping::Observation;
///
/// let losses = [(0.9, 0.8), (0.5, 0.5), (0.3, 0.4), (0.2, 0.45)];
/// let observe = |(iteration, (train, validation))| {
///     Observation::of(iteration, [("train_loss", train), ("validation_loss", validation)])
/// };
/// let history: Vec<_> = (100..).step_by(100).zip(losses).map(observe).collect();
/// let figure = earlystop::plot::loss_curves(&history)?;
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn loss_curves(history: &[Observation]) -> Result<Figure> {
    let last = history.last().map_or(0, |last| last.iteration);
    let late = history.iter().filter(|observation| 10 * observation.iteration >= last);
    let losses = late.flat_map(|observation| [TRAIN_LOSS, VALIDATION_LOSS].map(|name| observation.score(name)));
    let highest = losses.flatten().filter(|loss| loss.is_finite()).fold(f64::NEG_INFINITY, f64::max);
    let curve = |name: &str| -> Vec<f64> {
        scores(history, name).map(|loss| if loss <= highest { loss } else { f64::NAN }).collect()
    };
    let iterations = iterations(history);
    let validation = curve(VALIDATION_LOSS);
    let mut curves = Curves { measure: Measure::Loss, ..Curves::new(&iterations) }
        .faint_curve("training batches", &curve(TRAIN_LOSS))
        .curve("validation set", &validation);
    if let Some((iteration, _)) = best(&iterations, &validation, &Metric::validation_loss()) {
        curves = curves.mark(iteration, &format!("lowest at {}", number(iteration as f64, 0)));
    }
    curves.draw()
}

/// Draws any score of a run, and fainter the same score on the training batches, if it was recorded. Marked are the best
/// value (the first, of equals) and the last iteration.
///
/// The scale of a score that is no accuracy leaves out what is beyond its values after a tenth of the run.
///
/// # Errors
///
/// If the score is no number in any observation.
///
/// ```
/// use earlystop::early_stopping::{Metric, Observation};
///
/// let observe = |(iteration, error)| Observation::of(iteration, [("validation_rmse", error)]);
/// let history: Vec<_> = [(100, 4.1), (200, 3.2), (300, 3.3)].map(observe).into();
/// let figure = earlystop::plot::score_curve(&history, &Metric::lower("validation_rmse"))?;
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn score_curve(history: &[Observation], metric: &Metric) -> Result<Figure> {
    let iterations = iterations(history);
    let last = iterations.last().copied().unwrap_or_default();
    let mut score: Vec<f64> = scores(history, metric.name()).collect();
    let name = metric.name().strip_prefix("validation_").map(|rest| format!("train_{rest}"));
    let mut train: Vec<f64> = name.into_iter().flat_map(|name| scores(history, &name).collect::<Vec<_>>()).collect();
    if train.iter().all(|value| !value.is_finite()) {
        train.clear();
    }
    let best = best(&iterations, &score, metric);
    let in_words = metric.to_string();
    let measure = if metric.is_accuracy() {
        Measure::Accuracy
    } else {
        let late = || iterations.iter().zip(&score).filter(|(iteration, _)| 10 * **iteration >= last);
        let numbers = || late().map(|(_, value)| *value).filter(|value| value.is_finite());
        let (low, high) = (numbers().fold(f64::INFINITY, f64::min), numbers().fold(f64::NEG_INFINITY, f64::max));
        for value in score.iter_mut().chain(&mut train) {
            if *value < low || *value > high {
                *value = f64::NAN;
            }
        }
        Measure::Score(in_words.clone())
    };
    let mut curves = Curves { measure, ..Curves::new(&iterations) };
    if !train.is_empty() {
        curves = curves.faint_curve("training batches", &train);
    }
    curves = curves.curve(&in_words, &score);
    if let Some((iteration, value)) = best {
        let at = number(iteration as f64, 0);
        curves = curves.mark(iteration, &format!("best: {} at {at}", metric.format(value)));
    }
    curves.mark(last, &format!("last: {}", number(last as f64, 0))).draw()
}

fn iterations(history: &[Observation]) -> Vec<u64> {
    history.iter().map(|observation| observation.iteration).collect()
}

/// The values of a score; NaN where it was not recorded.
fn scores(history: &[Observation], name: &str) -> impl Iterator<Item = f64> {
    history.iter().map(move |observation| observation.score(name).unwrap_or(f64::NAN))
}

/// Returns the best of the values that are numbers, and its iteration: the first, of equals.
fn best(iterations: &[u64], values: &[f64], metric: &Metric) -> Option<(u64, f64)> {
    let numbers = iterations.iter().copied().zip(values.iter().copied()).filter(|(_, value)| value.is_finite());
    numbers.reduce(|best, next| if metric.upwards(next.1) > metric.upwards(best.1) { next } else { best })
}

/// Accuracies over iterations, to be drawn in one figure, with marks at chosen iterations.
///
/// ```
/// # let (iterations, accuracies) = ([100, 200, 300], [0.85, 0.91, 0.9]);
/// let figure = earlystop::plot::Curves::new(&iterations)
///     .curve("validation set", &accuracies)
///     .mark(200, "best")
///     .band(200, 300, "patience of 100 iterations")
///     .draw()?;
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Curves {
    measure: Measure,
    iterations: Vec<u64>,
    curves: Vec<Curve>,
    marks: Vec<(u64, String)>,
    bands: Vec<(u64, u64, String)>,
}

#[derive(Debug, Clone)]
struct Curve {
    name: String,
    values: Vec<f64>,
    is_faint: bool,
}

impl Curves {
    /// Starts with the iterations at which accuracies were measured.
    pub fn new(iterations: &[u64]) -> Self {
        Self {
            measure: Measure::Accuracy,
            iterations: iterations.to_vec(),
            curves: Vec::new(),
            marks: Vec::new(),
            bands: Vec::new(),
        }
    }

    /// Adds a curve: one accuracy 0.0 to 1.0 for each iteration. Where one is not a number, the curve has a gap.
    pub fn curve(mut self, name: &str, accuracies: &[f64]) -> Self {
        self.curves.push(Curve { name: name.into(), values: accuracies.to_vec(), is_faint: false });
        self
    }

    /// Adds a curve for the background, as [`Curves::curve`] does.
    pub fn faint_curve(mut self, name: &str, accuracies: &[f64]) -> Self {
        self.curves.push(Curve { name: name.into(), values: accuracies.to_vec(), is_faint: true });
        self
    }

    /// Marks an iteration by a vertical line, and by a dot where it meets a curve. The legend has its label.
    pub fn mark(mut self, iteration: u64, label: &str) -> Self {
        self.marks.push((iteration, label.into()));
        self
    }

    /// Shades the iterations from `begin` to `end`, such as those in which a rule waits. The legend has the label.
    pub fn band(mut self, begin: u64, end: u64, label: &str) -> Self {
        self.bands.push((begin, end, label.into()));
        self
    }

    /// Draws the figure.
    ///
    /// # Errors
    ///
    /// If a curve has not one accuracy for each iteration, or no accuracy is a number.
    pub fn draw(&self) -> Result<Figure> {
        for Curve { name, values, .. } in &self.curves {
            if values.len() != self.iterations.len() {
                let expected = format!("{}, one for each iteration", self.iterations.len());
                return Err(Error::data(format!("{} of {name:?}", self.plural()), expected, values.len()));
            }
        }
        let axes = axes(self)?;
        let lines = || self.curves.iter().map(|curve| &curve.name).chain(self.marks.iter().map(|(_, label)| label));
        let labels = || lines().chain(self.bands.iter().map(|(_, _, label)| label));
        let legend_width = SAMPLE + 8.0 + labels().map(|label| text::width(label, LABEL_SIZE)).fold(0.0, f64::max);
        let legend_height = LINE * labels().count() as f64;
        let legend = (axes.plot.right() + 20.0, axes.plot.y);
        let mut canvas = Canvas::new(
            legend.0 + legend_width + MARGIN,
            (axes.plot.bottom() + BELOW).max(legend.1 + legend_height) + MARGIN,
        );
        for (begin, end, _) in &self.bands {
            let (left, right) = (axes.x(*begin), axes.x(*end));
            canvas.fill(Rect::new(left, axes.plot.y, right - left, axes.plot.bottom() - axes.plot.y), SHADE);
        }
        axes.draw(&mut canvas, axes.plot.bottom());

        let colors: Vec<_> = self.colors().collect();
        let (curve_colors, mark_colors) = colors.split_at(self.curves.len());
        for (i, ((iteration, _), &color)) in self.marks.iter().zip(mark_colors).enumerate() {
            // Of two marks at one iteration both are seen, by turns.
            let phase = if i % 2 == 0 { 0.0 } else { 5.0 };
            dashes(&mut canvas, axes.x(*iteration), axes.plot.y + phase, axes.plot.bottom(), color);
        }
        for (curve, &color) in self.curves.iter().zip(curve_colors) {
            let points: Vec<_> = self.iterations.iter().zip(&curve.values).collect();
            for piece in points.split(|(_, value)| !value.is_finite()) {
                let piece: Vec<_> = piece.iter().map(|(i, value)| axes.point(**i, **value)).collect();
                draw_curve(&mut canvas, &piece, curve.is_faint, color);
            }
        }
        for ((iteration, _), &color) in self.marks.iter().zip(mark_colors) {
            for curve in self.curves.iter().filter(|curve| !curve.is_faint) {
                let met = self.iterations.iter().zip(&curve.values).find(|(i, _)| *i == iteration);
                if let Some((_, value)) = met.filter(|(_, value)| value.is_finite()) {
                    canvas.disc(axes.point(*iteration, *value), 4.5, color);
                }
            }
        }
        for (i, label) in labels().enumerate() {
            let (x, y) = (legend.0, legend.1 + (i as f64 + 0.5) * LINE);
            match (self.curves.get(i), colors.get(i)) {
                (Some(curve), Some(&color)) => {
                    draw_curve(&mut canvas, &[(x, y), (x + SAMPLE, y)], curve.is_faint, color);
                }
                (_, Some(&color)) => dashes(&mut canvas, x + SAMPLE / 2.0, y - 7.5, y + 7.5, color),
                (_, None) => canvas.fill(Rect::new(x, y - 7.5, SAMPLE, 15.0), SHADE),
            }
            canvas.text(label, (x + SAMPLE + 8.0, y), Align::Left, LABEL_SIZE, BLACK);
        }
        let names: Vec<_> = labels().map(String::as_str).collect();
        Ok(canvas.finish(format!("Curves of {} over iterations: {}", self.plural(), names.join(", "))))
    }

    /// What the values are, in words.
    fn plural(&self) -> &'static str {
        match self.measure {
            Measure::Accuracy => "accuracies",
            Measure::Loss => "losses",
            Measure::Score(_) => "scores",
        }
    }

    /// Gives the colors of the curves, then of the marks.
    fn colors(&self) -> impl Iterator<Item = Color> {
        let mut distinct = DISTINCT.iter().copied().cycle();
        let faint = self.curves.iter().map(|curve| curve.is_faint).chain(self.marks.iter().map(|_| false));
        faint.filter_map(move |is_faint| if is_faint { Some(FAINT) } else { distinct.next() })
    }
}

/// The scale of accuracies begins at a round number below all, and at 99% at the latest; that of losses at 0; that of others at a
/// round number below all.
fn axes(curves: &Curves) -> Result<Axes> {
    let values = || curves.curves.iter().flat_map(|curve| &curve.values).copied().filter(|value| value.is_finite());
    if values().next().is_none() {
        return Err(Error::data(curves.plural(), "at least one number", "none"));
    }
    let marks = curves.marks.iter().map(|(iteration, _)| iteration);
    let iterations = curves.iterations.iter().chain(marks).chain(curves.bands.iter().map(|(_, end, _)| end));
    let last = iterations.max().map_or(1, |last| *last);
    let (low, high) = match curves.measure {
        Measure::Accuracy => {
            let high = 100.0 * values().fold(1.0, f64::max);
            let lowest = 100.0 * values().fold(0.99, f64::min);
            let y_ticks = Ticks::new(lowest, high, 8);
            // Down to the next round number.
            (y_ticks.values[0] - if y_ticks.values[0] > lowest { y_ticks.step } else { 0.0 }, high)
        }
        Measure::Loss => (values().fold(0.0, f64::min), 1.03 * values().fold(f64::MIN_POSITIVE, f64::max)),
        Measure::Score(_) => {
            let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
            let room = if high > low { 0.05 * (high - low) } else { low.abs().max(1.0) };
            (low - room, high + room)
        }
    };
    Ok(Axes::new(curves.measure.clone(), [PLOT_WIDTH, PLOT_HEIGHT], last, [low, high], Ticks::new(low, high, 9)))
}

fn draw_curve(canvas: &mut Canvas, points: &[Point], is_faint: bool, color: Color) {
    let width = if is_faint { 1.25 } else { 2.0 };
    match points {
        [point] => canvas.disc(*point, width, color),
        _ => canvas.line(points, width, color),
    }
}

fn dashes(canvas: &mut Canvas, x: f64, top: f64, bottom: f64, color: Color) {
    let mut y = top;
    while y < bottom {
        canvas.fill(Rect::new(x - 0.75, y, 1.5, (bottom - y).min(5.0)), color);
        y += 10.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::figure::tests::assert_margins_are_white;

    #[test]
    fn nothing_is_clipped_whatever_the_accuracies_are() {
        for accuracies in [[0.1, 0.5, 0.9], [1.0; 3], [0.0; 3], [0.98765, f64::NAN, 0.98766], [f64::INFINITY, 0.3, 7.0]]
        {
            assert_margins_are_white(&training_curve(&[100, 200, 300], &accuracies, &accuracies).unwrap());
        }
        assert_margins_are_white(&training_curve(&[0], &[0.1], &[0.1]).unwrap());
        assert_margins_are_white(&training_curve(&[1_234_567, 9_999_999], &[0.1, 0.2], &[0.1, 0.2]).unwrap());
    }

    #[test]
    fn a_long_legend_of_marks_fits() {
        let curves = Curves::new(&[100, 200]).curve("validation set", &[0.8, 0.9]);
        let curves = (0..20).fold(curves, |curves, i| curves.mark(100 * i, "a rule with a rather long name, and more"));
        assert_margins_are_white(&curves.draw().unwrap());
    }

    #[test]
    fn a_band_that_ends_after_the_last_evaluation_fits() {
        let curves = Curves::new(&[100, 200]).curve("validation set", &[0.8, 0.9]).mark(200, "best");
        let (without, with) = (curves.draw().unwrap(), curves.band(200, 1200, "patience, to iteration 1,200").draw());
        let with = with.unwrap();
        assert_margins_are_white(&with);
        assert_ne!(without.png(), with.png());
    }

    #[test]
    fn the_scale_starts_at_a_round_number_below_all() {
        let scale = axes(&Curves::new(&[1, 2]).curve("", &[0.843, 0.988])).unwrap();
        assert_eq!((scale.low, scale.high), (84.0, 100.0));
        let scale = axes(&Curves::new(&[1, 2]).curve("", &[0.88, 0.988])).unwrap();
        assert_eq!((scale.low, scale.high), (88.0, 100.0));
    }

    fn losses(losses: &[(f64, f64)]) -> Vec<Observation> {
        let observe = |(iteration, &(train, validation)): (u64, &(f64, f64))| {
            Observation::new(iteration, 0.9).with("train_loss", train).with("validation_loss", validation)
        };
        (100..).step_by(100).zip(losses).map(observe).collect()
    }

    #[test]
    fn no_loss_leaves_the_plot() {
        let steep_start: Vec<_> = [(9.0, 8.0); 2].into_iter().chain([(0.3, 0.4); 28]).collect();
        for history in [
            losses(&steep_start),
            losses(&[(0.5, 0.4)]),
            losses(&[(0.0, 0.0); 3]),
            losses(&[(f64::NAN, 0.1), (f64::INFINITY, 0.2)]),
        ] {
            assert_margins_are_white(&loss_curves(&history).unwrap());
        }
    }

    #[test]
    fn a_history_without_losses_is_refused() {
        for history in [vec![], vec![Observation::new(100, 0.9)], losses(&[(f64::NAN, f64::NAN)])] {
            let error = loss_curves(&history).unwrap_err().to_string();
            assert_eq!(error, "losses: expected at least one number, found none");
        }
    }

    #[test]
    fn faint_curves_leave_the_distinct_colors_to_the_others() {
        let curves = Curves::new(&[]).faint_curve("", &[]).curve("", &[]).mark(0, "");
        assert_eq!(curves.colors().collect::<Vec<_>>(), [FAINT, DISTINCT[0], DISTINCT[1]]);
    }

    #[test]
    fn wrong_lengths_and_missing_numbers_are_named() {
        let error = training_curve(&[100, 200], &[0.5, 0.6], &[0.5]).unwrap_err().to_string();
        assert_eq!(error, r#"accuracies of "validation set": expected 2, one for each iteration, found 1"#);
        for none in [&[][..], &[f64::NAN]] {
            let error = training_curve(&vec![1; none.len()], none, none).unwrap_err().to_string();
            assert_eq!(error, "accuracies: expected at least one number, found none");
        }
    }
}
