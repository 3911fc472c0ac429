//! Fetches small files of the same names from a server on this machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Instant;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::super::files::MNIST;
use super::*;

const NAMES: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

/// What is in the file of that name.
fn content(name: &str) -> Vec<u8> {
    name.repeat(1000).into_bytes()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn files() -> [DataFile; 4] {
    NAMES.map(|name| DataFile { name, sha256: format!("{:x}", Sha256::digest(content(name))).leak() })
}

/// How a server answers.
#[derive(Clone, Copy)]
enum Answer {
    Right,
    NotFound,
    /// Promises more than it sends.
    Truncated,
    /// Sends a part and then nothing, but does not hang up.
    Stalled,
    /// Does not even begin.
    Silent,
    OtherBytes,
    NoGzip,
    /// 4.5 MB.
    Large,
}

/// Serves until the tests end, and returns its address.
fn serve(answer: impl Fn(&str) -> Answer + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/mnist", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut kept = Vec::new(); // a connection that is dropped is hung up
        for stream in listener.incoming().flatten() {
            kept.extend(respond(stream, &answer));
        }
    });
    address
}

fn respond<S: Read + Write>(mut stream: S, answer: &impl Fn(&str) -> Answer) -> Option<S> {
    let mut lines = BufReader::new(&mut stream).lines().map_while(|line| line.ok());
    let request = lines.next()?;
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let (_, name) = request.strip_prefix("GET ")?.strip_suffix(".gz HTTP/1.1")?.split_once("/mnist/")?;
    let body = gzip(&content(name));
    let (status, length, body) = match answer(name) {
        Answer::Right => ("200 OK", body.len(), &body[..]),
        Answer::NotFound => ("404 Not Found", 9, &b"not found"[..]),
        Answer::Truncated | Answer::Stalled => ("200 OK", body.len(), &body[..body.len() / 2]),
        Answer::Silent => return Some(stream),
        Answer::OtherBytes => ("200 OK", gzip(b"other").len(), &gzip(b"other")[..]),
        Answer::Large => ("200 OK", 4_500_000, &[0; 4_500_000][..]),
        Answer::NoGzip => ("200 OK", 14, &b"<html>no</html>"[..14]),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n").ok()?;
    stream.write_all(body).ok()?;
    matches!(answer(name), Answer::Stalled).then_some(stream)
}

/// Small files from these mirrors.
fn sources(mirrors: &[&str]) -> Sources<'static> {
    Sources {
        collection: Box::leak(Box::new(Collection { files: files(), ..MNIST })),
        mirrors: mirrors.iter().map(|mirror| mirror.to_string()).collect(),
        connect_timeout: Duration::from_millis(500),
        stall_timeout: Duration::from_millis(200),
    }
}

/// What happened, as reported to the user.
fn complete(sources: &Sources, dir: &TempDir) -> (Result<[PathBuf; 4]>, Vec<String>) {
    let mut lines = Vec::new();
    let paths = sources.complete(dir.path(), &mut |event| lines.push(event.to_string()));
    (paths, lines)
}

/// The names in the folder, each of which must be a whole file of the right content.
fn verified(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for name in &names {
        let file = files().into_iter().find(|file| file.compressed_name() == *name).expect(name);
        file.verified(fs::read(dir.path().join(name)).unwrap()).expect(name);
    }
    names
}

fn sorted_names() -> Vec<String> {
    let mut names = NAMES.map(|name| format!("{name}.gz"));
    names.sort();
    names.to_vec()
}

/// Asks a server that fails, and returns what the error says of it.
fn refused(answer: Answer) -> String {
    let (dir, server) = (TempDir::new().unwrap(), serve(move |_| answer));
    let (paths, lines) = complete(&sources(&[&server]), &dir);
    let error = paths.unwrap_err().to_string();
    assert_eq!(verified(&dir), [""; 0]);
    assert!(error.contains(&format!("cannot fetch {}", NAMES.map(|name| format!("{name}.gz")).join(", "))), "{error}");
    assert!(error.contains("put these files there by hand"), "{error}");
    let tried = error.lines().find(|line| line.contains(&server)).expect("names what was tried").trim();
    assert!(lines.contains(&format!("Unavailable: {tried}")), "{lines:?}");
    tried.strip_prefix(&format!("{server}/train-images-idx3-ubyte.gz: ")).expect("names the file").to_owned()
}

#[test]
fn all_that_is_absent_is_fetched_and_kept_compressed() {
    let (dir, server) = (TempDir::new().unwrap(), serve(|_| Answer::Right));
    let (paths, lines) = complete(&sources(&[&server]), &dir);
    assert_eq!(paths.unwrap(), NAMES.map(|name| dir.path().join(format!("{name}.gz"))));
    assert_eq!(verified(&dir), sorted_names());
    let expected = NAMES.map(|name| format!("Downloading {server}/{name}.gz (0 kB)"));
    assert_eq!(lines, expected);
}

#[test]
fn what_is_present_is_not_fetched() {
    let dir = TempDir::new().unwrap();
    for name in NAMES {
        fs::write(dir.path().join(name), b"other data in MNIST's form").unwrap();
    }
    let (paths, lines) = complete(&sources(&["http://127.0.0.1:9"]), &dir);
    assert_eq!(paths.unwrap(), NAMES.map(|name| dir.path().join(name)));
    assert_eq!(lines, [""; 0]);
}

#[test]
fn the_folder_is_created() {
    let (dir, server) = (TempDir::new().unwrap(), serve(|_| Answer::Right));
    let below = dir.path().join("data/MNIST");
    let paths = sources(&[&server]).complete(&below, &mut |_| {}).unwrap();
    assert!(paths.iter().all(|path| path.starts_with(&below) && path.is_file()));
}

#[test]
fn the_next_mirror_gives_what_the_first_one_lacks() {
    let first = serve(|name| if name.starts_with("train") { Answer::Right } else { Answer::NotFound });
    let (dir, second) = (TempDir::new().unwrap(), serve(|_| Answer::Right));
    let (paths, lines) = complete(&sources(&[&first, &format!("{second}/")]), &dir);
    paths.unwrap();
    assert_eq!(verified(&dir), sorted_names());
    assert_eq!(lines[2], format!("Unavailable: {first}/t10k-images-idx3-ubyte.gz: http status: 404"));
    assert_eq!(lines[3], format!("Downloading {second}/t10k-images-idx3-ubyte.gz (0 kB)"));
    assert_eq!(lines.len(), 5);
}

#[test]
fn a_status_other_than_ok_is_refused() {
    assert_eq!(refused(Answer::NotFound), "http status: 404");
}

#[test]
fn a_truncated_answer_is_refused() {
    let reason = refused(Answer::Truncated);
    assert!(reason.contains(" bytes") && reason.contains("after"), "{reason}");
}

#[test]
fn an_answer_that_stalls_is_given_up() {
    let start = Instant::now();
    let reason = refused(Answer::Stalled);
    assert!(reason.contains("timeout"), "{reason}");
    assert!(refused(Answer::Silent).contains("timeout"));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn other_bytes_are_refused() {
    let found = format!("{:x}", Sha256::digest(b"other"));
    let expected = files()[0].sha256;
    assert_eq!(refused(Answer::OtherBytes), format!("expected content of SHA-256 {expected}, found {found}"));
    assert!(refused(Answer::NoGzip).starts_with(&format!("expected content of SHA-256 {expected}, found ")));
}

#[test]
fn a_large_file_is_told_in_steps() {
    let server = serve(|_| Answer::Large);
    let (_, lines) = complete(&sources(&[&server]), &TempDir::new().unwrap());
    assert_eq!(lines[0], format!("Downloading {server}/train-images-idx3-ubyte.gz (4.5 MB)"));
    assert_eq!(lines[1..3], ["- 2.0 of 4.5 MB", "- 4.0 of 4.5 MB"]);
    assert!(lines[3].starts_with("Unavailable"));
}

#[test]
fn a_mirror_of_ones_own_comes_before_the_public_ones() {
    let after = |own: Option<&str>| Sources::after(own.map(str::to_owned), &MNIST).mirrors;
    assert_eq!(
        after(Some("http://mirror.example/mnist")),
        ["http://mirror.example/mnist", MNIST.mirrors[0], MNIST.mirrors[1]]
    );
    assert_eq!(after(None), MNIST.mirrors);
    assert_eq!(after(Some("")), MNIST.mirrors);
}

#[test]
fn a_host_that_does_not_listen_is_refused() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = complete(&sources(&[&format!("http://{closed}")]), &TempDir::new().unwrap()).0.unwrap_err();
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[test]
fn what_was_fetched_before_a_failure_is_kept() {
    let server = serve(|name| if name.contains("labels") { Answer::Truncated } else { Answer::Right });
    let dir = TempDir::new().unwrap();
    let error = complete(&sources(&[&server]), &dir).0.unwrap_err();
    assert_eq!(verified(&dir), ["train-images-idx3-ubyte.gz"]);
    assert!(!error.to_string().contains("cannot fetch train-images"), "{error}");

    let server = serve(|_| Answer::Right);
    let (paths, lines) = complete(&sources(&[&server]), &dir);
    paths.unwrap();
    assert_eq!((verified(&dir), lines.len()), (sorted_names(), 3));
}

#[test]
fn files_of_other_data_are_not_completed_by_mnist() {
    let (dir, server) = (TempDir::new().unwrap(), serve(|_| Answer::Right));
    let fashion = dir.path().join("t10k-images-idx3-ubyte.gz");
    fs::write(&fashion, gzip(b"shirts")).unwrap();
    let error = complete(&sources(&[&server]), &dir).0.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: expected MNIST's", fashion.display())), "{error}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}

#[test]
fn left_over_temporary_files_do_no_harm() {
    let (dir, server) = (TempDir::new().unwrap(), serve(|_| Answer::Right));
    let left_over = dir.path().join(".train-images-idx3-ubyte.gz.0.tmp");
    fs::write(&left_over, b"half").unwrap();
    complete(&sources(&[&server]), &dir).0.unwrap();
    assert_eq!(fs::read(&left_over).unwrap(), b"half"); // may be another process's
    fs::remove_file(left_over).unwrap();
    assert_eq!(verified(&dir), sorted_names());
}

/// The environment, as another process has it: this one's tests run side by side.
mod environment {
    use std::process::Command;
    use std::sync::Arc;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::*;

    /// Names the mirror for [`fetch_in_a_process_of_its_own`].
    const MIRROR: &str = "EARLYSTOP_TEST_MIRROR";

    /// Not a test, but what the others run in another process: tells whether the files could be fetched from the mirror.
    #[test]
    fn fetch_in_a_process_of_its_own() {
        let Ok(mirror) = env::var(MIRROR) else { return };
        let dir = TempDir::new().unwrap();
        let patient = Duration::from_secs(10);
        let sources = Sources { connect_timeout: patient, stall_timeout: patient, ..sources(&[&mirror]) };
        match complete(&sources, &dir).0 {
            Ok(_) => println!("fetched {:?}", verified(&dir)),
            Err(error) => println!("failed: {error}"),
        }
    }

    fn fetch(mirror: &str, variables: &[(&str, &str)]) -> String {
        let test = "mnist::download::tests::environment::fetch_in_a_process_of_its_own";
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture"]).env(MIRROR, mirror);
        for name in ["SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(told.contains("fetched") || told.contains("failed"), "{told}");
        told
    }

    fn folder_of_certificates() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/mnist/download/tls")
    }

    /// Serves over TLS, with a certificate that only the authority in `ca.pem` vouches for.
    fn serve_tls() -> String {
        let read = |name: &str| fs::read(folder_of_certificates().join(name)).unwrap();
        let key = PrivateKeyDer::try_from(read("server.key.der")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![read("server.der").into()], key).unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("https://localhost:{}/mnist", listener.local_addr().unwrap().port());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = ServerConnection::new(config.clone()).unwrap();
                let mut stream = StreamOwned::new(connection, stream);
                respond(&mut stream, &|_| Answer::Right);
                stream.conn.send_close_notify();
                let _ = stream.flush(); // the client may have hung up
            }
        });
        address
    }

    #[test]
    fn servers_are_trusted_as_the_system_trusts_them() {
        let server = serve_tls();
        let authority = folder_of_certificates().join("ca.pem");
        let told = fetch(&server, &[("SSL_CERT_FILE", authority.to_str().unwrap())]);
        assert!(told.contains("fetched") && told.contains("train-images-idx3-ubyte.gz"), "{told}");
    }

    #[test]
    fn a_server_that_nobody_vouches_for_is_refused_with_a_remedy() {
        let told = fetch(&serve_tls(), &[]);
        assert!(told.contains("UnknownIssuer") && told.contains("set SSL_CERT_FILE to a file"), "{told}");
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let dir = TempDir::new().unwrap();
        for name in ["absent.pem", "empty.pem"] {
            let path = dir.path().join(name);
            fs::write(dir.path().join("empty.pem"), "").unwrap();
            let told = fetch("https://localhost:9/mnist", &[("SSL_CERT_FILE", path.to_str().unwrap())]);
            assert!(told.contains(&format!("no certificate in SSL_CERT_FILE={}", path.display())), "{told}");
        }
    }

    /// A proxy that answers for every server to which it is asked to connect. Returns its address.
    fn serve_as_proxy() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let lines = BufReader::new(&stream).lines().map_while(|line| line.ok());
                let request: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
                if request.first().is_some_and(|line| line.starts_with("CONNECT mirror.invalid:80 ")) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                    respond(stream, &|_| Answer::Right);
                }
            }
        });
        address
    }

    #[test]
    fn a_proxy_is_asked_where_the_environment_names_one() {
        let far = "http://mirror.invalid/mnist"; // only a proxy could know this name
        let proxy = serve_as_proxy();
        for variable in ["HTTP_PROXY", "ALL_PROXY"] {
            let told = fetch(far, &[(variable, &proxy)]);
            assert!(told.contains("fetched"), "{variable}: {told}");
        }
        assert!(fetch(far, &[]).contains("failed"));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let told = fetch(&serve(|_| Answer::Right), &[("HTTP_PROXY", &format!("http://{closed}"))]);
        assert!(told.contains("failed"), "a proxy that the environment names is not passed by: {told}");
    }
}

#[test]
fn a_folder_of_this_machine_is_a_mirror() {
    let (dir, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for name in NAMES {
        fs::write(folder.path().join(name.replace("-idx", ".idx")), content(name)).unwrap();
    }
    let mirror = folder.path().to_str().unwrap();
    let (paths, lines) = complete(&sources(&[mirror]), &dir);
    paths.unwrap();
    assert_eq!(verified(&dir), sorted_names());
    assert_eq!(lines[0], format!("Copying {mirror}/train-images.idx3-ubyte"));

    let (dir, other) = (TempDir::new().unwrap(), folder.path().join("train-images.idx3-ubyte"));
    fs::write(&other, content("other")).unwrap();
    let error = complete(&sources(&[mirror]), &dir).0.unwrap_err().to_string();
    assert!(error.contains(&format!("{}: expected content of SHA-256 ", other.display())), "{error}");
    assert_eq!(verified(&dir), [""; 0]);
}
