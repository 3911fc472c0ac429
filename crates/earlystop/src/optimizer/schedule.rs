//! Learning rates as functions of the iteration.

use std::f64::consts::PI;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A learning rate for each iteration. The first iteration is 1.
///
/// A schedule has no state, so a resumed run needs nothing but the number of its iteration. A number is a schedule too: the same
/// rate in all iterations.
///
/// | schedule | rate at iteration `i`, with `e = i - 1` |
/// |---|---|
/// | [`constant`](Self::constant) | `rate` |
/// | [`step`](Self::step) | `rate * factor^floor(e / every)` |
/// | [`exponential`](Self::exponential) | `rate * factor^e` |
/// | [`cosine`](Self::cosine) | `rate * (1 + cos(π * min(e / iterations, 1))) / 2` |
/// | [`one_cycle`](Self::one_cycle) | from `max / 25` up to `max` in the first 30% of the iterations, then down to `max / 250000`, both along half a cosine |
///
/// They equal PyTorch's `StepLR`, `ExponentialLR`, `CosineAnnealingLR` and `OneCycleLR`, stepped after each iteration. After
/// their last iteration, `cosine` stays at 0 and `one_cycle` at its last rate.
///
/// ```
/// use earlystop::optimizer::Schedule;
///
/// let schedule = Schedule::cosine(1e-3, 10_000)?.warm_up(500);
/// assert_eq!(schedule.at(250), 5e-4);
/// assert_eq!(schedule.at(501), 1e-3);
/// assert!(schedule.at(10_000) < 1e-5);
/// assert_eq!(schedule.to_string(), "cosine(0.001, 10000) after a warm-up of 500 iterations");
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
pub struct Schedule {
    shape: Shape,
    warm_up: u64,
}

/// A schedule in a checkpoint: a plain number where the rate is always the same.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Saved {
    Constant(f64),
    Other { shape: Shape, warm_up: u64 },
}

impl From<Schedule> for Saved {
    fn from(Schedule { shape, warm_up }: Schedule) -> Self {
        match (shape, warm_up) {
            (Shape::Constant { rate }, 0) => Self::Constant(rate),
            _ => Self::Other { shape, warm_up },
        }
    }
}

impl From<Saved> for Schedule {
    fn from(saved: Saved) -> Self {
        match saved {
            Saved::Constant(rate) => Self::constant(rate),
            Saved::Other { shape, warm_up } => Self { shape, warm_up },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Constant { rate: f64 },
    Step { rate: f64, every: u64, factor: f64 },
    Exponential { rate: f64, factor: f64 },
    Cosine { rate: f64, iterations: u64 },
    OneCycle { max: f64, iterations: u64 },
}

impl Schedule {
    /// Uses the same rate in all iterations.
    pub fn constant(rate: f64) -> Self {
        Shape::Constant { rate }.into()
    }

    /// Multiplies the rate by `factor` after each `every` iterations.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if `every` is 0 or the factor is not a positive number.
    pub fn step(rate: f64, every: u64, factor: f64) -> Result<Self> {
        check_iterations("schedule step, every", every)?;
        check_factor("schedule step, factor", factor)?;
        Ok(Shape::Step { rate, every, factor }.into())
    }

    /// Multiplies the rate by `factor` after each iteration.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if the factor is not a positive number.
    pub fn exponential(rate: f64, factor: f64) -> Result<Self> {
        check_factor("schedule exponential, factor", factor)?;
        Ok(Shape::Exponential { rate, factor }.into())
    }

    /// Lets the rate fall to 0 within `iterations` iterations, along half a cosine
    /// ([Loshchilov & Hutter 2017](https://arxiv.org/abs/1608.03983), without restarts).
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if there is no iteration.
    pub fn cosine(rate: f64, iterations: u64) -> Result<Self> {
        check_iterations("schedule cosine, iterations", iterations)?;
        Ok(Shape::Cosine { rate, iterations }.into())
    }

    /// Raises the rate to `max` and lets it fall to almost 0 within `iterations` iterations
    /// ([Smith & Topin 2019](https://arxiv.org/abs/1708.07120)).
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if there are fewer than 10 iterations.
    pub fn one_cycle(max: f64, iterations: u64) -> Result<Self> {
        if iterations < 10 {
            return Err(Error::setting("schedule one_cycle, iterations", "at least 10", iterations));
        }
        Ok(Shape::OneCycle { max, iterations }.into())
    }

    /// Raises the rate evenly to its first value within the first `iterations` iterations. The schedule begins after them.
    pub fn warm_up(self, iterations: u64) -> Self {
        Self { warm_up: iterations, ..self }
    }

    /// Returns the learning rate of an iteration.
    pub fn at(&self, iteration: u64) -> f64 {
        match iteration.checked_sub(self.warm_up.saturating_add(1)) {
            Some(done) => self.shape.at(done),
            None => self.shape.at(0) * (iteration as f64 / self.warm_up as f64),
        }
    }

    /// Returns the rate that the schedule is made of.
    pub(super) fn rate(&self) -> f64 {
        match self.shape {
            Shape::Constant { rate }
            | Shape::Step { rate, .. }
            | Shape::Exponential { rate, .. }
            | Shape::Cosine { rate, .. }
            | Shape::OneCycle { max: rate, .. } => rate,
        }
    }
}

impl Shape {
    /// Returns the rate after `done` iterations.
    fn at(&self, done: u64) -> f64 {
        match *self {
            Self::Constant { rate } => rate,
            Self::Step { rate, every, factor } => rate * factor.powf((done / every) as f64),
            Self::Exponential { rate, factor } => rate * factor.powf(done as f64),
            Self::Cosine { rate, iterations } => along_cosine(rate, 0.0, (done as f64 / iterations as f64).min(1.0)),
            Self::OneCycle { max, iterations } => {
                let (first, last) = (max / 25.0, max / 25.0 / 1e4);
                let (peak, end) = (0.3 * iterations as f64 - 1.0, iterations as f64 - 1.0);
                let done = (done as f64).min(end);
                if done <= peak {
                    along_cosine(first, max, done / peak)
                } else {
                    along_cosine(max, last, (done - peak) / (end - peak))
                }
            }
        }
    }
}

/// Goes from one value to another along half a cosine; `part` is 0.0 to 1.0.
fn along_cosine(from: f64, to: f64, part: f64) -> f64 {
    to + (from - to) / 2.0 * (1.0 + (PI * part).cos())
}

fn check_iterations(what: &str, iterations: u64) -> Result<()> {
    if iterations == 0 { Err(Error::setting(what, "at least 1 iteration", 0)) } else { Ok(()) }
}

fn check_factor(what: &str, factor: f64) -> Result<()> {
    let is_valid = factor > 0.0 && factor.is_finite();
    if is_valid { Ok(()) } else { Err(Error::setting(what, "a positive number", factor)) }
}

impl From<Shape> for Schedule {
    fn from(shape: Shape) -> Self {
        Self { shape, warm_up: 0 }
    }
}

/// The same rate in all iterations.
impl From<f64> for Schedule {
    fn from(rate: f64) -> Self {
        Self::constant(rate)
    }
}

/// `0.0001`, `cosine(0.001, 10000)`.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shape {
            Shape::Constant { rate } => write!(f, "{rate}"),
            Shape::Step { rate, every, factor } => write!(f, "step({rate}, {every}, {factor})"),
            Shape::Exponential { rate, factor } => write!(f, "exponential({rate}, {factor})"),
            Shape::Cosine { rate, iterations } => write!(f, "cosine({rate}, {iterations})"),
            Shape::OneCycle { max, iterations } => write!(f, "one_cycle({max}, {iterations})"),
        }?;
        match self.warm_up {
            0 => Ok(()),
            iterations => write!(f, " after a warm-up of {iterations} iterations"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates of `torch.optim.lr_scheduler` in PyTorch 2.13.
    #[test]
    fn rates_are_pytorchs() {
        let recorded: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/pytorch/optimizers.json")).unwrap();
        let cases = [
            ("step", Schedule::step(0.1, 7, 0.5)),
            ("exponential", Schedule::exponential(0.1, 0.97)),
            ("cosine", Schedule::cosine(0.1, 100)),
            ("one_cycle", Schedule::one_cycle(0.1, 101)),
        ];
        for (name, schedule) in cases {
            let (schedule, expected) = (schedule.unwrap(), recorded["schedules"][name].as_array().unwrap());
            assert_eq!(expected.len(), 100);
            for (iteration, expected) in (1..).zip(expected) {
                let (found, expected) = (schedule.at(iteration), expected.as_f64().unwrap());
                assert!((found - expected).abs() <= 1e-12, "{schedule} at {iteration}: {found} {expected}");
            }
        }
    }

    #[test]
    fn schedules_survive_json() {
        let constant = Schedule::constant(1e-4);
        assert_eq!(serde_json::to_string(&constant).unwrap(), "0.0001");
        for schedule in [constant, constant.warm_up(5), Schedule::one_cycle(0.1, 100).unwrap()] {
            let json = serde_json::to_string(&schedule).unwrap();
            assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
        }
    }

    #[test]
    fn a_warm_up_comes_before_the_schedule() {
        let schedule = Schedule::step(0.2, 10, 0.1).unwrap().warm_up(4);
        let rates = [1, 2, 3, 4, 5, 14, 15].map(|iteration| schedule.at(iteration));
        for (found, expected) in rates.into_iter().zip([0.05, 0.1, 0.15, 0.2, 0.2, 0.2, 0.02]) {
            assert!((found - expected).abs() < 1e-15, "{rates:?}");
        }
        assert_eq!(Schedule::from(0.5).warm_up(u64::MAX).at(u64::MAX), 0.5);
    }

    #[test]
    fn schedules_end_and_stay_there() {
        let (cosine, cycle) = (Schedule::cosine(0.1, 100).unwrap(), Schedule::one_cycle(0.1, 100).unwrap());
        for iteration in [101, 1000, u64::MAX] {
            assert_eq!(cosine.at(iteration), 0.0);
            assert_eq!(cycle.at(iteration), cycle.at(100));
        }
    }

    #[test]
    fn arguments_that_mean_nothing_are_refused() {
        let refused = [
            Schedule::step(0.1, 0, 0.5),
            Schedule::step(0.1, 1, f64::NAN),
            Schedule::exponential(0.1, 0.0),
            Schedule::cosine(0.1, 0),
            Schedule::one_cycle(0.1, 9),
        ];
        for schedule in refused {
            assert!(matches!(schedule, Err(Error::Setting { .. })), "{schedule:?}");
        }
    }
}
