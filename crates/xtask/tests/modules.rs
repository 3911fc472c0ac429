//! The files of one folder use each other in one direction: no circles of imports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use regex_lite::Regex;

/// The names from the crate's root down: `["early_stopping", "rule"]`.
type Module = Vec<String>;

/// The modules of a crate, except those that are only compiled for tests.
struct Modules {
    sources: BTreeMap<Module, String>,
    /// Where a name comes from that a module passes on by `pub use`.
    passed_on: BTreeMap<(Module, String), Module>,
}

impl Modules {
    fn read(src: &Path) -> Self {
        let mut sources = BTreeMap::new();
        collect(src, &[], &mut sources);
        let test_only = Regex::new(r"#\[cfg\((?:all\()?test\b[^\]]*\]\s*(?:pub\(\w+\) )?mod (\w+);").unwrap();
        let mut left_out = Vec::new();
        for (module, source) in &sources {
            left_out.extend(test_only.captures_iter(source).map(|found| child(module, &found[1])));
        }
        sources.retain(|module, _| !left_out.iter().any(|out| module.starts_with(out)));
        sources.values_mut().for_each(|source| *source = without_tests_and_words(source));
        let mut modules = Self { sources, passed_on: BTreeMap::new() };
        for (module, source) in &modules.sources {
            for (is_public, path) in uses(source) {
                if let (true, Some(path)) = (is_public, modules.absolute(module, &path)) {
                    modules.passed_on.insert((module.clone(), path.last().cloned().unwrap_or_default()), path);
                }
            }
        }
        modules
    }

    /// A path from the crate's root; nothing for the path of another crate.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Module> {
        let mut base = module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (base, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|word| word == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            first if self.sources.contains_key(&child(module, first)) => {}
            _ => return None,
        }
        Some(base.into_iter().chain(rest.iter().cloned()).collect())
    }

    /// The module in which the item of a path is defined.
    fn owner(&self, path: &[String]) -> Module {
        let length = (0..=path.len()).rev().find(|&length| self.sources.contains_key(&path[..length]));
        let (module, rest) = path.split_at(length.unwrap_or(0));
        let source = rest.first().and_then(|name| self.passed_on.get(&(module.to_vec(), name.clone())));
        match source {
            Some(source) => self.owner(&source.iter().chain(&rest[1..]).cloned().collect::<Vec<_>>()),
            None => module.to_vec(),
        }
    }

    /// For each folder, which of its files and folders uses which other.
    fn edges(&self) -> BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> {
        let mut edges = BTreeMap::<_, BTreeMap<_, BTreeSet<_>>>::new();
        for (module, source) in &self.sources {
            for (_, path) in uses(source) {
                let Some(path) = self.absolute(module, &path) else { continue };
                let owner = self.owner(&path);
                let common = module.iter().zip(&owner).take_while(|(a, b)| a == b).count();
                // A file may use what lies in its folder's own, and the folder's own what lies in its files.
                if let (Some(from), Some(to)) = (module.get(common), owner.get(common)) {
                    let folder = edges.entry(module[..common].to_vec()).or_default();
                    folder.entry(from.clone()).or_default().insert(to.clone());
                }
            }
        }
        edges
    }
}

fn child(module: &Module, name: &str) -> Module {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

fn collect(folder: &Path, module: &[String], sources: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let here = child(&module.to_vec(), &name);
        if path.is_dir() {
            collect(&path, &here, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let is_own = ["mod", "lib", "main"].contains(&name.as_str());
            sources.insert(if is_own { module.to_vec() } else { here }, fs::read_to_string(&path).unwrap());
        }
    }
}

/// Leaves out the tests at a file's end, comments and strings.
fn without_tests_and_words(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let source = Regex::new(r"//[^\n]*").unwrap().replace_all(source, "");
    Regex::new(r#""(?:\\.|[^"\\])*""#).unwrap().replace_all(&source, "").into_owned()
}

/// The paths of a source: those of `use`, and those in between; with whether they are passed on.
fn uses(source: &str) -> Vec<(bool, Vec<String>)> {
    let statement = Regex::new(r"(pub(?:\([\w ]+\))?\s+)?\buse\s+([^;]+);").unwrap();
    let mut found = Vec::new();
    for used in statement.captures_iter(source) {
        let tree = Regex::new(r"\s+as\s+\w+|\s").unwrap().replace_all(&used[2], "").into_owned();
        found.extend(expand("", &tree).iter().map(|path| (used.get(1).is_some(), words(path))));
    }
    let inline = Regex::new(r"\b(?:crate|super|self)(?:::\w+)+").unwrap();
    let rest = statement.replace_all(source, "");
    found.extend(inline.find_iter(&rest).map(|path| (false, words(path.as_str()))));
    found
}

fn words(path: &str) -> Vec<String> {
    path.split("::")
        .filter(|word| !["self", "*"].contains(word) || path.starts_with(*word))
        .map(str::to_owned)
        .collect()
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn expand(before: &str, tree: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let (mut depth, mut begin) = (0, 0);
    for (at, character) in tree.char_indices().chain([(tree.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = &tree[begin..at];
                match part.split_once('{') {
                    Some((head, inner)) => {
                        paths.extend(expand(&format!("{before}{head}"), inner.strip_suffix('}').unwrap_or(inner)));
                    }
                    None if part.is_empty() => {}
                    None => paths.push(format!("{before}{part}")),
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
    paths
}

/// A way from a name back to itself.
fn circle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn search(edges: &BTreeMap<String, BTreeSet<String>>, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        let last = way.last().cloned().unwrap_or_default();
        for next in edges.get(&last).into_iter().flatten() {
            let is_closed = way.contains(next);
            way.push(next.clone());
            if is_closed || (!done.contains(next) && search(edges, way, done)) {
                return true;
            }
            way.pop();
        }
        done.insert(last);
        false
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|name| {
        let mut way = vec![name.clone()];
        search(edges, &mut way, &mut done).then_some(way)
    })
}

#[test]
fn the_files_of_a_folder_do_not_use_each_other_in_circles() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut circles = Vec::new();
    for name in ["bench", "cli", "earlystop", "kernel", "xtask"] {
        let src = crates.join(name).join("src");
        if !src.exists() {
            continue;
        }
        let edges = Modules::read(&src).edges();
        assert!(edges.values().flatten().count() > 3, "{name}: no imports were found");
        for (folder, edges) in edges {
            circles.extend(circle(&edges).map(|way| format!("{name}/src/{}: {}", folder.join("/"), way.join(" -> "))));
        }
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn circles_are_found_through_lists_paths_and_what_a_folder_passes_on() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "mod a;\nmod b;\nmod c;\npub use c::{\n    Thing,\n    Other as Alias,\n};\n");
    write("a.rs", "use std::fmt;\nuse super::b::{self, Inner};\n");
    write("b.rs", "fn f() { crate::Thing::new() }\n");
    write("c/mod.rs", "mod d;\npub use d::Thing;\n");
    write("c/d.rs", "// use crate::a::comment;\nconst TEXT: &str = \"crate::a\";\n");
    assert_eq!(circle(&Modules::read(folder.path()).edges()[&Vec::new()]), None);
    write("c/d.rs", "use crate::{a::Thing};\n");
    let way = circle(&Modules::read(folder.path()).edges()[&Vec::new()]).unwrap();
    assert_eq!(way, ["a", "b", "c", "a"]);
    write("c/d.rs", "#[cfg(test)]\nmod tests {\n    use crate::a::Thing;\n}\n");
    assert_eq!(circle(&Modules::read(folder.path()).edges()[&Vec::new()]), None);
}
