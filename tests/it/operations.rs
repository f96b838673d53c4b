//! api.md 8: health, metrics, configuration, shutdown.

use std::time::Duration;

use chatapi_testkit::Database;
use chatapi_tests::App;
use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

#[tokio::test]
async fn health_tells_what_the_guide_shows() {
    let app = App::start().await;

    let health = app.get("/health").await.expect(200);

    assert_eq!((&health.body["status"], &health.body["service"]), (&json!("ok"), &json!("chatapi")));
    assert_eq!(health.body["db_writable"], true);
    assert!(health.text_of("uptime").ends_with('s'));
    assert_eq!(health.text_of("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!((app.get("/livez").await.status, app.get("/readyz").await.status), (200, 200));
}

#[tokio::test]
async fn a_database_that_cannot_be_written_is_noticed() {
    let app = App::start().await;
    app.sql().await.batch_execute("alter table health rename to hidden").await.expect("renamed");
    sleep(Duration::from_millis(1100)).await;

    let health = app.get("/health").await.expect(503);

    assert_eq!((&health.body["status"], &health.body["db_writable"]), (&json!("error"), &json!(false)));
    assert_eq!((app.get("/readyz").await.status, app.get("/livez").await.status), (503, 200));
}

#[tokio::test]
async fn metrics_count_by_route_and_want_their_token() {
    let app = App::builder().set("METRICS_TOKEN", "let-me-count").start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    tenant.user("alice").say(&room, "x").await;

    assert_eq!(app.get("/metrics").await.status, 401);
    assert_eq!(app.send("GET", "/metrics", &[("Authorization", "Bearer wrong")], None).await.status, 401);
    let text = app.send("GET", "/metrics", &[("Authorization", "Bearer let-me-count")], None).await.expect(200).text;
    for line in [
        r#"chatapi_http_requests_total{route="/rooms/{room_id}/messages",method="POST",status="201"} 1"#,
        r#"chatapi_http_request_duration_seconds_count{route="/rooms",method="POST"} 1"#,
        "chatapi_messages_sent_total 1",
        // A message that has the writer to itself goes directly, not in a batch.
        "chatapi_message_batches_total 0",
        "chatapi_message_queue 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let headers = [("Authorization", "Bearer let-me-count"), ("Accept", "application/json")];
    let json = app.send("GET", "/metrics", &headers, None).await.expect(200);
    assert_eq!(json.body["messages_sent"], 1);
    for field in ["active_connections", "delivery_attempts", "delivery_failures", "broadcast_drops", "uptime_seconds"] {
        assert!(json.body[field].is_number(), "{field}");
    }
}

#[tokio::test]
async fn all_errors_of_the_configuration_are_listed_at_once() {
    let wrong = App::builder().unset("MASTER_API_KEY").set("LISTEN_ADDR", "nowhere").set("LOG_LEVEL", "loud");

    let (code, said) = wrong.set("DATABASE_URL", "mysql://u:sesame@x/y").run(None).await;

    assert_eq!(code, Some(2), "{said}");
    for name in ["MASTER_API_KEY: is required", "LISTEN_ADDR: ", "LOG_LEVEL: ", "DATABASE_URL: "] {
        assert!(said.contains(name), "{said}");
    }
    assert!(!said.contains("sesame"));
}

#[tokio::test]
async fn missing_programs_and_a_taken_port_are_said_with_what_to_do() {
    let (code, said) = App::builder().set("PG_BIN_DIR", "/nonexistent").run(None).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("apt-get install postgresql") && said.contains("PG_BIN_DIR"), "{said}");

    let app = App::start().await;
    let taken = app.url.trim_start_matches("http://");
    let (code, said) = App::builder().set("LISTEN_ADDR", taken).run(None).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("LISTEN_ADDR") && said.contains("in use"), "{said}");
}

#[tokio::test]
async fn a_short_master_key_is_warned_about_and_never_shown() {
    let app = App::builder().set("MASTER_API_KEY", "short-key").start().await;

    let line = app.wait_for_log("fewer than 32 characters").await;

    assert_eq!(line["level"], "warn");
    assert!(app.logged("short-key").is_empty());
    assert_eq!(app.send("GET", "/admin/tenants", &[("X-Master-Key", "short-key")], None).await.status, 200);
}

#[tokio::test]
async fn nodes_that_start_together_migrate_an_empty_database_once() {
    let database = Database::new().await;
    let sql = database.client().await;
    sql.batch_execute("drop schema public cascade; create schema public").await.expect("emptied");

    let start = || App::builder().set("DATABASE_URL", database.url()).start();
    let apps = join_all((0..4).map(|_| start())).await;

    for app in &apps {
        assert_eq!(app.admin("GET", "/admin/tenants", None).await.status, 200);
    }
    let applied = apps.iter().map(|app| app.logged("Migrated the database").len()).filter(|lines| *lines > 0).count();
    assert_eq!(applied, 1, "one of them did it");
}

#[tokio::test]
async fn a_request_in_flight_is_answered_before_the_server_stops() {
    let mut app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    let head = format!(
        "POST /rooms/{room}/messages HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nX-User-Id: alice\r\nContent-Length: 16\r\n\r\n",
        tenant.key
    );
    let mut stream = TcpStream::connect(app.url.trim_start_matches("http://")).await.expect("it listens");
    let mut idle = TcpStream::connect(app.url.trim_start_matches("http://")).await.expect("it listens");
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(b"{\"content\"").await.expect("sent");
    sleep(Duration::from_millis(200)).await;

    let stopping = app.signal("TERM");
    let finishing = async {
        assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0, "an idle connection is closed");
        stream.write_all(b": \"x\"}").await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    };
    let (code, answer) = tokio::join!(stopping, finishing);

    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn a_request_that_does_not_end_is_dropped_after_the_drain_and_a_second_signal_ends_at_once() {
    for (drain, signals, expected) in [("300ms", 1, Some(0)), ("60s", 2, Some(1))] {
        let mut app = App::builder().set("SHUTDOWN_DRAIN_TIMEOUT", drain).start().await;
        let tenant = app.tenant("t").await;
        let head =
            format!("POST /rooms HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: 9\r\n\r\n{{", tenant.key);
        let mut stream = TcpStream::connect(app.url.trim_start_matches("http://")).await.expect("it listens");
        stream.write_all(head.as_bytes()).await.expect("sent");
        sleep(Duration::from_millis(200)).await;

        let pid = app.pid().to_string();
        for _ in 1..signals {
            std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
            app.wait_for_log("\"Stopping\"").await;
        }
        assert_eq!(app.signal("INT").await, expected, "{drain}");
    }
}

#[tokio::test]
async fn a_database_that_is_away_at_the_start_is_waited_for() {
    let database = Database::new().await;
    let (server, url) = database.cutter().await;
    server.cut();
    let app = tokio::join!(App::builder().set("DATABASE_URL", &url).start(), async {
        sleep(Duration::from_millis(1500)).await;
        server.mend();
    })
    .0;

    assert!(!app.logged("Waiting for the database").is_empty());
    assert_eq!(app.admin("GET", "/admin/tenants", None).await.status, 200);
    server.cut();
    sleep(Duration::from_millis(1100)).await;
    let away = app.admin("GET", "/admin/tenants", None).await;
    assert_eq!((away.status, away.header("retry-after"), away.body["error"].as_str()), (503, "1", Some("unavailable")));
    assert_eq!(app.get("/readyz").await.status, 503);
    server.mend();
    app.ready().await;
    assert_eq!(app.admin("GET", "/admin/tenants", None).await.status, 200);
}
