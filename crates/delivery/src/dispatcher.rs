//! For which tenants something is to be done, and who does it.
//!
//! A tenant that has something due gets a task of its own, and so a place of its own: one whose
//! endpoint is slow or dead takes no other's. This node's own messages wake it at once; what other
//! nodes put into outboxes, and what is to be tried again, is looked for once a second.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chatapi_domain::{EventId, Tenant, TenantId, Timestamp};
use chatapi_storage::{Meter, Store};
use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::endpoint::{Answer, Caller, Endpoint, NoEndpoint};

/// How often what is due is looked for.
const LOOK: Duration = Duration::from_secs(1);

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
    working: Mutex<HashMap<TenantId, Arc<Woken>>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    attempts: AtomicU64,
    failures: AtomicU64,
    pub(crate) given_up: AtomicU64,
    under_way: AtomicUsize,
}

/// Tells a tenant's task that there is more.
#[derive(Debug, Default)]
pub(crate) struct Woken(Notify);

impl Woken {
    pub(crate) async fn again(&self) {
        self.0.notified().await;
    }

    /// Whether there is more that nobody has waited for.
    fn is_pending(&self) -> bool {
        self.0.notified().now_or_never().is_some()
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
            tasks: tasks.clone(),
            stop: stop.clone(),
            attempts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
        };
        let dispatcher = Self { inner: Arc::new(inner) };
        tasks.spawn(stop.clone().run_until_cancelled_owned(dispatcher.clone().look()));
        dispatcher
    }

    /// Tells the tenant's endpoint of nothing, to see what it answers; also one that is disabled.
    ///
    /// # Errors
    ///
    /// [`NoEndpoint`] if there is none.
    pub async fn try_out(&self, tenant: &Tenant, now: Timestamp) -> Result<Answer, NoEndpoint> {
        let endpoint = Endpoint::to_try(tenant, now)?;
        let body = serde_json::to_vec(&Body::ping(tenant.tenant_id, now)).unwrap_or_default();
        let meter = self.inner.store.meter(tenant.tenant_id);
        let id = EventId::new(now).to_string();
        Ok(self.call(&endpoint, &id, body.into(), now, &meter).await)
    }

    /// How busy it is.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            attempts: self.inner.attempts.load(Relaxed),
            failures: self.inner.failures.load(Relaxed),
            given_up: self.inner.given_up.load(Relaxed),
            under_way: self.inner.under_way.load(Relaxed),
            tenants: self.working().len(),
        }
    }

    /// Calls an endpoint once, and counts it.
    pub(crate) async fn call(
        &self,
        endpoint: &Endpoint,
        id: &str,
        body: Bytes,
        now: Timestamp,
        meter: &Meter,
    ) -> Answer {
        self.inner.attempts.fetch_add(1, Relaxed);
        self.inner.under_way.fetch_add(1, Relaxed);
        meter.webhook_attempted();
        let answer = self.inner.caller.call(endpoint, id, body, now).await;
        self.inner.under_way.fetch_sub(1, Relaxed);
        if !answer.is_success() {
            self.inner.failures.fetch_add(1, Relaxed);
        }
        answer
    }

    async fn look(self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let tenants = tokio::select! {
                tenants = self.inner.store.feed().filled_outboxes() => tenants,
                _ = looks.tick() => match self.inner.store.deliveries().due().await {
                    Ok(tenants) => tenants,
                    Err(error) => {
                        tracing::debug!(%error, "What is due will be looked for again");
                        continue;
                    }
                },
            };
            for tenant in tenants {
                self.wake(tenant);
            }
        }
    }

    /// Sees to it that somebody looks what is due for the tenant.
    fn wake(&self, tenant: TenantId) {
        let mut working = self.working();
        if let Some(woken) = working.get(&tenant) {
            woken.0.notify_one();
            return;
        }
        let woken = Arc::new(Woken::default());
        working.insert(tenant, woken.clone());
        drop(working);
        let dispatcher = self.clone();
        self.inner.tasks.spawn(async move { dispatcher.work_while_woken(tenant, &woken).await });
    }

    async fn work_while_woken(&self, tenant: TenantId, woken: &Woken) {
        loop {
            // Whatever happens, the tenant's place is given back.
            match AssertUnwindSafe(self.work(tenant, woken)).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(tenant_id = %tenant, %error, "Webhooks will be sent later"),
                Err(_) => tracing::error!(tenant_id = %tenant, "Sending webhooks panicked"),
            }
            let mut working = self.working();
            if !woken.is_pending() || self.inner.stop.is_cancelled() {
                working.remove(&tenant);
                return;
            }
        }
    }

    fn working(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<Woken>>> {
        self.inner.working.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
