//! The client for HTTP: certificates of the system, time limits, and why a request failed.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use rustls::{ClientConfig, RootCertStore};

use super::failure::{Failure, LastFailure};

/// For a request with its answer, unless the environment sets another: a part takes as long on a slow line.
const TIMEOUT: Duration = Duration::from_secs(120);
/// For the beginning of an answer to a request that carries little.
const SMALL_TIMEOUT: Duration = Duration::from_secs(20);
const SMALL_BYTES: usize = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses before a refused connection is tried again. It rarely helps, so they are short.
const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(1)];
/// Where the machines of clouds ask for credentials. Elsewhere nobody answers, which must not take minutes.
const METADATA_HOSTS: [&str; 2] = ["169.254.169.254", "metadata.google.internal"];
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
/// More of an error's answer is not read.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// Makes clients that note why requests fail.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) last: Arc<LastFailure>,
}

#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    last: Arc<LastFailure>,
}

/// Says what went wrong without any text from elsewhere.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Problem(&'static str);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let unusable = |what| object_store::Error::Generic { store: "earlystop", source: Box::new(Problem(what)) };
        let mut builder = reqwest::Client::builder()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout(options))
            .tls_backend_preconfigured(tls().ok_or_else(|| unusable("no TLS"))?);
        if let Some(proxy) = options.get_config_value(&ClientConfigKey::ProxyUrl) {
            builder = builder.proxy(reqwest::Proxy::all(proxy).map_err(|_| unusable("not the URL of a proxy"))?);
        }
        let client = builder.build().map_err(|_| unusable("no HTTP client"))?;
        Ok(HttpClient::new(Client { client, last: self.last.clone() }))
    }
}

/// The limit that the environment sets, or ours.
fn timeout(options: &ClientOptions) -> Duration {
    let key = ClientConfigKey::Timeout;
    let set = options
        .get_config_value(&key)
        .filter(|set| ClientOptions::default().get_config_value(&key).as_ref() != Some(set));
    set.and_then(|text| text.trim_end_matches('s').trim().parse().ok()).map_or(TIMEOUT, Duration::from_secs)
}

/// With ring and the system's certificates, as for the download of data. The process's own choice for TLS stays as it is.
fn tls() -> Option<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    Some(config.with_safe_default_protocol_versions().ok()?.with_root_certificates(roots).with_no_client_auth())
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if request.uri().host().is_some_and(|host| METADATA_HOSTS.contains(&host)) {
            return self.ask_for_credentials(request).await;
        }
        let mut pauses = PAUSES.iter();
        loop {
            match (self.send(request.clone()).await, pauses.next()) {
                (Err((Failure::Refused | Failure::NoHost, _)), Some(pause)) => tokio::time::sleep(*pause).await,
                (Err((failure, kind)), _) => {
                    // Not to be repeated for minutes: a person can see at once what is wrong.
                    let is_final = matches!(failure, Failure::Refused | Failure::NoHost | Failure::Tls);
                    let kind = if is_final { HttpErrorKind::Unknown } else { kind };
                    self.last.set(Some(failure));
                    return Err(HttpError::new(kind, Problem("the request failed")));
                }
                (Ok(response), _) => return self.note(response).await,
            }
        }
    }
}

impl Client {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, (Failure, HttpErrorKind)> {
        let is_small = request.body().content_length() < SMALL_BYTES;
        let sent = HttpService::call(&self.client, request);
        let answer = match is_small {
            true => tokio::time::timeout(SMALL_TIMEOUT, sent).await,
            false => Ok(sent.await),
        };
        match answer {
            Err(_) => Err((Failure::TimedOut, HttpErrorKind::Timeout)),
            Ok(answer) => answer.map_err(|error| {
                let failure = match error.kind() {
                    HttpErrorKind::Timeout => Failure::TimedOut,
                    HttpErrorKind::Request | HttpErrorKind::Interrupted => Failure::Cut,
                    _ => error.source().map_or(Failure::Other, Failure::of_transport),
                };
                (failure, error.kind())
            }),
        }
    }

    /// Reads the code of an error that the server reports.
    async fn note(&self, response: HttpResponse) -> Result<HttpResponse, HttpError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let body = body.bytes().await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body[..body.len().min(MAX_ERROR_BYTES)]);
        self.last.set(Some(Failure::Status(status.as_u16(), code_in(&text))));
        // The answer itself would go into messages.
        let kept = if text.contains("SlowDown") { "SlowDown" } else { "" };
        Ok(HttpResponse::from_parts(parts, kept.to_owned().into()))
    }

    /// Asks once and briefly.
    async fn ask_for_credentials(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = tokio::time::timeout(METADATA_TIMEOUT, HttpService::call(&self.client, request)).await;
        match answer {
            Ok(Ok(response)) if response.status().is_success() => Ok(response),
            _ => {
                self.last.set(Some(Failure::NoCredentials));
                Err(HttpError::new(HttpErrorKind::Unknown, Problem("no credentials")))
            }
        }
    }
}

/// The code in an answer, such as `<Code>AccessDenied</Code>`: letters only, so that nothing else comes along.
fn code_in(text: &str) -> Option<String> {
    let (code, _) = text.split_once("<Code>")?.1.split_once("</Code>")?;
    let is_code = (1..=64).contains(&code.len()) && code.chars().all(|c| c.is_ascii_alphanumeric());
    is_code.then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_letters_only() {
        assert_eq!(code_in("<Error><Code>NoSuchBucket</Code><X>s</X></Error>").as_deref(), Some("NoSuchBucket"));
        for text in ["", "<Code>", "<Code></Code>", "<Code>a b</Code>", "<Code>https://x?sig=y</Code>", "Code"] {
            assert_eq!(code_in(text), None, "{text}");
        }
    }

    #[test]
    fn the_environment_may_set_another_timeout() {
        assert_eq!(timeout(&ClientOptions::new()), TIMEOUT);
        let set = ClientOptions::new().with_config(ClientConfigKey::Timeout, "7s");
        assert_eq!(timeout(&set), Duration::from_secs(7));
    }
}
