//! What all requests share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use chatapi_auth::Verifier;
use chatapi_delivery::Dispatcher;
use chatapi_realtime::Hub;
use chatapi_storage::Store;
use ipnet::IpNet;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cors::KnownOrigins;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::pages::Pages;
use crate::route::Router;

/// What can be set for the server.
#[derive(Debug, Default)]
pub struct Options {
    /// Networks whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpNet>,
    /// What `/metrics` wants as `Authorization: Bearer`; absent, it is open.
    pub metrics_token: Option<SecretString>,
    /// Whether a `webhook_url` may be anywhere, over plain http too: for development.
    pub webhook_allow_private: bool,
}

/// The API over a store: what all requests share. One a process.
#[derive(Debug)]
pub struct Api {
    pub(crate) store: Store,
    pub(crate) verifier: Verifier,
    pub(crate) hub: Hub,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) options: Options,
    pub(crate) router: Router,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) origins: KnownOrigins,
    pub(crate) pages: Pages,
    /// Requests that must end even if their client hangs up.
    pub(crate) tasks: TaskTracker,
    /// WebSocket connections.
    pub(crate) sockets: TaskTracker,
    /// Says that the server stops.
    pub(crate) stop: CancellationToken,
    pub(crate) started: Instant,
    ready: AtomicBool,
}

impl Api {
    /// The API over `store`, for those whom `verifier` lets in. Not ready before
    /// [`Api::set_ready`]. At `stop` its sockets are closed.
    #[must_use]
    pub fn new(
        store: Store,
        verifier: Verifier,
        hub: Hub,
        dispatcher: Dispatcher,
        options: Options,
        stop: CancellationToken,
    ) -> Self {
        Self {
            store,
            verifier,
            hub,
            dispatcher,
            options,
            router: Router::new(),
            metrics: Metrics::new(),
            health: Health::new(),
            origins: KnownOrigins::new(),
            pages: Pages::new(),
            tasks: TaskTracker::new(),
            sockets: TaskTracker::new(),
            stop,
            started: Instant::now(),
            ready: AtomicBool::new(false),
        }
    }

    /// Says whether requests are welcome: after migrating, until draining.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}
