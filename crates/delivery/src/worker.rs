//! One tenant's deliveries, as long as any are due.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use chatapi_domain::{Tenant, TenantId, TenantStatus};
use chatapi_storage::{Delivery, Error, Failure, Meter, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use crate::body::Body;
use crate::dispatcher::{Dispatcher, Woken};
use crate::endpoint::Endpoint;
use crate::schedule::pause;

/// Calls to one endpoint at once, and to one whose last call failed.
const WIDTH: usize = 16;
const WIDTH_FAILING: usize = 2;

/// A delivery that may be under way: the first of a tenant always may, further ones share permits.
type Permit = Option<OwnedSemaphorePermit>;

impl Dispatcher {
    /// Delivers what is due for a tenant until nothing is. The last call's outcome decides how many
    /// are made at once: one that fails is not pressed.
    pub(crate) async fn work(&self, tenant_id: TenantId, woken: &Woken) -> Result<()> {
        let meter = self.inner.store.meter(tenant_id);
        let mut flying = FuturesUnordered::new();
        let (mut more, mut width, mut result) = (true, WIDTH, Ok(()));
        loop {
            let wanted = width.saturating_sub(flying.len());
            let permits = if more { self.permits(wanted, flying.is_empty()) } else { Vec::new() };
            if !permits.is_empty() && !self.inner.stop.is_cancelled() {
                match self.claim(tenant_id, permits.len()).await {
                    Ok((deliveries, endpoint, left)) => {
                        more = left;
                        for (delivery, permit) in deliveries.into_iter().zip(permits) {
                            flying.push(self.deliver(delivery, endpoint.clone(), meter.clone(), permit));
                        }
                    }
                    // What is under way goes on to its end.
                    Err(error) => (more, result) = (false, Err(error)),
                }
            }
            tokio::select! {
                biased;
                done = flying.next() => match done {
                    None if !more || self.inner.stop.is_cancelled() => return result,
                    None => {}
                    // One that panicked is claimed again when its lease is over.
                    Some(delivered) => width = if delivered.unwrap_or(false) { WIDTH } else { WIDTH_FAILING },
                },
                () = woken.again(), if !flying.is_empty() => more = true,
            }
        }
    }

    /// As many permits as are wanted and free; at least one for a tenant that has nothing under way.
    fn permits(&self, wanted: usize, first: bool) -> Vec<Permit> {
        let mut permits: Vec<Permit> = Vec::with_capacity(wanted);
        if first {
            permits.push(None);
        }
        while permits.len() < wanted {
            let Ok(permit) = self.inner.calls.clone().try_acquire_owned() else { break };
            permits.push(Some(permit));
        }
        permits
    }

    /// Claims what is due, at most `limit`; where the tenant is told now; and whether there may be more.
    async fn claim(&self, tenant_id: TenantId, limit: usize) -> Result<(Vec<Delivery>, Option<Arc<Endpoint>>, bool)> {
        let _asking = self.inner.asking.acquire().await;
        let none = (Vec::new(), None, false);
        let tenant = match self.inner.store.tenants().get(tenant_id).await {
            Ok(tenant) if tenant.status == TenantStatus::Active => tenant,
            Ok(Tenant { .. }) | Err(Error::NotFound(_)) => return Ok(none),
            Err(error) => return Err(error),
        };
        let deliveries = self.inner.store.deliveries();
        let taken = deliveries.take(tenant_id).await?;
        let claimed = deliveries.claim(tenant_id, i64::try_from(limit).unwrap_or(i64::MAX)).await?;
        let more = taken || claimed.len() == limit;
        let endpoint = Endpoint::of(&tenant, (self.inner.clock)()).map(Arc::new);
        Ok((claimed, endpoint, more))
    }

    /// Makes one delivery, and notes what came of it, on a task of its own: it must go on while the
    /// next ones are claimed, for both need the database. Whether the endpoint is well.
    fn deliver(
        &self,
        delivery: Delivery,
        endpoint: Option<Arc<Endpoint>>,
        meter: Arc<Meter>,
        permit: Permit,
    ) -> JoinHandle<bool> {
        let dispatcher = self.clone();
        self.inner.tasks.spawn(async move {
            let (well, noted) = dispatcher.attempt(&delivery, endpoint.as_deref(), &meter).await;
            if let Err(error) = noted {
                tracing::warn!(tenant_id = %delivery.tenant_id, event_id = %delivery.event_id, %error,
                    "What came of a webhook is not noted; it will be sent again");
            }
            drop(permit);
            well
        })
    }

    async fn attempt(&self, delivery: &Delivery, endpoint: Option<&Endpoint>, meter: &Meter) -> (bool, Result<()>) {
        let Some(body) = Body::of(delivery).and_then(|body| serde_json::to_vec(&body).ok()) else {
            return (true, self.delivered(delivery).await);
        };
        let Some(endpoint) = endpoint else {
            let failure = Failure { status: None, error: "there is no endpoint, or it is disabled".to_owned() };
            return (true, self.give_up(delivery, false, &failure).await);
        };
        let now = (self.inner.clock)();
        let answer = self.call(endpoint, &delivery.event_id.to_string(), Bytes::from(body), now, meter).await;
        let Some(failure) = answer.failure() else { return (true, self.delivered(delivery).await) };
        let noted = if answer.is_gone() {
            tracing::warn!(tenant_id = %delivery.tenant_id, "A webhook endpoint is gone (410), and disabled");
            let disabled = self.inner.store.tenants().disable_webhook(delivery.tenant_id, &endpoint.url, now).await;
            self.give_up(delivery, true, &failure).await.and(disabled)
        } else if delivery.attempts >= self.inner.options.retries {
            self.give_up(delivery, true, &failure).await
        } else {
            let _asking = self.inner.asking.acquire().await;
            let pause = pause(delivery.attempts + 1, random());
            self.inner.store.deliveries().retry(delivery, pause, &failure).await
        };
        (false, noted)
    }

    async fn delivered(&self, delivery: &Delivery) -> Result<()> {
        let _asking = self.inner.asking.acquire().await;
        self.inner.store.deliveries().delivered(delivery).await
    }

    async fn give_up(&self, delivery: &Delivery, attempted: bool, failure: &Failure) -> Result<()> {
        let Failure { status, error } = failure;
        tracing::warn!(tenant_id = %delivery.tenant_id, event_id = %delivery.event_id, event = delivery.event.as_str(),
            status, error, "A webhook is given up: a dead letter");
        self.inner.given_up.fetch_add(1, Relaxed);
        let _asking = self.inner.asking.acquire().await;
        self.inner.store.deliveries().give_up(delivery, attempted, failure).await
    }
}

/// Where the system has no randomness there is no jitter.
fn random() -> u16 {
    let mut bytes = [0; 2];
    let _ = getrandom::fill(&mut bytes);
    u16::from_le_bytes(bytes)
}
