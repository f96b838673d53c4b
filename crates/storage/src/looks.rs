//! Looks at rooms, shared: whether an actor may see a room, and how far it is.
//!
//! Whoever has a page of a room in memory needs to know only whether it is still right. A query for
//! each who asks would cost most of what reading the page costs; so, as messages share a commit,
//! those who ask at the same time share a statement. It begins after all of them have asked, so
//! what it finds is never older than the question. One of the few files that see more than one
//! tenant: each look is joined by its own.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chatapi_domain::access::Actor;
use chatapi_domain::{RoomId, TenantId, UserId};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::db::{Db, count};
use crate::row::get;
use crate::{Error, Result};

/// Looks in one statement, and looks that wait; beyond, `503`.
const MAX_BATCH: usize = 256;
const MAX_WAITING: usize = 16_384;

/// How far a room is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The seq at which it begins.
    pub first_seq: i64,
    /// The seq of its newest message.
    pub last_seq: i64,
    /// The number of its newest change.
    pub last_change: i64,
}

#[derive(Debug)]
struct Look {
    tenant: TenantId,
    room: RoomId,
    user: Option<UserId>,
    done: oneshot::Sender<Result<Option<Extent>>>,
}

/// Who wants to know.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    looks: Vec<Look>,
    /// Nobody looks any more.
    closed: bool,
}

const LOOK: &str = "
    select i.ord, r.first_seq, r.last_seq, r.last_change
      from unnest($1::uuid[], $2::uuid[], $3::text[]) with ordinality i (tenant_id, room_id, user_id, ord)
      join rooms r on r.tenant_id = i.tenant_id and r.room_id = i.room_id
      left join room_members own
        on own.tenant_id = i.tenant_id and own.user_id = i.user_id and own.room_id = i.room_id
     where i.user_id is null or own.user_id is not null or r.type = 'channel'";

impl Looks {
    pub(crate) async fn look(&self, tenant: TenantId, room: RoomId, actor: &Actor) -> Result<Extent> {
        let (done, answer) = oneshot::channel();
        {
            let mut waiting = self.lock();
            if waiting.closed {
                return Err(Error::unavailable("the store is closed"));
            }
            if waiting.looks.len() >= MAX_WAITING {
                return Err(Error::unavailable("too many look at rooms"));
            }
            waiting.looks.push(Look { tenant, room, user: actor.user().cloned(), done });
        }
        self.wake.notify_one();
        let start = Instant::now();
        let answer = answer.await.map_err(|_| Error::unavailable("the store is closing"));
        count(1, start);
        answer??.ok_or(Error::NotFound("Room"))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<Look> {
        let mut waiting = self.lock();
        let batch = waiting.looks.len().min(MAX_BATCH);
        let rest = waiting.looks.split_off(batch);
        if !rest.is_empty() {
            self.wake.notify_one();
        }
        std::mem::replace(&mut waiting.looks, rest)
    }

    /// Looks for those who ask, until `stop`: while one statement is under way the next gathers. With two
    /// at once they are half as large, and 6 % fewer pages are answered a second.
    pub(crate) async fn serve(&self, db: &Db, stop: &CancellationToken) {
        while stop.run_until_cancelled(self.wake.notified()).await.is_some() {
            let looks = self.take();
            if looks.is_empty() {
                continue;
            }
            match extents(db, &looks).await {
                Ok(found) => looks.into_iter().zip(found).for_each(|(look, found)| _ = look.done.send(Ok(found))),
                Err(error) => {
                    // All share one cause: it is logged with the first.
                    let mut cause = Some(error);
                    for look in looks {
                        let error = cause.take().unwrap_or_else(|| Error::unavailable("a look at rooms failed"));
                        let _ = look.done.send(Err(error));
                    }
                }
            }
        }
        // Whoever still waits finds the other end gone.
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.looks.clear();
    }
}

async fn extents(db: &Db, looks: &[Look]) -> Result<Vec<Option<Extent>>> {
    let tenants: Vec<TenantId> = looks.iter().map(|look| look.tenant).collect();
    let rooms: Vec<RoomId> = looks.iter().map(|look| look.room).collect();
    let users: Vec<Option<&UserId>> = looks.iter().map(|look| look.user.as_ref()).collect();
    let mut found = vec![None; looks.len()];
    for row in &db.query(LOOK, &[&tenants, &rooms, &users]).await? {
        let place = usize::try_from(get::<i64>(row, "ord")? - 1).unwrap_or(usize::MAX);
        if let Some(slot) = found.get_mut(place) {
            *slot = Some(Extent {
                first_seq: get(row, "first_seq")?,
                last_seq: get(row, "last_seq")?,
                last_change: get(row, "last_change")?,
            });
        }
    }
    Ok(found)
}
