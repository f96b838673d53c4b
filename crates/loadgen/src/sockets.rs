//! Load over sockets: many that listen, one that sends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::LocalSet;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::system::Tenant;

/// The length of every message's content: a time, filled up.
pub(crate) const CONTENT: usize = 100;

/// A WebSocket.
pub(crate) type Socket = WebSocketStream<TcpStream>;

/// Where a socket goes, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
}

impl Door {
    pub(crate) fn of(address: SocketAddr, tenant: &Tenant) -> Self {
        Self { address, key: tenant.key().to_owned() }
    }

    /// Opens a socket of this user and takes its first frame.
    pub(crate) async fn open(&self, user: usize) -> Socket {
        let mut request = format!("ws://{}/ws", self.address).into_client_request().expect("a request");
        let headers = request.headers_mut();
        headers.insert("x-api-key", HeaderValue::from_str(&self.key).expect("a key"));
        headers.insert("x-user-id", HeaderValue::from_str(&format!("user{user}")).expect("a user"));
        let tcp = TcpStream::connect(self.address).await.expect("it listens");
        tcp.set_nodelay(true).expect("set");
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
        let (mut socket, _) = client_async_with_config(request, tcp, Some(config)).await.expect("a handshake");
        let first = socket.next().await.expect("a frame").expect("no error");
        assert!(first.to_text().expect("text").contains("connected"), "{first}");
        socket
    }
}

/// What listeners have heard.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// Deliveries in the measured time.
    pub(crate) deliveries: u64,
    /// The measured time.
    pub(crate) elapsed: Duration,
    /// From the send to each receipt, in microseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Heard {
    /// Deliveries a second.
    pub(crate) fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let deliveries = self.deliveries as f64;
        deliveries / self.elapsed.as_secs_f64()
    }

    /// A quantile of the latency, in milliseconds.
    pub(crate) fn millis(&self, quantile: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let micros = self.latency.value_at_quantile(quantile) as f64;
        micros / 1000.0
    }
}

/// Sockets that listen, on a thread of their own.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// Message events heard by all of them.
    heard: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Histogram<u64>>,
    epoch: Instant,
    count: u64,
}

impl Listeners {
    /// Opens a socket for each of these users.
    pub(crate) async fn start(door: Door, users: Vec<usize>, epoch: Instant) -> Self {
        let (heard, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let count = users.len() as u64;
        let (ready, mut all_ready) = mpsc::channel::<()>(1);
        let thread = {
            let (heard, stop) = (heard.clone(), stop.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                LocalSet::new().block_on(&runtime, async move {
                    let permits = Arc::new(Semaphore::new(32));
                    let tasks: Vec<_> = users
                        .into_iter()
                        .map(|user| {
                            let (door, permits, ready) = (door.clone(), permits.clone(), ready.clone());
                            let (heard, stop) = (heard.clone(), stop.clone());
                            tokio::task::spawn_local(async move {
                                let permit = permits.acquire().await.expect("open");
                                let socket = door.open(user).await;
                                drop(permit);
                                drop(ready);
                                listen(socket, epoch, &heard, &stop).await
                            })
                        })
                        .collect();
                    drop(ready);
                    let mut total = histogram();
                    for task in tasks {
                        total.add(task.await.expect("no panic")).expect("the same bounds");
                    }
                    total
                })
            })
        };
        // Every task drops its end once its socket is open.
        assert!(all_ready.recv().await.is_none());
        // Live events begin a moment after a socket has opened.
        tokio::time::sleep(Duration::from_millis(400)).await;
        Self { heard, stop, thread, epoch, count }
    }

    /// Message events heard so far by all of them.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Relaxed)
    }

    /// Waits until all have heard `messages`.
    pub(crate) async fn wait_for(&self, messages: u64) {
        let start = Instant::now();
        while self.heard() < messages * self.count {
            assert!(start.elapsed() < Duration::from_secs(30), "{} of {}", self.heard(), messages * self.count);
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    /// Closes the sockets; what was measured over `elapsed`. Every one of the `messages` must have
    /// reached every listener.
    pub(crate) async fn stop(self, messages: u64, elapsed: Duration) -> Heard {
        self.wait_for(messages).await;
        let deliveries = messages * self.count;
        self.finish(deliveries, elapsed).await
    }

    /// Closes the sockets; what was measured over `elapsed`, where exactly `deliveries` were due.
    pub(crate) async fn finish(self, deliveries: u64, elapsed: Duration) -> Heard {
        assert_eq!(self.heard(), deliveries, "no loss, nothing twice");
        self.stop.store(true, Relaxed);
        let latency = tokio::task::spawn_blocking(|| self.thread.join().expect("no panic")).await.expect("joined");
        Heard { deliveries, elapsed, latency }
    }

    /// Nanoseconds since the beginning: what a message says of when it was sent.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("right bounds")
}

/// The content of a message that is sent now.
pub(crate) fn content(now: u64) -> String {
    format!("{now:0>CONTENT$}")
}

/// Hears messages until it is told to stop; the numbers of its room must have no gap.
async fn listen(mut socket: Socket, epoch: Instant, heard: &AtomicU64, stop: &AtomicBool) -> Histogram<u64> {
    let mut latency = histogram();
    let mut last = 0;
    loop {
        let Ok(frame) = tokio::time::timeout(Duration::from_millis(200), socket.next()).await else {
            if stop.load(Relaxed) {
                return latency;
            }
            continue;
        };
        let frame = frame.expect("open").expect("no error");
        let Message::Text(text) = frame else {
            assert!(!matches!(frame, Message::Close(_)), "{frame:?}");
            continue;
        };
        if !text.starts_with("{\"type\":\"message\"") {
            continue;
        }
        let seq = number_after(&text, "\"seq\":");
        assert!(last == 0 || seq == last + 1, "{seq} after {last}");
        last = seq;
        let sent = Duration::from_nanos(number_after(&text, "\"content\":\""));
        let micros = u64::try_from(epoch.elapsed().saturating_sub(sent).as_micros()).unwrap_or(u64::MAX);
        latency.saturating_record(micros.max(1));
        heard.fetch_add(1, Relaxed);
    }
}

fn number_after(text: &str, mark: &str) -> u64 {
    let at = text.find(mark).expect("the field is there") + mark.len();
    text[at..].bytes().take_while(u8::is_ascii_digit).fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// A server that passes on what its first socket sends to all others, with what tokio and
/// tungstenite have for it: what no server on them can be much faster than.
pub(crate) async fn bare() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let hub = tokio::sync::broadcast::Sender::<Utf8Bytes>::new(1024);
    #[expect(clippy::disallowed_methods, reason = "ends with the program")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("set");
            let hub = hub.clone();
            tokio::spawn(async move {
                let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
                let accepted = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await;
                let Ok(mut socket) = accepted else { return };
                let mut events = hub.subscribe();
                let _ = socket.send(Message::text("{\"type\":\"connected\"}")).await;
                loop {
                    tokio::select! {
                        event = events.recv() => {
                            let event = event.expect("nobody is too slow here");
                            if socket.send(Message::Text(event)).await.is_err() {
                                return;
                            }
                        }
                        frame = socket.next() => match frame {
                            Some(Ok(Message::Text(text))) => _ = hub.send(text),
                            Some(Ok(_)) => {}
                            Some(Err(_)) | None => return,
                        },
                    }
                }
            });
        }
    });
    address
}
