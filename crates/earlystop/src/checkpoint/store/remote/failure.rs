//! Error messages for requests that failed.
//!
//! The texts of other crates may contain signed addresses and answers of servers. None of them goes into a message.

use std::error::Error as StdError;
use std::io::{self, ErrorKind};
use std::sync::{Mutex, PoisonError};

use super::super::place::Scheme;

/// Why a request has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server's answer: its status, and the code of its error if it gave one.
    Status(u16, Option<String>),
    Refused,
    NoHost,
    Tls,
    TimedOut,
    Cut,
    /// Nothing in the environment, and no service of a cloud's own machines that answers.
    NoCredentials,
    Other,
}

/// The last failure of a request: [`object_store::Error`] does not tell.
#[derive(Debug, Default)]
pub(super) struct LastFailure(Mutex<Option<Failure>>);

impl LastFailure {
    pub(super) fn set(&self, failure: Option<Failure>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    pub(super) fn get(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Failure {
    /// Finds out why there was no answer.
    pub(super) fn of_transport(error: &(dyn StdError + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.is::<rustls::Error>() {
                return Self::Tls;
            }
            if let Some(error) = error.downcast_ref::<io::Error>() {
                match error.kind() {
                    ErrorKind::ConnectionRefused => return Self::Refused,
                    ErrorKind::TimedOut => return Self::TimedOut,
                    ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof => return Self::Cut,
                    _ if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => return Self::Tls,
                    _ => {}
                }
            }
            if error.to_string().starts_with("dns error") {
                return Self::NoHost;
            }
            cause = error.source();
        }
        Self::Other
    }

    /// Says what has happened and what to do about it.
    fn explain(&self, scheme: Scheme) -> (ErrorKind, String) {
        let (endpoint, region, credentials) = match scheme {
            Scheme::Google => ("GOOGLE_BASE_URL", "the region", "GOOGLE_APPLICATION_CREDENTIALS"),
            Scheme::Azure => {
                ("AZURE_STORAGE_ENDPOINT", "the region", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY")
            }
            Scheme::S3 | Scheme::File => (
                "AWS_ENDPOINT_URL",
                "AWS_REGION",
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN with temporary ones",
            ),
        };
        match self {
            Self::Status(status, code) => {
                let answer = match code {
                    Some(code) => format!("the server answered {status} {code}"),
                    None => format!("the server answered {status}"),
                };
                match status {
                    301 | 307 | 308 => {
                        (ErrorKind::InvalidInput, format!("{answer}: the bucket is in another region, set {region}"))
                    }
                    400 => (ErrorKind::InvalidInput, format!("{answer}: check the credentials and {region}")),
                    401 | 403 => (
                        ErrorKind::PermissionDenied,
                        format!("{answer}: check the credentials ({credentials}) and what they permit for this bucket"),
                    ),
                    404 => (ErrorKind::InvalidInput, format!("{answer}: check the name of the bucket")),
                    408 | 429 | 500.. => (ErrorKind::Other, format!("{answer}, and again after several tries")),
                    _ => (ErrorKind::Other, answer),
                }
            }
            Self::Refused => (
                ErrorKind::ConnectionRefused,
                format!("the connection was refused: check that the server runs, and {endpoint}"),
            ),
            Self::NoHost => (
                ErrorKind::NotConnected,
                format!("there is no host of this name: check the network, {endpoint} and {region}"),
            ),
            Self::Tls => (
                ErrorKind::NotConnected,
                "no secure connection: the certificate of the server is not trusted here, or it speaks no TLS"
                    .to_owned(),
            ),
            Self::TimedOut => (ErrorKind::TimedOut, "the server did not answer in time".to_owned()),
            Self::Cut => (ErrorKind::ConnectionReset, "the connection was cut".to_owned()),
            Self::NoCredentials => {
                (ErrorKind::PermissionDenied, format!("no credentials in the environment: set {credentials}"))
            }
            Self::Other => (ErrorKind::Other, "the request failed".to_owned()),
        }
    }
}

/// Explains an error of the crate `object_store`, given the last failure of a request.
pub(super) fn explain(scheme: Scheme, error: &object_store::Error, last: Option<Failure>) -> io::Error {
    let (kind, text) = match (last, error) {
        (Some(failure), _) => failure.explain(scheme),
        (None, object_store::Error::InvalidPath { .. }) => {
            (ErrorKind::InvalidInput, "the path contains characters that no object's name may have".to_owned())
        }
        (None, _) if scheme == Scheme::File => return of_disk(error),
        (None, object_store::Error::NotFound { .. }) => (ErrorKind::NotFound, "there is no such object".to_owned()),
        (None, object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
            (ErrorKind::Unsupported, "this kind of storage does not offer the operation".to_owned())
        }
        // What the environment says is invalid, such as a key that cannot be decoded.
        (None, _) => {
            let (kind, text) = Failure::NoCredentials.explain(scheme);
            (kind, format!("{text}; or they are there and cannot be used"))
        }
    };
    io::Error::new(kind, text)
}

/// On a disk the operating system says what has happened.
fn of_disk(error: &object_store::Error) -> io::Error {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            };
        }
        cause = error.source();
    }
    io::Error::other("the operation failed")
}
