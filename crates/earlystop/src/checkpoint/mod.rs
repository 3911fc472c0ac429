//! Saves and restores named tensors: a state is one file, or several if it is large.
//!
//! - [`Saver`] saves to a path and restores from it. Stands in for `tf.train.Saver`.
//! - [`Store`] keeps several checkpoints in a folder, according to the rules of [`Keep`], and finds the best and the latest
//!   valid one. [`latest_checkpoint`] finds the latter by the tutorial's name.
//! - [`Checkpoint`] inspects a file.
//!
//! Types with tensors implement [`Savable`]: it returns [`NamedTensor`]s, which share memory with the live variables. A
//! file also carries [`Metadata`].
//!
//! # File format
//!
//! A checkpoint is a [safetensors](https://github.com/huggingface/safetensors#format) file, which Python and others can
//! open. A state of more than 5 GB ([`Saver::split_above`] sets the limit) is stored in several such files with an index, in
//! the layout of Hugging Face. Checksums in the metadata cover everything: every changed, missing or added byte is found,
//! and the message names the damaged part. The page `docs/checkpoint-format.md` specifies the format.
//!
//! # Files of other programs
//!
//! A file without checksums is read too; [`Checkpoint::is_verified`] says so. If another program rewrites a checkpoint
//! and keeps its metadata, the checksums are compared with the new file: if they match, it is verified; if they do
//! not, it is read as a file without checksums. The same holds for states in several files. [`Saver::convert_floats`]
//! loads half, bfloat16 or double precision into single precision and the other way round. Tensors whose element type
//! is not supported are [listed](Checkpoint::unsupported) and do not affect the others.
//!
//! # Crashes
//!
//! A save writes a temporary file next to the path, syncs it to the disk, renames it to the path, and syncs the folder. Of
//! several files, renaming the index commits all. If the process is killed, the path leads to the old state or to the new
//! one. Temporary files and parts without an index may remain; the next save to the path deletes them. A store deletes old
//! checkpoints only after the new one is on the disk.
//!
//! Damage is found when a file is used: by a restore, by [`Checkpoint::read`], by [`Store::latest_valid`] and
//! [`Store::best_valid`], and before a store deletes other files because of it. Opening and locking a store, `list`,
//! `latest` and `best` read headers only.
//!
//! # File systems
//!
//! | | what happens |
//! |---|---|
//! | local file systems of Linux and macOS (ext4, XFS, Btrfs, tmpfs, overlay, APFS) | everything above is guaranteed |
//! | no sync of files or folders | saved, with [`Warning::NotSynced`]: a power failure may lose the newest checkpoint; a killed process still loses nothing |
//! | no locks | saved, with [`Warning::NotLocked`]: of two stores the newer one wins, and the older one fails at its next save; a running process that is visible from here is respected |
//! | network file systems | as far as their locks and syncs reach; another client may see a new file late |
//! | symbolic links | a link stays, and the file that it points to is replaced. A store deletes links, not the files behind them |
//! | permissions | a replaced file passes on its mode and, if the system permits, its owner and group; not its access control lists or extended attributes |
//! | long names | temporary files shorten them, so any name that the file system takes can be saved to |
//! | a changing working directory | a store keeps its folder; a [`Saver`] resolves relative paths at each call |
//! | read-only folders | reading needs neither a lock nor write permission |
//!
//! # Object storage
//!
//! With the feature `object-store`, [`Store::open`] and the trainer's `checkpoints` also take a URL, so that a run outlasts
//! the machine it runs on:
//!
//! | | URL | credentials, from the environment |
//! |---|---|---|
//! | Amazon S3, and servers that speak S3 | `s3://bucket/runs/1` | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`; those of a cloud's own machines |
//! | Google Cloud Storage | `gs://bucket/runs/1` | `GOOGLE_APPLICATION_CREDENTIALS`, `GOOGLE_SERVICE_ACCOUNT` |
//! | Azure Blob Storage | `az://container/runs/1` | `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY` |
//! | a folder, with the same layout | `file:///data/runs/1` | |
//!
#![cfg_attr(feature = "object-store", doc = "```no_run")]
#![cfg_attr(not(feature = "object-store"), doc = "```ignore")]
//! use earlystop::checkpoint::{Keep, Metadata, NamedTensor, Saver, Store};
//!
//! let mut bias = [1.0f32, 2.0];
//! let network = vec![NamedTensor::new("layer_fc1.bias", &mut bias[..])];
//! let mut store = Store::open("s3://bucket/runs/1")?.keep(Keep::last(2).best(1));
//! if let Some(saved) = store.latest_valid()?.saved {
//!     Saver::new().restore(&saved.path, &[&network])?; // the path of a local copy
//! }
//! store.save(100, Some(0.84), &[&network], &Metadata::new())?;
//! # Ok::<(), earlystop::Error>(())
//! ```
//!
//! - A save writes to the folder for temporary files (`TMPDIR`), uploads from there, and commits with one conditional write.
//!   If the process is killed or the connection fails at any time, the store contains the old state or the new one.
//! - [`Saved::path`] is a URL. [`Store::latest_valid`] and [`Store::best_valid`] download a checkpoint, compare its checksums
//!   and return the path of the copy. Copies are deleted with the store, and earlier if the checkpoint is deleted.
//! - Of two stores at the same URL, the newer one takes over, also from a process that is still running elsewhere. The older
//!   one fails at its next save with [`Error::Locked`](crate::Error::Locked), or
//!   [`Error::TakenOver`](crate::Error::TakenOver) in the same process.
//! - Requests that fail are repeated for one minute, each with a limit of two minutes (`AWS_TIMEOUT`, `GOOGLE_TIMEOUT` or
//!   `AZURE_TIMEOUT` set another, such as `300s`). A refused connection, an unknown host and missing credentials are reported
//!   within seconds. The trainer then trains on and tries again at its next save.
//! - Uploads read a file in parts of 8 MB. A killed process may leave an upload in parts incomplete, which only the server
//!   sees: let a lifecycle rule of the bucket abort incomplete multipart uploads after a day. All other leftovers are deleted
//!   by the next store that locks.
//! - To decide what to delete, a store reads the manifest only: it does not download checkpoints to see whether they are valid.
//! - Archives of [`Store::archive_after`] can be opened by their URLs, for reading.
//! - Credentials are never written to files, messages or `Debug` output. URLs that contain some are refused.
//!
//! The server must support conditional writes (`If-None-Match`), as S3, Google Cloud Storage, Azure and MinIO document. The tests
//! run against moto, a server that imitates S3, with connections that fail. The services themselves have not been tested.
//!
//! # Elsewhere
//!
//! What others do, by their documentation and issue trackers (TensorFlow's `tf.compat.v1.train.Saver`, Keras 3's
//! `ModelCheckpoint` and `BackupAndRestore`, Lightning 2.6, Ignite 0.5, Orbax, burn 0.22, tch 0.26). A dash means that
//! nothing is promised.
//!
//! | | Saver | Keras | Lightning | Ignite | Orbax | burn | tch | here |
//! |---|---|---|---|---|---|---|---|---|
//! | a kill leaves the old file or the new one | yes | – [^k] | – [^l] | yes | yes | yes | – | yes |
//! | the new file outlasts a power failure (fsync of file and folder) | – | – | – | – | – | – | – | yes |
//! | damage is found by checksums | yes | – | – | – | – | – | – | yes |
//! | the next older valid file is found | – | – | – | – | – | – | – | yes |
//! | a restore that fails changes nothing | – | – | – [^s] | – [^s] | yes [^o] | – | – [^t] | yes |
//! | one message lists everything that does not fit | – | – | yes | yes | – | – | – | yes, with hints |
//! | kept: the last n | yes | – | – | yes | yes | yes | – | yes |
//! | kept: the best k | – | 1 | yes | yes | yes | 1 | – | yes |
//! | kept: every n steps (or hours) | yes | yes | yes | yes | yes | – | – | yes |
//! | these rules combine in one folder | – | – | – | – | yes | yes | – | yes |
//! | found again from the files alone | – [^i] | – | – | – | yes | – | – | yes |
//! | a new run never overwrites a better best | – | – [^b] | yes [^c] | – | yes | – | – | yes |
//! | a second process in the folder is refused | – [^m] | – | – | – | – | – | – | yes |
//! | the optimizer is saved too | yes | yes | yes | yes | yes | yes | – [^a] | yes |
//! | saving in the background | – | – | yes | – | yes | yes | – | yes (trainer) |
//! | states spread over several machines | yes | yes | yes | yes | yes | – | – | – |
//!
//! [^k]: `BackupAndRestore(double_checkpoint=True)` keeps the one before as well.
//! [^l]: reported in [#688](https://github.com/Lightning-AI/pytorch-lightning/issues/688) and again in
//!     [#19970](https://github.com/Lightning-AI/pytorch-lightning/issues/19970).
//! [^s]: PyTorch's `load_state_dict` copies what fits, then raises.
//! [^o]: it returns a new state instead of changing one.
//! [^t]: `VarStore::load` leaves a half-loaded network when a name is missing, and loads shape `[1]` into `[10]`.
//! [^i]: a file `checkpoint` next to them lists them.
//! [^b]: unless `initial_value_threshold` is given; [tf-keras #430](https://github.com/keras-team/tf-keras/issues/430).
//! [^c]: if the run resumes from a checkpoint that holds the callback's state.
//! [^m]: `tf.train.CheckpointManager` asks for only one in a folder at a time.
//! [^a]: [tch-rs #360](https://github.com/LaurentMazare/tch-rs/issues/360).

use std::collections::BTreeMap;

mod checksum;
mod commit;
mod convert;
mod data_file;
#[cfg(test)]
mod faults;
mod files;
mod format;
mod header;
mod index;
mod keep;
mod layout;
mod lock;
mod memory;
mod mismatch;
mod opened;
mod output;
mod parts;
mod process;
mod read;
mod saved;
mod saver;
mod store;
mod threads;
#[cfg(feature = "torch")]
mod torch;
mod values;
mod warning;
mod writing;

pub use crate::error::{CheckpointPart, LockHolder, Mismatch, TensorInfo, UnsupportedTensor};
pub use keep::Keep;
pub use memory::Element;
pub use read::Checkpoint;
pub use saved::Saved;
pub use saver::{PartialRestore, Saver};
#[cfg(feature = "torch")]
pub(crate) use store::{FoundHistory, Position, is_url, read_history};
pub use store::{History, Skipped, Store, Valid, latest_checkpoint};
pub use values::{NamedTensor, Values};
pub use warning::Warning;

/// Strings by name that a checkpoint contains in addition to its tensors.
///
/// They are stored in the `__metadata__` of the file. Keys that start with `checkpoint.` are reserved.
pub type Metadata = BTreeMap<String, String>;

/// Something with tensors to save and restore: a network, an optimizer, a list of tensors.
///
/// Implemented for `tch::nn::VarStore`, for this crate's networks and optimizers, and for lists of [`NamedTensor`]s.
///
/// # Examples
///
/// Imports a file whose author chose other names:
///
/// ```
/// use earlystop::checkpoint::{Metadata, NamedTensor, Savable, Saver};
///
/// struct Network {
///     weight: Vec<f32>,
/// }
///
/// impl Savable for Network {
///     fn tensors(&self) -> Vec<NamedTensor<'_>> {
///         vec![NamedTensor::new("layer_fc1.weight", &self.weight[..]).with_shape([2, 3])]
///     }
/// }
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("python.safetensors");
/// # let foreign = vec![NamedTensor::new("fc1.weight", &[1.0f32; 6][..]).with_shape([2, 3])];
/// # Saver::new().save(&path, &[&foreign], &Metadata::new())?;
/// # let mut network = Network { weight: vec![0.0; 6] };
/// let mut weight = NamedTensor::new("layer_fc1.weight", &mut network.weight[..]).with_shape([2, 3]);
/// weight.name = weight.name.replace("layer_", "");
/// let renamed = vec![weight];
/// Saver::new().restore(&path, &[&renamed])?;
/// drop(renamed); // it borrows the weight
/// assert_eq!(network.weight, [1.0; 6]);
/// # Ok::<(), earlystop::Error>(())
/// ```
pub trait Savable {
    /// Returns all tensors, sharing memory with the live ones.
    fn tensors(&self) -> Vec<NamedTensor<'_>>;
}

impl Savable for Vec<NamedTensor<'_>> {
    fn tensors(&self) -> Vec<NamedTensor<'_>> {
        self.iter().map(NamedTensor::share).collect()
    }
}
