//! Progress bars and log files of a run, as [callbacks](crate::trainer::Callback) that work with any model. Needs the
//! feature `logging`.
//!
//! | callback | what it gives | read it with | after a resume |
//! |---|---|---|---|
//! | [`ProgressBar`] | a line in the terminal: iteration, loss, best score, when the rule would stop, time left | the terminal | begins at the resumed iteration |
//! | [`Csv`] | a table with one row for each evaluation | a spreadsheet, pandas, polars | equals the file of an uninterrupted run |
//! | [`JsonLines`] | one JSON object for each evaluation | jq, pandas, a log collector | equals the file of an uninterrupted run |
//! | [`TensorBoard`] | curves of all scores and of the learning rate | `tensorboard --logdir FOLDER` | a further file; TensorBoard discards the points after the resumed iteration |
//!
//! Nothing is printed or written unless one of them is added to the trainer:
//!
//! ```
//! # use earlystop::ndarray::{Array1, Array3};
//! # let examples = |n| earlystop::Examples::new(Array3::from_shape_fn((n, 4, 4), |(i, y, x)| (i * 97 + y * 31 + x * 7) as u8), Array1::from_shape_fn(n, |i| (i % 10) as u8)).unwrap();
//! # let (train, validation) = (examples(200), examples(50));
//! # let network = earlystop::Network::builder([4, 4, 1]).flatten().softmax_classifier(10).build(tch::Device::Cpu)?;
//! # let optimizer = earlystop::Optimizer::adam(&network, 1e-2)?;
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path();
//! use earlystop::Trainer;
//! use earlystop::logging::{Csv, ProgressBar, TensorBoard};
//!
//! let mut trainer = Trainer::builder(network, optimizer, &train, &validation)
//!     .checkpoints(folder.join("run"))
//!     .callback(ProgressBar::new())
//!     .callback(Csv::new(folder.join("run/log.csv")))
//!     .callback(TensorBoard::new(folder.join("run/tensorboard")))
//!     .build()?;
//! trainer.resume(|event| eprintln!("{event}"))?;
//! trainer.optimize_to(300, |_| ())?; // the bar shows what happens
//!
//! let table = std::fs::read_to_string(folder.join("run/log.csv")).unwrap();
//! assert_eq!(table.lines().count(), 1 + 3); // the header and three evaluations
//! # Ok::<(), earlystop::Error>(())
//! ```
//!
//! # Evaluations are logged
//!
//! A row has the iteration, the seconds spent on the run so far, whether this evaluation is the best so far, the learning rate of
//! that iteration, and all scores by their names. The training loss is the mean since the evaluation before. Each row is written
//! at once, so another program can follow the file. To log something else, such as the loss of every iteration, implement
//! [`Callback`](crate::trainer::Callback).
//!
//! # Resumed runs
//!
//! [`Csv`] and [`JsonLines`] compare their file with the run's history when a call of [`optimize`](crate::Trainer::optimize)
//! begins. Rows after the resumed iteration are removed, a last row that a crash has cut off is removed, and missing rows are
//! added. So a run that was interrupted, killed and resumed leaves the file of a run that was never interrupted, except for the times.
//!
//! A file with other content, or of another run, is an error, and is not changed. A run that begins at iteration 0 keeps the log
//! of the run before it under another name: `log.csv` becomes `log.1.csv`.

mod csv;
mod json_lines;
mod progress_bar;
mod records;
mod rows;
mod tensorboard;

pub use csv::Csv;
pub use json_lines::JsonLines;
pub use progress_bar::ProgressBar;
pub use tensorboard::TensorBoard;
