//! What a rule remembers of the evaluations so far: a few numbers, whatever the length of the run.

use serde::{Deserialize, Serialize};

use super::budgets::{Fall, Reached, Spent};
use super::evaluation::{Evaluation, Kept};
use super::noise::Reference;
use super::own::OwnState;
use super::patience::Waiting;
use super::prechelt::{Overshoot, Quotient, Rises};
use super::{Metric, Rule, StopReason, budgets, noise};
use crate::error::Result;

/// The state of a [`Rule`], variant by variant. A rule with a name or a metric has the state of the rule in it.
///
/// Each method takes the rule that the state belongs to, one that it [fits](Self::fits).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum RuleState {
    Patience(Waiting),
    NoiseAware(Option<Reference>),
    GeneralizationLoss(Overshoot),
    ProgressQuotient(Quotient),
    SuccessiveRises(Rises),
    Iterations,
    Time(Option<Spent>),
    Target(Option<Reached>),
    Divergence(Option<Fall>),
    AnyOf(Vec<RuleState>),
    AllOf(Vec<RuleState>),
    Own(OwnState),
}

impl RuleState {
    /// Returns the state before the first evaluation.
    pub(super) fn new(rule: &Rule) -> Self {
        match rule {
            Rule::Patience(_) => Self::Patience(Waiting::default()),
            Rule::NoiseAware { .. } => Self::NoiseAware(None),
            Rule::GeneralizationLoss { .. } => Self::GeneralizationLoss(Overshoot::default()),
            Rule::ProgressQuotient { .. } => Self::ProgressQuotient(Quotient::default()),
            Rule::SuccessiveRises { .. } => Self::SuccessiveRises(Rises::default()),
            Rule::Iterations(_) => Self::Iterations,
            Rule::Time(_) => Self::Time(None),
            Rule::Target(_) => Self::Target(None),
            Rule::Divergence(_) => Self::Divergence(None),
            Rule::AnyOf(rules) => Self::AnyOf(rules.iter().map(Self::new).collect()),
            Rule::AllOf(rules) => Self::AllOf(rules.iter().map(Self::new).collect()),
            Rule::Named { rule, .. } | Rule::On { rule, .. } => Self::new(rule),
            Rule::Own(_) => Self::Own(OwnState::default()),
        }
    }

    /// Says whether this is a state of such a rule.
    pub(super) fn fits(&self, rule: &Rule) -> bool {
        match (self, rule) {
            (_, Rule::Named { rule, .. } | Rule::On { rule, .. }) => self.fits(rule),
            (Self::AnyOf(states), Rule::AnyOf(rules)) | (Self::AllOf(states), Rule::AllOf(rules)) => {
                states.len() == rules.len() && states.iter().zip(rules).all(|(state, rule)| state.fits(rule))
            }
            (Self::Own(state), Rule::Own(own)) => state.fits(own),
            _ => std::mem::discriminant(self) == std::mem::discriminant(&Self::new(rule)),
        }
    }

    /// Takes in the next evaluation.
    ///
    /// # Errors
    ///
    /// If a rule of the program's own refuses it. Then the state must not be used any more.
    pub(super) fn step(&mut self, rule: &Rule, evaluation: &Evaluation) -> Result<()> {
        match (self, rule) {
            (state, Rule::Named { rule, .. } | Rule::On { rule, .. }) => state.step(rule, evaluation)?,
            (Self::AnyOf(states), Rule::AnyOf(rules)) | (Self::AllOf(states), Rule::AllOf(rules)) => {
                states.iter_mut().zip(rules).try_for_each(|(state, rule)| state.step(rule, evaluation))?;
            }
            (Self::Patience(state), Rule::Patience(patience)) => patience.step(state, evaluation),
            (Self::NoiseAware(state), &Rule::NoiseAware { significance, .. }) => {
                noise::step(state, significance, evaluation);
            }
            (Self::GeneralizationLoss(state), &Rule::GeneralizationLoss { alpha }) => state.step(alpha, evaluation),
            (Self::ProgressQuotient(state), &Rule::ProgressQuotient { alpha, strip }) => {
                state.step(alpha, strip, evaluation);
            }
            (Self::SuccessiveRises(state), &Rule::SuccessiveRises { strip, .. }) => state.step(strip, evaluation),
            (Self::Time(state), &Rule::Time(budget)) => *state = Spent::find(budget, evaluation),
            (Self::Target(state), &Rule::Target(score)) => *state = Reached::find(score, evaluation),
            (Self::Divergence(state), &Rule::Divergence(drop)) => *state = Fall::find(drop, evaluation),
            (Self::Own(state), Rule::Own(own)) => state.step(own, evaluation)?,
            _ => {} // a budget of iterations; or the state of another rule, which is never used
        }
        Ok(())
    }

    /// Returns the best evaluation, if the rule has its own notion of it.
    pub(super) fn kept(&self) -> Option<Kept> {
        match self {
            Self::Patience(state) => state.kept(),
            Self::NoiseAware(state) => state.as_ref().map(|reference| reference.kept),
            Self::GeneralizationLoss(state) => state.lowest.kept(),
            Self::ProgressQuotient(state) => state.lowest.kept(),
            Self::SuccessiveRises(state) => state.lowest.kept(),
            Self::Iterations | Self::Time(_) | Self::Target(_) | Self::Divergence(_) => None,
            Self::AnyOf(states) | Self::AllOf(states) => states.iter().find_map(Self::kept),
            Self::Own(state) => state.kept,
        }
    }

    /// Returns the first iteration after which to stop, if no evaluation comes before it.
    ///
    /// A patience knows it in advance. So a run can ask after every iteration, and a replay need not step through them.
    pub(super) fn stop_at(&self, rule: &Rule) -> Option<u64> {
        match (self, rule) {
            (_, Rule::Named { rule, .. } | Rule::On { rule, .. }) => self.stop_at(rule),
            (Self::AnyOf(states), Rule::AnyOf(rules)) => {
                states.iter().zip(rules).filter_map(|(state, rule)| state.stop_at(rule)).min()
            }
            (Self::AllOf(states), Rule::AllOf(rules)) => {
                let stops: Option<Vec<u64>> =
                    states.iter().zip(rules).map(|(state, rule)| state.stop_at(rule)).collect();
                stops?.into_iter().max()
            }
            (Self::Patience(state), Rule::Patience(patience)) => patience.stop_at(state),
            (Self::NoiseAware(state), &Rule::NoiseAware { patience, .. }) => noise::stop_at(state.as_ref()?, patience),
            (Self::GeneralizationLoss(state), _) => state.stop.map(|stop| stop.iteration),
            (Self::ProgressQuotient(state), _) => state.stop.map(|stop| stop.iteration),
            (Self::SuccessiveRises(state), &Rule::SuccessiveRises { strips, .. }) => state.stop_at(strips),
            (Self::Iterations, &Rule::Iterations(budget)) => Some(budget),
            (Self::Time(state), _) => state.map(|spent| spent.iteration),
            (Self::Target(state), _) => state.map(|reached| reached.iteration),
            (Self::Divergence(state), _) => state.map(|fall| fall.iteration),
            (Self::Own(state), _) => state.stop.as_ref().map(|stop| stop.iteration),
            _ => None,
        }
    }

    /// Says why to stop, if the rule wants to stop at all.
    pub(super) fn reason(&self, rule: &Rule, metric: &Metric) -> Option<StopReason> {
        let why = match (self, rule) {
            (_, Rule::Named { rule: inner, .. } | Rule::On { rule: inner, .. }) => {
                return Some(StopReason { rule: rule.to_string(), ..self.reason(inner, metric)? });
            }
            (Self::AnyOf(states), Rule::AnyOf(rules)) => {
                let stops =
                    states.iter().zip(rules).filter_map(|(state, rule)| Some((state.stop_at(rule)?, state, rule)));
                let (_, state, rule) = stops.min_by_key(|&(at, ..)| at)?;
                return state.reason(rule, metric);
            }
            (Self::AllOf(states), Rule::AllOf(rules)) => return all_of(rule, metric, states, rules),
            (Self::Patience(state), Rule::Patience(patience)) => patience.why(state),
            (Self::NoiseAware(state), &Rule::NoiseAware { patience, significance }) => {
                noise::why(state.as_ref()?, patience, significance)
            }
            (Self::GeneralizationLoss(state), &Rule::GeneralizationLoss { alpha }) => state.why(alpha)?,
            (Self::ProgressQuotient(state), &Rule::ProgressQuotient { alpha, .. }) => state.why(alpha)?,
            (Self::SuccessiveRises(state), &Rule::SuccessiveRises { strip, .. }) => state.why(strip),
            (Self::Iterations, &Rule::Iterations(budget)) => budgets::iterations_used_up(budget),
            (Self::Time(state), &Rule::Time(budget)) => state.as_ref()?.why(budget),
            (Self::Target(state), &Rule::Target(score)) => state.as_ref()?.why(score, metric),
            (Self::Divergence(state), &Rule::Divergence(drop)) => state.as_ref()?.why(drop, metric),
            (Self::Own(state), _) => state.stop.as_ref()?.why.clone(),
            _ => return None,
        };
        self.stop_at(rule)?;
        Some(StopReason { kind: rule.kind()?, rule: rule.to_string(), why })
    }
}

/// The kind of the rule that stops last, and the reasons of all.
fn all_of(rule: &Rule, metric: &Metric, states: &[RuleState], rules: &[Rule]) -> Option<StopReason> {
    let stop = |(state, rule): (&RuleState, &Rule)| Some((state.stop_at(rule)?, state.reason(rule, metric)?));
    let stops: Vec<_> = states.iter().zip(rules).map(stop).collect::<Option<_>>()?;
    let why = stops.iter().map(|(_, reason)| reason.why.as_str()).collect::<Vec<_>>().join(", and ");
    let (_, last) = stops.iter().max_by_key(|&&(at, _)| at)?;
    Some(StopReason { kind: last.kind, rule: rule.to_string(), why })
}
