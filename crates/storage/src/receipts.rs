//! How far the members of one tenant's rooms are.

use chatapi_domain::access::Actor;
use chatapi_domain::{Advanced, Fact, Invalid, Positions, Receipt, ReceiptKind, RoomId, TenantId, Timestamp, UserId};

use crate::db::Db;
use crate::feed::Feed;
use crate::rooms::standing;
use crate::row::{get, visible_room};
use crate::{Error, Result};

/// How far the members of one tenant's rooms are.
#[derive(Debug, Clone, Copy)]
pub struct Receipts<'a> {
    pub(crate) db: &'a Db,
    pub(crate) feed: &'a Feed,
    pub(crate) tenant: TenantId,
}

/// Moves a member's positions, if they grow, and says how the user stands to the room: one trip.
const ADVANCE: &str = "
    with place as (
        select r.type, r.last_seq, r.member_count, own.role, own.delivered_seq, own.read_seq
          from rooms r left join room_members own
            on own.tenant_id = r.tenant_id and own.room_id = r.room_id and own.user_id = $3
         where r.tenant_id = $1 and r.room_id = $2),
    moved as (
        update room_members m
           set delivered_seq = greatest(m.delivered_seq, $4),
               read_seq = case when $5 then greatest(m.read_seq, $4) else m.read_seq end, receipt_at = $6
          from place
         where m.tenant_id = $1 and m.room_id = $2 and m.user_id = $3 and $4 <= place.last_seq
           and (m.delivered_seq < $4 or ($5 and m.read_seq < $4))
        returning m.delivered_seq, m.read_seq)
    select place.type, place.role, place.last_seq, place.member_count, moved.read_seq is not null as moved,
           coalesce(moved.delivered_seq, place.delivered_seq) as delivered_seq,
           coalesce(moved.read_seq, place.read_seq) as read_seq
      from place left join moved on true";

const LIST: &str = concat!(
    "select page.* from (select r.tenant_id, r.room_id from ",
    visible_room!(),
    ") r left join lateral (
        select m.user_id, m.delivered_seq, m.read_seq, m.receipt_at from room_members m
         where m.tenant_id = $1 and m.room_id = $2 and ($4::text is null or m.user_id > $4)
         order by m.user_id limit $5) page on true
     order by page.user_id"
);

impl Receipts<'_> {
    /// Members up to which a room is told of acks: in a larger one every message would bring as
    /// many as it has members, to as many.
    pub const TOLD_UP_TO: i32 = 500;

    /// Moves a member's positions up to `seq`; they never go back. Read implies delivered. What
    /// moved is told to the room, if that has at most [`Receipts::TOLD_UP_TO`] members.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `seq` is beyond the newest message; [`Error::NotFound`] and
    /// [`Error::Forbidden`] for those who are no members.
    pub async fn advance(
        &self,
        room: RoomId,
        user: &UserId,
        seq: i64,
        kind: ReceiptKind,
        now: Timestamp,
    ) -> Result<Advanced> {
        let read = kind == ReceiptKind::Read;
        let row = self.db.query_opt(ADVANCE, &[&self.tenant, &room, user, &seq, &read, &now]).await?;
        let row = row.ok_or(Error::NotFound("Room"))?;
        standing(&row, &Actor::User(user.clone()))?.take_part()?;
        let last_seq: i64 = get(&row, "last_seq")?;
        if seq > last_seq {
            return Err(Invalid::new("seq", format!("expected at most {last_seq}, the room's last_seq")).into());
        }
        let positions = Positions { delivered_seq: get(&row, "delivered_seq")?, read_seq: get(&row, "read_seq")? };
        let advanced = Advanced { positions, moved: get(&row, "moved")?, member_count: get(&row, "member_count")? };
        if advanced.moved && advanced.member_count <= Self::TOLD_UP_TO {
            self.feed.tell(self.tenant, Fact::Receipt { room_id: room, user_id: user.clone(), seq, kind });
        }
        Ok(advanced)
    }

    /// How far the members of a room are, in the byte order of their ids, at most `limit` after
    /// `after`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no room that the actor may see.
    pub async fn list(&self, room: RoomId, actor: &Actor, after: Option<&UserId>, limit: i64) -> Result<Vec<Receipt>> {
        let rows = self.db.query(LIST, &[&self.tenant, &room, &actor.user(), &after, &limit]).await?;
        if rows.is_empty() {
            return Err(Error::NotFound("Room"));
        }
        let mut receipts = Vec::with_capacity(rows.len());
        for row in &rows {
            let Some(user_id) = get(row, "user_id")? else { break };
            let positions = Positions { delivered_seq: get(row, "delivered_seq")?, read_seq: get(row, "read_seq")? };
            receipts.push(Receipt { user_id, positions, updated_at: get(row, "receipt_at")? });
        }
        Ok(receipts)
    }
}
