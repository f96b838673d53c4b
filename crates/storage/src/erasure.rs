//! Erases what is gone, in small steps that survive a restart: the messages of deleted rooms, and
//! deleted tenants.
//!
//! A room disappears in one short transaction; its messages, which nobody can reach any more,
//! follow here, so that no lock is held for as long as a large room takes. A tenant that is being
//! deleted goes room by room, then all else it has, then itself. One of the few files that see
//! more than one tenant.

use std::time::Instant;

use chatapi_domain::{RoomId, TenantId};

use crate::db::Db;
use crate::row::get;
use crate::usage::tally_erased;
use crate::{Result, deliveries};

/// Rows erased in one statement: a millisecond of work or two. A statement that takes longer than the
/// system's scheduler gives one process at a time makes others wait for a core: the p99 of another
/// tenant's sends went from 2.6 to 7 ms beside steps of 2000, to 4.5 beside these, and to 3.2 with the
/// [rest](REST_FACTOR) (docs/benchmarks.md has the outcome).
const STEP: i64 = 200;

/// How many times as long as a step took is rested after it.
const REST_FACTOR: u32 = 3;

/// Of a room's messages the oldest `$3` from seq `$4` to below `$5`; the last of them.
const ERASE: &str = concat!(
    "with gone as (
        delete from messages
         where tenant_id = $1 and room_id = $2
           and seq = any (array(select seq from messages
                                 where tenant_id = $1 and room_id = $2 and seq >= $4 and seq < $5
                                 order by seq limit $3))
        returning seq, message_id),
    tallied as (",
    tally_erased!("$1"),
    ") select max(seq) as last from gone"
);

/// Not before the last message has gone, whoever erases it.
const FORGET: &str = "
    delete from erased_rooms where tenant_id = $1 and room_id = $2
       and not exists (select from messages where tenant_id = $1 and room_id = $2)";

const PENDING: &str = "
    select tenant_id, room_id from erased_rooms e
     where ($1::uuid is null or (tenant_id, room_id) > ($1, $2::uuid))
       and not exists (select from tenants t where t.tenant_id = e.tenant_id and t.status = 'deleting')
     order by tenant_id, room_id limit 100";

/// Erases a room's messages from one seq to below another, in small steps. Each begins where the one
/// before ended: what that erased stands in the index until a vacuum.
pub(crate) async fn erase_messages(db: &Db, tenant: TenantId, room: RoomId, mut from: i64, to: i64) -> Result<()> {
    loop {
        let start = Instant::now();
        let erased = db.query_opt(ERASE, &[&tenant, &room, &STEP, &from, &to]).await?;
        rest(start).await;
        match erased.as_ref().map(|row| get::<Option<i64>>(row, "last")).transpose()?.flatten() {
            Some(last) => from = last + 1,
            None => return Ok(()),
        }
    }
}

/// Erases all messages of a room that is gone.
async fn erase_room(db: &Db, tenant: TenantId, room: RoomId) -> Result<()> {
    erase_messages(db, tenant, room, 0, i64::MAX).await?;
    db.execute(FORGET, &[&tenant, &room]).await.map(|_| ())
}

const DELETING: &str = "select tenant_id from tenants where status = 'deleting' order by tenant_id limit 10";

const SOME_ROOMS: &str = "select room_id from rooms where tenant_id = $1 order by room_id limit 50";

const PENDING_OF: &str = "select room_id from erased_rooms where tenant_id = $1 order by room_id limit 100";

const HIDE_ROOM: &str = "
    with gone as (delete from rooms where tenant_id = $1 and room_id = $2 returning room_id)
    insert into erased_rooms (tenant_id, room_id) select $1, room_id from gone on conflict do nothing";

/// What a tenant has beside its rooms, in steps. Its keys go last but itself: as long as they are
/// there, they are refused by name.
const REST: [&str; 7] = [
    "delete from idempotency_keys where ctid = any (array(
        select ctid from idempotency_keys where tenant_id = $1 limit $2))",
    "delete from presence where ctid = any (array(select ctid from presence where tenant_id = $1 limit $2))",
    "delete from last_seen where ctid = any (array(select ctid from last_seen where tenant_id = $1 limit $2))",
    "delete from active_users where ctid = any (array(select ctid from active_users where tenant_id = $1 limit $2))",
    "delete from token_revocations where ctid = any (array(
        select ctid from token_revocations where tenant_id = $1 limit $2))",
    "delete from socket_tickets where ctid = any (array(
        select ctid from socket_tickets where tenant_id = $1 limit $2))",
    "delete from tenant_keys where ctid = any (array(select ctid from tenant_keys where tenant_id = $1 limit $2))",
];

const FORGET_TENANT: &str = "delete from tenants where tenant_id = $1 and status = 'deleting'";

/// Erases a tenant that is being deleted.
async fn erase_tenant(db: &Db, tenant: TenantId) -> Result<()> {
    loop {
        let rooms = db.query(SOME_ROOMS, &[&tenant]).await?;
        for row in &rooms {
            let room: RoomId = get(row, "room_id")?;
            db.execute(HIDE_ROOM, &[&tenant, &room]).await?;
        }
        let pending = db.query(PENDING_OF, &[&tenant]).await?;
        for row in &pending {
            let room: RoomId = get(row, "room_id")?;
            erase_room(db, tenant, room).await?;
        }
        if rooms.is_empty() && pending.is_empty() {
            break;
        }
    }
    for sql in deliveries::ERASE.into_iter().chain(REST) {
        while step(db, sql, &[&tenant, &STEP]).await? > 0 {}
    }
    db.execute(FORGET_TENANT, &[&tenant]).await?;
    tracing::info!(tenant_id = %tenant, "Erased a tenant");
    Ok(())
}

async fn step(db: &Db, sql: &'static str, params: &crate::db::Params<'_>) -> Result<u64> {
    let start = Instant::now();
    let rows = db.execute(sql, params).await?;
    rest(start).await;
    Ok(rows)
}

/// Rests after a step that began at `start`: erasing has time, and others send meanwhile.
async fn rest(start: Instant) {
    tokio::time::sleep(start.elapsed() * REST_FACTOR).await;
}

/// Erases the messages of rooms that are gone; those of tenants that are being deleted go with them.
pub(crate) async fn erase_rooms(db: &Db) -> Result<()> {
    let (mut after, mut failures): (Option<(TenantId, RoomId)>, _) = (None, 0);
    loop {
        let (tenant, room) = after.unzip();
        let rows = db.query(PENDING, &[&tenant, &room]).await?;
        for row in &rows {
            let (tenant, room) = (get(row, "tenant_id")?, get(row, "room_id")?);
            go_on(tenant, erase_room(db, tenant, room).await, &mut failures)?;
            after = Some((tenant, room));
        }
        if rows.is_empty() {
            return Ok(());
        }
    }
}

/// Erases tenants that are being deleted.
pub(crate) async fn erase_tenants(db: &Db) -> Result<()> {
    let mut failures = 0;
    for row in db.query(DELETING, &[]).await? {
        let tenant = get(&row, "tenant_id")?;
        go_on(tenant, erase_tenant(db, tenant).await, &mut failures)?;
    }
    Ok(())
}

/// What cannot be erased at the moment keeps nothing else from it; but after a few failures in a row
/// the rest is left to the next sweep.
fn go_on(tenant: TenantId, erased: Result<()>, failures: &mut u32) -> Result<()> {
    const FEW: u32 = 3;
    match erased {
        Ok(()) => *failures = 0,
        Err(error) if *failures + 1 == FEW => return Err(error),
        Err(error) => {
            *failures += 1;
            tracing::warn!(tenant_id = %tenant, %error, "Erasing will be tried again");
        }
    }
    Ok(())
}
