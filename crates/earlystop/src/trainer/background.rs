//! Saves in another thread, one save at a time.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};

use super::save::{Folder, Job, Outcome};
use crate::error::Result;

/// A save that has ended.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) folder: Folder,
    pub(super) job: Job,
    pub(super) outcome: Result<Outcome>,
}

/// A thread that saves.
#[derive(Debug)]
pub(super) struct Background {
    to_do: Option<SyncSender<(Folder, Job)>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
    is_busy: bool,
}

impl Background {
    /// Starts the thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let (to_do, jobs) = sync_channel::<(Folder, Job)>(1);
        let (finished, done) = sync_channel(1);
        let thread = thread::Builder::new().name("earlystop-save".to_owned()).spawn(move || {
            for (mut folder, mut job) in jobs {
                let outcome = job.perform(&mut folder);
                if finished.send(Done { folder, job, outcome }).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { to_do: Some(to_do), done, thread: Some(thread), is_busy: false })
    }

    /// Returns whether a save is going on or its end was not collected.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Begins a save; the one before must have been collected. Gives back what a thread that has ended cannot take.
    pub(super) fn begin(&mut self, folder: Folder, job: Job) -> Result<(), Box<(Folder, Job)>> {
        let Some(to_do) = &self.to_do else { return Err(Box::new((folder, job))) };
        to_do.send((folder, job)).map_err(|refused| Box::new(refused.0))?;
        self.is_busy = true;
        Ok(())
    }

    /// Returns the save that has ended; waits for its end if `waits`.
    pub(super) fn collect(&mut self, waits: bool) -> Option<Done> {
        if !self.is_busy {
            return None;
        }
        let done = if waits { self.done.recv().map_err(TryRecvError::from) } else { self.done.try_recv() };
        match done {
            Ok(done) => {
                self.is_busy = false;
                Some(done)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.is_busy = false;
                match self.thread.take().map(JoinHandle::join) {
                    Some(Err(panic)) => resume_unwind(panic),
                    _ => None,
                }
            }
        }
    }
}

/// Waits for the save that is going on.
impl Drop for Background {
    fn drop(&mut self) {
        self.to_do = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
