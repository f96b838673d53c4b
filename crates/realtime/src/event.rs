//! Events as they go over the wire: encoded once, whatever the audience.

use std::time::Instant;

use bytes::Bytes;
use chatapi_domain::{Change, Message, MessageId, MessageView, ReceiptKind, Role, Room, RoomId, RoomView, UserId};
use serde::Serialize;

/// What a session takes out of its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// A message's event.
    Message {
        /// Its room.
        room_id: RoomId,
        /// Its place in the room.
        seq: i64,
        /// The event, JSON in UTF-8.
        text: Bytes,
    },
    /// The event of an edit or deletion.
    Change {
        /// Its room.
        room_id: RoomId,
        /// Its number.
        change: i64,
        /// The event, JSON in UTF-8.
        text: Bytes,
    },
    /// Any other event.
    Other(Bytes),
    /// The session has come to a room, perhaps not for the first time: what it is sent from now on
    /// does not follow on what it was sent before.
    Entered(RoomId),
    /// The session has come to a room that is already further: it must read what is between.
    CatchUp {
        /// The room.
        room_id: RoomId,
        /// From behind this message.
        after_seq: i64,
        /// From behind this change.
        after_change: i64,
    },
    /// What let the session in may do so no more.
    Recheck {
        /// What was known before this moment may be wrong.
        since: Instant,
    },
}

/// `{"type": kind, …}` and the fields of `view`.
pub(crate) fn encode(kind: &str, view: &impl Serialize) -> Bytes {
    let mut text = Vec::with_capacity(384);
    text.extend_from_slice(b"{\"type\":\"");
    text.extend_from_slice(kind.as_bytes());
    text.push(b'"');
    let fields = text.len();
    // A view of ours always has a JSON form; if ever it had none, the event would be bare.
    if serde_json::to_writer(&mut text, view).is_err() || text.get(fields) != Some(&b'{') {
        text.truncate(fields);
        text.push(b'}');
    } else if text.get(fields + 1) == Some(&b'}') {
        text.remove(fields);
    } else {
        text[fields] = b',';
    }
    text.into()
}

pub(crate) fn message(message: &Message) -> Bytes {
    encode("message", &MessageView::from(message))
}

pub(crate) fn change(change: &Change) -> Bytes {
    #[derive(Serialize)]
    struct Edited<'a> {
        #[serde(flatten)]
        message: MessageView<'a>,
        change: i64,
    }
    #[derive(Serialize)]
    struct Deleted {
        room_id: RoomId,
        message_id: MessageId,
        seq: i64,
        change: i64,
    }
    let (number, message) = (change.change, &change.message);
    if message.deleted_at.is_some() {
        let (room_id, message_id, seq) = (message.room_id, message.message_id, message.seq);
        encode("message.deleted", &Deleted { room_id, message_id, seq, change: number })
    } else {
        encode("message.edited", &Edited { message: message.into(), change: number })
    }
}

pub(crate) fn room(kind: &str, room: &Room) -> Bytes {
    #[derive(Serialize)]
    struct OfRoom<'a> {
        room_id: RoomId,
        room: RoomView<'a>,
    }
    encode(kind, &OfRoom { room_id: room.room_id, room: room.into() })
}

pub(crate) fn room_deleted(room_id: RoomId) -> Bytes {
    #[derive(Serialize)]
    struct Deleted {
        room_id: RoomId,
    }
    encode("room.deleted", &Deleted { room_id })
}

pub(crate) fn members_added(room: &Room, user_ids: &[UserId], role: Role) -> Bytes {
    #[derive(Serialize)]
    struct Added<'a> {
        room_id: RoomId,
        user_ids: &'a [UserId],
        role: Role,
        room: RoomView<'a>,
    }
    encode("member.added", &Added { room_id: room.room_id, user_ids, role, room: room.into() })
}

pub(crate) fn member_removed(room_id: RoomId, user_id: &UserId) -> Bytes {
    #[derive(Serialize)]
    struct Removed<'a> {
        room_id: RoomId,
        user_id: &'a UserId,
    }
    encode("member.removed", &Removed { room_id, user_id })
}

pub(crate) fn ack(room_id: RoomId, user_id: &UserId, seq: i64, kind: ReceiptKind) -> Bytes {
    #[derive(Serialize)]
    struct Ack<'a> {
        room_id: RoomId,
        user_id: &'a UserId,
        seq: i64,
        kind: ReceiptKind,
    }
    encode("ack.received", &Ack { room_id, user_id, seq, kind })
}

pub(crate) fn typing(room_id: RoomId, user_id: &UserId, started: bool) -> Bytes {
    #[derive(Serialize)]
    struct Typing<'a> {
        room_id: RoomId,
        user_id: &'a UserId,
        action: &'static str,
    }
    encode("typing", &Typing { room_id, user_id, action: if started { "start" } else { "stop" } })
}

pub(crate) fn presence(user_id: &UserId, online: bool) -> Bytes {
    #[derive(Serialize)]
    struct Presence<'a> {
        user_id: &'a UserId,
        status: &'static str,
    }
    encode("presence.update", &Presence { user_id, status: if online { "online" } else { "offline" } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_comes_first_and_the_rest_is_the_view() {
        #[derive(Serialize)]
        struct Empty {}
        let user = UserId::parse("user", "a\"b").expect("a user id");

        assert_eq!(encode("pong", &Empty {}), r#"{"type":"pong"}"#);
        assert_eq!(presence(&user, true), r#"{"type":"presence.update","user_id":"a\"b","status":"online"}"#);
    }
}
