//! What we compare with: pgbench, the same statement from Rust, a bare hyper server.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chatapi_domain::{Content, MessageId, NewMessage, UserId};
use chatapi_storage::bench::{ONE, SESSION};
use chatapi_storage::{Connector, Options, Store};
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use http_body_util::Full;
use hyper::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_postgres::NoTls;

use crate::load::{Outcome, Random};
use crate::system::{System, Tenant, USERS, now, room_id};

/// The statement of the store, as a pgbench script: the same members, rooms and 100 bytes.
fn script(tenant: &Tenant, rooms: usize) -> String {
    // Ids that grow with time, as ours do: random ones would cost pgbench more.
    let id = "(lpad(to_hex((extract(epoch from clock_timestamp()) * 1000000)::bigint), 16, '0') \
              || lpad(to_hex(:salt), 16, '0'))::uuid";
    let parameters = [
        ("$8", "null".to_owned()),
        ("$7", "null".to_owned()),
        ("$6", "null".to_owned()),
        ("$5", format!("'{}'", "x".repeat(100))),
        ("$4", id.to_owned()),
        ("$3", "('user' || :user)".to_owned()),
        ("$2", "lpad(to_hex(:room), 32, '0')::uuid".to_owned()),
        ("$1", format!("'{}'::uuid", tenant.id.as_uuid())),
    ];
    let mut statement = ONE.split_whitespace().collect::<Vec<_>>().join(" ");
    for (parameter, value) in parameters {
        statement = statement.replace(parameter, &value);
    }
    format!(
        "\\set room random(1, {rooms})\n\\set user random(0, {})\n\\set salt random(0, 9000000000000000000)\n{};\n",
        USERS - 1,
        statement
            .replace(":room)", ":room::bigint)")
            .replace(":salt)", ":salt::bigint)")
            .replace(":user)", ":user::text)")
    )
}

/// Runs pgbench, prepared, with sessions set as ours are.
///
/// # Panics
///
/// If it fails.
#[must_use]
pub(crate) fn pgbench(system: &System, tenant: &Tenant, clients: usize, rooms: usize, duration: Duration) -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("message.sql");
    fs::write(&file, script(tenant, rooms)).expect("written");
    let run = |seconds: u64, log: bool| {
        let mut command = Command::new("pgbench");
        command.args(["-n", "-M", "prepared", "-c", &clients.to_string(), "-j", "1", "-T", &seconds.to_string()]);
        if log {
            command.args(["-l", "--log-prefix", "log"]);
        }
        command.arg("-f").arg(&file).args(["-U", "chatapi", "chatapi"]).current_dir(folder.path());
        command.env("PGHOST", system.cluster.socket_dir()).env("PGOPTIONS", SESSION);
        let output = command.output().expect("pgbench runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    // With many clients the first transactions take seconds.
    let duration = if clients > 64 { duration.max(Duration::from_secs(5)) } else { duration };
    run(1, false);
    run(duration.as_secs(), true);
    let mut latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("right bounds");
    for micros in logged(folder.path()) {
        latency.saturating_record(micros.max(1));
    }
    Outcome { good: latency.len(), bad: 0, elapsed: duration, latency }
}

/// The latencies in pgbench's log: the third number of each line.
fn logged(folder: &Path) -> Vec<u64> {
    let logs = fs::read_dir(folder).expect("readable").flatten().map(|entry| entry.path());
    let logs = logs.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log.")));
    let texts = logs.map(|path| fs::read_to_string(path).expect("readable"));
    let numbers =
        |text: String| -> Vec<u64> { text.lines().filter_map(|line| line.split(' ').nth(2)?.parse().ok()).collect() };
    texts.flat_map(numbers).collect()
}

/// The same statement from Rust, one a message, over a connection for each client.
///
/// # Panics
///
/// If the database fails.
pub(crate) async fn statements(
    system: &System,
    tenant: &Tenant,
    clients: usize,
    rooms: usize,
    duration: Duration,
) -> Outcome {
    let end = Instant::now() + duration;
    let client = |number: usize| async move {
        let mut config: tokio_postgres::Config = system.cluster.url().parse().expect("our own URL");
        config.options(SESSION);
        let (client, connection) = config.connect(NoTls).await.expect("a connection");
        #[expect(clippy::disallowed_methods, reason = "ends with the client")]
        tokio::spawn(connection);
        let statement = client.prepare(ONE).await.expect("prepared");
        let mut random = Random::new(number as u64 + 1);
        let mut latencies = Vec::new();
        let none: Option<&str> = None;
        while Instant::now() < end {
            let new = message(&mut random, rooms);
            let start = Instant::now();
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 8] = [
                tenant.id.as_uuid(),
                new.room_id.as_uuid(),
                &new.sender_id.as_str(),
                new.message_id.as_uuid(),
                &new.content.as_str(),
                &none,
                &none,
                &None::<uuid::Uuid>,
            ];
            client.query_one(&statement, &parameters).await.expect("stored");
            latencies.push(start.elapsed());
        }
        latencies
    };
    gather(join_all((0..clients).map(client)).await, duration)
}

/// The store's own way, in this process: no HTTP on either side.
///
/// # Panics
///
/// If the database fails.
pub(crate) async fn store(
    system: &System,
    tenant: &Tenant,
    clients: usize,
    rooms: usize,
    duration: Duration,
) -> Outcome {
    let connector = Connector::parse(&system.cluster.url()).expect("our own URL");
    // Beside the server, which is a node already: with a second one each message would be told too.
    let store = Store::connect_beside(connector, Options::default()).expect("a store");
    let end = Instant::now() + duration;
    let client = |number: usize| {
        let store = store.clone();
        async move {
            let mut random = Random::new(number as u64 + 1);
            let mut latencies = Vec::new();
            while Instant::now() < end {
                let new = message(&mut random, rooms);
                let start = Instant::now();
                store.tenant(tenant.id).messages().append(new).await.expect("stored");
                latencies.push(start.elapsed());
            }
            latencies
        }
    };
    let latencies = join_all((0..clients).map(client)).await;
    store.close().await;
    gather(latencies, duration)
}

fn message(random: &mut Random, rooms: usize) -> NewMessage {
    NewMessage {
        message_id: MessageId::new(now()),
        room_id: room_id(random.below(rooms) + 1),
        sender_id: UserId::parse("user", format!("user{}", random.below(USERS))).expect("a user id"),
        content: Content::parse("x".repeat(100), 200).expect("content"),
        meta: None,
        client_message_id: None,
        reply_to: None,
    }
}

fn gather(latencies: Vec<Vec<Duration>>, elapsed: Duration) -> Outcome {
    let mut latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("right bounds");
    for one in latencies.into_iter().flatten() {
        latency.saturating_record(u64::try_from(one.as_micros()).unwrap_or(u64::MAX).max(1));
    }
    Outcome { good: latency.len(), bad: 0, elapsed, latency }
}

/// A hyper server that answers the same bytes whatever it is asked: what no server on hyper can
/// be faster than.
///
/// # Panics
///
/// If it has no port.
pub(crate) async fn bare(body: Bytes) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let body = Arc::new(body);
    #[expect(clippy::disallowed_methods, reason = "ends with the program")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let body = body.clone();
            let service = service_fn(move |_| {
                let body = Bytes::clone(&body);
                async move {
                    let response = Response::builder().header("content-type", "application/json");
                    Ok::<_, Infallible>(response.body(Full::new(body)).expect("an answer"))
                }
            });
            tokio::spawn(async move {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}
