//! Webhooks: a tenant's endpoint is told what it asked for, signed, and at least once.

mod attempts;
mod endpoint;

use std::collections::BTreeSet;
use std::time::Duration;

use chatapi_testkit::{Call, Receiver};
use chatapi_tests::{Answer, App, Builder, Tenant};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// A server whose tenants' endpoints may be on this machine.
fn server() -> Builder {
    App::builder().set("WEBHOOK_ALLOW_PRIVATE", "true")
}

/// Asks until it comes out right.
async fn until<F: Future<Output = Answer>>(what: &str, ask: impl Fn() -> F, right: impl Fn(&Answer) -> bool) -> Answer {
    let start = Instant::now();
    loop {
        let answer = ask().await;
        if right(&answer) {
            return answer;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: {} {}", answer.status, answer.text);
        sleep(Duration::from_millis(20)).await;
    }
}

/// A tenant that wants to be told of every message.
async fn tenant_of<'a>(app: &'a App, receiver: &Receiver) -> Tenant<'a> {
    app.tenant_with("t", json!({"webhook_url": receiver.url(), "webhook_events": ["message.sent"]})).await
}

#[tokio::test]
async fn a_new_message_is_told_for_those_who_are_offline() {
    let (app, receiver) = (server().start().await, Receiver::start().await);
    let tenant = app.tenant_with("t", json!({"webhook_url": receiver.url()})).await;
    let body = json!({"type": "group", "members": ["alice", "bob", "carl"], "metadata": {"topic": 7}});
    let room = tenant.user("alice").post("/rooms", body).await.expect(201).text_of("room_id");
    let (_bob, of_carl) = (tenant.user("bob").socket().await, tenant.user("carl").socket().await);
    let online = || async { tenant.backend().get("/presence?user_ids=bob,carl").await };
    let both = |answer: &Answer| answer.text.matches("online").count() == 2;
    until("online", online, both).await;

    tenant.user("alice").say(&room, "all are here").await;
    // Who goes within 0.4 s is told, too.
    assert!(receiver.within(Duration::from_millis(900)).await.is_none());
    drop(of_carl);
    until("offline", online, |answer| answer.text.contains("offline")).await;
    let sent = tenant.user("alice").say(&room, "to carl alone").await;
    let call = receiver.next().await;

    let message = &call.body["message"];
    assert_eq!(message["content"], "to carl alone", "nobody was told of the first: all were online");
    for field in ["message_id", "room_id", "sender_id", "seq", "created_at", "meta", "edited_at"] {
        assert_eq!(message[field], sent[field], "{field}");
    }
    let expected = json!({"event": "message.new", "tenant_id": tenant.id, "room_id": room, "recipient_id": "carl",
        "recipient_ids": ["carl"], "room_metadata": {"topic": 7}});
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(call.body[field], *value, "{field}");
    }
    assert_eq!(call.header("content-type"), "application/json");
    assert_eq!(call.header("webhook-signature"), "", "there is no secret yet");
    tenant.user("carl").say(&room, "bob is online").await;
    let call = receiver.next().await;
    assert_eq!(call.body["recipient_ids"], json!(["alice"]), "who sends over REST is not online for that");
}

#[tokio::test]
async fn one_who_has_just_gone_is_told_though_presence_waits_for_him() {
    let (app, receiver) = (server().start().await, Receiver::start().await);
    let tenant = app.tenant_with("t", json!({"webhook_url": receiver.url()})).await;
    let room = tenant.room("dm", &["alice", "bob"]).await;
    let socket = tenant.user("bob").socket().await;
    let online = || async { tenant.backend().get("/presence?user_ids=bob").await };
    until("online", online, |answer| answer.text.contains("online")).await;
    // Until nobody is told, and until somebody is.
    let say_until = async |told: bool| loop {
        tenant.user("alice").say(&room, "are you there?").await;
        if receiver.within(Duration::from_millis(400)).await.is_some() == told {
            break;
        }
    };
    say_until(false).await;

    // The first message after it is told already.
    let start = Instant::now();
    drop(socket);
    tenant.user("alice").say(&room, "gone").await;
    assert_eq!(receiver.next().await.body["message"]["content"], "gone");
    assert!(online().await.text.contains("online") && start.elapsed() < Duration::from_secs(4));
    let _back = tenant.user("bob").socket().await;
    say_until(false).await;

    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_tenant_without_presence_has_everybody_told() {
    let (app, receiver) = (server().start().await, Receiver::start().await);
    let config = json!({"webhook_url": receiver.url(), "presence": false,
        "webhook_events": ["message.new", "presence.online"]});
    let tenant = app.tenant_with("t", config).await;
    let room = tenant.room("group", &["alice", "bob", "carl"]).await;
    let mut bob = tenant.user("bob").socket().await;

    tenant.user("alice").say(&room, "to all").await;

    assert_eq!(bob.next_of("message").await["content"], "to all");
    let told = receiver.next().await;
    assert_eq!((&told.body["event"], &told.body["recipient_ids"]), (&json!("message.new"), &json!(["bob", "carl"])));
}

#[tokio::test]
async fn an_endpoint_is_told_of_the_events_it_wants_and_of_no_other() {
    let (app, receiver) = (server().start().await, Receiver::start().await);
    let all = [
        "message.sent",
        "message.edited",
        "message.deleted",
        "room.created",
        "room.updated",
        "room.deleted",
        "member.added",
        "member.removed",
        "presence.online",
        "presence.offline",
    ];
    let tenant = app.tenant_with("t", json!({"webhook_url": receiver.url(), "webhook_events": all})).await;
    let (alice, mut told) = (tenant.user("alice"), Vec::new());

    let room = tenant.room("channel", &["alice", "bob"]).await;
    told.push(receiver.next().await);
    let message = alice.say(&room, "hello").await;
    told.push(receiver.next().await);
    let path = format!("/rooms/{room}/messages/{}", message["message_id"].as_str().expect("an id"));
    alice.put(&path, json!({"content": "hello!"})).await.expect(200);
    told.push(receiver.next().await);
    alice.delete(&path).await.expect(204);
    told.push(receiver.next().await);
    alice.patch(&format!("/rooms/{room}"), json!({"name": "new"})).await.expect(200);
    told.push(receiver.next().await);
    alice.post(&format!("/rooms/{room}/members"), json!({"user_ids": ["bob", "carl", "dora"]})).await.expect(200);
    told.push(receiver.next().await);
    tenant.user("erin").post(&format!("/rooms/{room}/join"), json!({})).await.expect(200);
    told.push(receiver.next().await);
    alice.delete(&format!("/rooms/{room}/members/carl")).await.expect(204);
    told.push(receiver.next().await);
    let socket = tenant.user("bob").socket().await;
    told.push(receiver.next().await);
    drop(socket);
    told.push(receiver.next().await);
    alice.delete(&format!("/rooms/{room}")).await.expect(204);
    told.push(receiver.next().await);

    let part = |call: &Call, fields: &[&str]| -> Value {
        fields
            .iter()
            .map(|field| ((*field).to_owned(), call.body[*field].clone()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let events: Vec<&str> = told.iter().map(|call| call.body["event"].as_str().expect("an event")).collect();
    assert_eq!(
        events,
        [
            "room.created",
            "message.sent",
            "message.edited",
            "message.deleted",
            "room.updated",
            "member.added",
            "member.added",
            "member.removed",
            "presence.online",
            "presence.offline",
            "room.deleted",
        ]
    );
    assert_eq!(told[0].body["room"]["member_count"], 2);
    assert_eq!(told[1].body["message"]["content"], "hello");
    assert!(told[1].body.get("recipient_ids").is_none());
    assert_eq!(told[2].body["message"]["content"], "hello!");
    assert_eq!((&told[3].body["message"]["content"], &told[3].body["message"]["seq"]), (&json!(""), &json!(1)));
    assert!(told[3].body["message"]["deleted_at"].is_string());
    assert_eq!(told[4].body["room"]["name"], "new");
    assert_eq!(part(&told[5], &["user_ids", "role"]), json!({"user_ids": ["carl", "dora"], "role": "member"}));
    assert_eq!(told[6].body["user_ids"], json!(["erin"]));
    assert_eq!(told[7].body["user_id"], "carl");
    assert_eq!((&told[8].body["user_id"], &told[9].body["user_id"]), (&json!("bob"), &json!("bob")));
    let ids: BTreeSet<String> = told.iter().map(|call| call.header("webhook-id")).collect();
    assert_eq!(ids.len(), told.len());
    assert!(ids.iter().all(|id| id.starts_with("event_")));
    assert!(told.iter().all(|call| call.body["at"].is_string() && call.body["tenant_id"] == tenant.id.as_str()));
    assert!(told[..8].iter().chain([&told[10]]).all(|call| call.body["room_id"] == room.as_str()));

    // Fewer events from now on, here and on another node.
    let fewer = json!({"config": {"webhook_events": ["room.deleted"]}});
    tenant.backend().patch("/tenant", fewer).await.expect(200);
    let room = tenant.room("group", &["alice"]).await;
    alice.say(&room, "not told").await;
    alice.delete(&format!("/rooms/{room}")).await.expect(204);
    assert_eq!(receiver.next().await.body["event"], "room.deleted");
}

#[tokio::test]
async fn every_message_is_told_once_whichever_node_it_came_by() {
    let (app, receiver) = (server().start().await, Receiver::start().await);
    let two = app.second_node().await;
    two.ready().await;
    let tenant = tenant_of(&app, &receiver).await;
    let there = tenant.through(&two);
    let room = tenant.room("group", &["alice"]).await;

    let send = async |tenant: &Tenant<'_>, part: usize| {
        for n in 0..25 {
            tenant.user("alice").say(&room, &format!("{part}.{n}")).await;
        }
    };
    tokio::join!(send(&tenant, 0), send(&there, 1), send(&tenant, 2), send(&there, 3));
    let told = receiver.several(100).await;

    let contents: BTreeSet<String> = told.iter().map(|call| call.body["message"]["content"].to_string()).collect();
    assert_eq!(contents.len(), 100);
    assert!(receiver.within(Duration::from_millis(1500)).await.is_none());
}

#[tokio::test]
async fn many_recipients_are_told_in_calls_of_a_thousand() {
    let (app, receiver) = (server().start().await, Receiver::start().await);
    let tenant = app.tenant_with("t", json!({"webhook_url": receiver.url()})).await;
    let members: Vec<String> = (0..2500).map(|n| format!("user{n:04}")).collect();
    let body = json!({"type": "group", "members": members});
    let room = tenant.user("user0000").post("/rooms", body).await.expect(201).text_of("room_id");

    tenant.user("user0000").say(&room, "to all").await;
    let told = receiver.several(3).await;

    let mut recipients: Vec<String> = Vec::new();
    for call in &told {
        let ids = call.body["recipient_ids"].as_array().expect("a list");
        assert!(ids.len() <= 1000 && call.body.get("recipient_id").is_none());
        recipients.extend(ids.iter().map(|id| id.as_str().expect("an id").to_owned()));
    }
    recipients.sort();
    assert_eq!(recipients, members[1..]);
    let ids: BTreeSet<String> = told.iter().map(|call| call.header("webhook-id")).collect();
    assert_eq!(ids.len(), 3);
}
