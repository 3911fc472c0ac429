//! Refuses rules and observations whose values have no meaning.

use std::fmt;
use std::ops::{Bound, RangeBounds as _};

use super::observation::RESERVED;
use super::patience::{MinDelta, Unit};
use super::{Metric, Observation, Patience, Rule, score};
use crate::error::{Error, Result};

impl Rule {
    /// Checks that every argument of the rule is within its range.
    ///
    /// [`EarlyStopping::with`](super::EarlyStopping::with) and
    /// [`TrainerBuilder::build`](crate::trainer::TrainerBuilder::build) call this; [`replay`](super::replay) reports
    /// what it finds in the row of the rule.
    ///
    /// ```
    /// use earlystop::early_stopping::Rule;
    ///
    /// assert!(Rule::target(0.99).check().is_ok());
    /// let error = Rule::target(99.0).check().unwrap_err().to_string();
    /// assert_eq!(error, "accuracy of target(99): expected more than 0 and at most 1 (1 is 100%), found 99");
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] names the first argument out of range, the expected range and the value.
    pub fn check(&self) -> Result<()> {
        self.check_on(&self.monitored())
    }

    fn check_on(&self, monitored: &Metric) -> Result<()> {
        let check = |argument: &str, value: f64, range: Range| range.check(&format!("{argument} of {self}"), value);
        let at_least = |argument: &str, value: u64, least: u64, unit: &str| match value >= least {
            true => Ok(()),
            false => Err(Error::setting(format!("{argument} of {self}"), format!("at least {least} {unit}"), value)),
        };
        match self {
            Self::Patience(patience) => {
                if patience.unit != Unit::Iterations {
                    at_least("length", patience.length, 1, patience.unit.name())?;
                }
                patience.check(monitored)
            }
            Self::NoiseAware { significance, .. } => check("significance", *significance, Range::above(0.0).below(1.0)),
            Self::GeneralizationLoss { alpha } => check("alpha", *alpha, Range::at_least(0.0)),
            Self::ProgressQuotient { alpha, strip } => {
                check("alpha", *alpha, Range::at_least(0.0))?;
                // One evaluation alone makes no progress.
                at_least("strip", *strip as u64, 2, "evaluations")
            }
            Self::SuccessiveRises { strips, strip } => {
                at_least("number of strips", *strips as u64, 1, "strip")?;
                at_least("strip", *strip as u64, 1, "evaluation")
            }
            Self::Iterations(budget) => at_least("budget", *budget, 1, "iteration"),
            Self::Time(budget) if budget.is_zero() => {
                Err(Error::setting(format!("budget of {self}"), "more than no time", format!("{budget:?}")))
            }
            Self::Time(_) => Ok(()),
            Self::Target(accuracy) if monitored.is_accuracy() => {
                check("accuracy", *accuracy, Range::above(0.0).at_most(1.0).of_accuracy())
            }
            Self::Target(score) => check("score", *score, Range::FINITE),
            Self::Divergence(drop) if monitored.is_accuracy() => {
                check("drop", *drop, Range::at_least(0.0).below(1.0).of_accuracy())
            }
            Self::Divergence(drop) => check("drop", *drop, Range::at_least(0.0)),
            Self::AllOf(rules) if rules.is_empty() => {
                Err(Error::setting("rules of all_of", "at least one: Rule::never() never stops", "none"))
            }
            Self::AnyOf(rules) | Self::AllOf(rules) => rules.iter().try_for_each(|rule| rule.check_on(monitored)),
            Self::Named { rule, .. } => rule.check_on(monitored),
            Self::On { metric, .. } if metric != monitored => Err(Error::setting(
                "metric of a rule",
                format!("one for all its parts, {monitored:?}"),
                format!("{metric:?}"),
            )),
            Self::On { rule, .. } => rule.check_on(monitored),
            Self::Own(own) => own.check(),
        }
    }
}

impl Patience {
    fn check(&self, monitored: &Metric) -> Result<()> {
        let is_accuracy = self.watched(monitored).is_accuracy();
        let check = |argument: &str, value: f64, range: Range| range.check(&format!("{argument} of {self}"), value);
        check("smoothing", self.smoothing, Range::at_least(0.0).below(1.0))?;
        match self.min_delta {
            MinDelta::Absolute(delta) if is_accuracy => {
                check("min_delta", delta, Range::at_least(0.0).below(1.0).of_accuracy())?;
            }
            MinDelta::Absolute(delta) => check("min_delta", delta, Range::at_least(0.0))?,
            MinDelta::Relative(part) => check("min_relative_delta", part, Range::at_least(0.0).below(1.0))?,
        }
        match self.baseline {
            None => Ok(()),
            // No accuracy is better than 1.
            Some(baseline) if is_accuracy => check("baseline", baseline, Range::at_least(0.0).below(1.0).of_accuracy()),
            Some(baseline) => check("baseline", baseline, Range::FINITE),
        }
    }
}

impl Observation {
    /// Checks that each score whose name ends in `accuracy` is within 0.0 to 1.0, and that no score has the name of another
    /// field.
    ///
    /// [`EarlyStopping::record`](super::EarlyStopping::record) calls this. Other scores may have any value. NaN and infinity
    /// are no errors: a run that meets them [stops](Self::not_finite).
    ///
    /// ```
    /// use earlystop::early_stopping::Observation;
    ///
    /// assert!(Observation::new(100, 0.988).check().is_ok());
    /// assert!(Observation::new(100, 98.8).check().is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::History`] names the first score that is refused, what was expected and what was found.
    pub fn check(&self) -> Result<()> {
        self.scores.iter().try_for_each(|(name, &value)| {
            if RESERVED.contains(&name.as_str()) {
                return Err(Error::history("name of a score", format!("none of {}", RESERVED.join(", ")), name));
            }
            if !score::is_accuracy(name) || !value.is_finite() {
                return Ok(());
            }
            let what = format_args!("{} at iteration {}", score::in_words(name), self.iteration);
            match Range::at_least(0.0).at_most(1.0).of_accuracy() {
                range if range.contains(value) => Ok(()),
                range => Err(Error::history(what.to_string(), range, value)),
            }
        })
    }
}

/// The finite values that an argument may have. Prints as "at least 0 and less than 1".
#[derive(Debug, Clone, Copy)]
struct Range {
    from: Bound<f64>,
    to: Bound<f64>,
    is_of_accuracy: bool,
}

impl Range {
    const FINITE: Self = Self { from: Bound::Unbounded, to: Bound::Unbounded, is_of_accuracy: false };

    fn at_least(from: f64) -> Self {
        Self { from: Bound::Included(from), ..Self::FINITE }
    }

    fn above(from: f64) -> Self {
        Self { from: Bound::Excluded(from), ..Self::FINITE }
    }

    fn at_most(self, to: f64) -> Self {
        Self { to: Bound::Included(to), ..self }
    }

    fn below(self, to: f64) -> Self {
        Self { to: Bound::Excluded(to), ..self }
    }

    /// Explains the scale of accuracies in messages, for those who think in percent.
    fn of_accuracy(self) -> Self {
        Self { is_of_accuracy: true, ..self }
    }

    fn contains(self, value: f64) -> bool {
        value.is_finite() && (self.from, self.to).contains(&value)
    }

    fn check(self, what: &str, value: f64) -> Result<()> {
        if self.contains(value) { Ok(()) } else { Err(Error::setting(what, self, value)) }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            Bound::Included(from) => write!(f, "at least {from} and ")?,
            Bound::Excluded(from) => write!(f, "more than {from} and ")?,
            Bound::Unbounded => {}
        }
        match self.to {
            Bound::Included(to) => write!(f, "at most {to}")?,
            Bound::Excluded(to) => write!(f, "less than {to}")?,
            Bound::Unbounded => write!(f, "finite")?,
        }
        if self.is_of_accuracy {
            write!(f, " (1 is 100%)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::early_stopping::{Comparison, EarlyStopping, Mistakes, StopKind, replay};

    const STRANGE: [f64; 3] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

    fn accuracy(iteration: u64) -> Observation {
        Observation::new(iteration, 0.5)
    }

    /// Refused wherever a rule is given, also within others.
    fn assert_refused(rule: impl Into<Rule>, argument: &str) {
        let rule = rule.into();
        let nested = [
            rule.clone().named("mine"),
            Rule::any_of([Rule::patience(5), rule.clone()]),
            Rule::all_of([Rule::any_of([rule.clone()]).named("mine")]),
            rule,
        ];
        for rule in nested {
            let error = rule.check().unwrap_err();
            let Error::Setting { setting: what, .. } = &error else { panic!("{error}") };
            assert!(what.starts_with(&format!("{argument} of ")), "{rule}: {error}");
            assert_eq!(EarlyStopping::with(rule.clone()).unwrap_err().to_string(), error.to_string());
            assert!(EarlyStopping::resume(rule.clone(), vec![accuracy(1)]).is_err(), "{rule}");
            let json = serde_json::json!({ "rule": rule, "history": [] }).to_string();
            let found = serde_json::from_str::<EarlyStopping>(&json).unwrap_err().to_string();
            assert!(found.contains(&error.to_string()), "{json}: {found}");
            let Comparison { rows, .. } = replay(&[accuracy(1), accuracy(2)], [rule]);
            let reason = rows[0].reason.as_ref().unwrap();
            assert_eq!((reason.kind, &reason.why), (StopKind::CannotJudge, &error.to_string()));
            assert_eq!((rows[0].stopped_at, &rows[0].kept), (1, &None));
        }
    }

    #[test]
    fn arguments_out_of_range_are_refused() {
        let patience = || Patience::new(1000);
        for wrong in STRANGE.into_iter().chain([1.0, 1.5, -0.5]) {
            assert_refused(patience().smoothing(wrong), "smoothing");
            assert_refused(patience().min_delta(wrong), "min_delta");
            assert_refused(patience().min_relative_delta(wrong), "min_relative_delta");
            assert_refused(patience().on_loss().min_relative_delta(wrong), "min_relative_delta");
            assert_refused(patience().baseline(wrong), "baseline");
            assert_refused(Rule::NoiseAware { patience: 5, significance: wrong }, "significance");
            assert_refused(Rule::divergence(wrong), "drop");
        }
        for wrong in STRANGE.into_iter().chain([-1e-9, -5.0]) {
            assert_refused(patience().on_loss().min_delta(wrong), "min_delta");
            assert_refused(Rule::generalization_loss(wrong), "alpha");
            assert_refused(Rule::progress_quotient(wrong, 5), "alpha");
        }
        for wrong in STRANGE {
            assert_refused(patience().on_loss().baseline(wrong), "baseline");
        }
        for wrong in STRANGE.into_iter().chain([99.0, 1.0001, 0.0, -0.5]) {
            assert_refused(Rule::target(wrong), "accuracy");
        }
        assert_refused(Rule::NoiseAware { patience: 5, significance: 0.0 }, "significance");
        assert_refused(Patience::evaluations(0), "length");
        assert_refused(Patience::epochs(0), "length");
        assert_refused(Rule::progress_quotient(0.5, 0), "strip");
        assert_refused(Rule::progress_quotient(0.5, 1), "strip");
        assert_refused(Rule::successive_rises(0, 5), "number of strips");
        assert_refused(Rule::successive_rises(3, 0), "strip");
        assert_refused(Rule::iterations(0), "budget");
        assert_refused(Rule::time(Duration::ZERO), "budget");
        assert_refused(Rule::all_of([]), "rules");
    }

    #[test]
    fn the_ends_of_the_ranges_are_accepted() {
        let rules = [
            Rule::patience(0),
            Patience::new(u64::MAX).smoothing(0.0).min_delta(0.0).baseline(0.0).warm_up(u64::MAX).into(),
            Patience::new(5).on_loss().baseline(-3.0).min_delta(7.0).smoothing(0.999).into(),
            Patience::new(5).min_relative_delta(0.0).into(),
            Patience::evaluations(1).warm_up(u64::MAX).into(),
            Patience::epochs(u64::MAX).into(),
            Rule::NoiseAware { patience: 0, significance: 1e-9 },
            Rule::generalization_loss(0.0),
            Rule::progress_quotient(0.0, 2),
            Rule::successive_rises(1, 1),
            Rule::iterations(1),
            Rule::time(Duration::from_nanos(1)),
            Rule::target(1.0),
            Rule::divergence(0.0),
            Rule::never(),
            Rule::all_of([Rule::never()]),
        ];
        for rule in rules {
            rule.check().unwrap();
        }
    }

    /// Refused after an evaluation at iteration 100, and nothing is recorded.
    fn assert_not_recorded(observation: &Observation, message: &str) {
        for rule in [Rule::patience(1000), Rule::noise_aware(1000), Rule::never()] {
            let first = Observation {
                elapsed: Some(Duration::from_secs(60)),
                epochs: Some(7),
                mistakes: Some(Mistakes::new([true, false])),
                ..accuracy(100)
            };
            let mut stopping = EarlyStopping::with(rule.clone()).unwrap();
            stopping.record(first.clone()).unwrap();
            let before = stopping.clone();
            assert_eq!(stopping.record(observation.clone()).unwrap_err().to_string(), message);
            assert_eq!(stopping, before);
            let history = vec![first, observation.clone()];
            assert_eq!(EarlyStopping::resume(rule.clone(), history.clone()).unwrap_err().to_string(), message);
            let outcome = replay(&history, [rule]).rows.remove(0);
            assert_eq!(
                outcome.reason.map(|reason| (reason.kind, reason.why)),
                Some((StopKind::CannotJudge, message.into()))
            );
            assert_eq!(outcome.stopped_at, observation.iteration.max(100));
            assert_eq!(outcome.kept, Some(history[0].clone()));
        }
    }

    #[test]
    fn observations_out_of_range_are_refused() {
        let expected = "expected at least 0 and at most 1 (1 is 100%), found";
        for wrong in [98.8, 1.0000001, -0.1] {
            let message = |name: &str| format!("{name} accuracy at iteration 200: {expected} {wrong}");
            assert_not_recorded(&Observation::new(200, wrong), &message("validation"));
            assert_not_recorded(&accuracy(200).with("train_accuracy", wrong), &message("training"));
            assert_not_recorded(&accuracy(200).with("test_accuracy", wrong), &message("test"));
        }
        let loss = accuracy(200).with("validation_loss", -1e300).with("train_loss", -0.5);
        EarlyStopping::new(1000).record(loss).unwrap();
        let reserved = EarlyStopping::new(1000).record(accuracy(200).with("elapsed", 1.0)).unwrap_err().to_string();
        assert!(reserved.starts_with("name of a score: expected none of iteration,"), "{reserved}");
    }

    #[test]
    fn observations_that_contradict_those_before_are_refused() {
        for iteration in [0, 50, 100] {
            let message =
                "iteration of an evaluation: expected more than 100, the iteration of the evaluation before it";
            assert_not_recorded(&accuracy(iteration), &format!("{message}, found {iteration}"));
        }
        let earlier = Observation { elapsed: Some(Duration::from_secs(59)), ..accuracy(200) };
        assert_not_recorded(&earlier, "elapsed time at iteration 200: expected at least 60s, as before, found 59s");
        let earlier = Observation { epochs: Some(6), ..accuracy(200) };
        assert_not_recorded(&earlier, "epochs at iteration 200: expected at least 7, as before, found 6");
        let others = Observation { mistakes: Some(Mistakes::new([true; 3])), ..accuracy(200) };
        assert_not_recorded(&others, "mistakes at iteration 200: expected 2 images, as before, found 3 images");
    }

    #[test]
    fn what_is_not_finite_is_no_error() {
        for value in STRANGE {
            let mut stopping = EarlyStopping::new(1000);
            assert_eq!(stopping.observe(100, value).unwrap().stop.unwrap().kind, StopKind::NotFinite);
            let test = accuracy(100).with("test_accuracy", value);
            assert_eq!(EarlyStopping::new(1000).record(test).unwrap().stop, None);
        }
    }
}
