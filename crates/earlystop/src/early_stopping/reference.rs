//! Reference implementations for the tests: each rule as a function of the whole history, judged again each time.
//!
//! Slow and simple. The actual rules process one evaluation at a time; the tests compare both.

use std::fmt::Display;
use std::time::Duration;

use super::patience::Unit;
use super::report::clock;
use super::{Metric, Observation, Patience, Rule, StopKind, StopReason, mcnemar};

/// What a rule makes of a history.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Judgement {
    /// The index of the best evaluation.
    pub(super) best: Option<usize>,
    pub(super) stop: Option<Stop>,
}

/// The first iteration after which to stop, should no evaluation come before it, and why.
///
/// A patience knows it beforehand. So a run can be asked after every iteration, and a replay need not step through
/// them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stop {
    pub(super) at: u64,
    pub(super) reason: StopReason,
}

impl Judgement {
    /// Judges by a rule what comes before the first evaluation that no rule can judge.
    pub(super) fn of(rule: &Rule, history: &[Observation]) -> Self {
        let trouble = |(index, it): (usize, &Observation)| {
            if let Some(what) = it.not_finite() {
                return Some((index, StopKind::NotFinite, format!("{what} at iteration {}", it.iteration)));
            }
            let what = rule.reference_lacks(it)?;
            Some((index, StopKind::CannotJudge, format!("cannot judge iteration {} without {what}", it.iteration)))
        };
        match history.iter().enumerate().find_map(trouble) {
            None => rule.judge(history),
            Some((index, kind, why)) => {
                Self::keeping(rule.judge(&history[..index]).best).stopping_at(history[index].iteration, kind, rule, why)
            }
        }
    }

    fn keeping(best: Option<usize>) -> Self {
        Self { best, stop: None }
    }

    fn stopping_at(self, iteration: u64, kind: StopKind, rule: &impl Display, why: String) -> Self {
        Self { stop: Some(Stop { at: iteration, reason: StopReason { kind, rule: rule.to_string(), why } }), ..self }
    }

    fn stopping_after(self, iteration: u64, kind: StopKind, rule: &impl Display, why: String) -> Self {
        self.stopping_at(iteration.saturating_add(1), kind, rule, why)
    }
}

fn accuracy_of(observation: &Observation) -> f64 {
    observation.scores["validation_accuracy"]
}

fn loss_of(observation: &Observation) -> Option<f64> {
    observation.score("validation_loss")
}

fn known(observation: &Observation) -> String {
    format!("; known are {}", observation.scores.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
}

/// The index of the first evaluation with the highest validation accuracy.
fn highest_accuracy(history: &[Observation]) -> Option<usize> {
    // From the end, as `max_by` takes the last of equals.
    let from_the_end = history.iter().enumerate().rev();
    from_the_end.max_by(|(_, a), (_, b)| accuracy_of(a).total_cmp(&accuracy_of(b))).map(|(index, _)| index)
}

impl Rule {
    /// Judges a history in which all is finite and which lacks nothing.
    fn judge(&self, history: &[Observation]) -> Judgement {
        match self {
            Self::Patience(patience) => patience.judge(history),
            &Self::NoiseAware { patience, significance } => noise_aware(self, patience, significance, history),
            &Self::GeneralizationLoss { alpha } => generalization_loss(self, alpha, history),
            &Self::ProgressQuotient { alpha, strip } => progress_quotient(self, alpha, strip, history),
            &Self::SuccessiveRises { strips, strip } => successive_rises(self, strips, strip, history),
            &Self::Iterations(budget) => iterations(self, budget, history),
            &Self::Time(budget) => time(self, budget, history),
            &Self::Target(accuracy) => target(self, accuracy, history),
            &Self::Divergence(drop) => divergence(self, drop, history),
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
            Self::On { .. } | Self::Own(_) => {
                unreachable!("the histories of these tests are judged by accuracy and loss")
            }
        }
    }

    /// Says what a rule needs that the observation does not have.
    fn reference_lacks(&self, observation: &Observation) -> Option<String> {
        let without = |missing: bool, what: &str| missing.then(|| what.to_owned());
        let validation_loss =
            || without(loss_of(observation).is_none(), &format!("the validation loss{}", known(observation)));
        match self {
            Self::Patience(patience) => patience.reference_lacks(observation),
            Self::NoiseAware { .. } => without(observation.mistakes.is_none(), "the mistakes"),
            Self::GeneralizationLoss { .. } | Self::SuccessiveRises { .. } => validation_loss(),
            Self::ProgressQuotient { .. } => {
                let train_loss = observation.score("train_loss");
                validation_loss().or(without(train_loss.is_none(), &format!("the training loss{}", known(observation))))
            }
            Self::Time(_) => without(observation.elapsed.is_none(), "the elapsed time"),
            Self::AnyOf(rules) | Self::AllOf(rules) => rules.iter().find_map(|rule| rule.reference_lacks(observation)),
            Self::Named { rule, .. } => rule.reference_lacks(observation),
            Self::Iterations(_) | Self::Target(_) | Self::Divergence(_) => None,
            Self::On { .. } | Self::Own(_) => {
                unreachable!("the histories of these tests are judged by accuracy and loss")
            }
        }
    }

    /// Whether the rule has its own notion of the best evaluation.
    fn chooses(&self) -> bool {
        match self {
            Self::Iterations(_) | Self::Time(_) | Self::Target(_) | Self::Divergence(_) => false,
            Self::AnyOf(rules) | Self::AllOf(rules) => rules.iter().any(Self::chooses),
            Self::Named { rule, .. } | Self::On { rule, .. } => rule.chooses(),
            _ => true,
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

impl Patience {
    fn reference_lacks(&self, observation: &Observation) -> Option<String> {
        if self.is_on_loss() && loss_of(observation).is_none() {
            return Some(format!("the validation loss{}", known(observation)));
        }
        let lacks_epochs = self.unit == Unit::Epochs && observation.epochs.is_none();
        lacks_epochs.then(|| {
            "the number of completed epochs: set Observation::epochs, which histories of earlier versions do not have, \
             or use a patience in iterations or evaluations"
                .to_owned()
        })
    }

    fn is_on_loss(&self) -> bool {
        self.metric == Some(Metric::validation_loss())
    }

    fn upwards(&self, value: f64) -> f64 {
        if self.is_on_loss() { -value } else { value }
    }

    fn judge(&self, history: &[Observation]) -> Judgement {
        let mut average = Average::new(self.smoothing);
        let score = |seen| if self.is_on_loss() { loss_of(seen).unwrap_or(f64::INFINITY) } else { accuracy_of(seen) };
        let mut best: Option<(usize, f64)> = None;
        let place = |index: usize| match self.unit {
            Unit::Iterations => history[index].iteration,
            Unit::Evaluations => index as u64 + 1,
            Unit::Epochs => history[index].epochs.unwrap_or(0),
        };
        let mut since = self.warm_up;
        let mut renewed = 0;
        for (index, observation) in history.iter().enumerate() {
            let score = average.next(self.upwards(score(observation)));
            if best.is_none_or(|(_, best)| score > best + self.margin(best)) {
                best = Some((index, score));
                if self.baseline.is_none_or(|baseline| score > self.upwards(baseline)) {
                    (since, renewed) = (since.max(place(index)), index);
                }
            }
        }
        let judgement = Judgement::keeping(best.map(|(index, _)| index));
        if history.is_empty() {
            return judgement;
        }
        let (length, s) = (self.length, if self.length == 1 { "" } else { "s" });
        let why = match self.unit {
            Unit::Iterations => {
                let why = format!("no improvement for more than {length} iterations since iteration {since}");
                return judgement.stopping_after(since.saturating_add(length), StopKind::NoImprovement, self, why);
            }
            Unit::Evaluations => format!("no improvement for {length} evaluation{s} since evaluation {since}"),
            Unit::Epochs => format!("no improvement for {length} epoch{s} since epoch {since}"),
        };
        match (renewed..history.len()).find(|&index| place(index) >= since.saturating_add(length)) {
            Some(index) => judgement.stopping_at(history[index].iteration, StopKind::NoImprovement, self, why),
            None => judgement,
        }
    }
}

/// The iterations are known beforehand, so this needs no evaluation at all.
fn iterations(name: &impl Display, budget: u64, history: &[Observation]) -> Judgement {
    let why = format!("the budget of {budget} iterations is used up");
    Judgement::keeping(highest_accuracy(history)).stopping_at(budget, StopKind::Budget, name, why)
}

fn time(name: &impl Display, budget: Duration, history: &[Observation]) -> Judgement {
    stop_if(name, history, StopKind::Budget, |last| {
        let elapsed = last.elapsed.filter(|&elapsed| elapsed >= budget)?;
        Some(format!("{} of {} are used up", clock(elapsed), clock(budget)))
    })
}

fn target(name: &impl Display, accuracy: f64, history: &[Observation]) -> Judgement {
    stop_if(name, history, StopKind::Target, |last| {
        let reached = accuracy_of(last);
        (reached >= accuracy)
            .then(|| format!("the validation accuracy {:.2}% reaches {:.2}%", 100.0 * reached, 100.0 * accuracy))
    })
}

fn divergence(name: &impl Display, drop: f64, history: &[Observation]) -> Judgement {
    stop_if(name, history, StopKind::Divergence, |last| {
        let best = accuracy_of(&history[highest_accuracy(history)?]);
        let now = accuracy_of(last);
        (now < best - drop).then(|| {
            format!(
                "the validation accuracy fell from {:.1}% to {:.1}%, by more than {:.1} points",
                100.0 * best,
                100.0 * now,
                100.0 * drop
            )
        })
    })
}

fn stop_if(
    name: &impl Display,
    history: &[Observation],
    kind: StopKind,
    why: impl FnOnce(&Observation) -> Option<String>,
) -> Judgement {
    let judgement = Judgement::keeping(highest_accuracy(history));
    match history.last().and_then(|last| Some((last.iteration, why(last)?))) {
        Some((iteration, why)) => judgement.stopping_at(iteration, kind, name, why),
        None => judgement,
    }
}

/// `GL_α`: stops once `GL(t) = 100 * (E_va(t) / E_opt(t) - 1) > α`.
fn generalization_loss(name: &impl Display, alpha: f64, history: &[Observation]) -> Judgement {
    let judgement = Judgement::keeping(lowest(history));
    let Some(last) = history.last() else { return judgement };
    let loss = above_lowest(history);
    if loss > alpha {
        let why = format!("the validation loss is {loss:.1}% above its lowest, more than {alpha}%");
        return judgement.stopping_at(last.iteration, StopKind::Overfitting, name, why);
    }
    judgement
}

/// `PQ_α`: stops at the end of a strip once `GL(t) / P_k(t) > α`, where the progress of training `P_k(t)` says by how
/// many per mille the strip's mean training loss is above its lowest.
fn progress_quotient(name: &impl Display, alpha: f64, strip: usize, history: &[Observation]) -> Judgement {
    let judgement = Judgement::keeping(lowest(history));
    let Some((strip, complete)) = last_strip(strip, history) else {
        return judgement;
    };
    let train_losses = || strip.iter().filter_map(|observation| observation.score("train_loss"));
    let mean = train_losses().sum::<f64>() / strip.len() as f64;
    let lowest = train_losses().fold(f64::INFINITY, f64::min);
    // Rounding can take the mean of equal losses below them.
    let progress = 1000.0 * (mean / lowest - 1.0).max(0.0);
    let quotient = above_lowest(complete) / progress;
    if quotient > alpha {
        let why = format!("generalization loss over training progress is {quotient:.2}, more than {alpha}");
        return judgement.stopping_at(strip[strip.len() - 1].iteration, StopKind::Overfitting, name, why);
    }
    judgement
}

/// `UP_s`: stops once the validation loss has risen, from strip's end to strip's end, `s` times in succession.
fn successive_rises(name: &impl Display, strips: usize, strip: usize, history: &[Observation]) -> Judgement {
    let judgement = Judgement::keeping(lowest(history));
    let strips = strips.max(1);
    let ends: Vec<_> = history.chunks_exact(strip.max(1)).filter_map(|strip| strip.last()).collect();
    let rises = ends.windows(2).rev().take_while(|pair| loss_of(pair[1]) > loss_of(pair[0])).count();
    match ends.last() {
        Some(last) if rises >= strips => {
            let why = format!("the validation loss rose in {rises} successive strips of {strip} evaluations");
            judgement.stopping_at(last.iteration, StopKind::Overfitting, name, why)
        }
        _ => judgement,
    }
}

/// `GL` at the last evaluation: how far its validation loss is above the lowest, in percent.
fn above_lowest(history: &[Observation]) -> f64 {
    let losses = || history.iter().filter_map(loss_of);
    100.0 * (losses().next_back().unwrap_or(f64::NAN) / losses().fold(f64::INFINITY, f64::min) - 1.0)
}

/// The last complete strip, and the history up to its end.
fn last_strip(strip: usize, history: &[Observation]) -> Option<(&[Observation], &[Observation])> {
    let last = history.chunks_exact(strip.max(1)).next_back()?;
    let complete = history.len() - history.len() % strip.max(1);
    Some((last, &history[..complete]))
}

/// The index of the first evaluation with the lowest validation loss.
fn lowest(history: &[Observation]) -> Option<usize> {
    let losses = history.iter().map(|observation| loss_of(observation).unwrap_or(f64::INFINITY));
    losses.enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

/// Patience in which an improvement counts only if chance would give it with a probability below `significance`.
fn noise_aware(name: &impl Display, patience: u64, significance: f64, history: &[Observation]) -> Judgement {
    let mut best: Option<usize> = None;
    for (index, observation) in history.iter().enumerate() {
        let Some(mistakes) = &observation.mistakes else {
            continue;
        };
        let improved = match best.and_then(|best| history[best].mistakes.as_ref()) {
            Some(before) => mcnemar(before.not_in(mistakes), mistakes.not_in(before)) < significance,
            None => true,
        };
        if improved {
            best = Some(index);
        }
    }
    let judgement = Judgement::keeping(best);
    let Some(best) = best.map(|best| &history[best]) else {
        return judgement;
    };
    let why = format!(
        "no significant improvement (p < {significance}) for more than {patience} iterations since iteration {}",
        best.iteration
    );
    judgement.stopping_after(best.iteration.saturating_add(patience), StopKind::NoImprovement, name, why)
}

struct Average {
    decay: f64,
    sum: f64,
    /// What `sum` would be if every value were 1: less than 1 while the average still leans on its start at 0.
    weight: f64,
}

impl Average {
    fn new(decay: f64) -> Self {
        Self { decay, sum: 0.0, weight: 0.0 }
    }

    fn next(&mut self, value: f64) -> f64 {
        self.sum = self.decay * self.sum + (1.0 - self.decay) * value;
        self.weight = self.decay * self.weight + (1.0 - self.decay);
        self.sum / self.weight
    }
}
