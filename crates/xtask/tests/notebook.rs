//! Notebooks that fail in each of the three ways, executed with the real kernel: slow, so only with
//! `EARLYSTOP_LONG_TESTS=1` (`cargo xtask test --long`, and in CI).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The notebooks of `tests/notebooks`, or `None` where slow tests are not wanted.
fn notebooks() -> Option<PathBuf> {
    let wanted = std::env::var_os("EARLYSTOP_LONG_TESTS").is_some();
    wanted.then(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/notebooks"))
}

fn xtask_notebook(args: &[&OsStr]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).arg("notebook").args(args).output().unwrap()
}

/// Executes `<name>.ipynb`, which must fail in its second code cell, and gives what was told.
#[track_caller]
fn failure_of(name: &str, folder: &Path) -> String {
    let output = xtask_notebook(&[folder.join(name).with_extension("ipynb").as_ref()]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{told}");
    assert!(told.contains(&format!("{name}.ipynb")), "{told}");
    assert!(told.contains("\n    cell 3 (`"), "{told}");
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/notebooks");
    let executed = std::fs::read_to_string(target.join(name).with_extension("ipynb")).unwrap();
    assert!(executed.contains("55000 images"), "the outputs before the failure are kept: {executed}");
    assert!(!executed.contains("\"the end\\n\""), "nothing is executed after the failure: {executed}");
    assert!(target.join(name).with_extension("html").exists());
    told
}

#[test]
fn a_clean_notebook_passes_and_is_written_back_with_its_outputs() {
    let Some(folder) = notebooks() else { return };
    let copy = tempfile::tempdir().unwrap();
    let notebook = copy.path().join("clean.ipynb");
    std::fs::copy(folder.join("clean.ipynb"), &notebook).unwrap();
    let unexecuted = xtask_notebook(&["--check".as_ref(), notebook.as_ref()]);
    assert!(String::from_utf8(unexecuted.stderr).unwrap().contains("expected execution count 1, found none"));

    let output = xtask_notebook(&["--write".as_ref(), notebook.as_ref()]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("cell 4/4  println!(\"the end\");"), "progress is shown: {told}");
    let written = std::fs::read_to_string(&notebook).unwrap();
    assert!(written.contains("\"60000\"") && written.contains("\"the end\\n\""), "{written}");
    assert!(!written.contains("iopub"), "no times of this run: {written}");
    assert!(xtask_notebook(&["--check".as_ref(), notebook.as_ref()]).status.success());
}

#[test]
fn a_compile_error_is_told_in_the_compilers_words() {
    let Some(folder) = notebooks() else { return };
    let told = failure_of("compile_error", &folder);
    assert!(told.contains("cannot add `&str` to `"), "{told}");
    assert!(!told.contains("Traceback") && !told.contains('\x1b'), "only what the compiler said: {told}");
}

#[test]
fn a_panic_is_told_without_its_backtrace() {
    let Some(folder) = notebooks() else { return };
    let told = failure_of("panic", &folder);
    assert!(told.contains("panic: index out of bounds: the len is 1 but the index is 1"), "{told}");
    assert!(told.contains(" of cell ["), "the line is named: {told}");
    assert!(!told.contains("stack backtrace"), "{told}");
}

#[test]
fn an_error_passed_on_by_a_question_mark_is_told() {
    let Some(folder) = notebooks() else { return };
    let told = failure_of("question_mark", &folder);
    assert!(told.contains("No such file or directory"), "{told}");
}

#[test]
fn a_cell_that_fails_only_when_it_is_run_again_is_named() {
    let Some(folder) = notebooks() else { return };
    let output = xtask_notebook(&["--twice".as_ref(), folder.join("lone_impl.ipynb").as_ref()]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("cell 3 (`impl Size {`)"), "{told}");
    assert!(told.contains("duplicate definitions"), "{told}");
    assert_eq!(told.matches("cell 3/4  impl Size {").count(), 2, "the second run fails: {told}");
    assert!(!told.contains("cell 4/4"), "nothing is executed after the failure: {told}");
}

/// Without any configuration: as anyone's CI would run it.
#[test]
fn plain_nbconvert_stops_at_a_panic_and_at_an_error_passed_on() {
    let Some(folder) = notebooks() else { return };
    assert!(Command::new(env!("CARGO_BIN_EXE_xtask")).arg("setup").status().unwrap().success());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let of_the_clone = root.join(".venv/bin/jupyter");
    let jupyter = if of_the_clone.exists() { of_the_clone } else { PathBuf::from("jupyter") };
    let results = tempfile::tempdir().unwrap();
    for (name, message) in [("panic", "index out of bounds"), ("question_mark", "No such file or directory")] {
        let output = Command::new(&jupyter)
            .args(["nbconvert", "--execute", "--to=html", "--output-dir"])
            .arg(results.path())
            .arg(folder.join(name).with_extension("ipynb"))
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains(message), "{told}");
    }
}
