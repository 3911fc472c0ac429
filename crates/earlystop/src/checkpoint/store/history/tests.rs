use rand::{Rng, SeedableRng};

use super::super::super::faults::Faulty;
use super::super::super::{NamedTensor, Saver};
use super::*;

fn state() -> Vec<NamedTensor<'static>> {
    vec![NamedTensor::new("w", &[1.0f32; 4][..])]
}

fn line(number: u64) -> Vec<u8> {
    format!("{{\"iteration\":{number},\"text\":\"{}\"}}\n", "x".repeat(number as usize % 7)).into_bytes()
}

fn lines(numbers: std::ops::RangeInclusive<u64>) -> Vec<Vec<u8>> {
    numbers.map(line).collect()
}

fn trimmed(numbers: std::ops::RangeInclusive<u64>) -> Vec<Vec<u8>> {
    numbers.map(|number| line(number).trim_ascii_end().to_vec()).collect()
}

fn read(folder: &Path, at: &Position) -> (Vec<Vec<u8>>, Option<String>) {
    let found = read_history(folder, at);
    (found.lines().map(<[u8]>::to_vec).collect(), found.missing.map(|(_, why)| why))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = segments(folder).unwrap().into_iter().map(|(_, path)| path).collect();
    names.sort();
    names.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

fn save(store: &mut Store, step: u64, at: &Position) -> Saved {
    store.save_with_history(step, None, &[&state()], &Metadata::new(), Some(at)).unwrap()
}

#[test]
fn lines_are_appended_and_read_up_to_every_position() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let mut positions = vec![store.begin_history(None, &[]).unwrap()];
    for number in 1..=20 {
        let next = store.append_history(positions.last().unwrap(), &[line(number)]).unwrap().unwrap();
        let saved = save(&mut store, number, &next);
        assert_eq!(Checkpoint::open(&saved.path).unwrap().position().unwrap().as_ref(), Some(&next));
        positions.push(next);
    }
    for (count, position) in positions.iter().enumerate() {
        assert_eq!(read(dir.path(), position), (trimmed(1..=count as u64), None));
        assert_eq!(position.lines, count as u64);
    }
    // Several lines at once lead to the same position as one after another.
    let other = tempfile::tempdir().unwrap();
    let all = Store::open(other.path()).unwrap().begin_history(None, &lines(1..=20)).unwrap();
    assert_eq!(Some(&all), positions.last());
    assert_eq!(names(dir.path()), ["history-0001.jsonl"]);
}

#[test]
fn a_changed_byte_anywhere_is_found_and_what_comes_after_the_position_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let at = store.begin_history(None, &lines(1..=5)).unwrap();
    let path = dir.path().join("history-0001.jsonl");
    let bytes = fs::read(&path).unwrap();
    for index in 0..bytes.len() {
        for change in [1, 0x80, bytes[index] ^ b'\n', bytes[index]] {
            let mut changed = bytes.clone();
            changed[index] ^= change;
            if changed == bytes {
                continue;
            }
            fs::write(&path, &changed).unwrap();
            let (found, missing) = read(dir.path(), &at);
            assert!(found.is_empty());
            let why = missing.expect("every change is found");
            assert!(why.contains("history-0001.jsonl: "), "{why}");
        }
    }
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        let (found, missing) = read(dir.path(), &at);
        assert!(found.is_empty() && missing.unwrap().contains("cut short"));
    }
    fs::write(&path, [&bytes[..], b"{\"torn"].concat()).unwrap();
    assert_eq!(read(dir.path(), &at), (trimmed(1..=5), None));
}

#[test]
fn positions_and_segments_that_nobody_wrote_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let mut store = Store::open(&folder).unwrap();
    let at = store.begin_history(None, &lines(1..=5)).unwrap();
    fs::copy(folder.join(&at.file), dir.path().join(&at.file)).unwrap();
    for file in ["../history-0001.jsonl", "/etc/passwd", "history-.jsonl", "history-1x.jsonl", "", "history-0002.jsonl"]
    {
        let (found, missing) = read(&folder, &Position { file: file.to_owned(), ..at.clone() });
        assert!(found.is_empty() && missing.is_some(), "{file}");
    }
    for wrong in [
        Position { bytes: at.bytes - 1, ..at.clone() },
        Position { bytes: u64::MAX, ..at.clone() },
        Position { bytes: 0, ..at.clone() },
        Position { lines: 4, ..at.clone() },
        Position { lines: u64::MAX, ..at.clone() },
        Position { sha256: String::new(), ..at.clone() },
    ] {
        let (found, missing) = read(&folder, &wrong);
        assert!(found.is_empty() && missing.is_some(), "{wrong:?}");
    }
    // A head of another version, and one that names itself.
    let of_text = |head: &str| {
        fs::write(folder.join("history-0001.jsonl"), format!("{head}\n")).unwrap();
        let bytes = head.len() as u64 + 1;
        let sha256 = hex_sha256(format!("{head}\n").as_bytes());
        let (_, missing) = read(&folder, &Position { bytes, lines: 0, sha256, ..at.clone() });
        missing.unwrap()
    };
    assert!(of_text(r#"{"history":2,"parent":null}"#).contains("expected format 1, found 2"));
    let parent = serde_json::to_string(&Position { lines: 0, ..at.clone() }).unwrap();
    assert!(of_text(&format!(r#"{{"history":1,"parent":{parent}}}"#)).contains("history-0001.jsonl: "));
}

#[test]
fn lines_that_no_checkpoint_needs_are_cut_off() {
    for tail in [&b"{\"torn"[..], b"{\"iteration\":3}\n", b"{\"iteration\":3}\n{\"iteration\":4}\n{"] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let at = store.begin_history(None, &lines(1..=2)).unwrap();
        save(&mut store, 2, &at);
        drop(store);
        let path = dir.path().join("history-0001.jsonl");
        fs::write(&path, [&fs::read(&path).unwrap(), tail].concat()).unwrap();

        let mut store = Store::open(dir.path()).unwrap();
        let at = store.append_history(&at, &lines(3..=3)).unwrap().unwrap();
        assert_eq!(read(dir.path(), &at), (trimmed(1..=3), None));
        assert_eq!(fs::metadata(&path).unwrap().len(), at.bytes);
        assert_eq!(names(dir.path()), ["history-0001.jsonl"]);
    }
}

#[test]
fn lines_that_a_checkpoint_needs_or_may_need_stay() {
    for is_damaged in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let early = store.begin_history(None, &lines(1..=2)).unwrap();
        save(&mut store, 2, &early);
        let late = store.append_history(&early, &lines(3..=4)).unwrap().unwrap();
        let saved = save(&mut store, 4, &late);
        if is_damaged {
            fs::write(&saved.path, "damaged").unwrap();
        }
        let other = store.append_history(&early, &lines(30..=31)).unwrap().unwrap();
        assert_eq!(names(dir.path()), ["history-0001.jsonl", "history-0002.jsonl"]);
        assert_eq!(read(dir.path(), &late), (trimmed(1..=4), None));
        assert_eq!(read(dir.path(), &other), ([trimmed(1..=2), trimmed(30..=31)].concat(), None));
        assert_eq!(other.lines, 4);

        // Only what is missing is missing.
        fs::remove_file(dir.path().join("history-0001.jsonl")).unwrap();
        let (found, missing) = read(dir.path(), &other);
        assert_eq!(found, trimmed(30..=31));
        assert!(missing.unwrap().contains("history-0001.jsonl: cannot read"));
        assert_eq!(read_history(dir.path(), &other).missing.unwrap().0, early);
    }
}

#[test]
fn a_segment_that_is_gone_or_too_short_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let at = store.begin_history(None, &lines(1..=2)).unwrap();
    let path = dir.path().join("history-0001.jsonl");
    fs::write(&path, "short").unwrap();
    assert_eq!(store.append_history(&at, &lines(3..=3)).unwrap(), None);
    fs::remove_file(&path).unwrap();
    assert_eq!(store.append_history(&at, &lines(3..=3)).unwrap(), None);
}

#[test]
fn an_archive_has_a_history_of_its_own_and_clearing_deletes_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    let early = store.begin_history(None, &lines(1..=2)).unwrap();
    let saved = save(&mut store, 2, &early);
    let late = store.append_history(&early, &lines(3..=4)).unwrap().unwrap();
    save(&mut store, 4, &late);
    let archive = store.archive_after(&saved).unwrap().unwrap();
    let other = store.begin_history(Some(&early), &lines(30..=30)).unwrap();
    assert_eq!(read(&archive, &late), (trimmed(1..=4), None));
    assert_eq!(read(dir.path(), &other).0.len(), 3);

    store.clear().unwrap();
    assert_eq!(names(dir.path()), [""; 0]);
    assert_eq!(read(&archive, &late), (trimmed(1..=4), None));
}

#[test]
fn an_append_that_fails_at_any_step_loses_no_line() {
    for kind in [ErrorKind::StorageFull, ErrorKind::FileTooLarge, ErrorKind::PermissionDenied] {
        for fails_at in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let at = Store::open(dir.path()).unwrap().begin_history(None, &lines(1..=2)).unwrap();
            let faulty = Saver::with_files(Faulty::new(fails_at, kind, 16));
            let mut store = Store::open(dir.path()).unwrap().with_saver(faulty);
            let appended = store.append_history(&at, &lines(3..=9));
            assert_eq!(read(dir.path(), &at), (trimmed(1..=2), None));
            match &appended {
                // A segment that takes no more lines is continued in another one.
                Ok(end) => assert_eq!(read(dir.path(), end.as_ref().unwrap()), (trimmed(1..=9), None)),
                Err(error) => assert!(matches!(error, Error::Io { .. }), "{error}"),
            }
            if appended.is_err() {
                // The disk works again.
                let end = store.append_history(&at, &lines(3..=9)).unwrap().unwrap();
                assert_eq!(read(dir.path(), &end), (trimmed(1..=9), None));
            } else if fails_at > 40 {
                break;
            }
        }
    }
}

/// Runs that are cut anywhere, go back anywhere, and lose files: whatever a checkpoint records is found or named as missing.
#[test]
fn after_any_crash_a_checkpoint_and_its_history_agree() {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(12);
    for _ in 0..50 {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let mut known: Vec<(Position, Vec<Vec<u8>>)> = Vec::new();
        let (mut at, mut run) = (store.begin_history(None, &[]).unwrap(), Vec::new());
        let mut number = 0;
        for _ in 0..30 {
            let new: Vec<_> = (0..random.gen_range(1..4)).map(|_| line(number + random.gen_range(0..9))).collect();
            at = store.append_history(&at, &new).unwrap().unwrap();
            run.extend(new.iter().map(|line| line.trim_ascii_end().to_vec()));
            number += 1;
            match random.gen_range(0..4) {
                // The kill comes before the checkpoint, perhaps within the last lines.
                0 if !known.is_empty() => {
                    let path = dir.path().join(&at.file);
                    let bytes = fs::read(&path).unwrap();
                    let needed = known.iter().filter(|(it, _)| it.file == at.file).map(|(it, _)| it.bytes).max();
                    let length = random.gen_range(needed.unwrap_or(0) as usize..=bytes.len());
                    fs::write(&path, &bytes[..length]).unwrap();
                    (at, run) = known[random.gen_range(0..known.len())].clone();
                    store = Store::open(dir.path()).unwrap();
                }
                // Goes back.
                1 if !known.is_empty() => (at, run) = known[random.gen_range(0..known.len())].clone(),
                _ => {
                    save(&mut store, number, &at);
                    known.push((at.clone(), run.clone()));
                }
            }
            for (position, lines) in &known {
                assert_eq!(read(dir.path(), position), (lines.clone(), None));
            }
        }
    }
}
