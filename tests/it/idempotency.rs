//! api.md 1: `Idempotency-Key`.

use std::collections::HashSet;

use chatapi_tests::App;
use futures_util::future::join_all;
use serde_json::{Value, json};

#[tokio::test]
async fn the_first_answer_is_given_again_and_nothing_done_twice() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let alice = tenant.user("alice");
    let body = json!({"type": "group", "members": ["bob"]});

    let first = alice.post_once("key-1", "/rooms", &body).await.expect(201);
    let again = alice.post_once("\"key-1\"", "/rooms", &body).await.expect(201);

    assert_eq!((first.header("idempotent-replayed"), again.header("idempotent-replayed")), ("", "true"));
    assert_eq!(first.text, again.text);
    assert_ne!(first.header("x-request-id"), again.header("x-request-id"));
    assert_eq!(alice.get("/rooms").await.expect(200).each("rooms", "room_id").len(), 1);
    let other_key = alice.post_once("key-2", "/rooms", &body).await.expect(201);
    let other_user = tenant.user("bob").post_once("key-1", "/rooms", &body).await.expect(201);
    let ids = [&first, &other_key, &other_user].map(|answer| answer.text_of("room_id"));
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 3, "another key or caller is another request");
}

#[tokio::test]
async fn the_same_key_with_another_body_is_refused_and_on_another_path_another_key() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let alice = tenant.user("alice");
    let room = tenant.room("group", &["alice"]).await;
    let path = format!("/rooms/{room}/messages");

    alice.post_once("key", &path, &json!({"content": "one"})).await.expect(201);
    let reused = alice.post_once("key", &path, &json!({"content": "two"})).await;
    let message = "This Idempotency-Key was used for another body";
    reused.expect_error(422, "idempotency_key_reused", message);
    let elsewhere = alice.post_once("key", "/rooms", &json!({"type": "channel"})).await;
    assert_eq!(elsewhere.status, 201);
    let long = "x".repeat(256);
    for bad in ["", "a b", long.as_str()] {
        assert_eq!(alice.post_once(bad, &path, &json!({"content": "x"})).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn many_at_once_are_one() {
    let app = App::start().await;
    let other = app.second_node().await;
    other.ready().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    let path = format!("/rooms/{room}/messages");
    let send = |n: usize| {
        let caller = if n.is_multiple_of(2) { tenant.user("alice") } else { tenant.through(&other).user("alice") };
        let path = path.clone();
        async move { caller.post_once("key", &path, &json!({"content": "x"})).await }
    };

    let answers = join_all((0..20).map(send)).await;

    assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
    assert_eq!(answers.iter().map(|answer| &answer.text).collect::<HashSet<_>>().len(), 1);
    let first = answers.iter().filter(|answer| answer.header("idempotent-replayed").is_empty()).count();
    assert_eq!(first, 1);
    assert_eq!(tenant.user("alice").get(&path).await.expect(200).each("messages", "seq"), [1]);
}

#[tokio::test]
async fn refused_input_is_not_kept_but_a_conflict_is() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let alice = tenant.user("alice");
    let dm = tenant.room("dm", &["alice", "bob"]).await;

    for _ in 0..2 {
        let bad = alice.post_once("bad", "/rooms", &json!({"type": "club"})).await;
        assert_eq!((bad.status, bad.header("idempotent-replayed")), (400, ""));
    }
    let good = alice.post_once("bad", "/rooms", &json!({"type": "channel"})).await;
    assert_eq!(good.status, 201, "the key is free again");
    let leave = format!("/rooms/{dm}/leave");
    let first = alice.post_once("leave", &leave, &json!({})).await.expect(409);
    let again = alice.post_once("leave", &leave, &json!({})).await.expect(409);
    assert_eq!((&first.text, again.header("idempotent-replayed")), (&again.text, "true"));
}

#[tokio::test]
async fn a_secret_is_never_kept() {
    let app = App::start().await;
    let create = || async {
        let request = app.request("POST", "/admin/tenants").header("Idempotency-Key", "key");
        let request = request.header("X-Master-Key", "the-master-key-of-the-end-to-end-tests");
        let text = request.json(&json!({"name": "t"})).send().await.expect("an answer").text().await.expect("a body");
        serde_json::from_str::<Value>(&text).expect("JSON")
    };

    let (first, again) = (create().await, create().await);

    assert_eq!(first["tenant_id"], again["tenant_id"]);
    assert!(first["api_key"].is_string());
    assert_eq!(again["api_key"], Value::Null);
    let sql = app.sql().await;
    let kept = sql.query_one("select convert_from(body, 'UTF8') from idempotency_keys", &[]).await.expect("one row");
    let secret = &first["api_key"].as_str().expect("a key")[15..];
    assert!(!kept.get::<_, &str>(0).contains(secret));
    assert_eq!(app.admin("GET", "/admin/tenants", None).await.expect(200).each("tenants", "name"), ["t"]);
}

#[tokio::test]
async fn after_a_crash_between_work_and_answer_the_work_is_found_and_not_done_again() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let alice = tenant.user("alice");
    let room = tenant.room("group", &["alice"]).await;
    let path = format!("/rooms/{room}/messages");
    let (message, group) = (json!({"content": "x"}), json!({"type": "group", "members": ["bob"]}));
    let sent = alice.post_once("key", &path, &message).await.expect(201);
    let made = alice.post_once("key", "/rooms", &group).await.expect(201);
    // As a process leaves it that dies before it has kept its answers.
    let lost = "update idempotency_keys set status = null, body = null, message_id = null, room_id = null,
                       locked_until = now() - interval '1 second'";
    assert_eq!(app.sql().await.execute(lost, &[]).await.expect("two rows"), 2);

    let sent_again = alice.post_once("key", &path, &message).await.expect(201);
    let made_again = alice.post_once("key", "/rooms", &group).await.expect(201);

    assert_eq!((sent.text, made.text), (sent_again.text, made_again.text));
    assert_eq!(alice.get(&path).await.expect(200).each("messages", "seq"), [1]);
    assert_eq!(alice.get("/rooms").await.expect(200).each("rooms", "room_id").len(), 2);
}
