//! For which tenants something is to be done, and who does it.
//!
//! A tenant that has something due gets a task of its own, and a place of its own to call: one whose
//! endpoint is slow or dead takes no other's. Further places are shared, and only for endpoints that
//! are well. This node's own messages wake it at once; what other nodes put into outboxes, and what is to
//! be tried again, is looked for once a second.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chatapi_domain::{EventId, Tenant, TenantId, Timestamp};
use chatapi_storage::{Meter, Store};
use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::endpoint::{Answer, Caller, Endpoint, NotTried};
use crate::resolver::Busy;
use crate::tenant::OfTenant;

/// How often what is due is looked for; less often if a look takes long, but not much.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_FACTOR: u32 = 20;
const LOOK_AT_LEAST: Duration = Duration::from_secs(10);

/// Endpoints tried out at once.
const TRYING: usize = 64;

/// Tenants that ask the database at once: its connections are for requests too.
const ASKING: usize = 4;

/// Calls under way at once beside the first of each tenant.
const SHARED_CALLS: usize = 1024;

/// What can be set.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many times a delivery is tried again after the first attempt.
    pub retries: u32,
    /// Whether endpoints may be anywhere, over plain http too: for development.
    pub allow_private: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { retries: 5, allow_private: false }
    }
}

/// How busy the dispatcher is.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    /// Calls made, since the start.
    pub attempts: u64,
    /// Calls that failed, since the start.
    pub failures: u64,
    /// Deliveries given up, since the start.
    pub given_up: u64,
    /// Calls under way.
    pub under_way: usize,
    /// Tenants for whom something is being done.
    pub tenants: usize,
    /// How long that was due which was due for the longest, of any tenant, at the last look.
    pub late: Duration,
}

/// Brings what is in the outboxes to the endpoints. Cheap to clone; one a process.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) options: Options,
    /// The time of day.
    pub(crate) clock: fn() -> Timestamp,
    caller: Caller,
    pub(crate) calls: Arc<Semaphore>,
    pub(crate) asking: Semaphore,
    working: Mutex<HashMap<TenantId, Arc<OfTenant>>>,
    trying: Mutex<HashSet<TenantId>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    attempts: AtomicU64,
    failures: AtomicU64,
    pub(crate) given_up: AtomicU64,
    under_way: AtomicUsize,
    late: AtomicU64,
}

/// A call under way, as it is counted.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A tenant's right to try out its endpoint; ends with the value.
struct Trying<'a> {
    inner: &'a Inner,
    tenant: TenantId,
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        self.inner.trying().remove(&self.tenant);
    }
}

impl Inner {
    fn trying(&self) -> MutexGuard<'_, HashSet<TenantId>> {
        self.trying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One at a time of a tenant, and not too many of all.
    fn begin_to_try(&self, tenant: TenantId) -> Result<Trying<'_>, NotTried> {
        let mut trying = self.trying();
        if trying.len() >= TRYING || !trying.insert(tenant) {
            return Err(NotTried::Busy);
        }
        drop(trying);
        Ok(Trying { inner: self, tenant })
    }
}

impl Dispatcher {
    /// Starts on this store; its tasks run on `tasks`. At `stop` no further call is made, and the
    /// tasks end with those under way.
    #[must_use]
    pub fn start(
        store: Store,
        options: Options,
        clock: fn() -> Timestamp,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let inner = Inner {
            caller: Caller::new(options.allow_private),
            store,
            options,
            clock,
            calls: Arc::new(Semaphore::new(SHARED_CALLS)),
            asking: Semaphore::new(ASKING),
            working: Mutex::default(),
            trying: Mutex::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            attempts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            late: AtomicU64::new(0),
        };
        let dispatcher = Self { inner: Arc::new(inner) };
        tasks.spawn(stop.clone().run_until_cancelled_owned(guarded(dispatcher.clone(), Self::hear)));
        tasks.spawn(stop.clone().run_until_cancelled_owned(guarded(dispatcher.clone(), Self::look)));
        dispatcher
    }

    /// Tells the tenant's endpoint of nothing, to see what it answers; also one that is disabled.
    ///
    /// # Errors
    ///
    /// [`NotTried`] if there is none, or it is being tried out.
    pub async fn try_out(&self, tenant: &Tenant, now: Timestamp) -> Result<Answer, NotTried> {
        let endpoint = Endpoint::to_try(tenant, now)?;
        let _trying = self.inner.begin_to_try(tenant.tenant_id)?;
        let body = serde_json::to_vec(&Body::ping(tenant.tenant_id, now)).unwrap_or_default();
        let meter = self.inner.store.meter(tenant.tenant_id);
        let id = EventId::new(now).to_string();
        self.call(&endpoint, &id, body.into(), now, &meter).await.map_err(|Busy| NotTried::Busy)
    }

    /// How busy it is.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            attempts: self.inner.attempts.load(Relaxed),
            failures: self.inner.failures.load(Relaxed),
            given_up: self.inner.given_up.load(Relaxed),
            under_way: self.inner.under_way.load(Relaxed),
            tenants: self.working().values().filter(|tenant| tenant.is_at_work()).count(),
            late: Duration::from_micros(self.inner.late.load(Relaxed)),
        }
    }

    /// Calls an endpoint once, unless its name cannot be asked for at the moment, and counts it.
    pub(crate) async fn call(
        &self,
        endpoint: &Endpoint,
        id: &str,
        body: Bytes,
        now: Timestamp,
        meter: &Meter,
    ) -> Result<Answer, Busy> {
        self.inner.under_way.fetch_add(1, Relaxed);
        let _under_way = UnderWay(&self.inner.under_way);
        let answer = self.inner.caller.call(endpoint, id, body, now).await?;
        meter.webhook_attempted();
        self.inner.attempts.fetch_add(1, Relaxed);
        if !answer.is_success() {
            self.inner.failures.fetch_add(1, Relaxed);
        }
        Ok(answer)
    }

    /// Hears what this node put into outboxes.
    async fn hear(self) {
        loop {
            for tenant in self.inner.store.feed().filled_outboxes().await {
                self.wake(tenant);
            }
        }
    }

    /// Looks for what is due, and forgets tenants of whom nothing was heard for long.
    async fn look(self) {
        loop {
            let (start, mut pause) = (Instant::now(), LOOK);
            match self.inner.store.deliveries().due().await {
                Ok(due) => {
                    pause = (start.elapsed() * LOOK_FACTOR).clamp(LOOK, LOOK_AT_LEAST);
                    let now = (self.inner.clock)().as_micros();
                    let late = due.iter().map(|(_, since)| now - since.as_micros()).max().unwrap_or(0);
                    self.inner.late.store(u64::try_from(late).unwrap_or(0), Relaxed);
                    for (tenant, _) in due {
                        self.wake(tenant);
                    }
                }
                Err(error) => tracing::debug!(%error, "What is due will be looked for again"),
            }
            self.working().retain(|_, tenant| tenant.is_to_be_remembered());
            sleep(pause).await;
        }
    }

    /// Sees to it that somebody looks what is due for the tenant.
    fn wake(&self, tenant_id: TenantId) {
        let mut working = self.working();
        let tenant = working.entry(tenant_id).or_default();
        if !tenant.begin_work() {
            return;
        }
        let (dispatcher, tenant) = (self.clone(), tenant.clone());
        drop(working);
        self.inner.tasks.spawn(async move { dispatcher.work_while_woken(tenant_id, &tenant).await });
    }

    async fn work_while_woken(&self, tenant_id: TenantId, tenant: &OfTenant) {
        loop {
            // Whatever happens, the tenant is not at work for ever.
            match AssertUnwindSafe(self.work(tenant_id, tenant)).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(tenant_id = %tenant_id, %error, "Webhooks will be sent later"),
                Err(_) => tracing::error!(tenant_id = %tenant_id, "Sending webhooks panicked"),
            }
            // Who wakes it now, finds it either at work or idle.
            let _working = self.working();
            if !tenant.is_woken() || self.inner.stop.is_cancelled() {
                tenant.end_work();
                return;
            }
        }
    }

    fn working(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<OfTenant>>> {
        self.inner.working.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins again, after a pause, if ever it panics.
async fn guarded<F: Future<Output = ()>>(dispatcher: Dispatcher, work: impl Fn(Dispatcher) -> F) {
    while AssertUnwindSafe(work(dispatcher.clone())).catch_unwind().await.is_err() {
        tracing::error!("Looking for webhooks panicked");
        sleep(LOOK).await;
    }
}
