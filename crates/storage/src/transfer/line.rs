//! The lines of an export: each a JSON object with one field, which says what the line is.
//!
//! What is `null` is left out. There are no other fields than these: one more is a new
//! [`VERSION`], because whoever does not know it would lose what it holds.

use std::borrow::Cow;

use chatapi_domain::{
    ClientMessageId, Content, Invalid, Json, MessageId, Name, Role, RoomId, RoomType, TenantId, TenantStatus,
    Timestamp, UserId,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;
use serde_json::{Value, from_str};

use crate::{Error, Result};

/// What the first line calls the format.
pub(super) const FORMAT: &str = "chatapi-tenant";

/// The version that is written, and the only one that is read.
pub(super) const VERSION: u32 = 1;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line<'a> {
    /// The first: what this is, and the tenant.
    Export(HeaderLine),
    /// A room; its members and messages follow it.
    #[serde(borrow)]
    Room(RoomLine<'a>),
    Member(MemberLine),
    #[serde(borrow)]
    Message(MessageLine<'a>),
    /// After all rooms.
    LastSeen(LastSeenLine),
    /// The last.
    #[serde(borrow)]
    End(EndLine<'a>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderLine {
    pub(super) format: Cow<'static, str>,
    pub(super) version: u32,
    pub(super) exported_at: Moment,
    pub(super) tenant: TenantLine,
}

/// Of a first line of any version.
#[derive(Debug, Deserialize)]
pub(super) struct AnyHeader {
    pub(super) format: String,
    pub(super) version: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantLine {
    pub(super) tenant_id: TenantId,
    pub(super) name: String,
    #[serde(with = "status")]
    pub(super) status: TenantStatus,
    /// What was set for it, without secrets.
    pub(super) config: Value,
    pub(super) created_at: Moment,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RoomLine<'a> {
    pub(super) room_id: RoomId,
    #[serde(rename = "type", with = "room_type")]
    pub(super) room_type: RoomType,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) unique_key: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) metadata: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) metadata_text: Option<Cow<'a, str>>,
    pub(super) first_seq: i64,
    pub(super) last_seq: i64,
    pub(super) last_change: i64,
    pub(super) member_count: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created_by: Option<UserId>,
    pub(super) created_at: Moment,
    pub(super) updated_at: Moment,
    pub(super) active_at: Moment,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberLine {
    pub(super) room_id: RoomId,
    pub(super) user_id: UserId,
    pub(super) role: Role,
    pub(super) joined_at: Moment,
    pub(super) delivered_seq: i64,
    pub(super) read_seq: i64,
    pub(super) receipt_at: Moment,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageLine<'a> {
    pub(super) room_id: RoomId,
    pub(super) seq: i64,
    pub(super) message_id: MessageId,
    pub(super) sender_id: UserId,
    #[serde(borrow)]
    pub(super) content: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) meta: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) meta_text: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) client_message_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reply_to: Option<MessageId>,
    pub(super) created_at: Moment,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) edited_at: Option<Moment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deleted_at: Option<Moment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) change: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LastSeenLine {
    pub(super) user_id: UserId,
    pub(super) seen_at: Moment,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndLine<'a> {
    pub(super) counts: Counts,
    /// Of all bytes before this line, in hexadecimal.
    #[serde(borrow)]
    pub(super) sha256: Cow<'a, str>,
}

/// How much of what an export holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Rooms.
    pub rooms: u64,
    /// Members of rooms: a user counts in each.
    pub members: u64,
    /// Messages, deleted ones too.
    pub messages: u64,
    /// Users of whom it is known when they were last seen.
    pub last_seen: u64,
}

impl Counts {
    /// How many lines the whole export has. Counting line feeds tells how far one is in it.
    #[must_use]
    pub const fn lines(&self) -> u64 {
        self.rooms + self.members + self.messages + self.last_seen + 2
    }
}

/// A time as the contract writes it, and in no other way: so it comes back to the letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment(pub(super) Timestamp);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'_, str>>::deserialize(deserializer)?;
        let moment = Timestamp::parse("", &text).ok().filter(|moment| moment.to_string() == text);
        moment.map(Self).ok_or_else(|| de::Error::custom("expected a time like 2026-01-31T12:00:00.123456Z"))
    }
}

macro_rules! word {
    ($name:ident: $kind:ty, $expected:literal, $allowed:pat) => {
        mod $name {
            use super::*;

            pub(super) fn serialize<S: Serializer>(value: &$kind, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(value.as_str())
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$kind, D::Error> {
                let word = <Cow<'_, str>>::deserialize(deserializer)?;
                let known = <$kind>::from_word(&word).filter(|known| matches!(known, $allowed));
                known.ok_or_else(|| de::Error::custom($expected))
            }
        }
    };
}
word!(room_type: RoomType, "expected 'dm', 'group' or 'channel'", _);
word!(status: TenantStatus, "expected 'active' or 'suspended'", TenantStatus::Active | TenantStatus::Suspended);

/// The tenant's own JSON as two fields, of which at most one is set. A line feed in it would end
/// the line; it comes back to the letter all the same, out of a text.
pub(super) type Own<'a> = (Option<&'a RawValue>, Option<Cow<'a, str>>);

/// JSON of a column as it goes into a line.
pub(super) fn own<'a>(column: &'static str, json: Option<&'a str>) -> Result<Own<'a>> {
    let corrupt = |error: serde_json::Error| Error::Corrupt { column, source: error.into() };
    match json {
        Some(text) if text.contains(['\n', '\r']) => Ok((None, Some(text.into()))),
        Some(text) => Ok((Some(from_str(text).map_err(corrupt)?), None)),
        None => Ok((None, None)),
    }
}

/// JSON of a line, checked; `field` names it.
pub(super) fn checked_own(field: &str, (raw, text): Own<'_>) -> Result<Option<Json>, Invalid> {
    const MAX_DEPTH: usize = 100;
    let raw = match (raw, text) {
        (None, None) => return Ok(None),
        (Some(raw), None) => raw.to_owned(),
        (None, Some(text)) => {
            let field = format!("{field}_text");
            let json = from_str::<&RawValue>(&text).ok().filter(|json| json.get() == text);
            json.ok_or_else(|| Invalid::new(field, "expected the text of JSON"))?.to_owned()
        }
        (Some(_), Some(_)) => return Err(Invalid::new(field, "is there twice, as JSON and as a text")),
    };
    // Only what opens that often can be that deep, and only then it is worth reading it.
    let opened = raw.get().bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if opened >= MAX_DEPTH && from_str::<Value>(raw.get()).is_err() {
        return Err(Invalid::new(field, format!("is nested deeper than {MAX_DEPTH} levels")));
    }
    Json::parse(field, Some(raw))
}

impl RoomLine<'_> {
    /// Its name, checked.
    pub(super) fn checked_name(&self) -> Result<Option<Name>, Invalid> {
        self.name.as_deref().map(|name| Name::parse("room.name", name)).transpose()
    }

    /// Its metadata, checked.
    pub(super) fn checked_metadata(&self) -> Result<Option<Json>, Invalid> {
        checked_own("room.metadata", (self.metadata, self.metadata_text.clone()))
    }
}

impl MessageLine<'_> {
    /// Its meta, checked.
    pub(super) fn checked_meta(&self) -> Result<Option<Json>, Invalid> {
        checked_own("message.meta", (self.meta, self.meta_text.clone()))
    }

    /// Fails unless its texts are such as a message may have.
    pub(super) fn check_texts(&self) -> Result<(), Invalid> {
        if let Some(id) = &self.client_message_id {
            ClientMessageId::parse(id.as_ref())
                .map_err(|wrong| Invalid::new("message.client_message_id", wrong.reason))?;
        }
        if self.deleted_at.is_none() {
            let content = Content::parse(self.content.clone().into_owned(), Content::MAX_BYTES);
            return content.map(|_| ()).map_err(|wrong| Invalid::new("message.content", wrong.reason));
        }
        let erased = self.content.is_empty() && self.meta.is_none() && self.meta_text.is_none();
        erased.then_some(()).ok_or_else(|| Invalid::new("message.content", "expected none, nor meta: it is deleted"))
    }
}
