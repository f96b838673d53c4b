//! Who is in a room.

use serde::{Deserialize, Serialize};

use crate::{Client, Result, Room};

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads and posts.
    Member,
    /// Changes the room and its members too.
    Admin,
}

/// A member of a room.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Who it is.
    pub user_id: String,
    /// What this user may do.
    pub role: Role,
    /// Since when.
    pub joined_at: String,
}

/// A page of members.
#[derive(Debug, Clone, Deserialize)]
pub struct MemberPage {
    /// The members.
    pub members: Vec<Member>,
    /// Where the next page begins; nothing at the end.
    pub next_cursor: Option<String>,
}

#[derive(Serialize)]
struct NewMembers<'a> {
    user_ids: &'a [&'a str],
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
}

#[derive(Serialize)]
struct NewRole {
    role: Role,
}

impl Client {
    /// A page of a room's members.
    ///
    /// # Errors
    ///
    /// Any of [`Error`](crate::Error) that concerns requests.
    pub async fn members(&self, room_id: &str, limit: Option<u32>, cursor: Option<&str>) -> Result<MemberPage> {
        let call = self.get(&["rooms", room_id, "members"])?;
        call.query("limit", limit).query("cursor", cursor).fetch().await
    }

    /// Adds members; who is one already stays what they are. Returns the first page of members.
    ///
    /// # Errors
    ///
    /// As [`members`](Self::members).
    pub async fn add_members(&self, room_id: &str, user_ids: &[&str], role: Option<Role>) -> Result<MemberPage> {
        self.post(&["rooms", room_id, "members"])?.body(&NewMembers { user_ids, role }).fetch().await
    }

    /// Makes a member an admin, or no longer.
    ///
    /// # Errors
    ///
    /// As [`members`](Self::members).
    pub async fn set_role(&self, room_id: &str, user_id: &str, role: Role) -> Result<()> {
        self.patch(&["rooms", room_id, "members", user_id])?.body(&NewRole { role }).run().await
    }

    /// Removes a member.
    ///
    /// # Errors
    ///
    /// As [`members`](Self::members).
    pub async fn remove_member(&self, room_id: &str, user_id: &str) -> Result<()> {
        self.delete(&["rooms", room_id, "members", user_id])?.run().await
    }

    /// Joins a channel.
    ///
    /// # Errors
    ///
    /// As [`members`](Self::members).
    pub async fn join(&self, room_id: &str) -> Result<Room> {
        self.post(&["rooms", room_id, "join"])?.fetch().await
    }

    /// Leaves a room.
    ///
    /// # Errors
    ///
    /// As [`members`](Self::members).
    pub async fn leave(&self, room_id: &str) -> Result<()> {
        self.post(&["rooms", room_id, "leave"])?.run().await
    }
}
