//! The notebooks' Jupyter kernel: [evcxr_jupyter](https://github.com/evcxr/evcxr) as published, with one change in the
//! process that runs the cells.
//!
//! evcxr sets `RUST_BACKTRACE=1` for that process, so that ten lines of evcxr's own functions follow the message of each
//! panic. Its prelude could set the variable back, but does not run again after the stop button has ended the process.

use std::env;

fn main() -> anyhow::Result<()> {
    // evcxr starts this program once more for the cells, and marks that process so.
    if env::var_os("EVCXR_IS_RUNTIME").is_some() {
        // SAFETY: no other thread runs yet.
        unsafe { env::set_var("RUST_BACKTRACE", "0") };
    }
    evcxr_jupyter::main()
}
