//! A line in the terminal that shows the progress of a run.

use std::fmt;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressDrawTarget, ProgressStyle};

use crate::early_stopping::StopReason;
use crate::early_stopping::score::digits;
use crate::error::Result;
use crate::trainer::{Callback, Event, Model, Progress};

/// What the bar shows: the message comes last, since it is cut off where the terminal ends.
const TEMPLATE: &str = "{bar:20} {pos}/{len}, {eta} left, {wide_msg}";
/// The same for a call that only the rule ends.
const ENDLESS: &str = "{spinner} {pos}, {wide_msg}";

/// The time from one update to the next.
const INTERVAL: Duration = Duration::from_millis(100);

/// Shows a progress bar on the standard error stream: the iteration of those that the call was asked for, the time left, the
/// training loss, the best score in the format of its metric, and where the stopping rule would end the run.
///
/// ```text
/// ████████████░░░░░░░░ 6100/10000, 18s left, loss 0.0713, best validation accuracy 98.80% at 5800, stops at 6801
/// ```
///
/// Events other than evaluations are printed above the bar. Where the standard error stream is no terminal, such as a file, each
/// event is printed as a line instead. Training never fails because of it.
///
/// ```
/// # use earlystop::ndarray::{Array1, Array3};
/// # let examples = |n| earlystop::Examples::new(Array3::from_shape_fn((n, 4, 4), |(i, y, x)| (i * 97 + y * 31 + x * 7) as u8), Array1::from_shape_fn(n, |i| (i % 10) as u8)).unwrap();
/// # let (train, validation) = (examples(200), examples(50));
/// # let network = earlystop::Network::builder([4, 4, 1]).flatten().softmax_classifier(10).build(tch::Device::Cpu)?;
/// # let optimizer = earlystop::Optimizer::adam(&network, 1e-2)?;
/// use earlystop::{Trainer, logging::ProgressBar};
///
/// let trainer = Trainer::builder(network, optimizer, &train, &validation).callback(ProgressBar::new());
/// trainer.build()?.optimize(200, |_| ())?;
/// # Ok::<(), earlystop::Error>(())
/// ```
pub struct ProgressBar {
    output: Output,
    /// The bar of the current call, in a terminal.
    bar: Option<indicatif::ProgressBar>,
    updated: Instant,
}

/// Where it is shown.
enum Output {
    /// In a terminal.
    Bar(Box<dyn Fn() -> ProgressDrawTarget + Send>),
    /// As lines.
    Lines(Box<dyn Write + Send>),
}

impl ProgressBar {
    /// Shows the progress on the standard error stream.
    pub fn new() -> Self {
        Self::on(if stderr().is_terminal() {
            Output::Bar(Box::new(ProgressDrawTarget::stderr))
        } else {
            Output::Lines(Box::new(stderr()))
        })
    }

    fn on(output: Output) -> Self {
        Self { output, bar: None, updated: Instant::now() }
    }

    fn update(&mut self, progress: &Progress) {
        if let Some(bar) = &self.bar {
            self.updated = Instant::now();
            bar.set_position(progress.iteration());
            bar.set_message(message(progress));
        }
    }
}

impl Default for ProgressBar {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ProgressBar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgressBar").field("bar", &self.bar).finish_non_exhaustive()
    }
}

impl<M: Model> Callback<M> for ProgressBar {
    fn begin(&mut self, progress: &Progress, _model: &M) -> Result<()> {
        let Output::Bar(target) = &self.output else { return Ok(()) };
        let end = Some(progress.end()).filter(|&end| end < u64::MAX);
        let template = if end.is_some() { TEMPLATE } else { ENDLESS };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = indicatif::ProgressBar::with_draw_target(end, target());
        // From there on, so that the time left does not count the iterations before a resume.
        self.bar = Some(bar.with_style(style.progress_chars("█░")).with_position(progress.iteration()));
        if let Some(bar) = &self.bar {
            bar.reset_eta();
        }
        self.update(progress);
        Ok(())
    }

    fn step(&mut self, progress: &Progress, _model: &M) -> Result<Option<StopReason>> {
        if self.bar.is_some() && self.updated.elapsed() >= INTERVAL {
            self.update(progress);
        }
        Ok(None)
    }

    fn event(&mut self, event: &Event, progress: &Progress, _model: &M) -> Result<Option<StopReason>> {
        if let Output::Lines(lines) = &mut self.output {
            let _ = writeln!(lines, "{event}"); // the training goes on without its lines
            return Ok(None);
        }
        self.update(progress);
        match (event, &self.bar) {
            (Event::Evaluated { .. }, _) | (_, None) => {}
            (Event::Finished { .. }, Some(bar)) => {
                bar.println(event.to_string());
                bar.abandon();
                self.bar = None;
            }
            (_, Some(bar)) => bar.println(event.to_string()),
        }
        Ok(None)
    }
}

fn message(progress: &Progress) -> String {
    let mut parts = Vec::new();
    if let Some(loss) = progress.loss() {
        parts.push(format!("loss {}", digits(loss)));
    }
    if let Some(best) = progress.best() {
        let metric = progress.metric();
        parts.push(format!("best {metric} {} at {}", metric.format(best.score), best.iteration));
    }
    // Where it is not the next evaluation that ends the run, but the rule.
    if let Some(stop_at) = progress.stop_at().filter(|&stop_at| stop_at > progress.iteration()) {
        parts.push(format!("stops at {stop_at}"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;
    use ndarray::{Array1, Array3};
    use tch::Device;

    use super::*;
    use crate::{Examples, Network, Optimizer, Trainer};

    /// Keeps what is written to a terminal or a file.
    #[derive(Debug, Clone, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl Screen {
        fn text(&self) -> String {
            self.0.lock().unwrap().clone()
        }
    }

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_str(std::str::from_utf8(bytes).unwrap()).map(|()| bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            120
        }

        fn move_cursor_up(&self, _lines: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _lines: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _columns: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _columns: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(&format!("{text}\n"))
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            self.write_str("\n")
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn trainer(output: Output) -> Trainer {
        let examples = |count| {
            let images = Array3::from_shape_fn((count, 2, 2), |(i, y, x)| (i * 97 + y * 31 + x * 7) as u8);
            Examples::new(images, Array1::from_shape_fn(count, |i| (i % 2) as u8)).unwrap()
        };
        let network = Network::builder([2, 2, 1]).flatten().softmax_classifier(2).build(Device::Cpu).unwrap();
        let optimizer = Optimizer::adam(&network, 1e-2).unwrap();
        let trainer = Trainer::builder(network, optimizer, &examples(100), &examples(20));
        trainer.evaluate_every(5).callback(ProgressBar::on(output)).build().unwrap()
    }

    #[test]
    fn a_file_gets_the_lines_of_the_events() {
        let screen = Screen::default();
        let mut lines = String::new();
        let mut trainer = trainer(Output::Lines(Box::new(screen.clone())));
        trainer.optimize(10, |event| lines += &format!("{event}\n")).unwrap();
        assert!(lines.lines().count() >= 3 && lines.contains("Iter:     10, "), "{lines}");
        assert_eq!(screen.text(), lines);
    }

    #[test]
    fn a_terminal_shows_how_far_the_run_is() {
        let screen = Screen::default();
        let terminal = screen.clone();
        let draw = move || ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let mut trainer = trainer(Output::Bar(Box::new(draw)));
        trainer.optimize(5, |_| ()).unwrap();
        trainer.optimize(20, |_| ()).unwrap();
        let text = screen.text();
        let last = text.lines().rfind(|line| line.contains("left")).unwrap();
        let best = trainer.report().best.unwrap();
        let loss = format!("{} 25/25, 0s left, loss 0.", "█".repeat(20));
        assert!(last.starts_with(&loss), "{text:?}");
        let best = format!(
            ", best validation accuracy {:.2}% at {}, stops at {}",
            100.0 * best.score,
            best.iteration,
            best.iteration + 1001
        );
        assert!(last.trim_end().ends_with(&best), "{last:?}");
        assert!(text.contains("Time usage: 0:00:00") && !text.contains("Iter: "), "{text:?}");

        trainer.optimize(u64::MAX, |_| ()).unwrap();
        let text = screen.text();
        let last = text.lines().rfind(|line| line.contains("loss")).unwrap();
        let iterations = trainer.iteration();
        assert!(last.contains(&format!(" {iterations}, loss 0.")) && !last.contains("left"), "{last:?}");
    }
}
