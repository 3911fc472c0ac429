//! The stop button of a real kernel. Long: the kernel is made ready first, which takes minutes where that was never done.

use std::process::Command;

const SESSION: &str = include_str!("stop_button.py");

#[test]
fn no_panic_shows_a_backtrace_also_after_the_stop_button() {
    if std::env::var_os("EARLYSTOP_LONG_TESTS").is_none() {
        eprintln!("left out: set EARLYSTOP_LONG_TESTS=1 to run it");
        return;
    }
    let setup = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("setup").output().unwrap();
    let said = String::from_utf8_lossy(&setup.stdout);
    assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
    let python = said.lines().find_map(|line| line.strip_prefix("Python:")).unwrap().trim();

    let mut session = Command::new(python);
    session.args(["-c", SESSION]).env("JUPYTER_PREFER_ENV_PATH", "1").current_dir(std::env::temp_dir());
    let output = session.output().unwrap();
    let (told, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{complaints}");
    assert!(told.contains("the second process"), "{told}\n{complaints}");
    assert!(!told.contains("stack backtrace"), "{told}");
}
