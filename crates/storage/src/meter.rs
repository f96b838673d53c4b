//! What tenants use on this node, counted in memory and added to the table every few seconds: a
//! request writes nothing. A crash loses the last seconds of it; `messages_sent` is not counted here.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chatapi_domain::{NodeId, TenantId, UserId};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::quota::Quota;
use crate::row::get;
use crate::{Error, Result};

/// How often what was counted is added.
const PAUSE: Duration = Duration::from_secs(5);

/// Users remembered as noted in this hour, 8 bytes each; beyond, they are noted again.
const MAX_SEEN: usize = 1_000_000;

/// Users and tenants of one statement.
const STEP: usize = 1000;

/// What one tenant uses on this node. Whoever serves a tenant holds it; nobody looks it up for a
/// request.
#[derive(Debug)]
pub struct Meter {
    pub(crate) tenant_id: TenantId,
    counts: Counts,
    connections: AtomicI64,
    peak: AtomicI64,
    users: Mutex<Users>,
    pub(crate) quota: Quota,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicI64,
    rate_limited: AtomicI64,
    message_bytes: AtomicI64,
    events_delivered: AtomicI64,
    webhook_attempts: AtomicI64,
}

/// Users to be noted as active, and the hashes of those that were, in this hour.
#[derive(Debug, Default)]
struct Users {
    seen: HashSet<u64>,
    new: Vec<UserId>,
    hasher: RandomState,
}

impl Meter {
    fn new(tenant_id: TenantId) -> Self {
        Self {
            tenant_id,
            counts: Counts::default(),
            connections: AtomicI64::new(0),
            peak: AtomicI64::new(0),
            users: Mutex::default(),
            quota: Quota::default(),
        }
    }

    /// A request, or a command on a WebSocket, that was let in or was over the rate limit.
    pub fn request(&self, allowed: bool) {
        let counter = if allowed { &self.counts.requests } else { &self.counts.rate_limited };
        counter.fetch_add(1, Relaxed);
    }

    /// A user in whose name something was asked.
    pub fn active(&self, user: &UserId) {
        let mut users = self.users();
        let hash = users.hasher.hash_one(user);
        if users.seen.insert(hash) {
            users.new.push(user.clone());
        }
    }

    /// Messages with so many bytes of content were stored.
    pub fn stored(&self, bytes: usize) {
        self.counts.message_bytes.fetch_add(i64::try_from(bytes).unwrap_or(i64::MAX), Relaxed);
    }

    /// Events were written to WebSockets.
    pub fn delivered(&self, events: u64) {
        self.counts.events_delivered.fetch_add(i64::try_from(events).unwrap_or(i64::MAX), Relaxed);
    }

    /// An attempt to deliver a webhook was made.
    pub fn webhook_attempted(&self) {
        self.counts.webhook_attempts.fetch_add(1, Relaxed);
    }

    /// A WebSocket is open as long as this value lives.
    #[must_use]
    pub fn connection(self: &Arc<Self>) -> OpenConnection {
        let open = self.connections.fetch_add(1, Relaxed) + 1;
        self.peak.fetch_max(open, Relaxed);
        OpenConnection(self.clone())
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be added; nothing if nothing happened.
    fn take(&self) -> Option<Taken> {
        let open = self.connections.load(Relaxed);
        let taken = Taken {
            tenant_id: self.tenant_id,
            requests: self.counts.requests.swap(0, Relaxed),
            rate_limited: self.counts.rate_limited.swap(0, Relaxed),
            message_bytes: self.counts.message_bytes.swap(0, Relaxed),
            events_delivered: self.counts.events_delivered.swap(0, Relaxed),
            webhook_attempts: self.counts.webhook_attempts.swap(0, Relaxed),
            peak: self.peak.swap(open, Relaxed).max(open),
        };
        let messages = taken.message_bytes + taken.events_delivered + taken.webhook_attempts;
        (taken.requests + taken.rate_limited + messages + taken.peak > 0).then_some(taken)
    }

    /// Whether something is still to be added, or will be.
    fn is_in_use(&self) -> bool {
        let Counts { requests, rate_limited, message_bytes, events_delivered, webhook_attempts } = &self.counts;
        let counters = [requests, rate_limited, message_bytes, events_delivered, webhook_attempts, &self.connections];
        counters.iter().any(|counter| counter.load(Relaxed) > 0) || !self.users().new.is_empty()
    }

    /// Puts back what could not be added.
    fn put_back(&self, taken: &Taken) {
        self.counts.requests.fetch_add(taken.requests, Relaxed);
        self.counts.rate_limited.fetch_add(taken.rate_limited, Relaxed);
        self.counts.message_bytes.fetch_add(taken.message_bytes, Relaxed);
        self.counts.events_delivered.fetch_add(taken.events_delivered, Relaxed);
        self.counts.webhook_attempts.fetch_add(taken.webhook_attempts, Relaxed);
        self.peak.fetch_max(taken.peak, Relaxed);
    }
}

/// An open WebSocket, as it is counted.
#[derive(Debug)]
pub struct OpenConnection(Arc<Meter>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

struct Taken {
    tenant_id: TenantId,
    requests: i64,
    rate_limited: i64,
    message_bytes: i64,
    events_delivered: i64,
    webhook_attempts: i64,
    peak: i64,
}

/// The meters of all tenants that are served here.
#[derive(Debug, Default)]
pub(crate) struct Meters(Mutex<HashMap<TenantId, Arc<Meter>>>);

const ADD: &str = "
    insert into usage (tenant_id, hour, node_id, requests, rate_limited, message_bytes, events_delivered,
                       webhook_attempts, peak_connections)
    select tenant_id, date_bin('1 hour', now(), 'epoch'), $1, requests, rate_limited, bytes, events, webhooks, peak
      from unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
           as t (tenant_id, requests, rate_limited, bytes, events, webhooks, peak)
        on conflict (tenant_id, hour, node_id) do update
       set requests = usage.requests + excluded.requests,
           rate_limited = usage.rate_limited + excluded.rate_limited,
           message_bytes = usage.message_bytes + excluded.message_bytes,
           events_delivered = usage.events_delivered + excluded.events_delivered,
           webhook_attempts = usage.webhook_attempts + excluded.webhook_attempts,
           peak_connections = greatest(usage.peak_connections, excluded.peak_connections)";

/// In one order, because other nodes note the same users. A tenant that is gone has none.
const NOTE_USERS: &str = "
    insert into active_users (tenant_id, day, user_id, hours)
    select t.tenant_id, (now() at time zone 'UTC')::date, i.user_id,
           1 << extract(hour from now() at time zone 'UTC')::int
      from unnest($1::uuid[], $2::text[]) as i (tenant_id, user_id)
      join tenants t on t.tenant_id = i.tenant_id and t.status <> 'deleting'
     order by t.tenant_id, i.user_id
        on conflict (tenant_id, day, user_id) do update set hours = active_users.hours | excluded.hours";

impl Meters {
    pub(crate) fn of(&self, tenant: TenantId) -> Arc<Meter> {
        self.lock().entry(tenant).or_insert_with(|| Arc::new(Meter::new(tenant))).clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<Meter>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what was counted since the last time. What cannot be added is kept for the next.
    pub(crate) async fn flush(&self, db: &Db, node: NodeId) -> Result<()> {
        let meters: Vec<Arc<Meter>> = self.lock().values().cloned().collect();
        for step in meters.chunks(STEP) {
            add(db, node, step).await?;
        }
        // Users that cannot be noted keep no others from it, unless the database is away.
        let mut noted = Ok(());
        for meter in &meters {
            noted = noted.and(note_users(db, meter).await);
            if matches!(noted, Err(Error::Unavailable(_))) {
                break;
            }
        }
        drop(meters);
        // Nobody serves them any more, and nothing of them is left to be added.
        self.lock().retain(|_, meter| Arc::strong_count(meter) > 1 || meter.is_in_use());
        noted
    }

    /// A new hour has begun: everybody is to be noted again.
    fn turn(&self) {
        for meter in self.lock().values() {
            meter.users().seen.clear();
        }
    }
}

async fn add(db: &Db, node: NodeId, meters: &[Arc<Meter>]) -> Result<()> {
    let taken: Vec<(&Arc<Meter>, Taken)> = meters.iter().filter_map(|meter| Some((meter, meter.take()?))).collect();
    if taken.is_empty() {
        return Ok(());
    }
    let column = |value: fn(&Taken) -> i64| -> Vec<i64> { taken.iter().map(|(_, taken)| value(taken)).collect() };
    let tenants: Vec<TenantId> = taken.iter().map(|(_, taken)| taken.tenant_id).collect();
    let (requests, limited) = (column(|taken| taken.requests), column(|taken| taken.rate_limited));
    let (bytes, events) = (column(|taken| taken.message_bytes), column(|taken| taken.events_delivered));
    let (webhooks, peaks) = (column(|taken| taken.webhook_attempts), column(|taken| taken.peak));
    let added = db.execute(ADD, &[&node, &tenants, &requests, &limited, &bytes, &events, &webhooks, &peaks]).await;
    if added.is_err() {
        for (meter, taken) in &taken {
            meter.put_back(taken);
        }
    }
    added.map(|_| ())
}

async fn note_users(db: &Db, meter: &Meter) -> Result<()> {
    loop {
        let users: Vec<UserId> = {
            let mut users = meter.users();
            if users.seen.len() > MAX_SEEN {
                users.seen.clear();
            }
            let step = users.new.len().min(STEP);
            users.new.drain(..step).collect()
        };
        if users.is_empty() {
            return Ok(());
        }
        let tenants = vec![meter.tenant_id; users.len()];
        if let Err(error) = db.execute(NOTE_USERS, &[&tenants, &users]).await {
            meter.users().new.extend(users);
            return Err(error);
        }
    }
}

const HOUR: &str = "select floor(extract(epoch from now()) / 3600)::bigint as hour";

/// Adds what is counted, until `stop`, and once more then.
pub(crate) async fn keep_adding(meters: Arc<Meters>, db: Db, node: NodeId, stop: CancellationToken) {
    let mut hour = 0;
    while stop.run_until_cancelled(sleep(PAUSE)).await.is_some() {
        if let Err(error) = add_all(&meters, &db, node, &mut hour).await {
            tracing::debug!(%error, "Usage will be added with the next try");
        }
    }
    if let Err(error) = meters.flush(&db, node).await {
        tracing::warn!(%error, "The usage of the last seconds is lost");
    }
}

async fn add_all(meters: &Meters, db: &Db, node: NodeId, hour: &mut i64) -> Result<()> {
    let now = db.query_opt(HOUR, &[]).await?.as_ref().map_or(Ok(0), |row| get(row, "hour"))?;
    if std::mem::replace(hour, now) != now {
        meters.turn();
    }
    meters.flush(db, node).await
}
