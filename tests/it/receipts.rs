//! api.md 6: receipts and unread counts.

use chatapi_tests::{App, Caller};
use serde_json::{Value, json};

async fn unread(caller: &Caller<'_>) -> Value {
    caller.get("/rooms").await.expect(200).body["rooms"][0]["unread_count"].clone()
}

#[tokio::test]
async fn positions_only_grow_and_read_implies_delivered() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let (alice, bob) = (tenant.user("alice"), tenant.user("bob"));
    for n in 0..5 {
        alice.say(&room, &n.to_string()).await;
    }
    let ack = |seq: i64, kind: Option<&'static str>| {
        let (room, bob) = (room.clone(), bob.clone());
        async move {
            let mut body = json!({"room_id": room, "seq": seq});
            if let Some(kind) = kind {
                body["type"] = json!(kind);
            }
            let answer = bob.post("/acks", body).await.expect(200);
            (answer.body["delivered_seq"].as_i64(), answer.body["read_seq"].as_i64())
        }
    };

    assert_eq!(ack(3, None).await, (Some(3), Some(0)));
    assert_eq!(ack(2, Some("read")).await, (Some(3), Some(2)));
    assert_eq!(ack(4, Some("read")).await, (Some(4), Some(4)));
    assert_eq!(ack(1, Some("read")).await, (Some(4), Some(4)));
    assert_eq!(ack(0, Some("delivered")).await, (Some(4), Some(4)));

    let receipts = alice.get(&format!("/rooms/{room}/receipts")).await.expect(200);
    assert_eq!(receipts.each("receipts", "user_id"), ["alice", "bob"]);
    assert_eq!(receipts.each("receipts", "read_seq"), [5, 4], "one's own message counts as read by oneself");
    assert_eq!(receipts.each("receipts", "delivered_seq"), [5, 4]);
    assert!(receipts.each("receipts", "updated_at").iter().all(Value::is_string));
}

#[tokio::test]
async fn an_ack_is_checked() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("channel", &["alice"]).await;
    let alice = tenant.user("alice");
    alice.say(&room, "one").await;

    let beyond = alice.post("/acks", json!({"room_id": room, "seq": 2})).await;
    beyond.expect_error(400, "invalid_request", "seq: expected at most 1, the room's last_seq");
    for (body, message) in [
        (json!({"room_id": room, "seq": -1}), "seq: expected a whole number of at least 0"),
        (json!({"room_id": room}), "seq: is missing"),
        (json!({"room_id": 5, "seq": 1}), "room_id: expected a string"),
        (json!({"room_id": room, "seq": 1, "type": "seen"}), "type: expected 'delivered' or 'read'"),
    ] {
        alice.post("/acks", body).await.expect_error(400, "invalid_request", message);
    }
    let stranger = tenant.user("eve").post("/acks", json!({"room_id": room, "seq": 1})).await;
    stranger.expect_error(403, "forbidden", "Only members of the room may do this");
    let absent = alice.post("/acks", json!({"room_id": "room_x", "seq": 1})).await;
    absent.expect_error(404, "not_found", "Room not found");
}

#[tokio::test]
async fn unread_counts_are_exact_through_own_messages_deletions_and_acks() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let (alice, bob) = (tenant.user("alice"), tenant.user("bob"));
    let mut sent = Vec::new();
    for n in 0..4 {
        sent.push(alice.say(&room, &n.to_string()).await["message_id"].as_str().expect("an id").to_owned());
    }
    assert_eq!((unread(&alice).await, unread(&bob).await), (json!(0), json!(4)));

    alice.delete(&format!("/rooms/{room}/messages/{}", sent[3])).await.expect(204);
    alice.delete(&format!("/rooms/{room}/messages/{}", sent[3])).await.expect(204);
    assert_eq!(unread(&bob).await, 3, "a deleted message is not unread");
    bob.post("/acks", json!({"room_id": room, "seq": 2, "type": "read"})).await.expect(200);
    assert_eq!(unread(&bob).await, 1);
    alice.delete(&format!("/rooms/{room}/messages/{}", sent[0])).await.expect(204);
    assert_eq!(unread(&bob).await, 1, "one that was read does not count twice");
    bob.post("/acks", json!({"room_id": room, "seq": 4})).await.expect(200);
    assert_eq!(unread(&bob).await, 1, "delivered is not read");
    bob.say(&room, "answer").await;
    assert_eq!((unread(&alice).await, unread(&bob).await), (json!(1), json!(0)), "who answers has read");
}
