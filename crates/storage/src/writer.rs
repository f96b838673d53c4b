//! The message writer: group commit.
//!
//! A few writers, each with a connection of its own; a room always goes to the same one. A writer
//! takes whatever is queued, at once when idle; while one batch is in flight the next gathers. So
//! many messages share one statement and one flush, and nobody waits for a timer
//! (docs/benchmarks.md has the measurements). Each caller gets its own result: a refused message
//! leaves no gap in `seq`.
//!
//! Batching alone loses where there is nothing to batch (0.7 of one statement a message with 4
//! clients): so a few messages may go [directly](direct), each over a connection of the pool, as
//! long as the writer of their room is idle. Under load it never is.

mod batch;
mod connection;
mod direct;
mod queue;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use chatapi_domain::access::Actor;
use chatapi_domain::{Invalid, Message, NewMessage, RoomId, TenantId, Timestamp, WebhookEvents};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

pub use self::batch::ONE;
use self::direct::Direct;
use self::queue::Queue;
use crate::db::{Db, count};
use crate::feed::Feed;
use crate::outbox::message_bits;
use crate::rooms::standing;
use crate::row::{self, get, message_columns};
use crate::{Connector, Error, Result};

/// A message that is in the room now.
#[derive(Debug, Clone)]
pub struct Appended {
    /// The message.
    pub message: Message,
    /// Whether this call made it; else it had been sent before.
    pub created: bool,
}

/// How busy the message writers are.
#[derive(Debug, Clone, Copy)]
pub struct QueueStatus {
    /// Messages waiting for a writer.
    pub waiting: usize,
    /// Bytes they hold.
    pub bytes: usize,
    /// Messages refused because a queue was full, since the start.
    pub refused: u64,
    /// Statements that stored messages, since the start.
    pub batches: u64,
    /// Messages stored, since the start.
    pub stored: u64,
}

/// A message on its way, and who waits for it.
#[derive(Debug)]
pub(crate) struct Job {
    tenant: TenantId,
    new: NewMessage,
    /// What of it goes into the outbox: [`message_bits`].
    told: i32,
    done: oneshot::Sender<(NewMessage, Result<Outcome>)>,
}

impl Job {
    /// What it takes up in a queue.
    fn bytes(&self) -> usize {
        let meta = self.new.meta.as_ref().map_or(0, |meta| meta.as_str().len());
        256 + self.new.content.as_str().len() + meta
    }

    fn finish(self, result: Result<Outcome>) {
        // Whoever waited may have gone; the message is stored all the same.
        let _ = self.done.send((self.new, result));
    }
}

/// What became of one message of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    /// It is durable.
    Stored { seq: i64, created_at: Timestamp },
    /// It broke a rule, or was there before; another look tells.
    Refused,
}

impl Outcome {
    /// The message as it is stored, if it is.
    fn message(self, new: &NewMessage) -> Option<Message> {
        match self {
            Self::Stored { seq, created_at } => Some(stored(new.clone(), seq, created_at)),
            Self::Refused => None,
        }
    }
}

/// Why a message was refused: how the sender stands, whether `reply_to` is right, and the message
/// that was there before.
const EXPLAIN: &str = concat!(
    "select r.type, own.role,
            $4::uuid is null or exists (
                select from messages q
                 where q.tenant_id = $1 and q.message_id = $4 and q.room_id = $2) as reply_is_right, ",
    message_columns!(),
    " from rooms r
      left join room_members own
        on own.tenant_id = r.tenant_id and own.room_id = r.room_id and own.user_id = $3
      left join lateral (
            (select * from messages
              where tenant_id = $1 and room_id = $2 and sender_id = $3 and client_message_id = $5)
            union all
            (select * from messages where tenant_id = $1 and message_id = $6 and room_id = $2 and sender_id = $3)
            limit 1) m on true
     where r.tenant_id = $1 and r.room_id = $2"
);

/// All writers of a store.
#[derive(Debug)]
pub(crate) struct Writer {
    queues: Vec<Arc<Queue>>,
    direct: Direct,
    db: Db,
    feed: Feed,
}

impl Writer {
    pub(crate) fn start(connector: &Connector, db: &Db, feed: &Feed, writers: usize, tasks: &TaskTracker) -> Self {
        let queues: Vec<_> = (0..writers.max(1)).map(|_| Arc::new(Queue::default())).collect();
        for queue in &queues {
            tasks.spawn(connection::run(queue.clone(), connector.clone(), feed.clone()));
        }
        Self { queues, direct: Direct::default(), db: db.clone(), feed: feed.clone() }
    }

    pub(crate) async fn append(
        &self,
        tenant: TenantId,
        mut new: NewMessage,
        events: WebhookEvents,
    ) -> Result<Appended> {
        let told = message_bits(events);
        // Again only if what refused it was gone a moment later.
        for _ in 0..3 {
            let queue = self.queue_of(tenant, new.room_id);
            let outcome = if let Some(claim) = self.direct.claim(queue, tenant, new.room_id) {
                claim.store(&self.db, &self.feed, &new, told).await?
            } else {
                let (back, outcome) = answered(queue_up(queue, tenant, new, told)?).await?;
                new = back;
                outcome
            };
            match self.settle(tenant, new, outcome).await? {
                Settled::Done(appended) => return Ok(*appended),
                Settled::Again(back) => new = *back,
            }
        }
        Err(Error::unavailable("the room's members change over and over"))
    }

    /// Appends messages of one sender; they become durable in this order. They are all queued
    /// before the first is waited for, so that they share commits.
    pub(crate) async fn append_all(
        &self,
        tenant: TenantId,
        news: Vec<NewMessage>,
        events: WebhookEvents,
    ) -> Vec<Result<Appended>> {
        let mut results = Vec::with_capacity(news.len());
        if news.len() == 1 {
            for new in news {
                results.push(self.append(tenant, new, events).await);
            }
            return results;
        }
        let told = message_bits(events);
        let queue_up = |new: NewMessage| queue_up(self.queue_of(tenant, new.room_id), tenant, new, told);
        let queued: Vec<_> = news.into_iter().map(queue_up).collect();
        for answer in queued {
            results.push(self.finish(tenant, answer, events).await);
        }
        results
    }

    async fn finish(&self, tenant: TenantId, answer: Result<Answer>, events: WebhookEvents) -> Result<Appended> {
        let (new, outcome) = answered(answer?).await?;
        match self.settle(tenant, new, outcome).await? {
            Settled::Done(appended) => Ok(*appended),
            // What refused it was gone a moment later.
            Settled::Again(new) => self.append(tenant, *new, events).await,
        }
    }

    async fn settle(&self, tenant: TenantId, new: NewMessage, outcome: Outcome) -> Result<Settled> {
        if let Outcome::Stored { seq, created_at } = outcome {
            return Ok(Settled::Done(Box::new(Appended { message: stored(new, seq, created_at), created: true })));
        }
        match self.explain(tenant, &new).await? {
            Some(message) => {
                let created = message.message_id == new.message_id;
                Ok(Settled::Done(Box::new(Appended { message, created })))
            }
            None => Ok(Settled::Again(Box::new(new))),
        }
    }

    fn queue_of(&self, tenant: TenantId, room: RoomId) -> &Queue {
        let mut hasher = DefaultHasher::new();
        (tenant, room).hash(&mut hasher);
        let at = hasher.finish() % self.queues.len() as u64;
        &self.queues[usize::try_from(at).unwrap_or(0)]
    }

    /// The message that was there before; or the rule that `new` breaks; or nothing, if all is
    /// well by now.
    pub(crate) async fn explain(&self, tenant: TenantId, new: &NewMessage) -> Result<Option<Message>> {
        let row = self
            .db
            .query_opt(
                EXPLAIN,
                &[&tenant, &new.room_id, &new.sender_id, &new.reply_to, &new.client_message_id, &new.message_id],
            )
            .await?
            .ok_or(Error::NotFound("Room"))?;
        standing(&row, &Actor::User(new.sender_id.clone()))?.take_part()?;
        let before = row::optional_message(&row)?;
        if before.is_none() && !get::<bool>(&row, "reply_is_right")? {
            return Err(Invalid::new("reply_to", "expected the message_id of a message of this room").into());
        }
        Ok(before)
    }

    pub(crate) fn close(&self) {
        self.queues.iter().for_each(|queue| queue.close());
    }

    pub(crate) fn status(&self) -> QueueStatus {
        let each = self.queues.iter().map(|queue| queue.status());
        each.reduce(|a, b| QueueStatus {
            waiting: a.waiting + b.waiting,
            bytes: a.bytes + b.bytes,
            refused: a.refused + b.refused,
            batches: a.batches + b.batches,
            stored: a.stored + b.stored,
        })
        .unwrap_or(QueueStatus { waiting: 0, bytes: 0, refused: 0, batches: 0, stored: 0 })
    }
}

/// What became of a message whose outcome is known.
enum Settled {
    Done(Box<Appended>),
    /// All is well by now: to be sent again.
    Again(Box<NewMessage>),
}

/// Where a queued message's outcome comes.
type Answer = oneshot::Receiver<(NewMessage, Result<Outcome>)>;

fn queue_up(queue: &Queue, tenant: TenantId, new: NewMessage, told: i32) -> Result<Answer> {
    let (done, answer) = oneshot::channel();
    queue.push(Job { tenant, new, told, done })?;
    Ok(answer)
}

async fn answered(answer: Answer) -> Result<(NewMessage, Outcome)> {
    let start = Instant::now();
    let answer = answer.await.map_err(|_| Error::unavailable("the message writer ended"));
    count(1, start);
    let (new, outcome) = answer?;
    Ok((new, outcome?))
}

fn stored(new: NewMessage, seq: i64, created_at: Timestamp) -> Message {
    Message {
        message_id: new.message_id,
        room_id: new.room_id,
        sender_id: new.sender_id,
        seq,
        content: new.content.into_string(),
        meta: new.meta,
        client_message_id: new.client_message_id,
        created_at,
        edited_at: None,
        deleted_at: None,
        reply_to: new.reply_to,
    }
}
