//! Rooms.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::{Client, Message, Result, Role};

/// What kind of room it is, which says who reads and who posts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoomType {
    /// Two users, fixed.
    Dm,
    /// Members by invitation.
    Group,
    /// Open to the tenant: everyone reads and may join, members post.
    Channel,
}

impl RoomType {
    /// As it is written in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dm => "dm",
            Self::Group => "group",
            Self::Channel => "channel",
        }
    }
}

/// A room.
#[derive(Debug, Clone, Deserialize)]
pub struct Room {
    /// Its id, `room_…`.
    pub room_id: String,
    /// Its kind.
    #[serde(rename = "type")]
    pub room_type: RoomType,
    /// What makes a dm the only one of its pair.
    pub unique_key: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// The tenant's own data, as it was sent.
    pub metadata: Option<Box<RawValue>>,
    /// The first message that is still kept.
    pub first_seq: i64,
    /// The last message.
    pub last_seq: i64,
    /// The last edit or deletion.
    pub last_change: i64,
    /// How many are in it.
    pub member_count: i64,
    /// Who made it; nobody if a backend did.
    pub created_by: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// When it, or who is in it, last changed.
    pub updated_at: String,
}

/// A room in a list, with the caller's own place in it.
#[derive(Debug, Clone)]
pub struct ListedRoom {
    /// The room.
    pub room: Room,
    /// Nothing when a backend lists the rooms of its tenant.
    pub own: Option<OwnPlace>,
}

/// A user's own place in a room.
#[derive(Debug, Clone, Deserialize)]
pub struct OwnPlace {
    /// What the user may do.
    pub role: Role,
    /// Up to where messages reached the user.
    pub delivered_seq: i64,
    /// Up to where the user has read.
    pub read_seq: i64,
    /// Messages of others after that.
    pub unread_count: i64,
    /// The newest message.
    pub last_message: Option<Message>,
}

impl<'de> Deserialize<'de> for ListedRoom {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        // Both lie flat in one object. serde's flatten would lose the raw metadata.
        let text = Box::<RawValue>::deserialize(input)?;
        let room = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        Ok(Self { room, own: serde_json::from_str(text.get()).ok() })
    }
}

/// A page of rooms.
#[derive(Debug, Clone, Deserialize)]
pub struct RoomPage {
    /// The rooms, the one with the newest activity first.
    pub rooms: Vec<ListedRoom>,
    /// Where the next page begins; nothing at the end.
    pub next_cursor: Option<String>,
}

/// A room to be made.
#[derive(Debug, Clone, Serialize)]
pub struct NewRoom {
    #[serde(rename = "type")]
    room_type: RoomType,
    members: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
}

impl NewRoom {
    /// A room of this kind with these members.
    pub fn new(room_type: RoomType, members: impl IntoIterator<Item: Into<String>>) -> Self {
        Self { room_type, members: members.into_iter().map(Into::into).collect(), name: None, metadata: None }
    }

    /// The room of two users.
    pub fn dm(one: impl Into<String>, other: impl Into<String>) -> Self {
        Self::new(RoomType::Dm, [one.into(), other.into()])
    }

    /// With this name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// With this data of the tenant.
    #[must_use]
    pub fn metadata(mut self, metadata: Box<RawValue>) -> Self {
        self.metadata = Some(metadata);
        self
    }
}

/// What changes in a room: a field that is `None` stays, one that is `Some(None)` is cleared.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RoomUpdate {
    /// The name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Option<String>>,
    /// The tenant's own data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Option<Box<RawValue>>>,
}

impl Client {
    /// Makes a room; a dm that exists is returned as it is.
    ///
    /// # Errors
    ///
    /// Any of [`Error`](crate::Error) that concerns requests.
    pub async fn create_room(&self, new: &NewRoom) -> Result<Room> {
        self.post(&["rooms"])?.body(new).fetch().await
    }

    /// A page of the caller's rooms; the tenant's, for a backend without a user.
    ///
    /// # Errors
    ///
    /// As [`create_room`](Self::create_room).
    pub async fn rooms(
        &self,
        room_type: Option<RoomType>,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<RoomPage> {
        let call = self.get(&["rooms"])?.query("type", room_type.map(RoomType::as_str));
        call.query("limit", limit).query("cursor", cursor).fetch().await
    }

    /// One room.
    ///
    /// # Errors
    ///
    /// As [`create_room`](Self::create_room).
    pub async fn room(&self, room_id: &str) -> Result<Room> {
        self.get(&["rooms", room_id])?.fetch().await
    }

    /// Changes a room.
    ///
    /// # Errors
    ///
    /// As [`create_room`](Self::create_room).
    pub async fn update_room(&self, room_id: &str, update: &RoomUpdate) -> Result<Room> {
        self.patch(&["rooms", room_id])?.body(update).fetch().await
    }

    /// Deletes a room with its messages.
    ///
    /// # Errors
    ///
    /// As [`create_room`](Self::create_room).
    pub async fn delete_room(&self, room_id: &str) -> Result<()> {
        self.delete(&["rooms", room_id])?.run().await
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A group as the server writes it.
    pub(crate) fn room_json(room_id: &str, last_seq: i64, last_change: i64) -> serde_json::Value {
        json!({
            "room_id": room_id, "type": "group", "unique_key": null, "name": null, "metadata": {"z": 1, "a": 2},
            "first_seq": 1, "last_seq": last_seq, "last_change": last_change, "member_count": 2,
            "created_by": null, "created_at": "2026-01-31T12:00:00.000000Z",
            "updated_at": "2026-01-31T12:00:00.000000Z",
        })
    }

    #[test]
    fn a_listed_room_keeps_its_metadata_as_it_was_sent() {
        let text = r#"{"room_id": "room_1", "type": "dm", "metadata": {"z": 1, "a":  2}, "first_seq": 1,
            "last_seq": 4, "last_change": 0, "member_count": 2, "created_by": "bob", "created_at": "x",
            "updated_at": "y", "role": "member", "delivered_seq": 3, "read_seq": 2, "unread_count": 1,
            "last_message": null}"#;

        let listed: ListedRoom = serde_json::from_str(text).expect("a room");

        assert_eq!(listed.room.metadata.expect("some").get(), r#"{"z": 1, "a":  2}"#);
        assert_eq!(listed.own.expect("a place").delivered_seq, 3);
        let bare: ListedRoom = serde_json::from_value(room_json("room_1", 1, 0)).expect("a room");
        assert!(bare.own.is_none());
    }

    #[test]
    fn an_update_tells_absent_from_cleared() {
        let update = RoomUpdate { name: Some(None), metadata: None };

        assert_eq!(serde_json::to_string(&update).expect("JSON"), r#"{"name":null}"#);
    }
}
