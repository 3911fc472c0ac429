//! A proxy between a store and a server that makes faults.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Forward,
    /// It is forwarded after a while.
    Delay(Duration),
    /// It is not forwarded, and answered with a status and the code of an error.
    Answer(u16, &'static str),
    /// The connection is cut in the middle of the body.
    Cut,
    /// It is forwarded, and the connection is cut in place of the answer.
    LoseAnswer,
}

/// Decides by the request's line, such as `PUT /bucket/run/commits/1.json`.
type Rule = Box<dyn FnMut(&str) -> Action + Send>;

pub(crate) struct Proxy {
    port: u16,
    is_ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens, and forwards requests to another port.
    pub(crate) fn start(port: u16, to: u16, rule: impl FnMut(&str) -> Action + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (is_ended, rule) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Box::new(rule) as Rule)));
        let ended = is_ended.clone();
        let thread = thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let rule = rule.clone();
                // A connection that breaks is the client's business.
                thread::spawn(move || serve(client.ok()?, to, &rule).ok());
            }
        });
        Proxy { port, is_ended, thread: Some(thread) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().unwrap().join();
    }
}

fn serve(client: TcpStream, to: u16, rule: &Mutex<Rule>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut head, mut bytes) = (Vec::new(), 0);
    loop {
        let start = head.len();
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&head[start..]).to_ascii_lowercase();
        if let Some(length) = line.strip_prefix("content-length:") {
            bytes = length.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    let action = (rule.lock().unwrap())(line.trim_end_matches(" HTTP/1.1"));
    if let Action::Cut = action {
        reader.read_exact(&mut vec![0; bytes / 2])?;
        return client.shutdown(Shutdown::Both);
    }
    let mut body = vec![0; bytes];
    reader.read_exact(&mut body)?;
    match action {
        Action::Delay(time) => sleep(time),
        Action::Answer(status, code) => {
            let body = format!("<Error><Code>{code}</Code><Message>ANSWER-OF-THE-SERVER</Message></Error>");
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            return (&client).write_all(format!("{head}{body}").as_bytes());
        }
        _ => {}
    }
    let answer = ask(to, &head, &body)?;
    if let Action::LoseAnswer = action {
        return client.shutdown(Shutdown::Both);
    }
    (&client).write_all(&answer)
}

/// Sends a request and returns the answer, after which the connection ends.
pub(crate) fn ask(port: u16, head: &[u8], body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    let end = head.len() - 2;
    server.write_all(&head[..end])?;
    server.write_all(b"connection: close\r\n\r\n")?;
    server.write_all(body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let first = answer.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    answer.splice(first..first, *b"Connection: close\r\n");
    Ok(answer)
}
