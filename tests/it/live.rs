//! api.md 2, 3, 6: tokens, what ends a connection, presence, and several nodes on one database.

use std::time::Duration;

use chatapi_tests::{App, Socket, Tenant};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

async fn token(tenant: &Tenant<'_>, user: &str) -> String {
    tenant.backend().post("/tokens", json!({"user_id": user})).await.expect(201).text_of("token")
}

async fn with_token(app: &App, token: &str) -> Socket {
    Socket::open(app, &format!("?token={token}"), &[]).await
}

/// Fails unless the connection is closed with this code within `limit`.
async fn closes(socket: &mut Socket, limit: Duration) -> u16 {
    timeout(limit, socket.closed()).await.expect("it is closed in time").0
}

#[tokio::test]
async fn a_token_does_what_its_user_may_and_nothing_else() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let issued = tenant.backend().post("/tokens", json!({"user_id": "alice", "expires_in": 60})).await.expect(201);
    assert_eq!(issued.body["user_id"], "alice");
    assert!(issued.body["expires_at"].is_string());
    let bearer = format!("Bearer {}", issued.text_of("token"));
    let ask = |method: &'static str, path: String, body: Option<Value>, more: Option<(&'static str, &'static str)>| {
        let (app, bearer) = (&app, bearer.clone());
        async move {
            let mut headers = vec![("Authorization", bearer.as_str())];
            headers.extend(more);
            app.send(method, &path, &headers, body).await
        }
    };
    let path = format!("/rooms/{room}/messages");

    let sent = ask("POST", path.clone(), Some(json!({"content": "x"})), None).await.expect(201);
    assert_eq!(sent.body["sender_id"], "alice");
    ask("GET", path.clone(), None, Some(("X-User-Id", "alice"))).await.expect(200);
    let other = ask("GET", path.clone(), None, Some(("X-User-Id", "bob"))).await;
    other.expect_error(403, "forbidden", "X-User-Id is not the user of the token");
    for backend in ["/tenant", "/admin/tenants", "/tenant/keys"] {
        let refused = ask("GET", backend.into(), None, None).await;
        refused.expect_error(403, "forbidden", "A user token may not call this");
    }
    assert_eq!(ask("POST", "/tokens".into(), Some(json!({"user_id": "bob"})), None).await.status, 403);
    let foreign = json!({"type": "dm", "members": ["bob", "carol"]});
    assert_eq!(ask("POST", "/rooms".into(), Some(foreign), None).await.status, 403);
    let own = json!({"type": "dm", "members": ["alice", "carol"]});
    ask("POST", "/rooms".into(), Some(own), None).await.expect(201);
    let hidden = tenant.room("group", &["bob"]).await;
    assert_eq!(ask("GET", format!("/rooms/{hidden}"), None, None).await.status, 404);
    ask("POST", "/ws/token".into(), Some(json!({})), None).await.expect(200);

    for body in [json!({"user_id": "a", "expires_in": 59}), json!({"user_id": "a", "expires_in": 2_592_001}), json!({})]
    {
        assert_eq!(tenant.backend().post("/tokens", body).await.status, 400);
    }
    let junk = app.send("GET", &path, &[("Authorization", "Bearer junk")], None).await;
    junk.expect_error(401, "unauthorized", "Invalid or expired token");
}

#[tokio::test]
async fn revoked_tokens_stop_at_once_and_close_their_sockets_and_no_others() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let (old, bobs) = (token(&tenant, "alice").await, token(&tenant, "bob").await);
    let (mut alice, mut bob) = (with_token(&app, &old).await, with_token(&app, &bobs).await);
    let by_key = tenant.user("alice").socket().await;

    tenant.backend().post("/tokens/revoke", json!({"user_id": "alice"})).await.expect(204);

    assert_eq!(closes(&mut alice, SECOND).await, 4003);
    let used = app.send("GET", "/rooms", &[("Authorization", &format!("Bearer {old}"))], None).await;
    assert_eq!(used.status, 401);
    let new = token(&tenant, "alice").await;
    drop(with_token(&app, &new).await);
    assert_eq!(bob.ask(json!({"type": "ping"})).await["type"], "pong");
    let forgotten = tenant.backend().post("/tokens/revoke", json!({"user_id": null})).await;
    let message = "user_id: expected a string; leave it out to revoke all";
    forgotten.expect_error(400, "invalid_request", message);
    assert_eq!(bob.ask(json!({"type": "ping"})).await["type"], "pong");
    tenant.backend().post("/tokens/revoke", json!({})).await.expect(204);
    assert_eq!(closes(&mut bob, SECOND).await, 4003);
    let mut by_key = by_key;
    assert_eq!(by_key.ask(json!({"type": "ping"})).await["type"], "pong", "a key is no token");
}

#[tokio::test]
async fn a_socket_ends_with_its_token_unless_a_newer_one_came() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let issue = |user: &'static str| {
        let backend = tenant.backend();
        async move { backend.post("/tokens", json!({"user_id": user, "expires_in": 60})).await.expect(201) }
    };
    let first = issue("alice").await.text_of("token");
    let mut alice = with_token(&app, &first).await;

    let other = issue("bob").await.text_of("token");
    assert_eq!(alice.ask(json!({"type": "refresh", "token": other})).await["code"], "forbidden");
    assert_eq!(alice.ask(json!({"type": "refresh", "token": "junk"})).await["code"], "unauthorized");
    let second = tenant.backend().post("/tokens", json!({"user_id": "alice", "expires_in": 3600})).await.expect(201);
    let answer = alice.ask(json!({"type": "refresh", "token": second.text_of("token")})).await;
    assert_eq!((&answer["type"], &answer["expires_at"]), (&json!("ok"), &second.body["expires_at"]));
    let older = alice.ask(json!({"type": "refresh", "token": first})).await;
    assert_eq!(older["message"], "token: expected one that is newer than the connection's own");
}

#[tokio::test]
async fn what_ends_a_key_or_a_tenant_ends_its_sockets_on_every_node_within_a_second() {
    let app = App::start().await;
    let second = app.second_node().await;
    second.ready().await;
    let tenant = app.tenant("t").await;
    let made = app.admin("POST", &format!("/admin/tenants/{}/keys", tenant.id), None).await.expect(201);
    let (key_id, key) = (made.text_of("key_id"), made.text_of("api_key"));
    let spare = tenant.with_key(&key);
    let open = async |tenant: &Tenant<'_>| {
        let there = tenant.through(&second);
        [tenant.user("alice").socket().await, there.user("alice").socket().await]
    };
    let tenant_path = format!("/admin/tenants/{}", tenant.id);

    let (mut revoked, mut kept) = (open(&spare).await, open(&tenant).await);
    app.admin("DELETE", &format!("{tenant_path}/keys/{key_id}"), None).await.expect(204);
    for socket in &mut revoked {
        assert_eq!(closes(socket, SECOND).await, 4501);
    }
    for through in [spare.clone(), spare.through(&second)] {
        through.backend().get("/tenant").await.expect_error(401, "unauthorized", "Invalid API key");
    }
    app.wait_for_log("key revoked").await;
    for socket in &mut kept {
        assert_eq!(socket.ask(json!({"type": "ping"})).await["type"], "pong");
    }
    app.admin("PATCH", &tenant_path, Some(json!({"status": "suspended"}))).await.expect(200);
    for socket in &mut kept {
        assert_eq!(closes(socket, SECOND).await, 4505);
    }
    tenant.through(&second).backend().get("/tenant").await.expect_error(
        403,
        "tenant_suspended",
        "The tenant is suspended",
    );
    app.admin("PATCH", &tenant_path, Some(json!({"status": "active"}))).await.expect(200);
    let mut last = open(&tenant).await;
    let deleting = app.admin("DELETE", &tenant_path, None).await.expect(202);
    assert_eq!(deleting.body, json!({"status": "deleting"}));
    for socket in &mut last {
        assert_eq!(closes(socket, SECOND).await, 4506);
    }
    assert_eq!(tenant.backend().get("/tenant").await.status, 401);
    assert_eq!(tenant.through(&second).backend().get("/tenant").await.status, 401);
    let start = Instant::now();
    while app.admin("GET", &tenant_path, None).await.status != 404 {
        assert!(start.elapsed() < Duration::from_secs(20), "its rows go");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_shutdown_says_when_to_come_back_and_closes_with_1001() {
    let mut app = App::start().await;
    let mut socket = {
        let tenant = app.tenant("t").await;
        tenant.user("alice").socket().await
    };

    let (code, event) = tokio::join!(app.signal("TERM"), async {
        let event = socket.next_of("server.shutdown").await;
        assert_eq!(socket.closed().await, (1001, "shutdown".to_owned()));
        event
    });

    assert_eq!(code, Some(0));
    assert!(event["reconnect_after_ms"].as_u64().is_some_and(|ms| ms < 5000), "{event}");
}

#[tokio::test]
async fn two_nodes_tell_each_other_everything() {
    let one = App::start().await;
    let two = one.second_node().await;
    two.ready().await;
    let here = one.tenant("t").await;
    let there = here.through(&two);
    let room = here.room("group", &["alice", "bob"]).await;
    let (mut alice, mut bob) = (here.user("alice").socket().await, there.user("bob").socket().await);

    for n in 1..=20 {
        let tenant = if n % 2 == 0 { &here } else { &there };
        tenant.user("alice").say(&room, &n.to_string()).await;
    }
    for socket in [&mut alice, &mut bob] {
        for n in 1..=20 {
            let event = socket.next_of("message").await;
            assert_eq!((&event["seq"], &event["content"]), (&json!(n), &json!(n.to_string())));
        }
    }
    let first = here.user("alice").get(&format!("/rooms/{room}/messages?limit=1")).await.expect(200);
    let id = first.body["messages"][0]["message_id"].as_str().expect("an id").to_owned();
    here.user("alice").put(&format!("/rooms/{room}/messages/{id}"), json!({"content": "new"})).await.expect(200);
    assert_eq!(bob.next_of("message.edited").await["content"], "new");
    here.user("alice").post("/acks", json!({"room_id": room, "seq": 20, "type": "read"})).await.expect(200);
    // Sending had moved alice's own position already.
    bob.ask(json!({"type": "ack", "room_id": room, "seq": 20, "kind": "read"})).await;
    assert_eq!(alice.next_of("ack.received").await["user_id"], "bob");
    alice.send(json!({"type": "typing.start", "room_id": room})).await;
    assert_eq!(bob.next_of("typing").await["user_id"], "alice");

    let made = here.room("group", &["alice", "bob"]).await;
    assert_eq!(bob.next_of("room.created").await["room_id"], json!(made));
    here.user("alice").say(&made, "first").await;
    assert_eq!(bob.next_of("message").await["content"], "first");
    here.user("alice").delete(&format!("/rooms/{made}/members/bob")).await.expect(204);
    here.user("alice").say(&made, "second").await;
    bob.next_of("member.removed").await;
    bob.hears_no("message", Duration::from_millis(300)).await;
    let changed = json!({"config": {"max_message_bytes": 3}});
    one.admin("PATCH", &format!("/admin/tenants/{}", here.id), Some(changed)).await.expect(200);
    let start = Instant::now();
    while there.user("alice").post(&format!("/rooms/{room}/messages"), json!({"content": "1234"})).await.status != 413 {
        assert!(start.elapsed() < SECOND, "settings cross nodes");
    }
    assert_eq!(
        bob.ask(json!({"type": "send_message", "room_id": room, "content": "1234"})).await["code"],
        "payload_too_large"
    );
}

#[tokio::test]
async fn presence_is_told_to_those_who_share_a_room_and_lasts_5_seconds() {
    let one = App::start().await;
    let two = one.second_node().await;
    two.ready().await;
    let (here, there) = (one.tenant("t").await, one.tenant("other").await);
    here.room("group", &["alice", "bob"]).await;
    let (mut bob, mut eve) = (here.through(&two).user("bob").socket().await, here.user("eve").socket().await);
    let mut stranger = there.user("bob").socket().await;
    let status = || async {
        let answer = here.backend().get("/presence?user_ids=alice,nobody").await.expect(200);
        assert_eq!(answer.body["presence"]["nobody"], json!({"status": "offline", "last_seen_at": null}));
        answer.body["presence"]["alice"].clone()
    };
    assert_eq!(status().await["status"], "offline");

    let alice = here.user("alice").socket().await;
    let event = bob.next_of("presence.update").await;
    assert_eq!(event, json!({"type": "presence.update", "user_id": "alice", "status": "online"}));
    let online = status().await;
    assert_eq!(online["status"], "online");
    assert!(online["last_seen_at"].is_string());
    // Back within 5 seconds, on another node: nobody hears of it.
    drop(alice);
    sleep(SECOND).await;
    let again = here.through(&two).user("alice").socket().await;
    bob.hears_no("presence.update", Duration::from_secs(6)).await;
    let gone = Instant::now();
    drop(again);
    assert_eq!(bob.next_of("presence.update").await["status"], "offline");
    assert!(gone.elapsed() >= Duration::from_millis(4900), "{:?}", gone.elapsed());
    assert_eq!(status().await["status"], "offline");
    for socket in [&mut eve, &mut stranger] {
        socket.hears_no("presence.update", Duration::ZERO).await;
    }
}

#[tokio::test]
async fn a_tenant_may_do_without_presence() {
    let app = App::start().await;
    let tenant = app.tenant_with("t", json!({"presence": false})).await;
    tenant.room("group", &["alice", "bob"]).await;
    let mut bob = tenant.user("bob").socket().await;

    let _alice = tenant.user("alice").socket().await;

    bob.hears_no("presence.update", SECOND).await;
    let asked = tenant.backend().get("/presence?user_ids=alice").await.expect(200);
    assert_eq!(asked.body["presence"]["alice"]["status"], "offline");
    for wrong in ["", "?user_ids=", "?user_ids=a%20b", &format!("?user_ids={}", vec!["a"; 101].join(","))] {
        assert_eq!(tenant.backend().get(&format!("/presence{wrong}")).await.status, 400, "{wrong}");
    }
}
