//! api.md 8: the command line. What it does, what it refuses and with which exit code, what a
//! script reads, what the audit log says, and that running servers know within a second.

mod database;
mod keys;
mod program;
mod tenants;
mod transfer;

use std::time::Duration;

use chatapi_tests::{App, Socket};
use serde_json::Value;
use tokio::time::{Instant, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// An id that no server made.
const NOBODY: &str = "tenant_01m85d2282fwpbhy8gt3navx71";

/// A server and another on the same database.
async fn two_nodes() -> (App, App) {
    let one = App::start().await;
    let two = one.second_node().await;
    two.ready().await;
    (one, two)
}

/// What the command line left in the audit log, the oldest first: action, target, outcome.
async fn audited(app: &App) -> Vec<[String; 3]> {
    let log = app.admin("GET", "/admin/audit-log?limit=100", None).await.expect(200);
    let entries = log.body["entries"].as_array().expect("entries").iter().rev();
    let ours = entries.filter(|entry| entry["actor"] == "command-line");
    let mut requests = Vec::new();
    let rows = ours.map(|entry| {
        assert_eq!(entry["address"], "-");
        let request = entry["request_id"].as_str().expect("an id").to_owned();
        assert!(request.starts_with("req_") && !requests.contains(&request), "{request}");
        requests.push(request);
        ["action", "target", "outcome"].map(|field| entry[field].as_str().unwrap_or("-").to_owned())
    });
    rows.collect()
}

/// Fails unless this key is answered with this status by these servers within a second.
async fn answers(apps: &[&App], key: &str, status: u16) {
    let start = Instant::now();
    for app in apps {
        while app.send("GET", "/tenant", &[("X-API-Key", key)], None).await.status != status {
            assert!(start.elapsed() < SECOND, "not {status} within a second");
        }
    }
}

/// The code a socket is closed with within a second.
async fn closes(socket: &mut Socket) -> u16 {
    timeout(SECOND, socket.closed()).await.expect("closed within a second").0
}

/// A text of a JSON object.
fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("no text {field} in {value}")).to_owned()
}
