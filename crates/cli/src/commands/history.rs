//! `earlystop history`: the evaluations of a run.

use std::path::PathBuf;

use earlystop::early_stopping::{Metric, Observation};
use earlystop::plot;
use serde_json::{Value, json};

use crate::commands::list::{scores_json, title};
use crate::failure::{Answer, Result};
use crate::output::{Output, Table};
use crate::run::Evaluations;
use crate::target::refuse_existing;
use crate::text;

/// Show the evaluations of a run as a table, CSV, JSON or a curve
///
/// Of a folder, shows the history of the latest checkpoint; of a file, that until the file was saved. `best` marks the
/// evaluation that the run's stopping rule considers the best, or that of the best value of --score.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  earlystop history checkpoints/run1
  earlystop history --csv checkpoints/run1/step-004800.safetensors
  earlystop history --score validation_loss --png loss.png checkpoints/run1
  earlystop history --score 'lower validation_surprise' checkpoints/run1")]
pub(crate) struct Args {
    /// A folder, a file or a URL
    path: PathBuf,
    /// Show this score only. Put `lower` or `higher` before its name if it is not clear which is better
    #[arg(long, value_name = "NAME")]
    score: Option<String>,
    /// Print comma-separated values
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Draw the curve of the score into this file instead
    #[arg(long, value_name = "OUT", conflicts_with_all = ["csv", "json"])]
    png: Option<PathBuf>,
    /// Replace OUT if it exists
    #[arg(long, requires = "png")]
    force: bool,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<Answer> {
    if let Some(png) = &args.png {
        refuse_existing(png, args.force)?;
    }
    let mut evaluations = Evaluations::read(&args.path)?;
    let asked = args.score.as_ref().map(|name| evaluations.metric_named(name)).transpose()?;
    let metric = asked.clone().or_else(|| evaluations.metric());
    let best = metric.as_ref().and_then(|metric| evaluations.best(metric));
    if let (Some(png), Some(metric)) = (&args.png, &metric) {
        plot::score_curve(&evaluations.observations, metric)?.save(png)?;
        output.line(format!("{}: {}", text::path(png), text::escaped(metric.name())))?;
        return Ok(Answer::Fine);
    }
    if let Some(metric) = &asked {
        evaluations.observations.iter_mut().for_each(|seen| seen.scores.retain(|name, _| name == metric.name()));
    }
    let names = evaluations.names();
    if args.csv {
        print_csv(&evaluations.observations, &names, output)?;
    } else if output.is_json {
        let rule = evaluations.rule.as_ref().map(|rule| format!("{rule:#}"));
        output.json(&json!({
            "rule": rule,
            "score": metric.as_ref().map(Metric::name),
            "best": best,
            "missing": evaluations.missing,
            "evaluations": evaluations.observations.iter().map(evaluation_json).collect::<Vec<_>>(),
        }))?;
    } else {
        output.table(&table_of(&evaluations.observations, &names, best))?;
    }
    Ok(Answer::Fine)
}

/// An evaluation, in the same shape whatever a trainer stores.
pub(crate) fn evaluation_json(seen: &Observation) -> Value {
    json!({
        "iteration": seen.iteration,
        "scores": scores_json(seen),
        "epochs": seen.epochs,
        "seconds": seen.elapsed.map(|elapsed| elapsed.as_secs_f64()),
    })
}

/// The table of evaluations.
pub(crate) fn table_of(observations: &[Observation], names: &[&str], best: Option<u64>) -> Table {
    let mut table = Table::new().right("iteration").right("epochs");
    for name in names {
        table = table.right(&title(name));
    }
    let mut table = table.right("time").left("");
    for seen in observations {
        let mut cells =
            vec![seen.iteration.to_string(), seen.epochs.map_or(String::new(), |epochs| epochs.to_string())];
        for name in names {
            // How a value is printed does not depend on which is better.
            let format = |value| Metric::higher(*name).format(value);
            cells.push(seen.score(name).map_or(String::new(), format));
        }
        cells.push(seen.elapsed.map_or(String::new(), text::clock));
        cells.push(if best == Some(seen.iteration) { "best".to_owned() } else { String::new() });
        table.row(cells);
    }
    table
}

fn print_csv(observations: &[Observation], names: &[&str], output: &mut Output) -> Result<()> {
    let titles = ["iteration"].into_iter().chain(names.iter().copied()).chain(["epochs", "seconds"]).map(quoted);
    output.line(titles.collect::<Vec<_>>().join(","))?;
    for seen in observations {
        let mut cells = vec![seen.iteration.to_string()];
        cells.extend(names.iter().map(|name| seen.score(name).map_or(String::new(), |value| value.to_string())));
        cells.push(seen.epochs.map_or(String::new(), |epochs| epochs.to_string()));
        cells.push(seen.elapsed.map_or(String::new(), |elapsed| elapsed.as_secs_f64().to_string()));
        output.line(cells.join(","))?;
    }
    Ok(())
}

/// Escapes a cell of CSV as RFC 4180 says.
fn quoted(cell: &str) -> String {
    let cell = text::escaped(cell);
    if cell.contains([',', '"']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}
