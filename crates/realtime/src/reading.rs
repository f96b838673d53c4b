//! What is read from the tables: what tails are missing, what syncs want to know, how far rooms are.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chatapi_domain::access::Actor;
use chatapi_domain::{HistoryQuery, Order, TenantId, UserId};
use chatapi_storage::{Error, History, Result};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::hub::Hub;
use crate::sync::{Answer, Fetch};
use crate::tail::{Missing, RoomKey, Tail};

/// Messages or changes a tail reads at once.
const PAGE: u32 = 500;

/// How often the tails are compared with the tables, whatever is told.
const COMPARE: Duration = Duration::from_secs(1);

/// Rooms compared in one statement.
const COMPARED_AT_ONCE: usize = 1000;

impl Hub {
    /// Reads what a tail is missing until it misses nothing.
    pub(crate) async fn catch_up(&self, tail: &Tail) {
        loop {
            let Some(missing) = tail.lock().next_read() else { return };
            let Ok(_permit) = self.inner.readers.acquire().await else { return };
            self.inner.reads.fetch_add(1, Relaxed);
            if let Err(error) = self.read_missing(tail, missing).await {
                tracing::debug!(%error, "A room will be read again");
                if self.inner.stop.run_until_cancelled(sleep(Duration::from_millis(100))).await.is_none() {
                    return;
                }
            }
        }
    }

    async fn read_missing(&self, tail: &Tail, missing: Missing) -> Result<()> {
        let (tenant, room) = tail.key;
        let messages = self.store().tenant(tenant).messages();
        if let Some(after) = missing.after_seq {
            let query = HistoryQuery { after_seq: Some(after), before_seq: None, order: Order::Ascending, limit: PAGE };
            let (page, more) = or_empty(messages.history(room, &Actor::Tenant, &query).await)?;
            tail.lock().read_messages(&page, more);
        }
        if let Some(after) = missing.after_change {
            let (page, more) = or_empty(messages.changes(room, &Actor::Tenant, after, i64::from(PAGE)).await)?;
            tail.lock().read_changes(&page, more);
        }
        Ok(())
    }

    /// Answers what a sync wants to know.
    pub(crate) async fn read(&self, tenant: TenantId, user: &UserId, fetch: Fetch) -> Result<Answer> {
        let store = self.store().tenant(tenant);
        let actor = || Actor::User(user.clone());
        match fetch {
            Fetch::AllPlaces => store.rooms().places(user).await.map(Answer::Places),
            Fetch::Places(rooms) => store.rooms().places_in(&rooms, user).await.map(Answer::Places),
            Fetch::Messages { room_id, after, before, limit } => {
                let (after_seq, order) = (Some(after), Order::Ascending);
                let query = HistoryQuery { after_seq, before_seq: before, order, limit };
                let page = store.messages().history(room_id, &actor(), &query).await?;
                Ok(Answer::Messages(page.messages, page.has_more))
            }
            Fetch::Changes { room_id, after, limit } => {
                let page = store.messages().changes(room_id, &actor(), after, i64::from(limit)).await?;
                Ok(Answer::Changes(page.messages, page.has_more))
            }
        }
    }

    /// Compares tails with the tables: new ones at once, all of them once a second.
    pub(crate) async fn keep_comparing(self) {
        let mut ticks = interval(COMPARE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let rooms = tokio::select! {
                () = self.inner.compare.notified() => {
                    std::mem::take(&mut *self.inner.fresh.lock().unwrap_or_else(PoisonError::into_inner))
                }
                _ = ticks.tick() => self.all_tails(),
            };
            for rooms in rooms.chunks(COMPARED_AT_ONCE) {
                if let Err(error) = self.compare(rooms).await {
                    tracing::debug!(%error, "Rooms could not be compared");
                    break;
                }
            }
        }
    }

    pub(crate) fn all_tails(&self) -> Vec<RoomKey> {
        let shards = self.inner.shards.iter();
        let keys = |shard: &Mutex<HashMap<RoomKey, Arc<Tail>>>| -> Vec<RoomKey> {
            shard.lock().map_or_else(|_| Vec::new(), |tails| tails.keys().copied().collect())
        };
        shards.flat_map(keys).collect()
    }

    async fn compare(&self, rooms: &[RoomKey]) -> Result<()> {
        for (position, _) in self.store().feed().positions(rooms).await? {
            if let Some(tail) = self.tail(position.tenant_id, position.room_id) {
                let next = tail.lock().reached(position.last_seq, position.last_change);
                self.follow_up(next, &tail);
            }
        }
        Ok(())
    }
}

/// A page; an empty one of a room that is gone.
fn or_empty<M>(page: Result<History<M>>) -> Result<(Vec<M>, bool)> {
    match page {
        Ok(page) => Ok((page.messages, page.has_more)),
        Err(Error::NotFound(_)) => Ok((Vec::new(), false)),
        Err(error) => Err(error),
    }
}
