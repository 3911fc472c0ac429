//! The process between evcxr and the cell process. evcxr starts the relay in place of its cell process, and the relay
//! starts the actual cell process.
//!
//! evcxr receives only its own marker lines. All output, and the meaning of the markers, is sent to the kernel through a
//! socket, in order. So nothing that cells print can block evcxr, and no output is lost when the cell process exits or
//! crashes. When the kernel exits, the relay kills the cell process.

mod lines;

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use self::lines::{Lines, Marker, Piece};
use crate::records::{KILL, PING, RELAY, Record, SOCKET};

/// Set in the cell process, to distinguish it from the relay. evcxr's own variable is set in both.
pub(crate) const CELLS: &str = "EARLYSTOP_KERNEL_CELLS";

/// How long an incomplete line is held back.
const PARTIAL: Duration = Duration::from_millis(20);
/// How often the cell process is polled: it may exit while a program that it started keeps the pipes open.
const LOOK: Duration = Duration::from_millis(250);

/// Runs until the cell process or the kernel exits; returns the exit code.
pub(crate) fn run() -> anyhow::Result<i32> {
    let path = std::env::var_os(SOCKET).ok_or_else(|| anyhow::anyhow!("{SOCKET} is not set"))?;
    let mut kernel = UnixStream::connect(path)?;
    let mut cells = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(CELLS, "1")
        // evcxr sets it to 1, and ten lines of evcxr's own functions would follow the message of each panic.
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    kernel.write_all(&[RELAY])?;
    Record::Hello { relay: std::process::id(), cells: cells.id() }.write(&mut kernel)?;
    let mut relay = Relay {
        input: cells.stdin.take(),
        begun_command: Vec::new(),
        out: cells.stdout.take(),
        lines: Lines::default(),
        err: cells.stderr.take(),
        cut_character: Vec::new(),
        cells,
        kernel,
        ended: None,
    };
    let result = relay.relay();
    // After an error the kernel is gone, or evcxr has asked the process to exit.
    let _ = relay.cells.kill();
    let status = relay.cells.wait()?;
    if result.is_ok() {
        let _ = Record::Ended(status.to_string()).write(&mut relay.kernel);
    }
    Ok(status.code().unwrap_or(1))
}

struct Relay {
    cells: Child,
    kernel: UnixStream,
    /// The standard input of the cell process.
    input: Option<ChildStdin>,
    /// An incomplete line from evcxr.
    begun_command: Vec<u8>,
    out: Option<ChildStdout>,
    lines: Lines,
    err: Option<ChildStderr>,
    /// An incomplete character on stderr.
    cut_character: Vec<u8>,
    /// When the exit of the cell process was noticed.
    ended: Option<Instant>,
}

impl Relay {
    /// Forwards output until the cell process has exited and all its output is forwarded.
    fn relay(&mut self) -> io::Result<()> {
        let mut last_out = Instant::now();
        loop {
            let wait = match (self.lines.has_partial(), self.ended) {
                (true, None) => PARTIAL.saturating_sub(last_out.elapsed()),
                (_, Some(_)) => PARTIAL,
                (false, None) => LOOK,
            };
            let [out, err, evcxr, kernel] = self.ready(wait)?;
            if out {
                last_out = Instant::now();
                self.read_out()?;
            } else if last_out.elapsed() >= PARTIAL {
                self.hand_over_partial()?;
            }
            if err {
                self.read_err()?;
            }
            if evcxr {
                self.read_evcxr()?;
            }
            if kernel {
                self.read_kernel()?;
            }
            if self.ended.is_none() && self.cells.try_wait()?.is_some() {
                self.ended = Some(Instant::now());
            }
            let nothing_left = !out && !err && self.ended.is_some_and(|ended| ended.elapsed() > 2 * PARTIAL);
            if (self.out.is_none() && self.err.is_none()) || nothing_left {
                return self.hand_over_partial();
            }
        }
    }

    /// Waits for input; returns what is readable: the cells' stdout, their stderr, evcxr, the kernel.
    fn ready(&self, wait: Duration) -> io::Result<[bool; 4]> {
        let closed: RawFd = -1;
        let out = self.out.as_ref().map_or(closed, AsRawFd::as_raw_fd);
        let err = self.err.as_ref().map_or(closed, AsRawFd::as_raw_fd);
        poll([out, err, io::stdin().as_raw_fd(), self.kernel.as_raw_fd()], wait)
    }

    fn read_out(&mut self) -> io::Result<()> {
        let mut buffer = [0; 65536];
        let length = self.out.as_mut().map_or(Ok(0), |out| out.read(&mut buffer))?;
        if length == 0 {
            self.out = None;
        }
        for piece in self.lines.push(&buffer[..length]) {
            match piece {
                Piece::Text(text) => self.report(Record::Stdout(String::from_utf8_lossy(&text).into_owned()))?,
                Piece::Command(json) => self.report(Record::Command(json))?,
                Piece::Content { mime_type, body } => self.report(Record::Content { mime_type, body })?,
                Piece::Marker(kind, line) => self.marker(kind, &line)?,
            }
        }
        Ok(())
    }

    fn read_err(&mut self) -> io::Result<()> {
        // A marker may have been handled since, which reads stderr too.
        if !self.ready(Duration::ZERO)?[1] {
            return Ok(());
        }
        let mut buffer = [0; 65536];
        let length = self.err.as_mut().map_or(Ok(0), |err| err.read(&mut buffer))?;
        let mut text = std::mem::take(&mut self.cut_character);
        text.extend_from_slice(&buffer[..length]);
        if length == 0 {
            self.err = None;
        } else {
            self.cut_character = text.split_off(text.len() - lines::cut_character(&text));
        }
        if text.is_empty() { Ok(()) } else { self.report(Record::Stderr(String::from_utf8_lossy(&text).into_owned())) }
    }

    /// Reports a marker after everything written to stderr before it, then forwards it to evcxr.
    fn marker(&mut self, kind: Marker, line: &[u8]) -> io::Result<()> {
        while self.ready(Duration::ZERO)?[1] {
            self.read_err()?;
        }
        match kind {
            Marker::Panicked => self.report(Record::Panicked)?,
            Marker::EndedByError => self.report(Record::EndedByError)?,
            Marker::InputRequest => self.report(Record::InputRequested)?,
            Marker::Complete | Marker::TypeChanged => {}
        }
        let mut evcxr = io::stdout().lock();
        evcxr.write_all(line)?;
        evcxr.write_all(b"\n")?;
        evcxr.flush()
    }

    /// Forwards evcxr's instructions and its answers to requests for input.
    fn read_evcxr(&mut self) -> io::Result<()> {
        let mut buffer = [0; 65536];
        let length = io::stdin().lock().read(&mut buffer)?;
        if length == 0 {
            return Err(io::Error::other("evcxr wants the process to end"));
        }
        self.begun_command.extend_from_slice(&buffer[..length]);
        while let Some(end) = self.begun_command.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.begun_command.drain(..=end).collect();
            if line.starts_with(b"LOAD_AND_RUN ") {
                self.report(Record::Started)?;
            }
            // Fails if the process has exited, which is handled elsewhere.
            let _ = self.input.as_mut().map_or(Ok(()), |input| input.write_all(&line));
        }
        Ok(())
    }

    fn read_kernel(&mut self) -> io::Result<()> {
        let mut buffer = [0; 64];
        let length = self.kernel.read(&mut buffer)?;
        if length == 0 {
            return Err(io::Error::other("the kernel has ended"));
        }
        for &request in &buffer[..length] {
            match request {
                PING => {
                    while let [out, err, ..] = self.ready(Duration::ZERO)?
                        && (out || err)
                    {
                        if out {
                            self.read_out()?;
                        }
                        if err {
                            self.read_err()?;
                        }
                    }
                    self.hand_over_partial()?;
                    self.report(Record::Pong)?;
                }
                KILL => self.cells.kill()?,
                _ => {}
            }
        }
        Ok(())
    }

    fn hand_over_partial(&mut self) -> io::Result<()> {
        match self.lines.partial() {
            Some(text) => self.report(Record::Stdout(String::from_utf8_lossy(&text).into_owned())),
            None => Ok(()),
        }
    }

    fn report(&mut self, record: Record) -> io::Result<()> {
        record.write(&mut self.kernel)
    }
}

/// Waits until one of the files is readable or closed. Negative descriptors are ignored.
fn poll(files: [RawFd; 4], wait: Duration) -> io::Result<[bool; 4]> {
    let mut files = files.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let wait = i32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    // SAFETY: the pointer and the length are those of an array that lives across the call.
    let result = unsafe { libc::poll(files.as_mut_ptr(), files.len() as libc::nfds_t, wait) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok([false; 4]) } else { Err(error) };
    }
    Ok(files.map(|file| file.revents != 0))
}
