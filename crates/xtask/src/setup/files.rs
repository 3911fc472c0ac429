//! What a kernel's answer depends on: which files there are, where, and whether they are those of the last answer.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Environment, KERNEL_NAME};
use crate::workspace::Workspace;

/// Describes the files by their places, lengths and times: a changed, moved, copied or removed one changes the text.
pub(super) fn identity(workspace: &Workspace, environment: &Environment) -> String {
    let kernel = workspace.kernel();
    let prefix = environment.python.ancestors().nth(2).unwrap_or(Path::new("/")); // of <prefix>/bin/python
    let spec = prefix.join("share/jupyter/kernels").join(KERNEL_NAME);
    let mut text = String::new();
    for path in [&workspace.root, &environment.libtorch, &environment.python, &kernel.join("build")] {
        let _ = writeln!(text, "{} leads to {:?}", path.display(), path.canonicalize().ok());
    }
    for tree in [kernel.join("bin"), kernel.join("config"), kernel.join("build/warm"), spec] {
        describe(&mut text, &tree);
    }
    describe(&mut text, &environment.libtorch.join("lib"));
    // Someone's own environment may have a hundred thousand files, which are not ours to watch.
    if prefix == workspace.venv() {
        describe(&mut text, &prefix.join("bin"));
        describe(&mut text, &prefix.join("lib"));
    }
    text
}

/// Adds a line about a folder: how many files, how long in all, and the newest.
fn describe(text: &mut String, folder: &Path) {
    let mut sum = Sum::default();
    sum.add(folder);
    let _ = writeln!(text, "{}: {sum:?}", folder.display());
}

#[derive(Debug, Default)]
struct Sum {
    files: u64,
    bytes: u64,
    /// Seconds and nanoseconds.
    newest: (i64, i64),
}

impl Sum {
    fn add(&mut self, folder: &Path) {
        // What Python compiles for itself comes and goes.
        if folder.ends_with("__pycache__") {
            return;
        }
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                self.add(&entry.path());
            } else {
                self.files += 1;
                self.bytes += metadata.len();
                self.newest = self.newest.max((metadata.mtime(), metadata.mtime_nsec()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(folder: &Path) -> String {
        let mut text = String::new();
        describe(&mut text, folder);
        text
    }

    #[test]
    fn a_changed_a_removed_and_a_new_file_show_wherever_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), "1").unwrap();
        let mut states = vec![described(folder.path())];
        std::fs::write(deep.join("file"), "12").unwrap();
        states.push(described(folder.path()));
        std::fs::write(folder.path().join("new"), "").unwrap();
        states.push(described(folder.path()));
        std::fs::remove_file(deep.join("file")).unwrap();
        states.push(described(folder.path()));
        assert!(states.windows(2).all(|pair| pair[0] != pair[1]), "{states:#?}");
        std::fs::create_dir(deep.join("__pycache__")).unwrap();
        std::fs::write(deep.join("__pycache__/file.pyc"), "compiled").unwrap();
        assert_eq!(states.last(), Some(&described(folder.path())));
    }

    #[test]
    fn the_same_files_in_another_folder_are_others() {
        let folder = tempfile::tempdir().unwrap();
        let identity_in = |name: &str| {
            let root = folder.path().join(name);
            let workspace = Workspace { root: root.clone() };
            let python = root.join(".venv/bin/python");
            let libtorch = workspace.libtorch_link();
            identity(&workspace, &Environment { root, python, libtorch, variables: Vec::new() })
        };
        assert_eq!(identity_in("one"), identity_in("one"));
        assert_ne!(identity_in("one"), identity_in("two"));
    }
}
