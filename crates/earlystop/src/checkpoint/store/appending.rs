//! Appends lines to the history of a folder.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::super::Warning;
use super::super::files::sync_folder;
use super::super::opened::describe;
use super::folder::{FolderStore, files};
use super::history::{Position, create_segment, position_in, write_lines};
use crate::error::io_error;
use crate::{Error, Result};

impl FolderStore {
    /// Appends lines after a position and waits until they are on the disk. Returns the position after them, or nothing if the
    /// segment is gone or shorter than it was.
    ///
    /// Lines after the position that no checkpoint in the folder needs are cut off: a save that failed or was killed left
    /// them. Else a new segment begins, and also if the segment takes no more lines.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); [`Error::Io`] if the lines cannot be written.
    pub(super) fn append_history(&mut self, at: &Position, lines: &[Vec<u8>]) -> Result<Option<Position>> {
        self.writer()?;
        let path = self.absolute.join(&at.file);
        let file = match OpenOptions::new().append(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(_) => return self.begin_history(Some(at), lines).map(Some),
        };
        let bytes = file.metadata().map_err(io_error(&path, "find the size of"))?.len();
        if bytes < at.bytes {
            return Ok(None);
        }
        if bytes > at.bytes && (is_needed_after(&self.absolute, at)? || file.set_len(at.bytes).is_err()) {
            return self.begin_history(Some(at), lines).map(Some);
        }
        match write_lines(self.saver.files(), &file, &lines.concat(), at.bytes) {
            Ok(warning) => {
                self.warn_not_synced(&path, warning);
                Ok(Some(lines.iter().fold(at.clone(), |position, line| position.after(line))))
            }
            Err(error) => {
                let _ = file.set_len(at.bytes);
                match error.kind() {
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Err(io_error(&path, "append to")(error)),
                    _ => self.begin_history(Some(at), lines).map(Some),
                }
            }
        }
    }

    /// Begins a new segment, with these lines, that continues another one from a position or stands for itself. Waits until
    /// it is on the disk. Returns the position after the lines.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock); [`Error::Io`] if the segment cannot be written.
    pub(super) fn begin_history(&mut self, parent: Option<&Position>, lines: &[Vec<u8>]) -> Result<Position> {
        self.begin_history_after(0, parent, lines)
    }

    /// [`begin_history`](Self::begin_history) with a segment whose number is greater than `last`.
    pub(super) fn begin_history_after(
        &mut self,
        last: u64,
        parent: Option<&Position>,
        lines: &[Vec<u8>],
    ) -> Result<Position> {
        self.writer()?;
        let (path, file) = create_segment(self.saver.files(), &self.absolute, last, parent)?;
        let (head, start) = Position::begin(&path, parent);
        match write_lines(self.saver.files(), &file, &[head, lines.concat()].concat(), 0) {
            Ok(warning) => self.warn_not_synced(&path, warning),
            Err(error) => {
                let _ = self.saver.files().remove(&path);
                return Err(io_error(&path, "write")(error));
            }
        }
        let synced = sync_folder(self.saver.files(), &self.absolute);
        let warning = synced.map_err(io_error(&self.absolute, "sync the folder to the disk"))?;
        self.warn(warning.into_iter().collect());
        Ok(lines.iter().fold(start, |position, line| position.after(line)))
    }

    fn warn_not_synced(&mut self, path: &Path, reason: Option<String>) {
        self.warn(reason.map(|reason| Warning::NotSynced { path: path.to_owned(), reason }).into_iter().collect());
    }
}

/// Says whether a checkpoint in the folder may need lines of a segment after a position. Reads all headers.
fn is_needed_after(folder: &Path, at: &Position) -> Result<bool> {
    let is_needed = |path: PathBuf| match describe(&path).and_then(|internal| position_in(&internal, &path)) {
        Ok(position) => position.is_some_and(|it| it.file == at.file && it.bytes > at.bytes),
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => false,
        // An undamaged copy of it may be put back.
        Err(_) => true,
    };
    Ok(files(folder)?.into_iter().any(|(path, _)| is_needed(path)))
}
