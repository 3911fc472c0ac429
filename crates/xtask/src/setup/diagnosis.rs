//! What to do about a failed pip, cargo, rustup or venv, told from its last words.

/// Advice for a program's output; the general one when no cause is recognized.
pub(super) fn advice(output: &str) -> &'static str {
    let output = output.to_lowercase();
    let says = |needles: &[&str]| needles.iter().any(|needle| output.contains(needle));
    if says(&["no space left on device", "disk quota exceeded", "errno 28"]) {
        "The disk is full. Free some space and run the same command again: it goes on where it stopped."
    } else if says(&["ensurepip is not", "no module named venv", "no module named ensurepip"]) {
        "Python's venv module is missing. On Debian and Ubuntu: apt install python3-venv. \
         Or activate a conda environment made from environment.yml."
    } else if says(&["no module named pip"]) {
        "This Python has no pip. On Debian and Ubuntu: apt install python3-pip; with conda: conda install pip."
    } else if says(&[
        "name or service not known",
        "temporary failure in name resolution",
        "could not resolve host",
        "couldn't resolve host",
        "failed to establish a new connection",
        "network is unreachable",
        "connection refused",
        "connection reset",
        "timed out",
        "could not connect",
        "failed to connect",
        "spurious network error",
        "error sending request",
        "proxyerror",
    ]) {
        "The network could not be reached. Check the connection, and the proxy or mirror that pip and cargo are \
         configured with (HTTPS_PROXY, pip.conf, ~/.cargo/config.toml), then run the same command again."
    } else if says(&["no matching distribution found", "could not find a version"]) {
        "The package index that pip asked does not offer this version for this Python and system. \
         Check pip's configuration (`pip config list`): a mirror may lag behind PyPI."
    } else if says(&["linker `cc` not found", "failed to find tool", "is `c++` installed", "is `g++` installed"]) {
        "A C and C++ compiler is missing. On Debian and Ubuntu: apt install g++; on Fedora: dnf install gcc-c++; \
         on macOS: xcode-select --install."
    } else if says(&["out of memory", "signal: 9", "cannot allocate memory"]) {
        "The machine ran out of memory. Close other programs, or build one thing at a time: CARGO_BUILD_JOBS=1."
    } else {
        "Fix what it says, and run the same command again: it goes on where it stopped."
    }
}

#[cfg(test)]
mod tests {
    use super::advice;

    #[test]
    fn a_full_disk_is_recognized_in_pips_cargos_and_the_linkers_words() {
        for said in [
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "error: failed to write `/x/target`: No space left on device (os error 28)",
            "/usr/bin/ld: final link failed: No space left on device",
        ] {
            assert!(advice(said).contains("disk is full"), "{said}");
        }
    }

    #[test]
    fn no_network_is_recognized_in_pips_cargos_and_rustups_words() {
        for said in [
            "WARNING: Retrying: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution\n\
             ERROR: No matching distribution found for jupyterlab==4.6.6",
            "warning: spurious network error (3 tries remaining): [6] Could not resolve hostname",
            "error: could not download file: error sending request for url",
            "[7] Could not connect to server (Failed to connect to 127.0.0.1 port 9)",
        ] {
            assert!(advice(said).contains("network could not be reached"), "{said}");
        }
    }

    #[test]
    fn a_missing_venv_module_is_recognized_as_debian_and_python_say_it() {
        let debian = "The virtual environment was not created successfully because ensurepip is not\navailable.";
        for said in [debian, "/usr/bin/python3: No module named venv"] {
            assert!(advice(said).contains("apt install python3-venv"), "{said}");
        }
    }

    #[test]
    fn a_version_that_a_mirror_lacks_is_not_taken_for_a_missing_network() {
        let said = "ERROR: Could not find a version that satisfies the requirement torch==2.13.0";
        assert!(advice(said).contains("package index"));
    }

    #[test]
    fn a_missing_compiler_is_recognized() {
        assert!(advice("error: linker `cc` not found").contains("apt install g++"));
    }
}
