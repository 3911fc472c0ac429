//! Identifies processes, also across machines and containers that share a folder.

use std::fs;

use serde::{Deserialize, Serialize};

/// Identifies a process. Process ids alone do not: they are reused, and two containers may use the same ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Start time in clock ticks since boot, which distinguishes a process from an earlier one with the same id.
    #[serde(default)]
    start: Option<u64>,
    /// Identifies the running system, that is, the machine and its last boot.
    #[serde(default)]
    boot: Option<String>,
    /// Identifies the container, or more exactly its numbering of processes.
    #[serde(default)]
    namespace: Option<String>,
    /// The host name, for messages only.
    #[serde(default)]
    pub(super) host: Option<String>,
}

impl Process {
    /// Describes the current process. Without `/proc`, everything but the id is `None`.
    pub(super) fn current() -> Self {
        Self::of(std::process::id())
    }

    /// Describes a process of this machine and container.
    pub(super) fn of(pid: u32) -> Self {
        let line = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        Process {
            pid,
            start: start_time(pid),
            boot: line("/proc/sys/kernel/random/boot_id"),
            namespace: fs::read_link("/proc/self/ns/pid").ok().map(|link| link.to_string_lossy().into_owned()),
            host: line("/proc/sys/kernel/hostname"),
        }
    }

    /// Returns whether both are one process.
    pub(super) fn is(&self, other: &Process) -> bool {
        self.pid == other.pid && self.start == other.start && self.shares_ids_with(other)
    }

    /// Returns whether process ids mean the same for both.
    pub(super) fn shares_ids_with(&self, other: &Process) -> bool {
        self.boot == other.boot && self.namespace == other.namespace
    }

    /// Returns whether this process is known to be running, as `observer` sees it. `false` if that cannot be known.
    pub(super) fn is_running(&self, observer: &Process) -> bool {
        self.shares_ids_with(observer) && self.start.is_some() && start_time(self.pid) == self.start
    }
}

/// Field 22 of `/proc/PID/stat`. The second field, the name, may itself contain spaces and parentheses.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_no_other() {
        let current = Process::current();
        assert!(current.is(&Process::current()));
        let json = serde_json::to_string(&current).unwrap();
        assert!(serde_json::from_str::<Process>(&json).unwrap().is(&current));
        assert!(current.is(&Process { host: Some("a new name".to_owned()), ..current.clone() }));
        for other in [
            Process { start: current.start.map(|start| start + 1), ..current.clone() },
            Process { namespace: Some("pid:[1]".to_owned()), ..current.clone() },
            Process { boot: Some("another machine".to_owned()), ..current.clone() },
        ] {
            assert!(!other.is(&current) && !other.is_running(&current), "{other:?}");
        }
        if cfg!(target_os = "linux") {
            assert!(current.is_running(&current));
            assert!(current.boot.is_some() && current.namespace.is_some() && current.host.is_some(), "{current:?}");
        }
    }
}
