//! Who of one tenant's users is online.

use chatapi_domain::{RoomId, TenantId, Timestamp, UserId};

use crate::Result;
use crate::db::Db;
use crate::row::get;

/// Who of one tenant's users is online.
#[derive(Debug, Clone, Copy)]
pub struct Presence<'a> {
    pub(crate) db: &'a Db,
    pub(crate) tenant: TenantId,
}

/// Whether a user is online.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The user.
    pub user_id: UserId,
    /// Whether the user is connected, or was a few seconds ago.
    pub online: bool,
    /// When the user last came or went; absent if never.
    pub last_seen_at: Option<Timestamp>,
}

const OF_USERS: &str = "
    select i.user_id, s.seen_at,
           exists (select from presence p where p.tenant_id = $1 and p.user_id = i.user_id) as online
      from unnest($2::text[]) i (user_id)
      left join last_seen s on s.tenant_id = $1 and s.user_id = i.user_id";

/// Rooms in which somebody's coming and going is told: not those of more than `$3` members.
const ROOMS: &str = "
    select m.user_id, m.room_id
      from unnest($2::text[]) i (user_id)
      join room_members m on m.tenant_id = $1 and m.user_id = i.user_id
      join rooms r on r.tenant_id = $1 and r.room_id = m.room_id
     where r.member_count <= $3";

impl Presence<'_> {
    /// Whether these users are online, in the order asked.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn of(&self, users: &[UserId]) -> Result<Vec<Status>> {
        let rows = self.db.query(OF_USERS, &[&self.tenant, &users]).await?;
        let status = |row| {
            let (user_id, online) = (get(row, "user_id")?, get(row, "online")?);
            Ok(Status { user_id, online, last_seen_at: get(row, "seen_at")? })
        };
        rows.iter().map(status).collect()
    }

    /// The rooms of these users that have at most `max_members`.
    ///
    /// # Errors
    ///
    /// [`Error`](crate::Error) if the database fails.
    pub async fn rooms_of(&self, users: &[UserId], max_members: i32) -> Result<Vec<(UserId, RoomId)>> {
        let rows = self.db.query(ROOMS, &[&self.tenant, &users, &max_members]).await?;
        rows.iter().map(|row| Ok((get(row, "user_id")?, get(row, "room_id")?))).collect()
    }
}
