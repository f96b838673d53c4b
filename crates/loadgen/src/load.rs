//! HTTP load over keep-alive connections, bounded in count and time.
//!
//! As fast as the answers come it is made by wrk; at a fixed rate, which wrk cannot do, by a small
//! generator of our own. Requests are bytes made beforehand, so that the load takes as little of
//! the machine as it can from what it measures.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::sleep_until;

/// What is sent, and how.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// The server.
    pub(crate) address: SocketAddr,
    /// Connections, each with one request at a time.
    pub(crate) connections: usize,
    /// Discarded at the beginning.
    pub(crate) warm_up: Duration,
    /// Measured after that.
    pub(crate) duration: Duration,
    /// Whole requests; each connection picks among them at random.
    pub(crate) requests: Vec<Bytes>,
    /// Open loop: so many a second over all connections, whatever the answers take. Latency is
    /// counted from the moment a request was meant to be sent.
    pub(crate) rate: Option<f64>,
}

/// What came back in the measured time.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// Answers below 400.
    pub(crate) good: u64,
    /// Other answers.
    pub(crate) bad: u64,
    /// The measured time.
    pub(crate) elapsed: Duration,
    /// Latencies of all answers, in microseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Outcome {
    /// Good answers a second.
    #[must_use]
    pub(crate) fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let good = self.good as f64;
        good / self.elapsed.as_secs_f64()
    }

    /// A quantile of the latency, in milliseconds.
    #[must_use]
    pub(crate) fn millis(&self, quantile: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let micros = self.latency.value_at_quantile(quantile) as f64;
        micros / 1000.0
    }
}

struct Tally {
    good: u64,
    bad: u64,
    latency: Histogram<u64>,
}

impl Load {
    /// Runs the load on a thread of its own.
    ///
    /// # Panics
    ///
    /// If a connection cannot be made or breaks: a run with errors of that kind measures nothing.
    #[must_use]
    pub(crate) fn run(&self) -> Outcome {
        if self.rate.is_none() {
            return self.wrk();
        }
        let load = self.clone();
        let running = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, load.drive())
        });
        running.join().expect("the load runs")
    }

    /// Runs wrk, warmed up first, with one thread, as our own generator has.
    fn wrk(&self) -> Outcome {
        let folder = tempfile::tempdir().expect("a folder");
        let (requests, script) = (folder.path().join("requests"), folder.path().join("load.lua"));
        let mut file = std::fs::File::create(&requests).expect("a file");
        for request in &self.requests {
            // The length first, so that the bytes need no mark.
            writeln!(file, "{}", request.len()).expect("written");
            file.write_all(request).expect("written");
        }
        std::fs::write(&script, include_str!("wrk.lua")).expect("written");
        let run = |seconds: u64| {
            let mut command = Command::new("wrk");
            command.args(["-t", "1", "-c", &self.connections.to_string(), "-d", &format!("{seconds}s")]);
            command.args(["--timeout", "10s", "-s"]).arg(&script).arg(format!("http://{}", self.address));
            command.arg("--").arg(&requests);
            let output = command.output().expect("wrk is installed: .ci/setup bench");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{said}");
            said
        };
        run(self.warm_up.as_secs().max(1));
        let said = run(self.duration.as_secs().max(1));
        let line = said.lines().find_map(|line| line.strip_prefix("outcome ")).expect("our script's line");
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
        let [requests, micros, bad, broken, quantiles @ ..] = numbers.as_slice() else { panic!("{line}") };
        assert_eq!(*broken, 0, "connections broke: {said}");
        let mut latency = histogram();
        // Each of these is the latency of as many answers as the others.
        for micros in quantiles {
            latency.saturating_record((*micros).max(1));
        }
        Outcome { good: requests - bad, bad: *bad, elapsed: Duration::from_micros(*micros), latency }
    }

    async fn drive(self) -> Outcome {
        let load = Rc::new(self);
        let start = Instant::now();
        let (measured, end) = (start + load.warm_up, start + load.warm_up + load.duration);
        let tasks: Vec<_> = (0..load.connections)
            .map(|number| tokio::task::spawn_local(connection(load.clone(), number, start, measured, end)))
            .collect();
        let mut total = Tally { good: 0, bad: 0, latency: histogram() };
        for task in tasks {
            let tally = task.await.expect("no panic");
            total.good += tally.good;
            total.bad += tally.bad;
            total.latency.add(tally.latency).expect("the same bounds");
        }
        Outcome { good: total.good, bad: total.bad, elapsed: load.duration, latency: total.latency }
    }
}

/// From 1 µs to a minute, three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("right bounds")
}

async fn connection(load: Rc<Load>, number: usize, start: Instant, measured: Instant, end: Instant) -> Tally {
    let mut stream = TcpStream::connect(load.address).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    let mut tally = Tally { good: 0, bad: 0, latency: histogram() };
    let mut random = Random::new(number as u64 + 1);
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    // In an open loop each connection has every n-th of the moments.
    #[expect(clippy::cast_precision_loss, reason = "few connections")]
    let step = load.rate.map(|rate| Duration::from_secs_f64(load.connections as f64 / rate));
    #[expect(clippy::cast_precision_loss, reason = "few connections")]
    let mut due = start + step.unwrap_or_default().mul_f64(number as f64 / load.connections as f64);
    loop {
        let sent = match step {
            Some(step) => {
                due += step;
                sleep_until(due.into()).await;
                due
            }
            None => Instant::now(),
        };
        if sent >= end {
            return tally;
        }
        let request = &load.requests[random.below(load.requests.len())];
        stream.write_all(request).await.expect("sent");
        let status = answer(&mut stream, &mut buffer).await;
        let now = Instant::now();
        if now >= measured && now <= end {
            let micros = u64::try_from((now - sent).as_micros()).unwrap_or(u64::MAX);
            tally.latency.saturating_record(micros.max(1));
            if status < 400 { tally.good += 1 } else { tally.bad += 1 }
        }
    }
}

/// Reads one answer and returns its status. Answers of ours have a Content-Length.
async fn answer(stream: &mut TcpStream, buffer: &mut BytesMut) -> u16 {
    buffer.clear();
    let mut whole = None;
    loop {
        let read = stream.read_buf(buffer).await.expect("an answer");
        assert!(read > 0, "the server closed the connection");
        if whole.is_none()
            && let Some(end) = find(buffer, b"\r\n\r\n")
        {
            whole = Some(end + 4 + content_length(&buffer[..end]));
        }
        if whole.is_some_and(|whole| buffer.len() >= whole) {
            let digits = std::str::from_utf8(&buffer[9..12]).expect("a status");
            return digits.parse().expect("a status");
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length: ";
    let Some(at) = find(head, NAME) else { return 0 };
    let digits = head[at + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// A small generator of numbers (xorshift), the same in every run.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Begins at `seed`, which is not 0.
    #[must_use]
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap_or(0)
    }
}
