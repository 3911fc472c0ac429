//! Running a test of this program again in a child process.

use std::process::Command;

/// Runs the child and requires that it passes; if not, shows what it printed.
///
/// Its output goes through pipes. A child that limits the length of files could not print into the caller's file.
#[track_caller]
pub(crate) fn passes(child: &mut Command) {
    let output = child.output().unwrap();
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "the child ended with {}\n{stdout}{stderr}", output.status);
}
