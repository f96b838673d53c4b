//! Messages and their history.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::{Client, Result};

/// One message of a room.
#[derive(Debug, Clone, Deserialize)]
pub struct Message {
    /// Its id, `msg_…`.
    pub message_id: String,
    /// Its room.
    pub room_id: String,
    /// Who sent it.
    pub sender_id: String,
    /// Its place in the room: 1, 2, 3 … without gaps.
    pub seq: i64,
    /// Its text; empty once it is deleted.
    pub content: String,
    /// The tenant's own data, as it was sent.
    pub meta: Option<Box<RawValue>>,
    /// What its sender calls it.
    pub client_message_id: Option<String>,
    /// When it became durable.
    pub created_at: String,
    /// When it was last edited.
    pub edited_at: Option<String>,
    /// When it was deleted.
    pub deleted_at: Option<String>,
    /// The message that it answers.
    pub reply_to: Option<String>,
}

/// A message to be sent.
#[derive(Debug, Clone, Serialize)]
pub struct NewMessage {
    content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
}

impl NewMessage {
    /// With this text.
    pub fn new(content: impl Into<String>) -> Self {
        Self { content: content.into(), meta: None, client_message_id: None, reply_to: None }
    }

    /// With this data of the tenant.
    #[must_use]
    pub fn meta(mut self, meta: Box<RawValue>) -> Self {
        self.meta = Some(meta);
        self
    }

    /// Under this id, which makes it the same message however often it is sent. Without one the
    /// client makes one up.
    #[must_use]
    pub fn client_message_id(mut self, id: impl Into<String>) -> Self {
        self.client_message_id = Some(id.into());
        self
    }

    /// In answer to this message of the same room.
    #[must_use]
    pub fn reply_to(mut self, message_id: impl Into<String>) -> Self {
        self.reply_to = Some(message_id.into());
        self
    }

    /// With an id in any case, so that it may be sent again.
    pub(crate) fn identified(mut self, client: &Client) -> Self {
        self.client_message_id.get_or_insert_with(|| client.message_id());
        self
    }
}

impl From<&str> for NewMessage {
    fn from(content: &str) -> Self {
        Self::new(content)
    }
}

impl From<String> for NewMessage {
    fn from(content: String) -> Self {
        Self::new(content)
    }
}

/// What a message becomes.
#[derive(Debug, Clone, Serialize)]
pub struct MessageEdit {
    /// Its new text.
    pub content: String,
    /// Its new data: `None` keeps what is there, `Some(None)` clears it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<Option<Box<RawValue>>>,
}

/// Which way a history is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Oldest first.
    #[default]
    Ascending,
    /// Newest first.
    Descending,
}

/// Which part of a history is wanted; by default the beginning.
#[derive(Debug, Clone, Copy, Default)]
pub struct History {
    /// Only messages after this one.
    pub after_seq: Option<i64>,
    /// Only messages before this one.
    pub before_seq: Option<i64>,
    /// Which way.
    pub order: Order,
    /// How many at most, 1 to 100.
    pub limit: Option<u32>,
}

/// A page of a history.
#[derive(Debug, Clone, Deserialize)]
pub struct MessagePage {
    /// The messages, in the order that was asked for.
    pub messages: Vec<Message>,
    /// Whether there are more in that direction.
    pub has_more: bool,
}

/// A message that was edited or deleted, as it is now.
#[derive(Debug, Clone)]
pub struct Change {
    /// The message.
    pub message: Message,
    /// The number of its latest change.
    pub change: i64,
}

impl<'de> Deserialize<'de> for Change {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Number {
            change: i64,
        }
        // Both lie flat in one object. serde's flatten would lose the raw meta.
        let text = Box::<RawValue>::deserialize(input)?;
        let number: Number = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        let message = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        Ok(Self { message, change: number.change })
    }
}

/// A page of changes.
#[derive(Debug, Clone, Deserialize)]
pub struct ChangePage {
    /// The changed messages, in the order of their latest change.
    pub messages: Vec<Change>,
    /// Where the next page begins.
    pub next_after: i64,
    /// Whether there are more.
    pub has_more: bool,
}

impl Client {
    /// Sends a message; when this returns it is durable. It gets a `client_message_id` if it has
    /// none, so that a failure of the way there is tried again without sending it twice.
    ///
    /// # Errors
    ///
    /// Any of [`Error`](crate::Error) that concerns requests.
    pub async fn send(&self, room_id: &str, message: impl Into<NewMessage>) -> Result<Message> {
        let message = message.into().identified(self);
        self.post(&["rooms", room_id, "messages"])?.body(&message).repeatable().fetch().await
    }

    /// A part of a room's history.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn messages(&self, room_id: &str, part: &History) -> Result<MessagePage> {
        let order = (part.order == Order::Descending).then_some("desc");
        let call = self.get(&["rooms", room_id, "messages"])?.query("order", order).query("limit", part.limit);
        call.query("after_seq", part.after_seq).query("before_seq", part.before_seq).fetch().await
    }

    /// One message.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn message(&self, room_id: &str, message_id: &str) -> Result<Message> {
        self.get(&["rooms", room_id, "messages", message_id])?.fetch().await
    }

    /// Edits one's own message.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn edit_message(&self, room_id: &str, message_id: &str, edit: &MessageEdit) -> Result<Message> {
        self.put(&["rooms", room_id, "messages", message_id])?.body(edit).fetch().await
    }

    /// Deletes a message: its text and data are erased.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn delete_message(&self, room_id: &str, message_id: &str) -> Result<()> {
        self.delete(&["rooms", room_id, "messages", message_id])?.run().await
    }

    /// The messages that were edited or deleted after change number `after`.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn changes(&self, room_id: &str, after: i64, limit: Option<u32>) -> Result<ChangePage> {
        let call = self.get(&["rooms", room_id, "changes"])?;
        call.query("after", Some(after)).query("limit", limit).fetch().await
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A message as the server writes it.
    pub(crate) fn message(room_id: &str, seq: i64) -> Message {
        Message {
            message_id: format!("msg_{seq}"),
            room_id: room_id.to_owned(),
            sender_id: "bob".to_owned(),
            seq,
            content: format!("message {seq}"),
            meta: None,
            client_message_id: None,
            created_at: "2026-01-31T12:00:00.000000Z".to_owned(),
            edited_at: None,
            deleted_at: None,
            reply_to: None,
        }
    }

    #[test]
    fn what_is_not_set_is_not_sent_and_data_goes_out_as_it_is() {
        let meta = RawValue::from_string(r#"{"z":1,"a":2}"#.to_owned()).expect("JSON");

        let plain = serde_json::to_string(&NewMessage::from("hi")).expect("JSON");
        let full = NewMessage::new("hi").meta(meta).client_message_id("c1").reply_to("msg_1");

        assert_eq!(plain, r#"{"content":"hi"}"#);
        assert_eq!(
            serde_json::to_string(&full).expect("JSON"),
            r#"{"content":"hi","meta":{"z":1,"a":2},"client_message_id":"c1","reply_to":"msg_1"}"#
        );
    }

    #[test]
    fn a_change_is_a_message_with_a_number() {
        let text = r#"{"message_id": "msg_1", "room_id": "room_1", "sender_id": "bob", "seq": 4, "content": "",
            "meta": {"b": 1,  "a": 2}, "client_message_id": null, "created_at": "x", "edited_at": null,
            "deleted_at": "y", "reply_to": null, "change": 9}"#;

        let change: Change = serde_json::from_str(text).expect("a change");

        assert_eq!((change.change, change.message.seq), (9, 4));
        assert_eq!(change.message.meta.expect("some").get(), r#"{"b": 1,  "a": 2}"#);
    }
}
