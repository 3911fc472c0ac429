//! Executes a notebook by `jupyter nbconvert --execute`, from a kernel of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::ipynb::Notebook;
use super::problem::list;
use super::{failures, twice};
use crate::setup::Environment;
use crate::{Error, Result};

/// The configuration by which nbconvert announces cells, and keeps a notebook that fails.
const CONFIGURATION: &str = include_str!("execute.py");

/// How many of nbconvert's last words are shown when no cell failed.
const LAST_LINES: usize = 25;

/// Executes the notebook and writes `<name>.ipynb` and `<name>.html` into `folder`; gives the former's path.
///
/// # Errors
/// Names the cells that failed, with the compiler's or the panic's message. What was executed up to there
/// is in the two files as well.
pub(super) fn execute(environment: &Environment, notebook: &Path, folder: &Path) -> Result<PathBuf> {
    execute_by(nbconvert(environment, notebook, folder, CONFIGURATION)?, environment, notebook, folder)
}

/// As [`execute`], with every cell run twice in a row, and with short trainings.
pub(super) fn execute_twice(environment: &Environment, notebook: &Path, folder: &Path) -> Result<PathBuf> {
    let configuration = [CONFIGURATION, twice::CONFIGURATION].concat();
    let mut nbconvert = nbconvert(environment, notebook, folder, &configuration)?;
    nbconvert.env("SHORTER", twice::shorter(notebook)?);
    execute_by(nbconvert, environment, notebook, folder)
}

fn execute_by(mut execution: Command, environment: &Environment, notebook: &Path, folder: &Path) -> Result<PathBuf> {
    let executed = folder.join(notebook.file_name().expect("a notebook has a file name"));
    let tried = format!("execute {}", notebook.display());
    // So that a file found afterwards is one of this run.
    let _ = fs::remove_file(&executed);
    let ended = convert(execution.args(["--execute", "--to=notebook"]), notebook, &executed)?;
    if !executed.exists() {
        return Err(Error::new(tried).got(ended.last_words));
    }
    let failures = list(&failures::find(&Notebook::read(&executed)?));
    let html = convert(environment.module("nbconvert").arg("--to=html"), &executed, &executed.with_extension("html"))?;
    if !failures.is_empty() {
        let hint = format!("The notebook as far as it came: {}", executed.with_extension("html").display());
        return Err(Error::new(tried).got(failures).hint(hint));
    }
    for (tried, ended) in [(tried, ended), ("write the notebook as HTML".to_owned(), html)] {
        if !ended.success {
            return Err(Error::new(tried).got(ended.last_words));
        }
    }
    Ok(executed)
}

struct Ended {
    success: bool,
    last_words: String,
}

/// nbconvert with a configuration, which is written into `folder`; each notebook has its own, since two may be executed at once.
fn nbconvert(environment: &Environment, notebook: &Path, folder: &Path, configuration: &str) -> Result<Command> {
    let path = folder.join(notebook.with_extension("nbconvert.py").file_name().expect("a notebook has a file name"));
    let write = || {
        fs::create_dir_all(folder)?;
        fs::write(&path, configuration)
    };
    write().map_err(|source| Error::io("write", &path, &source))?;
    let mut nbconvert = environment.module("nbconvert");
    nbconvert.arg("--config").arg(path);
    Ok(nbconvert)
}

/// Runs nbconvert, relays the announcements of cells and keeps all else that it says.
fn convert(nbconvert: &mut Command, from: &Path, to: &Path) -> Result<Ended> {
    let cannot = |source: std::io::Error| Error::new("run jupyter nbconvert").got(source.to_string());
    let mut child = nbconvert
        .arg("--output")
        .arg(to)
        .arg(from)
        .env("KEEP_FAILED_NOTEBOOK", to)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    let name = from.file_stem().unwrap_or_default().display();
    let mut said = Vec::new();
    for line in BufReader::new(child.stderr.take().expect("stderr is piped")).lines() {
        let line = line.map_err(cannot)?;
        if is_announcement(&line) {
            eprintln!("{name} {line}");
        } else {
            said.push(line);
        }
    }
    let success = child.wait().map_err(cannot)?.success();
    Ok(Ended { success, last_words: said[said.len().saturating_sub(LAST_LINES)..].join("\n") })
}

/// `  3.4 s  cell 12/53  let mut network = …`, as `execute.py` prints it.
fn is_announcement(line: &str) -> bool {
    line.trim_start().split_once(" s  cell ").is_some_and(|(seconds, _)| seconds.parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_of_cells_are_told_from_all_else() {
        assert!(is_announcement("  12.3 s  cell 4/53  let x = 1;"));
        assert!(!is_announcement("[NbConvertApp] Converting notebook x.ipynb to notebook"));
        assert!(!is_announcement("it took 3 s  cell by cell"));
    }
}
