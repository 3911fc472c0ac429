//! Training on several processes, on one machine or many, which together compute one run.
//!
//! Every process runs the same program. [`Processes`] connects them: by MPI, with the feature `mpi`, or it is the only one, as it is
//! by default. Each process computes some parts of a batch (see [`TrainerBuilder::accumulate`](crate::trainer::TrainerBuilder::accumulate)).
//! The parts are added in an order that does not depend on the number of processes, so that the run ends with the same bits on
//! any number of them.
//!
//! `docs/scaling.md` in the repository shows how to start processes, and measurements.

mod exchange;
mod link;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(test)]
pub(crate) mod threads;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use link::Link;

use crate::error::{Error, Result};

/// The processes that train together, as one of them sees them: see [`TrainerBuilder::processes`](crate::trainer::TrainerBuilder::processes).
///
/// A clone is another handle of the same process. The last handle leaves the others: MPI is finalized then.
#[derive(Clone, Default)]
pub struct Processes {
    /// Nothing for one process.
    group: Option<Arc<Group>>,
}

/// What the processes meet for: a number of it is sent, so that processes that are out of step notice it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Topic {
    /// They compare their programs, settings and data.
    Start = 1,
    /// A call that trains.
    Train = 2,
    /// The losses of the parts of a batch, and requests to stop.
    Step = 3,
    /// The scores of a batch or a data set.
    Scores = 4,
    /// The time that an evaluation ended.
    Time = 5,
    /// The last iteration of a call.
    End = 6,
    /// The outcome of a call.
    Outcome = 7,
    /// A resumed run.
    Resume = 8,
    /// The best variables.
    Restore = 9,
}

impl Topic {
    const ALL: [(Self, &str); 9] = [
        (Self::Start, "begins"),
        (Self::Train, "begins to train"),
        (Self::Step, "makes a step"),
        (Self::Scores, "evaluates"),
        (Self::Time, "has evaluated"),
        (Self::End, "ends a call"),
        (Self::Outcome, "has ended a call"),
        (Self::Resume, "resumes"),
        (Self::Restore, "restores the best variables"),
    ];

    fn words(number: u8) -> &'static str {
        Self::ALL.iter().find(|(topic, _)| *topic as u8 == number).map_or("does something unknown", |(_, words)| words)
    }
}

/// The first byte of a message of a process that has failed; the words are its error.
const FAILED: u8 = 255;
/// The first byte of the last message of a process.
const LEFT: u8 = 254;
/// A message that all processes send at once: the topic, the number of words in bytes 8 to 16, and the words, if they fit.
const MESSAGE: usize = 128;
const HEAD: usize = 16;

struct Group {
    link: Mutex<Box<dyn Link>>,
    rank: usize,
    count: usize,
    traffic: AtomicU64,
    /// Whether one of them has left.
    is_over: AtomicBool,
}

impl Processes {
    /// Returns this process alone.
    pub fn one() -> Self {
        Self::default()
    }

    /// Connects the processes that MPI has started: by `mpirun`, Slurm's `srun` or an MPI job of Kubernetes. Started without any of
    /// them, the process is the only one. Requires the feature `mpi`.
    ///
    /// Call it once, when the program starts; clone the result to use it in several places. A program must not leave the last handle to
    /// `std::process::exit`, which drops nothing: MPI then ends all other processes.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if it is called a second time, if MPI cannot be used by programs with threads, or if several processes were
    /// started by another MPI than this program was linked with.
    ///
    /// # Examples
    ///
    /// ```ignore
    /// let mut trainer = Trainer::builder(network, optimizer, &train, &validation)
    ///     .accumulate(4) // the parts of a batch: the same for any number of processes
    ///     .processes(Processes::from_mpi()?)
    ///     .build()?;
    /// ```
    #[cfg(any(feature = "mpi", doc))]
    pub fn from_mpi() -> Result<Self> {
        #[cfg(feature = "mpi")]
        return Ok(Self::connected(mpi::Mpi::start()?));
        // For the documentation alone.
        #[cfg(not(feature = "mpi"))]
        Ok(Self::one())
    }

    /// Connects the processes at the ends of a link.
    #[cfg_attr(not(any(feature = "mpi", test)), allow(dead_code))]
    pub(crate) fn connected(link: impl Link + 'static) -> Self {
        let (rank, count) = (link.rank(), link.count());
        let (traffic, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { group: Some(Arc::new(Group { link: Mutex::new(Box::new(link)), rank, count, traffic, is_over })) }
    }

    /// Returns the number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.group.as_ref().map_or(0, |group| group.rank)
    }

    /// Returns the number of processes.
    pub fn count(&self) -> usize {
        self.group.as_ref().map_or(1, |group| group.count)
    }

    /// Says whether this is process 0, which writes checkpoints, reports events and calls callbacks. A single process is.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Returns how many bytes this process has sent so far, all messages included. MPI may add to them.
    pub fn traffic(&self) -> u64 {
        self.group.as_ref().map_or(0, |group| group.traffic.load(Ordering::Relaxed))
    }

    /// Says whether there are several.
    pub(crate) fn are_several(&self) -> bool {
        self.count() > 1
    }

    /// Returns which of `count` pieces of work are this process's: as many as the others have, but for one.
    pub(crate) fn mine(&self, count: usize) -> Range<usize> {
        let begin = |rank: usize| rank * count / self.count();
        begin(self.rank())..begin(self.rank() + 1)
    }

    /// Returns the words of all processes, in their order. Waits until all meet for this topic.
    ///
    /// If one of them has failed instead, all others return its error.
    pub(crate) fn meet(&self, topic: Topic, words: &[u8]) -> Result<Vec<Vec<u8>>> {
        let Some(group) = self.group.as_deref().filter(|group| group.count > 1) else {
            return Ok(vec![words.to_vec()]);
        };
        let met = group.gather(topic as u8, words)?;
        if let Some(failed) = met.iter().position(|(topic, _)| *topic == FAILED) {
            let reason = String::from_utf8_lossy(&met[failed].1).into_owned();
            return Err(Error::OtherProcess { process: failed, reason });
        }
        if let Some(left) = met.iter().position(|(topic, _)| *topic == LEFT) {
            group.is_over.store(true, Ordering::Relaxed);
            return Err(has_left(left));
        }
        let other = met.iter().position(|(topic, _)| *topic != met[0].0);
        match other {
            None => Ok(met.into_iter().map(|(_, words)| words).collect()),
            Some(other) => Err(Error::ProcessesDiffer {
                differences: vec![format!(
                    "process 0 {}, process {other} {}: all must make the same calls",
                    Topic::words(met[0].0),
                    Topic::words(met[other].0)
                )],
            }),
        }
    }

    /// Returns the words of process 0.
    pub(crate) fn meet_first(&self, topic: Topic, words: &[u8]) -> Result<Vec<u8>> {
        let words = if self.is_first() { words } else { &[] };
        Ok(self.meet(topic, words)?.swap_remove(0))
    }

    /// Tells the others of an error that they do not know, instead of meeting them.
    pub(crate) fn tell<T>(&self, outcome: Result<T>) -> Result<T> {
        let group = self.group.as_deref().filter(|group| group.count > 1);
        if let (Some(group), Err(error)) = (group, &outcome)
            && !matches!(error, Error::OtherProcess { .. } | Error::ProcessesDiffer { .. })
        {
            // Whether others have failed too: the own error counts.
            let _ = group.gather(FAILED, error.to_string().as_bytes());
        }
        outcome
    }

    /// Ends a call of all processes, with an error in all of them if there was one in any.
    pub(crate) fn conclude<T>(&self, outcome: Result<T>) -> Result<T> {
        let outcome = self.tell(outcome)?;
        self.meet(Topic::Outcome, &[])?;
        Ok(outcome)
    }
}

impl Group {
    fn link(&self) -> MutexGuard<'_, Box<dyn Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_traffic(&self, bytes: usize) {
        self.traffic.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Sends a message to all, and returns those of all.
    fn gather(&self, topic: u8, words: &[u8]) -> Result<Vec<(u8, Vec<u8>)>> {
        if self.is_over.load(Ordering::Relaxed) {
            return Err(Error::OtherProcess { process: self.rank, reason: "a process has left before".to_owned() });
        }
        let mut message = [0; MESSAGE];
        message[0] = topic;
        message[8..HEAD].copy_from_slice(&(words.len() as u64).to_le_bytes());
        let is_short = words.len() <= MESSAGE - HEAD;
        if is_short {
            message[HEAD..HEAD + words.len()].copy_from_slice(words);
        }
        let mut all = vec![0; MESSAGE * self.count];
        let link = self.link();
        link.all_gather(&message, &mut all);
        self.count_traffic(MESSAGE * (self.count - 1));
        let length = |message: &[u8]| message[8..HEAD].try_into().map_or(0, u64::from_le_bytes) as usize;
        let lengths = all.chunks(MESSAGE).map(length).collect::<Vec<_>>();
        let topics = all.chunks(MESSAGE).map(|message| message[0]);
        if lengths.iter().all(|&length| length <= MESSAGE - HEAD) {
            let words =
                all.chunks(MESSAGE).zip(&lengths).map(|(message, length)| message[HEAD..HEAD + length].to_vec());
            return Ok(topics.zip(words).collect());
        }
        let sum = lengths.iter().sum::<usize>();
        if sum > i32::MAX as usize {
            let differences =
                vec![format!("messages of {sum} bytes are more than the {} that MPI can gather", i32::MAX)];
            return Err(Error::ProcessesDiffer { differences });
        }
        let mut rest = &link.all_gather_lengths(words, &lengths)[..];
        self.count_traffic(words.len() * (self.count - 1));
        let mut take = |&length: &usize| {
            let (words, others) = rest.split_at(length);
            rest = others;
            words.to_vec()
        };
        Ok(topics.zip(lengths.iter().map(&mut take)).collect())
    }
}

/// Takes leave of the others, so that nobody waits for this process.
impl Drop for Group {
    fn drop(&mut self) {
        if self.count > 1 {
            let _ = self.gather(LEFT, &[]);
        }
    }
}

fn has_left(process: usize) -> Error {
    let reason = "its program has ended its part of the training, while others go on: see its own message".to_owned();
    Error::OtherProcess { process, reason }
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processes").field("rank", &self.rank()).field("count", &self.count()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::threads::on_threads;
    use super::*;

    #[test]
    fn a_single_process_meets_itself() {
        let one = Processes::one();
        assert_eq!((one.rank(), one.count(), one.is_first(), one.traffic()), (0, 1, true, 0));
        assert_eq!(one.meet(Topic::Step, b"words").unwrap(), [b"words"]);
        assert_eq!(one.conclude(Ok(1)).unwrap(), 1);
    }

    #[test]
    fn words_of_any_length_arrive_in_the_order_of_the_processes() {
        on_threads(4, |processes| {
            for length in [0, 1, 112, 113, 5000] {
                let words = vec![processes.rank() as u8; length * (processes.rank() + 1)];
                let met = processes.meet(Topic::Scores, &words).unwrap();
                assert!(met.iter().enumerate().all(|(rank, words)| *words == vec![rank as u8; length * (rank + 1)]));
            }
            let first = processes.meet_first(Topic::Resume, &[processes.rank() as u8 + 7]).unwrap();
            assert_eq!(first, [7]);
        });
    }

    #[test]
    fn an_error_in_one_is_an_error_in_all_and_they_can_go_on() {
        on_threads(3, |processes| {
            let failure = "x".repeat(300);
            let outcome = match processes.rank() {
                1 => processes.conclude(Err::<(), _>(Error::other(failure.clone()))),
                _ => processes.conclude(Ok(())),
            };
            let expected = if processes.rank() == 1 { failure } else { format!("process 1 failed: {failure}") };
            assert_eq!(outcome.unwrap_err().to_string(), expected);
            assert_eq!(processes.meet(Topic::Step, &[]).unwrap().len(), 3);
        });
    }

    #[test]
    fn a_process_that_leaves_or_is_out_of_step_keeps_nobody_waiting() {
        on_threads(2, |processes| {
            let topic = [Topic::Step, Topic::Resume][processes.rank()];
            let error = processes.meet(topic, &[]).unwrap_err().to_string();
            assert!(
                error.contains("process 0 makes a step, process 1 resumes: all must make the same calls"),
                "{error}"
            );
            if processes.rank() == 1 {
                return; // dropped
            }
            for expected in ["process 1 failed: its program has ended", "a process has left before"] {
                let error = processes.meet(Topic::Step, &[]).unwrap_err().to_string();
                assert!(error.contains(expected), "{error}");
            }
        });
    }

    #[test]
    fn work_is_divided_without_gaps() {
        on_threads(4, |processes| {
            let met = processes.meet(Topic::Scores, &[processes.mine(10).len() as u8]).unwrap();
            assert_eq!(met.concat(), [2, 3, 2, 3]);
            assert_eq!(processes.mine(8), 2 * processes.rank()..2 * processes.rank() + 2);
        });
    }
}
