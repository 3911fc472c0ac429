//! Bars with their spread, to compare by length.

use super::canvas::{Align, Canvas, LABEL_SIZE, MARGIN, Rect, TITLE_SIZE};
use super::colormap::{BLACK, DISTINCT, FAINT, FRAME, MUTED};
use super::{Figure, text};
use crate::{Error, Result};

/// The height of a bar, and from one bar to the next.
const BAR: f64 = 19.0;
const ROW: f64 = 30.0;
/// The length of the longest bar.
const LONGEST: f64 = 210.0;
/// From one panel to the next.
const GAP: f64 = 24.0;

/// One bar of [`bar_panels`].
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// Its length: 0 or more, in the unit of the panel.
    pub value: f64,
    /// Where the line begins and ends that shows the spread.
    pub spread: [f64; 2],
    /// What is written behind it.
    pub text: String,
    /// What is written fainter behind that.
    pub note: String,
}

/// One row of [`bar_panels`].
#[derive(Debug, Clone, PartialEq)]
pub struct BarRow {
    /// What stands at its left.
    pub label: String,
    /// Whether its bars are blue, and not grey.
    pub is_highlighted: bool,
    /// One bar for each panel.
    pub bars: Vec<Bar>,
}

/// Draws panels of horizontal bars side by side, each with a title and a scale of its own that begins at zero.
///
/// # Errors
///
/// If a row has not one bar for each panel, or a length is negative or not finite.
///
/// ```
/// use earlystop::plot::{Bar, BarRow, bar_panels};
///
/// let bar = |value: f64| Bar { value, spread: [0.9 * value, 1.1 * value], text: value.to_string(), note: String::new() };
/// let row = |label: &str, value| BarRow { label: label.to_owned(), is_highlighted: false, bars: vec![bar(value)] };
/// let figure = bar_panels(&["Seconds"], &[row("one", 1.0), row("two", 2.0)])?;
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn bar_panels(titles: &[&str], rows: &[BarRow]) -> Result<Figure> {
    for row in rows {
        check(row, titles.len())?;
    }
    let widest = |widths: &mut dyn Iterator<Item = f64>| widths.fold(0.0, f64::max);
    let left = MARGIN + widest(&mut rows.iter().map(|row| text::width(&row.label, LABEL_SIZE))) + 10.0;
    let top = MARGIN + TITLE_SIZE + 16.0;
    let behind = |bar: &Bar| 7.0 + text::width(&bar.text, LABEL_SIZE) + 9.0 + text::width(&bar.note, LABEL_SIZE);
    let behind = widest(&mut rows.iter().flat_map(|row| &row.bars).map(behind));
    let panel = widest(&mut titles.iter().map(|title| text::width(title, TITLE_SIZE))).max(LONGEST + behind);
    let panels = titles.len() as f64;
    let mut canvas = Canvas::new(
        left + panels * panel + (panels - 1.0).max(0.0) * GAP + MARGIN,
        top + ROW * rows.len() as f64 + MARGIN,
    );
    let middle = |row: usize| top + (row as f64 + 0.5) * ROW;
    for (i, row) in rows.iter().enumerate() {
        canvas.text(&row.label, (left - 10.0, middle(i)), Align::Right, LABEL_SIZE, BLACK);
    }
    for (index, title) in titles.iter().enumerate() {
        let x = left + index as f64 * (panel + GAP);
        canvas.text(title, (x, MARGIN + TITLE_SIZE / 2.0), Align::Left, TITLE_SIZE, BLACK);
        let reach = |bar: &Bar| bar.value.max(bar.spread[1]);
        let longest = rows.iter().map(|row| reach(&row.bars[index])).fold(f64::MIN_POSITIVE, f64::max);
        let length = |value: f64| value / longest * LONGEST;
        for (i, row) in rows.iter().enumerate() {
            let (bar, y) = (&row.bars[index], middle(i));
            let color = if row.is_highlighted { DISTINCT[0] } else { FAINT };
            canvas.fill(Rect::new(x, y - BAR / 2.0, length(bar.value), BAR), color);
            let [low, high] = bar.spread.map(length);
            canvas.fill(Rect::new(x + low, y - 0.75, high - low, 1.5), FRAME);
            let behind = x + length(reach(bar)) + 7.0;
            canvas.text(&bar.text, (behind, y), Align::Left, LABEL_SIZE, BLACK);
            let after = behind + text::width(&bar.text, LABEL_SIZE) + 9.0;
            canvas.text(&bar.note, (after, y), Align::Left, LABEL_SIZE, MUTED);
        }
        canvas.fill(Rect::new(x - 1.0, top, 1.0, ROW * rows.len() as f64), FRAME);
    }
    Ok(canvas.finish(format!("Bars: {}", titles.join(", "))))
}

fn check(row: &BarRow, panels: usize) -> Result<()> {
    let name = || format!("bars of {:?}", row.label);
    if row.bars.len() != panels {
        return Err(Error::data(name(), format!("{panels}, one for each panel"), row.bars.len()));
    }
    let lengths = row.bars.iter().flat_map(|bar| [bar.value, bar.spread[0], bar.spread[1]]);
    match lengths.into_iter().find(|length| !(length.is_finite() && *length >= 0.0)) {
        Some(length) => Err(Error::data(name(), "lengths of 0 or more", length)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::figure::tests::assert_margins_are_white;

    fn row(label: &str, values: &[f64]) -> BarRow {
        let bar = |&value: &f64| Bar { value, spread: [value, 1.5 * value], text: "12.3".into(), note: "1.5×".into() };
        BarRow { label: label.to_owned(), is_highlighted: true, bars: values.iter().map(bar).collect() }
    }

    #[test]
    fn nothing_is_clipped_whatever_the_lengths_are() {
        for values in [[0.0, 0.0], [1e-9, 1e9], [5.0, 7.0]] {
            let rows = [row("a label of some length", &values), row("", &[1.0, 1.0])];
            assert_margins_are_white(&bar_panels(&["Seconds", "A title longer than the bars are"], &rows).unwrap());
        }
        assert_margins_are_white(&bar_panels(&[], &[]).unwrap());
    }

    #[test]
    fn wrong_numbers_of_bars_and_lengths_are_named() {
        let error = bar_panels(&["Seconds"], &[row("one", &[1.0, 2.0])]).unwrap_err().to_string();
        assert_eq!(error, "bars of \"one\": expected 1, one for each panel, found 2");
        for length in [-1.0, f64::NAN, f64::INFINITY] {
            let error = bar_panels(&["Seconds"], &[row("one", &[length])]).unwrap_err().to_string();
            assert!(error.starts_with("bars of \"one\": expected lengths of 0 or more, found"), "{error}");
        }
    }
}
