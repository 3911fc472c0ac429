//! Processes that MPI connects.

use mpi::Threading;
use mpi::collective::CommunicatorCollectives as _;
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::point_to_point::send_receive_into;
use mpi::topology::{Communicator as _, SimpleCommunicator};
use mpi::traits::Root as _;

use super::Link;
use crate::error::{Error, Result};

/// All processes that MPI has started. MPI is finalized when it is dropped.
pub(super) struct Mpi {
    world: SimpleCommunicator,
    _universe: Universe,
}

// SAFETY: the communicator is a handle of the MPI library, which was started for programs in which one thread at a time calls it, be it
// this one or that one. `Processes` has the only `Mpi`, behind a mutex.
unsafe impl Send for Mpi {}

/// How programs that start processes tell each of them how many there are.
const COUNTS: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

impl Mpi {
    pub(super) fn start() -> Result<Self> {
        let refuse = |expected: &str, found: &str| Error::setting("MPI", expected, found);
        let (universe, threading) = mpi::initialize_with_threading(Threading::Serialized).ok_or_else(|| {
            refuse("one call of from_mpi() in a program: clone its result to use it in several places", "another call")
        })?;
        if threading < Threading::Serialized {
            return Err(refuse(
                "a library that programs with threads can use (MPI_THREAD_SERIALIZED)",
                &format!("{threading:?}"),
            ));
        }
        let world = universe.world();
        let started = COUNTS.iter().find_map(|name| Some((name, std::env::var(name).ok()?.parse::<usize>().ok()?)));
        if let Some((name, started)) = started.filter(|&(_, started)| started > 1 && world.size() == 1) {
            return Err(refuse(
                &format!(
                    "{started} processes, as {name} says: start the program by the mpirun of the MPI that it was linked with"
                ),
                "that this process is alone",
            ));
        }
        Ok(Self { world, _universe: universe })
    }
}

impl Link for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn count(&self) -> usize {
        self.world.size() as usize
    }

    fn all_gather(&self, mine: &[u8], all: &mut [u8]) {
        self.world.all_gather_into(mine, all);
    }

    fn all_gather_lengths(&self, mine: &[u8], lengths: &[usize]) -> Vec<u8> {
        let mut all = vec![0; lengths.iter().sum()];
        let counts = lengths.iter().map(|&length| length as i32).collect::<Vec<_>>();
        let begins = counts.iter().scan(0, |end, count| {
            *end += count;
            Some(*end - count)
        });
        let begins = begins.collect::<Vec<_>>();
        self.world.all_gather_varcount_into(mine, &mut PartitionMut::new(&mut all[..], counts, begins));
        all
    }

    fn exchange(&self, with: usize, mine: &[u8], theirs: &mut [u8]) {
        let partner = self.world.process_at_rank(with as i32);
        send_receive_into(mine, &partner, theirs, &partner);
    }

    fn broadcast(&self, bytes: &mut [u8]) {
        self.world.process_at_rank(0).broadcast_into(bytes);
    }
}
