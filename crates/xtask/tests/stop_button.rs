//! The stop button of a real kernel: a long test.

mod common;

use std::process::Command;

const SESSION: &str = include_str!("stop_button.py");

#[test]
fn no_panic_shows_a_backtrace_also_after_the_stop_button() {
    let Some(python) = common::python_with_kernel() else { return };
    let mut session = Command::new(python);
    session.args(["-c", SESSION]).env("JUPYTER_PREFER_ENV_PATH", "1").current_dir(std::env::temp_dir());
    let output = session.output().unwrap();
    let (told, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{complaints}");
    assert!(told.contains("the second process"), "{told}\n{complaints}");
    assert!(!told.contains("stack backtrace"), "{told}");
}
