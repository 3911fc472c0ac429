//! The results as Markdown, as JSON and as a figure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::Result;
use crate::contestant::YARDSTICK;
use crate::figure;
use crate::machine::Machine;
use crate::markdown::{Section, digits, milliseconds, spread_of_ratios, table, wrapped};
use crate::race::{Lengths, Standing, Times};
use crate::statistics::{Spread, median, ratios};

/// The tutorial's job: iterations, and validations with a save.
const JOB: (f64, f64) = (10_000.0, 100.0);

/// The results so far. Each part is written to `benchmark.md` and `benchmark.json` as soon as it is added.
pub(crate) struct Report<'a> {
    machine: Machine,
    folder: &'a Path,
    markdown: String,
    numbers: Map<String, Value>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(machine: Machine, folder: &'a Path) -> Self {
        let numbers = Map::from_iter([("machine".to_owned(), json!(machine))]);
        Self { machine, folder, markdown: String::new(), numbers }
    }

    pub(crate) fn markdown(&self) -> &str {
        &self.markdown
    }

    /// Adds a part.
    pub(crate) fn add(&mut self, name: &str, section: Section, numbers: &impl Serialize) -> Result<()> {
        let separator = if self.markdown.is_empty() { "" } else { "\n" };
        self.markdown += &format!("{separator}{}", section.markdown(&self.machine));
        self.numbers.insert(name.to_owned(), serde_json::to_value(numbers)?);
        self.write()
    }

    /// Adds the job: its table comes first on the page, and its figure is `benchmark.png`.
    pub(crate) fn add_job(&mut self, lengths: Lengths, standings: &[Standing]) -> Result<()> {
        figure::draw(standings)?.save(self.folder.join("benchmark.png"))?;
        let separator = if self.markdown.is_empty() { "" } else { "\n" };
        self.markdown += &format!("{separator}{}", job_text(&self.machine, lengths, standings));
        self.numbers.insert("versions".to_owned(), json!(versions(standings)));
        self.numbers.insert("lengths".to_owned(), json!(lengths));
        let contestants = standings.iter().map(|standing| contestant(standing, yardstick(standings)));
        self.numbers.insert("contestants".to_owned(), contestants.collect());
        self.write()
    }

    fn write(&self) -> Result<()> {
        std::fs::write(self.folder.join("benchmark.md"), &self.markdown)?;
        let numbers = serde_json::to_string_pretty(&self.numbers)? + "\n";
        Ok(std::fs::write(self.folder.join("benchmark.json"), numbers)?)
    }
}

fn yardstick(standings: &[Standing]) -> Option<&Standing> {
    standings.iter().find(|standing| standing.contestant.id == YARDSTICK)
}

fn job_text(machine: &Machine, lengths: Lengths, standings: &[Standing]) -> String {
    let Lengths { rounds, iterations, validations } = lengths;
    let (heats, last) = (lengths.heats().count(), lengths.last_iterations());
    let how_measured = wrapped(&format!(
        "Medians of {rounds} rounds, {heats} times with fresh processes; in brackets their quartiles; in each round each contestant made {iterations} iterations, \
         {validations} validations and {validations} saves, one contestant after the other. *Faster* is against PyTorch in \
         the same round, in brackets the least and the most of all rounds. *The job* is computed: 10,000 iterations, every \
         100 of them a validation and a save. *Right* is the part of the validation set that was classified correctly in the \
         end, after {last} iterations."
    ));
    let machine = machine_text(machine, standings);
    let mut text = format!("{HEAD}\n{}\n{how_measured}\n{machine}\n{CONTESTANTS}\n", main_table(standings));
    for Standing { contestant, introduction, .. } in standings {
        let batch = introduction.validation_batch;
        let _ = writeln!(text, "- **{}**: {} Validates {batch} images at a time.", contestant.title, contestant.how);
    }
    text
}

fn main_table(standings: &[Standing]) -> String {
    let rows = standings.iter().map(|standing| {
        let faster = |values: Times| match yardstick(standings) {
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

fn machine_text(machine: &Machine, standings: &[Standing]) -> String {
    let mut threads: Vec<_> = standings.iter().map(|standing| standing.introduction.threads).collect();
    threads.sort();
    threads.dedup();
    let threads = threads.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ");
    let versions = versions(standings).into_iter().map(|(name, version)| format!("{name} {version}"));
    let versions = versions.collect::<Vec<_>>().join(", ");
    wrapped(&format!("Measured on {machine}, {threads} threads for each contestant. {versions}."))
}

fn versions(standings: &[Standing]) -> BTreeMap<String, String> {
    standings.iter().flat_map(|standing| standing.introduction.versions.clone()).collect()
}

fn contestant(standing: &Standing, yardstick: Option<&Standing>) -> Value {
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
    if let Some(yardstick) = yardstick {
        value["iteration_faster"] = json!(Spread::range(&ratios(&yardstick.iteration, &standing.iteration)));
        value["validation_faster"] = json!(Spread::range(&ratios(&yardstick.validation, &standing.validation)));
    }
    value
}

const HEAD: &str = "\
# Benchmark

The tutorial's job side by side: iterations of 64 images, validations on 5,000, saves of the state. `cargo xtask bench` measures
all that is on this page, `cargo xtask bench PART` one part; with `--write` they replace what they measured.

![Bars: milliseconds per iteration and per validation](benchmark.png)
";

const CONTESTANTS: &str = "\
## Who does what how

All train the same network on the same batches in the same order, from He-normal weights, by Adam with a learning rate of 1e-4.

All have the same environment. With `MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=1073741824` they keep the memory that
they free, as earlystop does by itself after `keep_freed_memory`: without these, the validations of tch and PyTorch take longer.
`GOMP_SPINCOUNT=1000` keeps the threads of OpenMP from spinning for long while they wait.
";

fn job_seconds(standing: &Standing) -> f64 {
    JOB.0 * median(&standing.iteration) + JOB.1 * (median(&standing.validation) + median(&standing.save))
}

fn measured(values: &[f64]) -> Value {
    json!({ "quartiles": Spread::quartiles(values), "rounds": values })
}
