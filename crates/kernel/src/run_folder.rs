//! The folder of the kernel's socket and of the file that asks cells to stop.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

const SOCKET: &str = "kernel.sock";
const INTERRUPT: &str = "interrupt";
const PREFIX: &str = "earlystop-kernel-";

/// The longest socket path that every system supports is 103 bytes.
const LONGEST: usize = 100;

/// Its files are removed when it is dropped, and the folder too if the kernel created it.
pub(crate) struct RunFolder {
    folder: PathBuf,
    is_own: bool,
}

impl RunFolder {
    /// Uses `EVCXR_TMPDIR`, of which each kernel has its own. Creates a folder if it is not set or its path is too long.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let evcxr = std::env::var_os("EVCXR_TMPDIR").map(PathBuf::from).filter(|folder| is_short(folder));
        let folder = match evcxr {
            Some(folder) => {
                fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
                Self { folder, is_own: false }
            }
            None => {
                let temporary =
                    Some(std::env::temp_dir()).filter(|folder| is_short(&folder.join([PREFIX; 2].concat())));
                Self::make(&temporary.unwrap_or_else(|| "/tmp".into()))?
            }
        };
        folder.remove_files();
        Ok(folder)
    }

    fn make(temporary: &Path) -> anyhow::Result<Self> {
        remove_left_over(temporary);
        let folder = temporary.join(format!("{PREFIX}{}", std::process::id()));
        // Fails if it exists: it may belong to another user.
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("could not make {}", folder.display()))?;
        Ok(Self { folder, is_own: true })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join(SOCKET)
    }

    pub(crate) fn interrupt(&self) -> PathBuf {
        self.folder.join(INTERRUPT)
    }

    fn remove_files(&self) {
        for file in [self.socket(), self.interrupt()] {
            let _ = fs::remove_file(file);
        }
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        self.remove_files();
        if self.is_own {
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

fn is_short(folder: &Path) -> bool {
    folder.is_absolute() && folder.join(SOCKET).as_os_str().as_bytes().len() <= LONGEST
}

/// Removes the folders of killed kernels.
fn remove_left_over(temporary: &Path) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|id| id.parse::<i32>().ok());
        // SAFETY: the call takes no pointers, and signal 0 does nothing: it asks whether the process is there.
        let is_gone = |id| unsafe { libc::kill(id, 0) } != 0 && errno() == libc::ESRCH;
        if id.is_some_and(|id| id > 0 && (is_gone(id) || id.cast_unsigned() == std::process::id())) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_of_killed_kernels_are_removed_and_those_of_others_kept() {
        let temporary = std::env::temp_dir().join(format!("run-folder-test-{}", std::process::id()));
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let folder = |id: u32| temporary.join(format!("{PREFIX}{id}"));
        fs::create_dir_all(folder(ended.id())).unwrap();
        fs::write(folder(ended.id()).join(SOCKET), "").unwrap();
        fs::create_dir_all(folder(1)).unwrap();
        let own = RunFolder::make(&temporary).unwrap();
        assert!(!folder(ended.id()).exists() && folder(1).exists());
        fs::write(own.interrupt(), "").unwrap();
        drop(own);
        assert!(!folder(std::process::id()).exists());
        fs::remove_dir_all(temporary).unwrap();
    }

    #[test]
    fn long_and_relative_paths_are_not_for_sockets() {
        assert!(is_short(Path::new("/tmp")) && !is_short(Path::new("tmp")));
        assert!(!is_short(&Path::new("/").join("x".repeat(LONGEST))));
    }
}
