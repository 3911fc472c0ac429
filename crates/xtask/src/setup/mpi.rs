//! Open MPI and libclang, with which the feature `mpi` of the library is compiled and tested.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::workspace::Workspace;
use crate::{Error, Result, command};

/// What is installed, and where the list of it is.
const LIST: &str = "crates/earlystop/tests/mpi.txt";

/// Makes MPI and libclang ready; returns the variables with which cargo compiles and starts programs that use them.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Vec<(&'static str, OsString)>> {
    let python = super::ensure_python(workspace, &workspace.kernel().join("mpi"), LIST)?;
    let prefix = python.ancestors().nth(2).unwrap_or(Path::new("/"));
    let clang = command::ask(Command::new(&python).args(["-c", "import clang; print(clang.__path__[0])"]));
    let headers = command::ask(Command::new("cc").arg("-print-file-name=include"));
    let (Some(clang), Some(headers)) = (clang, headers) else {
        return Err(Error::new("find libclang and the compiler's headers")
            .got("the Python package libclang or the program cc does not answer")
            .hint(format!("Delete {} and try again.", prefix.display())));
    };
    let before = |folder: &str, variable: &str| {
        let others = std::env::var_os(variable).unwrap_or_default();
        let folders = std::iter::once(prefix.join(folder)).chain(std::env::split_paths(&others));
        std::env::join_paths(folders).unwrap_or_default()
    };
    let mut variables = vec![
        ("PATH", before("bin", "PATH")),
        ("LD_LIBRARY_PATH", before("lib", "LD_LIBRARY_PATH")),
        ("LIBCLANG_PATH", Path::new(&clang).join("native").into()),
        // The package has no headers of its own, such as stddef.h.
        ("BINDGEN_EXTRA_CLANG_ARGS", format!("-I{headers}").into()),
    ];
    // A container's only user often is root, as which Open MPI does not start unless it is told twice.
    let as_root = ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"].into_iter();
    let as_root = as_root.chain(["PRTE_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM"]);
    variables.extend(as_root.map(|name| (name, "1".into())));
    Ok(variables)
}
