//! The cases, each compared in the same run with what it is to be compared with.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::load::{Load, Outcome};
use crate::report::{Goal, Runs, goals, machine};
use crate::system::{System, Tenant};
use crate::yardstick;

/// Explains what falls short; kept beside the figures so that the page is written whole.
const WHY: &str = include_str!("why.md");

/// Everything that is measured, on one system.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) system: System,
    /// Sends through the server.
    pub(crate) ours: Tenant,
    /// Sends by pgbench, into rooms of its own.
    theirs: Tenant,
    pub(crate) runs: usize,
    pub(crate) duration: Duration,
    only: Option<String>,
}

/// Send cases: connections and rooms.
type Sends = BTreeMap<(usize, usize), (Runs, Runs)>;

impl Bench {
    /// Starts the system.
    pub(crate) async fn start(quick: bool, only: Option<String>) -> Self {
        let system = System::start().await;
        let (ours, theirs) = (system.tenant(1, 1000).await, system.tenant(2, 1000).await);
        let (runs, duration) = if quick { (1, Duration::from_secs(1)) } else { (5, Duration::from_secs(1)) };
        Self { system, ours, theirs, runs, duration, only }
    }

    /// Runs all cases; the page.
    pub(crate) async fn run(mut self) -> String {
        let before = self.system.memory();
        let mut text = String::new();
        let mut all = Vec::new();
        if self.wants("sends") {
            text.push_str(&self.sends(&mut all).await);
        }
        if self.wants("store") {
            text.push_str(&self.four_clients(&mut all).await);
        }
        if self.wants("reads") {
            text.push_str(&self.reads(&mut all).await);
        }
        if self.wants("neighbours") {
            text.push_str(&self.neighbours(&mut all).await);
            text.push_str(&self.deletion(&mut all).await);
        }
        if self.wants("open-loop") {
            text.push_str(&self.open_loop().await);
        }
        if self.wants("live") {
            text.push_str(&self.live(&mut all).await);
        }
        if self.wants("webhooks") {
            text.push_str(&self.webhooks().await);
        }
        let after = self.system.memory();
        let _ = writeln!(
            text,
            "\n## Memory of the server\n\nResident: {before} MiB before, {after} MiB after all of this.\n"
        );
        self.system.stop().await;
        format!(
            "# Benchmarks\n\nWritten by `make bench`. Server, load and PostgreSQL (`fsync`, `synchronous_commit`, \
             `full_page_writes` on; its log's segments are reused, as after some time) together on one machine: {}.\n\nMedians of {} alternated runs of {} s after a \
             warm-up; HTTP with keep-alive on loopback, from wrk (one thread; at fixed rates from a generator of our own); bodies of 100 bytes, rooms of 20 members. pgbench \
             (`-M prepared -j 1`) runs the very statement that the server runs for one message, with the same \
             session settings, and has no HTTP to do. Latencies in milliseconds. The machine is noisy: read the \
             ratios.\n\n## Goals\n\n{}\n{WHY}\n{text}",
            machine(),
            self.runs,
            self.duration.as_secs(),
            goals(&all),
        )
    }

    fn wants(&self, case: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == case)
    }

    pub(crate) async fn load(&self, connections: usize, requests: Vec<Bytes>) -> Outcome {
        self.load_to(self.system.address, connections, requests, None).await
    }

    pub(crate) async fn load_to(
        &self,
        address: SocketAddr,
        connections: usize,
        requests: Vec<Bytes>,
        rate: Option<f64>,
    ) -> Outcome {
        let warm_up = Duration::from_secs(1);
        let load = Load { address, connections, warm_up, duration: self.duration, requests, rate };
        tokio::task::spawn_blocking(move || load.run()).await.expect("the load runs")
    }

    async fn sends(&self, all: &mut Vec<Goal>) -> String {
        let mut results: Sends = BTreeMap::new();
        for rooms in [1, 10, 1000] {
            for connections in [1, 4, 16, 64, 256] {
                self.system.clear().await;
                for _ in 0..self.runs {
                    let ours = self.load(connections, self.ours.messages(rooms)).await;
                    let theirs = yardstick::pgbench(&self.system, &self.theirs, connections, rooms, self.duration);
                    let case = results.entry((rooms, connections)).or_default();
                    case.0.0.push(ours);
                    case.1.0.push(theirs);
                }
                self.system.check().await;
            }
        }
        let best = |rooms: usize| {
            let of_rooms = results.iter().filter(|((found, _), _)| *found == rooms);
            of_rooms.map(|(_, (_, pgbench))| pgbench.per_second()).fold(0.0, f64::max)
        };
        let ours = |rooms, connections| &results[&(rooms, connections)].0;
        let theirs = |rooms, connections| &results[&(rooms, connections)].1;
        let ratio = |rooms, connections| ours(rooms, connections).per_second() / best(rooms);
        all.push(Goal::at_least(
            "Send, 64 connections, 1000 rooms, to pgbench at its best client count",
            1.5,
            ratio(1000, 64),
        ));
        all.push(Goal::at_least(
            "Send, 64 connections, 1 hot room, to pgbench at its best client count",
            4.0,
            ratio(1, 64),
        ));
        for connections in [16, 64, 256] {
            let p99 = ours(1000, connections).millis(0.99) / theirs(1000, connections).millis(0.99);
            let what =
                format!("p99 of send, {connections} connections, 1000 rooms, to pgbench's at {connections} clients");
            all.push(Goal::at_most(&what, 1.0, p99));
        }
        let apart = ours(1000, 1).millis(0.5) - theirs(1000, 1).millis(0.5);
        all.push(Goal::at_most("Send, 1 connection: median, ms more than pgbench's single client", 0.3, apart));
        let mut text = "\n## Sending messages\n\n| rooms | connections | sends/s | p50 | p99 | p99.9 | pgbench/s | p50 | p99 | p99.9 | to pgbench's best |\n|---|---|---|---|---|---|---|---|---|---|---|\n".to_owned();
        for ((rooms, connections), (ours, theirs)) in &results {
            assert_eq!(ours.bad(), 0, "every message was stored");
            let _ = writeln!(
                text,
                "| {rooms} | {connections} | {} | {} | {:.2} |",
                ours.cells(),
                theirs.cells(),
                ratio(*rooms, *connections)
            );
        }
        text.push_str("\nAfter each case every room's messages were counted: count = max(seq) = last_seq.\n");
        text
    }

    /// Without HTTP on either side: the store's own way against one statement a message.
    async fn four_clients(&self, all: &mut Vec<Goal>) -> String {
        let mut text = "\n## The store alone, without HTTP, 1000 rooms\n\nOne statement a message is the same statement from Rust over a connection for each client (at most 16).\n\n| clients | store/s | p50 | p99 | p99.9 | one statement each/s | p50 | p99 | p99.9 | ratio | one statement each, to pgbench |\n|---|---|---|---|---|---|---|---|---|---|---|\n".to_owned();
        for clients in [1, 4, 16, 64] {
            let (mut store, mut each, mut pgbench) = (Runs::default(), Runs::default(), Runs::default());
            for _ in 0..self.runs {
                store.0.push(yardstick::store(&self.system, &self.ours, clients, 1000, self.duration).await);
                each.0.push(
                    yardstick::statements(&self.system, &self.theirs, clients.min(16), 1000, self.duration).await,
                );
                pgbench.0.push(yardstick::pgbench(&self.system, &self.theirs, clients.min(16), 1000, self.duration));
            }
            let ratio = store.per_second() / each.per_second();
            if clients == 4 {
                all.push(Goal::at_least("Store, 4 clients, to one statement a message over a pool", 0.9, ratio));
            }
            let control = each.per_second() / pgbench.per_second();
            let _ = writeln!(text, "| {clients} | {} | {} | {ratio:.2} | {control:.2} |", store.cells(), each.cells());
        }
        text
    }

    async fn reads(&self, all: &mut Vec<Goal>) -> String {
        self.system.clear().await;
        let history = self.system.history(3, 1000).await;
        let few = self.system.tenant(4, 200).await;
        // The load picks among as many requests in each case: else it would itself be slower in one.
        let one: Vec<Bytes> = (0..10_000).map(|number| self.ours.own(number)).collect();
        let mut many = Vec::with_capacity(10_000);
        for number in 0..10_000 {
            many.push(self.system.tenant(1000 + number, 0).await.own(number));
        }
        // Each key is verified once before anything is measured.
        for _ in 0..3 {
            self.load(16, many.clone()).await;
        }
        let bare = yardstick::bare(Bytes::from("x".repeat(500))).await;
        let cases = [
            ("bare hyper, the same bytes", bare, one.clone()),
            ("authenticated no-op (`GET /tenant`), 1 tenant", self.system.address, one),
            ("the same, 10 000 tenants", self.system.address, many),
            ("history of 50 of 1 000 000 messages", self.system.address, history.histories(1000)),
            ("list of rooms, the user has 200, page of 50", self.system.address, vec![few.get("/rooms", Some(3))]),
            (
                "list of rooms, the user has 200, page of 100",
                self.system.address,
                vec![few.get("/rooms?limit=100", Some(3))],
            ),
        ];
        let mut results = vec![Runs::default(); cases.len()];
        for _ in 0..self.runs {
            for ((_, address, requests), runs) in cases.iter().zip(&mut results) {
                runs.0.push(self.load_to(*address, 64, requests.clone(), None).await);
            }
        }
        let rate = |case: usize| results[case].per_second();
        all.push(Goal::at_least("Authenticated no-op, to a bare hyper server", 0.5, rate(1) / rate(0)));
        all.push(Goal::at_least("No-op of 10 000 tenants, to that of one", 0.9, rate(2) / rate(1)));
        all.push(Goal::at_least("History of 50, to the no-op", 0.5, rate(3) / rate(1)));
        all.push(Goal::at_least("List of rooms, to the no-op", 0.5, rate(4) / rate(1)));
        let mut text = "\n## Reading, 64 connections\n\n| | requests/s | p50 | p99 | p99.9 | to the no-op |\n|---|---|---|---|---|---|\n".to_owned();
        for ((name, ..), runs) in cases.iter().zip(&results) {
            let bad = if runs.bad() > 0 { format!(" ({} errors)", runs.bad()) } else { String::new() };
            let _ = writeln!(text, "| {name}{bad} | {} | {:.2} |", runs.cells(), runs.per_second() / rate(1));
        }
        text
    }

    /// What one tenant, or somebody with no tenant at all, does to another.
    async fn neighbours(&self, all: &mut Vec<Goal>) -> String {
        self.system.clear().await;
        let (flood, quiet) = (&self.theirs, self.ours.messages(1000));
        let wrong: Vec<Bytes> = (0..5000).map(Tenant::wrong).collect();
        let (mut alone, mut flooded, mut guessed) = (Runs::default(), Runs::default(), Runs::default());
        for _ in 0..self.runs {
            alone.0.push(self.load(4, quiet.clone()).await);
            let both = tokio::join!(self.load(4, quiet.clone()), self.load(256, flood.messages(1000)));
            flooded.0.push(both.0);
            let wrong = self.load_to(self.system.address, 16, wrong.clone(), Some(1000.0));
            let both = tokio::join!(self.load(4, quiet.clone()), wrong);
            guessed.0.push(both.0);
        }
        let ratio = |runs: &Runs| runs.millis(0.99) / alone.millis(0.99);
        all.push(Goal::at_most(
            "p99 of a tenant's sends (4 connections) beside a flood of 256, to alone",
            3.0,
            ratio(&flooded),
        ));
        all.push(Goal::at_most(
            "p99 of a tenant's sends beside 1000 wrong keys a second, to alone",
            2.0,
            ratio(&guessed),
        ));
        format!(
            "\n## Neighbours: a tenant that sends over 4 connections\n\n| | sends/s | p50 | p99 | p99.9 |\n|---|---|---|---|---|\n\
             | alone | {} |\n| beside a tenant that floods the writer over 256 | {} |\n| beside 1000 wrong keys a second | {} |\n",
            alone.cells(),
            flooded.cells(),
            guessed.cells()
        )
    }

    /// At a fixed rate, latency counted from the moment a request was meant to be sent.
    async fn open_loop(&self) -> String {
        self.system.clear().await;
        let mut text = "\n## Open loop: a fixed rate into 1000 rooms over 64 connections\n\nLatency counts from the moment a request was meant to be sent.\n\n| meant/s | sends/s | p50 | p99 | p99.9 |\n|---|---|---|---|---|\n".to_owned();
        for rate in [1000.0, 5000.0, 10_000.0] {
            let mut runs = Runs::default();
            for _ in 0..self.runs {
                runs.0.push(self.load_to(self.system.address, 64, self.ours.messages(1000), Some(rate)).await);
            }
            let _ = writeln!(text, "| {rate} | {} |", runs.cells());
        }
        self.system.check().await;
        text
    }
}
