//! How far members are, and who is there.

use std::collections::HashMap;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::{Client, Result};

/// What is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptKind {
    /// It reached the user.
    Delivered,
    /// The user has read it, so it reached them.
    Read,
}

/// A user's positions in a room after an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Acked {
    /// Up to where messages reached the user.
    pub delivered_seq: i64,
    /// Up to where the user has read.
    pub read_seq: i64,
}

/// How far a member is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Receipt {
    /// Who.
    pub user_id: String,
    /// Up to where messages reached this user.
    pub delivered_seq: i64,
    /// Up to where this user has read.
    pub read_seq: i64,
    /// When either last moved.
    pub updated_at: String,
}

/// A page of receipts.
#[derive(Debug, Clone, Deserialize)]
pub struct ReceiptPage {
    /// The receipts.
    pub receipts: Vec<Receipt>,
    /// Where the next page begins; nothing at the end.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// Whether a user is there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Presence {
    /// `online` or `offline`.
    pub status: String,
    /// When the user was last there.
    pub last_seen_at: Option<String>,
}

#[derive(Serialize)]
struct Ack<'a> {
    room_id: &'a str,
    seq: i64,
    #[serde(rename = "type")]
    kind: ReceiptKind,
}

#[derive(Deserialize)]
struct PresenceBody {
    presence: HashMap<String, Presence>,
}

impl Client {
    /// Acknowledges a room's messages up to `seq`. Positions only grow.
    ///
    /// # Errors
    ///
    /// Any of [`Error`](crate::Error) that concerns requests.
    pub async fn ack(&self, room_id: &str, seq: i64, kind: ReceiptKind) -> Result<Acked> {
        self.post(&["acks"])?.body(&Ack { room_id, seq, kind }).fetch().await
    }

    /// A page of how far the members of a room are.
    ///
    /// # Errors
    ///
    /// As [`ack`](Self::ack).
    pub async fn receipts(&self, room_id: &str, limit: Option<u32>, cursor: Option<&str>) -> Result<ReceiptPage> {
        let call = self.get(&["rooms", room_id, "receipts"])?;
        call.query("limit", limit).query("cursor", cursor).fetch().await
    }

    /// Whether these users are there.
    ///
    /// # Errors
    ///
    /// As [`ack`](Self::ack).
    pub async fn presence(&self, user_ids: &[&str]) -> Result<HashMap<String, Presence>> {
        // Each id is encoded, the commas between them are not: an id may hold one.
        let ids: Vec<_> = user_ids.iter().map(|id| utf8_percent_encode(id, NON_ALPHANUMERIC).to_string()).collect();
        let list = format!("user_ids={}", ids.join(","));
        let body: PresenceBody = self.get(&["presence"])?.encoded_query(&list).fetch().await?;
        Ok(body.presence)
    }
}
