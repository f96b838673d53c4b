//! What is counted, and how it is shown.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hyper::StatusCode;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use crate::api::Api;
use crate::route::{ROUTES, Route};

/// Upper bounds in seconds: from a request answered out of memory to one that waited.
const BUCKETS: [f64; 12] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Labels {
    route: &'static str,
    method: &'static str,
    status: Option<u16>,
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        ("route", self.route).encode(encoder.encode_label())?;
        ("method", self.method).encode(encoder.encode_label())?;
        match self.status {
            Some(status) => ("status", u32::from(status)).encode(encoder.encode_label()),
            None => Ok(()),
        }
    }
}

use prometheus_client::encoding::EncodeLabel;

/// The counters of one route: found by index, no look-up, no lock.
#[derive(Debug)]
struct OfRoute {
    latency: Histogram,
    by_status: Vec<(u16, OnceLock<Counter>)>,
}

/// Statuses we answer with.
const STATUSES: [u16; 18] = [101, 200, 201, 202, 204, 400, 401, 403, 404, 405, 409, 413, 415, 422, 426, 429, 500, 503];

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    routes: Vec<OfRoute>,
    unknown: Counter,
    pub(crate) connections: Gauge,
    pub(crate) messages_sent: Counter,
    pub(crate) sockets: Gauge,
    pub(crate) events_sent: Counter,
    sockets_too_slow: Counter,
    tails: Gauge,
    tail_reads: Counter,
    webhook_attempts: Counter,
    webhook_failures: Counter,
    webhook_dead_letters: Counter,
    webhooks_under_way: Gauge,
    webhook_tenants: Gauge,
    webhook_late: Gauge<f64, AtomicU64>,
    notices: Counter,
    nodes: Gauge,
    queue: Gauge,
    queue_bytes: Gauge,
    queue_refused: Counter,
    batches: Counter,
    pool_open: Gauge,
    pool_idle: Gauge,
    pool_waiting: Gauge,
    uptime: Gauge<f64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("chatapi");
        let requests = Family::default();
        registry.register("http_requests", "Requests by route, method and status", requests.clone());
        let latency = Family::<Labels, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register(
            "http_request_duration_seconds",
            "Time from the head of a request to its answer",
            latency.clone(),
        );
        let routes = ROUTES
            .iter()
            .map(|spec| OfRoute {
                latency: latency.get_or_create(&Labels { route: spec.path, method: spec.method, status: None }).clone(),
                by_status: STATUSES.iter().map(|status| (*status, OnceLock::new())).collect(),
            })
            .collect();
        let mut metrics = Self {
            registry,
            requests,
            routes,
            unknown: Counter::default(),
            connections: Gauge::default(),
            messages_sent: Counter::default(),
            sockets: Gauge::default(),
            events_sent: Counter::default(),
            sockets_too_slow: Counter::default(),
            tails: Gauge::default(),
            tail_reads: Counter::default(),
            webhook_attempts: Counter::default(),
            webhook_failures: Counter::default(),
            webhook_dead_letters: Counter::default(),
            webhooks_under_way: Gauge::default(),
            webhook_tenants: Gauge::default(),
            webhook_late: Gauge::default(),
            notices: Counter::default(),
            nodes: Gauge::default(),
            queue: Gauge::default(),
            queue_bytes: Gauge::default(),
            queue_refused: Counter::default(),
            batches: Counter::default(),
            pool_open: Gauge::default(),
            pool_idle: Gauge::default(),
            pool_waiting: Gauge::default(),
            uptime: Gauge::default(),
        };
        metrics.register_rest();
        metrics
    }

    fn register_rest(&mut self) {
        let registry = &mut self.registry;
        registry.register("http_unknown", "Requests for a path or method there is not", self.unknown.clone());
        registry.register("http_connections", "Connections open", self.connections.clone());
        registry.register("messages_sent", "Messages stored", self.messages_sent.clone());
        registry.register("websocket_connections", "WebSockets open", self.sockets.clone());
        registry.register("events_sent", "Events sent over WebSockets", self.events_sent.clone());
        let too_slow = self.sockets_too_slow.clone();
        registry.register("websocket_too_slow", "WebSockets closed because their queue was full", too_slow);
        registry.register("room_tails", "Rooms that somebody here follows", self.tails.clone());
        registry.register("room_tail_reads", "Times a room was read for those who follow it", self.tail_reads.clone());
        registry.register("webhook_attempts", "Calls made to webhook endpoints", self.webhook_attempts.clone());
        registry.register("webhook_failures", "Those that failed", self.webhook_failures.clone());
        registry.register("webhook_dead_letters", "Webhooks given up", self.webhook_dead_letters.clone());
        registry.register(
            "webhooks_under_way",
            "Calls to webhook endpoints under way",
            self.webhooks_under_way.clone(),
        );
        registry.register("webhook_tenants", "Tenants whose webhooks are being sent", self.webhook_tenants.clone());
        registry.register(
            "webhook_late_seconds",
            "How long a webhook has been due that nobody has sent yet, of any tenant",
            self.webhook_late.clone(),
        );
        registry.register("feed_notices", "Notices sent to other nodes", self.notices.clone());
        registry.register("nodes", "Nodes that serve this database", self.nodes.clone());
        registry.register("message_queue", "Messages waiting for a writer", self.queue.clone());
        registry.register("message_queue_bytes", "Bytes they hold", self.queue_bytes.clone());
        registry.register(
            "message_queue_refused",
            "Messages refused because a queue was full",
            self.queue_refused.clone(),
        );
        registry.register("message_batches", "Statements that stored messages", self.batches.clone());
        registry.register("database_pool_open", "Connections of the pool", self.pool_open.clone());
        registry.register("database_pool_idle", "Connections of the pool nobody uses", self.pool_idle.clone());
        registry.register("database_pool_waiting", "Callers waiting for a connection", self.pool_waiting.clone());
        registry.register("uptime_seconds", "Time since the start", self.uptime.clone());
    }

    /// Counts one answered request.
    pub(crate) fn answered(&self, route: Option<Route>, status: StatusCode, elapsed: Duration) {
        let Some(route) = route else {
            self.unknown.inc();
            return;
        };
        let of_route = &self.routes[route as usize];
        of_route.latency.observe(elapsed.as_secs_f64());
        let status = status.as_u16();
        let labels = || Labels { route: route.spec().path, method: route.spec().method, status: Some(status) };
        match of_route.by_status.iter().find(|(known, _)| *known == status) {
            Some((_, counter)) => counter.get_or_init(|| self.requests.get_or_create(&labels()).clone()).inc(),
            None => self.requests.get_or_create(&labels()).inc(),
        };
    }

    /// Everything in the text format of Prometheus.
    pub(crate) fn to_text(&self, api: &Api) -> Result<String, std::fmt::Error> {
        let (queue, pool) = (api.store.queue_status(), api.store.pool_status());
        let signed = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.queue.set(signed(queue.waiting));
        self.queue_bytes.set(signed(queue.bytes));
        self.queue_refused.inc_by(queue.refused.saturating_sub(self.queue_refused.get()));
        self.batches.inc_by(queue.batches.saturating_sub(self.batches.get()));
        self.pool_open.set(signed(pool.open));
        self.pool_idle.set(signed(pool.idle));
        self.pool_waiting.set(signed(pool.waiting));
        let hub = api.hub.status();
        self.tails.set(signed(hub.tails));
        self.tail_reads.inc_by(hub.reads.saturating_sub(self.tail_reads.get()));
        self.sockets_too_slow.inc_by(hub.too_slow.saturating_sub(self.sockets_too_slow.get()));
        let dispatcher = api.dispatcher.status();
        self.webhook_attempts.inc_by(dispatcher.attempts.saturating_sub(self.webhook_attempts.get()));
        self.webhook_failures.inc_by(dispatcher.failures.saturating_sub(self.webhook_failures.get()));
        self.webhook_dead_letters.inc_by(dispatcher.given_up.saturating_sub(self.webhook_dead_letters.get()));
        self.webhooks_under_way.set(signed(dispatcher.under_way));
        self.webhook_tenants.set(signed(dispatcher.tenants));
        self.webhook_late.set(dispatcher.late.as_secs_f64());
        let feed = api.store.feed();
        self.notices.inc_by(feed.notices().saturating_sub(self.notices.get()));
        self.nodes.set(signed(feed.nodes()));
        self.uptime.set(api.started.elapsed().as_secs_f64());
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// The few counters that are shown as JSON.
    pub(crate) fn to_json(&self, api: &Api) -> Value {
        let dispatcher = api.dispatcher.status();
        json!({
            "active_connections": self.sockets.get(),
            "messages_sent": self.messages_sent.get(),
            "delivery_attempts": dispatcher.attempts,
            "delivery_failures": dispatcher.failures,
            "broadcast_drops": api.hub.status().too_slow,
            "uptime_seconds": api.started.elapsed().as_secs(),
        })
    }
}
