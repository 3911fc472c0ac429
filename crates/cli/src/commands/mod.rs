//! The commands, one in each file.

pub(crate) mod average;
pub(crate) mod diff;
pub(crate) mod export;
pub(crate) mod history;
pub(crate) mod list;
pub(crate) mod prune;
pub(crate) mod replay;
pub(crate) mod show;
pub(crate) mod verify;
