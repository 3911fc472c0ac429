//! Training while other processes are busy.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::{hint, thread};

use serde::Serialize;

use crate::Result;
use crate::contestant::{Contestant, SCALED, YARDSTICK};
use crate::job::{Files, Size};
use crate::markdown::{Section, milliseconds, spread_of_ratios, table};
use crate::player::{Player, Spin};
use crate::statistics::{median, ratios};

const ROUNDS: usize = 5;
const ITERATIONS: usize = 50;

/// The results next to a number of busy processes.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) busy_processes: usize,
    pub(crate) entries: Vec<Entry>,
}

/// The time of an iteration of one contestant.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry {
    pub(crate) title: String,
    /// In seconds, one value for each round.
    pub(crate) iteration: Vec<f64>,
}

/// A process that keeps one core busy. It is killed on drop.
struct Busy(Child);

impl Busy {
    fn start() -> Result<Self> {
        Ok(Self(Command::new(std::env::current_exe()?).arg("busy").stdin(Stdio::piped()).spawn()?))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Keeps a core busy until standard input is closed, which also happens when the parent process ends.
pub(crate) fn be_busy() -> Result<()> {
    let reader = thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let mut value = 1u64;
    while !reader.is_finished() {
        for _ in 0..100_000 {
            value = hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
    Ok(())
}

/// Measures all contestants alternately, next to no, one and two busy processes.
pub(crate) fn run(contestants: &[Contestant], files: &Files, quick: bool) -> Result<Vec<Row>> {
    let (rounds, iterations) = if quick { (1, 2) } else { (ROUNDS, ITERATIONS) };
    let mut players = Vec::new();
    for contestant in contestants.iter().filter(|contestant| SCALED.contains(&contestant.id)) {
        players.push((contestant.title.to_owned(), start(contestant, files, Spin::AsInstalled)?));
        if contestant.id == YARDSTICK {
            let title = format!("{} with GOMP_SPINCOUNT=1000", contestant.title);
            players.push((title, start(contestant, files, Spin::Briefly)?));
        }
    }
    let entry = |(title, _): &(String, Player)| Entry { title: title.clone(), iteration: Vec::new() };
    let row = |busy_processes| Row { busy_processes, entries: players.iter().map(entry).collect() };
    let mut rows = [0, 1, 2].map(row);
    for round in 0..rounds {
        eprintln!("Beside busy processes: round {} of {rounds}", round + 1);
        for row in &mut rows {
            let _busy = (0..row.busy_processes).map(|_| Busy::start()).collect::<Result<Vec<_>>>()?;
            for (entry, (_, player)) in row.entries.iter_mut().zip(&mut players) {
                entry.iteration.push(player.train(iterations)? / iterations as f64);
            }
        }
    }
    Ok(rows.into())
}

/// Starts a contestant and runs its first iterations, which are not measured.
fn start(contestant: &Contestant, files: &Files, spin: Spin) -> Result<Player> {
    let mut player = Player::start(contestant, files, &Size::TUTORIAL, spin)?;
    player.train(2)?;
    Ok(player)
}

/// Writes the section about all rows.
pub(crate) fn section(rows: &[Row]) -> Section {
    let about = "Milliseconds per iteration while other processes keep some of the cores busy, and how many times as long as beside none. \
                 Nothing tells the threads of OpenMP how long to spin while they wait, as in a program that is just started; PyTorch \
                 is measured with GOMP_SPINCOUNT=1000 too. In each round all are measured beside no, one and two busy processes, \
                 one after the other.";
    let first = rows.first().map_or(&[][..], |row| &row.entries[..]);
    let mut head = vec!["busy processes".to_owned()];
    for (place, entry) in first.iter().enumerate() {
        head.extend([format!("{}, ms", entry.title), "of idle".to_owned()]);
        if place > 0 {
            head.push("earlystop is faster".to_owned());
        }
    }
    let head: Vec<_> = head.iter().map(String::as_str).collect();
    let cells = |row: &Row| {
        let mut cells = vec![row.busy_processes.to_string()];
        for (place, (entry, idle)) in row.entries.iter().zip(first).enumerate() {
            let times_idle = median(&entry.iteration) / median(&idle.iteration);
            cells.extend([milliseconds(&entry.iteration), format!("{times_idle:.2}×")]);
            if place > 0 {
                cells.push(spread_of_ratios(&ratios(&entry.iteration, &row.entries[0].iteration)));
            }
        }
        cells
    };
    Section { title: "Under load", about: about.to_owned(), table: table(&head, rows.iter().map(cells)) }
}
