//! The kernel's sockets: each is read and written by tasks of its own, so that none ever waits for another.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use zeromq::{PubSocket, RepSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

use crate::message::{Key, Message, Sealer};

/// What the client writes into the connection file.
pub(crate) struct Connection {
    address: String,
    ports: Value,
    key: Key,
}

/// The sockets by which clients ask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Channel {
    Shell,
    Control,
    Stdin,
}

impl Connection {
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("could not understand the connection file {}", file.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let ports: Value = serde_json::from_str(text)?;
        let text = |name: &str| ports[name].as_str().with_context(|| format!("`{name}` is missing"));
        let (transport, ip, key) = (text("transport")?, text("ip")?, text("key")?);
        if transport != "tcp" {
            bail!("expected the transport tcp, found {transport}");
        }
        if let Some(scheme) =
            ports["signature_scheme"].as_str().filter(|scheme| !key.is_empty() && *scheme != "hmac-sha256")
        {
            bail!("expected the signature scheme hmac-sha256, found {scheme}");
        }
        Ok(Self { address: format!("{transport}://{ip}"), key: Key::new(key), ports })
    }

    async fn bind<S: Socket>(&self, name: &str) -> anyhow::Result<S> {
        let port =
            self.ports[name].as_u64().with_context(|| format!("`{name}` is missing from the connection file"))?;
        let endpoint = format!("{}:{port}", self.address);
        let mut socket = S::new();
        socket.bind(&endpoint).await.with_context(|| format!("could not listen on {endpoint} ({name})"))?;
        Ok(socket)
    }

    /// Opens all sockets. What clients ask is handed to `requests`.
    pub(crate) async fn open<E: Send + 'static>(
        self,
        requests: UnboundedSender<E>,
        event: fn(Channel, Message) -> E,
    ) -> anyhow::Result<Outgoing> {
        let heartbeat: RepSocket = self.bind("hb_port").await?;
        let iopub: PubSocket = self.bind("iopub_port").await?;
        let mut senders = Vec::new();
        let mut tasks = Vec::new();
        for (channel, name) in
            [(Channel::Shell, "shell_port"), (Channel::Control, "control_port"), (Channel::Stdin, "stdin_port")]
        {
            let socket: RouterSocket = self.bind(name).await?;
            let (writer, mut reader) = socket.split();
            let (key, requests) = (self.key.clone(), requests.clone());
            tokio::spawn(async move {
                loop {
                    let Ok(message) = reader.recv().await else {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    };
                    match Message::read(message, &key) {
                        Ok(message) => drop(requests.send(event(channel, message))),
                        Err(problem) => eprintln!("ignored a message of a client: {problem}"),
                    }
                }
            });
            let (sender, receiver) = unbounded_channel();
            senders.push(sender);
            tasks.push(tokio::spawn(write(writer, receiver, Arc::default())));
        }
        tokio::spawn(echo(heartbeat));
        let backlog = Arc::new(AtomicUsize::new(0));
        let (broadcasts, receiver) = unbounded_channel();
        tasks.push(tokio::spawn(write(iopub, receiver, Arc::clone(&backlog))));
        Ok(Outgoing { sealer: Sealer::new(self.key), broadcasts, senders, backlog, tasks })
    }
}

/// Writes messages in their order. A client that is gone, or that does not read, is not the others' fault.
async fn write<S: SocketSend + Send>(
    mut socket: S,
    mut messages: UnboundedReceiver<ZmqMessage>,
    backlog: Arc<AtomicUsize>,
) {
    while let Some(message) = messages.recv().await {
        let size = size(&message);
        let _ = socket.send(message).await;
        let _ = backlog.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| Some(sum.saturating_sub(size)));
    }
    // What is sent is with the operating system, but a socket that is closed at once may take it back.
    tokio::time::sleep(Duration::from_millis(20)).await;
}

async fn echo(mut socket: RepSocket) {
    loop {
        match socket.recv().await {
            Ok(message) => drop(socket.send(message).await),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn size(message: &ZmqMessage) -> usize {
    message.iter().map(Bytes::len).sum()
}

/// The kernel's answers and broadcasts.
pub(crate) struct Outgoing {
    sealer: Sealer,
    broadcasts: UnboundedSender<ZmqMessage>,
    senders: Vec<UnboundedSender<ZmqMessage>>,
    /// The bytes that wait to be broadcast.
    backlog: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Outgoing {
    /// Broadcasts a message about the request whose header is `parent`.
    pub(crate) fn publish(&self, kind: &str, parent: &Value, content: &Value) {
        let message = self.sealer.seal(&[Bytes::copy_from_slice(kind.as_bytes())], kind, parent, content);
        self.backlog.fetch_add(size(&message), Ordering::Relaxed);
        let _ = self.broadcasts.send(message);
    }

    /// Sends a message to the client that sent `request`.
    pub(crate) fn send(&self, channel: Channel, kind: &str, request: &Message, content: &Value) {
        let message = self.sealer.seal(&request.identities, kind, &request.header, content);
        let _ = self.senders[channel as usize].send(message);
    }

    /// Answers a request.
    pub(crate) fn reply(&self, channel: Channel, request: &Message, content: &Value) {
        let kind = request.kind().replace("_request", "_reply");
        self.send(channel, &kind, request, content);
    }

    /// The bytes that no client has read yet.
    pub(crate) fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Hands all messages to the operating system, for at most `limit`.
    pub(crate) async fn close(self, limit: Duration) {
        let Self { broadcasts, senders, tasks, .. } = self;
        drop((broadcasts, senders));
        let all = async {
            for task in tasks {
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(limit, all).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_files_that_cannot_be_used_say_why() {
        let problem = |text: &str| format!("{:#}", Connection::parse(text).err().unwrap());
        assert!(problem("{").contains("EOF"));
        assert_eq!(problem(r#"{"transport": "tcp", "ip": "127.0.0.1"}"#), "`key` is missing");
        assert!(problem(r#"{"transport": "ipc", "ip": "x", "key": ""}"#).contains("found ipc"));
        let scheme = r#"{"transport": "tcp", "ip": "x", "key": "k", "signature_scheme": "hmac-md5"}"#;
        assert!(problem(scheme).contains("found hmac-md5"));
    }
}
