//! Erases what is gone, in small steps that survive a restart: the messages of deleted rooms, and
//! deleted tenants.
//!
//! A room disappears in one short transaction; its messages, which nobody can reach any more,
//! follow here, so that no lock is held for as long as a large room takes. A tenant that is being
//! deleted goes room by room, then all else it has, then itself. One of the few files that see
//! more than one tenant.

use std::time::{Duration, Instant};

use chatapi_domain::{Fact, NodeId, RoomId, TenantId};
use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::feed::{Signal, Told};
use crate::row::get;
use crate::usage::tally_erased;
use crate::{Result, nodes};

/// Rows erased in one statement: a millisecond of work or two. A statement that takes longer than the
/// system's scheduler gives one process at a time makes others wait for a core: the p99 of another
/// tenant's sends went from 2.6 to 7 ms beside steps of 2000, to 4.5 beside these, and to 3.2 with the
/// [rest](REST_FACTOR) (docs/benchmarks.md has the outcome).
pub(crate) const STEP: i64 = 200;

/// How many times as long as a step took is rested after it.
const REST_FACTOR: u32 = 3;

/// How often what an earlier run left is looked for.
const PAUSE: Duration = Duration::from_secs(10);

/// How long more tenants may change before one sweep looks at them all.
const GATHER: Duration = Duration::from_millis(200);

/// How often what has become too old is looked for.
const BY_AGE: Duration = Duration::from_mins(10);

/// Of a room's messages the oldest `$3` below seq `$4`.
pub(crate) const ERASE: &str = concat!(
    "with gone as (
        delete from messages
         where tenant_id = $1 and room_id = $2
           and seq = any (array(select seq from messages
                                 where tenant_id = $1 and room_id = $2 and seq < $4 order by seq limit $3))
        returning message_id) ",
    tally_erased!("$1")
);

const ALL: i64 = i64::MAX;

/// Not before the last message has gone, whoever erases it.
const FORGET: &str = "
    delete from erased_rooms where tenant_id = $1 and room_id = $2
       and not exists (select from messages where tenant_id = $1 and room_id = $2)";

const PENDING: &str = "select tenant_id, room_id from erased_rooms order by tenant_id, room_id limit 100";

/// Erases all messages of a room that is gone.
async fn erase_room(db: &Db, tenant: TenantId, room: RoomId) -> Result<()> {
    while step(db, ERASE, &[&tenant, &room, &STEP, &ALL]).await? > 0 {}
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
    for sql in REST {
        while step(db, sql, &[&tenant, &STEP]).await? > 0 {}
    }
    db.execute(FORGET_TENANT, &[&tenant]).await?;
    tracing::info!(tenant_id = %tenant, "Erased a tenant");
    Ok(())
}

/// Erases a little and rests: it has time, and others send meanwhile.
pub(crate) async fn step(db: &Db, sql: &'static str, params: &crate::db::Params<'_>) -> Result<u64> {
    let start = Instant::now();
    let rows = db.execute(sql, params).await?;
    tokio::time::sleep(start.elapsed() * REST_FACTOR).await;
    Ok(rows)
}

/// Finishes, again and again until `stop`, what was begun and not finished; at once when a room was
/// deleted or a tenant has changed: it may be going, or keep its messages for a shorter time.
pub(crate) async fn sweep(db: Db, node: NodeId, mut told: Told, stop: CancellationToken) {
    let mut aged: Option<Instant> = None;
    let work = async {
        loop {
            let mut by_age = aged.is_none_or(|at| at.elapsed() > BY_AGE);
            if let Ok(cause) = tokio::time::timeout(PAUSE, cause(&mut told)).await {
                by_age |= cause == Cause::Tenant;
                tokio::time::sleep(GATHER).await;
                while let Some(signal) = told.try_next() {
                    by_age |= Cause::of(&signal) == Some(Cause::Tenant);
                }
            }
            match sweep_if_leading(&db, node, by_age).await {
                Ok(()) if by_age => aged = Some(Instant::now()),
                Ok(()) => {}
                Err(error) => tracing::debug!(%error, "Erasing will be tried again"),
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Why something may have to be erased.
#[derive(PartialEq)]
enum Cause {
    Room,
    Tenant,
}

impl Cause {
    fn of(signal: &Signal) -> Option<Self> {
        match signal {
            Signal::Fact { fact: Fact::TenantChanged, .. } | Signal::Missed => Some(Self::Tenant),
            Signal::Fact { fact: Fact::RoomDeleted { .. }, .. } => Some(Self::Room),
            _ => None,
        }
    }
}

async fn cause(told: &mut Told) -> Cause {
    while let Some(signal) = told.next().await {
        if let Some(cause) = Cause::of(&signal) {
            return cause;
        }
    }
    // The store is going.
    std::future::pending().await
}

/// Of several nodes one does it: the others would only stand in its way.
async fn sweep_if_leading(db: &Db, node: NodeId, by_age: bool) -> Result<()> {
    if nodes::leads(db, node).await? { sweep_once(db, by_age).await } else { Ok(()) }
}

async fn sweep_once(db: &Db, by_age: bool) -> Result<()> {
    // First what is quick, and must not wait for what may take hours.
    crate::tokens::forget_old(db).await?;
    crate::idempotency::forget_old(db).await?;
    for row in db.query(PENDING, &[]).await? {
        let tenant = get(&row, "tenant_id")?;
        go_on(tenant, erase_room(db, tenant, get(&row, "room_id")?).await);
    }
    for row in db.query(DELETING, &[]).await? {
        let tenant = get(&row, "tenant_id")?;
        go_on(tenant, erase_tenant(db, tenant).await);
    }
    if by_age {
        crate::retention::sweep(db).await?;
        crate::usage::close_hours(db).await?;
    }
    Ok(())
}

/// What cannot be erased at the moment keeps nothing else from it.
fn go_on(tenant: TenantId, erased: Result<()>) {
    if let Err(error) = erased {
        tracing::warn!(tenant_id = %tenant, %error, "Erasing will be tried again");
    }
}
