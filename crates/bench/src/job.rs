//! The job that all contestants do, and the files that tell them of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use earlystop::{Batches, Mnist};
use lexopt::ValueExt as _;

use crate::Result;

/// The seed of the order of the batches, and of our initial values.
pub(crate) const SEED: u64 = 0;
/// How many examples of batches are written down, a dozen epochs; then workers begin again.
const ORDER_LENGTH: usize = 12 * 55_000;

/// What of the job is varied when it is scaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Size {
    /// Images in a training batch.
    pub(crate) batch: usize,
    /// How many times as wide as the tutorial's network.
    pub(crate) width: f64,
    /// Threads that compute; each library's own choice unless set.
    pub(crate) threads: Option<usize>,
}

impl Size {
    /// The tutorial's own.
    pub(crate) const TUTORIAL: Self = Self { batch: 64, width: 1.0, threads: None };

    /// Scales a number of channels by the width.
    pub(crate) fn channels(&self, tutorials: usize) -> usize {
        ((tutorials as f64 * self.width).round() as usize).max(1)
    }

    /// Counts the multiplications and additions of one iteration: the forward pass, the gradients by the values of all layers
    /// but the images, the gradients by the weights.
    pub(crate) fn flops_per_iteration(&self) -> f64 {
        let [conv1, conv2, fc1] = [16, 36, 128].map(|tutorials| self.channels(tutorials) as f64);
        let first = 28.0 * 28.0 * 25.0 * conv1;
        let others = 14.0 * 14.0 * 25.0 * conv1 * conv2 + 7.0 * 7.0 * conv2 * fc1 + fc1 * 10.0;
        2.0 * self.batch as f64 * (2.0 * first + 3.0 * others)
    }
}

/// Where the workers find and leave things.
#[derive(Debug)]
pub(crate) struct Files {
    data: PathBuf,
    order: PathBuf,
    saves: PathBuf,
}

impl Files {
    /// Fetches MNIST where it is absent, and writes down the order of the batches for those who cannot compute it.
    pub(crate) fn prepare(data: &Path, out: &Path) -> Result<Self> {
        let mnist = Mnist::load(data, |_| {})?;
        let (order, saves) = (out.join("order"), out.join("saves"));
        if saves.exists() {
            std::fs::remove_dir_all(&saves)?;
        }
        std::fs::create_dir_all(&saves)?;
        let size = mnist.train.len();
        let mut batches = Batches::new(size, size, SEED)?;
        let examples = (1..=ORDER_LENGTH.div_ceil(size) as u64).flat_map(|epoch| batches.indices(epoch));
        let bytes: Vec<u8> = examples.flat_map(|example| (example as u32).to_le_bytes()).collect();
        std::fs::write(&order, bytes)?;
        Ok(Self { data: data.to_owned(), order, saves })
    }
}

/// A worker's settings, as its command line has them.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) data: PathBuf,
    pub(crate) saves: PathBuf,
    pub(crate) size: Size,
}

impl Settings {
    /// Puts a worker's settings onto its command line. Each worker has a folder of its own to save to.
    pub(crate) fn write(command: &mut Command, files: &Files, worker: &str, size: &Size) -> Result<()> {
        let saves = files.saves.join(worker);
        std::fs::create_dir_all(&saves)?;
        command.arg("--data").arg(&files.data).arg("--order").arg(&files.order).arg("--saves").arg(saves);
        command.args(["--batch", &size.batch.to_string(), "--width", &size.width.to_string()]);
        if let Some(threads) = size.threads {
            command.args(["--threads", &threads.to_string()]);
        }
        Ok(())
    }

    /// Reads what [`Settings::write`] wrote.
    pub(crate) fn read(args: &mut lexopt::Parser) -> Result<Self> {
        let mut settings = Self { data: PathBuf::new(), saves: PathBuf::new(), size: Size::TUTORIAL };
        while let Some(arg) = args.next()? {
            match arg {
                lexopt::Arg::Long("data") => settings.data = args.value()?.into(),
                // Workers in Rust draw the order themselves.
                lexopt::Arg::Long("order") => drop(args.value()?),
                lexopt::Arg::Long("saves") => settings.saves = args.value()?.into(),
                lexopt::Arg::Long("batch") => settings.size.batch = args.value()?.parse()?,
                lexopt::Arg::Long("width") => settings.size.width = args.value()?.parse()?,
                lexopt::Arg::Long("threads") => settings.size.threads = Some(args.value()?.parse()?),
                _ => return Err(arg.unexpected().into()),
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_iteration_of_the_tutorial_is_one_and_a_quarter_billion_operations() {
        let flops = Size::TUTORIAL.flops_per_iteration();
        assert!((1.24e9..1.26e9).contains(&flops), "{flops}");
        assert_eq!(Size { batch: 128, ..Size::TUTORIAL }.flops_per_iteration(), 2.0 * flops);
    }

    #[test]
    fn a_network_of_half_the_width_has_half_the_channels() {
        let size = Size { width: 0.5, ..Size::TUTORIAL };
        assert_eq!([16, 36, 128].map(|tutorials| size.channels(tutorials)), [8, 18, 64]);
    }

    #[test]
    fn a_workers_settings_survive_its_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files { data: "data".into(), order: "order".into(), saves: folder.path().into() };
        let size = Size { batch: 16, width: 0.5, threads: Some(1) };
        let mut command = Command::new("bench");
        Settings::write(&mut command, &files, "ours", &size).unwrap();
        let settings = Settings::read(&mut lexopt::Parser::from_args(command.get_args())).unwrap();
        assert_eq!((settings.data, settings.saves), ("data".into(), folder.path().join("ours")));
        assert_eq!(settings.size, size);
    }
}
