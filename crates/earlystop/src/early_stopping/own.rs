//! Custom stopping rules.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::evaluation::{Evaluation, Kept};
use super::words::begins_like_a_rule;
use super::{Metric, Observation};
use crate::error::{Error, Result};

/// A stopping rule of your own, which [`Rule::own`](super::Rule::own) turns into a [`Rule`](super::Rule).
///
/// It is then combined, replayed, saved and resumed as the built-in rules are. It sees one evaluation after the other. What it
/// remembers of them is its state, which is saved in checkpoints; the rule itself is not, only its name. A trainer that resumes a
/// run has a rule of the same name, which continues from the saved state. The state is also read from its saved form at each
/// evaluation, so that a resumed run decides as one that was never interrupted.
///
/// A rule that needs the [mistakes](Observation::mistakes) needs a trainer that
/// [records](crate::trainer::TrainerBuilder::record_mistakes) them.
///
/// ```
/// use earlystop::early_stopping::{Decision, Metric, Observation, OwnRule, Rule, replay};
/// use earlystop::{Error, Result};
///
/// /// Stops when the gap between the training and the validation loss is too wide.
/// struct Gap {
///     widest: f64,
/// }
///
/// impl OwnRule for Gap {
///     /// The lowest validation loss.
///     type State = Option<f64>;
///
///     fn name(&self) -> String {
///         format!("gap({})", self.widest)
///     }
///
///     fn observe(&self, lowest: &mut Option<f64>, seen: &Observation, _: &Metric) -> Result<Decision> {
///         let score = |name| seen.score(name).ok_or_else(|| Error::other(format!("no {name}")));
///         let (validation, train) = (score("validation_loss")?, score("train_loss")?);
///         let improved = lowest.is_none_or(|lowest| validation < lowest);
///         if improved {
///             *lowest = Some(validation);
///         }
///         let gap = validation - train;
///         let stop = (gap > self.widest).then(|| format!("the gap is {gap:.2}, more than {}", self.widest));
///         Ok(Decision { improved, stop })
///     }
/// }
///
/// let losses = [(0.9, 0.8), (0.7, 0.6), (0.8, 0.4)];
/// let history: Vec<_> = (1..)
///     .zip(losses)
///     .map(|(i, (validation, train))| Observation::of(100 * i, [("validation_loss", validation), ("train_loss", train)]))
///     .collect();
/// let rule = Rule::any_of([Rule::own(Gap { widest: 0.3 }), Rule::patience(1000).on(Metric::validation_loss())]);
/// assert_eq!(rule.to_string(), "gap(0.3) or patience(1000) on lower validation_loss");
/// let outcome = &replay(&history, [rule]).rows[0];
/// assert_eq!(outcome.reason.as_ref().map(|reason| reason.to_string()).as_deref(), Some("gap(0.3): the gap is 0.40, more than 0.3"));
/// assert_eq!(outcome.kept.as_ref().map(|kept| kept.iteration), Some(200));
/// ```
pub trait OwnRule: Send + Sync + 'static {
    /// What the rule remembers of the evaluations so far; its default is the state before the first one.
    ///
    /// It is saved as JSON, which has no NaN and no infinity: use an `Option` where there is no number yet. A state that is not equal
    /// to itself after it was saved and read stops the run as an error does.
    type State: Default + PartialEq + Serialize + DeserializeOwned;

    /// Returns the name of the rule with its arguments, `gap(0.3)`: it is printed, saved, and identifies the rule.
    ///
    /// Two rules of the same name must decide alike. A name that begins like a built-in rule is refused.
    fn name(&self) -> String;

    /// Takes in the next evaluation, whose scores are finite, and decides.
    ///
    /// `metric` is the score that the whole rule [monitors](super::Rule::monitored), for rules that work with any score:
    /// `metric.of(observation)`. The decision must depend on nothing but the arguments and the rule's own settings.
    ///
    /// # Errors
    ///
    /// If the observation lacks what the rule needs. The run then stops with
    /// [`StopKind::CannotJudge`](super::StopKind::CannotJudge) and the error as its reason.
    fn observe(&self, state: &mut Self::State, observation: &Observation, metric: &Metric) -> Result<Decision>;
}

/// What an [`OwnRule`] makes of an evaluation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether this evaluation is the best so far. A rule that never says so leaves the choice of the best to the others that it is
    /// combined with, or else to the [monitored](super::Rule::monitored) score.
    pub improved: bool,
    /// Why to stop after this evaluation, as a sentence with numbers; nothing to train on.
    pub stop: Option<String>,
}

/// An [`OwnRule`] as a part of a [`Rule`](super::Rule); without the rule where it was read from a file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Own {
    name: String,
    rule: Option<Arc<dyn AnyState>>,
}

impl Own {
    pub(super) fn new(rule: impl OwnRule) -> Self {
        Self { name: rule.name(), rule: Some(Arc::new(rule)) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Refuses a rule of which only the name is known, and names that could be taken for something else.
    pub(super) fn check(&self) -> Result<()> {
        if self.rule.is_none() {
            let expected = "the rule itself: continue with EarlyStopping::resume(rule, history)";
            return Err(Error::setting(
                format!("{:?}, a rule of a program's own", self.name),
                expected,
                "only its name",
            ));
        }
        if begins_like_a_rule(&self.name) {
            let expected = "one that is not empty and does not begin like a built-in rule";
            return Err(Error::setting("name of a rule of your own", expected, format!("{:?}", self.name)));
        }
        Ok(())
    }
}

impl From<String> for Own {
    fn from(name: String) -> Self {
        Self { name, rule: None }
    }
}

impl From<Own> for String {
    fn from(own: Own) -> Self {
        own.name
    }
}

/// The name identifies the rule.
impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Own").field(&self.name).finish()
    }
}

/// A rule whose state has its saved form.
trait AnyState: Send + Sync {
    fn first_state(&self) -> Result<Value>;

    /// Says whether this can be a state of the rule.
    fn accepts(&self, state: &Value) -> bool;

    fn observe_any(&self, state: &mut Value, observation: &Observation, metric: &Metric) -> Result<Decision>;
}

impl<R: OwnRule> AnyState for R {
    fn first_state(&self) -> Result<Value> {
        serde_json::to_value(R::State::default()).map_err(|error| not_saved(self, error))
    }

    fn accepts(&self, state: &Value) -> bool {
        R::State::deserialize(state).is_ok()
    }

    fn observe_any(&self, state: &mut Value, observation: &Observation, metric: &Metric) -> Result<Decision> {
        let mut own = R::State::deserialize(&*state).map_err(|error| not_saved(self, error))?;
        let decision = self.observe(&mut own, observation, metric)?;
        *state = serde_json::to_value(&own).map_err(|error| not_saved(self, error))?;
        // Such as infinity in an `Option`, or a field that is skipped.
        let is_same = R::State::deserialize(&*state).is_ok_and(|read| read == own);
        if is_same { Ok(decision) } else { Err(not_saved(self, "another one after that")) }
    }
}

fn not_saved(rule: &impl OwnRule, error: impl fmt::Display) -> Error {
    let expected = "one that is the same after it was saved as JSON, which has no NaN and no infinity";
    Error::setting(format!("state of {}", rule.name()), expected, error)
}

/// What an [`OwnRule`] remembers and has decided.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct OwnState {
    /// Nothing before the first evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some")]
    state: Option<Value>,
    pub(super) kept: Option<Kept>,
    /// Set if the last evaluation calls for a stop.
    pub(super) stop: Option<Asked>,
}

/// A state that is `null` is a state.
fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) iteration: u64,
    pub(super) why: String,
}

impl OwnState {
    /// Says whether the rule can continue from here.
    pub(super) fn fits(&self, own: &Own) -> bool {
        let accepts = |state| own.rule.as_ref().is_none_or(|rule| rule.accepts(state));
        self.state.as_ref().is_none_or(accepts)
    }

    pub(super) fn step(&mut self, own: &Own, evaluation: &Evaluation) -> Result<()> {
        let Some(rule) = &own.rule else { return own.check() };
        let mut state = self.state.take().map_or_else(|| rule.first_state(), Ok)?;
        let Decision { improved, stop } = rule.observe_any(&mut state, evaluation.observation, evaluation.metric)?;
        self.state = Some(state);
        if improved {
            self.kept = Some(evaluation.kept);
        }
        self.stop = stop.map(|why| Asked { iteration: evaluation.observation.iteration, why });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::early_stopping::{EarlyStopping, Rule, StopKind, replay};

    /// Remembers what JSON may not be able to hold, and refuses iteration 300.
    struct Odd {
        name: &'static str,
        first: f64,
    }

    #[derive(PartialEq, Serialize, Deserialize)]
    struct Highest(f64);

    impl OwnRule for Odd {
        type State = Option<Highest>;

        fn name(&self) -> String {
            self.name.to_owned()
        }

        fn observe(&self, state: &mut Option<Highest>, seen: &Observation, metric: &Metric) -> Result<Decision> {
            if seen.iteration == 300 {
                return Err(Error::other("no photograph 300"));
            }
            let score = metric.of(seen).unwrap_or_default();
            let highest = state.take().map_or(self.first, |Highest(highest)| highest);
            *state = Some(Highest(highest.max(score)));
            Ok(Decision { improved: score > highest, stop: None })
        }
    }

    fn odd() -> Rule {
        Rule::own(Odd { name: "odd", first: 0.0 })
    }

    #[test]
    fn names_that_could_be_taken_for_another_rule_are_refused() {
        for name in
            ["", "  ", "never", "patience(5)", "patience(5, mine)", "GL", "own(x)", " time(5)", "(mine)", "\"x\""]
        {
            for rule in
                [Rule::own(Odd { name, first: 0.0 }), Rule::any_of([Rule::own(Odd { name, first: 0.0 }).named("a")])]
            {
                let error = rule.check().unwrap_err().to_string();
                assert!(
                    error.starts_with("name of a rule of your own: expected one that is not empty"),
                    "{name}: {error}"
                );
            }
        }
        for name in ["mine", "patience-of-mine(5)", "gap(0.3)", "ö", "GLX(5)"] {
            Rule::own(Odd { name, first: 0.0 }).check().unwrap();
        }
    }

    #[test]
    fn of_a_rule_in_a_file_only_the_name_is_known() {
        let mut stopping = EarlyStopping::with(odd().named("mine")).unwrap();
        stopping.observe(100, 0.5).unwrap();
        let json = serde_json::to_string(&stopping).unwrap();
        let error = serde_json::from_str::<EarlyStopping>(&json).unwrap_err().to_string();
        let expected = r#""odd", a rule of a program's own: expected the rule itself: continue with EarlyStopping::resume(rule, history), found only its name"#;
        assert_eq!(error, expected);
        let rule: Rule = serde_json::from_str(r#"{"Own":"odd"}"#).unwrap();
        assert_eq!(rule, odd());
        assert_ne!(rule, Rule::own(Odd { name: "other", first: 0.0 }));
        assert_eq!(replay(stopping.history(), [rule]).rows[0].reason.as_ref().unwrap().kind, StopKind::CannotJudge);
        assert_eq!(EarlyStopping::resume(odd().named("mine"), stopping.history().to_vec()).unwrap(), stopping);
    }

    #[test]
    fn a_rule_that_is_printed_is_not_parsed() {
        let rule = odd();
        assert_eq!((rule.to_string(), format!("{rule:#}")), ("odd".to_owned(), r#"own("odd")"#.to_owned()));
        for text in [rule.to_string(), format!("{rule:#}"), format!("patience(5) or {rule:#}")] {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains("a rule of a program's own"), "{error}");
        }
    }

    #[test]
    fn an_evaluation_that_the_rule_refuses_stops_the_run_and_changes_nothing() {
        let mut stopping = EarlyStopping::with(Rule::any_of([Rule::patience(1000), odd()])).unwrap();
        stopping.observe(100, 0.5).unwrap();
        let reason = stopping.observe(300, 0.9).unwrap().stop.unwrap();
        assert_eq!(
            (reason.kind, &*reason.why),
            (StopKind::CannotJudge, "cannot judge iteration 300: no photograph 300")
        );
        assert_eq!(stopping.best().unwrap().iteration, 100);
        assert!(!stopping.observe(400, 0.95).unwrap().improved);
    }

    #[test]
    fn a_state_that_cannot_be_saved_is_found_at_once() {
        let mut stopping = EarlyStopping::with(Rule::own(Odd { name: "odd", first: f64::INFINITY })).unwrap();
        let reason = stopping.observe(100, 0.5).unwrap().stop.unwrap();
        let expected =
            "cannot judge iteration 100: state of odd: expected one that is the same after it was saved as JSON";
        assert!(reason.why.starts_with(expected), "{}", reason.why);
    }
}
