//! What breaks, stands still or goes on beside others.

use std::time::Duration;

use chatapi_tests::{App, MASTER_KEY};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::{fill, rows_but_of};

/// Begins an import that has no end yet, and sends this of it.
async fn begin(app: &App, tenant: &str, file: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(app.url.trim_start_matches("http://")).await.expect("it listens");
    let head = format!(
        "POST /admin/tenants/import?tenant_id={tenant} HTTP/1.1\r\nHost: x\r\nX-Master-Key: {MASTER_KEY}\r\n\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        file.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(file).await.expect("sent");
    stream.write_all(b"\r\n").await.expect("sent");
    stream
}

#[tokio::test]
async fn a_client_killed_in_the_middle_leaves_nothing_and_keeps_nobody_waiting() {
    let app = App::start().await;
    let (large, other) = (app.tenant("large").await, app.tenant("other").await);
    fill(&app, "large", 20, 1000).await;
    let room = other.room("group", &["alice"]).await;
    let file = app.export(&large.id).await;
    let (first, second) = ("tenant_01m85d2282fwpbhy8gt3navx71", "tenant_01m85d2282fwpbhy8gt3navx72");

    // Most of it is in the tables, but for the commit.
    let mut importing = vec![begin(&app, first, &file[..file.len() - 100]).await];
    importing.push(begin(&app, second, &file[..file.len() - 100]).await);
    let sql = app.sql().await;
    let at_work = "select count(*) from pg_stat_activity where datname = current_database()
                     and state = 'idle in transaction' and query like '%copy messages%'";
    let start = Instant::now();
    while sql.query_one(at_work, &[]).await.expect("asked").get::<_, i64>(0) < 2 {
        assert!(start.elapsed() < Duration::from_secs(30));
        sleep(Duration::from_millis(10)).await;
    }
    for n in 1..=20 {
        assert_eq!(other.user("alice").say(&room, "on").await["seq"], n);
    }
    app.admin("GET", &format!("/admin/tenants/{first}"), None).await.expect(404);
    assert_eq!(rows_but_of(&app, &[&large, &other]).await, 0);
    let third = app.import("?tenant_id=tenant_01m85d2282fwpbhy8gt3navx73", file.clone()).await.expect(503);
    assert_eq!((third.body["error"].as_str(), third.header("retry-after")), (Some("unavailable"), "1"));
    drop(importing);

    let start = Instant::now();
    let imported = loop {
        let answer = app.import(&format!("?tenant_id={first}"), file.clone()).await;
        if answer.status == 201 {
            break answer;
        }
        assert!([409, 503].contains(&answer.status) && start.elapsed() < Duration::from_secs(30), "{}", answer.text);
        sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(imported.body["imported"]["messages"], 20_000);
    let copy = large.with_key(&imported.text_of("api_key"));
    assert_eq!(rows_but_of(&app, &[&large, &other, &copy]).await, 0);
}

#[tokio::test]
async fn an_export_that_breaks_has_no_clean_end_and_one_that_nobody_reads_makes_room() {
    let app = App::start().await;
    let tenant = app.tenant("large").await;
    fill(&app, "large", 50, 2000).await;
    let path = format!("/admin/tenants/{}/export", tenant.id);
    let at_work = "select pid from pg_stat_activity where datname = current_database()
                      and pid <> pg_backend_pid() and state = 'idle in transaction' and query like '%from messages%'";
    let sql = app.sql().await;
    let backends = async || sql.query(at_work, &[]).await.expect("asked");

    // The database goes in the middle of it.
    let mut answer = app.admin_request("GET", &path).send().await.expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"application/x-ndjson".parse().expect("a header"))
    );
    let mut read = answer.chunk().await.expect("a chunk").expect("a chunk").to_vec();
    let end = format!("select pg_terminate_backend(pid) from ({at_work}) t");
    let ended = async {
        // As long as it fetches it is not idle; but nobody reads on.
        while sql.query(&end, &[]).await.expect("asked").is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), ended).await.expect("the reader stands still");
    let broken = loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => read.extend(chunk),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(broken, "{} bytes and a clean end", read.len());
    assert!(!String::from_utf8_lossy(&read).contains("sha256"));
    app.wait_for_log("An export ended before its end").await;

    // Two that stand still are all there can be; when their readers go, so do they.
    let unread = [app.admin_request("GET", &path).send().await, app.admin_request("GET", &path).send().await];
    app.admin("GET", &path, None).await.expect(503);
    assert!(unread.iter().all(Result::is_ok));
    drop(unread);
    let free = async {
        while !backends().await.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), free).await.expect("their transactions end");
    let whole = app.export(&tenant.id).await;
    assert_eq!(whole.split_inclusive(|byte| *byte == b'\n').count(), 1 + 50 + 100 + 100_000 + 1);
}

#[tokio::test]
async fn an_export_while_many_send_is_of_one_moment() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let (one, two) = (tenant.room("group", &["alice"]).await, tenant.room("group", &["alice"]).await);
    let done = std::sync::atomic::AtomicBool::new(false);
    let sending = |room: String| {
        let (alice, done) = (tenant.user("alice"), &done);
        async move {
            let mut sent = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                alice.say(&room, &sent.to_string()).await;
                sent += 1;
            }
            sent
        }
    };
    let exporting = async {
        let mut files = Vec::new();
        for _ in 0..5 {
            sleep(Duration::from_millis(200)).await;
            files.push(app.export(&tenant.id).await);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        files
    };

    let (a, b, files) = tokio::join!(sending(one.clone()), sending(two), exporting);

    let mut before = 0;
    for (n, file) in files.into_iter().enumerate() {
        let imported = app.import(&format!("?tenant_id=tenant_01m85d2282fwpbhy8gt3navx7{n}"), file).await.expect(201);
        let messages = imported.body["imported"]["messages"].as_i64().expect("a number");
        assert!(messages > before && messages <= a + b, "{messages} after {before}, of {}", a + b);
        before = messages;
        let copy = tenant.with_key(&imported.text_of("api_key"));
        let room = copy.user("alice").get(&format!("/rooms/{one}")).await.expect(200).body;
        let newest = copy.user("alice").get(&format!("/rooms/{one}/messages?order=desc&limit=1")).await.expect(200);
        assert_eq!(newest.each("messages", "seq"), [room["last_seq"].clone()]);
    }
}

#[tokio::test]
async fn a_server_that_stops_ends_what_stands_still() {
    let mut app = App::builder().set("SHUTDOWN_DRAIN_TIMEOUT", "1s").start().await;
    app.tenant("large").await;
    fill(&app, "large", 20, 2000).await;
    let list = app.admin("GET", "/admin/tenants", None).await.expect(200);
    let id = list.each("tenants", "tenant_id")[0].as_str().expect("an id").to_owned();
    let file = app.export(&id).await;
    let mut unread = app.admin_request("GET", &format!("/admin/tenants/{id}/export")).send().await.expect("an answer");
    let mut unfinished = begin(&app, "tenant_01m85d2282fwpbhy8gt3navx71", &file[..file.len() / 2]).await;

    assert_eq!(app.signal("TERM").await, Some(0));

    let mut read = Vec::new();
    let has_clean_end = loop {
        match unread.chunk().await {
            Ok(Some(chunk)) => read.extend(chunk),
            end => break end.is_ok(),
        }
    };
    assert!(!has_clean_end || read == file, "{} bytes of {} and a clean end", read.len(), file.len());
    let mut rest = Vec::new();
    let _ = unfinished.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP/1.1 201"));
}
