//! Patience: stop after a number of iterations, evaluations or epochs without an improvement.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::evaluation::{Evaluation, Kept};
use super::{Metric, json_float};

/// Stops when a score has not improved for some time: the tutorial's rule and its refinements.
///
/// | patience | stops |
/// |---|---|
/// | [`new(n)`](Self::new) | after more than `n` iterations without an improvement, as the tutorial does |
/// | [`evaluations(n)`](Self::evaluations) | at the `n`-th evaluation in a row without an improvement, as Keras and Lightning do |
/// | [`epochs(n)`](Self::epochs) | at the first evaluation at which `n` epochs have ended since the last improvement |
///
/// An improvement is a value strictly better than the best so far; the first value always is one. By default the score
/// is the validation accuracy, every improvement counts, and there is no smoothing, no warm-up and no baseline.
///
/// ```
/// use earlystop::early_stopping::{EarlyStopping, Patience};
///
/// let stopping = EarlyStopping::with(Patience::new(1000).min_delta(0.0005).smoothing(0.9).warm_up(2000));
///
/// let mut stopping = EarlyStopping::with(Patience::evaluations(2))?;
/// for (iteration, accuracy) in [(100, 0.90), (200, 0.95), (300, 0.94), (400, 0.93)] {
///     stopping.observe(iteration, accuracy)?;
/// }
/// let reason = stopping.stop_reason(400).map(|reason| reason.to_string());
/// assert_eq!(reason.as_deref(), Some("patience(2 evaluations): no improvement for 2 evaluations since evaluation 2"));
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Patience {
    /// How long to wait.
    #[serde(rename = "iterations")]
    pub(super) length: u64,
    #[serde(default, skip_serializing_if = "Unit::is_iterations")]
    pub(super) unit: Unit,
    /// The score, if it is not the one that the whole rule monitors.
    #[serde(rename = "measure", with = "measure")]
    pub(super) metric: Option<Metric>,
    pub(super) min_delta: MinDelta,
    #[serde(with = "json_float")]
    pub(super) smoothing: f64,
    pub(super) warm_up: u64,
    #[serde(with = "json_float::optional")]
    pub(super) baseline: Option<f64>,
}

/// What the patience and its warm-up are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    #[default]
    Iterations,
    Evaluations,
    Epochs,
}

impl Unit {
    fn is_iterations(&self) -> bool {
        *self == Self::Iterations
    }

    /// How many there were up to an evaluation, including it.
    fn count(self, Evaluation { observation, kept, .. }: &Evaluation) -> u64 {
        match self {
            Self::Iterations => observation.iteration,
            Self::Evaluations => kept.index as u64 + 1,
            Self::Epochs => observation.epochs.unwrap_or_default(),
        }
    }

    /// The name of one.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Iterations => "iteration",
            Self::Evaluations => "evaluation",
            Self::Epochs => "epoch",
        }
    }
}

/// The metric as checkpoints have it, where `"ValidationAccuracy"` stands for none of its own.
mod measure {
    use serde::{Deserializer, Serializer};

    use super::*;

    #[derive(Serialize, Deserialize)]
    enum Measure {
        ValidationAccuracy,
        ValidationLoss,
        Score(Metric),
    }

    pub(super) fn serialize<S: Serializer>(metric: &Option<Metric>, serializer: S) -> Result<S::Ok, S::Error> {
        let measure = match metric {
            None => Measure::ValidationAccuracy,
            Some(metric) if *metric == Metric::validation_loss() => Measure::ValidationLoss,
            Some(metric) => Measure::Score(metric.clone()),
        };
        measure.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Metric>, D::Error> {
        Ok(match Measure::deserialize(deserializer)? {
            Measure::ValidationAccuracy => None,
            Measure::ValidationLoss => Some(Metric::validation_loss()),
            Measure::Score(metric) => Some(metric),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) enum MinDelta {
    Absolute(#[serde(with = "json_float")] f64),
    Relative(#[serde(with = "json_float")] f64),
}

impl Patience {
    /// Waits `iterations` iterations for an improvement of the score that the rule [monitors](super::Rule::monitored): the
    /// validation accuracy, unless another one is named. Stops after more than `iterations` iterations without one.
    pub fn new(iterations: u64) -> Self {
        Self::of(iterations, Unit::Iterations)
    }

    /// Waits `evaluations` evaluations, at least 1: stops at the last of so many in a row without an improvement.
    ///
    /// That is the patience of Keras and Lightning. [`Patience::new`] stops after *more* than its iterations: with an evaluation
    /// every 100 iterations, `Patience::evaluations(10)` stops 1000 iterations after the last improvement, and `Patience::new(1000)`
    /// after 1001.
    pub fn evaluations(evaluations: u64) -> Self {
        Self::of(evaluations, Unit::Evaluations)
    }

    /// Waits `epochs` passes over the training data, at least 1: stops at the first evaluation at which so many epochs have ended
    /// since the last improvement.
    ///
    /// With an evaluation at the end of each epoch, that is the patience of Keras. The end of an epoch counts that was already begun
    /// at the improvement. Needs the number of completed [epochs](super::Observation::epochs), which a
    /// [`Trainer`](crate::Trainer) records.
    ///
    /// ```
    /// use earlystop::early_stopping::{EarlyStopping, Observation, Patience};
    ///
    /// let mut stopping = EarlyStopping::with(Patience::epochs(2))?;
    /// for (iteration, accuracy, epochs) in [(100, 0.95, 1), (150, 0.94, 1), (200, 0.93, 2), (250, 0.94, 2)] {
    ///     stopping.record(Observation { epochs: Some(epochs), ..Observation::new(iteration, accuracy) })?;
    /// }
    /// assert!(!stopping.should_stop(299));
    /// let verdict = stopping.record(Observation { epochs: Some(3), ..Observation::new(300, 0.95) })?;
    /// assert!(verdict.stop.is_some());
    /// # Ok::<(), earlystop::Error>(())
    /// ```
    pub fn epochs(epochs: u64) -> Self {
        Self::of(epochs, Unit::Epochs)
    }

    fn of(length: u64, unit: Unit) -> Self {
        Self {
            length,
            unit,
            metric: None,
            min_delta: MinDelta::Absolute(0.0),
            smoothing: 0.0,
            warm_up: 0,
            baseline: None,
        }
    }

    /// Watches this score.
    pub fn on(self, metric: Metric) -> Self {
        Self { metric: Some(metric), ..self }
    }

    /// Watches the validation loss, where lower is better.
    pub fn on_loss(self) -> Self {
        self.on(Metric::validation_loss())
    }

    /// Ignores improvements that are not larger than `min_delta`, at least 0.0 and for an accuracy below 1.0.
    ///
    /// 0.001 is a tenth of a percentage point of accuracy.
    pub fn min_delta(self, min_delta: f64) -> Self {
        Self { min_delta: MinDelta::Absolute(min_delta), ..self }
    }

    /// Ignores improvements that are not larger than this fraction of the best value, at least 0.0 and below 1.0.
    ///
    /// 0.01 is a hundredth of the best value.
    pub fn min_relative_delta(self, part: f64) -> Self {
        Self { min_delta: MinDelta::Relative(part), ..self }
    }

    /// Watches the exponential moving average of the score, to reduce the influence of noise.
    ///
    /// `decay` is the weight of the past, from 0.0 (no smoothing) to below 1.0: about the last `1 / (1 - decay)`
    /// evaluations count. The average is corrected for its bias at the start, as in
    /// [Adam](https://arxiv.org/abs/1412.6980), so the first average is the first value.
    pub fn smoothing(self, decay: f64) -> Self {
        Self { smoothing: decay, ..self }
    }

    /// Starts to count the patience after so many iterations, evaluations or epochs, whichever the patience is counted in.
    /// Improvements before that still count as improvements.
    pub fn warm_up(self, length: u64) -> Self {
        Self { warm_up: length, ..self }
    }

    /// Requires values better than `value`: an improvement that does not pass it is kept as the best, but does not renew
    /// the patience.
    ///
    /// So a run stops if it has not passed the baseline when the patience, counted from the warm-up, is over. For an
    /// accuracy, `value` is at least 0.0 and below 1.0.
    pub fn baseline(self, value: f64) -> Self {
        Self { baseline: Some(value), ..self }
    }

    /// Returns the score that it watches in a rule that monitors another.
    pub(super) fn watched<'a>(&'a self, monitored: &'a Metric) -> &'a Metric {
        self.metric.as_ref().unwrap_or(monitored)
    }

    pub(super) fn step(&self, state: &mut Waiting, evaluation: &Evaluation) {
        let metric = self.watched(evaluation.metric);
        let score = metric.upwards(metric.of(evaluation.observation).unwrap_or(f64::NAN));
        let score = state.average.next(self.smoothing, score);
        if state.best.is_none_or(|best| score > best.score + self.margin(best.score)) {
            state.best = Some(Scored { kept: evaluation.kept, score });
            if self.baseline.is_none_or(|baseline| score > metric.upwards(baseline)) {
                state.renewed = self.unit.count(evaluation);
            }
        }
        // Iterations end between evaluations.
        let is_over = self.unit != Unit::Iterations && self.unit.count(evaluation) >= self.end(state);
        state.over = state.over.or(Some(evaluation.observation.iteration)).filter(|_| is_over);
    }

    pub(super) fn stop_at(&self, state: &Waiting) -> Option<u64> {
        state.best?;
        if self.unit == Unit::Iterations { Some(self.end(state).saturating_add(1)) } else { state.over }
    }

    pub(super) fn why(&self, state: &Waiting) -> String {
        let (length, since, unit) = (self.length, self.since(state), self.unit.name());
        match self.unit {
            Unit::Iterations => format!("no improvement for more than {length} iterations since iteration {since}"),
            _ => format!("no improvement for {} since {unit} {since}", self.printed_length()),
        }
    }

    /// `1000`, `10 evaluations`
    fn printed_length(&self) -> String {
        match (self.unit, self.length) {
            (Unit::Iterations, length) => length.to_string(),
            (unit, 1) => format!("1 {}", unit.name()),
            (unit, length) => format!("{length} {}s", unit.name()),
        }
    }

    /// Up to where to wait.
    fn end(&self, state: &Waiting) -> u64 {
        self.since(state).saturating_add(self.length)
    }

    /// From where the patience counts.
    fn since(&self, state: &Waiting) -> u64 {
        state.renewed.max(self.warm_up)
    }

    pub(super) fn margin(&self, best: f64) -> f64 {
        let margin = match self.min_delta {
            MinDelta::Absolute(delta) => delta,
            MinDelta::Relative(part) => part * best.abs(),
        };
        margin.max(0.0)
    }
}

impl fmt::Display for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "patience({}", self.printed_length())?;
        match &self.metric {
            None => {}
            Some(metric) if *metric == Metric::validation_loss() => write!(f, " on loss")?,
            Some(metric) => write!(f, " on {}", metric.in_rules())?,
        }
        match self.min_delta {
            MinDelta::Absolute(delta) if is_default(delta) => {}
            MinDelta::Absolute(delta) => write!(f, ", min delta {delta}")?,
            MinDelta::Relative(part) => write!(f, ", min delta {}%", percent(part))?,
        }
        if !is_default(self.smoothing) {
            write!(f, ", smoothing {}", self.smoothing)?;
        }
        if self.warm_up != 0 {
            write!(f, ", warm-up {}", self.warm_up)?;
        }
        if let Some(baseline) = self.baseline {
            write!(f, ", baseline {baseline}")?;
        }
        write!(f, ")")
    }
}

/// Says whether a number is 0, and not -0.
fn is_default(number: f64) -> bool {
    number.to_bits() == 0
}

/// Prints a part in percent, with the digits of the part itself: `100.0 * 0.07` would be 7.000000000000001.
fn percent(part: f64) -> String {
    let digits = part.to_string();
    if !part.is_finite() {
        return digits;
    }
    let (sign, digits) = digits.strip_prefix('-').map_or(("", &*digits), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let digits = format!("{whole}{fraction:0<2}");
    let (whole, fraction) = digits.split_at(whole.len() + 2);
    let whole = whole.trim_start_matches('0');
    let (whole, point) = (if whole.is_empty() { "0" } else { whole }, if fraction.is_empty() { "" } else { "." });
    format!("{sign}{whole}{point}{fraction}")
}

/// What a [`Patience`] remembers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Waiting {
    average: MovingAverage,
    best: Option<Scored>,
    /// When the last improvement renewed the patience, in its unit.
    renewed: u64,
    /// The iteration of the evaluation at which a patience in evaluations or epochs was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    over: Option<u64>,
}

impl Waiting {
    pub(super) fn kept(&self) -> Option<Kept> {
        Some(self.best?.kept)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Scored {
    kept: Kept,
    /// Smoothed, and turned so that higher is better.
    #[serde(with = "json_float")]
    score: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct MovingAverage {
    #[serde(with = "json_float")]
    sum: f64,
    /// What `sum` would be if every value were 1: less than 1 while the average still leans on its start at 0.
    #[serde(with = "json_float")]
    weight: f64,
}

impl MovingAverage {
    fn next(&mut self, decay: f64, value: f64) -> f64 {
        self.sum = decay * self.sum + (1.0 - decay) * value;
        self.weight = decay * self.weight + (1.0 - decay);
        self.sum / self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::early_stopping::Observation;
    use crate::early_stopping::judge::Judge;

    fn accuracies(values: &[f64]) -> Vec<Observation> {
        (100..).step_by(100).zip(values).map(|(iteration, &value)| Observation::new(iteration, value)).collect()
    }

    fn losses(values: &[f64]) -> Vec<Observation> {
        let mut history = accuracies(values);
        for observation in &mut history {
            let value = observation.scores["validation_accuracy"];
            observation.scores.insert("validation_loss".into(), value);
        }
        history
    }

    /// The index of the best, and the iteration of the stop.
    fn verdict(patience: Patience, history: &[Observation]) -> (Option<usize>, Option<u64>) {
        let judge = Judge::after(patience, history);
        (judge.kept().map(|kept| kept.index), judge.stop_at())
    }

    #[test]
    fn waits_from_the_last_improvement() {
        assert_eq!(verdict(Patience::new(250), &accuracies(&[0.8, 0.9, 0.85])), (Some(1), Some(451)));
    }

    #[test]
    fn stays_equal_is_no_improvement() {
        assert_eq!(verdict(Patience::new(250), &accuracies(&[0.9, 0.9, 0.9])), (Some(0), Some(351)));
    }

    #[test]
    fn nothing_seen_is_nothing_to_stop_for() {
        assert_eq!(verdict(Patience::new(250), &[]), (None, None));
    }

    #[test]
    fn small_steps_below_min_delta_add_up_to_an_improvement() {
        let history = accuracies(&[0.5, 0.5625, 0.625, 0.6875]);
        assert_eq!(verdict(Patience::new(100).min_delta(0.125), &history[..3]).0, Some(0)); // exactly 0.125 is not more
        assert_eq!(verdict(Patience::new(100).min_delta(0.125), &history).0, Some(3));
    }

    #[test]
    fn relative_min_delta_scales_with_the_best() {
        let history = losses(&[1.0, 0.95, 0.85, 0.80]);
        let patience = Patience::new(100).on_loss().min_relative_delta(0.1);
        assert_eq!(verdict(patience, &history).0, Some(2)); // 0.85 < 1.0 - 0.1, but 0.80 > 0.85 - 0.085
    }

    #[test]
    fn a_lower_loss_is_better_whatever_the_accuracy() {
        let mut history = losses(&[0.5, 0.3, 0.4]);
        history[2].scores.insert("validation_accuracy".into(), 0.99);
        assert_eq!(verdict(Patience::new(100).on_loss(), &history), (Some(1), Some(301)));
    }

    #[test]
    fn warm_up_delays_the_stop_but_keeps_the_best() {
        let history = accuracies(&[0.9, 0.8, 0.8, 0.8]);
        assert_eq!(verdict(Patience::new(100).warm_up(1000), &history), (Some(0), Some(1101)));
    }

    #[test]
    fn below_the_baseline_improvements_buy_no_time() {
        let patience = Patience::new(250).baseline(0.5);
        assert_eq!(verdict(patience.clone(), &accuracies(&[0.1, 0.2])), (Some(1), Some(251)));
        assert_eq!(verdict(patience.clone(), &accuracies(&[0.1, 0.5])), (Some(1), Some(251)));
        assert_eq!(verdict(patience, &accuracies(&[0.1, 0.6])), (Some(1), Some(451)));
    }

    #[test]
    fn one_lucky_evaluation_does_not_prolong_a_smoothed_run() {
        // At decay 0.5, sums 0.400, 0.650, 0.675, 0.7925 over weights 0.5, 0.75, 0.875, 0.9375
        // give averages 0.800, 0.867, 0.771, 0.845: the last value is the highest, but its average is not.
        let lucky = accuracies(&[0.80, 0.90, 0.70, 0.91]);
        assert_eq!(verdict(Patience::new(250), &lucky), (Some(3), Some(651)));
        assert_eq!(verdict(Patience::new(250).smoothing(0.5), &lucky), (Some(1), Some(451)));
    }

    /// With evaluations at the ends of epochs, as `keras.callbacks.EarlyStopping` and Lightning's count them.
    #[test]
    fn the_last_of_so_many_evaluations_without_an_improvement_stops() {
        let history = accuracies(&[0.8, 0.9, 0.85, 0.9, 0.95, 0.9, 0.9, 0.9]).into_iter().zip(1..);
        let history: Vec<_> = history.map(|(seen, epoch)| Observation { epochs: Some(epoch), ..seen }).collect();
        for patience in [Patience::evaluations, Patience::epochs] {
            assert_eq!(verdict(patience(3), &history[..7]), (Some(4), None));
            assert_eq!(verdict(patience(3), &history), (Some(4), Some(800)));
            assert_eq!(verdict(patience(2), &history[..4]), (Some(1), Some(400)));
            assert_eq!(verdict(patience(1).warm_up(2), &history[..3]), (Some(1), Some(300)));
            assert_eq!(verdict(patience(1).warm_up(3), &history[..3]), (Some(1), None));
        }
    }

    #[test]
    fn epochs_end_between_evaluations() {
        let at =
            |iteration, accuracy, epochs| Observation { epochs: Some(epochs), ..Observation::new(iteration, accuracy) };
        let history =
            [at(50, 0.8, 0), at(150, 0.9, 1), at(290, 0.9, 2), at(310, 0.9, 3), at(400, 0.9, 4), at(500, 0.95, 5)];
        assert_eq!(verdict(Patience::epochs(2), &history[..3]), (Some(1), None));
        assert_eq!(verdict(Patience::epochs(2), &history[..4]), (Some(1), Some(310)));
        assert_eq!(verdict(Patience::epochs(2), &history[..5]), (Some(1), Some(310)));
        assert_eq!(verdict(Patience::epochs(2), &history), (Some(5), None)); // a run that went on has improved
        let reason = Judge::after(Patience::epochs(1), &history[..3]).reason().unwrap();
        assert_eq!(reason.to_string(), "patience(1 epoch): no improvement for 1 epoch since epoch 1");
    }

    #[test]
    fn without_epochs_the_rule_says_what_to_do() {
        let reason = Judge::after(Patience::epochs(3), &accuracies(&[0.8])).reason().unwrap();
        let expected = "cannot judge iteration 100 without the number of completed epochs: set Observation::epochs";
        assert!(reason.why.starts_with(expected), "{}", reason.why);
    }

    #[test]
    fn a_patience_in_iterations_is_saved_as_before() {
        let json = r#"{"iterations":7,"measure":"ValidationAccuracy","min_delta":{"Absolute":0.0},"smoothing":0.0,"warm_up":0,"baseline":null}"#;
        assert_eq!(serde_json::to_string(&Patience::new(7)).unwrap(), json);
        assert_eq!(serde_json::from_str::<Patience>(json).unwrap(), Patience::new(7));
        let epochs = serde_json::to_string(&Patience::epochs(7)).unwrap();
        assert!(epochs.starts_with(r#"{"iterations":7,"unit":"epochs","#), "{epochs}");
        assert_eq!(serde_json::from_str::<Patience>(&epochs).unwrap(), Patience::epochs(7));
    }

    #[test]
    fn the_name_says_what_was_changed() {
        assert_eq!(Patience::new(1000).to_string(), "patience(1000)");
        let patience = Patience::new(1000).on_loss().min_relative_delta(0.01).smoothing(0.9).warm_up(500).baseline(0.3);
        let name = "patience(1000 on loss, min delta 1%, smoothing 0.9, warm-up 500, baseline 0.3)";
        assert_eq!(patience.to_string(), name);
    }

    #[test]
    fn percents_have_the_digits_of_the_part() {
        let printed = [0.01, 0.07, 0.0, -0.0, 1.0, 0.5, 12.25, 0.0005, -0.123, 1e-7, 1e20].map(percent);
        let expected =
            ["1", "7", "0", "-0", "100", "50", "1225", "0.05", "-12.3", "0.00001", "10000000000000000000000"];
        assert_eq!(printed, expected);
    }
}
