//! Distinguishes folders from URLs of object storage.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// What is known to be no folder even without `//`.
const KNOWN: [&str; 7] = ["s3", "gs", "az", "file", "memory", "http", "https"];

/// Where a store is.
pub(super) enum Place {
    Folder(PathBuf),
    #[cfg(feature = "object-store")]
    Remote(Url),
}

/// The kinds of object storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    S3,
    Google,
    Azure,
    File,
}

/// The URL of a place in object storage. It contains no secrets: those with a user or a query are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: Scheme,
    /// The name of the bucket or container; empty for `file://`.
    pub(super) bucket: String,
    /// What the names of all objects start with, without slashes at both ends; may be empty.
    pub(super) prefix: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Url { scheme, bucket, prefix } = self;
        let slash = if prefix.is_empty() { "" } else { "/" };
        write!(f, "{}://{bucket}{slash}{prefix}", scheme.name())
    }
}

impl Scheme {
    fn of(name: &str) -> Option<Self> {
        [Self::S3, Self::Google, Self::Azure, Self::File].into_iter().find(|it| it.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gs",
            Self::Azure => "az",
            Self::File => "file",
        }
    }
}

impl Place {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let Some((scheme, rest)) = path.to_str().and_then(split_scheme) else {
            return Ok(Self::Folder(path.to_owned()));
        };
        let Some(scheme) = Scheme::of(&scheme) else {
            let expected = "a folder, or a URL that begins with s3://, gs://, az:// or file://";
            return Err(refused(expected, format!("a URL that begins with {scheme}:")));
        };
        let url = Url::parse(scheme, rest)?;
        #[cfg(feature = "object-store")]
        return Ok(Self::Remote(url));
        #[cfg(not(feature = "object-store"))]
        Err(refused(
            "a folder, or a URL and the feature `object-store` of the crate earlystop",
            format!("{url} without that feature: enable it in Cargo.toml"),
        ))
    }
}

/// Returns whether a path is the URL of a place in object storage, or what looks like one.
pub(crate) fn is_url(path: &Path) -> bool {
    path.to_str().and_then(split_scheme).is_some()
}

/// Splits a URL into its scheme, in lower case, and what follows the colon.
fn split_scheme(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme = scheme.len() > 1
        && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c));
    let scheme = scheme.to_ascii_lowercase();
    (is_scheme && (rest.starts_with("//") || KNOWN.contains(&&*scheme))).then_some((scheme, rest))
}

impl Url {
    /// Parses what follows the colon. No message repeats what may be a secret.
    fn parse(scheme: Scheme, rest: &str) -> Result<Self> {
        let name = scheme.name();
        let example = match scheme {
            Scheme::File => "file:///data/runs/1",
            Scheme::S3 => "s3://bucket/runs/1",
            Scheme::Google => "gs://bucket/runs/1",
            Scheme::Azure => "az://container/runs/1",
        };
        let expected = format!("a URL like {example}");
        let refuse = |found: &str| Err(refused(&expected, format!("{found} after {name}:")));
        if rest.contains(['?', '#']) {
            return refuse("a query or a fragment (not shown: it may contain secrets)");
        }
        let Some(rest) = rest.strip_prefix("//") else { return refuse("no //") };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') {
            return refuse("a user name (not shown: credentials belong in environment variables)");
        }
        let is_bucket = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match scheme {
            Scheme::File if !["", "localhost"].contains(&bucket) => return refuse("the name of another machine"),
            Scheme::File if prefix.trim_matches('/').is_empty() => return refuse("no path"),
            Scheme::File if prefix.contains('%') => return refuse("an encoded path: write it as it is"),
            Scheme::File => {}
            _ if bucket.is_empty() || !bucket.chars().all(is_bucket) => return refuse("no name of a bucket"),
            _ => {}
        }
        let prefix = prefix.trim_matches('/');
        if prefix.chars().any(char::is_control) {
            return refuse("a path with control characters");
        }
        if !prefix.is_empty() && prefix.split('/').any(|part| ["", ".", ".."].contains(&part)) {
            return refuse("a path with an empty part, \".\" or \"..\"");
        }
        let bucket = if scheme == Scheme::File { "" } else { bucket };
        Ok(Url { scheme, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

fn refused(expected: &str, found: String) -> Error {
    Error::setting("checkpoint folder", expected, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<String> {
        let (scheme, rest) = split_scheme(text).expect("a URL");
        Ok(Url::parse(Scheme::of(&scheme).expect("a known scheme"), rest)?.to_string())
    }

    #[test]
    fn folders_are_told_from_urls() {
        for folder in ["runs/1", "/runs/a://b", "C:\\runs", "c:/runs", "run:1", "", ":", "://x", "1s://x", "ü://x"] {
            assert!(!is_url(Path::new(folder)), "{folder}");
            assert!(matches!(Place::of(Path::new(folder)), Ok(Place::Folder(it)) if it == Path::new(folder)));
        }
        for url in ["s3://bucket/runs/1", "S3://b", "s3:bucket", "memory:", "http://h/x", "hdfs://h/x", "file:/x"] {
            assert!(is_url(Path::new(url)), "{url}");
        }
    }

    #[test]
    fn a_url_is_written_in_one_way() {
        assert_eq!(url("s3://bucket/runs/1/").unwrap(), "s3://bucket/runs/1");
        assert_eq!(url("S3://bucket").unwrap(), "s3://bucket");
        assert_eq!(url("gs://b_u.c-k/ä b").unwrap(), "gs://b_u.c-k/ä b");
        assert_eq!(url("file:///tmp/x/").unwrap(), "file:///tmp/x");
        assert_eq!(url("file://localhost/tmp/x").unwrap(), "file:///tmp/x");
    }

    #[test]
    fn what_is_no_place_is_refused_without_its_secrets() {
        for text in [
            "s3:bucket/x",
            "s3://",
            "s3:///x",
            "s3://user:SECRET@bucket/x",
            "s3://bucket/x?sig=SECRET",
            "s3://b/x#SECRET",
            "s3://bucket:9000/x",
            "s3://bucket/a//x",
            "s3://bucket/a/../b",
            "s3://bucket/a\nb",
            "file://host/x",
            "file:///",
            "file:///a%20b",
        ] {
            let error = url(text).unwrap_err().to_string();
            assert!(
                error.starts_with("checkpoint folder: expected a URL like ") && !error.contains("SECRET"),
                "{error}"
            );
        }
        for text in ["memory:", "http://SECRET@host/x", "hdfs://host/SECRET"] {
            let Err(error) = Place::of(Path::new(text)) else { panic!("{text}") };
            let error = error.to_string();
            assert!(error.contains("s3://, gs://, az:// or file://") && !error.contains("SECRET"), "{error}");
        }
    }

    #[test]
    #[cfg(not(feature = "object-store"))]
    fn without_the_feature_a_url_is_refused_instead_of_a_folder_made_of_it() {
        let Err(error) = Place::of(Path::new("s3://bucket/runs/1")) else { panic!() };
        assert!(error.to_string().contains("feature `object-store`"), "{error}");
    }
}
