//! A Jupyter kernel for Rust, on the crate [evcxr](https://github.com/evcxr/evcxr).
//!
//! Three processes of this program make a kernel:
//!
//! - the kernel: `session` speaks Jupyter's protocol with clients, `evaluator` has evcxr, which compiles cells;
//! - the relay (`relay`): evcxr starts it as the process of the cells; it tells evcxr's own lines from what cells print;
//! - the process of the cells: evcxr's runtime as published, started by the relay.
//!
//! What cells print goes from the relay to the kernel by a socket (`records`, `cells`), and from there to the clients
//! (`output`). In a notebook without the library `earlystop` the kernel is evcxr, with errors that are errors.

mod cells;
mod code_points;
mod connection;
mod evaluator;
mod failure;
mod history;
mod locate;
mod message;
mod output;
mod prelude;
mod processes;
mod records;
mod relay;
mod run_folder;
mod session;
mod syntax;

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedSender, channel, unbounded_channel};

use self::connection::Connection;
use self::run_folder::RunFolder;
use self::session::{Event, Session};

fn main() -> anyhow::Result<()> {
    if env::var_os("EVCXR_IS_RUNTIME").is_some() && env::var_os(relay::CELLS).is_none() {
        std::process::exit(relay::run().context("could not run the cells")?);
    }
    // Does not return in the process of the cells, nor where it stands in for rustc.
    evcxr::runtime_hook();
    let mut args = env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == "--control_file") {
        let file = PathBuf::from(args.next().context("the connection file's path is missing")?);
        kernel(&file)?;
        processes::end_group();
        std::process::exit(0);
    }
    // The installation of evcxr's kernelspec, with its logos and its syntax check.
    evcxr_jupyter::main()
}

/// Runs the kernel to its end.
fn kernel(file: &Path) -> anyhow::Result<()> {
    let connection = Connection::read(file)?;
    let folder = RunFolder::new()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build()?;
    runtime.block_on(async {
        let (events, received) = unbounded_channel();
        let (cells, from_cells) = channel(64);
        cells::listen(&folder.socket(), cells).context("could not listen for the cells")?;
        let paths = evaluator::Paths { socket: folder.socket(), interrupt: folder.interrupt() };
        let told = events.clone();
        let jobs = evaluator::start(paths, move |event| drop(told.send(Event::Evaluator(event))))?;
        let outgoing = connection.open(events.clone(), Event::Request).await?;
        watch(events)?;
        Session::new(outgoing, jobs, folder.interrupt()).run(received, from_cells).await;
        anyhow::Ok(())
    })?;
    drop(folder);
    // evcxr's thread may compile for long; it ends with the process.
    runtime.shutdown_background();
    Ok(())
}

/// Watches for signals, and for the end of the client that has started the kernel.
fn watch(events: UnboundedSender<Event>) -> anyhow::Result<()> {
    let (mut interrupts, mut ends) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let parent = env::var_os("JPY_PARENT_PID").map(|_| std::os::unix::process::parent_id());
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                Some(()) = interrupts.recv() => Event::Interrupt,
                Some(()) = ends.recv() => Event::End,
                () = tokio::time::sleep(Duration::from_secs(1)) => {
                    if parent.is_none_or(|parent| parent == std::os::unix::process::parent_id()) {
                        continue;
                    }
                    Event::End
                }
            };
            if events.send(event).is_err() {
                return;
            }
        }
    });
    Ok(())
}
