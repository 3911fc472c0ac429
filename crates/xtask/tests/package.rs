//! The packages of the library and the command, unpacked outside the workspace. Long, since it compiles both without libtorch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs cargo as somebody without libtorch does, except that the dependencies compiled for the clone are used again.
fn cargo(folder: &Path, line: &str) -> String {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let is_ours = |name: &str| name.starts_with("CARGO_") && name != "CARGO_HOME" || name.starts_with("EARLYSTOP_");
        if name.to_str().is_some_and(|name| is_ours(name) || ["LD_LIBRARY_PATH", "OUT_DIR"].contains(&name)) {
            cargo.env_remove(name);
        }
    }
    let output = cargo.args(line.split(' ')).current_dir(folder).env("CARGO_TARGET_DIR", target()).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "cargo {line}\n{stdout}{stderr}");
    stdout
}

fn target() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

/// Unpacks a package and makes it a workspace of its own, with the profiles of the clone: dependencies that were compiled with them
/// are used again. The package itself is not optimized, which would take longer than its tests.
fn unpack(package: &str) -> PathBuf {
    // Always the same folder: cargo then replaces what it compiled for the last test.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(package);
    let _ = fs::remove_dir_all(&folder);
    let archive = target().join(format!("package/{package}.crate"));
    let mut tar = Command::new("tar");
    // `m`: with the time of now, by which cargo sees that the files have changed; in a package they are all of one day.
    tar.arg("-xmf").arg(archive).arg("-C").arg(env!("CARGO_TARGET_TMPDIR"));
    assert!(tar.status().unwrap().success(), "{tar:?}");

    let (_, profiles) = include_str!("../../../Cargo.toml").split_once("\n[profile").expect("the clone has profiles");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let optimized = "[profile.dev.package.earlystop]\nopt-level = 2\n";
    assert!(profiles.contains(optimized), "{profiles}");
    let profiles = profiles.replace(optimized, &optimized.replace('2', "0"));
    fs::write(folder.join("Cargo.toml"), format!("{manifest}\n[workspace]\n[profile{profiles}")).unwrap();
    for name in ["LICENSE", "README.md"] {
        assert!(folder.join(name).is_file(), "{package} has a {name}");
    }
    folder
}

#[test]
fn the_packages_pass_their_tests_outside_the_workspace() {
    if std::env::var_os("EARLYSTOP_LONG_TESTS").is_none() {
        return;
    }
    let clone = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    cargo(&clone, "package --package=earlystop --package=earlystop-cli --locked --no-verify --allow-dirty");

    let library = unpack("earlystop-0.1.0");
    assert!(cargo(&library, "test --locked --no-default-features").contains("test result: ok."));
    // The features of `package.metadata.docs.rs`.
    cargo(&library, "doc --locked --no-deps --features=doc-only,logging,object-store");

    let command = unpack("earlystop-cli-0.1.0");
    // The registry may not have the library.
    let library = format!("--config=patch.crates-io.earlystop.path='{}'", library.display());
    assert!(cargo(&command, &format!("test {library}")).contains("test result: ok."));
}
