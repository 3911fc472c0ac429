//! What the measurements were made on.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;

use serde::Serialize;

/// Instruction sets that decide how fast networks compute, by the names that Linux gives them.
const INSTRUCTION_SETS: [&str; 10] =
    ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "bf16", "i8mm"];

/// The machine, as the report names it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) instruction_sets: Vec<&'static str>,
    /// How many processes wanted to run before the measurements, on average over a minute.
    pub(crate) load_before: Option<f64>,
    /// What `rustc --version` says.
    pub(crate) rust: Option<String>,
}

/// Writes the processor, the load average and the compiler.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, instruction_sets, load_before, rust } = self;
        write!(f, "{processor}, {cores} cores ({})", instruction_sets.join(", "))?;
        if let Some(load) = load_before {
            write!(f, ", load average before it {load:.2}")?;
        }
        rust.iter().try_for_each(|version| write!(f, ", Rust {version}"))
    }
}

/// Describes this machine, before anything is measured.
pub(crate) fn describe() -> Machine {
    let fields = fields(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
    let flags = fields.get("flags").or(fields.get("Features")).map_or("", String::as_str);
    Machine {
        processor: fields.get("model name").cloned().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        instruction_sets: known_instruction_sets(flags),
        load_before: load_average(),
        rust: rust_version(),
    }
}

/// Returns a process's memory in bytes, where the system reports it: `VmRSS` is what it has now, `VmHWM` its peak.
pub(crate) fn memory(process: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Gives the load average of the last minute, where the system tells it.
fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

fn rust_version() -> Option<String> {
    let output = Command::new("rustc").arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()?.split_whitespace().nth(1).map(str::to_owned)
}

/// Reads the lines `name : value`, of which the first core's come first.
fn fields(cpuinfo: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    for (name, value) in cpuinfo.lines().filter_map(|line| line.split_once(':')) {
        fields.entry(name.trim().to_owned()).or_insert_with(|| value.trim().to_owned());
    }
    fields
}

fn known_instruction_sets(flags: &str) -> Vec<&'static str> {
    let flags: Vec<_> = flags.split_whitespace().collect();
    INSTRUCTION_SETS.into_iter().filter(|name| flags.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cores_fields_are_read() {
        let fields = fields("processor\t: 0\nmodel name\t: Some CPU: fast\n\nprocessor\t: 1\nmodel name\t: Other\n");
        assert_eq!((fields["processor"].as_str(), fields["model name"].as_str()), ("0", "Some CPU: fast"));
    }

    #[test]
    fn instruction_sets_are_whole_words() {
        assert_eq!(known_instruction_sets("fpu avx2 avx512f_not amx_bf16"), ["avx2", "amx_bf16"]);
    }
}
