//! What a notice says, as the text of a `NOTIFY`: at most 8000 bytes.

use chatapi_domain::{Fact, NodeId, RoomId, TenantId};
use serde::{Deserialize, Serialize};

use super::{Pending, Position};
use crate::Result;

/// Rooms told of in one notice: some 70 bytes each.
const ROOMS: usize = 60;

/// The text of one `NOTIFY`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Notice {
    /// A node has come: from now on it wants to be told how far rooms are.
    Hello { from: NodeId },
    /// Rooms are at least here.
    Positions { from: NodeId, rooms: Vec<(TenantId, RoomId, i64, i64)> },
    Fact {
        /// Who told it after the fact, and knows it already; absent from what a transaction told.
        from: Option<NodeId>,
        tenant_id: TenantId,
        fact: Fact,
    },
}

impl Notice {
    pub(super) fn to_text(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }
}

impl Pending {
    /// Everything that is pending, as notices.
    pub(super) fn into_notices(self, from: NodeId) -> Result<Vec<String>> {
        let rooms: Vec<_> =
            self.positions.into_iter().map(|((tenant, room), (seq, change))| (tenant, room, seq, change)).collect();
        let positions = rooms.chunks(ROOMS).map(|rooms| Notice::Positions { from, rooms: rooms.to_vec() });
        let facts = self.passing.into_iter();
        let facts = facts.map(|(tenant_id, fact)| Notice::Fact { from: Some(from), tenant_id, fact });
        positions.chain(facts).map(|notice| notice.to_text()).collect()
    }
}

impl Position {
    pub(super) fn of((tenant_id, room_id, last_seq, last_change): (TenantId, RoomId, i64, i64)) -> Self {
        Self { tenant_id, room_id, last_seq, last_change }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_rooms_are_told_in_notices_that_fit() {
        let mut pending = Pending::default();
        for n in 0..1000_u128 {
            let room = RoomId::from_uuid(uuid::Uuid::from_u128(n));
            pending.reached(TenantId::from_uuid(uuid::Uuid::max()), room, i64::MAX - 5, 1);
            pending.reached(TenantId::from_uuid(uuid::Uuid::max()), room, 7, i64::MAX);
        }

        let notices = pending.into_notices(NodeId::from_uuid(uuid::Uuid::nil())).expect("JSON");

        let mut rooms = 0;
        for text in notices {
            assert!(text.len() < 8000, "{}", text.len());
            let Ok(Notice::Positions { rooms: told, .. }) = serde_json::from_str(&text) else { panic!("{text}") };
            assert!(told.iter().all(|room| room.2 == i64::MAX - 5 && room.3 == i64::MAX));
            rooms += told.len();
        }
        assert_eq!(rooms, 1000);
    }
}
