//! Gets one file from an address.

use std::io::Read;
use std::time::Duration;

use ureq::Agent;

use super::{LoadEvent, Progress};
use crate::mnist::files::LIMIT;

/// The bytes between two lines of progress.
const STEP: u64 = 2_000_000;

pub(super) fn get(url: &str, connect: Duration, stall: Duration, progress: &mut Progress) -> Result<Vec<u8>, String> {
    let agent: Agent = Agent::config_builder()
        .timeout_resolve(Some(connect))
        .timeout_connect(Some(connect))
        .timeout_send_request(Some(stall))
        .timeout_recv_response(Some(stall))
        .timeout_per_read(Some(stall))
        .build()
        .into();
    let body = agent.get(url).call().map_err(|error| error.to_string())?.into_body();
    let total = body.content_length();
    progress(&LoadEvent::Downloading { source: url.to_owned(), bytes: total });

    let mut body = body.into_reader().take(LIMIT);
    let mut content = Vec::new();
    loop {
        let received = body.by_ref().take(STEP).read_to_end(&mut content).map_err(|error| {
            let total = total.map_or_else(String::new, |total| format!(" of {total}"));
            format!("{error}, after {}{total} bytes", content.len())
        })?;
        if (received as u64) < STEP {
            return Ok(content);
        }
        progress(&LoadEvent::Received { bytes: content.len() as u64, total });
    }
}
