//! Tests of the trainer. They are one program, because every program that trains takes half a minute to compile.
#![cfg(feature = "torch")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/folder.rs"]
mod folder;
#[path = "../common/long.rs"]
mod long;
#[path = "../common/process.rs"]
mod process;
#[cfg(feature = "logging")]
#[path = "../common/python.rs"]
mod python;
#[path = "../common/threads.rs"]
mod threads;

mod callbacks;
#[cfg(unix)]
mod crash;
mod history;
#[cfg(feature = "logging")]
mod logging;
mod model;
mod policy;
mod replicas;
mod resume;
mod saves;
mod training;
