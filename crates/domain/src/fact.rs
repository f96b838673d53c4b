//! What happens in a tenant that other nodes, and those who are connected, are told of.

use serde::{Deserialize, Serialize};

use crate::{ReceiptKind, Role, RoomId, UserId};

/// Something that happened in a tenant, beside its messages.
///
/// The first ones are told in the transaction that makes them true, so every node learns them in
/// the order of the commits. Receipts, typing and presence are told after the fact, and may be
/// lost with a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// A room was made, with these members among others.
    RoomCreated {
        /// The room.
        room_id: RoomId,
        /// Some of its members; a large room is told in several facts.
        user_ids: Vec<UserId>,
    },
    /// A room's name or metadata changed.
    RoomUpdated {
        /// The room.
        room_id: RoomId,
    },
    /// A room is gone.
    RoomDeleted {
        /// The room.
        room_id: RoomId,
    },
    /// Users became members of a room.
    MembersAdded {
        /// The room.
        room_id: RoomId,
        /// The users; many are told in several facts.
        user_ids: Vec<UserId>,
        /// Their role.
        role: Role,
        /// The seq of the room's newest message when they came.
        last_seq: i64,
        /// The number of the room's newest change when they came.
        last_change: i64,
    },
    /// A user is no member of a room any more.
    MemberRemoved {
        /// The room.
        room_id: RoomId,
        /// The user.
        user_id: UserId,
    },
    /// The tenant's status, settings or keys changed.
    TenantChanged,
    /// Tokens issued before now are refused.
    TokensRevoked {
        /// Those of one user; of all if absent.
        user_id: Option<UserId>,
    },
    /// A member's position moved.
    Receipt {
        /// The room.
        room_id: RoomId,
        /// The member.
        user_id: UserId,
        /// Up to where.
        seq: i64,
        /// Which position.
        kind: ReceiptKind,
    },
    /// A member began or stopped typing.
    Typing {
        /// The room.
        room_id: RoomId,
        /// The member.
        user_id: UserId,
        /// Whether it began.
        started: bool,
    },
    /// Users came or went.
    Presence {
        /// The users.
        user_ids: Vec<UserId>,
        /// Whether they came.
        online: bool,
    },
}

impl Fact {
    /// Facts about `users`, each small enough to be told in one piece: some 6 KB as JSON.
    #[must_use]
    pub fn each_of(users: &[UserId], fact: impl Fn(Vec<UserId>) -> Self) -> Vec<Self> {
        const PIECE: usize = 6000;
        let mut facts = Vec::new();
        let (mut piece, mut bytes) = (Vec::new(), 0);
        for user in users {
            // A quote or backslash takes two bytes.
            let size = 2 * user.as_str().len() + 3;
            if bytes + size > PIECE {
                facts.push(fact(std::mem::take(&mut piece)));
                bytes = 0;
            }
            bytes += size;
            piece.push(user.clone());
        }
        if !piece.is_empty() {
            facts.push(fact(piece));
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_users_are_told_in_pieces_and_nobody_is_forgotten() {
        let users: Vec<UserId> =
            (0..1000).map(|n| UserId::parse("user", format!("\"{n}{}", "\\".repeat(100))).expect("an id")).collect();

        let facts = Fact::each_of(&users, |user_ids| Fact::Presence { user_ids, online: true });

        let told: Vec<UserId> = facts
            .iter()
            .flat_map(|fact| {
                let text = serde_json::to_string(fact).expect("JSON");
                assert!(text.len() < 7000);
                let Ok(Fact::Presence { user_ids, .. }) = serde_json::from_str(&text) else { panic!("it reads back") };
                user_ids
            })
            .collect();
        assert_eq!(told, users);
        assert!(Fact::each_of(&[], |user_ids| Fact::Presence { user_ids, online: true }).is_empty());
    }
}
