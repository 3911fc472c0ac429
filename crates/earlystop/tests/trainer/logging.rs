//! Log files of runs that are interrupted, killed and resumed.

use std::cell::Cell;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use earlystop::checkpoint::Keep;
use earlystop::data::TensorData;
use earlystop::early_stopping::{Metric, Observation, Rule};
use earlystop::logging::{Csv, JsonLines, TensorBoard};
use earlystop::optimizer::Trainable;
use earlystop::trainer::{BatchIter, Event, Model, Resume, SavePolicy, Scores, TrainerBuilder};
use earlystop::{Loss, Network, Optimizer, Result, Trainer};
use serde_json::Value;
use tch::nn::Module;
use tch::{Device, Kind, Reduction, Tensor, nn};

use crate::common::{bits, builder, history};

/// Tells the test program, started again as a child, where to save and log.
const FOLDER: &str = "TRAINER_LOGGING_FOLDER";

/// A trainer that logs into a folder and never stops.
fn logging(folder: &Path) -> TrainerBuilder {
    builder()
        .stop_when(Rule::never())
        .callback(Csv::new(folder.join("log.csv")))
        .callback(JsonLines::new(folder.join("logs/log.jsonl")))
        .callback(TensorBoard::new(folder.join("tensorboard")))
}

/// The same with checkpoints, all of which are kept.
fn saving(folder: &Path) -> TrainerBuilder {
    logging(folder).checkpoints(folder.join("run")).keep(Keep::all())
}

/// The table without the times, which no two runs share.
fn table(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("log.csv")).unwrap();
    let timeless = |line: &str| {
        let mut fields: Vec<_> = line.split(',').collect();
        fields.remove(1);
        fields.join(",") + "\n"
    };
    text.split_inclusive('\n').map(|line| timeless(line.strip_suffix('\n').unwrap())).collect()
}

fn objects(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("logs/log.jsonl")).unwrap();
    let timeless = |line: &str| {
        let mut object: Value = serde_json::from_str(line).unwrap();
        assert!(object["elapsed_seconds"].take().is_f64());
        object
    };
    text.lines().map(timeless).collect()
}

/// Requires that both logs of a folder are those of a run that nobody interrupted.
#[track_caller]
fn assert_whole(folder: &Path, end: u64) {
    let other = tempfile::tempdir().unwrap();
    logging(other.path()).build().unwrap().optimize_to(end, |_| ()).unwrap();
    let expected = table(other.path());
    assert_eq!(expected.lines().count() as u64, 1 + end.div_ceil(10));
    assert_eq!(table(folder), expected);
    assert_eq!(objects(folder), objects(other.path()));
}

fn append(path: PathBuf, text: &str) {
    let before = fs::read_to_string(&path).unwrap();
    fs::write(path, before + text).unwrap();
}

fn resumed(folder: &Path) -> Trainer {
    let mut trainer = saving(folder).build().unwrap();
    assert!(trainer.resume(|_| ()).unwrap());
    trainer
}

#[test]
fn an_interrupted_run_leaves_the_logs_of_an_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let stop = |event: &Event, _: &Network| match event {
        Event::Evaluated { observation, .. } if observation.iteration == 20 => ControlFlow::Break("a look"),
        _ => ControlFlow::Continue(()),
    };
    saving(folder.path()).callback(stop).build().unwrap().optimize_to(55, |_| ()).unwrap();
    // Within one process, and in a further one.
    let mut trainer = resumed(folder.path());
    trainer.optimize(10, |_| ()).unwrap();
    trainer.optimize(10, |_| ()).unwrap();
    let mut trainer = resumed(folder.path());
    trainer.optimize_to(55, |_| ()).unwrap();
    assert_whole(folder.path(), 55);
    // The logs change nothing of the run.
    let mut straight = builder().stop_when(Rule::never()).build().unwrap();
    straight.optimize_to(55, |_| ()).unwrap();
    assert_eq!(bits(trainer.network()), bits(straight.network()));
    assert_eq!(history(&trainer), history(&straight));
}

#[test]
fn rows_after_the_resumed_iteration_and_torn_rows_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    saving(folder.path()).build().unwrap().optimize_to(40, |_| ()).unwrap();
    append(folder.path().join("log.csv"), "50,1.0,tr");
    append(folder.path().join("logs/log.jsonl"), r#"{"iteration":50,"elapsed"#);
    let mut trainer = saving(folder.path()).build().unwrap();
    trainer.resume_from(Resume::file(folder.path().join("run/step-000020.safetensors")), |_| ()).unwrap();
    trainer.optimize(0, |_| ()).unwrap(); // only reports: the files stay as they are
    assert!(fs::read_to_string(folder.path().join("log.csv")).unwrap().ends_with("50,1.0,tr"));
    trainer.optimize_to(21, |_| ()).unwrap();
    assert_eq!(table(folder.path()).lines().count(), 1 + 3); // and the evaluation of iteration 21, the last one
    drop(trainer);

    let mut trainer = saving(folder.path()).build().unwrap();
    trainer.resume_from(Resume::file(folder.path().join("run/step-000010.safetensors")), |_| ()).unwrap();
    trainer.optimize_to(45, |_| ()).unwrap();
    assert_whole(folder.path(), 45);
}

#[test]
fn rows_that_are_missing_are_added_from_the_history() {
    let folder = tempfile::tempdir().unwrap();
    saving(folder.path()).build().unwrap().optimize_to(30, |_| ()).unwrap();
    // As if the process had been killed after it saved and before it logged; and a file that somebody has deleted.
    let text = fs::read_to_string(folder.path().join("log.csv")).unwrap();
    let shorter: Vec<_> = text.split_inclusive('\n').take(2).collect();
    fs::write(folder.path().join("log.csv"), shorter.concat()).unwrap();
    fs::remove_dir_all(folder.path().join("logs")).unwrap();
    resumed(folder.path()).optimize_to(45, |_| ()).unwrap();
    assert_whole(folder.path(), 45);
}

#[test]
fn a_new_run_keeps_the_log_of_the_run_before() {
    let folder = tempfile::tempdir().unwrap();
    logging(folder.path()).build().unwrap().optimize_to(30, |_| ()).unwrap();
    let before = fs::read_to_string(folder.path().join("log.csv")).unwrap();
    for _ in 0..2 {
        logging(folder.path()).build().unwrap().optimize_to(10, |_| ()).unwrap();
    }
    assert_whole(folder.path(), 10);
    assert_eq!(fs::read_to_string(folder.path().join("log.1.csv")).unwrap(), before);
    assert!(folder.path().join("log.2.csv").exists() && folder.path().join("logs/log.2.jsonl").exists());
    assert!(!folder.path().join("log.3.csv").exists());
}

#[test]
fn a_file_that_is_no_log_of_the_run_is_refused_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    saving(folder.path()).build().unwrap().optimize_to(20, |_| ()).unwrap();
    let path = folder.path().join("log.csv");
    let ours = fs::read_to_string(&path).unwrap();
    let header = ours.lines().next().unwrap().to_owned();
    let advice = "choose another file, or move this one away";
    let wanted = "expected a log that this logger has written, with";
    let columns = "iteration,elapsed_seconds,improved,learning_rate first";
    let refuses = |text: &str, expected: &str| {
        fs::write(&path, text).unwrap();
        let error = resumed(folder.path()).optimize_to(60, |_| ()).unwrap_err().to_string();
        assert_eq!(error, format!("{}{expected}: {advice}", path.display()));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    };
    refuses("a,b\n1,2\n", &format!(", line 1: {wanted} {columns}, found \"a,b\""));
    refuses("my notes", &format!(", line 1: {wanted} {columns}, found \"my notes\""));
    let short = format!("{header}\n10,1.0\n");
    refuses(&short, &format!(", line 2: {wanted} 8 numbers in this row, found \"10,1.0\""));
    let other = "iteration,elapsed_seconds,improved,learning_rate,validation_rmse\n10,1.0,true,0.1,2.5\n";
    let error = {
        fs::write(&path, other).unwrap();
        resumed(folder.path()).optimize_to(60, |_| ()).unwrap_err().to_string()
    };
    let expected = format!("{}, iteration 10: expected the log of this run, with train_accuracy ", path.display());
    assert!(error.starts_with(&expected), "{error}");
    let found = format!("found another run's, with validation_rmse 2.5: {advice}");
    assert!(error.ends_with(&found), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), other);

    fs::write(&path, ours).unwrap();
    resumed(folder.path()).optimize_to(30, |_| ()).unwrap();
    assert_whole(folder.path(), 30);
}

#[test]
fn a_log_that_cannot_be_written_ends_the_call_and_the_next_one_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("log.csv")).unwrap();
    let mut trainer = saving(folder.path()).build().unwrap();
    let error = trainer.optimize_to(20, |_| ()).unwrap_err().to_string();
    let path = folder.path().join("log.csv");
    assert_eq!(error, format!("{}: expected a file, found something else: choose another path", path.display()));
    assert_eq!(trainer.iteration(), 0);
    fs::remove_dir(&path).unwrap();
    trainer.optimize_to(20, |_| ()).unwrap();
    assert_whole(folder.path(), 20);
}

/// A regression that reports one more score in some of its evaluations.
struct Line {
    variables: nn::VarStore,
    layer: nn::Linear,
    iteration: Cell<u64>,
}

impl Model for Line {
    type Batch = [Tensor; 2];

    fn variables(&self) -> &dyn Trainable {
        &self.variables
    }

    fn loss(&self, [x, y]: &[Tensor; 2], iteration: u64) -> Result<Loss> {
        self.iteration.set(iteration);
        Ok(self.layer.forward(x).f_mse_loss(y, Reduction::Mean)?.into())
    }

    fn evaluate(&self, batches: BatchIter<[Tensor; 2]>) -> Result<Scores> {
        let mut squares = 0.0;
        for batch in batches {
            let [x, y] = batch?;
            squares += self.layer.forward(&x).f_mse_loss(&y, Reduction::Sum)?.double_value(&[]);
        }
        // A name that a table has to quote.
        let extra = [("squares", squares), ("a, \"quoted\" name", f64::NAN)];
        Ok(if self.iteration.get() == 30 { Scores::from(extra) } else { Scores::from([extra[0]]) })
    }

    fn metric(&self) -> Metric {
        Metric::lower("validation_squares")
    }
}

#[test]
fn a_score_that_appears_later_widens_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = || {
        let variables = nn::VarStore::new(Device::Cpu);
        let init = nn::LinearConfig { ws_init: nn::Init::Const(0.0), bs_init: Some(nn::Init::Const(0.0)), bias: true };
        let layer = nn::linear(variables.root() / "layer", 1, 1, init);
        let data = || {
            let x = Tensor::arange(20, (Kind::Float, Device::Cpu)).view([20, 1]) / 20.0;
            TensorData::new([x.shallow_clone(), 3.0 * x - 1.0]).unwrap()
        };
        let optimizer = Optimizer::sgd(&variables, 0.1).unwrap();
        let model = Line { variables, layer, iteration: Cell::new(0) };
        Trainer::for_model(model, optimizer, data(), data())
            .batch_size(10)
            .evaluate_every(10)
            .stop_when(Rule::never())
            .evaluate_on("test", data()) // NaN there decides nothing
            .checkpoints(folder.path().join("run"))
            .callback(Csv::new(folder.path().join("log.csv")))
            .build()
            .unwrap()
    };
    // NaN on the validation set ends the run at iteration 30.
    trainer().optimize_to(25, |_| ()).unwrap();
    let before = table(folder.path());
    assert!(
        before
            .starts_with("iteration,improved,learning_rate,test_squares,train_loss,train_squares,validation_squares\n")
    );
    let mut resumed = trainer();
    resumed.resume(|_| ()).unwrap();
    resumed.optimize_to(30, |_| ()).unwrap();
    let text = fs::read_to_string(folder.path().join("log.csv")).unwrap();
    let rows: Vec<_> = text.lines().collect();
    assert!(rows[0].ends_with(
        r#",validation_squares,"test_a, ""quoted"" name","train_a, ""quoted"" name","validation_a, ""quoted"" name""#
    ));
    assert!(rows[1].starts_with("10,") && rows[1].ends_with(",,,"));
    assert!(rows[4].starts_with("30,") && rows[4].ends_with(",NaN,NaN,NaN"));
    assert_eq!(rows.len(), 5);
    // What was written can be read again.
    resumed.resume_from(Resume::file(folder.path().join("run/step-000025.safetensors")), |_| ()).unwrap();
    resumed.optimize_to(29, |_| ()).unwrap();
    assert!(table(folder.path()).lines().last().unwrap().starts_with("29,"));
}

/// The child of the kill test. It saves less often than it evaluates, so rows are lost with the iterations.
#[test]
fn child_that_logs() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut trainer = logging(Path::new(&folder))
        .checkpoints(Path::new(&folder).join("run"))
        .save_policy(SavePolicy::EveryIterations(25))
        .build()
        .unwrap();
    trainer.resume(|_| ()).unwrap();
    trainer.optimize_to(1_000_000, |_| ()).unwrap();
}

#[test]
fn kills_at_random_instants_leave_the_logs_of_an_uninterrupted_run() {
    use rand::{Rng, SeedableRng};
    let folder = tempfile::tempdir().unwrap();
    let mut random = rand::rngs::StdRng::from_entropy();
    let rows = || fs::read_to_string(folder.path().join("log.csv")).map_or(0, |text| text.lines().count());
    for _ in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "logging::child_that_logs", "--test-threads=1"])
            .env(FOLDER, folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let (before, begin) = (rows(), std::time::Instant::now());
        while rows() < before + 4 && begin.elapsed().as_secs() < 20 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        std::thread::sleep(std::time::Duration::from_micros(random.gen_range(0..20_000)));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
    }
    let mut last = logging(folder.path()).checkpoints(folder.path().join("run")).build().unwrap();
    assert!(last.resume(|_| ()).unwrap());
    let end = last.iteration() + 15;
    last.optimize_to(end, |_| ()).unwrap();
    assert_whole(folder.path(), end);
}

#[test]
fn tensorboard_shows_the_run_without_what_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    saving(folder.path()).build().unwrap().optimize_to(40, |_| ()).unwrap();
    let mut trainer = saving(folder.path()).build().unwrap();
    trainer.resume_from(Resume::file(folder.path().join("run/step-000020.safetensors")), |_| ()).unwrap();
    trainer.optimize_to(25, |_| ()).unwrap();
    trainer.optimize_to(50, |_| ()).unwrap();
    let mut names: Vec<_> = fs::read_dir(folder.path().join("tensorboard"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("events.out.tfevents.")), "{names:?}");
    assert_shown(folder.path(), &trainer);
}

/// Requires that TensorBoard's own reader finds the scores of each evaluation of the run, and no others.
#[track_caller]
fn assert_shown(folder: &Path, trainer: &Trainer) {
    let Some(python) = crate::python::with("tensorboard") else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logging_tensorboard.py");
    let output = Command::new(python).arg(script).arg(folder.join("tensorboard")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let scalars: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sets = ["train/accuracy", "train/loss", "validation/accuracy", "validation/loss"];
    let tags: Vec<_> = scalars.as_object().unwrap().keys().collect();
    assert_eq!(tags, ["learning_rate"].iter().chain(&sets).collect::<Vec<_>>());
    let points = |value: &dyn Fn(&Observation) -> f64| -> Value {
        let point =
            |seen: &Observation| Value::from([Value::from(seen.iteration), f64::from(value(seen) as f32).into()]);
        trainer.history().iter().map(point).collect()
    };
    assert_eq!(scalars["learning_rate"], points(&|_| 3e-3));
    for tag in sets {
        assert_eq!(scalars[tag], points(&|seen| seen.scores[&tag.replace('/', "_")]), "{tag}");
    }
}

#[cfg(unix)]
mod full_disk {
    use super::*;
    use crate::process::passes;

    /// The child of the test below: no file can become longer than two rows, as on a full disk.
    #[test]
    fn child_on_a_full_disk() {
        let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
        // SAFETY: the calls take a number and a valid struct; this process runs only this test.
        let limit = |bytes: libc::rlim_t| unsafe {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
        };
        let mut trainer = logging(&folder).build().unwrap();
        for bytes in [300, 300, 600, 700] {
            limit(bytes);
            let error = trainer.optimize_to(60, |_| ()).unwrap_err().to_string();
            assert!(error.contains(": cannot write: "), "{error}");
        }
        let reached = trainer.iteration();
        assert!(reached > 10 && reached < 60, "{reached}");
        limit(libc::RLIM_INFINITY);
        trainer.optimize_to(60, |_| ()).unwrap();
        assert_whole(&folder, 60);
        assert_shown(&folder, &trainer);
    }

    #[test]
    fn a_full_disk_costs_no_row() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "logging::full_disk::child_on_a_full_disk", "--test-threads=1"]);
        passes(child.env(FOLDER, folder.path()));
    }
}
