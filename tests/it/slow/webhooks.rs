//! What was acknowledged is told, though the server is killed while it tells.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chatapi_testkit::{Behaviour, Receiver};
use chatapi_tests::App;
use futures_util::future::join_all;
use reqwest::Client;
use serde_json::json;
use tokio::time::{Instant, sleep};

/// Says as much as it can until `stop`; what was acknowledged.
async fn write(url: &str, key: &str, room: &str, name: &str, stop: &AtomicBool) -> Vec<String> {
    let (client, mut acknowledged) = (Client::new(), Vec::new());
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let content = format!("{name}.{count}");
        let request = client.post(format!("{url}/rooms/{room}/messages")).header("X-API-Key", key);
        let sent = request.header("X-User-Id", "alice").json(&json!({ "content": content })).send().await;
        if sent.is_ok_and(|answer| answer.status() == 201) {
            acknowledged.push(content);
        }
        sleep(Duration::from_millis(5)).await;
    }
    acknowledged
}

#[tokio::test]
async fn every_acknowledged_message_is_told_though_the_server_is_killed_meanwhile() {
    const ROUNDS: usize = 3;
    let receiver = Receiver::start().await;
    let mut app = App::builder().set("WEBHOOK_ALLOW_PRIVATE", "true").start().await;
    let config = json!({"webhook_url": receiver.url(), "webhook_events": ["message.sent"]});
    let tenant = app.tenant_with("t", config).await;
    let (key, room) = (tenant.key.clone(), tenant.room("group", &["alice"]).await);

    let mut acknowledged = HashSet::new();
    for round in 0..ROUNDS {
        let stop = AtomicBool::new(false);
        let url = app.url.clone();
        let names: Vec<String> = (0..8).map(|n| format!("{round}.{n}")).collect();
        let writing = join_all(names.iter().map(|name| write(&url, &key, &room, name, &stop)));
        let killing = async {
            sleep(Duration::from_secs(1)).await;
            app.signal("KILL").await;
            stop.store(true, Ordering::Relaxed);
        };
        let (written, ()) = tokio::join!(writing, killing);
        acknowledged.extend(written.into_iter().flatten());
        app = app.restart().await;
        app.ready().await;
    }
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());

    let (mut told, mut calls) = (HashSet::new(), 0);
    let mut ids = BTreeSet::new();
    // A lease of half a minute may have to end first.
    while !acknowledged.is_subset(&told) {
        let call = receiver.within(Duration::from_secs(45)).await.expect("all are told");
        told.insert(call.body["message"]["content"].as_str().expect("a text").to_owned());
        ids.insert(call.header("webhook-id"));
        calls += 1;
    }
    // What was told is there, and little of it was told twice: what was under way at a kill.
    let sql = app.sql().await;
    for content in &told {
        let found = sql.query("select from messages where content = $1", &[content]).await.expect("asked");
        assert_eq!(found.len(), 1, "{content}");
    }
    assert_eq!(ids.len(), told.len(), "the same again has the same id");
    assert!(calls - told.len() <= 16 * ROUNDS, "{calls} calls for {} messages", told.len());
}

#[tokio::test]
async fn those_whose_node_was_killed_are_told_before_anybody_else_knows() {
    let receiver = Receiver::start().await;
    let one = App::builder().set("WEBHOOK_ALLOW_PRIVATE", "true").start().await;
    let mut two = one.second_node().await;
    two.ready().await;
    let tenant = one.tenant_with("t", json!({"webhook_url": receiver.url()})).await;
    let room = tenant.room("dm", &["alice", "bob"]).await;
    let _socket = tenant.through(&two).user("bob").socket().await;
    loop {
        tenant.user("alice").say(&room, "are you there?").await;
        if receiver.within(Duration::from_millis(400)).await.is_none() {
            break;
        }
    }

    let start = Instant::now();
    two.signal("KILL").await;
    let told = loop {
        tenant.user("alice").say(&room, "are you still there?").await;
        if let Some(call) = receiver.within(Duration::from_millis(400)).await {
            break call;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    };

    assert_eq!(told.body["recipient_id"], "bob");
    let presence = tenant.backend().get("/presence?user_ids=bob").await.expect(200);
    assert!(presence.text.contains("online"), "the node is not buried yet: {}", presence.text);
}

#[tokio::test]
async fn who_is_told_is_settled_though_nothing_can_be_told() {
    let (app, receiver) = (App::builder().set("WEBHOOK_ALLOW_PRIVATE", "true").start().await, Receiver::start().await);
    let tenant = app.tenant_with("t", json!({"webhook_url": receiver.url()})).await;
    let room = tenant.room("dm", &["alice", "bob"]).await;
    receiver.behave(Behaviour::Hang);
    for n in 0..60 {
        tenant.user("alice").say(&room, &n.to_string()).await;
    }

    let (sql, start) = (app.sql().await, Instant::now());
    while sql.query_one("select count(*) from deliveries", &[]).await.expect("counted").get::<_, i64>(0) < 60 {
        assert!(start.elapsed() < Duration::from_secs(5), "while the first calls hang");
        sleep(Duration::from_millis(50)).await;
    }
    let _bob = tenant.user("bob").socket().await;
    receiver.behave(Behaviour::Answer(200));
    sql.execute("update deliveries set due_at = now()", &[]).await.expect("again at once");

    let mut told = BTreeSet::new();
    while told.len() < 60 {
        told.insert(receiver.next().await.body["message"]["content"].to_string());
    }
}
