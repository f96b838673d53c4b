//! The door to everything that is kept.

use std::sync::Arc;
use std::time::Instant;

use chatapi_domain::{NodeId, TenantId, Timestamp, WebhookEvents};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::db::Db;
use crate::looks::Looks;
use crate::meter::{Meters, keep_adding};
use crate::outbox::Outbox;
use crate::transfer::Gates;
use crate::writer::Writer;
use crate::{
    Audit, Connector, DeadLetters, Deliveries, Error, Feed, Idempotency, Keys, Members, Messages, Meter, Node,
    PoolStatus, Presence, QueueStatus, Receipts, Result, Rooms, Schema, Tenants, Tokens, Transfer, UsageLog, feed,
    migrate, sweeper,
};

/// How many connections a store keeps.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Connections for everything but sending messages.
    pub pool_size: usize,
    /// Connections of the message writer; a room always goes to the same one.
    pub writers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { pool_size: 16, writers: 2 }
    }
}

/// The store of all tenants. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    db: Db,
    writer: Arc<Writer>,
    feed: Feed,
    connector: Connector,
    meters: Arc<Meters>,
    looks: Arc<Looks>,
    gates: Gates,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Store {
    /// Opens the store; connections are made when they are needed, so the database may be away.
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if the pool cannot be made, or the system has no randomness.
    pub fn connect(connector: Connector, options: Options) -> Result<Self> {
        let store = Self::open(connector, options)?;
        let Self { db, feed, connector, meters, stop, tasks, .. } = store.clone();
        for work in sweeper::Work::ALL {
            tasks.spawn(sweeper::sweep(work, db.clone(), feed.node_id(), feed.told(), stop.clone()));
        }
        tasks.spawn(keep_adding(meters, db, feed.node_id(), stop.clone()));
        tasks.spawn(feed::run(feed, connector, stop));
        Ok(store)
    }

    /// Opens the store beside the servers that run on the same database, for a command that does
    /// one thing and ends. It is no node: it has no share in rate limits, hears nothing of what
    /// happens, and leaves what is to be erased to the nodes. What it changes is told to them.
    /// Must be called inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// As [`Store::connect`].
    pub fn connect_beside(connector: Connector, options: Options) -> Result<Self> {
        Self::open(connector, options)
    }

    fn open(connector: Connector, options: Options) -> Result<Self> {
        let db = Db::new(&connector, options.pool_size)?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| Error::Unavailable(error.to_string().into()))?;
        let node_id = NodeId::from_uuid(uuid::Builder::from_random_bytes(random).into_uuid());
        let feed = Feed::new(db.clone(), node_id);
        let writer = Arc::new(Writer::start(&connector, &db, &feed, options.writers, &tasks));
        let looks: Arc<Looks> = Arc::default();
        {
            let (looks, db, stop) = (looks.clone(), db.clone(), stop.clone());
            tasks.spawn(async move { looks.serve(&db, &stop).await });
        }
        Ok(Self { db, writer, feed, connector, meters: Arc::default(), looks, gates: Gates::new(), stop, tasks })
    }

    /// Brings the schema up to date. Several nodes may do so at once.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if the database is away; [`Error::Database`] if it is too old or a
    /// migration fails.
    pub async fn migrate(&self) -> Result<()> {
        migrate::run(&self.connector).await
    }

    /// What the database is, and how far its schema.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if the database is away.
    pub async fn schema(&self) -> Result<Schema> {
        migrate::schema(&self.db).await
    }

    /// Everything that belongs to one tenant.
    #[must_use]
    pub fn tenant(&self, tenant: TenantId) -> TenantStore<'_> {
        TenantStore { store: self, tenant, events: WebhookEvents::NONE }
    }

    /// The tenants themselves: for the operator.
    #[must_use]
    pub fn tenants(&self) -> Tenants<'_> {
        Tenants { db: &self.db }
    }

    /// The keys of all tenants: for finding out who asks.
    #[must_use]
    pub fn keys(&self) -> Keys<'_> {
        Keys { db: &self.db }
    }

    /// What tenants used.
    #[must_use]
    pub fn usage(&self) -> UsageLog<'_> {
        UsageLog { db: &self.db }
    }

    /// What counts a tenant's use on this node: to be held by whoever serves the tenant.
    #[must_use]
    pub fn meter(&self, tenant: TenantId) -> Arc<Meter> {
        self.meters.of(tenant)
    }

    /// What was done, and tried, with tenants and keys.
    #[must_use]
    pub fn audit(&self) -> Audit<'_> {
        Audit { db: &self.db }
    }

    /// What is to be told to the tenants' endpoints.
    #[must_use]
    pub fn deliveries(&self) -> Deliveries<'_> {
        Deliveries { db: &self.db }
    }

    /// What the endpoints could not be told, of all tenants: for the operator.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters<'_> {
        DeadLetters { db: &self.db, feed: &self.feed, tenant: None }
    }

    /// Whole tenants, out and in.
    #[must_use]
    pub fn transfer(&self) -> Transfer<'_> {
        Transfer::new(self, &self.connector, &self.gates)
    }

    /// What this node and others did, as it happens.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Who is online on this node.
    #[must_use]
    pub fn node(&self) -> Node<'_> {
        Node { db: &self.db, node_id: self.feed.node_id() }
    }

    /// First answers of the operator's own requests.
    #[must_use]
    pub fn operator_idempotency(&self) -> Idempotency<'_> {
        Idempotency { db: &self.db, tenant: TenantId::from_uuid(uuid::Uuid::nil()) }
    }

    /// Writes to the database, to find out whether that works.
    ///
    /// # Errors
    ///
    /// [`Error`] if it does not.
    pub async fn probe(&self, now: Timestamp) -> Result<()> {
        const WRITE: &str = "update health set written_at = $1";
        match self.db.execute(WRITE, &[&now]).await? {
            0 => Err(Error::Database("the table health is empty".into())),
            _ => Ok(()),
        }
    }

    /// How busy the pool is.
    #[must_use]
    pub fn pool_status(&self) -> PoolStatus {
        self.db.status()
    }

    /// How busy the message writers are.
    #[must_use]
    pub fn queue_status(&self) -> QueueStatus {
        self.writer.status()
    }

    /// Runs a task that [`Store::close`] waits for: it must end when the store is closed.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Runs `work`, but not beyond the closing of the store.
    pub(crate) async fn until_closed<F: Future>(&self, work: F) -> Option<F::Output> {
        self.stop.run_until_cancelled(work).await
    }

    /// Lets the writers finish what they have accepted, then closes all connections. What is
    /// asked of the store afterwards is [`Error::Unavailable`].
    pub async fn close(&self) {
        let start = Instant::now();
        self.stop.cancel();
        self.writer.close();
        self.tasks.close();
        self.tasks.wait().await;
        self.db.close();
        tracing::debug!(elapsed = ?start.elapsed(), "The store is closed");
    }
}

/// Everything that belongs to one tenant. There is no other way to a tenant's rows.
#[derive(Debug, Clone, Copy)]
pub struct TenantStore<'a> {
    store: &'a Store,
    tenant: TenantId,
    events: WebhookEvents,
}

impl<'a> TenantStore<'a> {
    /// Puts into the outbox what happens of these events, for the tenant's endpoint to be told.
    #[must_use]
    pub fn announcing(mut self, events: WebhookEvents) -> Self {
        self.events = events;
        self
    }

    fn outbox(self) -> Outbox<'a> {
        Outbox { feed: &self.store.feed, tenant: self.tenant, events: self.events }
    }

    /// Its rooms.
    #[must_use]
    pub fn rooms(self) -> Rooms<'a> {
        let Store { db, looks, .. } = self.store;
        Rooms { db, looks, outbox: self.outbox(), tenant: self.tenant }
    }

    /// The members of its rooms.
    #[must_use]
    pub fn members(self) -> Members<'a> {
        Members { db: &self.store.db, outbox: self.outbox(), tenant: self.tenant }
    }

    /// The messages of its rooms.
    #[must_use]
    pub fn messages(self) -> Messages<'a> {
        let Store { db, writer, feed, .. } = self.store;
        Messages { db, writer, feed, outbox: self.outbox(), tenant: self.tenant, metered: None }
    }

    /// How far the members of its rooms are.
    #[must_use]
    pub fn receipts(self) -> Receipts<'a> {
        Receipts { db: &self.store.db, feed: &self.store.feed, tenant: self.tenant }
    }

    /// Who of its users is online.
    #[must_use]
    pub fn presence(self) -> Presence<'a> {
        Presence { db: &self.store.db, tenant: self.tenant }
    }

    /// What its endpoint could not be told.
    #[must_use]
    pub fn dead_letters(self) -> DeadLetters<'a> {
        DeadLetters { db: &self.store.db, feed: &self.store.feed, tenant: Some(self.tenant) }
    }

    /// What ends its user tokens, and its tickets for sockets.
    #[must_use]
    pub fn tokens(self) -> Tokens<'a> {
        Tokens { db: &self.store.db, tenant: self.tenant }
    }

    /// First answers of its requests.
    #[must_use]
    pub fn idempotency(self) -> Idempotency<'a> {
        Idempotency { db: &self.store.db, tenant: self.tenant }
    }
}
