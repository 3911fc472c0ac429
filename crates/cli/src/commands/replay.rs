//! `earlystop replay`: where other stopping rules would have stopped a run.

use std::path::PathBuf;

use earlystop::Error;
use earlystop::early_stopping::{Metric, Outcome, Rule, StopKind, replay};
use serde_json::json;
use unicode_width::UnicodeWidthStr;

use crate::commands::history::evaluation_json;
use crate::failure::{Answer, Failure, Result};
use crate::output::{Output, Table};
use crate::run::Evaluations;
use crate::text;

/// Show where stopping rules would have stopped a run
///
/// Also shows which evaluation each would have kept. The rules judge the history of the run, without training again. The run should not have been stopped before the most patient
/// of them stops it.
///
/// A rule is written as it is printed: patience(1000), patience(3 evaluations, min delta 0.001), noise-aware(1000, p < 0.05), GL(5),
/// PQ(0.5, strip 5), UP(3, strip 5), iterations(10000), time(0:10:00), target(0.99), divergence(0.1), never. Rules are combined by
/// `or`, `and` and parentheses, and monitor another score by `on lower NAME` or `on higher NAME`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  earlystop replay checkpoints/run1 --rule 'patience(1000)' --rule 'GL(5)'
  earlystop replay checkpoints/run1 --rule 'patience(500) on lower validation_loss'
  earlystop replay checkpoints/run1 --rule 'patience(1000) or time(0:10:00)' --json")]
pub(crate) struct Args {
    /// A folder, a file or a URL
    path: PathBuf,
    /// A stopping rule; may be given several times
    #[arg(long = "rule", value_name = "RULE", required = true)]
    rules: Vec<String>,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<Answer> {
    let rules: Vec<Rule> = args.rules.iter().map(|rule| parse(rule)).collect::<Result<_>>()?;
    let evaluations = Evaluations::read(&args.path)?;
    let comparison = replay(&evaluations.observations, rules.clone());
    if output.is_json {
        let rules = rules.iter().zip(&comparison.rows).map(|(rule, row)| {
            json!({
                "rule": format!("{rule:#}"),
                "stops_at": row.reason.as_ref().map(|_| row.stopped_at),
                "reason": row.reason,
                "keeps": row.kept.as_ref().map(evaluation_json),
                "saved": row.saved,
            })
        });
        output.json(&json!({ "iterations": comparison.iterations, "rules": rules.collect::<Vec<_>>() }))?;
        return Ok(Answer::Fine);
    }
    let mut table = Table::new().left("rule").right("stops at").right("keeps").left("").right("iterations\nsaved");
    for (rule, row) in rules.iter().zip(&comparison.rows) {
        let metric = shown(rule, row, &comparison.metric);
        let kept = row.kept.as_ref();
        let score =
            kept.and_then(|kept| Some(format!("{} {}", text::escaped(metric.name()), metric.format(metric.of(kept)?))));
        let percent = 100.0 * row.saved as f64 / comparison.iterations.max(1) as f64;
        table.row(vec![
            text::escaped(&row.rule),
            row.reason.as_ref().map_or("-".to_owned(), |_| row.stopped_at.to_string()),
            kept.map_or("-".to_owned(), |kept| kept.iteration.to_string()),
            score.unwrap_or_default(),
            format!("{} ({percent:.0}%)", row.saved),
        ]);
    }
    output.table(&table)?;
    // A rule that could not judge the run must not look like one that did.
    for Outcome { rule, reason, .. } in &comparison.rows {
        if let Some(reason) =
            reason.as_ref().filter(|it| matches!(it.kind, StopKind::CannotJudge | StopKind::NotFinite))
        {
            output.line(format!("{}: {}", text::escaped(rule), text::escaped(&reason.why)))?;
        }
    }
    output.line(format!("The run has {} iterations.", comparison.iterations))?;
    Ok(Answer::Fine)
}

/// The score to show of the evaluation that a rule keeps: what the rule monitors, if that was recorded.
fn shown(rule: &Rule, row: &Outcome, other: &Metric) -> Metric {
    let monitored = rule.monitored();
    let is_recorded = row.kept.as_ref().is_some_and(|kept| monitored.of(kept).is_some());
    if is_recorded { monitored } else { other.clone() }
}

/// Parses a rule, and points at what is wrong with it.
fn parse(rule: &str) -> Result<Rule> {
    let error = match rule.parse::<Rule>() {
        Ok(rule) => {
            rule.check()?;
            return Ok(rule);
        }
        Err(error) => error,
    };
    let Error::RuleSyntax { position, expected, found, .. } = &error else { return Err(error.into()) };
    let before: String = rule.chars().take(position.saturating_sub(1)).collect();
    Err(Failure::Message(vec![
        "this is no stopping rule:".to_owned(),
        text::escaped(rule),
        format!(
            "{}^ expected {}, found {}",
            " ".repeat(text::escaped(&before).width()),
            text::escaped(expected),
            text::escaped(found)
        ),
    ]))
}
