//! Against a server that speaks S3, with faults in between.
//!
//! Credentials and addresses come from the environment, so each part runs in a child process.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use earlystop::Error;
use earlystop::checkpoint::{Checkpoint, Keep, Metadata, NamedTensor, Saver, Store};

use crate::common::{keys_in, state};
use crate::process::passes;
use crate::proxy::{Action, Proxy};
use crate::server::{Server, create_bucket, free_port, object, objects};
use crate::{is_long, kill};

const SERVER: &str = "EARLYSTOP_TEST_SERVER";
const PROXY: &str = "EARLYSTOP_TEST_PROXY";
/// Parts of what must not appear anywhere.
const SECRETS: [&str; 3] = ["AKIDVISIBLE", "SECRETVISIBLE", "TOKENVISIBLE"];

/// A child process of this program that runs the tests whose names start so, with credentials.
fn child(tests: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            child.env_remove(name);
        }
    }
    child.args([tests, "--test-threads=1", "--nocapture"]).env("AWS_REGION", "us-east-1");
    child.env("AWS_ACCESS_KEY_ID", SECRETS[0]).env("AWS_SECRET_ACCESS_KEY", SECRETS[1]);
    child.env("AWS_SESSION_TOKEN", SECRETS[2]);
    child
}

fn port(name: &str) -> Option<u16> {
    std::env::var(name).ok().map(|port| port.parse().unwrap())
}

#[test]
fn s3_with_faults() {
    if port(PROXY).is_some() || !is_long() {
        return;
    }
    let Some(server) = Server::start() else { return };
    let proxy = free_port();
    let folder = tempfile::tempdir().unwrap();
    let mut child = child("s3::child_");
    child.env(SERVER, server.port.to_string()).env(PROXY, proxy.to_string()).env("TMPDIR", folder.path());
    child.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{proxy}"));
    let output = child.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    assert!(text.contains("s3://faults/"), "errors are printed: {text}");
    assert!(!text.contains("ANSWER-OF-THE-SERVER"), "{text}");
    for secret in SECRETS {
        assert!(!text.contains(secret), "{text}");
    }
    for key in objects(server.port, "faults", "") {
        let object = object(server.port, "faults", &key);
        for secret in SECRETS {
            assert!(!object.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()), "{key}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "local copies are deleted");
}

/// A bucket of its own for each part, behind a proxy.
struct Place {
    server: u16,
    proxy: u16,
    prefix: &'static str,
}

impl Place {
    fn of(prefix: &'static str) -> Option<Self> {
        let (server, proxy) = (port(SERVER)?, port(PROXY)?);
        create_bucket(server, "faults");
        Some(Place { server, proxy, prefix })
    }

    fn url(&self) -> String {
        format!("s3://faults/{}", self.prefix)
    }

    fn proxy(&self, rule: impl FnMut(&str) -> Action + Send + 'static) -> Proxy {
        Proxy::start(self.proxy, self.server, rule)
    }

    fn objects(&self, folder: &str) -> Vec<String> {
        let found = objects(self.server, "faults", &format!("{}/", self.prefix));
        found.into_iter().filter(|key| key.starts_with(folder)).collect()
    }

    /// Requires that there are no other data than the latest manifest names.
    fn expect_no_leftovers(&self) {
        let last = self.objects("commits/").pop().unwrap();
        let answer = object(self.server, "faults", &format!("{}/{last}", self.prefix));
        let start = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let manifest = serde_json::from_slice(&answer[start..]).unwrap();
        assert_eq!(self.objects("data/"), keys_in(&manifest).into_iter().collect::<Vec<_>>());
    }
}

fn steps(store: &Store) -> Vec<u64> {
    store.list().unwrap().iter().map(|saved| saved.step).collect()
}

fn try_to_save(store: &mut Store, step: u64) -> Result<u64, Error> {
    store.save(step, Some(step as f64), &[&state(step as f32)], &Metadata::new()).map(|saved| saved.commit)
}

/// Prints an error, so that the parent can look for secrets in it.
fn show(error: Error) -> String {
    println!("{error}\n{error:?}");
    error.to_string()
}

#[test]
fn child_saves_and_reads() {
    let Some(place) = Place::of("plain") else { return };
    let _proxy = place.proxy(|_| Action::Forward);
    let mut store = Store::open(place.url()).unwrap().keep(Keep::last(2).best(1)).split_above(12_000_000);
    println!("{store:?}");
    assert!(store.latest_valid().unwrap().saved.is_none());
    for step in 1..=4 {
        try_to_save(&mut store, step).unwrap();
    }
    // In several files, one of them in several parts of an upload.
    let large: Vec<f32> = (0..6_000_000).map(|i| i as f32).collect();
    let tensors = vec![NamedTensor::new("a", &large[..]), NamedTensor::new("b", &large[..1_000_000])];
    store.save(5, None, &[&tensors], &Metadata::new()).unwrap();
    let fresh = Store::open(place.url()).unwrap();
    assert_eq!(steps(&fresh), [4, 5]);
    let found = fresh.latest_valid().unwrap();
    assert!(found.skipped.is_empty(), "{:?}", found.skipped);
    let path = found.saved.unwrap().path;
    assert_eq!(
        Checkpoint::read(&path).unwrap().bytes("b").unwrap(),
        large[..1_000_000].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()
    );
    let first = store.list().unwrap().swap_remove(0);
    let archive = store.archive_after(&first).unwrap().unwrap();
    assert_eq!(archive, PathBuf::from(format!("{}/after-step-000004", place.url())));
    assert_eq!(steps(&Store::open(&archive).unwrap()), [5]);
    place.expect_no_leftovers();
    store.clear().unwrap();
    assert_eq!(steps(&fresh), [0; 0]);
    println!("{store:?} {fresh:?}");
}

#[test]
fn child_survives_a_lost_answer() {
    let Some(place) = Place::of("lost") else { return };
    let lost = Arc::new(AtomicU32::new(0));
    let counter = lost.clone();
    let _proxy = place.proxy(move |line| {
        let is_commit = line.starts_with("PUT ") && line.contains("/commits/");
        if is_commit && counter.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            Action::LoseAnswer
        } else {
            Action::Forward
        }
    });
    let mut store = Store::open(place.url()).unwrap();
    for step in 1..=3 {
        assert_eq!(try_to_save(&mut store, step).unwrap(), step);
    }
    assert!(lost.load(Ordering::SeqCst) >= 4);
    assert_eq!(steps(&Store::open(place.url()).unwrap()), [1, 2, 3]);
    place.expect_no_leftovers();
}

#[test]
fn child_finds_out_later_how_a_commit_has_ended() {
    let Some(place) = Place::of("unknown") else { return };
    let is_down = Arc::new(Mutex::new(false));
    let down = is_down.clone();
    let _proxy = place.proxy(move |line| {
        let mut down = down.lock().unwrap();
        // From the third commit on, no answer arrives.
        *down |= line.starts_with("PUT ") && line.contains("/commits/00000000000000000003");
        if *down { Action::LoseAnswer } else { Action::Forward }
    });
    let mut store = Store::open(place.url()).unwrap();
    try_to_save(&mut store, 1).unwrap();
    let start = Instant::now();
    let error = show(try_to_save(&mut store, 2).unwrap_err());
    assert!(error.contains("s3://faults/unknown") && start.elapsed() < Duration::from_secs(200), "{error}");
    *is_down.lock().unwrap() = false;
    drop(_proxy);
    let _proxy = place.proxy(|_| Action::Forward);
    // It has succeeded, and the next one comes after it.
    assert_eq!(try_to_save(&mut store, 3).unwrap(), 3);
    assert_eq!(steps(&Store::open(place.url()).unwrap()), [1, 2, 3]);
    place.expect_no_leftovers();
}

#[test]
fn child_waits_while_the_server_is_overloaded() {
    let Some(place) = Place::of("slow") else { return };
    let mut count = 0;
    let _proxy = place.proxy(move |_| {
        count += 1;
        match count % 4 {
            0 => Action::Answer(503, "SlowDown"),
            1 => Action::Delay(Duration::from_millis(300)),
            _ => Action::Forward,
        }
    });
    let mut store = Store::open(place.url()).unwrap();
    for step in 1..=3 {
        try_to_save(&mut store, step).unwrap();
    }
    assert_eq!(store.latest_valid().unwrap().saved.unwrap().step, 3);
    place.expect_no_leftovers();
}

#[test]
fn child_repeats_an_upload_that_was_cut() {
    let Some(place) = Place::of("cut") else { return };
    let mut count = 0;
    let _proxy = place.proxy(move |line| {
        count += 1;
        if line.starts_with("PUT ") && line.contains("/data/") && count % 3 == 0 {
            Action::Cut
        } else {
            Action::Forward
        }
    });
    let mut store = Store::open(place.url()).unwrap();
    let large: Vec<f32> = (0..8_000_000).map(|i| i as f32).collect();
    let tensors = vec![NamedTensor::new("a", &large[..])];
    for step in 1..=2 {
        store.save(step, None, &[&tensors], &Metadata::new()).unwrap();
        try_to_save(&mut store, 10 * step).unwrap();
    }
    let fresh = Store::open(place.url()).unwrap();
    assert_eq!(steps(&fresh), [1, 10, 2, 20]);
    assert!(fresh.latest_valid().unwrap().skipped.is_empty());
    place.expect_no_leftovers();
}

#[test]
fn child_reports_a_refused_connection_and_goes_on_later() {
    let Some(place) = Place::of("refused") else { return };
    let start = Instant::now();
    let error = show(Store::open(place.url()).unwrap_err());
    assert!(error.contains("the connection was refused") && error.contains("AWS_ENDPOINT_URL"), "{error}");
    let proxy = place.proxy(|_| Action::Forward);
    let mut store = Store::open(place.url()).unwrap();
    try_to_save(&mut store, 1).unwrap();
    drop(proxy);
    let error = try_to_save(&mut store, 2).unwrap_err();
    assert!(matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::ConnectionRefused));
    show(error);
    let error = show(store.latest_valid().unwrap_err());
    assert!(error.contains("refused"), "an unreachable server is no damaged checkpoint: {error}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let _proxy = place.proxy(|_| Action::Forward);
    assert_eq!(try_to_save(&mut store, 3).unwrap(), 2);
    assert_eq!(steps(&Store::open(place.url()).unwrap()), [1, 3]);
    place.expect_no_leftovers();
}

#[test]
fn child_explains_what_a_server_refuses() {
    let Some(place) = Place::of("refusals") else { return };
    let answer = Arc::new(Mutex::new(Action::Forward));
    let next = answer.clone();
    let _proxy = place.proxy(move |_| next.lock().unwrap().clone());
    let start = Instant::now();
    for (action, parts) in [
        (Action::Answer(403, "InvalidAccessKeyId"), ["403 InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"]),
        (Action::Answer(403, "AccessDenied"), ["403 AccessDenied", "permit"]),
        (Action::Answer(401, "X"), ["401 X", "credentials"]),
        (Action::Answer(400, "ExpiredToken"), ["400 ExpiredToken", "credentials"]),
        (Action::Answer(301, "PermanentRedirect"), ["301 PermanentRedirect", "AWS_REGION"]),
        (Action::Answer(404, "NoSuchBucket"), ["404 NoSuchBucket", "name of the bucket"]),
        (Action::Answer(418, "<Bad>"), ["418", "the server answered"]),
    ] {
        *answer.lock().unwrap() = Action::Forward;
        let mut store = Store::open(place.url()).unwrap();
        store.lock().unwrap();
        *answer.lock().unwrap() = action;
        let errors = [
            show(Store::open(place.url()).unwrap_err()),
            show(try_to_save(&mut store, 1).unwrap_err()),
            show(store.latest_valid().unwrap_err()),
        ];
        for error in errors {
            assert!(error.starts_with("s3://faults/refusals") && !error.contains("Bad"), "{error}");
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
    *answer.lock().unwrap() = Action::Forward;
    let error = show(Store::open("s3://no-such-bucket/x").unwrap_err());
    assert!(error.contains("check the name of the bucket"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn child_lets_one_of_two_writers_win() {
    let Some(place) = Place::of("two") else { return };
    let _proxy = place.proxy(|_| Action::Forward);
    let (mut old, mut new) = (Store::open(place.url()).unwrap(), Store::open(place.url()).unwrap());
    try_to_save(&mut old, 1).unwrap();
    try_to_save(&mut new, 2).unwrap();
    assert!(matches!(try_to_save(&mut old, 3).unwrap_err(), Error::TakenOver { .. }));
    try_to_save(&mut new, 4).unwrap();
    assert_eq!(steps(&new), [1, 2, 4]);
    place.expect_no_leftovers();
}

#[test]
#[cfg(feature = "torch")]
fn child_trains_on_machines_that_keep_nothing() {
    let Some(place) = Place::of("trained") else { return };
    let _proxy = place.proxy(|_| Action::Forward);
    crate::trainer::expect_same_bits(&place.url());
    place.expect_no_leftovers();
}

#[test]
fn child_is_killed_at_random_instants() {
    let Some(place) = Place::of("killed") else { return };
    let _proxy = place.proxy(|_| Action::Forward);
    kill::again_and_again(&place.url(), if is_long() { 40 } else { 10 }, 1500, || place.expect_no_leftovers());
}

/// What a child process is to report.
const CASE: &str = "EARLYSTOP_TEST_CASE";

fn expect_error(expected: &str, within: Duration) {
    let start = Instant::now();
    let error = show(Store::open("s3://bucket/runs/1").unwrap_err());
    assert!(error.starts_with("s3://bucket/runs/1") && error.contains(expected), "{error}");
    assert!(start.elapsed() < within, "{:?}", start.elapsed());
}

/// A server that accepts connections and never answers, or always answers that it is overloaded.
#[test]
fn a_server_that_never_serves_is_given_up() {
    if let Ok(expected) = std::env::var(CASE) {
        expect_error(&expected, Duration::from_secs(150));
        return;
    }
    if !is_long() {
        return;
    }
    let test = "s3::a_server_that_never_serves_is_given_up";
    let (hanging, overloaded) = (free_port(), free_port());
    let _hanging = Proxy::start(hanging, hanging, |_| Action::Delay(Duration::from_secs(600)));
    let _overloaded = Proxy::start(overloaded, overloaded, |_| Action::Answer(503, "SlowDown"));
    let endpoint = |port: u16| format!("http://127.0.0.1:{port}");
    let mut children = [child(test), child(test)];
    children[0].env(CASE, "did not answer in time").env("AWS_ENDPOINT_URL", endpoint(hanging)).env("AWS_TIMEOUT", "2s");
    children[1].env(CASE, "503 SlowDown, and again after").env("AWS_ENDPOINT_URL", endpoint(overloaded));
    std::thread::scope(|scope| children.iter_mut().for_each(|child| drop(scope.spawn(|| passes(child)))));
}

#[test]
fn an_unusable_environment_is_explained_at_once() {
    if let Ok(expected) = std::env::var(CASE) {
        expect_error(&expected, Duration::from_secs(15));
        return;
    }
    let test = "s3::an_unusable_environment_is_explained_at_once";
    let mut without = child(test);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        without.env_remove(name);
    }
    passes(without.env(CASE, "no credentials in the environment: set AWS_ACCESS_KEY_ID"));
    let no_host = "http://no-such-host.invalid";
    passes(child(test).env(CASE, "there is no host of this name").env("AWS_ENDPOINT_URL", no_host));
    let refused = format!("http://127.0.0.1:{}", free_port());
    passes(child(test).env(CASE, "the connection was refused").env("AWS_ENDPOINT_URL", refused));
}

#[test]
fn a_restore_reads_the_local_copy() {
    // What a user does with the path of `latest_valid`, as in the documentation.
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(crate::common::url(dir.path())).unwrap();
    store.save(1, None, &[&state(7.0)], &Metadata::new()).unwrap();
    let mut values = [0.0f32; 3];
    let target = vec![NamedTensor::new("w", &mut values[..])];
    Saver::new().restore(store.latest_valid().unwrap().saved.unwrap().path, &[&target]).unwrap();
    drop(target);
    assert_eq!(values, [7.0; 3]);
}

/// `cargo test --release --test object_store memory -- --ignored --nocapture`, with `EARLYSTOP_TEST_URL`.
#[test]
#[ignore = "measures the memory that a large checkpoint takes"]
fn memory_of_a_gigabyte() {
    let Ok(folder) = std::env::var("EARLYSTOP_TEST_URL") else { return };
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    };
    let values = vec![1.0f32; 250_000_000];
    let mut store = Store::open(folder).unwrap();
    let before = peak();
    let start = Instant::now();
    store.save(1, None, &[&vec![NamedTensor::new("w", &values[..])]], &Metadata::new()).unwrap();
    let saved = (peak(), start.elapsed());
    let start = Instant::now();
    assert!(store.latest_valid().unwrap().saved.is_some());
    let (read, time) = (peak(), start.elapsed());
    println!(
        "1 GB: {before} MB before, {} MB after a save of {:?}, {read} MB after reading in {time:?}",
        saved.0, saved.1
    );
    assert!(read - before < 256);
}
