//! Rules that have no opinion on what is better: budgets, a target, a collapse.

use std::fmt::Display;
use std::time::Duration;

use super::report::clock;
use super::{Judgement, Observation, StopKind, highest_accuracy};

/// The iterations are known beforehand, so this needs no evaluation at all.
pub(super) fn iterations(name: &impl Display, budget: u64, history: &[Observation]) -> Judgement {
    let why = format!("the budget of {budget} iterations is used up");
    Judgement::keeping(highest_accuracy(history)).stopping_at(budget, StopKind::Budget, name, why)
}

pub(super) fn time(name: &impl Display, budget: Duration, history: &[Observation]) -> Judgement {
    stop_if(name, history, StopKind::Budget, |last| {
        let elapsed = last.elapsed.filter(|&elapsed| elapsed >= budget)?;
        Some(format!("{} of {} are used up", clock(elapsed), clock(budget)))
    })
}

pub(super) fn target(name: &impl Display, accuracy: f64, history: &[Observation]) -> Judgement {
    stop_if(name, history, StopKind::Target, |last| {
        let reached = last.validation_accuracy;
        (reached >= accuracy)
            .then(|| format!("the validation accuracy {:.2}% reaches {:.2}%", 100.0 * reached, 100.0 * accuracy))
    })
}

pub(super) fn divergence(name: &impl Display, drop: f64, history: &[Observation]) -> Judgement {
    stop_if(name, history, StopKind::Divergence, |last| {
        let best = history[highest_accuracy(history)?].validation_accuracy;
        let now = last.validation_accuracy;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_iterations_budget_ends_with_its_last_iteration() {
        let stop = iterations(&"iterations", 500, &[]).stop.unwrap();
        assert_eq!((stop.at, stop.reason.why.as_str()), (500, "the budget of 500 iterations is used up"));
    }

    #[test]
    fn of_equal_accuracies_the_first_is_kept() {
        let history = [0.8, 0.9, 0.9].map(|accuracy| Observation::new(100, accuracy));
        assert_eq!(iterations(&"iterations", 500, &history).best, Some(1));
    }

    #[test]
    fn the_time_budget_counts_the_time_before_a_resume() {
        let at = |seconds| Observation { elapsed: Some(Duration::from_secs(seconds)), ..Observation::new(100, 0.9) };
        let budget = Duration::from_secs(60);
        assert!(time(&"time", budget, &[at(59)]).stop.is_none());
        assert_eq!(time(&"time", budget, &[at(60)]).stop.unwrap().reason.why, "0:01:00 of 0:01:00 are used up");
    }

    #[test]
    fn a_target_is_reached_when_it_is_equalled() {
        assert!(target(&"target", 0.99, &[Observation::new(100, 0.98)]).stop.is_none());
        let reached = [Observation::new(100, 0.98), Observation::new(200, 0.99)];
        assert_eq!(target(&"target", 0.99, &reached).stop.unwrap().at, 200);
    }

    #[test]
    fn a_collapse_stops_and_keeps_what_was_before_it() {
        let history = [Observation::new(100, 0.9), Observation::new(200, 0.7), Observation::new(300, 0.1)];
        assert!(divergence(&"divergence", 0.3, &history[..2]).stop.is_none());
        let judgement = divergence(&"divergence", 0.3, &history);
        assert_eq!(judgement.best, Some(0));
        let why = "the validation accuracy fell from 90.0% to 10.0%, by more than 30.0 points";
        assert_eq!(judgement.stop.unwrap().reason.why, why);
    }
}
