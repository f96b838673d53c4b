//! What a socket tells.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::{Change, Message, ReceiptKind, Room};

/// Whether somebody began or stopped to type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Typing {
    /// Began.
    Start,
    /// Stopped, or has not typed for a while.
    Stop,
}

/// Something that happened. The events of a room that are numbered, [`Message`](Self::Message),
/// [`Edited`](Self::Edited) and [`Deleted`](Self::Deleted), come in order, each once, and without
/// a gap; the others come as they happen, and those of a time without connection do not come.
#[derive(Debug, Clone)]
pub enum Event {
    /// The socket is open. After the first of these, no message of a room of the user is missed.
    Connected {
        /// The server's name for the connection, `conn_…`.
        connection_id: String,
        /// Who is connected.
        user_id: String,
    },
    /// The connection was lost, or could not be made. It is tried again by itself.
    Disconnected {
        /// The close code, if there was one.
        code: Option<u16>,
        /// What happened, for people.
        reason: String,
        /// After which time it is tried again.
        retry_in: Duration,
    },
    /// A message was sent, also by the user.
    Message(Box<Message>),
    /// A message was edited.
    Edited(Box<Change>),
    /// A message was deleted.
    Deleted {
        /// Its room.
        room_id: String,
        /// Its id.
        message_id: String,
        /// Its place in the room.
        seq: i64,
        /// The number of the change.
        change: i64,
    },
    /// A member is further now.
    Ack {
        /// In this room.
        room_id: String,
        /// Who.
        user_id: String,
        /// Up to here.
        seq: i64,
        /// In this respect.
        kind: ReceiptKind,
    },
    /// Somebody types.
    Typing {
        /// In this room.
        room_id: String,
        /// Who.
        user_id: String,
        /// Whether it began or stopped.
        action: Typing,
    },
    /// Somebody came or went.
    Presence {
        /// Who.
        user_id: String,
        /// `online` or `offline`.
        status: String,
    },
    /// A room was made, and the user is in it.
    RoomCreated(Box<Room>),
    /// A room has a new name or new data.
    RoomUpdated(Box<Room>),
    /// A room is gone.
    RoomDeleted {
        /// Its id.
        room_id: String,
    },
    /// Somebody, perhaps the user, is now in a room.
    MemberAdded {
        /// The room.
        room_id: String,
        /// Who.
        user_ids: Vec<String>,
        /// The room as it is now, if the server says.
        room: Option<Box<Room>>,
    },
    /// Somebody, perhaps the user, is no longer in a room.
    MemberRemoved {
        /// The room.
        room_id: String,
        /// Who.
        user_ids: Vec<String>,
    },
    /// The tenant's backend tells the user something.
    Notification {
        /// Its id, `notif_…`; to be acknowledged.
        notification_id: String,
        /// What it is about.
        topic: String,
        /// What it says, as it was sent.
        payload: Option<Box<RawValue>>,
    },
    /// The server is about to close the connection.
    Shutdown {
        /// When to come back; it is done by itself.
        reconnect_after: Duration,
    },
    /// Something that this version does not know.
    Other(Value),
}

#[derive(Deserialize)]
struct Deleted {
    room_id: String,
    message_id: String,
    seq: i64,
    change: i64,
}

#[derive(Deserialize)]
struct Ack {
    room_id: String,
    user_id: String,
    seq: i64,
    kind: ReceiptKind,
}

#[derive(Deserialize)]
struct TypingFrame {
    room_id: String,
    user_id: String,
    action: Typing,
}

#[derive(Deserialize)]
struct Presence {
    user_id: String,
    status: String,
}

#[derive(Deserialize)]
struct WithRoom {
    room: Box<Room>,
}

#[derive(Deserialize)]
struct RoomDeleted {
    room_id: String,
}

#[derive(Deserialize)]
struct Membership {
    room_id: Option<String>,
    user_id: Option<String>,
    #[serde(default)]
    user_ids: Vec<String>,
    room: Option<Box<Room>>,
}

#[derive(Deserialize)]
struct Notification {
    #[serde(rename = "notification_id")]
    id: String,
    topic: String,
    payload: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Shutdown {
    reconnect_after_ms: u64,
}

impl Event {
    /// Reads a frame of this type.
    ///
    /// # Errors
    ///
    /// If it is no JSON, or is a numbered event without what orders it: those may not be passed over.
    pub(crate) fn parse(kind: &str, text: &str) -> Result<Self, serde_json::Error> {
        match kind {
            "message" => serde_json::from_str(text).map(Self::Message),
            "message.edited" => serde_json::from_str(text).map(Self::Edited),
            "message.deleted" => read(text, |Deleted { room_id, message_id, seq, change }| Self::Deleted {
                room_id,
                message_id,
                seq,
                change,
            }),
            _ => Self::parse_passing(kind, text).or_else(|_| serde_json::from_str(text).map(Self::Other)),
        }
    }

    fn parse_passing(kind: &str, text: &str) -> Result<Self, serde_json::Error> {
        match kind {
            "ack.received" => {
                read(text, |Ack { room_id, user_id, seq, kind }| Self::Ack { room_id, user_id, seq, kind })
            }
            "typing" => {
                read(text, |TypingFrame { room_id, user_id, action }| Self::Typing { room_id, user_id, action })
            }
            "presence.update" => read(text, |Presence { user_id, status }| Self::Presence { user_id, status }),
            "room.created" => room(text).map(Self::RoomCreated),
            "room.updated" => room(text).map(Self::RoomUpdated),
            "room.deleted" => read(text, |RoomDeleted { room_id }| Self::RoomDeleted { room_id }),
            "member.added" => membership(text, |room_id, user_ids, room| Self::MemberAdded { room_id, user_ids, room }),
            "member.removed" => membership(text, |room_id, user_ids, _| Self::MemberRemoved { room_id, user_ids }),
            "notification" => read(text, |Notification { id, topic, payload }| Self::Notification {
                notification_id: id,
                topic,
                payload,
            }),
            "server.shutdown" => read(text, |Shutdown { reconnect_after_ms }| Self::Shutdown {
                reconnect_after: Duration::from_millis(reconnect_after_ms),
            }),
            _ => serde_json::from_str(text).map(Self::Other),
        }
    }
}

fn read<T: DeserializeOwned>(text: &str, event: impl FnOnce(T) -> Event) -> Result<Event, serde_json::Error> {
    serde_json::from_str(text).map(event)
}

/// The room of an event, whether under `room` or at the top.
fn room(text: &str) -> Result<Box<Room>, serde_json::Error> {
    serde_json::from_str(text).map(|WithRoom { room }| room).or_else(|_| serde_json::from_str(text))
}

/// One who comes or goes is named by `user_id`, several by `user_ids`.
fn membership(
    text: &str,
    event: impl FnOnce(String, Vec<String>, Option<Box<Room>>) -> Event,
) -> Result<Event, serde_json::Error> {
    let Membership { room_id, user_id, mut user_ids, room } = serde_json::from_str(text)?;
    user_ids.extend(user_id);
    let room_id = room_id.or_else(|| room.as_ref().map(|room| room.room_id.clone()));
    let room_id = room_id.ok_or_else(|| serde::de::Error::missing_field("room_id"))?;
    Ok(event(room_id, user_ids, room))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rooms::tests::room_json;

    fn parse(frame: &Value) -> Event {
        Event::parse(frame["type"].as_str().expect("a type"), &frame.to_string()).expect("an event")
    }

    #[test]
    fn each_event_of_the_contract_is_understood() {
        let room = room_json("room_1", 3, 1);

        for frame in [
            json!({"type": "ack.received", "room_id": "room_1", "user_id": "bob", "seq": 4, "kind": "read"}),
            json!({"type": "typing", "room_id": "room_1", "user_id": "bob", "action": "start"}),
            json!({"type": "presence.update", "user_id": "bob", "status": "online"}),
            json!({"type": "room.created", "room": room}),
            json!({"type": "room.updated", "room": room}),
            json!({"type": "room.deleted", "room_id": "room_1"}),
            json!({"type": "member.added", "room_id": "room_1", "user_id": "bob", "room": room}),
            json!({"type": "member.removed", "room_id": "room_1", "user_ids": ["bob"]}),
            json!({"type": "message.deleted", "room_id": "room_1", "message_id": "msg_1", "seq": 1, "change": 2}),
            json!({"type": "notification", "notification_id": "notif_1", "topic": "t", "payload": null}),
            json!({"type": "server.shutdown", "reconnect_after_ms": 250}),
        ] {
            assert!(!matches!(parse(&frame), Event::Other(_)), "{frame}");
        }
    }

    #[test]
    fn who_joins_is_named_one_way_or_the_other() {
        let one = json!({"type": "member.added", "room": room_json("room_1", 3, 1), "user_id": "bob"});
        let more = json!({"type": "member.added", "room_id": "room_1", "user_ids": ["a", "b"]});

        assert!(matches!(parse(&one), Event::MemberAdded { room_id, user_ids, room: Some(_) }
            if room_id == "room_1" && user_ids == ["bob"]));
        assert!(matches!(parse(&more), Event::MemberAdded { user_ids, room: None, .. } if user_ids == ["a", "b"]));
    }

    #[test]
    fn what_is_new_or_odd_passes_unless_it_is_numbered() {
        assert!(matches!(parse(&json!({"type": "party", "n": 1})), Event::Other(value) if value["n"] == 1));
        assert!(matches!(parse(&json!({"type": "typing"})), Event::Other(_)));
        for kind in ["message", "message.edited", "message.deleted"] {
            assert!(Event::parse(kind, r#"{"seq": 1}"#).is_err(), "{kind}");
        }
        assert!(Event::parse("party", "no JSON").is_err());
    }
}
