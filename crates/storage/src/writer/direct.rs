//! The direct way: one message, one statement, one connection of the pool.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chatapi_domain::{NewMessage, RoomId, TenantId};
use tokio_postgres::error::SqlState;

use super::Outcome;
use super::batch::{ONE, ONE_TOLD, Texts, one, outcome};
use super::queue::Queue;
use crate::Result;
use crate::db::Db;
use crate::feed::Feed;

/// Messages that may go directly at once. Measured with 4 clients: 4 keep up with one statement a
/// message; more would only take the machine from the batches.
const LANES: usize = 4;

/// The rooms with a message on the direct way: a second one for the same room would wait for its
/// row, and is better off in a batch.
#[derive(Debug, Default)]
pub(super) struct Direct {
    rooms: Mutex<HashSet<(TenantId, RoomId)>>,
}

/// The right to send one message directly; ends with the value.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    direct: &'a Direct,
    room: (TenantId, RoomId),
}

impl Direct {
    /// A claim, if the writer is idle, a lane free, and no other message on its way to the room.
    pub(super) fn claim(&self, queue: &Queue, tenant: TenantId, room: RoomId) -> Option<Claim<'_>> {
        if !queue.is_idle() {
            return None;
        }
        let mut rooms = self.lock();
        if rooms.len() >= LANES || !rooms.insert((tenant, room)) {
            return None;
        }
        Some(Claim { direct: self, room: (tenant, room) })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(TenantId, RoomId)>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim<'_> {
    /// Stores the message.
    pub(super) async fn store(self, db: &Db, feed: &Feed, new: &NewMessage, told: i32) -> Result<Outcome> {
        let texts = Texts::of(new);
        let parameters = one(&self.room.0, new, &texts);
        let stored = match told {
            0 => db.try_query(ONE, &parameters).await?,
            _ => db.try_query(ONE_TOLD, &[&parameters[..], &[&told]].concat()).await?,
        };
        match stored {
            Ok(rows) => {
                let outcome = outcome(&rows)?;
                // Before the claim ends: the room's next message is handed over after this one.
                feed.stored(outcome.message(new).map(|message| (self.room.0, message)).into_iter());
                if told != 0 {
                    feed.outbox_filled(self.room.0);
                }
                Ok(outcome)
            }
            // Somebody else stored the same id at this moment: another look finds it.
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => Ok(Outcome::Refused),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.direct.lock().remove(&self.room);
    }
}
