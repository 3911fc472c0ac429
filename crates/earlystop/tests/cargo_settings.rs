//! Everything finds libtorch under any cargo settings of a user's own: real builds of a small workspace that has this one's
//! `.cargo/config.toml` and build script. (The kernel under such settings: `crates/xtask/tests/two_kernels.rs`.)
#![cfg(target_os = "linux")]

use std::path::PathBuf;
use std::process::Command;

/// The small workspace. Its torch-sys has only what the build script uses.
const FILES: [(&str, &str); 8] = [
    ("Cargo.toml", "[workspace]\nmembers = [\"crates/*\"]\nresolver = \"3\"\n"),
    (".libtorch/lib/torch.c", "int threads(void) { return 2; }\n"),
    ("crates/torch-sys/Cargo.toml", "[package]\nname = \"torch-sys\"\nedition = \"2024\"\nlinks = \"tch\"\n"),
    (
        "crates/torch-sys/build.rs",
        r#"fn main() {
            println!("cargo:rerun-if-env-changed=LIBTORCH");
            let lib = std::env::var("LIBTORCH").unwrap() + "/lib";
            println!("cargo:libtorch_lib={lib}");
            println!("cargo:rustc-link-search=native={lib}");
            println!("cargo:rustc-link-lib=torch_cpu");
        }"#,
    ),
    ("crates/torch-sys/src/lib.rs", "unsafe extern \"C\" { pub safe fn threads() -> i32; }\n"),
    (
        "crates/earlystop/Cargo.toml",
        "[package]\nname = \"earlystop\"\nedition = \"2024\"\nbuild = \"../build.rs\"\n\
         [dependencies]\ntorch-sys = { path = \"../torch-sys\" }\n",
    ),
    (
        "crates/earlystop/src/lib.rs",
        r#"//! ```
           //! assert_eq!(earlystop::threads(), 2);
           //! ```
           pub use torch_sys::threads;
           #[test]
           fn finds_it() {
               assert_eq!(threads(), 2);
           }
        "#,
    ),
    ("crates/earlystop/examples/threads.rs", "fn main() { println!(\"{} threads\", earlystop::threads()) }"),
];

/// A user's machine: the small workspace in the folder `clone`, and `home`, which is CARGO_HOME.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        FILES.iter().for_each(|(name, text)| machine.write(&format!("clone/{name}"), text));
        machine.write("clone/crates/build.rs", include_str!("../build.rs"));
        machine.write("clone/.cargo/config.toml", include_str!("../../../.cargo/config.toml"));
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-o", "libtorch_cpu.so", "torch.c"]);
        assert!(compiler.current_dir(machine.path("clone/.libtorch/lib")).status().unwrap().success());
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Runs cargo in the clone with these variables and without the settings that this test runs under; gives what it prints.
    #[track_caller]
    fn cargo(&self, args: &[&str], variables: &[(&str, &str)]) -> String {
        let mut cargo = Command::new(env!("CARGO"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["CARGO_", "RUSTC", "RUSTFLAGS", "RUSTDOC", "LIBTORCH", "LD_"].iter().any(|of| name.starts_with(of)) {
                cargo.env_remove(&*name);
            }
        }
        cargo.args(args).args(["--quiet", "--offline"]).current_dir(self.path("clone"));
        cargo.env("CARGO_HOME", self.path("home"));
        let output = cargo.envs(variables.iter().copied()).output().unwrap();
        let [said, error] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        assert!(output.status.success(), "cargo {args:?} with {variables:?}: {}\n{said}{error}", output.status);
        said.into_owned()
    }

    /// Runs the tests, those in the documentation, and the example: by cargo, and without it from the folder of programs.
    #[track_caller]
    fn all_start(&self, variables: &[(&str, &str)], programs: &str) {
        self.cargo(&["test"], variables);
        assert_eq!(self.cargo(&["run", "--example=threads"], variables), "2 threads\n");
        self.example_starts(programs);
    }

    #[track_caller]
    fn example_starts(&self, programs: &str) {
        let program = self.path(programs).join("examples/threads");
        let output = Command::new(&program).env_remove("LD_LIBRARY_PATH").output();
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let [said, error] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        assert_eq!(said, "2 threads\n", "{error}");
    }
}

/// The triple of this machine.
fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

#[test]
fn everything_starts_whatever_variables_are_set() {
    let machine = Machine::new();
    let triple = host();
    let elsewhere = machine.path("else where");
    let elsewhere = elsewhere.to_str().unwrap();
    machine.all_start(&[], "clone/target/debug");
    for (name, value) in [
        ("RUSTFLAGS", "-Cdebuginfo=0"),
        ("RUSTDOCFLAGS", "-Cdebuginfo=0"),
        ("CARGO_ENCODED_RUSTFLAGS", "-Cdebuginfo=0\x1f-Copt-level=1"),
        ("CARGO_BUILD_RUSTFLAGS", "-Cdebuginfo=0"),
        ("RUSTC_WRAPPER", "/usr/bin/env"),
        ("CARGO_INCREMENTAL", "0"),
    ] {
        machine.all_start(&[(name, value)], "clone/target/debug");
    }
    machine.all_start(&[("CARGO_BUILD_BUILD_DIR", elsewhere)], "clone/target/debug");
    machine.all_start(&[("CARGO_TARGET_DIR", elsewhere)], "else where/debug");
    let target = ("CARGO_BUILD_TARGET", &*triple);
    machine.all_start(&[target], &format!("clone/target/{triple}/debug"));
    let all = [target, ("CARGO_TARGET_DIR", elsewhere), ("RUSTFLAGS", "-Cdebuginfo=0"), ("CARGO_INCREMENTAL", "0")];
    machine.all_start(&all, &format!("else where/{triple}/debug"));
}

/// With strings and with lists: cargo refuses to merge a string with a list in the workspace's own file.
#[test]
fn everything_starts_whatever_a_file_of_the_users_own_sets() {
    let machine = Machine::new();
    let (triple, elsewhere) = (host(), machine.path("elsewhere"));
    for settings in [
        "[build]\nrustflags = '-Cdebuginfo=0'\nrustdocflags = '-Cdebuginfo=0'\n",
        "[build]\nrustflags = ['-Cdebuginfo=0']\nrustdocflags = ['-Cdebuginfo=0']\n",
        "[build]\nrustc-wrapper = '/usr/bin/env'\nincremental = false\n",
        "[target.'cfg(target_os = \"linux\")']\nrustflags = '-Cdebuginfo=0'\n",
        "[env]\nLIBTORCH = { value = '/nowhere', force = true }\n",
        &format!("[target.{triple}]\nrustflags = ['-Cdebuginfo=0']\n"),
    ] {
        machine.write("home/config.toml", settings);
        machine.all_start(&[], "clone/target/debug");
    }
    machine.write("home/config.toml", &format!("[build]\ntarget-dir = '{}'\n", elsewhere.display()));
    machine.all_start(&[], "elsewhere/debug");
    machine.write("home/config.toml", &format!("[build]\ntarget = '{triple}'\n"));
    machine.all_start(&[], &format!("clone/target/{triple}/debug"));
}

/// They have no rpath: cargo's search path leads them.
#[test]
fn programs_of_other_packages_start_by_cargo() {
    let machine = Machine::new();
    let (triple, elsewhere) = (host(), machine.path("elsewhere"));
    let manifest =
        "[package]\nname = \"other\"\nedition = \"2024\"\n[dependencies]\nearlystop = { path = \"../earlystop\" }\n";
    machine.write("clone/crates/other/Cargo.toml", manifest);
    machine.write("clone/crates/other/src/main.rs", "fn main() { println!(\"{} threads\", earlystop::threads()) }");
    let settings = [
        ("CARGO_TARGET_DIR", elsewhere.to_str().unwrap()),
        ("CARGO_BUILD_TARGET", &triple),
        ("RUSTFLAGS", "-Copt-level=1"),
    ];
    for count in 0..=settings.len() {
        let variables = &settings[..count];
        assert_eq!(machine.cargo(&["run", "--package=other"], variables), "2 threads\n", "{variables:?}");
    }
}

#[test]
fn a_users_own_rustflags_apply() {
    let machine = Machine::new();
    machine.write("clone/crates/earlystop/examples/tuned.rs", "fn main() { println!(\"{}\", cfg!(tuned)) }");
    machine.write("home/config.toml", "[build]\nrustflags = '--cfg=tuned'\n");
    assert_eq!(machine.cargo(&["run", "--example=tuned"], &[]), "true\n");
}

#[test]
fn programs_of_a_moved_clone_start_without_cargo() {
    let machine = Machine::new();
    let triple = host();
    for variables in [&[][..], &[("CARGO_BUILD_TARGET", &*triple)]] {
        machine.cargo(&["build", "--example=threads"], variables);
    }
    std::fs::rename(machine.path("clone"), machine.path("moved")).unwrap();
    machine.example_starts("moved/target/debug");
    machine.example_starts(&format!("moved/target/{triple}/debug"));
}

/// The build script lies in another package's folder, as that of `bench`.
#[test]
fn nothing_is_built_twice() {
    let machine = Machine::new();
    let build = ["build", "--message-format=json"];
    assert!(machine.cargo(&build, &[]).contains("\"fresh\":false"));
    assert!(!machine.cargo(&build, &[]).contains("\"fresh\":false"));
}
