//! A tenant whose endpoint is told of each message.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chatapi_domain::Timestamp;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::cases::Bench;
use crate::load::Outcome;
use crate::report::{Runs, median};
use crate::system::now;

/// Messages a second where it is the latency that is measured.
const RATE: f64 = 200.0;

/// An endpoint that answers `204`, and notes how long each message took to it.
#[derive(Debug)]
struct Endpoint {
    address: SocketAddr,
    told: Arc<Told>,
}

#[derive(Debug)]
struct Told {
    calls: AtomicU64,
    /// From the message's own time to the call, in microseconds: one clock for both.
    latency: Mutex<Histogram<u64>>,
}

impl Endpoint {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let told = Arc::new(Told { calls: AtomicU64::new(0), latency: Mutex::new(latencies()) });
        let noting = told.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the program")]
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let told = noting.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let told = told.clone();
                    async move {
                        let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
                        told.note(&body.unwrap_or_default());
                        let response = Response::builder().status(204).body(Empty::<Bytes>::new());
                        Ok::<_, Infallible>(response.expect("an answer"))
                    }
                });
                tokio::spawn(async move {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, told }
    }

    fn calls(&self) -> u64 {
        self.told.calls.load(Relaxed)
    }

    /// What was noted since the last time.
    fn take(&self, elapsed: Duration) -> Outcome {
        let mut latency = self.told.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let latency = std::mem::replace(&mut *latency, latencies());
        Outcome { good: latency.len(), bad: 0, elapsed, latency }
    }
}

impl Told {
    fn note(&self, body: &[u8]) {
        self.calls.fetch_add(1, Relaxed);
        let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let at = body["at"].as_str().and_then(|at| Timestamp::parse("at", at).ok()).expect("a time");
        let micros = u64::try_from(now().as_micros() - at.as_micros()).unwrap_or(0);
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        latency.saturating_record(micros.max(1));
    }
}

fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds")
}

impl Bench {
    pub(crate) async fn webhooks(&self) -> String {
        self.system.clear().await;
        let endpoint = Endpoint::start().await;
        let (told, dead) = (self.system.tenant(80_000, 1000).await, self.system.tenant(80_001, 1000).await);
        self.system.tell(&told, endpoint.address).await;
        // Nobody listens there.
        self.system.tell(&dead, SocketAddr::from(([127, 0, 0, 1], 1))).await;
        let (mut plain, mut with, mut drained) = (Runs::default(), Runs::default(), Vec::new());
        for _ in 0..self.runs {
            plain.0.push(self.load(64, self.ours.messages(1000)).await);
            with.0.push(self.load(64, told.messages(1000)).await);
            let (start, before) = (Instant::now(), endpoint.calls());
            while self.system.untold(&told).await > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            drained.push((endpoint.calls() - before) as f64 / start.elapsed().as_secs_f64());
        }
        endpoint.take(Duration::ZERO);
        let (mut alone, mut beside) = (Runs::default(), Runs::default());
        let paced = || self.load_to(self.system.address, 16, told.messages(1000), Some(RATE));
        for _ in 0..self.runs {
            let start = Instant::now();
            paced().await;
            alone.0.push(endpoint.take(start.elapsed()));
        }
        for _ in 0..self.runs {
            let start = Instant::now();
            tokio::join!(paced(), self.load(4, dead.messages(1000)));
            beside.0.push(endpoint.take(start.elapsed()));
        }
        format!(
            "\n## Webhooks: an endpoint on the same machine that is told of each message\n\n\
             64 connections into 1000 rooms: {:.0} sends/s of a tenant without webhooks, {:.0} of one whose endpoint is told \
             meanwhile ({:.2}). What was still to be told then went at {:.0} calls a second.\n\n\
             From the message to the call, at {RATE} messages a second:\n\n| | calls/s | p50 | p99 | p99.9 |\n|---|---|---|---|---|\n\
             | alone | {} |\n| beside a tenant that sends over 4 connections and whose endpoint is dead | {} |\n",
            plain.per_second(),
            with.per_second(),
            with.per_second() / plain.per_second(),
            median(drained.into_iter()),
            alone.cells(),
            beside.cells(),
        )
    }
}
