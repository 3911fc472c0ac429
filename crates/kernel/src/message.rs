//! Jupyter's messages: how they are signed, read and made.

use bytes::Bytes;
use chrono::{SecondsFormat, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;
use zeromq::ZmqMessage;

const DELIMITER: &[u8] = b"<IDS|MSG>";

/// The version of Jupyter's protocol that is spoken.
pub(crate) const PROTOCOL: &str = "5.3";

/// Signs messages, unless the client wants none signed.
#[derive(Clone)]
pub(crate) struct Key(Option<Hmac<Sha256>>);

impl Key {
    pub(crate) fn new(key: &str) -> Self {
        Self((!key.is_empty()).then(|| Hmac::new_from_slice(key.as_bytes()).expect("a key of any length will do")))
    }

    fn over(&self, parts: &[Bytes]) -> Option<Hmac<Sha256>> {
        let mut mac = self.0.clone()?;
        parts.iter().for_each(|part| mac.update(part));
        Some(mac)
    }
}

/// A message from a client.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Who sent it, as the socket needs it for the answer.
    pub(crate) identities: Vec<Bytes>,
    pub(crate) header: Value,
    pub(crate) content: Value,
}

impl Message {
    /// Reads a message.
    ///
    /// # Errors
    /// What is wrong with it: it is cut off, it is not signed with the key, or it is not JSON.
    pub(crate) fn read(message: ZmqMessage, key: &Key) -> Result<Self, String> {
        let mut identities = message.into_vec();
        let delimiter = identities.iter().position(|frame| frame == DELIMITER).ok_or("no delimiter")?;
        let parts = identities.split_off(delimiter);
        let [_, signature, header, parent, metadata, content, ..] = &parts[..] else {
            return Err(format!("{} parts instead of 6", parts.len()));
        };
        let signed = [header, parent, metadata, content].map(Bytes::clone);
        if let Some(mac) = key.over(&signed) {
            let signature =
                hex::decode(signature).map_err(|error| format!("its signature is not hexadecimal: {error}"))?;
            mac.verify_slice(&signature).map_err(|_| "its signature is wrong")?;
        }
        let parse = |part: &Bytes| serde_json::from_slice(part).map_err(|error| format!("it is not JSON: {error}"));
        Ok(Self { identities, header: parse(header)?, content: parse(content)? })
    }

    pub(crate) fn kind(&self) -> &str {
        self.header["msg_type"].as_str().unwrap_or("")
    }

    /// A text of the content; empty if there is none.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.content[name].as_str().unwrap_or("")
    }

    /// A yes or no of the content.
    pub(crate) fn flag(&self, name: &str, default: bool) -> bool {
        self.content[name].as_bool().unwrap_or(default)
    }
}

/// Makes the kernel's messages.
#[derive(Clone)]
pub(crate) struct Sealer {
    key: Key,
    session: String,
}

impl Sealer {
    pub(crate) fn new(key: Key) -> Self {
        Self { key, session: Uuid::new_v4().to_string() }
    }

    /// Makes a message for those `to` whom the first frames say: the identities of a client, or the topic of a broadcast.
    pub(crate) fn seal(&self, to: &[Bytes], kind: &str, parent: &Value, content: &Value) -> ZmqMessage {
        let header = json!({
            "msg_id": Uuid::new_v4().to_string(),
            "session": self.session,
            "username": "kernel",
            "date": Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
            "msg_type": kind,
            "version": PROTOCOL,
        });
        let parts = [&header, parent, &json!({}), content].map(|part| Bytes::from(part.to_string()));
        let signature = self.key.over(&parts).map(|mac| hex::encode(mac.finalize().into_bytes()));
        let mut frames = to.to_vec();
        frames.push(Bytes::from_static(DELIMITER));
        frames.push(Bytes::from(signature.unwrap_or_default()));
        frames.extend(parts);
        ZmqMessage::try_from(frames).expect("there are frames")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(key: &str) -> ZmqMessage {
        let parent = json!({"msg_id": "1"});
        Sealer::new(Key::new(key)).seal(&[Bytes::from_static(b"me")], "execute_request", &parent, &json!({"code": "1"}))
    }

    #[test]
    fn a_message_is_read_as_it_was_made() {
        for key in ["", "secret"] {
            let message = Message::read(sealed(key), &Key::new(key)).unwrap();
            assert_eq!((message.kind(), message.text("code")), ("execute_request", "1"));
            assert_eq!(message.identities, [Bytes::from_static(b"me")]);
            assert!(message.flag("silent", true) && !message.flag("silent", false));
        }
    }

    #[test]
    fn a_message_that_was_changed_or_signed_with_another_key_is_refused() {
        assert_eq!(Message::read(sealed("secret"), &Key::new("other")).unwrap_err(), "its signature is wrong");
        let mut frames = sealed("secret").into_vec();
        *frames.last_mut().unwrap() = Bytes::from_static(b"{}");
        let changed = ZmqMessage::try_from(frames).unwrap();
        assert_eq!(Message::read(changed, &Key::new("secret")).unwrap_err(), "its signature is wrong");
        let unsigned = Message::read(sealed(""), &Key::new("secret"));
        assert_eq!(unsigned.unwrap_err(), "its signature is wrong");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let key = Key::new("");
        let read = |frames: &[&'static [u8]]| {
            let frames: Vec<_> = frames.iter().map(|frame| Bytes::from_static(frame)).collect();
            Message::read(ZmqMessage::try_from(frames).unwrap(), &key).unwrap_err()
        };
        assert_eq!(read(&[b"x"]), "no delimiter");
        assert_eq!(read(&[b"x", DELIMITER, b"", b"{}"]), "3 parts instead of 6");
        assert!(read(&[DELIMITER, b"", b"{}", b"{}", b"{}", b"\xff"]).contains("not JSON"));
    }
}
