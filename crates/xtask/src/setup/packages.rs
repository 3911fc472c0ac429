//! Fetches packages of other package managers into a folder, without installing them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::command;
use crate::progress::Step;

/// The commands that fetch and unpack a Debian package, for [`run_all`].
macro_rules! debian_package {
    ($name:literal) => {
        &[
            // With lists of packages of its own: the system's may be old or absent, and only its owner may renew them.
            &["mkdir", "-p", "lists/partial"],
            &["apt-get", "update", "-qq", "-oDir::State::Lists=lists", "-oDir::Cache=."],
            &["apt-get", "download", $name, "-qq", "-oDir::State::Lists=lists", "-oDir::Cache=."],
            &["sh", "-c", concat!("dpkg-deb --extract ", $name, "_*.deb .")],
        ]
    };
}
pub(crate) use debian_package;

/// Runs commands in a folder, which is emptied first. The error is the text of the first command that fails.
pub(crate) fn run_all(commands: &[&[&str]], folder: &Path, step: &mut Step) -> Result<(), String> {
    let _ = fs::remove_dir_all(folder); // of a set-up that was interrupted
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for words in commands {
        let line = words[..words.len().min(3)].join(" ");
        let outcome = command::watch(step, Command::new(words[0]).args(&words[1..]).current_dir(folder));
        let outcome = outcome.map_err(|error| format!("{line}: {error}"))?;
        if !outcome.status.success() {
            let said = outcome.output.lines().map(str::trim).filter(|line| !line.is_empty()).take(4);
            return Err(format!("{line}: {}: {}", outcome.status, said.collect::<Vec<_>>().join("; ")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_unpacked_in_a_folder_that_is_new() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("old"), "").unwrap();
        let mut step = Step::start("testing");
        run_all(&[&["mkdir", "data"], &["sh", "-c", "ls > data/list"]], folder.path(), &mut step).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("data/list")).unwrap(), "data\n");
    }

    #[test]
    fn what_failed_is_told_with_the_programs_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut step = Step::start("testing");
        let failed = run_all(&[&["sh", "-c", "echo npm error code E404 >&2; exit 1"]], folder.path(), &mut step);
        let expected = "sh -c echo npm error code E404 >&2; exit 1: exit status: 1: npm error code E404";
        assert_eq!(failed.unwrap_err(), expected);
        let missing = run_all(&[&["no-such-npm", "pack", "it"]], folder.path(), &mut step).unwrap_err();
        assert!(missing.starts_with("no-such-npm pack it: "), "{missing}");
    }
}
