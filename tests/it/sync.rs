//! api.md 6: `sync`, and what is promised of order.

use std::time::Duration;

use chatapi_tests::App;
use serde_json::{Value, json};

#[tokio::test]
async fn one_who_comes_back_to_a_room_is_sent_nothing_twice_and_can_have_what_was_said_meanwhile() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let (alice, mut bob) = (tenant.user("alice"), tenant.user("bob").socket().await);
    alice.say(&room, "1").await;
    assert_eq!(bob.next_of("message").await["seq"], 1);

    alice.delete(&format!("/rooms/{room}/members/bob")).await.expect(204);
    alice.say(&room, "2, bob is out").await;
    alice.post(&format!("/rooms/{room}/members"), json!({"user_ids": ["bob"]})).await.expect(200);
    bob.next_of("member.added").await;
    alice.say(&room, "3").await;
    assert_eq!(bob.next_of("message").await["seq"], 3);
    bob.send(json!({"type": "sync", "rooms": {room.clone(): {"after_seq": 0}}})).await;
    let (events, done) = bob.until("sync.done").await;

    let seqs: Vec<_> = events.iter().filter(|event| event["type"] == "message").map(|event| &event["seq"]).collect();
    assert_eq!(seqs, [2], "a member may read what came before; the rest was sent");
    assert_eq!(done["rooms"][&room]["last_seq"], 3);
    alice.say(&room, "4").await;
    assert_eq!(bob.next_of("message").await["seq"], 4);
}

#[tokio::test]
async fn sync_brings_what_was_missed_in_order_before_what_is_live_and_nothing_twice() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let alice = tenant.user("alice");
    for n in 1..=450 {
        alice.say(&room, &n.to_string()).await;
    }
    let second = alice.get(&format!("/rooms/{room}/messages?after_seq=1&limit=1")).await;
    let second = second.body["messages"][0]["message_id"].as_str().expect("an id").to_owned();
    alice.put(&format!("/rooms/{room}/messages/{second}"), json!({"content": "zwei"})).await.expect(200);

    let mut bob = tenant.user("bob").socket().await;
    alice.say(&room, "451, before the sync is asked for").await;
    let since = json!({room.clone(): {"after_seq": 40, "after_change": 0}});
    bob.send(json!({"type": "sync", "request_id": "s", "rooms": since})).await;
    alice.say(&room, "452, while it goes on or after").await;
    let mut seqs = Vec::new();
    let (mut changes, mut done) = (Vec::new(), Value::Null);
    while seqs.last() != Some(&452) || done.is_null() {
        let event = bob.next().await;
        match event["type"].as_str() {
            Some("message") => seqs.push(event["seq"].as_i64().expect("a seq")),
            Some("message.edited") => changes.push((event["change"].clone(), event["content"].clone())),
            Some("sync.done") => done = event,
            _ => {}
        }
    }
    assert_eq!(seqs, (41..=452).collect::<Vec<i64>>(), "in order, each once, no gap");
    assert_eq!(changes, [(json!(1), json!("zwei"))]);
    assert_eq!(done["request_id"], "s");
    let reached = &done["rooms"][&room];
    assert!(reached["last_seq"].as_i64() >= Some(451), "{done}");
    assert_eq!((&reached["last_change"], &reached["has_more"]), (&json!(1), &json!(false)));

    // What the connection has is not sent again.
    let again = bob.ask(json!({"type": "sync", "rooms": {room.clone(): {"after_seq": 440}}})).await;
    assert_eq!(again["rooms"][&room], json!({"last_seq": 452, "last_change": 1, "has_more": false}));
    bob.hears_no("message", Duration::ZERO).await;
    alice.say(&room, "live again").await;
    assert_eq!(bob.next_of("message").await["seq"], 453);
}

#[tokio::test]
async fn a_sync_of_all_rooms_begins_where_messages_have_reached_the_user() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let (one, two) = (tenant.room("group", &["alice", "bob"]).await, tenant.room("group", &["alice", "bob"]).await);
    let empty = tenant.room("group", &["alice", "bob"]).await;
    let foreign = tenant.room("group", &["alice"]).await;
    for n in 1..=3 {
        for room in [&one, &two, &foreign] {
            tenant.user("alice").say(room, &n.to_string()).await;
        }
    }
    tenant.user("bob").post("/acks", json!({"room_id": one, "seq": 2})).await.expect(200);
    let mut bob = tenant.user("bob").socket().await;

    bob.send(json!({"type": "sync"})).await;
    let (events, done) = bob.until("sync.done").await;

    let seqs_of = |room: &str| -> Vec<i64> {
        events.iter().filter(|event| event["room_id"] == room).filter_map(|event| event["seq"].as_i64()).collect()
    };
    assert_eq!((seqs_of(&one), seqs_of(&two)), (vec![3], vec![1, 2, 3]));
    // That the rooms were made may still be told: the feed is not waited for.
    let messages = events.iter().filter(|event| event["type"] == "message").count();
    assert_eq!(messages, 4, "{events:?}");
    let rooms = done["rooms"].as_object().expect("rooms");
    assert_eq!(rooms.len(), 3);
    assert_eq!(rooms[&empty], json!({"last_seq": 0, "last_change": 0, "has_more": false}));
    assert!(done.get("request_id").is_none());
    let named = json!({"rooms": {foreign.clone(): {"after_seq": 0}, "room_x": {"after_seq": 0}}, "type": "sync"});
    let hidden = bob.ask(named).await;
    assert_eq!(hidden["rooms"], json!({foreign: {"error": "not_found"}, "room_x": {"error": "not_found"}}));
}

#[tokio::test]
async fn a_long_absence_is_made_up_in_steps_and_live_events_wait_for_the_last() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let alice = tenant.user("alice");
    let send = |n: u32| {
        let (alice, room) = (alice.clone(), room.clone());
        async move { alice.say(&room, &n.to_string()).await }
    };
    for chunk in (1..=2300).collect::<Vec<u32>>().chunks(100) {
        futures_util::future::join_all(chunk.iter().map(|n| send(*n))).await;
    }
    let mut bob = tenant.user("bob").socket().await;
    let (mut seqs, mut after, mut steps) = (Vec::new(), 0, 0);
    loop {
        bob.send(json!({"type": "sync", "rooms": {room.clone(): {"after_seq": after}}})).await;
        let (events, done) = bob.until("sync.done").await;
        seqs.extend(events.iter().filter(|event| event["type"] == "message").filter_map(|event| event["seq"].as_i64()));
        after = done["rooms"][&room]["last_seq"].as_i64().expect("a seq");
        steps += 1;
        if done["rooms"][&room]["has_more"] == false {
            break;
        }
        send(0).await;
        bob.hears_no("message", Duration::from_millis(50)).await;
    }
    assert!(steps >= 3, "{steps}");
    assert_eq!(seqs, (1..=2299 + steps).collect::<Vec<i64>>());
    assert_eq!(Some(&after), seqs.last());
}
