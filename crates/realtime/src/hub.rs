//! Everybody who is connected here, and the tails of the rooms they follow.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chatapi_domain::{ConnectionId, Place, RoomId, TenantId, UserId};
use chatapi_storage::{Result, Signal, Store, Subscription};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::event::Outgoing;
use crate::facts::{self, Duty};
use crate::mailbox::{Mailbox, Place as Entry};
use crate::presence::Presence;
use crate::session::Session;
use crate::tail::{Next, RoomKey, Tail};
use crate::typing::Typing;

/// The map of tails is cut into so many, each with a lock of its own.
const SHARDS: usize = 32;

/// Tails that read at the same time: the pool is for requests too.
const READERS: usize = 4;

/// Duties that wait to be done; while there are so many, nothing else is heard.
const DUTIES: usize = 1024;

/// What a tenant and a user may have at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections of the tenant on this node.
    pub connections: usize,
    /// Connections of the user on this node.
    pub connections_of_user: usize,
}

/// The tenant or the user has as many connections as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("connection limit reached")]
pub struct LimitReached;

/// How busy the hub is.
#[derive(Debug, Clone, Copy)]
pub struct HubStatus {
    /// Sessions registered.
    pub sessions: usize,
    /// Rooms that somebody here follows.
    pub tails: usize,
    /// Sessions ended because their queue was full, since the start.
    pub too_slow: u64,
    /// Times a tail read the table, since the start.
    pub reads: u64,
}

/// Everybody who is connected here. Cheap to clone; one a process.
#[derive(Debug, Clone)]
pub struct Hub {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    store: Store,
    pub(crate) shards: Vec<Mutex<HashMap<RoomKey, Arc<Tail>>>>,
    users: Mutex<HashMap<TenantId, OfTenant>>,
    pub(crate) readers: Semaphore,
    /// New tails: they may have missed what happened while they were made.
    pub(crate) fresh: Mutex<Vec<RoomKey>>,
    pub(crate) compare: Notify,
    /// What changes who follows a room, one after the other.
    duties: mpsc::Sender<Duty>,
    pub(crate) presence: Presence,
    typing: Typing,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    too_slow: Arc<AtomicU64>,
    pub(crate) reads: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct OfTenant {
    sessions: usize,
    pub(crate) users: HashMap<UserId, Vec<Arc<Mailbox>>>,
}

impl Hub {
    /// Starts a hub on this store; its tasks run on `tasks` until `stop`.
    #[must_use]
    pub fn start(store: Store, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let subscription = store.feed().subscribe();
        let (duties, worker) = mpsc::channel(DUTIES);
        let inner = Inner {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            users: Mutex::default(),
            readers: Semaphore::new(READERS),
            fresh: Mutex::default(),
            compare: Notify::new(),
            duties,
            presence: Presence::default(),
            typing: Typing::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            too_slow: Arc::default(),
            reads: AtomicU64::new(0),
            store,
        };
        let hub = Self { inner: Arc::new(inner) };
        let until_stop = || stop.clone();
        tasks.spawn(until_stop().run_until_cancelled_owned(hub.clone().listen(subscription)));
        tasks.spawn(until_stop().run_until_cancelled_owned(facts::work(hub.clone(), worker)));
        tasks.spawn(until_stop().run_until_cancelled_owned(hub.clone().keep_comparing()));
        tasks.spawn(until_stop().run_until_cancelled_owned(hub.clone().keep_presence()));
        tasks.spawn(until_stop().run_until_cancelled_owned(hub.clone().keep_typing()));
        hub
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn users(&self) -> MutexGuard<'_, HashMap<TenantId, OfTenant>> {
        self.inner.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, key: &RoomKey) -> MutexGuard<'_, HashMap<RoomKey, Arc<Tail>>> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or(0);
        self.inner.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tail(&self, tenant: TenantId, room: RoomId) -> Option<Arc<Tail>> {
        let key = (tenant, room);
        self.shard(&key).get(&key).cloned()
    }

    /// How busy it is.
    #[must_use]
    pub fn status(&self) -> HubStatus {
        let tails = self.inner.shards.iter();
        HubStatus {
            sessions: self.users().values().map(|tenant| tenant.sessions).sum(),
            tails: tails.map(|shard| shard.lock().map_or(0, |tails| tails.len())).sum(),
            too_slow: self.inner.too_slow.load(Relaxed),
            reads: self.inner.reads.load(Relaxed),
        }
    }

    /// Registers a connection with all rooms of its user: one query, and in memory the work of as
    /// many steps as the user has rooms.
    ///
    /// # Errors
    ///
    /// `Ok(Err(LimitReached))` if there are as many connections as may be;
    /// [`Error`](chatapi_storage::Error) if the database fails.
    pub async fn register(
        &self,
        connection_id: ConnectionId,
        tenant: TenantId,
        user: UserId,
        limits: Limits,
        shows_presence: bool,
    ) -> Result<Result<Session, LimitReached>> {
        let (mailbox, queue) = Mailbox::new(connection_id, tenant, user, self.inner.too_slow.clone());
        if !self.admit(&mailbox, limits) {
            return Ok(Err(LimitReached));
        }
        // From here on the session is taken out again when it is dropped.
        let session = Session::new(self.clone(), mailbox.clone(), queue);
        self.store().feed().set_followed(true);
        if shows_presence {
            self.inner.presence.came(tenant, &mailbox.user_id);
        }
        // Registered with the user first, the rooms read second: a room that the user comes to
        // meanwhile is told to the mailbox.
        let places = self.store().tenant(tenant).rooms().places(&mailbox.user_id).await?;
        for place in &places {
            self.enter(&mailbox, place, true, None);
        }
        mailbox.entered().removed = None;
        Ok(Ok(session))
    }

    fn admit(&self, mailbox: &Arc<Mailbox>, limits: Limits) -> bool {
        let mut tenants = self.users();
        let tenant = tenants.entry(mailbox.tenant_id).or_default();
        let of_user = tenant.users.get(&mailbox.user_id).map_or(0, Vec::len);
        let allowed = tenant.sessions < limits.connections && of_user < limits.connections_of_user;
        if allowed {
            tenant.sessions += 1;
            tenant.users.entry(mailbox.user_id.clone()).or_default().push(mailbox.clone());
        } else if tenant.sessions == 0 {
            tenants.remove(&mailbox.tenant_id);
        }
        allowed
    }

    /// Takes a session out of everything.
    pub(crate) fn unregister(&self, mailbox: &Arc<Mailbox>) {
        let rooms = {
            let mut entered = mailbox.entered();
            entered.closed = true;
            std::mem::take(&mut entered.rooms)
        };
        for place in rooms.into_values() {
            self.quit(mailbox, &place.tail);
        }
        self.inner.presence.went(mailbox.tenant_id, &mailbox.user_id);
        let mut tenants = self.users();
        if let Some(tenant) = tenants.get_mut(&mailbox.tenant_id) {
            tenant.sessions -= 1;
            if let Some(mailboxes) = tenant.users.get_mut(&mailbox.user_id) {
                mailboxes.retain(|other| other.connection_id != mailbox.connection_id);
                if mailboxes.is_empty() {
                    tenant.users.remove(&mailbox.user_id);
                }
            }
            if tenant.sessions == 0 {
                tenants.remove(&mailbox.tenant_id);
            }
        }
        if tenants.is_empty() {
            self.store().feed().set_followed(false);
        }
    }

    /// Lets a session follow a room. `from` is where it is to begin, if it must not begin later.
    pub(crate) fn enter(&self, mailbox: &Arc<Mailbox>, place: &Place, member: bool, from: Option<(i64, i64)>) {
        let key = (mailbox.tenant_id, place.room_id);
        let mut entered = mailbox.entered();
        let removed = entered.removed.as_ref().is_some_and(|removed| removed.contains(&place.room_id));
        if entered.closed || (removed && from.is_none()) {
            return;
        }
        if let Some(known) = entered.rooms.get_mut(&place.room_id) {
            known.member |= member;
            return;
        }
        let tail = loop {
            let tail = {
                let mut tails = self.shard(&key);
                let made = || {
                    self.inner.fresh.lock().unwrap_or_else(PoisonError::into_inner).push(key);
                    self.inner.compare.notify_one();
                    Arc::new(Tail::new(key, place.last_seq, place.last_change, place.updated_at))
                };
                tails.entry(key).or_insert_with(made).clone()
            };
            let mut state = tail.lock();
            if !state.closed {
                if entered.removed.is_none() {
                    // Both before anything of the room: the lock keeps that back.
                    mailbox.offer(&Arc::new(Outgoing::Entered(place.room_id)));
                }
                if let Some((after_seq, after_change)) = from
                    && (state.seq > after_seq || state.change > after_change)
                {
                    mailbox.offer(&Arc::new(Outgoing::CatchUp { room_id: place.room_id, after_seq, after_change }));
                }
                state.listeners.insert(mailbox.connection_id, mailbox.clone());
                drop(state);
                break tail;
            }
        };
        entered.rooms.insert(place.room_id, Entry { tail, member });
    }

    /// Lets a session follow a room no more.
    pub(crate) fn leave(&self, mailbox: &Arc<Mailbox>, room: RoomId) {
        let left = {
            let mut entered = mailbox.entered();
            if let Some(removed) = &mut entered.removed {
                removed.push(room);
            }
            entered.rooms.remove(&room)
        };
        if let Some(place) = left {
            self.quit(mailbox, &place.tail);
        }
    }

    fn quit(&self, mailbox: &Arc<Mailbox>, tail: &Arc<Tail>) {
        let mut tails = self.shard(&tail.key);
        let mut state = tail.lock();
        state.listeners.remove(&mailbox.connection_id);
        if state.listeners.is_empty() && !state.closed {
            state.closed = true;
            tails.remove(&tail.key);
        }
    }

    /// Takes a room's tail out; who followed it.
    pub(crate) fn close_tail(&self, key: &RoomKey) -> Vec<Arc<Mailbox>> {
        let Some(tail) = self.shard(key).remove(key) else { return Vec::new() };
        let mut state = tail.lock();
        state.closed = true;
        std::mem::take(&mut state.listeners).into_values().collect()
    }

    /// Stops at once to send a user what happens in a room: before whoever removed it is told that
    /// it is done. The others learn of it by the feed. Should the user be back already, that is
    /// looked up in its turn.
    pub async fn cut(&self, tenant: TenantId, room: RoomId, user: &UserId) {
        let mailboxes = self.mailboxes(tenant, user);
        for mailbox in &mailboxes {
            self.leave(mailbox, room);
        }
        if !mailboxes.is_empty() {
            self.oblige(Duty::EnterAgain(mailboxes)).await;
        }
    }

    async fn oblige(&self, duty: Duty) {
        // An error says that the hub has stopped.
        let _ = self.inner.duties.send(duty).await;
    }

    pub(crate) fn mailboxes(&self, tenant: TenantId, user: &UserId) -> Vec<Arc<Mailbox>> {
        let tenants = self.users();
        tenants.get(&tenant).and_then(|tenant| tenant.users.get(user)).cloned().unwrap_or_default()
    }

    async fn listen(self, mut subscription: Subscription) {
        while let Some(signal) = subscription.next().await {
            match &*signal {
                Signal::Stored { messages } => {
                    for (tenant, message) in messages {
                        if let Some(tail) = self.tail(*tenant, message.room_id) {
                            let next = tail.lock().stored(message);
                            self.follow_up(next, &tail);
                        }
                    }
                }
                Signal::Changed { tenant_id, change } => {
                    if let Some(tail) = self.tail(*tenant_id, change.message.room_id) {
                        let next = tail.lock().changed(change);
                        self.follow_up(next, &tail);
                    }
                }
                Signal::Position(position) => {
                    if let Some(tail) = self.tail(position.tenant_id, position.room_id) {
                        let next = tail.lock().reached(position.last_seq, position.last_change);
                        self.follow_up(next, &tail);
                    }
                }
                Signal::Fact { tenant_id, fact } => {
                    if self.users().contains_key(tenant_id) && !self.told_at_once(*tenant_id, fact) {
                        self.oblige(Duty::Tell(*tenant_id, fact.clone())).await;
                    }
                }
                Signal::Missed => self.missed().await,
            }
        }
    }

    pub(crate) fn follow_up(&self, next: Next, tail: &Arc<Tail>) {
        if next == Next::Read {
            let (hub, tail) = (self.clone(), tail.clone());
            self.inner.tasks.spawn(async move { hub.catch_up(&tail).await });
        }
    }

    /// Signals were lost: everything that was told and not kept is found out anew.
    async fn missed(&self) {
        self.inner.presence.announce_again();
        let mailboxes: Vec<_> = {
            let tenants = self.users();
            tenants.values().flat_map(|tenant| tenant.users.values().flatten().cloned()).collect()
        };
        if mailboxes.is_empty() {
            return;
        }
        let recheck = Arc::new(Outgoing::Recheck { since: Instant::now() });
        for mailbox in &mailboxes {
            mailbox.offer(&recheck);
        }
        self.oblige(Duty::EnterAgain(mailboxes)).await;
        self.oblige(Duty::LookAgain).await;
    }

    pub(crate) fn typing(&self, tenant: TenantId, room: RoomId, user: &UserId, started: bool) {
        self.inner.typing.set(tenant, room, user, started, |fact| self.store().feed().tell(tenant, fact));
    }

    async fn keep_typing(self) {
        self.inner.typing.keep(|tenant, fact| self.store().feed().tell(tenant, fact)).await;
    }

    async fn keep_presence(self) {
        self.inner.presence.keep(self.store()).await;
    }
}
