//! `cargo xtask docs`: builds the API documentation, with warnings as errors. It needs no set-up: libtorch is not linked.

use crate::workspace::Workspace;
use crate::{Result, command};

/// All features of the library. They are also in `package.metadata.docs.rs`.
pub(crate) const FEATURES: &str = "--features=doc-only,logging,object-store";

pub(crate) const TRIED: &str = "build the documentation without warnings";
pub(crate) const DENY_WARNINGS: &str = "--config=build.rustdocflags=['--deny=warnings']";

pub(crate) fn run(mut args: lexopt::Parser) -> Result<()> {
    if let Some(arg) = args.next()? {
        return Err(arg.unexpected().into());
    }
    let workspace = Workspace::locate();
    library(&workspace)?;
    // Elsewhere, since its program has the name of the library, and so its pages too.
    let mut command = command::cargo(&workspace);
    command.args(["doc", "--package=earlystop-cli", "--bin=earlystop", "--no-deps", "--locked", DENY_WARNINGS]);
    command.arg("--target-dir").arg(workspace.root.join("target/docs-cli"));
    command::run_shown(TRIED, &mut command)
}

/// Builds the library's pages. Cargo prints where they are.
pub(crate) fn library(workspace: &Workspace) -> Result<()> {
    let mut library = command::cargo(workspace);
    library.args(["doc", "--package=earlystop", "--no-deps", "--locked", FEATURES, DENY_WARNINGS]);
    command::run_shown(TRIED, &mut library)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use regex_lite::Regex;

    /// docs.rs builds what `cargo xtask docs` has checked.
    #[test]
    fn docs_rs_builds_with_the_same_features() {
        let (_, features) = super::FEATURES.split_once('=').unwrap();
        let quoted = features.split(',').map(|feature| format!("\"{feature}\"")).collect::<Vec<_>>().join(", ");
        let manifest = include_str!("../../earlystop/Cargo.toml");
        assert!(manifest.contains(&format!("[package.metadata.docs.rs]\nfeatures = [{quoted}]\n")), "{quoted}");
    }

    /// The front page of the API documentation is the README, with links of its own.
    #[test]
    fn each_link_of_the_librarys_readme_leads_to_an_item() {
        let definition = Regex::new(r"(?m)^(\[`\w+`\]): ").unwrap();
        let defined = |text| definition.captures_iter(text).map(|found| found[1].to_owned()).collect::<Vec<_>>();
        let readme = defined(include_str!("../../earlystop/README.md"));
        assert!(readme.len() > 10, "{readme:?}");
        assert_eq!(readme, defined(include_str!("../../earlystop/src/lib.rs")));
    }

    #[test]
    fn links_between_the_pages_lead_to_files() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut pages = Vec::new();
        for folder in [".", "docs", "crates/earlystop", "crates/cli"] {
            let files = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
            pages.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
        }
        assert!(pages.len() > 8, "{pages:?}");
        let link = Regex::new(r"(?m)\]\(([^)#\s]+)|^\[[^\]]+\]: ([^#\s]+)").unwrap();
        for page in pages {
            let text = std::fs::read_to_string(&page).unwrap();
            for found in link.captures_iter(&text) {
                let target = found.get(1).or(found.get(2)).unwrap().as_str();
                let is_there = target.contains("://") || page.parent().unwrap().join(target).exists();
                assert!(is_there, "{}: no file {target}", page.display());
            }
        }
    }
}
