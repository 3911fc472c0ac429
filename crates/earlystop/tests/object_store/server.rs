//! A server that speaks S3: moto, in a process of its own.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::proxy::ask;
use crate::python;

pub(crate) struct Server {
    pub(crate) port: u16,
    process: Child,
}

impl Server {
    /// Starts a server without buckets, if this machine has moto.
    pub(crate) fn start() -> Option<Self> {
        let python = python::with("moto.server")?;
        let port = free_port();
        let mut command = Command::new(python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Server { port, process };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "the server does not start");
            sleep(Duration::from_millis(50));
        }
        Some(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Sends a request with a signature that moto does not check.
fn send(port: u16, method: &str, path: &str) -> Vec<u8> {
    let signed = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x";
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {signed}\r\nContent-Length: 0\r\n\r\n");
    let answer = ask(port, head.as_bytes(), &[]).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    answer
}

pub(crate) fn create_bucket(port: u16, bucket: &str) {
    send(port, "PUT", &format!("/{bucket}"));
}

/// The names of all objects below a prefix, without it.
pub(crate) fn objects(port: u16, bucket: &str, prefix: &str) -> BTreeSet<String> {
    let answer = send(port, "GET", &format!("/{bucket}?list-type=2&prefix={prefix}"));
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("<IsTruncated>false"), "{text}");
    let keys = text.split("<Key>").skip(1).map(|rest| rest.split_once("</Key>").unwrap().0);
    keys.map(|key| key.strip_prefix(prefix).unwrap().to_owned()).collect()
}

/// An object with the head of the answer.
pub(crate) fn object(port: u16, bucket: &str, key: &str) -> Vec<u8> {
    send(port, "GET", &format!("/{bucket}/{key}"))
}
