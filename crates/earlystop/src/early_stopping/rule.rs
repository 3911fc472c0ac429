//! Stopping rules as values that can be combined, compared, printed and saved.

use std::fmt::{self, Display as _};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::own::Own;
use super::patience::Unit;
use super::report::exact_clock;
use super::score::{TRAIN_LOSS, VALIDATION_LOSS, in_words};
use super::words::quoted;
use super::{Metric, Observation, OwnRule, Patience, StopKind, json_float};

/// What is missing where a patience is in epochs, and what to do.
const LACKS_EPOCHS: &str = "the number of completed epochs: set Observation::epochs, which histories of earlier versions do not \
                            have, or use a patience in iterations or evaluations";

/// Decides when to stop and which evaluation is the best: a plain value that can be compared, printed and saved.
///
/// [`Patience`], the noise-aware rule and Prechelt's three criteria have their own notion of the best evaluation. With a
/// budget, a target or a divergence, the best evaluation has the best score. A combination uses the first of its rules that
/// has its own notion. The score is the validation accuracy, unless [`on`](Self::on) names another.
///
/// Constructors accept any argument; [`check`](Self::check) refuses those without a meaning, and is called wherever a
/// rule is used.
///
/// # Text
///
/// A rule is parsed from the text that it prints, with every bit of its numbers. A [name](Self::named) is printed in place of its
/// rule, so a text with names cannot be parsed. The alternate form, `{:#}`, has both the names and their rules. A rule of
/// [your own](Self::own) cannot be parsed.
///
/// ```
/// use std::time::Duration;
/// use earlystop::early_stopping::Rule;
///
/// let rule = Rule::any_of([Rule::patience(1000), Rule::time(Duration::from_secs(600))]);
/// assert_eq!(rule.to_string(), "patience(1000) or time(0:10:00)");
/// assert_eq!("patience(1000) or time(0:10:00)".parse::<Rule>()?, rule);
///
/// let rule = rule.named("mine");
/// assert_eq!(rule.to_string(), "mine");
/// assert_eq!(format!("{rule:#}"), r#"named("mine", patience(1000) or time(0:10:00))"#);
/// assert_eq!(format!("{rule:#}").parse::<Rule>()?, rule);
///
/// let error = "patience(1000, smooth 0.9)".parse::<Rule>().unwrap_err().to_string();
/// let expected = "expected `min delta`, `smoothing`, `warm-up` or `baseline`, found `smooth`";
/// assert_eq!(error, format!(r#"character 16 of the rule "patience(1000, smooth 0.9)": {expected}"#));
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Rule {
    /// See [`Patience`].
    Patience(Patience),
    /// See [`Rule::noise_aware`].
    NoiseAware {
        /// The number of iterations.
        patience: u64,
        /// The probability below which an improvement is significant, above 0.0 and below 1.0.
        #[serde(with = "json_float")]
        significance: f64,
    },
    /// See [`Rule::generalization_loss`].
    GeneralizationLoss {
        /// In percent of the lowest validation loss, at least 0.0.
        #[serde(with = "json_float")]
        alpha: f64,
    },
    /// See [`Rule::progress_quotient`].
    ProgressQuotient {
        /// In percent of generalization loss per per mille of training progress, at least 0.0.
        #[serde(with = "json_float")]
        alpha: f64,
        /// In evaluations, at least 2.
        strip: usize,
    },
    /// See [`Rule::successive_rises`].
    SuccessiveRises {
        /// The number of successive rises, at least 1.
        strips: usize,
        /// In evaluations, at least 1.
        strip: usize,
    },
    /// See [`Rule::iterations`].
    Iterations(u64),
    /// See [`Rule::time`].
    Time(Duration),
    /// See [`Rule::target`].
    Target(#[serde(with = "json_float")] f64),
    /// See [`Rule::divergence`].
    Divergence(#[serde(with = "json_float")] f64),
    /// See [`Rule::any_of`].
    AnyOf(Vec<Rule>),
    /// See [`Rule::all_of`].
    AllOf(Vec<Rule>),
    /// See [`Rule::named`].
    Named {
        /// The name.
        name: String,
        /// The rule that it names.
        rule: Box<Rule>,
    },
    /// See [`Rule::on`].
    On {
        /// The score to monitor.
        metric: Metric,
        /// The rule that monitors it.
        rule: Box<Rule>,
    },
    /// See [`Rule::own`].
    Own(Own),
}

impl Rule {
    /// Stops when the [monitored](Self::monitored) score, the validation accuracy unless another is named, has not improved for
    /// more than `iterations` iterations: the tutorial's rule.
    pub fn patience(iterations: u64) -> Self {
        Patience::new(iterations).into()
    }

    /// Stops after `patience` iterations without a statistically significant improvement of the validation accuracy.
    ///
    /// An improvement is significant if [`mcnemar`](super::mcnemar) gives a probability below 5% for the images whose
    /// classification changed since the best evaluation. Improvements that are too small to be significant add up,
    /// because the best evaluation stays the same. Needs the [mistakes](Observation::mistakes).
    ///
    /// [`Rule::NoiseAware`] sets another significance level.
    pub fn noise_aware(patience: u64) -> Self {
        Self::NoiseAware { patience, significance: 0.05 }
    }

    /// Stops when the validation loss is more than `alpha` percent above its lowest value: [Prechelt's][paper] GL.
    /// Needs the validation loss.
    ///
    /// [paper]: https://doi.org/10.1007/3-540-49430-8_3
    pub fn generalization_loss(alpha: f64) -> Self {
        Self::GeneralizationLoss { alpha }
    }

    /// Stops when the generalization loss is more than `alpha` times the training progress: [Prechelt's][paper] PQ.
    /// Needs the validation loss and the training loss.
    ///
    /// The rule decides at the end of each strip of `strip` evaluations (at least 2; Prechelt uses 5). The
    /// generalization loss is in percent, the progress of training within the strip in per mille. A run that still
    /// learns quickly may have a higher validation loss.
    ///
    /// [paper]: https://doi.org/10.1007/3-540-49430-8_3
    pub fn progress_quotient(alpha: f64, strip: usize) -> Self {
        Self::ProgressQuotient { alpha, strip }
    }

    /// Stops when the validation loss has risen in `strips` successive strips: [Prechelt's][paper] UP. Needs the
    /// validation loss.
    ///
    /// The rule compares the loss at the end of each strip of `strip` evaluations with the loss at the end of the
    /// previous strip. Any rise counts. Prechelt uses strips of 5.
    ///
    /// [paper]: https://doi.org/10.1007/3-540-49430-8_3
    pub fn successive_rises(strips: usize, strip: usize) -> Self {
        Self::SuccessiveRises { strips, strip }
    }

    /// Stops after `budget` iterations in total, at least 1.
    pub fn iterations(budget: u64) -> Self {
        Self::Iterations(budget)
    }

    /// Stops at the first evaluation at which the elapsed time has reached `budget`. Needs the
    /// [elapsed](Observation::elapsed) time, which includes the time before a resume.
    pub fn time(budget: Duration) -> Self {
        Self::Time(budget)
    }

    /// Stops when the [monitored](Self::monitored) score reaches `score`. An accuracy is above 0.0 and up to 1.0.
    pub fn target(score: f64) -> Self {
        Self::Target(score)
    }

    /// Stops when the [monitored](Self::monitored) score is worse than its best value by more than `drop`, for instance because
    /// the network has collapsed. `drop` is at least 0.0. For an accuracy it is below 1.0; 0.1 is ten percentage points.
    pub fn divergence(drop: f64) -> Self {
        Self::Divergence(drop)
    }

    /// Never stops. Use it to train to the end and [`replay`](super::replay) other rules afterwards.
    pub fn never() -> Self {
        Self::AnyOf(Vec::new())
    }

    /// Stops as soon as one of the rules does. An empty list never stops.
    pub fn any_of(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self::AnyOf(rules.into_iter().collect())
    }

    /// Stops when all of the rules, at least one, want to stop at the same time.
    pub fn all_of(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self::AllOf(rules.into_iter().collect())
    }

    /// Gives the rule a name, to be printed in place of its numbers.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self::Named { name: name.into(), rule: Box::new(self) }
    }

    /// Monitors this score: for the best evaluation, and in all rules that do not name another.
    ///
    /// ```
    /// use earlystop::early_stopping::{Metric, Rule};
    ///
    /// let rule = Rule::any_of([Rule::patience(1000), Rule::target(2.5)]).on(Metric::lower("validation_rmse"));
    /// assert_eq!(rule.to_string(), "(patience(1000) or target(2.5)) on lower validation_rmse");
    /// ```
    pub fn on(self, metric: Metric) -> Self {
        Self::On { metric, rule: Box::new(self) }
    }

    /// Uses a rule of your own: see [`OwnRule`].
    ///
    /// Two of them are equal if their names are. Only the name is saved in a checkpoint, and it is not [parsed](Self#text).
    pub fn own(rule: impl OwnRule) -> Self {
        Self::Own(Own::new(rule))
    }

    /// Returns the score that decides which evaluation is the best, where a rule does not say it.
    ///
    /// That is the one that [`on`](Self::on) names. Without it, it is the validation accuracy if a part of the rule watches
    /// that, else the first score that a part of the rule names.
    pub fn monitored(&self) -> Metric {
        if let Some(metric) = self.chosen() {
            return metric.clone();
        }
        let watched = self.watched();
        if watched.contains(&None) {
            Metric::default()
        } else {
            watched.into_iter().flatten().next().unwrap_or_default()
        }
    }

    /// Says whether a part of the rule, or the best evaluation, depends on a score that no part names.
    pub(crate) fn lacks_metric(&self) -> bool {
        let watched = self.watched();
        self.chosen().is_none() && (watched.is_empty() || watched.contains(&None))
    }

    /// Returns the score that [`on`](Self::on) names.
    pub(crate) fn chosen(&self) -> Option<&Metric> {
        match self {
            Self::On { metric, .. } => Some(metric),
            Self::AnyOf(rules) | Self::AllOf(rules) => rules.iter().find_map(Self::chosen),
            Self::Named { rule, .. } => rule.chosen(),
            _ => None,
        }
    }

    /// Returns what the parts of the rule watch; nothing for the monitored score.
    fn watched(&self) -> Vec<Option<Metric>> {
        match self {
            Self::Patience(patience) => vec![patience.metric.clone()],
            Self::NoiseAware { .. } | Self::Target(_) | Self::Divergence(_) | Self::Own(_) => vec![None],
            Self::GeneralizationLoss { .. } | Self::ProgressQuotient { .. } | Self::SuccessiveRises { .. } => {
                vec![Some(Metric::validation_loss())]
            }
            Self::Iterations(_) | Self::Time(_) => Vec::new(),
            Self::AnyOf(rules) | Self::AllOf(rules) => rules.iter().flat_map(Self::watched).collect(),
            Self::Named { rule, .. } | Self::On { rule, .. } => rule.watched(),
        }
    }

    /// Returns the shortest patience in iterations, among this rule and the rules it combines.
    ///
    /// A patience shorter than the interval between two evaluations runs out before the next evaluation can renew it.
    ///
    /// ```
    /// use earlystop::early_stopping::Rule;
    ///
    /// let rule = Rule::any_of([Rule::patience(1000), Rule::noise_aware(500), Rule::iterations(10)]);
    /// assert_eq!(rule.shortest_patience(), Some(500));
    /// assert_eq!(Rule::iterations(10).shortest_patience(), None);
    /// ```
    pub fn shortest_patience(&self) -> Option<u64> {
        match self {
            Self::Patience(Patience { unit: Unit::Iterations, length, .. }) => Some(*length),
            &Self::NoiseAware { patience, .. } => Some(patience),
            Self::AnyOf(rules) | Self::AllOf(rules) => rules.iter().filter_map(Self::shortest_patience).min(),
            Self::Named { rule, .. } | Self::On { rule, .. } => rule.shortest_patience(),
            _ => None,
        }
    }

    /// Says whether the rule or one that it combines needs the [mistakes](Observation::mistakes).
    pub(crate) fn needs_mistakes(&self) -> bool {
        match self {
            Self::NoiseAware { .. } => true,
            Self::AnyOf(rules) | Self::AllOf(rules) => rules.iter().any(Self::needs_mistakes),
            Self::Named { rule, .. } | Self::On { rule, .. } => rule.needs_mistakes(),
            _ => false,
        }
    }

    /// Says what a rule needs that the observation does not have.
    pub(super) fn lacks(&self, monitored: &Metric, observation: &Observation) -> Option<String> {
        let without = |missing: bool, what: &str| missing.then(|| what.to_owned());
        let score = |name: &str| {
            let known = || observation.scores.keys().cloned().collect::<Vec<_>>().join(", ");
            observation.score(name).is_none().then(|| format!("the {}; known are {}", in_words(name), known()))
        };
        match self {
            Self::Patience(patience) => {
                let lacks_epochs = patience.unit == Unit::Epochs && observation.epochs.is_none();
                score(patience.watched(monitored).name()).or_else(|| without(lacks_epochs, LACKS_EPOCHS))
            }
            Self::NoiseAware { .. } => without(observation.mistakes.is_none(), "the mistakes"),
            Self::GeneralizationLoss { .. } | Self::SuccessiveRises { .. } => score(VALIDATION_LOSS),
            Self::ProgressQuotient { .. } => score(VALIDATION_LOSS).or_else(|| score(TRAIN_LOSS)),
            Self::Time(_) => without(observation.elapsed.is_none(), "the elapsed time"),
            Self::AnyOf(rules) | Self::AllOf(rules) => rules.iter().find_map(|rule| rule.lacks(monitored, observation)),
            Self::Named { rule, .. } => rule.lacks(monitored, observation),
            Self::On { metric, rule } => score(metric.name()).or_else(|| rule.lacks(monitored, observation)),
            Self::Target(_) | Self::Divergence(_) => score(monitored.name()),
            Self::Iterations(_) | Self::Own(_) => None,
        }
    }

    /// Returns the kind of the stops by this rule; nothing for a combination, which has those of its rules.
    pub(super) fn kind(&self) -> Option<StopKind> {
        match self {
            Self::Patience(_) | Self::NoiseAware { .. } => Some(StopKind::NoImprovement),
            Self::GeneralizationLoss { .. } | Self::ProgressQuotient { .. } | Self::SuccessiveRises { .. } => {
                Some(StopKind::Overfitting)
            }
            Self::Iterations(_) | Self::Time(_) => Some(StopKind::Budget),
            Self::Target(_) => Some(StopKind::Target),
            Self::Divergence(_) => Some(StopKind::Divergence),
            Self::Own(_) => Some(StopKind::Own),
            Self::AnyOf(_) | Self::AllOf(_) => None,
            Self::Named { rule, .. } | Self::On { rule, .. } => rule.kind(),
        }
    }
}

impl From<Patience> for Rule {
    fn from(patience: Patience) -> Self {
        Self::Patience(patience)
    }
}

/// Prints names in place of their rules; in the alternate form, `{:#}`, names with their rules.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Patience(patience) => patience.fmt(f),
            Self::NoiseAware { patience, significance } => write!(f, "noise-aware({patience}, p < {significance})"),
            Self::GeneralizationLoss { alpha } => write!(f, "GL({alpha})"),
            Self::ProgressQuotient { alpha, strip } => write!(f, "PQ({alpha}, strip {strip})"),
            Self::SuccessiveRises { strips, strip } => write!(f, "UP({strips}, strip {strip})"),
            Self::Iterations(budget) => write!(f, "iterations({budget})"),
            Self::Time(budget) => write!(f, "time({})", exact_clock(*budget)),
            Self::Target(score) => write!(f, "target({score})"),
            Self::Divergence(drop) => write!(f, "divergence({drop})"),
            Self::AnyOf(rules) if rules.is_empty() => write!(f, "never"),
            Self::AnyOf(rules) => combine(f, rules, "any_of", "or"),
            Self::AllOf(rules) => combine(f, rules, "all_of", "and"),
            Self::Own(own) if f.alternate() => write!(f, "own({})", quoted(own.name())),
            Self::Own(own) => write!(f, "{}", own.name()),
            Self::Named { name, rule } if f.alternate() => write!(f, "named({}, {rule:#})", quoted(name)),
            // A name must not be taken for another rule.
            Self::Named { name, .. } if name.parse::<Self>().is_ok() => write!(f, "{}", quoted(name)),
            Self::Named { name, .. } => write!(f, "{name}"),
            Self::On { metric, rule } => {
                write_part(f, rule)?;
                write!(f, " on {}", metric.in_rules())
            }
        }
    }
}

fn combine(f: &mut fmt::Formatter<'_>, rules: &[Rule], function: &str, word: &str) -> fmt::Result {
    // One rule, or none, is not the same as a combination of it.
    if rules.len() < 2 {
        write!(f, "{function}(")?;
        rules.iter().try_for_each(|rule| rule.fmt(f))?;
        return write!(f, ")");
    }
    for (index, rule) in rules.iter().enumerate() {
        if index > 0 {
            write!(f, " {word} ")?;
        }
        write_part(f, rule)?;
    }
    Ok(())
}

/// Writes a rule that is a part of another, in parentheses where its words could be taken for those of the other.
fn write_part(f: &mut fmt::Formatter<'_>, rule: &Rule) -> fmt::Result {
    let combines = matches!(rule, Rule::AnyOf(rules) | Rule::AllOf(rules) if rules.len() > 1);
    if !combines {
        return rule.fmt(f);
    }
    write!(f, "(")?;
    rule.fmt(f)?;
    write!(f, ")")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::early_stopping::judge::Judge;

    fn history(accuracies: &[f64]) -> Vec<Observation> {
        (100..)
            .step_by(100)
            .zip(accuracies)
            .map(|(iteration, &accuracy)| Observation::new(iteration, accuracy))
            .collect()
    }

    fn stop(rule: &Rule, history: &[Observation]) -> Option<(u64, String)> {
        let judge = Judge::after(rule.clone(), history);
        Some((judge.stop_at()?, judge.reason()?.rule))
    }

    #[test]
    fn any_of_stops_with_the_first_and_says_which() {
        let rule = Rule::any_of([Rule::patience(1000), Rule::iterations(500)]);
        assert_eq!(stop(&rule, &history(&[0.9])), Some((500, "iterations(500)".into())));
        assert_eq!(stop(&Rule::never(), &history(&[0.9])), None);
    }

    #[test]
    fn all_of_waits_for_the_last() {
        let rule = Rule::all_of([Rule::patience(200), Rule::target(0.9)]);
        assert_eq!(stop(&rule, &history(&[0.8, 0.7, 0.7])), None); // patience would be over at 301
        assert_eq!(stop(&rule, &history(&[0.8, 0.9])), Some((401, "patience(200) and target(0.9)".into())));
        assert_eq!(stop(&Rule::all_of([Rule::patience(200), Rule::never()]), &history(&[0.9, 0.9])), None);
    }

    #[test]
    fn a_combination_keeps_the_best_of_its_first_rule_with_a_notion_of_it() {
        let history = history(&[0.80, 0.82, 0.90]);
        let best = |rules: &[Rule]| Judge::after(Rule::any_of(rules.to_vec()), &history).kept().map(|kept| kept.index);
        let demanding = Rule::from(Patience::new(1000).min_delta(0.5));
        assert_eq!(best(&[Rule::iterations(500), demanding.clone()]), Some(0));
        assert_eq!(best(&[Rule::patience(10), demanding]), Some(2));
        assert_eq!(best(&[Rule::iterations(500)]), Some(2));
    }

    #[test]
    fn names_read_as_sentences() {
        let both = Rule::all_of([Rule::generalization_loss(5.0), Rule::successive_rises(3, 5)]);
        let rule = Rule::any_of([both, Rule::progress_quotient(0.5, 5), Rule::noise_aware(1000)]);
        let name = "(GL(5) and UP(3, strip 5)) or PQ(0.5, strip 5) or noise-aware(1000, p < 0.05)";
        assert_eq!(rule.to_string(), name);
        let named = rule.named("mine");
        assert_eq!(named.to_string(), "mine");
        assert_eq!(stop(&Rule::iterations(5).named("short"), &[]), Some((5, "short".into())));
    }

    #[test]
    fn a_rule_can_be_saved_whatever_its_numbers() {
        let patience = Patience::new(7).baseline(f64::NEG_INFINITY).min_delta(0.1 + 0.2);
        let rule = Rule::any_of([patience.into(), Rule::target(f64::INFINITY), Rule::time(Duration::from_millis(3))]);
        let json = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), rule);
    }
}
