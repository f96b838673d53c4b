//! A message that was acknowledged is never lost and never doubled, whatever is killed.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chatapi_tests::App;
use futures_util::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::time::sleep;

const SENDERS: usize = 32;

/// What the senders of a run were told.
#[derive(Default)]
struct Told {
    /// Content and seq of every message whose `201` arrived.
    stored: Vec<(String, i64)>,
    /// Other answers, with their `Retry-After`.
    refused: Vec<(u16, bool)>,
}

/// Lets 32 senders write until `stop`.
async fn write(url: &str, key: &str, rooms: &[String], stop: &Arc<AtomicBool>) -> Told {
    let sender = |n: usize| {
        let (client, stop) = (Client::new(), stop.clone());
        let path = format!("{url}/rooms/{}/messages", rooms[n % rooms.len()]);
        async move {
            let mut told = Told::default();
            for count in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let content = format!("{n}/{count}");
                let request = client.post(&path).header("X-API-Key", key).header("X-User-Id", "alice");
                let Ok(answer) = request.json(&json!({ "content": content })).send().await else {
                    sleep(Duration::from_millis(20)).await;
                    continue;
                };
                let (status, retry) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
                match answer.json::<Value>().await {
                    Ok(body) if status == 201 => told.stored.push((content, body["seq"].as_i64().expect("a seq"))),
                    Ok(_) => {
                        told.refused.push((status, retry));
                        sleep(Duration::from_millis(20)).await;
                    }
                    Err(_) => {}
                }
            }
            told
        }
    };
    let mut all = Told::default();
    for told in join_all((0..SENDERS).map(sender)).await {
        all.stored.extend(told.stored);
        all.refused.extend(told.refused);
    }
    all
}

/// Fails unless every message that was acknowledged is there exactly once, under its seq, and
/// the numbers of each room have no gap.
async fn check(app: &App, key: &str, rooms: &[String], told: &Told) {
    let mut found: HashMap<String, i64> = HashMap::new();
    for room in rooms {
        let mut last = 0;
        loop {
            let path = format!("/rooms/{room}/messages?limit=100&after_seq={last}");
            let page = app.send("GET", &path, &[("X-API-Key", key), ("X-User-Id", "alice")], None).await.expect(200);
            for (seq, content) in page.each("messages", "seq").iter().zip(page.each("messages", "content")) {
                assert_eq!(seq.as_i64(), Some(last + 1), "no gap");
                last += 1;
                let twice = found.insert(content.as_str().expect("a text").to_owned(), last);
                assert_eq!(twice, None, "{content} is there twice");
            }
            if page.body["has_more"] == false {
                break;
            }
        }
    }
    assert!(told.stored.len() > 100, "the senders were at work: {}", told.stored.len());
    for (content, seq) in &told.stored {
        assert_eq!(found.get(content), Some(seq), "{content} was acknowledged");
    }
}

async fn rooms(app: &App) -> (String, Vec<String>) {
    let tenant = app.tenant("t").await;
    let mut rooms = Vec::new();
    for _ in 0..4 {
        rooms.push(tenant.room("group", &["alice"]).await);
    }
    (tenant.key.clone(), rooms)
}

#[tokio::test]
async fn killing_the_server_under_load_loses_and_doubles_nothing() {
    let mut app = App::builder().embedded().start().await;
    let (key, rooms) = rooms(&app).await;
    let (url, stop) = (app.url.clone(), Arc::new(AtomicBool::new(false)));

    let killing = async {
        sleep(Duration::from_secs(2)).await;
        app.signal("KILL").await;
        stop.store(true, Ordering::Relaxed);
    };
    let (told, ()) = tokio::join!(write(&url, &key, &rooms, &stop), killing);
    let app = app.restart().await;
    app.ready().await;

    check(&app, &key, &rooms, &told).await;
}

#[tokio::test]
async fn killing_the_database_under_load_loses_nothing_and_needs_no_restart() {
    let app = App::builder().embedded().start().await;
    let (key, rooms) = rooms(&app).await;
    let stop = Arc::new(AtomicBool::new(false));

    let killing = async {
        sleep(Duration::from_secs(2)).await;
        let file = std::fs::read_to_string(app.data_dir().join("postgres/postmaster.pid")).expect("it runs");
        let pid = file.lines().next().expect("a pid");
        Command::new("kill").args(["-KILL", pid]).status().expect("kill runs");
        app.wait_for_log("PostgreSQL runs again").await;
        app.ready().await;
        sleep(Duration::from_secs(1)).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (told, ()) = tokio::join!(write(&app.url, &key, &rooms, &stop), killing);

    assert!(told.refused.iter().all(|refused| *refused == (503, true)), "{:?}", told.refused);
    assert!(!told.refused.is_empty(), "the database was away");
    check(&app, &key, &rooms, &told).await;
    let (path, headers) = (format!("/rooms/{}/messages", rooms[0]), [("X-API-Key", &*key), ("X-User-Id", "alice")]);
    let after = app.send("POST", &path, &headers, Some(json!({"content": "after"}))).await;
    assert_eq!(after.status, 201, "service again, without a restart");
}
