//! The change feed: what a node is told of what it and others did. One of the few files that see
//! more than one tenant.
//!
//! Three kinds of news, each with its own way:
//!
//! - **Messages and changes of this node** are handed over in memory, after the commit
//!   ([`Signal::Stored`], [`Signal::Changed`]). Other nodes are only told how far the room is
//!   ([`Signal::Position`]), by one task, several rooms at once: a `NOTIFY` in a message's
//!   transaction would cost two thirds of the throughput (docs/architecture.md).
//! - **Facts** that must not be missed (members, rooms, keys) are told by a `NOTIFY` in the
//!   transaction that makes them true, and reach this node too by its `LISTEN`: every node learns
//!   them in the order of the commits.
//! - **Passing facts** (receipts, typing, presence) are told after the fact.
//!
//! All of it is a hint; the tables are the truth. Whoever follows compares with
//! [`Feed::positions`], and after [`Signal::Missed`] reads everything again.

mod listener;
mod notice;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chatapi_domain::{Change, Fact, Message, NodeId, RoomId, TenantId, Timestamp};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{Notify, broadcast};

pub(crate) use self::listener::run;
use self::notice::Notice;
use crate::db::{Db, Tx};
use crate::row::get;
use crate::{Error, Result};

/// Signals that wait for one who follows. Who falls further behind is told [`Signal::Missed`].
const BACKLOG: usize = 4096;

/// Passing facts that wait to be told to other nodes. Further ones push out the oldest.
const MAX_PASSING: usize = 4096;

/// Tenants whose outboxes were filled, for whoever empties them. Further ones are found by looking.
const MAX_FILLED: usize = 10_000;

/// What a node is told.
#[derive(Debug, Clone)]
pub enum Signal {
    /// This node stored messages, of one or more rooms, those of a room in the order of their seq.
    Stored {
        /// Whose, and the message.
        messages: Vec<(TenantId, Message)>,
    },
    /// This node edited or erased a message.
    Changed {
        /// Whose.
        tenant_id: TenantId,
        /// The message as it is now.
        change: Change,
    },
    /// Another node stored or changed messages of a room: it is at least here.
    Position(Position),
    /// Something else happened, here or elsewhere.
    Fact {
        /// Whose.
        tenant_id: TenantId,
        /// What.
        fact: Fact,
    },
    /// Signals may have been lost: what is held in memory must be compared with the tables.
    Missed,
}

/// How far a room is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Whose room.
    pub tenant_id: TenantId,
    /// The room.
    pub room_id: RoomId,
    /// The seq of its newest message.
    pub last_seq: i64,
    /// The number of its newest change.
    pub last_change: i64,
}

/// The change feed of a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Feed {
    shared: Arc<Shared>,
    db: Db,
}

#[derive(Debug)]
struct Shared {
    node_id: NodeId,
    /// What this node hands over in memory.
    own: broadcast::Sender<Arc<Signal>>,
    /// What is told by notices, and passing facts of our own.
    told: broadcast::Sender<Arc<Signal>>,
    /// Whether anybody follows messages: else they are not even copied.
    followed: AtomicBool,
    listening: AtomicBool,
    /// Other nodes alive: without any, nobody need be told how far a room is.
    others: AtomicUsize,
    notices: AtomicU64,
    pending: Mutex<Pending>,
    wake: Notify,
    filled: Mutex<HashSet<TenantId>>,
    wake_delivery: Notify,
}

/// What the next notices will tell.
#[derive(Debug, Default)]
struct Pending {
    positions: HashMap<(TenantId, RoomId), (i64, i64)>,
    passing: VecDeque<(TenantId, Fact)>,
}

/// What one who follows the feed hears, in order.
#[derive(Debug)]
pub struct Subscription {
    own: broadcast::Receiver<Arc<Signal>>,
    told: broadcast::Receiver<Arc<Signal>>,
}

impl Subscription {
    /// The next signal; nothing once the store is gone.
    pub async fn next(&mut self) -> Option<Arc<Signal>> {
        let received = tokio::select! {
            biased;
            told = self.told.recv() => told,
            own = self.own.recv() => own,
        };
        heard(received)
    }
}

/// What one who follows only what is told hears: facts, and how far rooms are.
#[derive(Debug)]
pub struct Told(broadcast::Receiver<Arc<Signal>>);

impl Told {
    /// The next signal; nothing once the store is gone.
    pub async fn next(&mut self) -> Option<Arc<Signal>> {
        heard(self.0.recv().await)
    }

    /// The next signal, if there is one already.
    pub(crate) fn try_next(&mut self) -> Option<Arc<Signal>> {
        match self.0.try_recv() {
            Ok(signal) => Some(signal),
            Err(TryRecvError::Lagged(_)) => Some(Arc::new(Signal::Missed)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}

fn heard(received: Result<Arc<Signal>, RecvError>) -> Option<Arc<Signal>> {
    match received {
        Ok(signal) => Some(signal),
        Err(RecvError::Lagged(_)) => Some(Arc::new(Signal::Missed)),
        Err(RecvError::Closed) => None,
    }
}

const NOTIFY: &str = "select count(pg_notify('chatapi', p)) from unnest($1::text[]) p";

const POSITIONS: &str = "
    select r.tenant_id, r.room_id, r.last_seq, r.last_change, r.updated_at
      from unnest($1::uuid[], $2::uuid[]) i (tenant_id, room_id)
      join rooms r on r.tenant_id = i.tenant_id and r.room_id = i.room_id";

impl Feed {
    pub(crate) fn new(db: Db, node_id: NodeId) -> Self {
        let shared = Shared {
            node_id,
            own: broadcast::Sender::new(BACKLOG),
            told: broadcast::Sender::new(BACKLOG),
            followed: AtomicBool::new(false),
            listening: AtomicBool::new(false),
            others: AtomicUsize::new(0),
            notices: AtomicU64::new(0),
            pending: Mutex::default(),
            wake: Notify::new(),
            filled: Mutex::default(),
            wake_delivery: Notify::new(),
        };
        Self { shared: Arc::new(shared), db }
    }

    /// This node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.shared.node_id
    }

    /// How many nodes serve this database, this one included.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.shared.others.load(Relaxed) + 1
    }

    /// Whether facts reach this node at the moment. If not, what is remembered of keys and
    /// settings must be read again before it is used.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.shared.listening.load(Relaxed)
    }

    /// Notices sent to other nodes since the start.
    #[must_use]
    pub fn notices(&self) -> u64 {
        self.shared.notices.load(Relaxed)
    }

    /// Follows everything. Messages are handed over only while [`Feed::set_followed`] says so.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription { own: self.shared.own.subscribe(), told: self.shared.told.subscribe() }
    }

    /// Follows what is told, without this node's own messages.
    #[must_use]
    pub fn told(&self) -> Told {
        Told(self.shared.told.subscribe())
    }

    /// Says whether anybody wants this node's messages.
    pub fn set_followed(&self, followed: bool) {
        self.shared.followed.store(followed, Relaxed);
    }

    /// How far these rooms are, and when each last changed; rooms that are gone are missing.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn positions(&self, rooms: &[(TenantId, RoomId)]) -> Result<Vec<(Position, Timestamp)>> {
        let (tenants, ids): (Vec<TenantId>, Vec<RoomId>) = rooms.iter().copied().unzip();
        let rows = self.db.query(POSITIONS, &[&tenants, &ids]).await?;
        let position = |row| {
            let position = Position {
                tenant_id: get(row, "tenant_id")?,
                room_id: get(row, "room_id")?,
                last_seq: get(row, "last_seq")?,
                last_change: get(row, "last_change")?,
            };
            Ok((position, get(row, "updated_at")?))
        };
        rows.iter().map(position).collect()
    }

    /// Tells a passing fact to this node and the others.
    pub fn tell(&self, tenant_id: TenantId, fact: Fact) {
        if self.shared.others.load(Relaxed) > 0 {
            let mut pending = self.pending();
            if pending.passing.len() >= MAX_PASSING {
                pending.passing.pop_front();
            }
            pending.passing.push_back((tenant_id, fact.clone()));
            drop(pending);
            self.shared.wake.notify_one();
        }
        self.publish(Signal::Fact { tenant_id, fact });
    }

    /// Waits until this node has put something into outboxes, and says of which tenants. A hint: of
    /// what other nodes put in it says nothing.
    pub async fn filled_outboxes(&self) -> Vec<TenantId> {
        self.shared.wake_delivery.notified().await;
        self.filled().drain().collect()
    }

    /// Says that something durable is in a tenant's outbox.
    pub(crate) fn outbox_filled(&self, tenant: TenantId) {
        let mut filled = self.filled();
        if filled.len() < MAX_FILLED {
            filled.insert(tenant);
        }
        drop(filled);
        self.shared.wake_delivery.notify_one();
    }

    fn filled(&self) -> MutexGuard<'_, HashSet<TenantId>> {
        self.shared.filled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over messages that are durable now.
    pub(crate) fn stored(&self, messages: impl Iterator<Item = (TenantId, Message)>) {
        let (followed, others) = (self.shared.followed.load(Relaxed), self.shared.others.load(Relaxed) > 0);
        if !followed && !others {
            return;
        }
        let messages: Vec<_> = messages.collect();
        if others {
            let mut pending = self.pending();
            for (tenant_id, message) in &messages {
                pending.reached(*tenant_id, message.room_id, message.seq, 0);
            }
            drop(pending);
            self.shared.wake.notify_one();
        }
        if followed {
            // An error says that nobody follows.
            let _ = self.shared.own.send(Arc::new(Signal::Stored { messages }));
        }
    }

    /// Hands over a change that is durable now.
    pub(crate) fn changed(&self, tenant_id: TenantId, change: &Change) {
        if self.shared.others.load(Relaxed) > 0 {
            self.pending().reached(tenant_id, change.message.room_id, change.message.seq, change.change);
            self.shared.wake.notify_one();
        }
        if self.shared.followed.load(Relaxed) {
            let _ = self.shared.own.send(Arc::new(Signal::Changed { tenant_id, change: change.clone() }));
        }
    }

    fn publish(&self, signal: Signal) {
        let _ = self.shared.told.send(Arc::new(signal));
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn reached(&mut self, tenant: TenantId, room: RoomId, seq: i64, change: i64) {
        let place = self.positions.entry((tenant, room)).or_default();
        *place = (place.0.max(seq), place.1.max(change));
    }
}

/// Tells facts in the transaction that makes them true.
pub(crate) async fn tell_in(tx: &Tx<'_>, tenant_id: TenantId, facts: &[Fact]) -> Result<()> {
    let notices = notices(tenant_id, facts)?;
    tx.execute(NOTIFY, &[&notices]).await.map(|_| ())
}

/// Facts as the texts of notices, for a statement that tells them itself.
pub(crate) fn notices(tenant_id: TenantId, facts: &[Fact]) -> Result<Vec<String>> {
    facts.iter().map(|fact| Notice::Fact { from: None, tenant_id, fact: fact.clone() }.to_text()).collect()
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Database(error.into())
    }
}
