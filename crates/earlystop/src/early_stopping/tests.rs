//! What holds for every rule.

use proptest::prelude::*;

use super::reference::Judgement;
use super::*;

#[test]
fn the_tutorials_run_stops_at_5801_and_keeps_4800() {
    let mut stopping = EarlyStopping::new(1000);
    let mut stopped_at = None;
    for iteration in 1..=10_000 {
        if iteration % 100 == 0 {
            let accuracy = if iteration < 4800 { 0.9 + iteration as f64 * 1e-5 } else { 0.988 };
            assert_eq!(stopping.observe(iteration, accuracy).unwrap().improved, iteration <= 4800);
        }
        if stopping.should_stop(iteration) {
            stopped_at = Some(iteration);
            break;
        }
    }
    assert_eq!(stopped_at, Some(5801));
    assert_eq!(stopping.best(), Some(Best { iteration: 4800, score: 0.988, elapsed: None }));
}

#[test]
fn an_evaluation_after_the_patience_is_told_to_stop() {
    let mut stopping = EarlyStopping::new(1000);
    stopping.observe(100, 0.9).unwrap();
    assert_eq!(stopping.observe(1100, 0.9).unwrap().stop, None);
    assert_eq!(stopping.observe(1200, 0.9).unwrap().stop.map(|reason| reason.kind), Some(StopKind::NoImprovement));
}

#[test]
fn nan_ends_the_run_at_once_and_is_never_the_best() {
    let mut stopping = EarlyStopping::new(1000);
    stopping.observe(100, 0.5).unwrap();
    let verdict = stopping.record(Observation::new(200, 0.9).with("validation_loss", f64::NAN)).unwrap();
    assert!(!verdict.improved);
    let reason = verdict.stop.unwrap();
    assert_eq!(
        (reason.kind, reason.why.as_str()),
        (StopKind::NotFinite, "the validation loss is NaN at iteration 200")
    );
    // What follows comes from the same broken weights.
    assert!(!stopping.observe(300, 0.95).unwrap().improved);
    assert!(stopping.should_stop(301));
    assert_eq!(stopping.best().unwrap().iteration, 100);
}

#[test]
fn a_rule_that_lacks_a_number_stops_rather_than_never() {
    let mut stopping =
        EarlyStopping::with(Rule::all_of([Rule::patience(1000), Rule::generalization_loss(5.0)])).unwrap();
    let reason = stopping.observe(100, 0.5).unwrap().stop.unwrap();
    assert_eq!(reason.kind, StopKind::CannotJudge);
    assert_eq!(reason.why, "cannot judge iteration 100 without the validation loss; known are validation_accuracy");
}

#[test]
fn a_resume_by_another_rule_starts_from_the_whole_history() {
    let mut stopping = EarlyStopping::new(1000);
    stopping.observe(100, 0.9).unwrap();
    stopping.observe(200, 0.8).unwrap();
    let impatient = EarlyStopping::resume(Rule::patience(150), stopping.history().to_vec()).unwrap();
    assert!(impatient.should_stop(251));
    assert!(!stopping.should_stop(251));
}

/// Steps through every iteration, as a trainer does. Gives the iteration of the stop, and the best.
fn live(mut stopping: EarlyStopping, history: &[Observation]) -> (Option<u64>, Option<u64>) {
    let mut evaluations = history.iter().peekable();
    let last = history.last().map_or(0, |last| last.iteration);
    for iteration in 1..=last {
        if let Some(observation) = evaluations.next_if(|next| next.iteration == iteration) {
            stopping.record(observation.clone()).unwrap();
        }
        if stopping.should_stop(iteration) {
            return (Some(iteration), stopping.best().map(|best| best.iteration));
        }
    }
    (None, stopping.best().map(|best| best.iteration))
}

/// A history with everything in it, at uneven intervals and on few different values, so that some are equal, and so
/// close together that a patience often ends with an evaluation. With `odd`, some values are missing or not finite.
fn histories(odd: bool) -> impl Strategy<Value = Vec<Observation>> {
    let odd = u32::from(odd);
    let loss = (1..20u32).prop_map(|loss| Some(f64::from(loss) / 20.0));
    let loss =
        prop_oneof![90 => loss, odd => Just(Some(f64::NAN)), odd => Just(Some(f64::INFINITY)), odd => Just(None)];
    let train_loss = (1..20u32).prop_map(|loss| Some(f64::from(loss) / 10.0));
    let train_loss = prop_oneof![90 => train_loss, odd => Just(None), odd => Just(Some(f64::NEG_INFINITY))];
    let has = || prop_oneof![90 => Just(true), odd => Just(false)];
    let evaluation = (1..5u64, prop::collection::vec(any::<bool>(), 12), loss, train_loss, has(), has(), has(), has());
    prop::collection::vec(evaluation, 0..25).prop_map(|evaluations| {
        let mut iteration = 0;
        let observe =
            |(pause, correct, validation_loss, train_loss, has_time, has_epochs, has_mistakes, weights_finite)| {
                iteration += pause;
                let correct: Vec<bool> = correct;
                let accuracy = correct.iter().filter(|&&correct| correct).count() as f64 / correct.len() as f64;
                let scores = [("validation_loss", validation_loss), ("train_loss", train_loss)];
                let scores = scores.into_iter().filter_map(|(name, score)| Some((name, score?)));
                Observation {
                    elapsed: if has_time { Some(Duration::from_secs(iteration)) } else { None },
                    epochs: if has_epochs { Some(iteration / 7) } else { None },
                    mistakes: if has_mistakes { Some(Mistakes::new(&correct)) } else { None },
                    weights_finite,
                    ..scores.fold(Observation::new(iteration, accuracy), |seen, (name, score)| seen.with(name, score))
                }
            };
        evaluations.into_iter().map(observe).collect()
    })
}

fn patiences() -> impl Strategy<Value = Patience> {
    let numbers = (0..12u64, 0..12u64, 0..3u32, 0..3u32, 0..10u32);
    let new =
        prop::sample::select(&[Patience::new, |n| Patience::evaluations(n + 1), |n| Patience::epochs(n / 3 + 1)][..]);
    (new, numbers, any::<[bool; 3]>()).prop_map(
        |(new, (length, warm_up, delta, smoothing, baseline), [on_loss, relative, has])| {
            let patience = new(length).smoothing(f64::from(smoothing) / 3.0).warm_up(warm_up);
            let delta = f64::from(delta) / 10.0;
            let patience = if relative { patience.min_relative_delta(delta) } else { patience.min_delta(delta) };
            let patience = if on_loss { patience.on_loss() } else { patience };
            if has { patience.baseline(f64::from(baseline) / 10.0) } else { patience }
        },
    )
}

fn rules() -> impl Strategy<Value = Rule> {
    let leaf = prop_oneof![
        3 => patiences().prop_map(Rule::from),
        1 => (0..12u64, 1..10u32).prop_map(|(patience, significance)| Rule::NoiseAware {
            patience,
            significance: f64::from(significance) / 10.0
        }),
        1 => (0..90u32).prop_map(|alpha| Rule::generalization_loss(alpha.into())),
        1 => (0..9u32, 2..5usize).prop_map(|(alpha, strip)| Rule::progress_quotient(f64::from(alpha) / 10.0, strip)),
        1 => (1..4usize, 1..4usize).prop_map(|(strips, strip)| Rule::successive_rises(strips, strip)),
        1 => (1..50u64).prop_map(Rule::iterations),
        1 => (1..50u64).prop_map(|seconds| Rule::time(Duration::from_secs(seconds))),
        1 => (1..=10u32).prop_map(|target| Rule::target(f64::from(target) / 10.0)),
        1 => (0..10u32).prop_map(|drop| Rule::divergence(f64::from(drop) / 10.0)),
    ];
    leaf.prop_recursive(3, 10, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Rule::any_of),
            prop::collection::vec(inner.clone(), 1..3).prop_map(Rule::all_of),
            inner.prop_map(|rule| rule.named("mine")),
        ]
    })
}

/// The iteration of the first stop, its reason and the best evaluation, judged again for each evaluation.
fn replay_by_reference(rule: &Rule, history: &[Observation]) -> (Option<(u64, StopReason)>, Option<usize>) {
    let last = history.last().map_or(0, |last| last.iteration);
    for iteration in 1..=last {
        let seen = history.iter().filter(|observation| observation.iteration <= iteration).count();
        let Judgement { best, stop } = Judgement::of(rule, &history[..seen]);
        if let Some(stop) = stop.filter(|stop| iteration >= stop.at) {
            return (Some((iteration, stop.reason)), best);
        }
    }
    (None, Judgement::of(rule, history).best)
}

/// Compares best evaluation, stop and reason with those of the reference implementation after each evaluation, and
/// goes through JSON before the evaluation `at`.
fn assert_judged_as_by_reference(rule: Rule, history: &[Observation], at: usize) -> Result<(), TestCaseError> {
    let mut stopping = EarlyStopping::with(rule.clone()).unwrap();
    for seen in 0..=history.len() {
        let expected = Judgement::of(&rule, &history[..seen]);
        prop_assert_eq!(stopping.judge.kept().map(|kept| kept.index), expected.best);
        let reason = stopping.judge.stop_at().zip(stopping.judge.reason());
        prop_assert_eq!(reason, expected.stop.map(|stop| (stop.at, stop.reason)));
        if seen == at {
            let json = serde_json::to_string(&stopping).unwrap();
            let back: SavedStopping = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&back.state, &Some(stopping.judge.clone().into_parts().1));
            stopping = back.try_into().unwrap();
        }
        if let Some(next) = history.get(seen) {
            let improved = stopping.record(next.clone()).unwrap().improved;
            prop_assert_eq!(improved, Judgement::of(&rule, &history[..=seen]).best == Some(seen));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_rule_judges_like_its_reference_implementation(
        history in prop_oneof![histories(false), histories(true)],
        rule in rules(),
        at in 0..25usize,
    ) {
        assert_judged_as_by_reference(rule, &history, at)?;
    }

    #[test]
    fn a_refined_patience_judges_like_its_reference_implementation(
        history in histories(false),
        patience in patiences(),
        at in 0..25usize,
    ) {
        assert_judged_as_by_reference(patience.into(), &history, at)?;
    }

    #[test]
    fn replay_is_replay_by_reference(history in prop_oneof![histories(false), histories(true)], rule in rules()) {
        let outcome = replay(&history, [rule.clone()]).rows.remove(0);
        let (stop, best) = replay_by_reference(&rule, &history);
        prop_assert_eq!(outcome.kept.map(|kept| kept.iteration), best.map(|best| history[best].iteration));
        prop_assert_eq!(outcome.reason.map(|reason| (outcome.stopped_at, reason)), stop);
    }

    #[test]
    fn without_a_state_or_with_another_rule_the_history_is_judged_again(
        history in histories(true),
        rule in rules(),
        other in rules(),
    ) {
        let stopping = EarlyStopping::resume(rule.clone(), history.clone()).unwrap();
        let mut json = serde_json::to_value(&stopping).unwrap();
        let saved: SavedStopping = serde_json::from_value(json.clone()).unwrap();
        let resumed = saved.resume(other.clone(), history.clone(), None).unwrap();
        prop_assert_eq!(resumed.judge, EarlyStopping::resume(other, history).unwrap().judge);
        json.as_object_mut().unwrap().remove("state");
        prop_assert_eq!(serde_json::from_value::<EarlyStopping>(json).unwrap().judge, stopping.judge);
    }

    #[test]
    fn replay_is_stepping_live(history in histories(true), rule in rules()) {
        let outcome = replay(&history, [rule.clone()]).rows.remove(0);
        let replayed = (outcome.reason.map(|_| outcome.stopped_at), outcome.kept.map(|kept| kept.iteration));
        prop_assert_eq!(live(EarlyStopping::with(rule).unwrap(), &history), replayed);
    }

    #[test]
    fn saved_and_loaded_in_the_middle_the_verdicts_are_the_same(
        history in histories(true),
        rule in rules(),
        at in 0..25usize,
    ) {
        let mut whole = EarlyStopping::with(rule.clone()).unwrap();
        let mut parts = EarlyStopping::with(rule).unwrap();
        for (index, observation) in history.iter().enumerate() {
            if index == at {
                parts = serde_json::from_str(&serde_json::to_string(&parts).unwrap()).unwrap();
            }
            prop_assert_eq!(whole.record(observation.clone()).unwrap(), parts.record(observation.clone()).unwrap());
            prop_assert_eq!(whole.best(), parts.best());
        }
        prop_assert_eq!(&whole.judge, &parts.judge);
    }

    #[test]
    fn what_is_not_finite_never_improves_and_always_stops(history in histories(true), rule in rules()) {
        let mut stopping = EarlyStopping::with(rule).unwrap();
        for observation in history {
            let (iteration, broken) = (observation.iteration, observation.not_finite().is_some());
            let verdict = stopping.record(observation).unwrap();
            prop_assert!(!(broken && verdict.improved));
            prop_assert!(!broken || verdict.stop.is_some() && stopping.should_stop(iteration));
        }
        if let Some(best) = stopping.judge.kept() {
            prop_assert_eq!(stopping.history()[best.index].not_finite(), None);
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
        test in prop::collection::vec(prop_oneof![20 => 0.0..=1.0, 1 => Just(f64::NAN)], 25),
    ) {
        let mut told = history.clone();
        told.iter_mut().zip(test).for_each(|(observation, accuracy)| {
            observation.scores.insert("test_accuracy".into(), accuracy);
        });
        prop_assert_eq!(live(EarlyStopping::with(rule.clone()).unwrap(), &told), live(EarlyStopping::with(rule).unwrap(), &history));
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
            if let Some(it) = evaluations.next_if(|next| next.iteration == iteration) && it.scores["validation_accuracy"] > best {
                (best, last_improvement) = (it.scores["validation_accuracy"], iteration);
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

/// The same run with another score in place of the accuracy.
fn renamed(history: &[Observation], name: &str, score: fn(f64) -> f64) -> Vec<Observation> {
    let rename = |seen: &Observation| {
        let mut seen = seen.clone();
        let accuracy = seen.scores.remove("validation_accuracy").unwrap();
        seen.with(name, score(accuracy))
    };
    history.iter().map(rename).collect()
}

/// Where a rule stops, and what it keeps.
fn ends(history: &[Observation], rule: Rule) -> (u64, Option<StopKind>, Option<u64>) {
    let row = replay(history, [rule]).rows.remove(0);
    (row.stopped_at, row.reason.map(|reason| reason.kind), row.kept.map(|kept| kept.iteration))
}

proptest! {
    #[test]
    fn any_score_is_judged_as_the_accuracy_is(history in histories(true), rule in rules()) {
        let elsewhere = renamed(&history, "validation_f1", |accuracy| accuracy);
        prop_assert_eq!(ends(&elsewhere, rule.clone().on(Metric::higher("validation_f1"))), ends(&history, rule));
    }

    #[test]
    fn lower_is_as_good_as_higher(history in histories(true), patience in 0..12u64, half_points in 0..10u32) {
        let errors = renamed(&history, "validation_error", |accuracy| -accuracy);
        let delta = f64::from(half_points) / 10.0;
        let lower = Metric::lower("validation_error");
        let rule = Patience::new(patience).min_delta(delta);
        prop_assert_eq!(ends(&errors, rule.clone().on(lower.clone()).into()), ends(&history, rule.clone().into()));
        prop_assert_eq!(ends(&errors, Rule::from(rule.clone()).on(lower.clone())), ends(&history, rule.into()));
        prop_assert_eq!(ends(&errors, Rule::divergence(delta).on(lower.clone())), ends(&history, Rule::divergence(delta)));
        if delta > 0.0 {
            prop_assert_eq!(ends(&errors, Rule::target(-delta).on(lower)), ends(&history, Rule::target(delta)));
        }
    }
}

/// `Patience::evaluations` as a rule of a program's own.
struct OwnPatience(u64);

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct Waited {
    best: Option<f64>,
    evaluations: u64,
    since: u64,
}

impl OwnRule for OwnPatience {
    type State = Waited;

    fn name(&self) -> String {
        format!("own-patience({})", self.0)
    }

    fn observe(&self, state: &mut Waited, seen: &Observation, metric: &Metric) -> Result<Decision> {
        let score = metric.of(seen).ok_or_else(|| crate::Error::other("no score"))?;
        let is_better = |best: f64| if metric.lower_is_better() { score < best } else { score > best };
        let improved = state.best.is_none_or(is_better);
        state.evaluations += 1;
        if improved {
            (state.best, state.since) = (Some(score), state.evaluations);
        }
        let (waited, s) = (state.evaluations - state.since, if self.0 == 1 { "" } else { "s" });
        let why = format!("no improvement for {} evaluation{s} since evaluation {}", self.0, state.since);
        Ok(Decision { improved, stop: (waited >= self.0).then_some(why) })
    }
}

/// Combines a patience in evaluations with others.
fn combined(with: usize, patience: Rule) -> Rule {
    match with {
        0 => patience,
        1 => Rule::any_of([Rule::target(0.9), patience, Rule::iterations(20)]).named("mine"),
        2 => Rule::all_of([patience, Rule::time(Duration::from_secs(15))]).on(Metric::default()),
        _ => Rule::any_of([Rule::patience(7), patience]).on(Metric::validation_loss()),
    }
}

proptest! {
    #[test]
    fn an_own_rule_decides_like_the_built_in_one(
        history in prop_oneof![histories(false), histories(true)],
        evaluations in 1..6u64,
        with in 0..4usize,
        at in 0..25usize,
    ) {
        let own = || combined(with, Rule::own(OwnPatience(evaluations)));
        let built_in = combined(with, Patience::evaluations(evaluations).into());
        let [a, b] = [own(), built_in.clone()].map(|rule| replay(&history, [rule]).rows.remove(0));
        prop_assert_eq!((a.stopped_at, a.kept), (b.stopped_at, b.kept));
        prop_assert_eq!(a.reason.map(|reason| reason.why), b.reason.map(|reason| reason.why));
        let [own_live, live] = [own(), built_in].map(|rule| live(EarlyStopping::with(rule).unwrap(), &history));
        prop_assert_eq!(own_live, live);

        // Saved and resumed in the middle.
        let whole = EarlyStopping::resume(own(), history.clone()).unwrap();
        let (before, after) = history.split_at(at.min(history.len()));
        let before = EarlyStopping::resume(own(), before.to_vec()).unwrap();
        let json = serde_json::to_string(&SavedStopping::without_history(&before)).unwrap();
        let saved: SavedStopping = serde_json::from_str(&json).unwrap();
        // The state, not the history, is what it continues from.
        let mut resumed = saved.resume(own(), Vec::new(), Some("there is no history")).unwrap();
        for observation in after {
            resumed.record(observation.clone()).unwrap();
        }
        prop_assert_eq!(resumed.judge, whole.judge);
    }
}

#[test]
fn a_state_that_does_not_fit_an_own_rule_is_computed_again() {
    let history: Vec<_> = (1..4).map(|iteration| Observation::new(iteration, 0.5)).collect();
    let stopping = EarlyStopping::resume(Rule::own(OwnPatience(5)), history.clone()).unwrap();
    let mut json = serde_json::to_value(SavedStopping::without_history(&stopping)).unwrap();
    json["state"]["rule"]["Own"]["state"] = "of an earlier version of the program".into();
    let saved: SavedStopping = serde_json::from_value(json).unwrap();
    let resumed = saved.clone().resume(Rule::own(OwnPatience(5)), history, None).unwrap();
    assert_eq!(resumed, stopping);
    let error = saved.resume(Rule::own(OwnPatience(5)), Vec::new(), Some("it is missing")).unwrap_err().to_string();
    assert!(error.contains("it is missing"), "{error}");
}

#[test]
fn a_report_shows_the_score_that_the_rule_watches() {
    let rmse = Metric::lower("validation_rmse");
    let rules = [
        Patience::new(100).on(rmse.clone()).into(),
        Rule::patience(100).on(rmse.clone()),
        Rule::any_of([Rule::time(Duration::from_secs(60)), Rule::patience(100)]).on(rmse.clone()),
    ];
    for rule in rules {
        let mut stopping = EarlyStopping::with(rule.clone()).unwrap();
        for (iteration, score) in [(100, 48.5), (200, 31.25), (300, 33.0)] {
            let seen = Observation::of(iteration, [("validation_rmse", score)]);
            stopping.record(Observation { elapsed: Some(Duration::from_secs(1)), ..seen }).unwrap();
        }
        let report = stopping.report(301, None);
        assert!(report.to_string().contains("Best: validation rmse 31.25 at iteration 200."), "{report}");
        let json = serde_json::to_string(&stopping).unwrap();
        assert_eq!(serde_json::from_str::<EarlyStopping>(&json).unwrap(), stopping);
    }
}

#[test]
fn a_name_that_is_not_known_is_reported_with_those_that_are() {
    let mut stopping = EarlyStopping::with(Patience::new(100).on(Metric::lower("validation_rsme"))).unwrap();
    let seen = Observation::of(100, [("validation_rmse", 1.0), ("train_loss", 2.0)]);
    let reason = stopping.record(seen).unwrap().stop.unwrap();
    let expected = "cannot judge iteration 100 without the validation rsme; known are train_loss, validation_rmse";
    assert_eq!((reason.kind, reason.why.as_str()), (StopKind::CannotJudge, expected));
}

#[test]
fn a_rule_monitors_one_score() {
    let [rmse, loss] = [Metric::lower("validation_rmse"), Metric::validation_loss()];
    assert_eq!(Rule::from(Patience::new(5).on_loss()).monitored(), loss);
    assert_eq!(Rule::any_of([Patience::new(5).on_loss().into(), Rule::target(0.9)]).monitored(), Metric::default());
    assert_eq!(Rule::iterations(5).monitored(), Metric::default());
    let nested = Rule::all_of([Rule::iterations(5).on(rmse.clone()).named("mine"), Rule::patience(3)]);
    assert_eq!(nested.monitored(), rmse);
    nested.check().unwrap();
    let both = Rule::all_of([nested, Rule::patience(3).on(loss)]);
    assert!(both.check().unwrap_err().to_string().starts_with("metric of a rule: expected one for all its parts"));
    let lower = Rule::target(-3.5).on(rmse.clone());
    lower.check().unwrap(); // not in the range of an accuracy
    assert!(Rule::target(-3.5).on(Metric::higher("test_accuracy")).check().is_err());
}
