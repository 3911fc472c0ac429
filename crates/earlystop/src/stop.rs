//! Stops a training on request: by a signal, by the caller, or by a notebook's stop button.
//!
//! All requests have the same effect. The training finishes the current iteration, saves its state and returns normally; the
//! reason is in the report, with the kind [`StopKind::Requested`]. A request is not saved with the run, so the run can be
//! continued.
//!
//! - [`on_signals`] turns the first Ctrl-C (SIGINT) or SIGTERM into a request.
//! - An event callback of [`Trainer::optimize`](crate::Trainer::optimize) requests a stop by its return value, see
//!   [`Response`]. So does a [`Callback`](crate::trainer::Callback), which sees the model as well.
//! - A notebook's stop button creates the file that the environment variable `EARLYSTOP_INTERRUPT_FILE` names.
//!
//! A [`Trainer`](crate::Trainer) looks for requests after every iteration. A hand-written loop calls [`requested`]:
//!
//! ```
//! use earlystop::stop;
//!
//! for iteration in 1..=1000 {
//!     // one step of the optimizer
//!     if let Some(reason) = stop::requested() {
//!         println!("Stopped after iteration {iteration} by {reason}");
//!         break;
//!     }
//! }
//! ```

use std::env;
use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::early_stopping::{StopKind, StopReason};
use crate::error::{Error, Result};

/// Names the file that exists while a notebook's stop button asks for a stop.
const INTERRUPT_FILE: &str = "EARLYSTOP_INTERRUPT_FILE";

/// The signal that arrived, or 0.
static RECEIVED: AtomicUsize = AtomicUsize::new(0);
/// Whether the next signal ends the process.
static ENDS_PROCESS: AtomicBool = AtomicBool::new(false);

/// Turns the first SIGINT (Ctrl-C) or SIGTERM into a request to stop; a second one ends the process as usual.
///
/// Call it once, at the start of the program; further calls do nothing. The request stays in force, so that all trainings
/// that follow in the same process return at once too. [`reset`] withdraws it.
///
/// In a notebook use the kernel's stop button instead: each cell is linked to its own copy of this library, so a signal is
/// seen only by the cell that called this function.
///
/// # Errors
///
/// [`Error::Setting`] if the operating system does not let the process handle these signals.
///
/// # Examples
///
/// ```
/// use earlystop::stop;
///
/// stop::on_signals()?;
/// assert_eq!(stop::requested(), None);
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn on_signals() -> Result<()> {
    static REGISTERED: Mutex<bool> = Mutex::new(false);
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if *registered {
        return Ok(());
    }
    for signal in [SIGINT, SIGTERM] {
        // The order counts: each signal first looks for an earlier one, then leaves its own mark.
        flag::register_conditional_default(signal, &ENDS_PROCESS)
            .and_then(|_| flag::register_usize(signal, &RECEIVED, signal as usize))
            .and_then(|_| flag::register(signal, &ENDS_PROCESS))
            .map_err(|error| Error::setting(name(signal as usize), "a signal that a program can handle", error))?;
    }
    *registered = true;
    Ok(())
}

/// Returns the reason to stop if a signal or a notebook's stop button asked for it.
///
/// Call it once per iteration: it takes a few microseconds. A [`Trainer`](crate::Trainer) does so by itself.
pub fn requested() -> Option<StopReason> {
    let from_signal = match RECEIVED.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(request("signal", name(signal))),
    };
    let by_button = || {
        let path = env::var_os(INTERRUPT_FILE)?;
        fs::exists(path).is_ok_and(|exists| exists).then(|| request("stop button", "the cell was interrupted"))
    };
    from_signal.or_else(by_button)
}

/// Withdraws the request of an earlier signal: the process continues, and the next signal is a first one again.
pub fn reset() {
    RECEIVED.store(0, Ordering::SeqCst);
    ENDS_PROCESS.store(false, Ordering::SeqCst);
}

/// What an event callback may return: nothing to go on, or a value that can ask for a stop.
///
#[cfg_attr(feature = "torch", doc = "```")]
#[cfg_attr(not(feature = "torch"), doc = "```ignore")] // there is no trainer
/// # use earlystop::ndarray::{Array1, Array3};
/// # let examples = |n| earlystop::Examples::new(Array3::zeros((n, 4, 4)), Array1::from_shape_fn(n, |i| (i % 10) as u8)).unwrap();
/// # let (train, validation) = (examples(200), examples(50));
/// # let network = earlystop::Network::builder([4, 4, 1]).flatten().softmax_classifier(10).build(tch::Device::Cpu)?;
/// # let optimizer = earlystop::Optimizer::adam(&network, 1e-2)?;
/// use std::ops::ControlFlow;
///
/// use earlystop::{Trainer, trainer::Event};
///
/// let mut trainer = Trainer::builder(network, optimizer, &train, &validation).build()?;
/// let report = trainer.optimize(1000, |event| match event {
///     Event::Evaluated { observation, .. } if observation.iteration >= 200 => ControlFlow::Break("200 are enough"),
///     _ => ControlFlow::Continue(()),
/// })?;
/// assert_eq!(report.iterations, 200);
/// assert_eq!(report.reason.unwrap().to_string(), "callback: 200 are enough");
/// # Ok::<(), earlystop::Error>(())
/// ```
pub trait Response {
    /// Returns the reason to stop, or nothing to go on.
    fn into_request(self) -> Option<StopReason>;
}

/// Goes on.
impl Response for () {
    fn into_request(self) -> Option<StopReason> {
        None
    }
}

/// Stops if there is a reason: what [`requested`] returned, for example.
impl Response for Option<StopReason> {
    fn into_request(self) -> Option<StopReason> {
        self
    }
}

/// Stops on [`ControlFlow::Break`], without a reason of its own.
impl Response for ControlFlow<()> {
    fn into_request(self) -> Option<StopReason> {
        self.is_break().then(|| StopReason::requested("it asked for a stop"))
    }
}

/// Stops on [`ControlFlow::Break`], for the given reason.
impl Response for ControlFlow<&str> {
    fn into_request(self) -> Option<StopReason> {
        self.break_value().map(StopReason::requested)
    }
}

/// Stops on [`ControlFlow::Break`], for the given reason.
impl Response for ControlFlow<String> {
    fn into_request(self) -> Option<StopReason> {
        self.break_value().map(StopReason::requested)
    }
}

pub(crate) fn request(who: &str, why: impl Into<String>) -> StopReason {
    StopReason { kind: StopKind::Requested, rule: who.to_owned(), why: why.into() }
}

fn name(signal: usize) -> &'static str {
    if signal == SIGINT as usize { "SIGINT" } else { "SIGTERM" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callbacks_go_on_unless_they_break() {
        let why = |response: Option<StopReason>| response.map(|reason| reason.to_string());
        assert_eq!(why(().into_request()), None);
        assert_eq!(why(ControlFlow::<()>::Continue(()).into_request()), None);
        assert_eq!(why(ControlFlow::<&str>::Continue(()).into_request()), None);
        assert_eq!(why(ControlFlow::Break(()).into_request()).as_deref(), Some("callback: it asked for a stop"));
        assert_eq!(why(ControlFlow::Break("enough").into_request()).as_deref(), Some("callback: enough"));
        assert_eq!(why(ControlFlow::Break("enough".to_owned()).into_request()).as_deref(), Some("callback: enough"));
        let reason = request("stop button", "the cell was interrupted");
        assert_eq!(why(Some(reason).into_request()).as_deref(), Some("stop button: the cell was interrupted"));
    }
}
