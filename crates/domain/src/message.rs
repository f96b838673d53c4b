//! Messages, their history, and how far each member is in them.

use serde::{Deserialize, Serialize};

use crate::{ClientMessageId, Invalid, Json, MessageId, RoomId, Timestamp, UserId};

/// The text of a message: not empty, no U+0000, within the tenant's limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content(String);

impl Content {
    /// The most bytes any tenant may allow.
    pub const MAX_BYTES: u32 = 196_608;

    /// Checks `text` against the tenant's limit in bytes.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if it is empty or holds U+0000; too large if it is longer than `max_bytes`.
    pub fn parse(text: String, max_bytes: u32) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Err(Invalid::new("content", "may not be empty"));
        }
        if text.len() > max_bytes as usize {
            return Err(Invalid::too_large("content", format!("expected at most {max_bytes} bytes")));
        }
        if text.contains('\0') {
            return Err(Invalid::new("content", "may not contain the character U+0000"));
        }
        Ok(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, owned.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

/// A message that somebody wants to send.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// The id it is to have.
    pub message_id: MessageId,
    /// The room it goes to.
    pub room_id: RoomId,
    /// Who sends it.
    pub sender_id: UserId,
    /// Its text.
    pub content: Content,
    /// The tenant's own data.
    pub meta: Option<Json>,
    /// What its client calls it.
    pub client_message_id: Option<ClientMessageId>,
    /// The message of the same room that it answers.
    pub reply_to: Option<MessageId>,
}

/// One message of a room.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its id.
    pub message_id: MessageId,
    /// Its room.
    pub room_id: RoomId,
    /// Who sent it.
    pub sender_id: UserId,
    /// Its place in the room: 1, 2, 3 … without gaps.
    pub seq: i64,
    /// Its text; empty once it is deleted.
    pub content: String,
    /// The tenant's own data; gone once it is deleted.
    pub meta: Option<Json>,
    /// What its client called it.
    pub client_message_id: Option<ClientMessageId>,
    /// When it was stored; grows with `seq`.
    pub created_at: Timestamp,
    /// When it was last edited.
    pub edited_at: Option<Timestamp>,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
    /// The message it answers.
    pub reply_to: Option<MessageId>,
}

/// A message in its present state, under the number of its latest edit or deletion.
#[derive(Debug, Clone)]
pub struct Change {
    /// The room's change number: 1, 2, 3 …
    pub change: i64,
    /// The message as it is now.
    pub message: Message,
}

/// In which direction a history is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

/// Which part of a room's history is asked for; both bounds are exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HistoryQuery {
    /// Only messages after this seq.
    pub after_seq: Option<i64>,
    /// Only messages before this seq.
    pub before_seq: Option<i64>,
    /// From which end.
    pub order: Order,
    /// At most this many.
    pub limit: u32,
}

/// What a receipt says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptKind {
    /// It reached the user.
    Delivered,
    /// The user read it; implies that it was delivered.
    Read,
}

impl ReceiptKind {
    /// The word in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Read => "read",
        }
    }

    /// Checks `word`; `field` names it in the error.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if there is no such kind.
    pub fn parse(field: &str, word: &str) -> Result<Self, Invalid> {
        match word {
            "delivered" => Ok(Self::Delivered),
            "read" => Ok(Self::Read),
            _ => Err(Invalid::new(field, "expected 'delivered' or 'read'")),
        }
    }
}

/// How far a member is in a room; both positions only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    /// Up to where messages have reached the member.
    pub delivered_seq: i64,
    /// Up to where the member has read; at most `delivered_seq`.
    pub read_seq: i64,
}

/// What came of an ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advanced {
    /// Where the member is now.
    pub positions: Positions,
    /// Whether a position moved.
    pub moved: bool,
    /// How many members the room has.
    pub member_count: i32,
}

/// How far one member of a room is.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// The member.
    pub user_id: UserId,
    /// How far.
    pub positions: Positions,
    /// When a position last moved; when the member joined, if none did.
    pub updated_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_measured_in_bytes_against_the_tenants_limit() {
        assert!(Content::parse("é".repeat(5), 10).is_ok());
        assert!(Content::parse("é".repeat(5), 9).is_err_and(|error| error.too_large));
        assert!(Content::parse(String::new(), 9).is_err_and(|error| !error.too_large));
        assert!(Content::parse("a\0b".to_owned(), 9).is_err());
    }
}
