//! The cases over sockets: fan-out, idle connections, from node to node.

use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::cases::Bench;
use crate::report::{Goal, median};
use crate::sockets::{Door, Heard, Listeners, bare, content};
use crate::system::room_id;

/// Messages that may be under way at once: enough to keep everybody busy, too few to fill a queue.
const WINDOW: u64 = 64;

/// Connections that only wait.
const IDLE: usize = 10_000;

/// Messages a second from node to node, over how many rooms.
const NODE_RATE: u64 = 500;
const NODE_ROOMS: usize = 50;

impl Bench {
    /// All of them.
    pub(crate) async fn live(&mut self, all: &mut Vec<Goal>) -> String {
        rlimit::increase_nofile_limit(u64::MAX).expect("as many files as may be");
        let mut text = self.fan_out(all).await;
        text.push_str(&self.nodes(all).await);
        text.push_str(&self.idle(all).await);
        text
    }

    async fn fan_out(&mut self, all: &mut Vec<Goal>) -> String {
        let mut text = "\n## Fan-out: one sender, a room whose members all listen\n\nFrom the send to each receipt. A bare tokio-tungstenite server passes the same bytes on by a broadcast channel; it stores nothing. Every message reached every member once, in order.\n\n| members | deliveries/s | p50 | p99 | p99.9 | bare/s | p50 | p99 | p99.9 | ratio |\n|---|---|---|---|---|---|---|---|---|---|\n".to_owned();
        for (number, members) in [(50_000, 10), (50_001, 100), (50_002, 1000)] {
            let tenant = self.system.crowd(number, 1, members).await;
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..self.runs {
                ours.push(self.send_to_all(Door::of(self.system.address, &tenant), members, false).await);
                let door = Door { address: bare().await, key: "none".into() };
                theirs.push(self.send_to_all(door, members, true).await);
            }
            let ratio = per_second(&ours) / per_second(&theirs);
            all.push(Goal::at_least(&format!("Deliveries to {members} members, to a bare broadcast"), 0.6, ratio));
            let _ = writeln!(text, "| {members} | {} | {} | {ratio:.2} |", cells(&ours), cells(&theirs));
        }
        text
    }

    /// One sends as fast as all hear it.
    async fn send_to_all(&self, door: Door, members: usize, bare: bool) -> Heard {
        let epoch = Instant::now();
        let listeners = Listeners::start(door.clone(), (0..members).collect(), epoch).await;
        let mut sender = door.open(0).await;
        let room = room_id(1).to_string();
        let (start, mut sent) = (Instant::now(), 0_u64);
        while start.elapsed() < self.duration {
            let content = content(listeners.now());
            sent += 1;
            let frame = if bare {
                // As long as an event of ours.
                let more = "x".repeat(230);
                format!(r#"{{"type":"message","seq":{sent},"content":"{content}","more":"{more}"}}"#)
            } else {
                json!({"type": "send_message", "room_id": room, "content": content}).to_string()
            };
            sender.send(Message::text(frame)).await.expect("sent");
            // The sender hears its own messages too.
            while sender.next().now_or_never().is_some() {}
            listeners.wait_for(sent.saturating_sub(WINDOW)).await;
        }
        listeners.wait_for(sent).await;
        let elapsed = start.elapsed();
        listeners.stop(sent, elapsed).await
    }

    async fn nodes(&mut self, all: &mut Vec<Goal>) -> String {
        let there = self.system.second_node().await;
        let members = 4;
        let tenant = self.system.crowd(50_003, NODE_ROOMS, members).await;
        let mut runs = Vec::new();
        for _ in 0..self.runs {
            let epoch = Instant::now();
            let users = (0..NODE_ROOMS * members).collect();
            let listeners = Listeners::start(Door::of(there, &tenant), users, epoch).await;
            let sender = Door::of(self.system.address, &tenant);
            runs.push(self.send_at_rate(&sender, listeners, members).await);
        }
        self.system.stop_second();
        let p99 = median(runs.iter().map(|run| run.millis(0.99)));
        all.push(Goal::at_most("Node to node, 500 messages a second: p99 from send to receipt, ms", 25.0, p99));
        format!(
            "\n## From node to node\n\n{NODE_RATE} messages a second are sent over one node into {NODE_ROOMS} rooms whose members listen at the other.\n\n| deliveries/s | p50 | p99 | p99.9 |\n|---|---|---|---|\n| {} |\n",
            cells(&runs)
        )
    }

    async fn send_at_rate(&self, sender: &Door, listeners: Listeners, members: usize) -> Heard {
        // The first member of each room sends, over a socket of its own.
        let mut sockets = Vec::new();
        for room in 0..NODE_ROOMS {
            sockets.push(sender.open(room * members).await);
        }
        let (start, mut sent) = (Instant::now(), 0_u64);
        while start.elapsed() < self.duration {
            let due = start + Duration::from_micros(sent * 1_000_000 / NODE_RATE);
            tokio::time::sleep_until(due.into()).await;
            let room = usize::try_from(sent).unwrap_or(0) % NODE_ROOMS;
            let command =
                json!({"type": "send_message", "room_id": room_id(room + 1), "content": content(listeners.now())});
            let socket = &mut sockets[room];
            socket.send(Message::text(command.to_string())).await.expect("sent");
            while socket.next().now_or_never().is_some() {}
            sent += 1;
        }
        // Each message has as many listeners as its room has members.
        let share = sent * members as u64;
        let waiting = Instant::now();
        while listeners.heard() < share {
            assert!(waiting.elapsed() < Duration::from_secs(10), "{} of {share}", listeners.heard());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let elapsed = start.elapsed();
        listeners.finish(share, elapsed).await
    }

    async fn idle(&mut self, all: &mut Vec<Goal>) -> String {
        let tenant = self.system.crowd(50_004, IDLE / 10, 10).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (before, kernel_before) = (self.system.memory_kib(), Kernel::now());
        let start = Instant::now();
        let door = Door::of(self.system.address, &tenant);
        let listeners = Listeners::start(door, (0..IDLE).collect(), start).await;
        let connecting = start.elapsed();
        // Who has come is told and noted meanwhile.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (after, kernel) = (self.system.memory_kib(), Kernel::now());
        listeners.stop(0, connecting).await;
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let (each, idle) = ((after - before) as f64 / IDLE as f64, IDLE as f64);
        all.push(Goal::at_most("Memory of an idle connection, of 10 000, KiB of the server's RSS", 12.0, each));
        format!(
            "\n## {IDLE} idle connections\n\nEach user in one room of ten. Connected over 32 at a time in {:.1} s ({:.0} a second). The server's resident memory went from {} to {} MiB: **{each:.1} KiB a connection**. Besides, the kernel took {} MiB of slab for both ends of them, and {} pages of TCP buffers.\n",
            connecting.as_secs_f64(),
            idle / connecting.as_secs_f64(),
            before / 1024,
            after / 1024,
            kernel.slab_mib.saturating_sub(kernel_before.slab_mib),
            kernel.tcp_pages.saturating_sub(kernel_before.tcp_pages),
        )
    }
}

/// What the kernel takes.
struct Kernel {
    slab_mib: u64,
    tcp_pages: u64,
}

impl Kernel {
    fn now() -> Self {
        let number = |file: &str, line: &str, word: usize| -> u64 {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|found| found.starts_with(line)).unwrap_or_default();
            line.split_whitespace().nth(word).and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        Self {
            slab_mib: number("/proc/meminfo", "Slab:", 1) / 1024,
            tcp_pages: number("/proc/net/sockstat", "TCP:", 10),
        }
    }
}

fn per_second(runs: &[Heard]) -> f64 {
    median(runs.iter().map(Heard::per_second))
}

fn cells(runs: &[Heard]) -> String {
    let quantile = |quantile| median(runs.iter().map(|run| run.millis(quantile)));
    format!("{:.0} | {:.2} | {:.2} | {:.2}", per_second(runs), quantile(0.5), quantile(0.99), quantile(0.999))
}
