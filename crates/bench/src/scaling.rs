//! How iterations scale: over batch size, width of the network and threads, against what the processor can do.

use serde::Serialize;

use crate::Result;
use crate::contestant::{Contestant, SCALED};
use crate::job::{Files, Size};
use crate::markdown::{Section, milliseconds, percent, spread_of_ratios, table};
use crate::player::{Player, Spin};
use crate::statistics::{median, ratios};

/// About as many operations each contestant makes in a round.
const FLOPS_PER_ROUND: f64 = 60e9;
const ROUNDS: usize = 7;

/// One size of the job.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What differs from the tutorial's job.
    pub(crate) label: String,
    pub(crate) flops_per_iteration: f64,
    /// What multiplying two large matrices reached between the rounds, in operations a second.
    pub(crate) peak_flops: f64,
    pub(crate) entries: Vec<Entry>,
}

/// What a contestant needed for one iteration.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// In seconds, one for each round.
    pub(crate) iteration: Vec<f64>,
}

impl Row {
    /// Gives the share of the peak that a contestant reaches.
    pub(crate) fn share_of_peak(&self, entry: &Entry) -> f64 {
        self.flops_per_iteration / median(&entry.iteration) / self.peak_flops
    }
}

/// Measures all sizes, each with fresh processes.
pub(crate) fn run(contestants: &[Contestant], files: &Files, quick: bool) -> Result<Vec<Row>> {
    let contestants: Vec<_> = contestants.iter().filter(|contestant| SCALED.contains(&contestant.id)).collect();
    let sizes = sizes();
    let sizes = if quick { &sizes[..1] } else { &sizes[..] };
    sizes.iter().map(|(label, size)| measure(label, size, &contestants, files, quick)).collect()
}

fn sizes() -> Vec<(String, Size)> {
    let tutorial = Size::TUTORIAL;
    let mut sizes = vec![("the tutorial's".to_owned(), tutorial)];
    sizes.extend([16, 256, 1024].map(|batch| (format!("batches of {batch}"), Size { batch, ..tutorial })));
    sizes.extend([0.5, 2.0, 4.0].map(|width| (format!("width × {width}"), Size { width, ..tutorial })));
    sizes.push(("one thread".to_owned(), Size { threads: Some(1), ..tutorial }));
    sizes
}

fn measure(label: &str, size: &Size, contestants: &[&Contestant], files: &Files, quick: bool) -> Result<Row> {
    eprintln!("Scaling: {label}");
    let flops_per_iteration = size.flops_per_iteration();
    let iterations = if quick { 2 } else { ((FLOPS_PER_ROUND / flops_per_iteration) as usize).max(4) };
    let rounds = if quick { 1 } else { ROUNDS };
    let mut players = Vec::new();
    for contestant in contestants {
        let entry = Entry { id: contestant.id, title: contestant.title, iteration: Vec::new() };
        players.push((entry, Player::start(contestant, files, size, Spin::Briefly)?));
    }
    let mut peaks = Vec::new();
    for round in 0..=rounds {
        for (place, (entry, player)) in players.iter_mut().enumerate() {
            let seconds = player.train(iterations)? / iterations as f64;
            if round > 0 {
                entry.iteration.push(seconds);
            }
            // The first is a worker in Rust.
            if place == 0 && !quick {
                peaks.push(player.multiply()?);
            }
        }
    }
    let peak_flops = if peaks.is_empty() { f64::NAN } else { median(&peaks) };
    let entries = players.into_iter().map(|(entry, _)| entry).collect();
    Ok(Row { label: label.to_owned(), flops_per_iteration, peak_flops, entries })
}

/// Writes the section about all sizes.
pub(crate) fn section(rows: &[Row]) -> Section {
    let contestants = rows.first().map_or(&[][..], |row| &row.entries[..]);
    let mut head = vec![String::new()];
    head.extend(contestants.iter().flat_map(|entry| [format!("{}, ms", entry.title), "of the peak".to_owned()]));
    head.extend(["faster".to_owned(), "peak, GFLOP/s".to_owned()]);
    let head: Vec<_> = head.iter().map(String::as_str).collect();
    let cells = |row: &Row| {
        let mut cells = vec![row.label.clone()];
        for entry in &row.entries {
            cells.extend([milliseconds(&entry.iteration), percent(row.share_of_peak(entry))]);
        }
        cells.push(match &row.entries[..] {
            [ours, yardstick] => spread_of_ratios(&ratios(&yardstick.iteration, &ours.iteration)),
            _ => "–".to_owned(),
        });
        cells.push(if row.peak_flops.is_finite() { format!("{:.0}", row.peak_flops / 1e9) } else { "–".to_owned() });
        cells
    };
    let about = "Milliseconds per iteration where one thing differs from the tutorial: the batch size, the number of channels and of hidden \
         values, the threads. The peak is what multiplying two matrices of 2,048 × 2,048 32-bit floats reached between the rounds; \
         an iteration counts as the multiplications and additions of its convolutions and fully-connected layers, forward and \
         backward, as their definitions have them. More than 100% is possible: minimal filtering, and passing by the zeros of \
         max-pooling's gradient, need fewer operations, and libtorch's convolutions may use wider instructions than its product of \
         two matrices.";
    Section { title: "Scaling", about: about.to_owned(), table: table(&head, rows.iter().map(cells)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_peak_is_that_of_the_median() {
        let entry = Entry { id: "", title: "", iteration: vec![0.5, 9.0, 0.1] };
        let row = Row { label: String::new(), flops_per_iteration: 100.0, peak_flops: 400.0, entries: Vec::new() };
        assert_eq!(row.share_of_peak(&entry), 0.5);
    }

    #[test]
    fn the_tutorials_own_size_comes_once() {
        assert_eq!(sizes().iter().filter(|(_, size)| *size == Size::TUTORIAL).count(), 1);
    }
}
