//! A million messages out and in again: how long it takes, and how much memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use chatapi_tests::{App, MASTER_KEY};
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::transfer::fill;

const ROOMS: i64 = 1000;
const MESSAGES: i64 = 1000;

/// How much more than before the server may need.
const MORE: u64 = 64 << 20;

/// What a process holds of memory.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

/// The most memory that a process holds until this is asked.
struct Peak {
    peak: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
}

impl Peak {
    fn of(pid: u32) -> Self {
        let (peak, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let watch = (peak.clone(), done.clone());
        spawn(move || {
            while !watch.1.load(Ordering::Relaxed) {
                watch.0.fetch_max(resident(pid), Ordering::Relaxed);
                sleep(Duration::from_millis(5));
            }
        });
        Self { peak, done }
    }

    fn end(self) -> u64 {
        self.done.store(true, Ordering::Relaxed);
        self.peak.load(Ordering::Relaxed)
    }
}

/// Imports a file piece by piece; the answer.
async fn import(app: &App, tenant: &str, file: &mut File) -> Value {
    let mut stream = TcpStream::connect(app.url.trim_start_matches("http://")).await.expect("it listens");
    let length = file.metadata().await.expect("a length").len();
    let head = format!(
        "POST /admin/tenants/import?tenant_id={tenant} HTTP/1.1\r\nHost: x\r\nX-Master-Key: {MASTER_KEY}\r\n\
         Content-Type: application/x-ndjson\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    tokio::io::copy(file, &mut stream).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    serde_json::from_str(answer.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON")
}

#[tokio::test]
async fn a_million_messages_go_out_and_in_within_64_mib_more_than_an_idle_server_has() {
    let app = App::builder().set("LOG_LEVEL", "info").start().await;
    let tenant = app.tenant("large").await;
    fill(&app, "large", ROOMS, MESSAGES).await;
    app.sql().await.batch_execute("vacuum analyze").await.expect("vacuumed");
    tenant.user("alice").get("/rooms").await.expect(200);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("large.ndjson");
    let idle = resident(app.pid());

    let (peak, start) = (Peak::of(app.pid()), Instant::now());
    let mut file = File::create(&path).await.expect("a file");
    let request = app.admin_request("GET", &format!("/admin/tenants/{}/export", tenant.id));
    let mut answer = request.timeout(Duration::from_mins(5)).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    while let Some(chunk) = answer.chunk().await.expect("a chunk") {
        file.write_all(&chunk).await.expect("written");
    }
    file.flush().await.expect("written");
    let (exported, out) = (peak.end(), start.elapsed());

    let (peak, start) = (Peak::of(app.pid()), Instant::now());
    let mut file = File::open(&path).await.expect("a file");
    let answer = import(&app, "tenant_01m85d2282fwpbhy8gt3navx71", &mut file).await;
    let (imported, back) = (peak.end(), start.elapsed());

    let megabytes = |bytes: u64| bytes >> 20;
    println!(
        "{} messages in {} rooms, {} MB of lines; the idle server has {} MB\n\
         export: {:.1} s, at most {} MB; import: {:.1} s, at most {} MB",
        ROOMS * MESSAGES,
        ROOMS,
        megabytes(file.metadata().await.expect("a length").len()),
        megabytes(idle),
        out.as_secs_f64(),
        megabytes(exported),
        back.as_secs_f64(),
        megabytes(imported),
    );
    assert_eq!(answer["imported"], json!({"rooms": 1000, "members": 2000, "messages": 1_000_000, "last_seen": 0}));
    assert!(exported > 0 && exported <= idle + MORE, "export: {exported} bytes, {idle} when idle");
    assert!(imported > 0 && imported <= idle + MORE, "import: {imported} bytes, {idle} when idle");
    let copy = tenant.with_key(answer["api_key"].as_str().expect("a key"));
    let rooms = copy.user("bob").get("/rooms?limit=1").await.expect(200);
    assert_eq!(rooms.each("rooms", "last_seq"), [1000]);
}
