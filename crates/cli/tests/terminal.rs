//! What reaches a terminal, and what happens if nobody reads it.

mod common;

use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;

use common::{command, folder, golden, run, run_in, write_foreign};
use earlystop::checkpoint::{Metadata, NamedTensor, Saver, Store};
use earlystop::early_stopping::{EarlyStopping, Observation, Rule};
use serde_json::json;

const HOSTILE: &str = "w\u{1b}[2J\u{1b}]0;owned\u{7}\r\nok: all good\u{9b}31m\u{202e}\u{7f}";

#[track_caller]
fn expect_harmless(text: &str) {
    let bad = text.chars().find(|&it| (it.is_control() && it != '\n') || it == '\u{202e}');
    assert!(bad.is_none(), "{bad:?} in {text:?}");
    assert!(!text.lines().any(|line| line.starts_with("ok:")), "a line break came through: {text}");
}

/// Saves a checkpoint in which every text is hostile.
fn hostile(path: &Path, value: f32) {
    let values = [value];
    let rule = Rule::patience(10).named(HOSTILE);
    let observation = Observation::new(1, 0.5).with(HOSTILE, 0.25);
    let stopping = EarlyStopping::resume(rule.clone(), vec![observation]).unwrap();
    let trainer = json!({
        "settings": {"rule": rule, HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE, {HOSTILE: value.to_string()}]}},
        "environment": {HOSTILE: HOSTILE}, "stopping": stopping,
    });
    let metadata = [("trainer".to_owned(), trainer.to_string()), (HOSTILE.to_owned(), format!("{HOSTILE}{value}"))];
    let state =
        vec![NamedTensor::new(HOSTILE, &values[..]), NamedTensor::new(format!("{HOSTILE}{value}"), &values[..])];
    Saver::new().save(path, &[&state], &metadata.into()).unwrap();
}

#[test]
fn names_from_files_never_reach_the_terminal_raw() {
    let dir = tempfile::tempdir().unwrap();
    // A path of the file system has all of it but the slash and the zero.
    let inner = dir.path().join(HOSTILE);
    fs::create_dir(&inner).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| inner.join(format!("{HOSTILE}{name}.safetensors")));
    hostile(&a, 1.0);
    hostile(&b, 2.0);
    let header = json!({HOSTILE: {"dtype": HOSTILE, "shape": [1], "data_offsets": [0, 1]}});
    write_foreign(&c, &header, &[0]);
    fs::write(inner.join(format!("{HOSTILE}d.safetensors")), "cut").unwrap();
    let [folder, a, b, c] = [&inner, &a, &b, &c].map(|path| path.to_str().unwrap());
    let out = dir.path().join(format!("{HOSTILE}out.safetensors"));
    let out = out.to_str().unwrap();
    let lines: &[&[&str]] = &[
        &["list", folder],
        &["list", "--verify", folder],
        &["show", a],
        &["show", c],
        &["show", "--values", "--largest", "1", a],
        &["show", folder],
        &["diff", a, b],
        &["diff", a, c],
        &["verify", folder, a, "absent\u{1b}[2J"],
        &["history", a],
        &["history", "--csv", a],
        &["history", "--score", HOSTILE, a],
        &["history", "--score", "absent\u{1b}", a],
        &["replay", a, "--rule", "patience(1)"],
        &["replay", a, "--rule", "patience(1) on higher absent"],
        &["replay", a, "--rule", "\u{1b}[2J"],
        &["average", a, b, "-o", out],
        &["average", a, c, "-o", out],
        &["average", a, a, "-o", out],
        &["export", a, "--only", "*", "-o", out],
        &["export", c, "-o", out, "--force"],
        &["prune", folder, "--keep", "last=1"],
    ];
    for line in lines {
        for json in [&[][..], &["--json"]] {
            if line.contains(&"--csv") && !json.is_empty() {
                continue;
            }
            let ran = run([line, json].concat());
            assert!(!ran.out.is_empty() || !ran.err.is_empty(), "{line:?}");
            expect_harmless(&ran.out);
            expect_harmless(&ran.err);
        }
    }
    // Nothing is lost: JSON has the very name.
    let json = run(["show", "--json", a]).ends_with(0).json();
    assert_eq!(json["tensors"][0]["name"], HOSTILE);
    assert!(run(["show", a]).out.contains(r"w\u{1b}[2J\u{1b}]0;owned\u{7}\r\nok: all good\u{9b}31m\u{202e}\u{7f}"));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let dir = folder(&[(100, Some(0.5))]);
    let patience = golden("0.1.0/patience");
    let folder = patience.to_str().unwrap();
    let file = dir.path().join("step-000100.safetensors");
    let lines: &[&[&str]] = &[
        &["list", folder],
        &["show", folder],
        &["show", "--json", folder],
        &["history", folder],
        &["diff", folder, file.to_str().unwrap()],
        &["verify", file.to_str().unwrap()],
        &["completions", "bash"],
        &["--help"],
    ];
    for line in lines {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = command().args(*line).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(0) && error.is_empty(), "{line:?}: {:?} {error}", output.status);
    }
    // Nor is it one that nobody reads what is wrong.
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let status = command().args(["list", "absent"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command().arg("list").arg(golden("0.1.0/store")).stdout(full).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && error.contains("cannot write the output"), "{error}");
}

#[test]
fn colors_are_for_terminals_and_those_who_ask() {
    let dir = folder(&[(100, Some(0.5))]);
    let has_color = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = command();
        command.args(args).arg("verify").arg(dir.path()).envs(variables.iter().copied());
        let output = command.output().unwrap();
        assert!(output.status.success());
        output.stdout.contains(&0x1b)
    };
    assert!(!has_color(&[], &[]));
    assert!(has_color(&["--color", "always"], &[]));
    assert!(has_color(&[], &[("CLICOLOR_FORCE", "1"), ("TERM", "xterm")]));
    assert!(!has_color(&[], &[("CLICOLOR_FORCE", "1"), ("TERM", "xterm"), ("NO_COLOR", "1")]));
    assert!(!has_color(&["--color", "never"], &[("CLICOLOR_FORCE", "1")]));
    assert!(!has_color(&["--color", "always", "--json"], &[]));
}

#[test]
#[cfg(target_os = "linux")]
fn paths_need_not_be_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(OsStr::from_bytes(b"run\xff"));
    let state = vec![NamedTensor::new("w", &[1.0f32][..])];
    let mut store = Store::open(&folder).unwrap();
    for step in [100, 200] {
        store.save(step, None, &[&state], &Metadata::new()).unwrap();
    }
    drop(store);
    let ran = run(["verify".as_ref(), folder.as_os_str()]).ends_with(0);
    assert!(ran.out.contains(r"run\xff/step-000100.safetensors"), "{}", ran.out);
    let [file, out] =
        [&b"step-000100.safetensors"[..], b"out\xfe.safetensors"].map(|name| folder.join(OsStr::from_bytes(name)));
    run(["export".as_ref(), file.as_os_str(), "-o".as_ref(), out.as_os_str()]).ends_with(0);
    run(["diff".as_ref(), file.as_os_str(), out.as_os_str()]).ends_with(0);
    let ran = run(["list".as_ref(), folder.as_os_str()]).ends_with(0);
    assert!(ran.out.contains(r"out\xfe.safetensors"), "{}", ran.out);
    run(["prune".as_ref(), folder.as_os_str(), "--keep".as_ref(), "last=1".as_ref()]).ends_with(0);
    assert!(!file.exists() && out.exists());
}

#[test]
fn every_shell_has_completions_and_every_command_a_help() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = run(["completions", shell]).ends_with(0);
        assert!(ran.out.contains("earlystop") && ran.out.contains("history"), "{shell}");
    }
    for name in ["list", "show", "diff", "verify", "history", "replay", "prune", "average", "export", "completions"] {
        let ran = run([name, "--help"]).ends_with(0);
        assert!(ran.out.contains(&format!("Examples:\n  earlystop {name} ")), "{}", ran.out);
    }
    let ran = run_in(Path::new("x"), "--version").ends_with(0);
    assert_eq!(ran.out, format!("earlystop {}\n", env!("CARGO_PKG_VERSION")));
}
