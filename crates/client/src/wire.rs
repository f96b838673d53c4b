//! The frames of the socket, as they are written; events are in `event.rs`.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{Message, NewMessage, Position, ReceiptKind};

/// Writes a frame.
pub(crate) fn frame(kind: &str, request_id: &str, fields: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Frame<'a, T> {
        #[serde(rename = "type")]
        kind: &'a str,
        request_id: &'a str,
        #[serde(flatten)]
        fields: &'a T,
    }
    serde_json::to_string(&Frame { kind, request_id, fields }).expect("texts and numbers can be written as JSON")
}

/// What every frame of the server begins with.
#[derive(Deserialize)]
pub(crate) struct Head<'a> {
    #[serde(rename = "type", borrow)]
    pub(crate) kind: Cow<'a, str>,
    pub(crate) request_id: Option<String>,
}

/// The first frame.
#[derive(Deserialize)]
pub(crate) struct Connected {
    pub(crate) connection_id: String,
    pub(crate) user_id: String,
    pub(crate) heartbeat_seconds: Option<f64>,
}

/// A command that failed.
#[derive(Deserialize)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    #[serde(default)]
    pub(crate) message: String,
}

/// The end of the answer to a sync.
#[derive(Deserialize)]
pub(crate) struct SyncDone {
    #[serde(default)]
    pub(crate) rooms: HashMap<String, RoomDone>,
}

/// How far a sync went in a room.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum RoomDone {
    /// To here, and perhaps not to the end.
    Reached {
        last_seq: i64,
        last_change: i64,
        #[serde(default)]
        has_more: bool,
    },
    /// The user may not see it; what else is said of it does not matter.
    Hidden {},
}

/// The answer to a message that was sent.
#[derive(Deserialize)]
pub(crate) struct Sent {
    pub(crate) message: Box<Message>,
}

/// The answer to a new token.
#[derive(Deserialize)]
pub(crate) struct Refreshed {
    pub(crate) expires_at: Option<String>,
}

/// An answer that says no more than that it was done.
#[derive(Deserialize)]
pub(crate) struct Done {}

/// `sync`
#[derive(Serialize)]
pub(crate) struct Sync<'a> {
    pub(crate) rooms: HashMap<&'a str, After>,
}

/// After what a room is to be sent.
#[derive(Serialize)]
pub(crate) struct After {
    after_seq: i64,
    after_change: i64,
}

impl From<Position> for After {
    fn from(Position { seq, change }: Position) -> Self {
        Self { after_seq: seq, after_change: change }
    }
}

/// `send_message`
#[derive(Serialize)]
pub(crate) struct Send<'a> {
    pub(crate) room_id: &'a str,
    #[serde(flatten)]
    pub(crate) message: &'a NewMessage,
}

/// `ack`, of messages
#[derive(Serialize)]
pub(crate) struct Ack<'a> {
    pub(crate) room_id: &'a str,
    pub(crate) seq: i64,
    pub(crate) kind: ReceiptKind,
}

/// `ack`, of a notification
#[derive(Serialize)]
pub(crate) struct Notified<'a> {
    pub(crate) notification_id: &'a str,
}

/// `typing.start`, `typing.stop`, `subscribe`, `unsubscribe`
#[derive(Serialize)]
pub(crate) struct InRoom<'a> {
    pub(crate) room_id: &'a str,
}

/// `refresh`
#[derive(Serialize)]
pub(crate) struct Refresh<'a> {
    pub(crate) token: &'a str,
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn data_goes_out_as_it_is() {
        let meta = RawValue::from_string(r#"{"z": 1, "a": 2}"#.to_owned()).expect("JSON");

        let text = frame("send_message", "c1", &Send { room_id: "room_1", message: &NewMessage::new("hi").meta(meta) });

        let fields = r#""request_id":"c1","room_id":"room_1","content":"hi","meta":{"z": 1, "a": 2}}"#;
        assert_eq!(text, format!(r#"{{"type":"send_message",{fields}"#));
    }
}
