//! Rooms and their members.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Invalid, Json, Message, Name, RoomId, Timestamp, UserId};

/// What kind of room it is; the kind decides who sees it, who posts and who changes it
/// (see [`access`](crate::access)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomType {
    /// Exactly two users, fixed; one room for each pair.
    Dm,
    /// By invitation.
    Group,
    /// Open in its tenant.
    Channel,
}

impl RoomType {
    /// The word in SQL and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dm => "dm",
            Self::Group => "group",
            Self::Channel => "channel",
        }
    }

    /// The type of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Dm, Self::Group, Self::Channel].into_iter().find(|kind| kind.as_str() == word)
    }

    /// Checks `word`; `field` names it in the error.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if there is no such type.
    pub fn parse(field: &str, word: &str) -> Result<Self, Invalid> {
        Self::from_word(word).ok_or_else(|| Invalid::new(field, "expected 'dm', 'group' or 'channel'"))
    }
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Changes the room and its members.
    Admin,
    /// Reads and posts.
    Member,
}

impl Role {
    /// The word in SQL and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Member => "member",
        }
    }

    /// The role of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Admin, Self::Member].into_iter().find(|role| role.as_str() == word)
    }

    /// Checks `word`.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if there is no such role.
    pub fn parse(word: &str) -> Result<Self, Invalid> {
        Self::from_word(word).ok_or_else(|| Invalid::new("role", "expected 'admin' or 'member'"))
    }
}

/// One room.
#[derive(Debug, Clone)]
pub struct Room {
    /// Its id.
    pub room_id: RoomId,
    /// Its kind.
    pub room_type: RoomType,
    /// What there may be only one room for: the pair of a dm.
    pub unique_key: Option<String>,
    /// What it is called.
    pub name: Option<Name>,
    /// The tenant's own data.
    pub metadata: Option<Json>,
    /// The lowest seq that can be read; moves only by retention.
    pub first_seq: i64,
    /// The seq of the newest message; 0 if there was none yet.
    pub last_seq: i64,
    /// The number of the newest edit or deletion; 0 if there was none yet.
    pub last_change: i64,
    /// How many members it has.
    pub member_count: i32,
    /// Who made it; absent if the backend did without naming a user.
    pub created_by: Option<UserId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its name, metadata or members last changed.
    pub updated_at: Timestamp,
}

/// A room in a list, with the caller's own place in it if a user asks.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The room.
    pub room: Room,
    /// When something last happened in it: its newest message, or its making.
    pub active_at: Timestamp,
    /// The caller's place in it; absent if the backend asks for all rooms.
    pub own: Option<Own>,
}

/// A user's own place in a room.
#[derive(Debug, Clone)]
pub struct Own {
    /// The user's role.
    pub role: Role,
    /// Up to where messages have reached the user.
    pub delivered_seq: i64,
    /// Up to where the user has read.
    pub read_seq: i64,
    /// Messages of others after `read_seq` that are not deleted.
    pub unread_count: i64,
    /// The newest message, if there is one.
    pub last_message: Option<Message>,
}

/// How far a room is, and how a user stands to it: what following it live begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The room.
    pub room_id: RoomId,
    /// Its kind.
    pub room_type: RoomType,
    /// The seq of its newest message.
    pub last_seq: i64,
    /// The number of its newest edit or deletion.
    pub last_change: i64,
    /// When its name, metadata or members last changed.
    pub updated_at: Timestamp,
    /// The user's role, if a member.
    pub role: Option<Role>,
    /// Up to where messages have reached the user; 0 for one who is no member.
    pub delivered_seq: i64,
}

/// One user's membership of a room.
#[derive(Debug, Clone)]
pub struct Member {
    /// The user.
    pub user_id: UserId,
    /// What the user may do.
    pub role: Role,
    /// When the user became a member.
    pub joined_at: Timestamp,
}

/// What a room is to be made of, checked against the rules of its type.
#[derive(Debug, Clone)]
pub struct NewRoom {
    /// Its kind.
    pub room_type: RoomType,
    /// What it is called.
    pub name: Option<Name>,
    /// The tenant's own data.
    pub metadata: Option<Json>,
    /// Who makes it, if a user does.
    pub created_by: Option<UserId>,
    /// Its first members.
    pub roster: Roster,
}

/// The first members of a room, each once, with their roles; and the key of a dm.
#[derive(Debug, Clone)]
pub struct Roster {
    members: Vec<(UserId, Role)>,
    unique_key: Option<String>,
}

impl Roster {
    /// Checks the members named for a new room of this type, made by `creator`.
    ///
    /// Repeated users count once. In a group or channel the creator becomes admin and member.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if a dm has not exactly two different users, a group nobody, or the room more
    /// than `max_members`.
    pub fn new(
        room_type: RoomType,
        named: Vec<UserId>,
        creator: Option<&UserId>,
        max_members: u32,
    ) -> Result<Self, Invalid> {
        let named: BTreeSet<UserId> = named.into_iter().collect();
        if room_type == RoomType::Dm {
            let mut pair = named.into_iter();
            let (Some(a), Some(b), None) = (pair.next(), pair.next(), pair.next()) else {
                return Err(Invalid::new("members", "a dm has exactly two different users"));
            };
            let unique_key = Some(direct_message_key(&a, &b));
            return Ok(Self { members: vec![(a, Role::Member), (b, Role::Member)], unique_key });
        }
        let mut members: Vec<_> = creator.map(|user| (user.clone(), Role::Admin)).into_iter().collect();
        members.extend(named.into_iter().filter(|user| Some(user) != creator).map(|user| (user, Role::Member)));
        if members.is_empty() && room_type == RoomType::Group {
            return Err(Invalid::new("members", "a group has at least one user"));
        }
        if members.len() > max_members as usize {
            return Err(Invalid::new("members", format!("expected at most {max_members} users")));
        }
        Ok(Self { members, unique_key: None })
    }

    /// The members and their roles, each user once.
    #[must_use]
    pub fn members(&self) -> &[(UserId, Role)] {
        &self.members
    }

    /// What there may be only one room for, if it is a dm.
    #[must_use]
    pub fn unique_key(&self) -> Option<&str> {
        self.unique_key.as_deref()
    }
}

/// A change to a room: outer `None` leaves a field as it is, inner `None` clears it.
#[derive(Debug, Clone, Default)]
pub struct RoomPatch {
    /// The new name.
    pub name: Option<Option<Name>>,
    /// The new metadata.
    pub metadata: Option<Option<Json>>,
}

/// What makes the dm of two users unique in its tenant: `dm:` and both ids in byte order joined
/// by `:`, with `%` and `:` inside an id written `%25` and `%3A`.
#[must_use]
pub fn direct_message_key(a: &UserId, b: &UserId) -> String {
    let escape = |user: &UserId| user.as_str().replace('%', "%25").replace(':', "%3A");
    let (first, second) = if a <= b { (a, b) } else { (b, a) };
    format!("dm:{}:{}", escape(first), escape(second))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(text: &str) -> UserId {
        UserId::parse("user_id", text).expect("a user id")
    }

    #[test]
    fn the_key_of_a_dm_is_the_same_from_both_sides() {
        assert_eq!(direct_message_key(&user("bob"), &user("alice")), "dm:alice:bob");
        assert_eq!(direct_message_key(&user("a:b"), &user("100%")), "dm:100%25:a%3Ab");
    }

    proptest! {
        #[test]
        fn two_pairs_never_share_a_key(ids in prop::collection::vec("[ab:%]{1,4}", 4)) {
            let [a, b, c, d] = [0, 1, 2, 3].map(|at| user(&ids[at]));
            let same_pair = (a == c && b == d) || (a == d && b == c);

            prop_assert_eq!(direct_message_key(&a, &b) == direct_message_key(&c, &d), same_pair);
        }
    }

    #[test]
    fn the_creator_of_a_group_is_its_admin_and_counts_once() {
        let alice = user("alice");

        let roster = Roster::new(RoomType::Group, vec![user("bob"), alice.clone(), user("bob")], Some(&alice), 2)
            .expect("two members fit");

        assert_eq!(roster.members(), [(alice, Role::Admin), (user("bob"), Role::Member)]);
    }

    #[test]
    fn a_roster_keeps_to_its_type() {
        let pair = || vec![user("a"), user("b")];

        assert!(Roster::new(RoomType::Dm, vec![user("a"), user("a")], None, 10).is_err());
        assert!(Roster::new(RoomType::Dm, vec![user("a"), user("b"), user("c")], None, 10).is_err());
        assert!(Roster::new(RoomType::Group, vec![], None, 10).is_err());
        assert!(Roster::new(RoomType::Group, pair(), Some(&user("c")), 2).is_err());
        assert!(Roster::new(RoomType::Channel, vec![], None, 10).is_ok());
        let dm = Roster::new(RoomType::Dm, pair(), Some(&user("z")), 1).expect("a pair");
        assert!(dm.members().iter().all(|(_, role)| *role == Role::Member));
    }
}
