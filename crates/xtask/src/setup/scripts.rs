//! The scripts of a Python environment, each of which names the environment's Python by its absolute path.
//!
//! So a moved or copied environment starts the Python of the old place, or none.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Result, command};

/// The longest first line with an interpreter that Linux reads.
const LONGEST_LINE: usize = 127;

/// Makes the environment's scripts name its own Python; quick where they do.
pub(super) fn mend(environment: &Path) -> Result<()> {
    let bin = environment.join("bin");
    let mut mended = 0;
    for entry in std::fs::read_dir(&bin).into_iter().flatten().flatten() {
        let path = entry.path();
        // Links are Pythons, and programs are no text.
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Some(text) = std::fs::read(&path).ok().and_then(|bytes| String::from_utf8(bytes).ok()) else { continue };
        if let Some(text) = with_interpreter_in(&bin, &text) {
            replace(&path, &text).map_err(|source| Error::io("write", &path, &source))?;
            mended += 1;
        }
    }
    if mended > 0 {
        eprintln!(
            "The Python environment {} was moved or copied: its scripts name its Python again",
            environment.display()
        );
        // For `activate` and pyvenv.cfg. Without them all works but `. .venv/bin/activate`.
        command::ask(Command::new(python(environment)).args(["-m", "venv", "--without-pip"]).arg(environment));
    }
    Ok(())
}

/// Replaces a script, whole or not at all.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&new, path)
}

/// The script with its first lines naming the Python in `bin`; `None` if they do, or if it is no script of a Python.
fn with_interpreter_in(bin: &Path, script: &str) -> Option<String> {
    let (interpreter, rest) = split(script)?;
    let name = Path::new(interpreter).file_name()?.to_str()?;
    // Python scripts that name no path, as `/usr/bin/env python3`, are none of an environment's.
    if !name.starts_with("python") || name.contains(' ') {
        return None;
    }
    let head = head(bin.join(name).to_str()?);
    let mended = format!("{head}{rest}");
    (mended != script).then_some(mended)
}

/// A script's interpreter, as pip writes it into the first lines, and what follows them.
fn split(script: &str) -> Option<(&str, &str)> {
    let (first, rest) = script.strip_prefix("#!")?.split_once('\n')?;
    if first != "/bin/sh" {
        return Some((first.trim(), rest));
    }
    // Where the path is too long for a first line, or has spaces: a text to Python, a command to the shell.
    let (command, rest) = rest.strip_prefix("'''exec' ")?.split_once("\n' '''\n")?;
    let interpreter = command.strip_suffix(" \"$0\" \"$@\"")?;
    Some((interpreter.trim_matches(['"', '\'']), rest))
}

/// The first lines of a script for this interpreter.
fn head(interpreter: &str) -> String {
    let line = format!("#!{interpreter}\n");
    if line.len() <= LONGEST_LINE && !interpreter.contains(char::is_whitespace) {
        return line;
    }
    format!("#!/bin/sh\n'''exec' {} \"$0\" \"$@\"\n' '''\n", quoted(interpreter))
}

/// A path as one word to a shell, without backslashes where it can be: Python, to which it is a text, warns of them.
fn quoted(path: &str) -> String {
    const SPECIAL: [char; 4] = ['"', '$', '`', '\\'];
    if path.contains(SPECIAL) && !path.contains('\'') {
        return format!("'{path}'");
    }
    let escaped = path.chars().flat_map(|c| SPECIAL.contains(&c).then_some('\\').into_iter().chain([c]));
    format!("\"{}\"", escaped.collect::<String>())
}

/// The environment's Python.
pub(super) fn python(environment: &Path) -> PathBuf {
    environment.join("bin/python")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_of_the_old_place_names_the_new_one() {
        let script = "#!/old/.venv/bin/python3\nimport sys\n";
        let moved = with_interpreter_in(Path::new("/new/.venv/bin"), script).unwrap();
        assert_eq!(moved, "#!/new/.venv/bin/python3\nimport sys\n");
        assert_eq!(with_interpreter_in(Path::new("/new/.venv/bin"), &moved), None);
    }

    #[test]
    fn paths_with_spaces_and_long_ones_take_the_shells_way_and_come_back() {
        let script = "#!/old/.venv/bin/python\nimport sys\n";
        let long = format!("/{}/.venv/bin", "x".repeat(200));
        for bin in ["/my projects/.venv/bin", &long] {
            let moved = with_interpreter_in(Path::new(bin), script).unwrap();
            let expected = format!("#!/bin/sh\n'''exec' \"{bin}/python\" \"$0\" \"$@\"\n' '''\nimport sys\n");
            assert_eq!(moved, expected);
            assert_eq!(with_interpreter_in(Path::new(bin), &moved), None);
            assert_eq!(with_interpreter_in(Path::new("/old/.venv/bin"), &moved).unwrap(), script);
        }
    }

    #[test]
    fn what_is_no_script_of_an_environment_is_left_alone() {
        for script in ["#!/bin/bash\necho\n", "#!/usr/bin/env python3\n", "no script", "#!/bin/sh\nexec python\n", ""] {
            assert_eq!(with_interpreter_in(Path::new("/new/bin"), script), None, "{script}");
        }
    }

    /// A real shell and a real Python, at paths that a shell would read otherwise.
    #[test]
    fn mended_scripts_start() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["plain", "with space", "with space and $HOME", "it's \"100%\" $HOME `x` \\ #1"] {
            let bin = folder.path().join(name).join("bin");
            std::fs::create_dir_all(&bin).unwrap();
            let Some(program) = command::ask(Command::new("python3").args(["-c", "import sys; print(sys.executable)"]))
            else {
                return;
            };
            std::os::unix::fs::symlink(program, bin.join("python3")).unwrap();
            std::fs::write(bin.join("tool"), "#!/old/bin/python3\nprint('started')\n").unwrap();
            mend(bin.parent().unwrap()).unwrap();
            assert_eq!(command::ask(&mut Command::new(bin.join("tool"))).as_deref(), Some("started"), "{name}");
        }
    }
}
