//! The rules as values: to combine, compare, print and save.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::report::clock;
use super::{Judgement, Observation, Patience, Stop, StopReason, budgets, highest_accuracy, noise, number, prechelt};

/// When to stop, and what counts as better: a plain value without state of its own, a function of a run's history.
///
/// [`Patience`], the noise-aware rule and Prechelt's three have their own notion of the best evaluation; a budget, a
/// target and a divergence take the highest validation accuracy. A combination has the notion of the first of its rules
/// that has one of its own.
///
/// ```
/// use std::time::Duration;
/// use earlystop::early_stopping::Rule;
///
/// let rule = Rule::any_of([Rule::patience(1000), Rule::time(Duration::from_secs(600))]);
/// assert_eq!(rule.to_string(), "patience(1000) or time(0:10:00)");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Rule {
    /// See [`Patience`].
    Patience(Patience),
    /// See [`Rule::noise_aware`].
    NoiseAware {
        /// In iterations.
        patience: u64,
        /// The probability below which a change is not luck, 0.0 to 1.0.
        #[serde(with = "number")]
        significance: f64,
    },
    /// See [`Rule::generalization_loss`].
    GeneralizationLoss {
        /// In percent of the lowest validation loss.
        #[serde(with = "number")]
        alpha: f64,
    },
    /// See [`Rule::progress_quotient`].
    ProgressQuotient {
        /// In percent of generalization loss per per mille of training progress.
        #[serde(with = "number")]
        alpha: f64,
        /// In evaluations.
        strip: usize,
    },
    /// See [`Rule::successive_rises`].
    SuccessiveRises {
        /// How many.
        strips: usize,
        /// In evaluations.
        strip: usize,
    },
    /// See [`Rule::iterations`].
    Iterations(u64),
    /// See [`Rule::time`].
    Time(Duration),
    /// See [`Rule::target`].
    Target(#[serde(with = "number")] f64),
    /// See [`Rule::divergence`].
    Divergence(#[serde(with = "number")] f64),
    /// See [`Rule::any_of`].
    AnyOf(Vec<Rule>),
    /// See [`Rule::all_of`].
    AllOf(Vec<Rule>),
    /// See [`Rule::named`].
    Named {
        /// What it is called.
        name: String,
        /// What it is.
        rule: Box<Rule>,
    },
}

impl Rule {
    /// Stops when the validation accuracy has not improved for more than so many iterations: the tutorial's rule.
    pub fn patience(iterations: u64) -> Self {
        Patience::new(iterations).into()
    }

    /// Has patience, in iterations, and counts an improvement only if it is more than the luck of a finite validation
    /// set.
    ///
    /// That is decided by [`mcnemar`](super::mcnemar) on the images that changed since the best evaluation, at a
    /// probability below 5%. Needs the [mistakes](Observation::mistakes). Steps too small to be told from luck add up,
    /// as the best stays where it was.
    pub fn noise_aware(patience: u64) -> Self {
        Self::NoiseAware { patience, significance: 0.05 }
    }

    /// Stops when the validation loss is more than `alpha` percent above its lowest: [Prechelt's][paper] GL. Needs the
    /// validation loss.
    ///
    /// [paper]: https://doi.org/10.1007/3-540-49430-8_3
    pub fn generalization_loss(alpha: f64) -> Self {
        Self::GeneralizationLoss { alpha }
    }

    /// Stops at the end of a strip of so many evaluations when the generalization loss in percent, divided by the
    /// training's progress in the strip in per mille, is more than `alpha`: [Prechelt's][paper] PQ. Needs the losses of
    /// validation and of training.
    ///
    /// So a run that still learns quickly is allowed a rise of the validation loss. Prechelt takes strips of 5.
    ///
    /// [paper]: https://doi.org/10.1007/3-540-49430-8_3
    pub fn progress_quotient(alpha: f64, strip: usize) -> Self {
        Self::ProgressQuotient { alpha, strip }
    }

    /// Stops when the validation loss has risen over so many strips in succession: [Prechelt's][paper] UP. Needs the
    /// validation loss.
    ///
    /// The loss at the end of a strip of so many evaluations is held against that at the end of the strip before,
    /// however small the rise. Prechelt takes strips of 5.
    ///
    /// [paper]: https://doi.org/10.1007/3-540-49430-8_3
    pub fn successive_rises(strips: usize, strip: usize) -> Self {
        Self::SuccessiveRises { strips, strip }
    }

    /// Stops after so many iterations in all.
    pub fn iterations(budget: u64) -> Self {
        Self::Iterations(budget)
    }

    /// Stops at the first evaluation after so much time. Needs the [elapsed](Observation::elapsed) time, which the
    /// caller counts on across a resume.
    pub fn time(budget: Duration) -> Self {
        Self::Time(budget)
    }

    /// Stops when the validation accuracy, 0.0 to 1.0, reaches this one.
    pub fn target(accuracy: f64) -> Self {
        Self::Target(accuracy)
    }

    /// Stops when the validation accuracy is more than `drop`, 0.0 to 1.0, below the highest: the network has
    /// collapsed.
    pub fn divergence(drop: f64) -> Self {
        Self::Divergence(drop)
    }

    /// Never stops, to be held against those that do.
    pub fn never() -> Self {
        Self::AnyOf(Vec::new())
    }

    /// Stops as soon as one of the rules does.
    pub fn any_of(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self::AnyOf(rules.into_iter().collect())
    }

    /// Stops when all of the rules would at the same time. Of no rules at all, never.
    pub fn all_of(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self::AllOf(rules.into_iter().collect())
    }

    /// Gives the rule a name, to be printed in place of its numbers.
    pub fn named(self, name: impl Into<String>) -> Self {
        Self::Named { name: name.into(), rule: Box::new(self) }
    }

    /// Judges a history in which all is finite and which lacks nothing.
    pub(super) fn judge(&self, history: &[Observation]) -> Judgement {
        match self {
            Self::Patience(patience) => patience.judge(history),
            &Self::NoiseAware { patience, significance } => noise::noise_aware(self, patience, significance, history),
            &Self::GeneralizationLoss { alpha } => prechelt::generalization_loss(self, alpha, history),
            &Self::ProgressQuotient { alpha, strip } => prechelt::progress_quotient(self, alpha, strip, history),
            &Self::SuccessiveRises { strips, strip } => prechelt::successive_rises(self, strips, strip, history),
            &Self::Iterations(budget) => budgets::iterations(self, budget, history),
            &Self::Time(budget) => budgets::time(self, budget, history),
            &Self::Target(accuracy) => budgets::target(self, accuracy, history),
            &Self::Divergence(drop) => budgets::divergence(self, drop, history),
            Self::AnyOf(rules) => {
                let judgements: Vec<_> = rules.iter().map(|rule| rule.judge(history)).collect();
                let best = chosen(rules, &judgements, history);
                Judgement { best, stop: judgements.into_iter().filter_map(|it| it.stop).min_by_key(|stop| stop.at) }
            }
            Self::AllOf(rules) => {
                let judgements: Vec<_> = rules.iter().map(|rule| rule.judge(history)).collect();
                let best = chosen(rules, &judgements, history);
                let stops: Option<Vec<Stop>> = judgements.into_iter().map(|it| it.stop).collect();
                Judgement { best, stop: stops.and_then(|stops| self.last_of(stops)) }
            }
            Self::Named { name, rule } => {
                let mut judgement = rule.judge(history);
                if let Some(stop) = &mut judgement.stop {
                    stop.reason.rule.clone_from(name);
                }
                judgement
            }
        }
    }

    /// Says what a rule needs that the observation does not have.
    pub(super) fn lacks(&self, observation: &Observation, first: &Observation) -> Option<&'static str> {
        let without = |missing: bool, what| missing.then_some(what);
        let validation_loss = || without(observation.validation_loss.is_none(), "the validation loss");
        match self {
            Self::Patience(patience) => patience.lacks(observation),
            Self::NoiseAware { .. } => {
                let images = |it: &Observation| it.mistakes.as_ref().map(|mistakes| mistakes.images());
                without(images(observation).is_none(), "the mistakes")
                    .or(without(images(observation) != images(first), "the mistakes on the same images as at first"))
            }
            Self::GeneralizationLoss { .. } | Self::SuccessiveRises { .. } => validation_loss(),
            Self::ProgressQuotient { .. } => {
                validation_loss().or(without(observation.train_loss.is_none(), "the training loss"))
            }
            Self::Time(_) => without(observation.elapsed.is_none(), "the elapsed time"),
            Self::AnyOf(rules) | Self::AllOf(rules) => rules.iter().find_map(|rule| rule.lacks(observation, first)),
            Self::Named { rule, .. } => rule.lacks(observation, first),
            Self::Iterations(_) | Self::Target(_) | Self::Divergence(_) => None,
        }
    }

    /// Whether the rule has its own notion of the best evaluation.
    fn chooses(&self) -> bool {
        match self {
            Self::Iterations(_) | Self::Time(_) | Self::Target(_) | Self::Divergence(_) => false,
            Self::AnyOf(rules) | Self::AllOf(rules) => rules.iter().any(Self::chooses),
            Self::Named { rule, .. } => rule.chooses(),
            _ => true,
        }
    }

    /// The shortest patience in it, in iterations.
    pub(crate) fn shortest_patience(&self) -> Option<u64> {
        match self {
            Self::Patience(patience) => Some(patience.iterations()),
            &Self::NoiseAware { patience, .. } => Some(patience),
            Self::AnyOf(rules) | Self::AllOf(rules) => rules.iter().filter_map(Self::shortest_patience).min(),
            Self::Named { rule, .. } => rule.shortest_patience(),
            _ => None,
        }
    }

    fn last_of(&self, stops: Vec<Stop>) -> Option<Stop> {
        let why = stops.iter().map(|stop| stop.reason.why.as_str()).collect::<Vec<_>>().join(", and ");
        let last = stops.into_iter().max_by_key(|stop| stop.at)?;
        Some(Stop { at: last.at, reason: StopReason { kind: last.reason.kind, rule: self.to_string(), why } })
    }
}

/// The best by the first rule that has its own notion of it.
fn chosen(rules: &[Rule], judgements: &[Judgement], history: &[Observation]) -> Option<usize> {
    match rules.iter().position(Rule::chooses) {
        Some(first) => judgements[first].best,
        None => highest_accuracy(history),
    }
}

impl From<Patience> for Rule {
    fn from(patience: Patience) -> Self {
        Self::Patience(patience)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Patience(patience) => patience.fmt(f),
            Self::NoiseAware { patience, significance } => write!(f, "noise-aware({patience}, p < {significance})"),
            Self::GeneralizationLoss { alpha } => write!(f, "GL({alpha})"),
            Self::ProgressQuotient { alpha, strip } => write!(f, "PQ({alpha}, strip {strip})"),
            Self::SuccessiveRises { strips, strip } => write!(f, "UP({strips}, strip {strip})"),
            Self::Iterations(budget) => write!(f, "iterations({budget})"),
            Self::Time(budget) => write!(f, "time({})", clock(*budget)),
            Self::Target(accuracy) => write!(f, "target({accuracy})"),
            Self::Divergence(drop) => write!(f, "divergence({drop})"),
            Self::AnyOf(rules) if rules.is_empty() => write!(f, "never"),
            Self::AllOf(rules) if rules.is_empty() => write!(f, "never"),
            Self::AnyOf(rules) => join(f, rules, " or "),
            Self::AllOf(rules) => join(f, rules, " and "),
            Self::Named { name, .. } => write!(f, "{name}"),
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, rules: &[Rule], word: &str) -> fmt::Result {
    for (index, rule) in rules.iter().enumerate() {
        let before = if index == 0 { "" } else { word };
        match rule {
            Rule::AnyOf(inner) | Rule::AllOf(inner) if inner.len() > 1 => write!(f, "{before}({rule})")?,
            _ => write!(f, "{before}{rule}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(accuracies: &[f64]) -> Vec<Observation> {
        (100..)
            .step_by(100)
            .zip(accuracies)
            .map(|(iteration, &accuracy)| Observation::new(iteration, accuracy))
            .collect()
    }

    fn stop(rule: &Rule, history: &[Observation]) -> Option<(u64, String)> {
        rule.judge(history).stop.map(|stop| (stop.at, stop.reason.rule))
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
        assert_eq!(stop(&Rule::all_of([]), &history(&[0.9])), None);
    }

    #[test]
    fn a_combination_keeps_the_best_of_its_first_rule_with_a_notion_of_it() {
        let history = history(&[0.80, 0.82, 0.90]);
        let demanding = Rule::from(Patience::new(1000).min_delta(0.5));
        assert_eq!(Rule::any_of([Rule::iterations(500), demanding.clone()]).judge(&history).best, Some(0));
        assert_eq!(Rule::any_of([Rule::patience(10), demanding]).judge(&history).best, Some(2));
        assert_eq!(Rule::any_of([Rule::iterations(500)]).judge(&history).best, Some(2));
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
