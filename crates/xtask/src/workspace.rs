//! Where the clone is and what lies where in it.

use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// The clone's root.
    pub(crate) root: PathBuf,
}

impl Workspace {
    /// The clone that cargo runs us from; without cargo, the one that we were built from.
    pub(crate) fn locate() -> Self {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest).ancestors().nth(2).unwrap_or(Path::new("/")); // of <clone>/crates/xtask
        Self { root: root.to_owned() }
    }

    pub(crate) fn environment_yml(&self) -> PathBuf {
        self.root.join("environment.yml")
    }

    pub(crate) fn notebooks(&self) -> PathBuf {
        self.root.join("notebooks")
    }

    /// The link to libtorch that plain `cargo build` follows (`.cargo/config.toml`).
    pub(crate) fn libtorch_link(&self) -> PathBuf {
        self.root.join(".libtorch")
    }

    /// The Python environment that is made when none is active.
    pub(crate) fn venv(&self) -> PathBuf {
        self.root.join(".venv")
    }

    /// The Python environment of the benchmark's rivals.
    pub(crate) fn bench_venv(&self) -> PathBuf {
        self.root.join(".bench-venv")
    }

    /// The sources of the Rust kernel.
    pub(crate) fn kernel_crate(&self) -> PathBuf {
        self.root.join("crates/kernel")
    }

    /// The Rust kernel and its build folders.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.root.join(".kernel")
    }
}
