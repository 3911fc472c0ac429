//! Kills processes: the compilers of an interrupted cell, and those that would outlive the kernel.

use std::process::Command;

/// The name of the kernel's program, which is also the relay's. Linux truncates names to 15 bytes.
const OWN: &str = "earlystop-kerne";

struct Process {
    id: u32,
    parent: u32,
    name: String,
}

/// Kills the compilers that evcxr started, with all their descendants.
pub(crate) fn end_compilers() {
    let all = list();
    let mut ending: Vec<u32> = all
        .iter()
        .filter(|process| process.parent == std::process::id() && !process.name.contains(OWN))
        .map(|process| process.id)
        .collect();
    let mut next = 0;
    while let Some(&parent) = ending.get(next) {
        ending.extend(all.iter().filter(|process| process.parent == parent).map(|process| process.id));
        next += 1;
    }
    ending.into_iter().for_each(|id| signal(id.cast_signed(), libc::SIGKILL));
}

/// Kills a cell process.
pub(crate) fn end(id: u32) {
    signal(id.cast_signed(), libc::SIGKILL);
}

/// Sends SIGTERM to all other processes of this process group, if this process leads it, as it does when Jupyter starts it.
pub(crate) fn end_group() {
    let own = std::process::id().cast_signed();
    // SAFETY: the call takes no pointers and cannot fail.
    if unsafe { libc::getpgrp() } != own {
        return;
    }
    // SAFETY: SIG_IGN is a valid disposition, and the program does not handle the signal any more.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    signal(0, libc::SIGTERM);
}

fn signal(id: i32, signal: i32) {
    // SAFETY: the call takes no pointers. The target is a descendant of the kernel or its process group.
    unsafe { libc::kill(id, signal) };
}

fn list() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc/self").and_then(|_| std::fs::read_dir("/proc")) else {
        return list_by_ps();
    };
    let stats = entries.flatten().filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter_map(|stat| parse_stat(&stat)).collect()
}

/// `123 (name of it) S 1 …`
fn parse_stat(stat: &str) -> Option<Process> {
    let (id, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let parent = rest.split(' ').nth(1)?;
    Some(Process { id: id.parse().ok()?, parent: parent.parse().ok()?, name: name.to_owned() })
}

/// Lists processes on systems without /proc.
fn list_by_ps() -> Vec<Process> {
    let Ok(output) = Command::new("ps").args(["-A", "-o", "pid=,ppid=,comm="]).output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let (id, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Process { id, parent, name: words.collect::<Vec<_>>().join(" ") })
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_process_with_spaces_and_brackets_in_its_name_is_understood() {
        let process = parse_stat("12 (a (b) c) S 7 12 12 0 -1").unwrap();
        assert_eq!((process.id, process.parent, process.name.as_str()), (12, 7, "a (b) c"));
        assert!(parse_stat("nothing").is_none());
    }

    #[test]
    fn children_and_their_children_are_ended() {
        let mut shell = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let child = || list().into_iter().find(|process| process.parent == shell.id()).map(|process| process.id);
        let sleep = (0..100)
            .find_map(|_| {
                child().or_else(|| {
                    std::thread::sleep(Duration::from_millis(20));
                    None
                })
            })
            .unwrap();
        end_compilers();
        assert!(!shell.wait().unwrap().success());
        let lives =
            || list().iter().any(|process| process.id == sleep && process.name == "sleep" && process.parent != 1);
        assert!((0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            !lives()
        }));
    }
}
