//! What holds for every rule.

use proptest::prelude::*;

use super::*;

#[test]
fn the_tutorials_run_stops_at_5801_and_keeps_4800() {
    let mut stopping = EarlyStopping::new(1000);
    let mut stopped_at = None;
    for iteration in 1..=10_000 {
        if iteration % 100 == 0 {
            let accuracy = if iteration < 4800 { 0.9 + iteration as f64 * 1e-5 } else { 0.988 };
            assert_eq!(stopping.observe(iteration, accuracy).improved, iteration <= 4800);
        }
        if stopping.should_stop(iteration) {
            stopped_at = Some(iteration);
            break;
        }
    }
    assert_eq!(stopped_at, Some(5801));
    assert_eq!(stopping.best(), Some(Best { iteration: 4800, accuracy: 0.988, elapsed: None }));
}

#[test]
fn an_evaluation_after_the_patience_is_told_to_stop() {
    let mut stopping = EarlyStopping::new(1000);
    stopping.observe(100, 0.9);
    assert_eq!(stopping.observe(1100, 0.9).stop, None);
    assert_eq!(stopping.observe(1200, 0.9).stop.map(|reason| reason.kind), Some(StopKind::NoImprovement));
}

#[test]
fn nan_ends_the_run_at_once_and_is_never_the_best() {
    let mut stopping = EarlyStopping::new(1000);
    stopping.observe(100, 0.5);
    let verdict = stopping.record(Observation { validation_loss: Some(f64::NAN), ..Observation::new(200, 0.9) });
    assert!(!verdict.improved);
    let reason = verdict.stop.unwrap();
    assert_eq!(
        (reason.kind, reason.why.as_str()),
        (StopKind::NotFinite, "the validation loss is NaN at iteration 200")
    );
    // What follows comes from the same broken weights.
    assert!(!stopping.observe(300, 0.95).improved);
    assert!(stopping.should_stop(301));
    assert_eq!(stopping.best().unwrap().iteration, 100);
}

#[test]
fn a_rule_that_lacks_a_number_stops_rather_than_never() {
    let mut stopping = EarlyStopping::with(Rule::all_of([Rule::patience(1000), Rule::generalization_loss(5.0)]));
    let reason = stopping.observe(100, 0.5).stop.unwrap();
    assert_eq!(reason.kind, StopKind::CannotJudge);
    assert_eq!(reason.why, "cannot judge iteration 100 without the validation loss");
}

#[test]
fn a_resume_by_another_rule_starts_from_the_whole_history() {
    let mut stopping = EarlyStopping::new(1000);
    stopping.observe(100, 0.9);
    stopping.observe(200, 0.8);
    let impatient = EarlyStopping::resume(Rule::patience(150), stopping.history().to_vec());
    assert!(impatient.should_stop(251));
    assert!(!stopping.should_stop(251));
}

/// Steps through every iteration, as a trainer does. Gives the iteration of the stop, and the best.
fn live(mut stopping: EarlyStopping, history: &[Observation]) -> (Option<u64>, Option<u64>) {
    let mut evaluations = history.iter().peekable();
    let last = history.last().map_or(0, |last| last.iteration);
    for iteration in 1..=last {
        if let Some(observation) = evaluations.next_if(|next| next.iteration == iteration) {
            stopping.record(observation.clone());
        }
        if stopping.should_stop(iteration) {
            return (Some(iteration), stopping.best().map(|best| best.iteration));
        }
    }
    (None, stopping.best().map(|best| best.iteration))
}

/// A history with everything in it, at uneven intervals and on few different values, so that some are equal, and so
/// close together that a patience often ends with an evaluation; sometimes not finite.
fn histories(not_finite: bool) -> impl Strategy<Value = Vec<Observation>> {
    let odd = if not_finite { 1 } else { 0 };
    let loss = (1..20u32).prop_map(|loss| f64::from(loss) / 20.0);
    let loss = prop_oneof![30 => loss, odd => Just(f64::NAN), odd => Just(f64::INFINITY)];
    let evaluation = (1..5u64, prop::collection::vec(any::<bool>(), 12), loss, 1..20u32);
    prop::collection::vec(evaluation, 0..25).prop_map(|evaluations| {
        let mut iteration = 0;
        let observe = |(pause, correct, loss, train_loss): (u64, Vec<bool>, f64, u32)| {
            iteration += pause;
            let accuracy = correct.iter().filter(|&&correct| correct).count() as f64 / correct.len() as f64;
            Observation {
                validation_loss: Some(loss),
                train_loss: Some(f64::from(train_loss) / 10.0),
                elapsed: Some(Duration::from_secs(iteration)),
                mistakes: Some(Mistakes::new(&correct)),
                ..Observation::new(iteration, accuracy)
            }
        };
        evaluations.into_iter().map(observe).collect()
    })
}

fn rules() -> impl Strategy<Value = Rule> {
    let patience = (0..12u64, 0..3u32, 0..3u32, 0..12u64, any::<bool>(), any::<bool>());
    let patience = patience.prop_map(|(iterations, delta, smoothing, warm_up, on_loss, baseline)| {
        let patience = Patience::new(iterations)
            .min_relative_delta(f64::from(delta) / 10.0)
            .smoothing(f64::from(smoothing) / 3.0)
            .warm_up(warm_up);
        let patience = if on_loss { patience.on_loss() } else { patience };
        Rule::from(if baseline { patience.baseline(0.5) } else { patience })
    });
    let leaf = prop_oneof![
        patience,
        (0..12u64).prop_map(|patience| Rule::NoiseAware { patience, significance: 0.3 }),
        (0..90u32).prop_map(|alpha| Rule::generalization_loss(alpha.into())),
        (0..9u32, 0..4usize).prop_map(|(alpha, strip)| Rule::progress_quotient(f64::from(alpha) / 10.0, strip)),
        (0..4usize, 0..4usize).prop_map(|(strips, strip)| Rule::successive_rises(strips, strip)),
        (0..50u64).prop_map(Rule::iterations),
        (0..50u64).prop_map(|seconds| Rule::time(Duration::from_secs(seconds))),
        (0..10u32).prop_map(|target| Rule::target(f64::from(target) / 10.0)),
        (0..10u32).prop_map(|drop| Rule::divergence(f64::from(drop) / 10.0)),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        let rules = prop::collection::vec(inner, 0..3);
        prop_oneof![rules.clone().prop_map(Rule::any_of), rules.prop_map(Rule::all_of)]
    })
}

proptest! {
    #[test]
    fn replay_is_stepping_live(history in histories(true), rule in rules()) {
        let outcome = replay(&history, [rule.clone()]).rows.remove(0);
        let replayed = (outcome.reason.map(|_| outcome.stopped_at), outcome.kept.map(|kept| kept.iteration));
        prop_assert_eq!(live(EarlyStopping::with(rule), &history), replayed);
    }

    #[test]
    fn saved_and_loaded_in_the_middle_the_verdicts_are_the_same(
        history in histories(true),
        rule in rules(),
        at in 0..25usize,
    ) {
        let mut whole = EarlyStopping::with(rule.clone());
        let mut parts = EarlyStopping::with(rule);
        for (index, observation) in history.iter().enumerate() {
            if index == at {
                parts = serde_json::from_str(&serde_json::to_string(&parts).unwrap()).unwrap();
            }
            prop_assert_eq!(whole.record(observation.clone()), parts.record(observation.clone()));
            prop_assert_eq!(whole.best(), parts.best());
        }
        prop_assert_eq!(&whole.judgement, &parts.judgement);
    }

    #[test]
    fn what_is_not_finite_never_improves_and_always_stops(history in histories(true), rule in rules()) {
        let mut stopping = EarlyStopping::with(rule);
        for observation in history {
            let (iteration, broken) = (observation.iteration, observation.not_finite().is_some());
            let verdict = stopping.record(observation);
            prop_assert!(!(broken && verdict.improved));
            prop_assert!(!broken || verdict.stop.is_some() && stopping.should_stop(iteration));
        }
        if let Some(best) = stopping.judgement.best {
            prop_assert_eq!(stopping.history()[best].not_finite(), None);
        }
    }

    #[test]
    fn more_patience_never_stops_earlier(history in histories(true), patience in 0..12u64, more in 0..12u64) {
        let rules = [patience, patience + more].map(|patience| [Rule::patience(patience), Rule::noise_aware(patience)]);
        let [impatient, patient] = rules.map(|rules| replay(&history, rules));
        for (impatient, patient) in impatient.rows.iter().zip(&patient.rows) {
            prop_assert!(patient.stopped_at >= impatient.stopped_at);
        }
    }

    #[test]
    fn the_test_set_decides_nothing(
        history in histories(true),
        rule in rules(),
        test in prop::collection::vec(any::<f64>(), 25),
    ) {
        let mut told = history.clone();
        told.iter_mut().zip(test).for_each(|(observation, accuracy)| observation.test_accuracy = Some(accuracy));
        prop_assert_eq!(live(EarlyStopping::with(rule.clone()), &told), live(EarlyStopping::with(rule), &history));
    }

    #[test]
    fn any_of_stops_with_the_earliest(history in histories(false), a in rules(), b in rules()) {
        let rules = [a.clone(), b.clone(), Rule::any_of([a, b])];
        let stops: Vec<_> = replay(&history, rules).rows.iter().map(|row| row.stopped_at).collect();
        prop_assert_eq!(stops[2], stops[0].min(stops[1]));
    }

    #[test]
    fn the_plain_rule_is_the_tutorials_code(history in histories(false), patience in 0..12u64) {
        let (mut best, mut last_improvement, mut stopped_at) = (-1.0, 0, None);
        let mut evaluations = history.iter().peekable();
        for iteration in 1..=history.last().map_or(0, |last| last.iteration) {
            if let Some(it) = evaluations.next_if(|next| next.iteration == iteration) && it.validation_accuracy > best {
                (best, last_improvement) = (it.validation_accuracy, iteration);
            }
            // The original would also give up before it has evaluated at all.
            if last_improvement > 0 && iteration - last_improvement > patience {
                stopped_at = Some(iteration);
                break;
            }
        }
        let best = (last_improvement > 0).then_some(last_improvement);
        prop_assert_eq!(live(EarlyStopping::new(patience), &history), (stopped_at, best));
    }
}
