//! Lets programs find libtorch when they start. `rustflags` in `.cargo/config.toml` would not work: a user's own flags would replace
//! them, or be replaced.

use std::env;

fn main() {
    // Also when torch-sys's build script has run again, or this file has changed. Not by its name: bench uses it too.
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // Where torch-sys found libtorch; nothing is known when only its documentation is built.
    let Ok(libtorch) = env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    let system = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if !matches!(system.as_str(), "linux" | "macos") {
        return;
    }
    // This package's programs, tests and examples, wherever they are built and copied to; and if the clone was moved since,
    // relative to where they lie below `target`: <profile>/, with a folder of tests or examples, of a triple, or with both.
    let own_folder = if system == "macos" { "@loader_path" } else { "$ORIGIN" };
    let moved = ["../..", "../../..", "../../../.."].map(|root| format!("{own_folder}/{root}/.libtorch/lib"));
    for path in [&libtorch].into_iter().chain(&moved) {
        // `-Xlinker`, since `-Wl` would split a path at commas.
        for argument in ["-rpath", path] {
            println!("cargo:rustc-link-arg=-Xlinker");
            println!("cargo:rustc-link-arg={argument}");
        }
    }
    #[cfg(unix)]
    lend_to_cargo(&libtorch);
}

/// Makes `cargo run` and `cargo test` find libtorch for programs of other packages that use this one, which have no rpath. Cargo
/// adds a package's native libraries to the search path if they are in the package's build folder.
#[cfg(unix)]
fn lend_to_cargo(libtorch: &str) {
    let Some(folder) = env::var_os("OUT_DIR") else { return };
    let link = std::path::Path::new(&folder).join("libtorch");
    let _ = std::fs::remove_file(&link);
    match std::os::unix::fs::symlink(libtorch, &link) {
        Ok(()) => println!("cargo:rustc-link-search=native={}", link.display()),
        Err(error) => println!("cargo:warning=cannot link {} to {libtorch}: {error}", link.display()),
    }
}
