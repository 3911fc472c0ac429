//! The kernel's side of the connections from the cell process and its relay.

use std::io;
use std::path::Path;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::Sender;

use crate::records::{FLUSHER, RELAY, Record};

/// An event on a connection, with the connection's number.
pub(crate) enum Event {
    Relay(u64, Writer),
    Record(u64, Record),
    RelayGone(u64),
    Flusher(u64, Writer),
    Flushed,
    FlusherGone(u64),
}

/// Sends requests to the other side.
pub(crate) struct Writer(OwnedWriteHalf);

impl Writer {
    /// Sends a one-byte request. If the other side is gone, an event reports it.
    pub(crate) async fn ask(&mut self, request: u8) {
        let _ = self.0.write_all(&[request]).await;
    }
}

/// Starts to accept connections. The channel is bounded: writers block while its events are not handled.
pub(crate) fn listen(socket: &Path, events: Sender<Event>) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    tokio::spawn(async move {
        for number in 1.. {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(number, stream, events.clone()))),
                // Possibly out of file descriptors.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    });
    Ok(())
}

async fn serve(number: u64, stream: UnixStream, events: Sender<Event>) {
    let (mut reader, writer) = stream.into_split();
    match reader.read_u8().await {
        Ok(RELAY) => {
            let _ = events.send(Event::Relay(number, Writer(writer))).await;
            if let Err(error) = read_records(number, reader, &events).await {
                eprintln!("could not read the output of the cells: {error}");
            }
            let _ = events.send(Event::RelayGone(number)).await;
        }
        Ok(FLUSHER) => {
            let _ = events.send(Event::Flusher(number, Writer(writer))).await;
            while reader.read_u8().await.is_ok() {
                let _ = events.send(Event::Flushed).await;
            }
            let _ = events.send(Event::FlusherGone(number)).await;
        }
        _ => {}
    }
}

async fn read_records(number: u64, mut reader: OwnedReadHalf, events: &Sender<Event>) -> io::Result<()> {
    let mut bytes = BytesMut::with_capacity(1 << 16);
    loop {
        while let Some(record) = Record::take(&mut bytes)? {
            if events.send(Event::Record(number, record)).await.is_err() {
                return Ok(());
            }
        }
        bytes.reserve(1 << 16);
        // A killed process may reset its connection.
        if reader.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return Ok(());
        }
    }
}
