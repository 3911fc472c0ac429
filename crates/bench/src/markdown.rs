//! Formatting of numbers, tables and sections as Markdown.

use std::fmt::Write as _;

use crate::machine::Machine;
use crate::statistics::Spread;

/// A part of the report.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// What was measured and how.
    pub(crate) about: String,
    /// The results as a table.
    pub(crate) table: String,
}

impl Section {
    /// Returns the section as Markdown, with a line about the machine.
    pub(crate) fn markdown(&self, machine: &Machine) -> String {
        let Self { title, about, table } = self;
        format!("## {title}\n\n{}\n{table}\n{}", wrapped(about), wrapped(&format!("Measured on {machine}.")))
    }
}

/// Formats the median of some seconds as milliseconds, with the quartiles.
pub(crate) fn milliseconds(values: &[f64]) -> String {
    let Spread { median, low, high } = Spread::quartiles(values);
    format!("{} ({}–{})", digits(1e3 * median), digits(1e3 * low), digits(1e3 * high))
}

/// Formats the median of ratios with the minimum and the maximum.
pub(crate) fn spread_of_ratios(ratios: &[f64]) -> String {
    let Spread { median, low, high } = Spread::range(ratios);
    format!("{median:.2}× ({low:.2}–{high:.2})")
}

/// Formats a number with three significant digits, or with all digits before the decimal point.
pub(crate) fn digits(value: f64) -> String {
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$}")
}

/// Formats a share as a whole percentage.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.0}%", 100.0 * share) } else { "–".to_owned() }
}

/// Formats a table with text in the first column and numbers in the others.
pub(crate) fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|---|{}\n", head.join(" | "), "--:|".repeat(head.len() - 1));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// Wraps a paragraph into lines.
pub(crate) fn wrapped(paragraph: &str) -> String {
    const WIDTH: usize = 127;
    let mut text = String::new();
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        let length = word.chars().count();
        let separator = match column {
            0 => "",
            _ if column + 1 + length > WIDTH => "\n",
            _ => " ",
        };
        text += separator;
        text += word;
        column = if separator == " " { column + 1 + length } else { length };
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([0.123, 5.613, 73.26, 295.4].map(digits), ["0.12", "5.61", "73.3", "295"]);
    }

    #[test]
    fn times_are_shown_with_quartiles_and_ratios_with_their_range() {
        assert_eq!(milliseconds(&[0.005, 0.001, 0.004, 0.002, 0.003]), "3.00 (2.00–4.00)");
        assert_eq!(spread_of_ratios(&[1.5, 2.0, 1.75]), "1.75× (1.50–2.00)");
    }

    #[test]
    fn paragraphs_are_broken_between_words() {
        let broken = wrapped(&"word ".repeat(40));
        assert_eq!(broken.lines().map(str::len).collect::<Vec<_>>(), [124, 74]);
    }

    #[test]
    fn a_table_aligns_numbers_to_the_right() {
        let rows = [vec!["earlystop".to_owned(), "5.61".to_owned()]].into_iter();
        assert_eq!(table(&["", "ms"], rows), "|  | ms |\n|---|--:|\n| earlystop | 5.61 |\n");
    }
}
