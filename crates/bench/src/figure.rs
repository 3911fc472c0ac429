//! The figure: bars for the milliseconds per iteration and per validation.

use earlystop::plot::{Bar, BarRow, Figure, bar_panels};

use crate::Result;
use crate::contestant::YARDSTICK;
use crate::race::{Standing, Times};
use crate::statistics::{Spread, median, ratios};

const PANELS: [(&str, Times); 2] = [
    ("Milliseconds per iteration", |standing| &standing.iteration),
    ("Milliseconds per validation", |standing| &standing.validation),
];

/// Draws medians, quartiles, and how much faster each is than the yardstick.
pub(crate) fn draw(standings: &[Standing]) -> Result<Figure> {
    let yardstick = standings.iter().find(|standing| standing.contestant.id == YARDSTICK);
    let row = |standing: &Standing| BarRow {
        label: standing.contestant.title.to_owned(),
        is_highlighted: standing.contestant.is_ours,
        bars: PANELS.map(|(_, values)| bar(standing, yardstick, values)).to_vec(),
    };
    Ok(bar_panels(&PANELS.map(|(title, _)| title), &standings.iter().map(row).collect::<Vec<_>>())?)
}

fn bar(standing: &Standing, yardstick: Option<&Standing>, values: Times) -> Bar {
    let Spread { median: value, low, high } = Spread::quartiles(values(standing));
    let others = yardstick.filter(|_| standing.contestant.id != YARDSTICK);
    let faster = others.map(|yardstick| median(&ratios(values(yardstick), values(standing))));
    Bar {
        value,
        spread: [low, high],
        text: format!("{:.*}", usize::from(value < 0.1), 1e3 * value),
        note: faster.map_or_else(String::new, |ratio| format!("{ratio:.1}×")),
    }
}
