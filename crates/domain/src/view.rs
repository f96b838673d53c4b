//! Rooms and messages as they go over the wire, in answers, events and webhooks alike.

use serde::Serialize;

use crate::{ClientMessageId, Json, Message, MessageId, Name, Room, RoomId, Timestamp, UserId};

/// A room.
#[derive(Debug, Serialize)]
pub struct RoomView<'a> {
    room_id: RoomId,
    #[serde(rename = "type")]
    room_type: &'static str,
    unique_key: Option<&'a str>,
    name: Option<&'a Name>,
    metadata: Option<&'a Json>,
    first_seq: i64,
    last_seq: i64,
    last_change: i64,
    member_count: i32,
    created_by: Option<&'a UserId>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl<'a> From<&'a Room> for RoomView<'a> {
    fn from(room: &'a Room) -> Self {
        Self {
            room_id: room.room_id,
            room_type: room.room_type.as_str(),
            unique_key: room.unique_key.as_deref(),
            name: room.name.as_ref(),
            metadata: room.metadata.as_ref(),
            first_seq: room.first_seq,
            last_seq: room.last_seq,
            last_change: room.last_change,
            member_count: room.member_count,
            created_by: room.created_by.as_ref(),
            created_at: room.created_at,
            updated_at: room.updated_at,
        }
    }
}

/// A message.
#[derive(Debug, Serialize)]
pub struct MessageView<'a> {
    message_id: MessageId,
    room_id: RoomId,
    sender_id: &'a UserId,
    seq: i64,
    content: &'a str,
    meta: Option<&'a Json>,
    client_message_id: Option<&'a ClientMessageId>,
    created_at: Timestamp,
    edited_at: Option<Timestamp>,
    deleted_at: Option<Timestamp>,
    reply_to: Option<MessageId>,
}

impl<'a> From<&'a Message> for MessageView<'a> {
    fn from(message: &'a Message) -> Self {
        Self {
            message_id: message.message_id,
            room_id: message.room_id,
            sender_id: &message.sender_id,
            seq: message.seq,
            content: &message.content,
            meta: message.meta.as_ref(),
            client_message_id: message.client_message_id.as_ref(),
            created_at: message.created_at,
            edited_at: message.edited_at,
            deleted_at: message.deleted_at,
            reply_to: message.reply_to,
        }
    }
}
