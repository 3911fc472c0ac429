//! The Python side's requirements, as `environment.yml` lists them, and the benchmark's `requirements.txt`.

use std::path::Path;

use crate::{Error, Result};

/// What such a file asks of a Python environment.
#[derive(Debug, PartialEq)]
pub(super) struct Requirements {
    /// The oldest Python that will do: major and minor version.
    pub(super) python: (u32, u32),
    /// Names and versions of the packages.
    pub(super) packages: Vec<(String, String)>,
}

impl Requirements {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::io("read", path, &source))?;
        parse(&text).map_err(|problem| {
            Error::new(format!("read the Python requirements in {}", path.display())).got(problem).hint(
                "This reader knows `- python>=MAJOR.MINOR`, and `- name==version` below `- pip:`. \
                 Keep to these, or teach it more in crates/xtask/src/setup/requirements.rs.",
            )
        })
    }

    /// Reads a `requirements.txt` of pins; it says nothing of Python, so the oldest will do that we support.
    pub(super) fn read_pins(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::io("read", path, &source))?;
        let packages = parse_pins(&text).map_err(|problem| {
            Error::new(format!("read the Python requirements in {}", path.display())).got(problem)
        })?;
        Ok(Self { python: (3, 10), packages })
    }

    /// The packages as pip takes them: `name==version`.
    pub(super) fn pins(&self) -> impl Iterator<Item = String> {
        self.packages.iter().map(|(name, version)| format!("{name}=={version}"))
    }
}

/// Reads the subset of YAML that our file is written in: one list, and one list inside it, indented further.
fn parse(text: &str) -> Result<Requirements, String> {
    let mut python = None;
    let mut packages = Vec::new();
    let mut pip_indent = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim_end();
        let Some(item) = line.trim_start().strip_prefix("- ") else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        if pip_indent.is_some_and(|pip| indent > pip) {
            packages.push(parse_pin(number, item)?);
        } else if item == "pip:" {
            pip_indent = Some(indent);
        } else if let Some(version) = item.strip_prefix("python>=") {
            let version = parse_version(version);
            python = Some(version.ok_or_else(|| format!("line {}: expected python>=MAJOR.MINOR: {item}", number + 1))?);
        }
    }
    let python = python.ok_or("there is no line `- python>=MAJOR.MINOR`")?;
    if packages.is_empty() {
        return Err("there is no package below `- pip:`".to_owned());
    }
    Ok(Requirements { python, packages })
}

/// Reads lines of name==version, with comments.
fn parse_pins(text: &str) -> Result<Vec<(String, String)>, String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).enumerate();
    lines.filter(|(_, line)| !line.is_empty()).map(|(number, line)| parse_pin(number, line)).collect()
}

/// Reads name==version on the line after `number` others.
fn parse_pin(number: usize, item: &str) -> Result<(String, String), String> {
    let pin = item.split_once("==").filter(|(name, version)| !name.is_empty() && !version.is_empty());
    let (name, version) = pin.ok_or_else(|| format!("line {}: expected name==version: {item}", number + 1))?;
    Ok((name.to_owned(), version.to_owned()))
}

/// Major and minor of "3.10" and "3.10.4".
pub(super) fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projects_own_file_is_understood() {
        let requirements = parse(include_str!("../../../../environment.yml")).unwrap();
        assert_eq!(requirements.python, (3, 10));
        let names: Vec<_> = requirements.packages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["jupyterlab", "jupyter_client", "nbconvert", "numpy", "safetensors"]);
    }

    #[test]
    fn comments_and_conda_packages_are_passed_over() {
        let text = "# - pip:\nname: x\ndependencies:\n  - python>=3.10 # why\n  - rust\n  - pip:\n    - a==1.0\n";
        let expected = Requirements { python: (3, 10), packages: vec![("a".into(), "1.0".into())] };
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn the_benchmarks_own_file_is_understood() {
        let pins = parse_pins(include_str!("../../../bench/requirements.txt")).unwrap();
        let names: Vec<_> = pins.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["keras", "numpy", "safetensors", "tensorflow-cpu", "torch"]);
        assert_eq!(parse_pins("# all\n\nkeras>=3\n").unwrap_err(), "line 3: expected name==version: keras>=3");
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        assert_eq!(parse("- python>=three\n").unwrap_err(), "line 1: expected python>=MAJOR.MINOR: python>=three");
        let unpinned = "- python>=3.10\n- pip:\n    - a>=1\n";
        assert_eq!(parse(unpinned).unwrap_err(), "line 3: expected name==version: a>=1");
        assert!(parse("- python>=3.10\n").unwrap_err().contains("no package"));
        assert!(parse("- pip:\n  - a==1\n").unwrap_err().contains("python>="));
    }
}
