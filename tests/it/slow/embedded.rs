//! api.md 8: the embedded database.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chatapi_tests::App;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

fn postmaster(app: &App) -> u32 {
    let file = std::fs::read_to_string(app.data_dir().join("postgres/postmaster.pid")).expect("it runs");
    file.lines().next().expect("a pid").parse().expect("a pid")
}

fn is_alive(pid: u32) -> bool {
    // A zombie is dead, whoever has still to take note of it.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

#[tokio::test]
async fn it_is_a_durable_postgresql_on_a_private_socket_that_stops_with_the_server() {
    let mut app = App::builder().embedded().start().await;
    app.tenant("t").await;
    let (pid, data) = (postmaster(&app), app.data_dir());
    let sockets = data.join("run");

    let ask = |setting: &str| {
        let output = Command::new("psql")
            .args(["-h", sockets.to_str().expect("a path"), "-U", "chatapi", "-Atc", &format!("show {setting}")])
            .output()
            .expect("psql runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let settings = ["fsync", "synchronous_commit", "full_page_writes", "listen_addresses", "data_checksums"].map(ask);
    assert_eq!(settings, ["on", "on", "on", "", "on"]);
    let mode =
        |path: &Path| std::os::unix::fs::PermissionsExt::mode(&path.metadata().expect("it is there").permissions());
    assert_eq!(mode(&sockets) & 0o777, 0o700);
    assert_eq!(mode(&data) & 0o777, 0o700);
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}")).expect("it runs"));
    assert_ne!(owner, 0, "never as root");

    assert_eq!(app.signal("TERM").await, Some(0));

    assert!(!is_alive(pid), "SIGTERM stops both");
    assert!(!data.join("postgres/postmaster.pid").exists(), "it was stopped in order");
}

#[tokio::test]
async fn a_second_signal_ends_the_server_at_once_and_the_database_soon_after() {
    let mut app = App::builder().embedded().set("SHUTDOWN_DRAIN_TIMEOUT", "60s").start().await;
    let tenant = app.tenant("t").await;
    let pid = postmaster(&app);
    // A request that does not end keeps the first signal waiting.
    let head = format!("POST /rooms HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: 9\r\n\r\n{{", tenant.key);
    let mut stream = TcpStream::connect(app.url.trim_start_matches("http://")).await.expect("it listens");
    stream.write_all(head.as_bytes()).await.expect("sent");
    sleep(Duration::from_millis(200)).await;

    Command::new("kill").args(["-TERM", &app.pid().to_string()]).status().expect("kill runs");
    app.wait_for_log("\"Stopping\"").await;
    assert_eq!(app.signal("TERM").await, Some(1));

    timeout(Duration::from_secs(20), async {
        while is_alive(pid) {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the database stops too");
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_refused() {
    let app = App::builder().embedded().start().await;

    let (code, said) = App::builder().run(Some(&app.data_dir())).await;

    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("is in use by another chatapi"), "{said}");
    assert_eq!(app.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_running_or_crashed_cluster_of_a_killed_server_is_taken_over() {
    let mut app = App::builder().embedded().start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    tenant.user("alice").say(&room, "before").await;
    let (key, running) = (tenant.key.clone(), postmaster(&app));

    app.signal("KILL").await;
    assert!(is_alive(running), "the database outlives its server");
    let mut app = app.restart().await;
    app.ready().await;
    let crashed = postmaster(&app);
    assert!(crashed != running && !is_alive(running));
    app.signal("KILL").await;
    Command::new("kill").args(["-KILL", &crashed.to_string()]).status().expect("kill runs");
    let app = app.restart().await;
    app.ready().await;

    let path = format!("/rooms/{room}/messages");
    let history = app.send("GET", &path, &[("X-API-Key", &key), ("X-User-Id", "alice")], None).await.expect(200);
    assert_eq!(history.each("messages", "content"), ["before"]);
}
