//! api.md 6: `GET /ws`, its commands, events and close codes.

use std::time::Duration;

use chatapi_tests::{App, Socket, Tenant};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

/// Long enough for what comes to have come.
const A_MOMENT: Duration = Duration::from_millis(300);

async fn refused(app: &App, query: &str, headers: &[(&str, &str)]) -> (u16, Value, Value) {
    let refused = Socket::try_open(app, query, headers).await.expect_err("it is refused");
    (refused.status, refused.body["error"].clone(), refused.body["message"].clone())
}

#[tokio::test]
async fn the_door_lets_in_keys_tickets_and_tokens_and_nobody_else() {
    let app = App::start().await;
    let tenant = app.tenant_with("t", json!({"allowed_origins": ["https://ours.example"]})).await;
    let (key, user) = (("X-API-Key", tenant.key.as_str()), ("X-User-Id", "alice"));
    let token = tenant.backend().post("/tokens", json!({"user_id": "alice"})).await.expect(201).text_of("token");
    let ticket = tenant.user("alice").post("/ws/token", json!({})).await.expect(200);
    assert_eq!(ticket.body["expires_in"], 60);
    let ticket = ticket.text_of("token");

    for (query, headers) in [
        (String::new(), vec![key, user]),
        (String::new(), vec![key, user, ("Origin", "https://ours.example")]),
        (format!("?token={token}"), vec![]),
        (format!("?token={ticket}"), vec![]),
        (String::new(), vec![("Authorization", format!("Bearer {token}").leak() as &str)]),
    ] {
        let mut socket = Socket::try_open(&app, &query, &headers).await.expect("it opens");
        let first = socket.next().await;
        assert_eq!((&first["type"], &first["user_id"]), (&json!("connected"), &json!("alice")));
        assert_eq!(first["heartbeat_seconds"], 30);
        assert!(first["connection_id"].as_str().is_some_and(|id| id.starts_with("conn_")), "{first}");
    }

    let unauthorized = |message: &str| (401, json!("unauthorized"), json!(message));
    assert_eq!(refused(&app, "", &[]).await, unauthorized("Missing X-API-Key header"));
    assert_eq!(refused(&app, &format!("?api_key={}", tenant.key), &[]).await, unauthorized("Missing X-API-Key header"));
    assert_eq!(refused(&app, "", &[("X-API-Key", "sk_x"), user]).await, unauthorized("Invalid API key"));
    assert_eq!(refused(&app, "?token=junk", &[]).await, unauthorized("Invalid or expired token"));
    let second = refused(&app, &format!("?token={ticket}"), &[]).await;
    assert_eq!(second, unauthorized("Invalid or expired token"), "a ticket opens one socket");
    let nobody = refused(&app, "", &[key]).await;
    assert_eq!(nobody, (400, json!("invalid_request"), json!("Missing X-User-Id header")));
    let foreign = refused(&app, &format!("?token={token}"), &[("Origin", "https://theirs.example")]).await;
    assert_eq!((foreign.0, foreign.1), (403, json!("forbidden")));
    let other = refused(&app, &format!("?token={token}"), &[("X-User-Id", "bob")]).await;
    assert_eq!((other.0, other.1), (403, json!("forbidden")));
    let handshake = |method: &str, version: &str, more: &str| {
        format!(
            "{method} /ws HTTP/{version}\r\nHost: x\r\nX-API-Key: {}\r\nX-User-Id: alice\r\nConnection: Upgrade, close\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n",
            tenant.key
        )
    };
    for (head, status) in [
        (handshake("HEAD", "1.1", ""), "426"),
        (handshake("GET", "1.0", ""), "426"),
        (handshake("GET", "1.1", "Content-Length: 5\r\n"), "400"),
    ] {
        let mut stream = TcpStream::connect(app.url.trim_start_matches("http://")).await.expect("it listens");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer[9..], status.as_bytes(), "{head}");
    }
    let plain = tenant.user("alice").get("/ws").await;
    assert_eq!((plain.status, plain.header("upgrade")), (426, "websocket"));
    plain.expect_error(426, "upgrade_required", "Expected a WebSocket handshake");
}

#[tokio::test]
async fn a_message_reaches_every_connection_of_every_member_with_all_its_fields_and_nobody_else() {
    let app = App::start().await;
    let (tenant, other) = (app.tenant("t").await, app.tenant("other").await);
    let room = tenant.room("group", &["alice", "bob"]).await;
    let (mut alice, mut alice_too) = (tenant.user("alice").socket().await, tenant.user("alice").socket().await);
    let mut bob = tenant.user("bob").socket().await;
    let (mut eve, mut stranger) = (tenant.user("eve").socket().await, other.user("bob").socket().await);

    let command = json!({"type": "send_message", "room_id": room, "content": "hello", "meta": {"k": [1]},
                         "client_message_id": "c-1"});
    let answer = alice.ask(command.clone()).await;
    assert_eq!(answer["type"], "ok", "{answer}");
    let sent = &answer["message"];
    assert_eq!((&sent["seq"], &sent["sender_id"]), (&json!(1), &json!("alice")));
    let stored = tenant.user("bob").get(&format!("/rooms/{room}/messages")).await.expect(200);
    assert_eq!(stored.body["messages"][0], *sent);

    for socket in [&mut alice, &mut alice_too, &mut bob] {
        let mut event = socket.next_of("message").await;
        event.as_object_mut().expect("an object").remove("type");
        assert_eq!(event, *sent, "all fields of the message, at the top");
    }
    // Sent again it is the same message, and no event.
    assert_eq!(alice.ask(command).await["message"], *sent);
    for socket in [&mut eve, &mut stranger, &mut bob] {
        socket.hears_no("message", A_MOMENT).await;
    }
    // A command's fields may stand under `data`, and no `ok` comes where none was asked for.
    alice.send(json!({"type": "send_message", "data": {"room_id": room, "content": "2"}})).await;
    assert_eq!(bob.next_of("message").await["content"], "2");
    alice.hears_no("ok", Duration::ZERO).await;
    // Who comes is registered with one query, however many rooms there are.
    let line = app.wait_for_log("\"path\":\"/ws\"").await;
    assert_eq!((line["status"].as_i64(), line["queries"].as_i64()), (Some(101), Some(1)), "{line}");
    assert_eq!(app.logged(&tenant.key), Vec::<String>::new());
}

#[tokio::test]
async fn edits_and_deletions_come_with_their_change_number() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let mut bob = tenant.user("bob").socket().await;
    let sent = tenant.user("alice").say(&room, "old").await;
    let path = format!("/rooms/{room}/messages/{}", sent["message_id"].as_str().expect("an id"));

    let edited = tenant.user("alice").put(&path, json!({"content": "new"})).await.expect(200).body;
    tenant.user("alice").delete(&path).await.expect(204);

    assert_eq!(bob.next_of("message").await["content"], "old");
    let mut event = bob.next_of("message.edited").await;
    assert_eq!(event["change"], 1);
    let fields = event.as_object_mut().expect("an object");
    fields.remove("type");
    fields.remove("change");
    assert_eq!(event, edited, "the message as it is now");
    let deleted = bob.next_of("message.deleted").await;
    let expected = json!({"type": "message.deleted", "room_id": room, "message_id": sent["message_id"],
                          "seq": 1, "change": 2});
    assert_eq!(deleted, expected);
}

#[tokio::test]
async fn acks_are_answered_with_the_positions_and_told_to_the_room() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let (mut alice, mut bob) = (tenant.user("alice").socket().await, tenant.user("bob").socket().await);
    tenant.user("alice").say(&room, "x").await;
    bob.next_of("message").await;

    let ok = bob.ask(json!({"type": "ack", "room_id": room, "seq": 1})).await;
    assert_eq!((&ok["type"], &ok["delivered_seq"], &ok["read_seq"]), (&json!("ok"), &json!(1), &json!(0)));
    let event = alice.next_of("ack.received").await;
    let expected = json!({"type": "ack.received", "room_id": room, "user_id": "bob", "seq": 1, "kind": "delivered"});
    assert_eq!(event, expected);
    bob.ask(json!({"type": "ack", "room_id": room, "seq": 1, "kind": "delivered"})).await;
    let read = json!({"room_id": room, "seq": 1, "type": "read"});
    tenant.user("bob").post("/acks", read).await.expect(200);
    let event = alice.next().await;
    assert_eq!(
        (&event["type"], &event["kind"]),
        (&json!("ack.received"), &json!("read")),
        "what moved nothing is no event"
    );
    for (command, code) in [
        (json!({"type": "ack", "room_id": room, "seq": 9}), "invalid_request"),
        (json!({"type": "ack", "room_id": room, "seq": -1}), "invalid_request"),
        (json!({"type": "ack", "room_id": room, "seq": 1, "kind": "seen"}), "invalid_request"),
        (json!({"type": "ack", "room_id": "room_x", "seq": 1}), "not_found"),
    ] {
        let answer = bob.ask(command).await;
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(code)), "{answer}");
    }
}

#[tokio::test]
async fn typing_is_told_to_others_and_lapses_by_itself() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let (mut alice, mut bob) = (tenant.user("alice").socket().await, tenant.user("bob").socket().await);
    let mut eve = tenant.user("eve").socket().await;
    let typing = |action: &str| json!({"type": "typing", "room_id": room, "user_id": "alice", "action": action});

    assert_eq!(alice.ask(json!({"type": "typing.start", "room_id": room})).await["type"], "ok");
    assert_eq!(bob.next_of("typing").await, typing("start"));
    alice.send(json!({"type": "typing.stop", "room_id": room})).await;
    assert_eq!(bob.next_of("typing").await, typing("stop"));
    alice.send(json!({"type": "typing.start", "room_id": room})).await;
    assert_eq!(bob.next_of("typing").await, typing("start"));
    assert_eq!(bob.next_of("typing").await, typing("stop"), "after 6 seconds");
    alice.hears_no("typing", Duration::ZERO).await;
    let stranger = eve.ask(json!({"type": "typing.start", "room_id": room})).await;
    assert_eq!(stranger["code"], "not_found");
}

#[tokio::test]
async fn rooms_joined_later_are_heard_without_asking_and_rooms_left_no_more() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let mut bob = tenant.user("bob").socket().await;
    let room = tenant.room("group", &["alice", "carol"]).await;
    let (alice, mut carol) = (tenant.user("alice"), tenant.user("carol").socket().await);
    alice.say(&room, "before").await;

    let made = tenant.room("group", &["alice", "bob"]).await;
    let created = bob.next_of("room.created").await;
    assert_eq!((&created["room_id"], &created["room"]["room_id"]), (&json!(made), &json!(made)));
    assert_eq!((&created["room"]["type"], &created["room"]["member_count"]), (&json!("group"), &json!(2)));
    alice.say(&made, "in the new room").await;
    assert_eq!(bob.next_of("message").await["content"], "in the new room");

    alice.post(&format!("/rooms/{room}/members"), json!({"user_ids": ["bob", "carol"]})).await.expect(200);
    for socket in [&mut bob, &mut carol] {
        let added = socket.next_of("member.added").await;
        assert_eq!(
            (&added["room_id"], &added["user_ids"], &added["role"]),
            (&json!(room), &json!(["bob"]), &json!("member"))
        );
        assert_eq!((&added["room"]["last_seq"], &added["room"]["member_count"]), (&json!(1), &json!(3)));
    }
    alice.say(&room, "after").await;
    let heard = bob.next_of("message").await;
    assert_eq!((&heard["content"], &heard["seq"]), (&json!("after"), &json!(2)));

    alice.patch(&format!("/rooms/{room}"), json!({"name": "New"})).await.expect(200);
    assert_eq!(bob.next_of("room.updated").await["room"]["name"], "New");
    alice.delete(&format!("/rooms/{room}/members/bob")).await.expect(204);
    alice.say(&room, "without bob").await;
    let removed = bob.next_of("member.removed").await;
    assert_eq!(removed, json!({"type": "member.removed", "room_id": room, "user_id": "bob"}));
    bob.hears_no("message", A_MOMENT).await;
    assert_eq!(carol.next_of("member.removed").await["user_id"], "bob");
    assert_eq!(carol.next_of("message").await["content"], "without bob");

    alice.delete(&format!("/rooms/{room}")).await.expect(204);
    assert_eq!(carol.next_of("room.deleted").await, json!({"type": "room.deleted", "room_id": room}));
}

#[tokio::test]
async fn a_channel_can_be_heard_without_joining_it_and_a_group_cannot() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let (channel, group) = (tenant.room("channel", &["alice"]).await, tenant.room("group", &["alice"]).await);
    let mut bob = tenant.user("bob").socket().await;
    let alice = tenant.user("alice");

    alice.say(&channel, "1").await;
    bob.hears_no("message", A_MOMENT).await;
    assert_eq!(bob.ask(json!({"type": "subscribe", "room_id": channel})).await["type"], "ok");
    alice.say(&channel, "2").await;
    assert_eq!(bob.next_of("message").await["content"], "2");
    assert_eq!(bob.ask(json!({"type": "unsubscribe", "room_id": channel})).await["type"], "ok");
    alice.say(&channel, "3").await;
    bob.hears_no("message", A_MOMENT).await;
    assert_eq!(bob.ask(json!({"type": "subscribe", "room_id": group})).await["code"], "not_found");
    // To write in it one must join it, and who joins hears it.
    let refused = bob.ask(json!({"type": "send_message", "room_id": channel, "content": "x"})).await;
    assert_eq!(refused["code"], "forbidden");
    tenant.user("bob").post(&format!("/rooms/{channel}/join"), json!({})).await.expect(200);
    bob.next_of("member.added").await;
    alice.say(&channel, "4").await;
    assert_eq!(bob.next_of("message").await["content"], "4");
}

#[tokio::test]
async fn what_one_connection_sends_without_waiting_is_stored_and_answered_in_its_order() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let rooms = [tenant.room("group", &["alice"]).await, tenant.room("group", &["alice"]).await];
    let mut alice = tenant.user("alice").socket().await;

    for n in 0..300 {
        let mut command = json!({"type": "send_message", "room_id": rooms[n % 2], "content": n.to_string()});
        command["request_id"] = json!(n.to_string());
        if n == 150 {
            command = json!({"type": "ack", "room_id": rooms[0], "seq": 75, "request_id": "150"});
        }
        if n == 151 {
            command["content"] = json!("");
        }
        alice.send(command).await;
    }
    let mut answered = Vec::new();
    while answered.len() < 300 {
        let event = alice.next().await;
        match event["request_id"].as_str() {
            Some("151") => assert_eq!(event["code"], "invalid_request"),
            Some("150") => assert_eq!((&event["delivered_seq"], answered.len()), (&json!(75), 150)),
            Some(id) => assert_eq!(event["message"]["content"], id),
            None => continue,
        }
        answered.push(event["request_id"].as_str().expect("an id").parse::<usize>().expect("a number"));
    }

    answered.retain(|n| *n != 151);
    assert!(answered.is_sorted(), "{answered:?}");
    for (at, room) in rooms.iter().enumerate() {
        let expected: Vec<_> =
            (0..300).filter(|n| n % 2 == at && ![150, 151].contains(n)).map(|n| n.to_string()).collect();
        let mut stored = Vec::new();
        for after in [0, 100] {
            let page = tenant.user("alice").get(&format!("/rooms/{room}/messages?limit=100&after_seq={after}")).await;
            stored.extend(page.each("messages", "content"));
        }
        assert_eq!(stored, expected);
    }
}

#[tokio::test]
async fn what_is_wrong_is_answered_and_the_connection_lives_on() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    let mut alice = tenant.user("alice").socket().await;
    let cases = [
        (json!({"type": "dance"}), "invalid_request"),
        (json!({}), "invalid_request"),
        (json!({"type": "send_message"}), "invalid_request"),
        (json!({"type": "send_message", "room_id": room, "content": 5}), "invalid_request"),
        (json!({"type": "send_message", "room_id": room, "content": ""}), "invalid_request"),
        (json!({"type": "send_message", "room_id": room, "content": "x".repeat(20_000)}), "payload_too_large"),
        (json!({"type": "send_message", "room_id": "room_nope", "content": "x"}), "not_found"),
        (json!({"type": "subscribe", "data": {"room_id": 7}}), "invalid_request"),
        (json!({"type": "subscribe", "data": "x"}), "invalid_request"),
        (json!({"type": "sync", "rooms": []}), "invalid_request"),
        (json!({"type": "sync", "rooms": {room.clone(): {"after_seq": -1}}}), "invalid_request"),
        (json!({"type": "refresh", "token": "x"}), "invalid_request"),
        (json!({"type": "ping", "data": 5}), "invalid_request"),
    ];
    for (command, code) in cases {
        let answer = alice.ask(command.clone()).await;
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(code)), "{command}: {answer}");
        assert!(answer["message"].is_string());
    }
    for text in ["", "nonsense", "[]", "7", "{\"type\": \"ping\"", "\"ping\"", &"[".repeat(5000)] {
        alice.send_text(text).await;
        let answer = alice.next_of("error").await;
        assert_eq!((&answer["code"], &answer["request_id"]), (&json!("invalid_request"), &Value::Null), "{text}");
    }
    let long = json!({"type": "ping", "request_id": "x".repeat(65)});
    alice.send(long).await;
    assert_eq!(alice.next_of("error").await["message"], "request_id: expected at most 64 characters");
    alice.send_frame(Message::binary(vec![1, 2, 3])).await;
    assert_eq!(alice.next_of("error").await["message"], "Expected a text frame");
    assert_eq!(alice.ask(json!({"type": "ping"})).await["type"], "pong");
    alice.send_text(&"x".repeat(300_000)).await;
    assert_eq!(alice.closed().await, (1009, "frame too big".to_owned()));
}

#[tokio::test]
async fn connections_are_limited_by_user_and_by_tenant_and_only_there() {
    let app = App::start().await;
    let tenant = app.tenant_with("t", json!({"max_connections": 3, "max_connections_per_user": 2})).await;
    let other = app.tenant("other").await;
    let open = |tenant: &Tenant<'_>, user: &'static str| {
        let key = tenant.key.clone();
        let app = &app;
        async move { Socket::try_open(app, "", &[("X-API-Key", &key), ("X-User-Id", user)]).await.expect("upgraded") }
    };
    let limit = (1008, "connection limit reached".to_owned());
    let (mut first, _second) = (open(&tenant, "alice").await, open(&tenant, "alice").await);
    first.next_of("connected").await;

    assert_eq!(open(&tenant, "alice").await.closed().await, limit, "the third of one user");
    let mut bob = open(&tenant, "bob").await;
    bob.next_of("connected").await;
    assert_eq!(open(&tenant, "carol").await.closed().await, limit, "the fourth of the tenant");
    open(&other, "alice").await.next_of("connected").await;
    drop(bob);
    // A place is free as soon as the server knows that its owner went.
    for _ in 0..200 {
        if open(&tenant, "carol").await.is_let_in().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place of one who went is never free");
}

#[tokio::test]
async fn commands_are_charged_to_the_tenant_and_ten_seconds_over_its_limit_end_the_connection() {
    let app = App::start().await;
    let tenant = app.tenant_with("t", json!({"rate_limit": 1, "rate_burst": 5})).await;
    let mut alice = tenant.user("alice").socket().await;
    for _ in 0..4 {
        assert_eq!(alice.ask(json!({"type": "ping"})).await["type"], "pong");
    }
    let over = alice.ask(json!({"type": "ping"})).await;
    assert_eq!((&over["type"], &over["code"]), (&json!("error"), &json!("rate_limit_exceeded")));
    assert_eq!(tenant.backend().get("/tenant").await.status, 429, "REST and sockets share one bucket");

    // Who waits is served again, and begins anew; who goes on is closed.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(alice.ask(json!({"type": "ping"})).await["type"], "pong");
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(30) && alice.try_send(json!({"type": "ping"})).await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(alice.closed().await, (4008, "over the rate limit".to_owned()));
    assert!(start.elapsed() >= Duration::from_secs(10), "{:?}", start.elapsed());
}
