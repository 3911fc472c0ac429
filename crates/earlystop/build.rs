//! Lets programs find libtorch when they start. Not by `rustflags`, which the settings of a user's own replace.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Where torch-sys found libtorch; nothing is known when only its documentation is built.
    let Ok(libtorch) = env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    let system = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if !matches!(system.as_str(), "linux" | "macos") {
        return;
    }
    // This package's programs, tests and examples, wherever they are built and copied to.
    // `-Xlinker`, since `-Wl` would split a path at commas.
    for argument in ["-rpath", &libtorch] {
        println!("cargo:rustc-link-arg=-Xlinker");
        println!("cargo:rustc-link-arg={argument}");
    }
    #[cfg(unix)]
    lend_to_cargo(&libtorch);
}

/// Has cargo itself lead what it runs to libtorch: the examples in the documentation, and the programs of other packages that
/// use this one. It puts a package's native libraries on the search path if they lie in the package's build folder.
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
