//! `make bench`: measures the server against what a sceptic would compare it with, and writes
//! `docs/benchmarks.md`. Bounded: some 15 minutes.
//!
//! `--quick` runs each case once and short, `--only CASE` one group of them (`sends`, `store`,
//! `reads`, `neighbours`, `open-loop`, `live`); both print and write nothing.

mod cases;
mod deletion;
mod live;
mod load;
mod report;
mod sockets;
mod system;
mod webhooks;
mod yardstick;

use crate::cases::Bench;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let only = arguments.iter().skip_while(|argument| *argument != "--only").nth(1).cloned();
    let draft = quick || only.is_some();
    let text = Bench::start(quick, only).await.run().await;
    if draft {
        println!("{text}");
        return;
    }
    std::fs::write("docs/benchmarks.md", text).expect("docs can be written");
    println!("Wrote docs/benchmarks.md");
}
