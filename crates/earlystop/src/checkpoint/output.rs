//! Writes a file: bytes at a position, and tensors with their checksums on several threads.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::NamedTensor;
use super::checksum::hex;
use super::files::{Files, write_all_at};
use super::threads::{FirstError, run_on_threads};
use crate::Result;
use crate::error::io_error;

/// A file that is being written.
pub(super) struct Output<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) file: &'a File,
    /// For messages.
    pub(super) path: &'a Path,
}

/// Bytes and their position in the file.
type Block = (Vec<u8>, u64);

/// A tensor to be written.
struct Job<'a> {
    number: usize,
    tensor: NamedTensor<'a>,
    /// The position of its first byte in the file.
    at: u64,
    /// To the threads that have no tensor.
    others: SyncSender<Block>,
}

/// What the threads of a save share.
struct Jobs<'a> {
    /// The tensors that no thread has taken yet, the last one first.
    waiting: Vec<Job<'a>>,
    sums: Vec<String>,
    /// Buffers to be used again.
    buffers: Vec<Vec<u8>>,
}

impl Output<'_> {
    /// Writes bytes at a position.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        write_all_at(self.files, self.file, bytes, at).map_err(io_error(self.path, "write its temporary file"))
    }

    /// Writes tensors of the given sizes one after the other, from a position on. Returns the SHA-256 of each.
    ///
    /// A thread takes a tensor, and block by block copies it, computes the checksum and writes. Threads without a tensor of their own
    /// write blocks of the others, since the checksum of one tensor cannot be shared.
    pub(super) fn write_tensors<'t>(
        &self,
        start: u64,
        tensors: impl ExactSizeIterator<Item = (NamedTensor<'t>, u64)>,
    ) -> Result<Vec<String>> {
        // Without capacity: a block is passed on only if another thread waits for it.
        let (others, passed_on) = mpsc::sync_channel(0);
        let passed_on = Mutex::new(passed_on);
        let sums = vec![String::new(); tensors.len()];
        let mut end = start;
        let mut job = |(number, (tensor, bytes))| {
            let at = end;
            end += bytes;
            Job { number, tensor, at, others: others.clone() }
        };
        let mut waiting: Vec<Job> = tensors.enumerate().map(&mut job).collect();
        waiting.reverse();
        // The jobs have the only senders left: when the last one is done, nothing more is passed on.
        drop(others);
        let jobs = Mutex::new(Jobs { waiting, sums, buffers: Vec::new() });
        let next = || lock(&jobs).waiting.pop();
        run_on_threads(end - start, usize::MAX, |failed| {
            while let Some(job) = next() {
                if failed.is_set() {
                    return Ok(());
                }
                let sum = self.write_tensor(&job, &jobs, failed)?;
                lock(&jobs).sums[job.number] = sum;
            }
            loop {
                let block = lock(&passed_on).recv();
                let Ok((buffer, at)) = block else { return Ok(()) };
                self.write_block(&buffer, at)?;
                lock(&jobs).buffers.push(buffer);
            }
        })?;
        Ok(jobs.into_inner().unwrap_or_else(PoisonError::into_inner).sums)
    }

    /// Writes a tensor and returns its checksum.
    fn write_tensor(&self, job: &Job<'_>, jobs: &Mutex<Jobs<'_>>, failed: &FirstError) -> Result<String> {
        let (mut sum, mut at) = (Sha256::new(), job.at);
        let mut buffer = Vec::new();
        job.tensor.for_each_block(&mut |block| {
            if failed.is_set() {
                // Ends this thread's work. It is not the first error, which is the one that is returned.
                return Err(io_error(self.path, "write its temporary file")(ErrorKind::Interrupted.into()));
            }
            block.copy_to(&mut buffer)?;
            sum.update(&buffer);
            let length = buffer.len() as u64;
            match job.others.try_send((std::mem::take(&mut buffer), at)) {
                Ok(()) => buffer = lock(jobs).buffers.pop().unwrap_or_default(),
                Err(refused) => {
                    let (mpsc::TrySendError::Full(block) | mpsc::TrySendError::Disconnected(block)) = refused;
                    buffer = block.0;
                    self.write_block(&buffer, at)?;
                }
            }
            at += length;
            Ok(())
        })?;
        Ok(hex(&sum.finalize()))
    }

    /// Writes a block, and lets the system start writing it to the disk, so that the sync at the end waits for less.
    fn write_block(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.write(bytes, at)?;
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            let (descriptor, length) = (self.file.as_raw_fd(), bytes.len() as libc::off64_t);
            // SAFETY: takes no pointers, and the descriptor is open as long as `file` lives. Where it fails, nothing is lost.
            unsafe { libc::sync_file_range(descriptor, at as libc::off64_t, length, libc::SYNC_FILE_RANGE_WRITE) };
        }
        Ok(())
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::checksum::hex_sha256;
    use super::super::faults::Faulty;
    use super::super::files::Disk;
    use super::super::{Checkpoint, Metadata, Saver, Values};
    use super::*;
    use crate::Error;

    /// Tensors that several threads write, the first much larger than the others, and one without a value.
    fn contents() -> Vec<Vec<u8>> {
        [9_000_001, 0, 1, 1_500_000, 3 << 20].map(|length| (0..length).map(|at| (at % 251) as u8).collect()).into()
    }

    fn tensors(contents: &[Vec<u8>]) -> Vec<NamedTensor<'_>> {
        contents.iter().enumerate().map(|(number, bytes)| NamedTensor::new(format!("t{number}"), &bytes[..])).collect()
    }

    #[test]
    fn tensors_are_written_one_after_the_other_with_their_checksums() {
        let contents = contents();
        let file = tempfile::tempfile().unwrap();
        let output = Output { files: &Disk, file: &file, path: Path::new("t") };
        let sizes = contents.iter().map(|bytes| bytes.len() as u64);
        let sums = output.write_tensors(5, tensors(&contents).into_iter().zip(sizes)).unwrap();
        assert_eq!(sums, contents.iter().map(|bytes| hex_sha256(bytes)).collect::<Vec<_>>());
        let mut written = Vec::new();
        io::Read::read_to_end(&mut &file, &mut written).unwrap();
        assert_eq!(&written[..5], [0; 5]);
        assert!(written[5..] == contents.concat());
        assert!(output.write_tensors(0, std::iter::empty()).unwrap().is_empty());
    }

    #[test]
    fn a_write_that_fails_on_any_thread_ends_the_save_with_its_error() {
        let (contents, dir) = (contents(), tempfile::tempdir().unwrap());
        let path = dir.path().join("a.safetensors");
        let mut failed = 0;
        for fails_at in 0.. {
            let saver = Saver::with_files(Faulty::new(fails_at, ErrorKind::StorageFull, usize::MAX));
            match saver.save(&path, &[&tensors(&contents)], &Metadata::new()) {
                Err(Error::Io { source, .. }) => assert_eq!(source.kind(), ErrorKind::StorageFull),
                Err(error) => panic!("{error}"),
                Ok(_) => break,
            }
            failed += 1;
        }
        assert!(failed > 15, "{failed}");
        assert_eq!(Checkpoint::read(&path).unwrap().bytes("t3").unwrap(), contents[3]);
    }

    #[test]
    fn values_that_panic_while_they_are_produced_stop_the_other_threads() {
        let contents = contents();
        let mut tensors = tensors(&contents);
        let panics = Values::produced_by(safetensors::Dtype::U8, [1], |_| panic!("no values"));
        tensors.insert(1, NamedTensor::new("p", panics));
        let dir = tempfile::tempdir().unwrap();
        let save = || Saver::new().save(dir.path().join("a"), &[&tensors], &Metadata::new());
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(save)).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"no values"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
