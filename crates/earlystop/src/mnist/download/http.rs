//! Downloads one file from a URL.

use std::env;
use std::io::Read;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::{LoadEvent, Progress};
use crate::mnist::files::LIMIT;

/// The bytes between two lines of progress.
const STEP: u64 = 2_000_000;

pub(super) fn get(url: &str, connect: Duration, stall: Duration, progress: &mut Progress) -> Result<Vec<u8>, String> {
    let roots = if url.starts_with("https:") { trusted()? } else { RootCerts::WebPki };
    let agent: Agent = Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .timeout_resolve(Some(connect))
        .timeout_connect(Some(connect))
        .timeout_send_request(Some(stall))
        .timeout_recv_response(Some(stall))
        .timeout_per_read(Some(stall))
        .build()
        .into();
    let body = agent.get(url).call().map_err(|error| described(&error))?.into_body();
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

/// Returns the certificates that the system trusts, or those of the file or folder that `SSL_CERT_FILE` or `SSL_CERT_DIR` names.
/// Where there are none, as in a small container, returns Mozilla's.
fn trusted() -> Result<RootCerts, String> {
    let found = rustls_native_certs::load_native_certs();
    if !found.certs.is_empty() {
        return Ok(found.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).into());
    }
    for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        if let Some(path) = env::var_os(variable) {
            let reasons = found.errors.iter().map(|error| format!(": {error}")).collect::<String>();
            return Err(format!("no certificate in {variable}={}{reasons}", path.display()));
        }
    }
    Ok(RootCerts::WebPki)
}

/// Describes an error, and what to do about a server whose certificate is not trusted.
fn described(error: &ureq::Error) -> String {
    let error = error.to_string();
    if error.contains("UnknownIssuer") || error.contains("self-signed") {
        return format!(
            "{error}: the server's certificate is not trusted; behind a proxy that inspects connections, set SSL_CERT_FILE to a \
             file of certificates with the proxy's"
        );
    }
    error
}
