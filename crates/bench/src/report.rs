//! What came out: as a table, as numbers, as a figure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::Result;
use crate::accuracy::Accuracies;
use crate::contestant::YARDSTICK;
use crate::figure;
use crate::growth::Length;
use crate::machine::Machine;
use crate::own_model::Overhead;
use crate::race::{Lengths, Standing, Times};
use crate::scaling::Row;
use crate::statistics::{Spread, median, ratios};

/// The tutorial's job: iterations, and validations with a save.
const JOB: (f64, f64) = (10_000.0, 100.0);

/// All that was measured.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) lengths: Lengths,
    pub(crate) standings: Vec<Standing>,
    pub(crate) scaling: Option<Vec<Row>>,
    pub(crate) accuracies: Option<Accuracies>,
    pub(crate) growth: Option<Vec<Length>>,
    pub(crate) own_models: Option<Vec<Overhead>>,
}

impl Report {
    /// Writes `benchmark.md`, `benchmark.json` and `benchmark.png` into a folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        std::fs::write(folder.join("benchmark.md"), self.markdown())?;
        std::fs::write(folder.join("benchmark.json"), serde_json::to_string_pretty(&self.json())? + "\n")?;
        figure::draw(&self.standings)?.save(folder.join("benchmark.png"))?;
        Ok(())
    }

    /// Writes everything down as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let Lengths { rounds, iterations, validations } = self.lengths;
        let (heats, last) = (self.lengths.heats().count(), self.lengths.last_iterations());
        let how_measured = wrapped(&format!(
            "Medians of {rounds} rounds, {heats} times with fresh processes; in brackets their quartiles; in each round each contestant made {iterations} iterations, \
             {validations} validations and {validations} saves, one contestant after the other. *Faster* is against PyTorch in \
             the same round, in brackets the least and the most of all rounds. *The job* is computed: 10,000 iterations, every \
             100 of them a validation and a save. *Right* is the part of the validation set that was classified correctly in the \
             end, after {last} iterations."
        ));
        let mut text =
            format!("{HEAD}\n{}\n{how_measured}\n{}\n{CONTESTANTS}\n", self.main_table(), self.machine_text());
        for Standing { contestant, introduction, .. } in &self.standings {
            let batch = introduction.validation_batch;
            let _ =
                writeln!(text, "- **{}**: {} Validates {batch} images at a time.", contestant.title, contestant.how);
        }
        if let Some(rows) = &self.scaling {
            let _ = write!(text, "\n{}", scaling_text(rows));
        }
        if let Some(accuracies) = &self.accuracies {
            let _ = write!(text, "\n{}", accuracy_text(accuracies));
        }
        if let Some(lengths) = &self.growth {
            let _ = write!(text, "\n{}", growth_text(lengths));
        }
        if let Some(overheads) = &self.own_models {
            let _ = write!(text, "\n{}", own_models_text(overheads));
        }
        text
    }

    fn yardstick(&self) -> Option<&Standing> {
        self.standings.iter().find(|standing| standing.contestant.id == YARDSTICK)
    }

    fn main_table(&self) -> String {
        let rows = self.standings.iter().map(|standing| {
            let faster = |values: Times| match self.yardstick() {
                Some(yardstick) => spread_of_ratios(&ratios(values(yardstick), values(standing))),
                None => "–".to_owned(),
            };
            let title = standing.contestant.title;
            vec![
                if standing.contestant.is_ours { format!("**{title}**") } else { title.to_owned() },
                milliseconds(&standing.iteration),
                faster(|standing| &standing.iteration),
                milliseconds(&standing.validation),
                faster(|standing| &standing.validation),
                digits(1e3 * median(&standing.save)),
                digits(job_seconds(standing)),
                format!("{:.1}%", 100.0 * standing.accuracy),
                standing.peak_memory.map_or("–".to_owned(), |bytes| format!("{} MB", bytes / 1_000_000)),
            ]
        });
        let head = [
            "",
            "ms per iteration",
            "faster",
            "ms per validation",
            "faster",
            "ms per save",
            "the job, s",
            "right",
            "memory",
        ];
        table(&head, rows)
    }

    fn machine_text(&self) -> String {
        let Machine { processor, cores, instruction_sets, load_before, rust } = &self.machine;
        let mut threads: Vec<_> = self.standings.iter().map(|standing| standing.introduction.threads).collect();
        threads.sort();
        threads.dedup();
        let threads = threads.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ");
        let mut text = format!(
            "Measured on {processor}, {cores} cores ({}), {threads} threads for each contestant",
            instruction_sets.join(", ")
        );
        if let Some(load) = load_before {
            let _ = write!(text, ", load average before it {load:.2}");
        }
        let mut versions = self.versions();
        versions.extend(rust.clone().map(|version| ("Rust".to_owned(), version)));
        let versions =
            versions.iter().map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", ");
        let _ = write!(text, ". {versions}.");
        wrapped(&text)
    }

    fn versions(&self) -> BTreeMap<String, String> {
        self.standings.iter().flat_map(|standing| standing.introduction.versions.clone()).collect()
    }

    fn json(&self) -> Value {
        let contestant = |standing: &Standing| {
            let mut value = json!({
                "id": standing.contestant.id,
                "title": standing.contestant.title,
                "how": standing.contestant.how,
                "threads": standing.introduction.threads,
                "validation_batch": standing.introduction.validation_batch,
                "seconds_per_iteration": measured(&standing.iteration),
                "seconds_per_validation": measured(&standing.validation),
                "seconds_per_save": measured(&standing.save),
                "seconds_for_the_job": job_seconds(standing),
                "validation_accuracy": standing.accuracy,
                "peak_memory_bytes": standing.peak_memory,
            });
            if let Some(yardstick) = self.yardstick() {
                value["iteration_faster"] = json!(Spread::range(&ratios(&yardstick.iteration, &standing.iteration)));
                value["validation_faster"] = json!(Spread::range(&ratios(&yardstick.validation, &standing.validation)));
            }
            value
        };
        json!({
            "machine": self.machine,
            "versions": self.versions(),
            "lengths": self.lengths,
            "contestants": self.standings.iter().map(contestant).collect::<Vec<_>>(),
            "scaling": self.scaling,
            "accuracy": self.accuracies,
            "growth": self.growth,
            "own_models": self.own_models,
        })
    }
}

const HEAD: &str = "\
# Benchmark

The tutorial's job side by side: iterations of 64 images, validations on 5,000, saves of the state. `cargo xtask bench` measures
it, and writes this file with `--write`.

![Bars: milliseconds per iteration and per validation](benchmark.png)
";

const CONTESTANTS: &str = "\
## Who does what how

All train the same network on the same batches in the same order, from He-normal weights, by Adam with a learning rate of 1e-4.

earlystop keeps the memory that it frees; the others give it back to the system, as their documentation leaves them. Where
`MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=1073741824` stands before the command, all keep it: the validations of
tch and PyTorch gain most.

All run with `GOMP_SPINCOUNT=1000`, which keeps the threads of OpenMP from spinning for long while they wait.
";

fn job_seconds(standing: &Standing) -> f64 {
    JOB.0 * median(&standing.iteration) + JOB.1 * (median(&standing.validation) + median(&standing.save))
}

fn measured(values: &[f64]) -> Value {
    json!({ "quartiles": Spread::quartiles(values), "rounds": values })
}

/// Writes seconds as milliseconds, with the quartiles.
fn milliseconds(values: &[f64]) -> String {
    let Spread { median, low, high } = Spread::quartiles(values);
    format!("{} ({}–{})", digits(1e3 * median), digits(1e3 * low), digits(1e3 * high))
}

fn spread_of_ratios(ratios: &[f64]) -> String {
    let Spread { median, low, high } = Spread::range(ratios);
    format!("{median:.2}× ({low:.2}–{high:.2})")
}

/// Writes a number with three digits, or all those before the point.
fn digits(value: f64) -> String {
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$}")
}

/// Writes a table whose first column is text and all others numbers.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rule = format!("|---|{}\n", "--:|".repeat(head.len() - 1));
    rows.fold(line(&head) + &rule, |text, row| text + &line(&row))
}

fn scaling_text(rows: &[Row]) -> String {
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
    let what = wrapped(
        "Milliseconds per iteration where one thing differs from the tutorial: the batch size, the number of channels and of hidden \
         values, the threads. The peak is what multiplying two matrices of 2,048 × 2,048 32-bit floats reached between the rounds; \
         an iteration counts as the multiplications and additions of its convolutions and fully-connected layers, forward and \
         backward, as their definitions have them. More than 100% is possible: minimal filtering, and passing by the zeros of \
         max-pooling's gradient, need fewer operations, and libtorch's convolutions may use wider instructions than its product of \
         two matrices.",
    );
    format!("## Scaling\n\n{what}\n{}", table(&head, rows.iter().map(cells)))
}

fn accuracy_text(accuracies: &Accuracies) -> String {
    let rows = &accuracies.rows;
    let percent = |accuracy: f64| format!("{:.2}%", 100.0 * accuracy);
    let cells = rows
        .iter()
        .map(|row| vec![row.seed.to_string(), percent(row.f32), percent(row.bf16), points(row.bf16 - row.f32)]);
    let (gain, error) = accuracies.gain();
    let what = wrapped(&format!(
        "Test accuracy after {} iterations of the same training, from the same initial values on the same batches. Over the {} \
         seeds bfloat16 gains {} percentage points in the mean, with a standard error of {:.2}.",
        accuracies.iterations,
        rows.len(),
        points(gain),
        100.0 * error
    ));
    format!("## Accuracy of bfloat16\n\n{what}\n{}", table(&["seed", "f32", "bf16", "gain"], cells))
}

fn growth_text(lengths: &[Length]) -> String {
    let what = wrapped(
        "What a run costs after more and more evaluations: all evaluations of the tutorial's patience together, one evaluation of \
         the noise-aware rule on 5,000 images, one commit of a small network (a call of the trainer with an iteration, an \
         evaluation, a line of the history and a checkpoint, with fsync), the size of that checkpoint, and resuming with the whole \
         history. Patience and resuming take time for each evaluation; the others must not grow.",
    );
    let mut head = vec!["evaluations".to_owned()];
    head.extend(lengths.iter().map(|length| length.evaluations.to_string()));
    head.push("last / first".to_owned());
    let head: Vec<_> = head.iter().map(String::as_str).collect();
    let row = |name: &str, factor: f64, value: fn(&Length) -> f64| {
        let mut cells = vec![name.to_owned()];
        cells.extend(lengths.iter().map(|length| digits(factor * value(length))));
        cells.push(match lengths {
            [first, .., last] => format!("{:.2}×", value(last) / value(first)),
            _ => "–".to_owned(),
        });
        cells
    };
    let rows = [
        row("patience, all, ms", 1e3, |length| length.patience),
        row("noise-aware, one, µs", 1e6, |length| length.noise_aware),
        row("a commit, ms", 1e3, |length| length.commit),
        row("a checkpoint, kB", 1e-3, |length| length.checkpoint_bytes as f64),
        row("resuming, ms", 1e3, |length| length.resume),
    ];
    format!("## Long runs\n\n{what}\n{}", table(&head, rows.into_iter()))
}

fn own_models_text(overheads: &[Overhead]) -> String {
    let what = wrapped(
        "Milliseconds per iteration of a model that is written with tch, on batches of 64 images: a bare loop with tch's own Adam, and \
         a trainer with this crate's, by turns in one process. The trainer also keeps the mean loss, seeds libtorch, asks for requests \
         to stop, and evaluates at the end of a round on 64 images.",
    );
    let spread = |spread: &Spread, digits: usize| {
        let Spread { median, low, high } = spread;
        format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
    };
    let row = |it: &Overhead| {
        let ratio = format!("{}×", spread(&it.ratio, 3));
        vec![it.model.to_owned(), spread(&it.bare, 3), spread(&it.trainer, 3), ratio]
    };
    format!(
        "## Own models\n\n{what}\n{}",
        table(&["model", "bare loop", "trainer", "trainer / bare"], overheads.iter().map(row))
    )
}

/// Writes a difference of two parts in percentage points.
fn points(difference: f64) -> String {
    format!("{:+.2}", 100.0 * difference)
}

/// Breaks a paragraph into lines.
fn wrapped(paragraph: &str) -> String {
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

fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.0}%", 100.0 * share) } else { "–".to_owned() }
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
