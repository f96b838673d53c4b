//! A bounded queue in which tenants take turns, so that a flood of one does not make another wait.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chatapi_domain::{ClientMessageId, RoomId, TenantId, UserId};
use tokio::sync::Notify;

use super::{Job, QueueStatus};
use crate::{Error, Result};

/// Messages and bytes that may wait, in all and of one tenant. A full queue answers `503` at once.
const MAX_WAITING: usize = 16_384;
const MAX_WAITING_OF_TENANT: usize = 4096;
const MAX_BYTES: usize = 64 << 20;
const MAX_BYTES_OF_TENANT: usize = 16 << 20;

/// Messages in one batch. Between 64 and 512 the throughput is the same.
const MAX_BATCH: usize = 256;
const MAX_BATCH_BYTES: usize = 2 << 20;

/// Messages of one tenant in a batch while others send too: what those wait for stays short.
/// Measured beside a flood over 256 connections (docs/benchmarks.md, Neighbours).
const SHARE: usize = 8;

/// So long after tenants took turns they are still counted as sending together.
const TOGETHER: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Notify,
    refused: AtomicU64,
    batches: AtomicU64,
    stored: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    lanes: HashMap<TenantId, Lane>,
    /// The tenants that have something waiting, the next one first.
    turns: VecDeque<TenantId>,
    waiting: usize,
    bytes: usize,
    /// Who queued the last message, and when that was last another tenant than the time before.
    last: Option<TenantId>,
    mixed_at: Option<Instant>,
    /// Whether the writer has a batch under way.
    writing: bool,
    closed: bool,
}

#[derive(Debug, Default)]
struct Lane {
    jobs: VecDeque<Job>,
    bytes: usize,
}

impl Queue {
    /// Queues a message.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] at once if there is no room for it.
    pub(super) fn push(&self, job: Job) -> Result<()> {
        let pushed = self.lock().push(job);
        match pushed {
            Ok(()) => self.wake.notify_one(),
            Err(_) => _ = self.refused.fetch_add(1, Relaxed),
        }
        pushed
    }

    /// The next batch, as soon as there is anything; nothing once the queue is closed and empty.
    pub(super) async fn next(&self) -> Option<Vec<Job>> {
        loop {
            let woken = self.wake.notified();
            {
                let mut state = self.lock();
                state.writing = state.waiting > 0;
                if state.writing {
                    return Some(state.take());
                }
                if state.closed {
                    return None;
                }
            }
            woken.await;
        }
    }

    /// Whether a message would have the writer to itself.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        !state.writing && state.waiting == 0 && !state.closed
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Notes that a statement stored this many messages.
    pub(super) fn stored(&self, messages: usize) {
        self.batches.fetch_add(1, Relaxed);
        self.stored.fetch_add(messages as u64, Relaxed);
    }

    pub(super) fn status(&self) -> QueueStatus {
        let state = self.lock();
        QueueStatus {
            waiting: state.waiting,
            bytes: state.bytes,
            refused: self.refused.load(Relaxed),
            batches: self.batches.load(Relaxed),
            stored: self.stored.load(Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it, and a half-done change would only miscount.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, job: Job) -> Result<()> {
        if self.closed {
            return Err(Error::unavailable("the store is closing"));
        }
        let bytes = job.bytes();
        let (waiting_of_tenant, bytes_of_tenant) =
            self.lanes.get(&job.tenant).map_or((0, 0), |lane| (lane.jobs.len(), lane.bytes));
        if waiting_of_tenant >= MAX_WAITING_OF_TENANT || bytes_of_tenant + bytes > MAX_BYTES_OF_TENANT {
            return Err(Error::unavailable("the tenant's message queue is full"));
        }
        if self.waiting >= MAX_WAITING || self.bytes + bytes > MAX_BYTES {
            return Err(Error::unavailable("the message queue is full"));
        }
        let tenant = job.tenant;
        if self.last.replace(tenant).is_some_and(|last| last != tenant) {
            self.mixed_at = Some(Instant::now());
        }
        let lane = self.lanes.entry(tenant).or_default();
        if lane.jobs.is_empty() {
            self.turns.push_back(tenant);
        }
        lane.bytes += bytes;
        lane.jobs.push_back(job);
        self.bytes += bytes;
        self.waiting += 1;
        Ok(())
    }

    /// Takes messages in turn, one of each tenant, until the batch is full. A repeated
    /// `client_message_id` waits, and its tenant with it, for the next batch: there the first
    /// message can be seen.
    fn take(&mut self) -> Vec<Job> {
        let together = self.mixed_at.is_some_and(|at| at.elapsed() < TOGETHER);
        let share = if together { SHARE } else { MAX_BATCH };
        let mut batch: Vec<Job> = Vec::with_capacity(self.waiting.min(MAX_BATCH));
        let mut taken: HashMap<TenantId, usize> = HashMap::new();
        let mut named: HashSet<(TenantId, RoomId, UserId, ClientMessageId)> = HashSet::new();
        let mut passed: Vec<TenantId> = Vec::new();
        let mut bytes = 0;
        while batch.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
            let Some(tenant) = self.turns.pop_front() else { break };
            let so_far = taken.entry(tenant).or_default();
            let Some(lane) = self.lanes.get_mut(&tenant) else { continue };
            let repeated = lane.jobs.front().is_some_and(|job| {
                let id = job.new.client_message_id.clone();
                id.is_some_and(|id| !named.insert((tenant, job.new.room_id, job.new.sender_id.clone(), id)))
            });
            if repeated || *so_far >= share {
                passed.push(tenant);
                continue;
            }
            *so_far += 1;
            if let Some(job) = lane.jobs.pop_front() {
                let size = job.bytes();
                lane.bytes -= size;
                self.bytes -= size;
                self.waiting -= 1;
                bytes += size;
                batch.push(job);
            }
            if lane.jobs.is_empty() {
                self.lanes.remove(&tenant);
            } else {
                self.turns.push_back(tenant);
            }
        }
        self.turns.extend(passed);
        batch
    }
}

#[cfg(test)]
mod tests {
    use chatapi_domain::{Content, MessageId, NewMessage, Timestamp};
    use tokio::sync::oneshot;

    use super::*;

    fn job(tenant: TenantId, content: &str, client_id: Option<&str>) -> Job {
        let now = Timestamp::from_micros(1);
        let new = NewMessage {
            message_id: MessageId::new(now),
            room_id: RoomId::from_uuid(uuid::Uuid::nil()),
            sender_id: UserId::parse("user_id", "alice").expect("a user id"),
            content: Content::parse(content.to_owned(), 200_000).expect("content"),
            meta: None,
            client_message_id: client_id.map(|id| ClientMessageId::parse(id).expect("an id")),
            reply_to: None,
        };
        Job { tenant, new, told: 0, done: oneshot::channel().0 }
    }

    fn tenant() -> TenantId {
        TenantId::new(Timestamp::from_micros(1))
    }

    #[test]
    fn a_flood_of_one_tenant_leaves_the_others_their_turn() {
        let (flood, quiet, mut state) = (tenant(), tenant(), State::default());
        for _ in 0..1000 {
            state.push(job(flood, "x", None)).expect("there is room");
        }
        state.push(job(quiet, "y", None)).expect("there is room");

        let batch = state.take();

        assert_eq!(batch.iter().filter(|job| job.tenant == flood).count(), SHARE);
        assert_eq!(batch[1].tenant, quiet);
        state.mixed_at = None;
        assert_eq!(state.take().len(), MAX_BATCH, "alone again it has the whole batch");
    }

    #[test]
    fn one_tenants_full_queue_is_not_anothers() {
        let (flood, quiet, mut state) = (tenant(), tenant(), State::default());
        for _ in 0..MAX_WAITING_OF_TENANT {
            state.push(job(flood, "x", None)).expect("there is room");
        }

        assert!(matches!(state.push(job(flood, "x", None)), Err(Error::Unavailable(_))));
        assert!(state.push(job(quiet, "y", None)).is_ok());
        let large = "x".repeat(190_000);
        let fitting = (0..200).take_while(|_| state.push(job(quiet, &large, None)).is_ok()).count();
        assert_eq!(fitting, MAX_BYTES_OF_TENANT / 190_256);
    }

    #[test]
    fn a_repeated_client_message_id_waits_and_order_stays() {
        let (a, mut state) = (tenant(), State::default());
        for (content, id) in [("1", Some("same")), ("2", None), ("3", Some("same")), ("4", None)] {
            state.push(job(a, content, id)).expect("there is room");
        }
        let contents =
            |batch: Vec<Job>| -> Vec<String> { batch.into_iter().map(|job| job.new.content.into_string()).collect() };

        assert_eq!(contents(state.take()), ["1", "2"]);
        assert_eq!(contents(state.take()), ["3", "4"]);
        assert_eq!((state.waiting, state.bytes, state.lanes.len(), state.turns.len()), (0, 0, 0, 0));
    }
}
