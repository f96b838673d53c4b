//! Erases the messages of rooms that are gone, in small steps that survive a restart.
//!
//! A room disappears in one short transaction; its messages, which nobody can reach any more,
//! follow here, so that no lock is held for as long as a large room takes. One of the few files
//! that see more than one tenant.

use std::time::Duration;

use chatapi_domain::{RoomId, TenantId};
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::db::Db;
use crate::row::get;

/// Messages erased in one statement: some ten milliseconds of work.
const STEP: i64 = 2000;

/// How often what an earlier run left is looked for.
const PAUSE: Duration = Duration::from_secs(10);

const ERASE: &str = "
    delete from messages
     where tenant_id = $1 and room_id = $2
       and seq = any (array(select seq from messages where tenant_id = $1 and room_id = $2 order by seq limit $3))";

const FORGET: &str = "delete from erased_rooms where tenant_id = $1 and room_id = $2";

const PENDING: &str = "select tenant_id, room_id from erased_rooms order by tenant_id, room_id limit 100";

/// Erases all messages of a room that is gone.
pub(crate) async fn erase_room(db: &Db, tenant: TenantId, room: RoomId) -> Result<()> {
    while db.execute(ERASE, &[&tenant, &room, &STEP]).await? > 0 {}
    db.execute(FORGET, &[&tenant, &room]).await.map(|_| ())
}

/// Finishes, again and again until `stop`, what was begun and not finished.
pub(crate) async fn sweep(db: Db, stop: CancellationToken) {
    let work = async {
        loop {
            tokio::time::sleep(PAUSE).await;
            if let Err(error) = sweep_once(&db).await {
                tracing::debug!(%error, "Erasing will be tried again");
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

async fn sweep_once(db: &Db) -> Result<()> {
    for row in db.query(PENDING, &[]).await? {
        erase_room(db, get(&row, "tenant_id")?, get(&row, "room_id")?).await?;
    }
    crate::tokens::forget_old(db).await?;
    crate::idempotency::forget_old(db).await
}
