//! Event files for TensorBoard.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::records;
use crate::early_stopping::{Observation, StopReason};
use crate::error::{Result, io_error};
use crate::trainer::{Callback, Event, Model, Progress};

/// What the names of event files begin with, before the seconds.
const PREFIX: &str = "events.out.tfevents.";

/// Writes all scores and the learning rate of each evaluation as event files for [TensorBoard](https://www.tensorflow.org/tensorboard).
///
/// A score `validation_accuracy` has the tag `validation/accuracy`: TensorBoard shows the scores of one set together. The
/// learning rate has the tag `learning_rate`. Use a folder for each run, and show them all by `tensorboard --logdir` with the folder
/// above.
///
/// Each process writes a file of its own, and so does each resume. The file begins at the last evaluation before it, and tells
/// TensorBoard to discard the points of earlier files from there on. They stay on the disk.
///
/// ```
/// # use earlystop::ndarray::{Array1, Array3};
/// # let examples = |n| earlystop::Examples::new(Array3::from_shape_fn((n, 4, 4), |(i, y, x)| (i * 97 + y * 31 + x * 7) as u8), Array1::from_shape_fn(n, |i| (i % 10) as u8)).unwrap();
/// # let (train, validation) = (examples(200), examples(50));
/// # let network = earlystop::Network::builder([4, 4, 1]).flatten().softmax_classifier(10).build(tch::Device::Cpu)?;
/// # let optimizer = earlystop::Optimizer::adam(&network, 1e-2)?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path().join("runs/first");
/// use earlystop::{Trainer, logging::TensorBoard};
///
/// let trainer = Trainer::builder(network, optimizer, &train, &validation).callback(TensorBoard::new(&folder));
/// trainer.build()?.optimize(200, |_| ())?;
/// assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
/// # Ok::<(), earlystop::Error>(())
/// ```
///
/// # Errors
///
/// The training ends with an error if the folder or a file in it cannot be written.
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    file: Option<Open>,
}

/// The file that is being written.
#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    /// The last step in it.
    last: u64,
}

impl TensorBoard {
    /// Writes to this folder. It is created when the training begins.
    pub fn new(folder: impl AsRef<Path>) -> Self {
        Self { folder: folder.as_ref().to_owned(), file: None }
    }

    /// Creates a file that replaces the points from `step` on.
    fn create(&self, step: u64) -> Result<Open> {
        fs::create_dir_all(&self.folder).map_err(io_error(&self.folder, "create the folder"))?;
        let names = fs::read_dir(&self.folder).map_err(io_error(&self.folder, "read the folder"))?;
        let seconds = |name: &str| name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok();
        let newest = names.flatten().filter_map(|entry| seconds(&entry.file_name().to_string_lossy())).max();
        // TensorBoard reads the files in the order of their names.
        let second = newest.map_or(0, |newest| newest + 1).max(now() as u64);
        let name = format!("{PREFIX}{second:010}.{}.{}", host(), std::process::id());
        let path = self.folder.join(name);
        let create = || {
            let mut file = File::options().append(true).create_new(true).open(&path)?;
            file.write_all(&records::version(now()))?;
            file.write_all(&records::start(now(), step))?;
            Ok(file)
        };
        let file = create().map_err(io_error(&path, "write"))?;
        Ok(Open { path, file, last: step })
    }

    fn write(&mut self, observation: &Observation, progress: &Progress) -> Result<()> {
        let Some(open) = &mut self.file else { return Ok(()) };
        let scores = observation.scores.iter().map(|(name, &score)| (tag(name), score));
        let rate = ("learning_rate".to_owned(), progress.learning_rate(observation.iteration));
        let values: Vec<_> = scores.chain([rate]).collect();
        open.last = observation.iteration;
        let written = open.file.write_all(&records::scalars(now(), observation.iteration, &values));
        if let Err(source) = written {
            // Half of a record may be at its end, after which TensorBoard reads nothing.
            let path = self.file.take().map(|open| open.path).unwrap_or_default();
            return Err(io_error(&path, "write")(source));
        }
        Ok(())
    }
}

impl<M: Model> Callback<M> for TensorBoard {
    fn begin(&mut self, progress: &Progress, _model: &M) -> Result<()> {
        if !progress.has_work() {
            return Ok(());
        }
        let newest = progress.history().last();
        let went_back = |open: &Open| open.last > progress.iteration();
        if self.file.as_ref().is_none_or(went_back) {
            // A crash may have come before the last evaluation was written.
            self.file = Some(self.create(newest.map_or(0, |newest| newest.iteration))?);
            return newest.map_or(Ok(()), |newest| self.write(newest, progress));
        }
        Ok(())
    }

    fn event(&mut self, event: &Event, progress: &Progress, _model: &M) -> Result<Option<StopReason>> {
        if let Event::Evaluated { observation, .. } = event {
            self.write(observation, progress)?;
        }
        Ok(None)
    }
}

/// The tag of a score: `validation/accuracy` for `validation_accuracy`.
fn tag(name: &str) -> String {
    name.replacen('_', "/", 1)
}

/// The seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The name of this machine, as file names can have it.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.map(|name| name.trim().replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_"));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}
