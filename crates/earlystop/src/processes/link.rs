//! What connects processes.

/// Carries bytes among processes. All of them call the same functions in the same order.
///
/// There are no errors: where a connection is lost, MPI ends all processes with a message.
pub(crate) trait Link: Send {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// The number of processes.
    fn count(&self) -> usize;

    /// Gathers as many bytes from each process as `mine` has, in the order of the processes' numbers.
    fn all_gather(&self, mine: &[u8], all: &mut [u8]);

    /// Gathers bytes from all processes, whose numbers of bytes are `lengths`; at most `i32::MAX` bytes in all.
    fn all_gather_lengths(&self, mine: &[u8], lengths: &[usize]) -> Vec<u8>;

    /// Sends bytes to another process, and receives others from it. Each is at most `i32::MAX` long.
    fn exchange(&self, with: usize, mine: &[u8], theirs: &mut [u8]);

    /// Copies the bytes of process 0 to all. They are at most `i32::MAX` long.
    fn broadcast(&self, bytes: &mut [u8]);
}
