//! One tenant's deliveries, as long as any are due.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use chatapi_domain::{EventId, TenantId, TenantStatus, Timestamp};
use chatapi_storage::{Delivery, Error, Failure, Meter, Result, Taken};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep_until};

use crate::body::Body;
use crate::dispatcher::Dispatcher;
use crate::endpoint::Endpoint;
use crate::schedule::pause;
use crate::tenant::{Called, OfTenant};

/// Statements that empty the outbox before anything is claimed; what is left then follows after.
const TAKES: usize = 100;

/// An endpoint that takes longer is slow.
const SLOW: Duration = Duration::from_secs(1);

/// How long what is young in the outbox is left there.
const YOUTH: Duration = Duration::from_millis(400);

/// What has waited for its turn for longer is given up unasked, while the endpoint is slow or failing: it
/// can be asked for less than comes in, and that must end somewhere.
const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// What there is to be done.
#[derive(Debug, Default)]
struct Found {
    claimed: Vec<(Delivery, Timestamp)>,
    endpoint: Option<Arc<Endpoint>>,
    /// Whether there may be more that is due, and whether to look for it at once.
    more: bool,
    again: bool,
    /// Whether something in the outbox waits for its time.
    young: bool,
}

/// What is left to be noted of a delivery.
enum Noted {
    /// It is done, and that is to be noted.
    ToBeForgotten,
    /// Nothing: it stands where it is tried again, or among the dead letters.
    Kept,
}

/// What came of a delivery.
struct Ended {
    /// How the call came out, if one was made.
    called: Option<Called>,
    /// It is done.
    done: Option<EventId>,
}

/// A delivery that may be under way: the first of a tenant always may, further ones share permits.
type Permit = Option<OwnedSemaphorePermit>;

impl Dispatcher {
    /// Delivers what is due for a tenant until nothing is. How the calls come out decides how many are
    /// made at once: an endpoint that fails is not pressed.
    pub(crate) async fn work(&self, tenant_id: TenantId, tenant: &OfTenant) -> Result<()> {
        let meter = self.inner.store.meter(tenant_id);
        let mut flying = FuturesUnordered::new();
        // Whether to look for more; at once, or when what is young has come of age.
        let (mut more, mut at_once, mut later, mut result) = (true, false, None, Ok(()));
        loop {
            if self.inner.stop.is_cancelled() {
                (more, at_once, later) = (false, false, None);
            }
            if more {
                let permits = self.permits(tenant.width().saturating_sub(flying.len()), flying.is_empty());
                match self.find(tenant_id, tenant, permits.len()).await {
                    Ok(found) => {
                        (more, at_once) = (found.more, found.again);
                        later = found.young.then(|| Instant::now() + YOUTH);
                        // Else it is due again when its lease is over.
                        let begun = if self.inner.stop.is_cancelled() { 0 } else { found.claimed.len() };
                        let now = (self.inner.clock)();
                        for ((delivery, due_at), permit) in found.claimed.into_iter().zip(permits).take(begun) {
                            let waited = u64::try_from(now.as_micros() - due_at.as_micros()).unwrap_or(0);
                            let may_wait = tenant.is_well() || Duration::from_micros(waited) < LONGEST_WAIT;
                            let to = match &found.endpoint {
                                None => Err("there is no endpoint, or it is disabled"),
                                Some(_) if !may_wait => Err("it waited too long for its turn"),
                                Some(endpoint) => Ok(endpoint.clone()),
                            };
                            flying.push(self.deliver(delivery, to, meter.clone(), permit));
                        }
                    }
                    // What is under way goes on to its end.
                    Err(error) => (more, at_once, later, result) = (false, false, None, Err(error)),
                }
            }
            if flying.is_empty() && !more && later.is_none() {
                return result;
            }
            tokio::select! {
                biased;
                Some(ended) = flying.next() => {
                    // Those that have ended are noted together.
                    let mut ended = vec![ended];
                    while let Some(Some(another)) = flying.next().now_or_never() {
                        ended.push(another);
                    }
                    self.note(tenant_id, tenant, ended).await;
                }
                () = tenant.woken() => more = true,
                () = sleep_until(later.unwrap_or_else(Instant::now)), if later.is_some() => (more, later) = (true, None),
                () = std::future::ready(()), if at_once || (more && flying.is_empty()) => {}
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

    /// Empties the outbox, and claims what is due, at most `limit`.
    async fn find(&self, tenant_id: TenantId, tenant: &OfTenant, limit: usize) -> Result<Found> {
        let _asking = self.inner.asking.acquire().await;
        let endpoint = match self.inner.store.tenants().get(tenant_id).await {
            Ok(tenant) if tenant.status == TenantStatus::Active => Endpoint::of(&tenant, (self.inner.clock)()),
            Ok(_) | Err(Error::NotFound(_)) => return Ok(Found::default()),
            Err(error) => return Err(error),
        };
        let (deliveries, mut floor) = (self.inner.store.deliveries(), tenant.floor.lock().await);
        let mut taken = Taken { any: true, young: false };
        for _ in 0..TAKES {
            if !taken.any {
                break;
            }
            taken = deliveries.take(tenant_id, &mut floor).await?;
        }
        if limit == 0 {
            // Something is under way, and the rest waits for it.
            return Ok(Found { more: true, again: taken.any, young: taken.young, ..Found::default() });
        }
        let claim = deliveries.claim(tenant_id, limit, &mut floor).await?;
        Ok(Found {
            claimed: claim.deliveries,
            endpoint: endpoint.map(Arc::new),
            more: taken.any || claim.more,
            again: taken.any,
            young: taken.young,
        })
    }

    /// Notes what is done. What cannot be noted is made again when its lease is over, as is what panicked.
    async fn note(&self, tenant_id: TenantId, tenant: &OfTenant, ended: Vec<Result<Ended, JoinError>>) {
        let mut done = Vec::with_capacity(ended.len());
        for ended in ended {
            let Ok(Ended { called, done: event_id }) = ended else {
                tenant.called(Called::Badly);
                continue;
            };
            done.extend(event_id);
            if let Some(called) = called {
                tenant.called(called);
            }
        }
        if done.is_empty() {
            return;
        }
        let _asking = self.inner.asking.acquire().await;
        if let Err(error) = self.inner.store.deliveries().delivered(tenant_id, &done).await {
            tracing::warn!(%tenant_id, many = done.len(), %error, "Webhooks that were sent will be sent again");
        }
    }

    /// Makes one delivery, or gives it up for this reason, on a task of its own: it must go on while the next ones are claimed, for both
    /// need the database.
    fn deliver(
        &self,
        delivery: Delivery,
        to: Result<Arc<Endpoint>, &'static str>,
        meter: Arc<Meter>,
        permit: Permit,
    ) -> JoinHandle<Ended> {
        let dispatcher = self.clone();
        self.inner.tasks.spawn(async move {
            let (called, noted) = dispatcher.attempt(&delivery, to, &meter).await;
            drop(permit);
            let done = match noted {
                Ok(Noted::ToBeForgotten) => Some(delivery.event_id),
                Ok(Noted::Kept) => None,
                Err(error) => {
                    tracing::warn!(tenant_id = %delivery.tenant_id, event_id = %delivery.event_id, %error,
                        "What came of a webhook is not noted; it will be sent again");
                    None
                }
            };
            Ended { called, done }
        })
    }

    async fn attempt(
        &self,
        delivery: &Delivery,
        to: Result<Arc<Endpoint>, &'static str>,
        meter: &Meter,
    ) -> (Option<Called>, Result<Noted>) {
        let Some(body) = Body::of(delivery).and_then(|body| serde_json::to_vec(&body).ok()) else {
            return (None, Ok(Noted::ToBeForgotten));
        };
        let endpoint = match to {
            Ok(endpoint) => endpoint,
            Err(why) => {
                let failure = Failure { status: None, error: why.to_owned() };
                return (None, self.give_up(delivery, false, &failure).await);
            }
        };
        let now = (self.inner.clock)();
        let called = self.call(&endpoint, &delivery.event_id.to_string(), Bytes::from(body), now, meter).await;
        // Nobody was asked: it is due again when its lease is over.
        let Ok(answer) = called else { return (None, Ok(Noted::Kept)) };
        let Some(failure) = answer.failure() else {
            let called = if answer.elapsed < SLOW { Called::Well } else { Called::Slowly };
            return (Some(called), Ok(Noted::ToBeForgotten));
        };
        (Some(Called::Badly), self.failed(delivery, &endpoint, answer.is_gone(), &failure, now).await)
    }

    /// Notes that an attempt failed, and what follows from that.
    async fn failed(
        &self,
        delivery: &Delivery,
        endpoint: &Endpoint,
        is_gone: bool,
        failure: &Failure,
        now: Timestamp,
    ) -> Result<Noted> {
        // What an endpoint says that was set again meanwhile is no more than a failure.
        let disabled = is_gone && {
            let Endpoint { url, set_at, .. } = endpoint;
            let _asking = self.inner.asking.acquire().await;
            self.inner.store.tenants().disable_webhook(delivery.tenant_id, url, *set_at, now).await?
        };
        if disabled {
            tracing::warn!(tenant_id = %delivery.tenant_id, "A webhook endpoint is gone (410), and disabled");
        }
        if disabled || delivery.attempts >= self.inner.options.retries {
            return self.give_up(delivery, true, failure).await;
        }
        let _asking = self.inner.asking.acquire().await;
        let pause = pause(delivery.attempts + 1, random());
        self.inner.store.deliveries().retry(delivery, pause, failure).await.map(|()| Noted::Kept)
    }

    async fn give_up(&self, delivery: &Delivery, attempted: bool, failure: &Failure) -> Result<Noted> {
        let Failure { status, error } = failure;
        tracing::warn!(tenant_id = %delivery.tenant_id, event_id = %delivery.event_id, event = delivery.event.as_str(),
            status, error, "A webhook is given up: a dead letter");
        self.inner.given_up.fetch_add(1, Relaxed);
        let _asking = self.inner.asking.acquire().await;
        self.inner.store.deliveries().give_up(delivery, attempted, failure).await.map(|()| Noted::Kept)
    }
}

/// Where the system has no randomness there is no jitter.
fn random() -> u16 {
    let mut bytes = [0; 2];
    let _ = getrandom::fill(&mut bytes);
    u16::from_le_bytes(bytes)
}
