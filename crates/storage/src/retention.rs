//! Erases messages that are older than their tenant keeps them (`retention_days`), in the
//! background, in small steps that survive a restart. One of the few files that see more than one
//! tenant.
//!
//! A room's times follow its seqs, so what goes is always the beginning of a room. First the room
//! says where it begins now (`first_seq`), then the rows go: the room's lock is held for one short
//! statement only, and a step that is cut off is finished by the next sweep.

use chatapi_domain::{RoomId, TenantId};

use crate::Result;
use crate::db::Db;
use crate::erasure::erase_messages;
use crate::row::get;

/// Messages looked at in one statement.
const STEP: i64 = 1000;

/// Rooms looked at in one statement.
const ROOMS_STEP: i64 = 500;

const TENANTS: &str = "
    select tenant_id from tenants
     where config ? 'retention_days' and status <> 'deleting' order by tenant_id";

/// Since when messages are kept, as it is set at the moment of the statement: a sweep takes long, and
/// what is set meanwhile holds at once. No row if all are kept.
macro_rules! kept {
    () => {
        "select now() - make_interval(days => (config ->> 'retention_days')::int) as since from tenants
          where tenant_id = $1 and config ? 'retention_days' and status <> 'deleting'"
    };
}

/// Rooms in order, and whether their oldest message is too old or before their beginning.
const ROOMS: &str = concat!(
    "select r.room_id, r.first_seq, coalesce(
               oldest.created_at < (",
    kept!(),
    ") or oldest.seq < r.first_seq, false) as due
      from (select * from rooms where tenant_id = $1 and ($2::uuid is null or room_id > $2)
             order by room_id limit $3) r
      left join lateral (
            select m.seq, m.created_at from messages m
             where m.tenant_id = $1 and m.room_id = r.room_id order by m.seq limit 1) oldest on true
     order by r.room_id"
);

/// Where the room begins once the next `$4` messages are looked at.
const ADVANCE: &str = concat!(
    "with kept as materialized (",
    kept!(),
    "), page as materialized (
        select seq, created_at from messages
         where tenant_id = $1 and room_id = $2 and seq >= $3 order by seq limit $4),
    edge as (
        select coalesce(min(seq) filter (where created_at >= since), max(seq) + 1) as seq from page, kept)
    update rooms r set first_seq = edge.seq from edge
     where r.tenant_id = $1 and r.room_id = $2 and edge.seq > r.first_seq
 returning r.first_seq"
);

/// Erases what is too old, of all tenants.
pub(crate) async fn sweep(db: &Db) -> Result<()> {
    for row in db.query(TENANTS, &[]).await? {
        let tenant: TenantId = get(&row, "tenant_id")?;
        if let Err(error) = sweep_tenant(db, tenant).await {
            // One that cannot be swept at the moment keeps no other from it.
            tracing::warn!(tenant_id = %tenant, %error, "Old messages will be erased later");
        }
    }
    Ok(())
}

async fn sweep_tenant(db: &Db, tenant: TenantId) -> Result<()> {
    let mut after: Option<RoomId> = None;
    loop {
        let rooms = db.query(ROOMS, &[&tenant, &after, &ROOMS_STEP]).await?;
        for row in &rooms {
            let room = get(row, "room_id")?;
            if get(row, "due")? {
                sweep_room(db, tenant, room, get(row, "first_seq")?).await?;
            }
            after = Some(room);
        }
        if rooms.is_empty() {
            return Ok(());
        }
    }
}

async fn sweep_room(db: &Db, tenant: TenantId, room: RoomId, mut first_seq: i64) -> Result<()> {
    let mut erased = 0;
    loop {
        // What an earlier sweep left, or the step before.
        erase_messages(db, tenant, room, erased, first_seq).await?;
        erased = first_seq;
        let moved = db.query_opt(ADVANCE, &[&tenant, &room, &first_seq, &STEP]).await?;
        match moved {
            Some(row) => first_seq = get(&row, "first_seq")?,
            None => return Ok(()),
        }
    }
}
