//! What the operator and the tenant do to keys and tenants, while others ask and on other nodes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chatapi_testkit::{Call, Receiver};
use chatapi_tests::{Answer, App, Tenant};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// Waits at most a second until asking the other node comes out as it must.
async fn soon<F: Future<Output = Answer>>(what: &str, ask: impl Fn() -> F, right: impl Fn(&Answer) -> bool) {
    let start = Instant::now();
    loop {
        let answer = ask().await;
        if right(&answer) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(1), "{what}: {} {}", answer.status, answer.text);
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_done_on_one_node_holds_on_the_other_within_a_second() {
    let one = App::builder().set("WEBHOOK_ALLOW_PRIVATE", "true").start().await;
    let two = one.second_node().await;
    two.ready().await;
    let tenant = one.tenant("t").await;
    let (there, room) = (tenant.through(&two), tenant.room("group", &["alice"]).await);
    let (path, messages) = (format!("/admin/tenants/{}", tenant.id), format!("/rooms/{room}/messages"));
    let own = || async { there.backend().get("/tenant").await };
    let status = |wanted: u16| move |answer: &Answer| answer.status == wanted;

    // A tenant and a key that were just made need no time at all.
    own().await.expect(200);
    let change = |body: Value| one.admin("PATCH", &path, Some(body));
    change(json!({"name": "new", "config": {"max_message_bytes": 5}})).await.expect(200);
    soon("name", own, |answer| answer.body["name"] == "new").await;
    soon(
        "a setting",
        || async { there.user("alice").post(&messages, json!({"content": "too long"})).await },
        status(413),
    )
    .await;
    tenant.backend().patch("/tenant", json!({"config": {"max_message_bytes": null}})).await.expect(200);
    soon("the tenant's own", own, |answer| answer.body["config"]["max_message_bytes"] == 16384).await;
    change(json!({"config": {"rate_limit": 2, "rate_burst": 2}})).await.expect(200);
    soon("its rate", own, status(429)).await;
    change(json!({"config": {"rate_limit": null, "rate_burst": null}})).await.expect(200);
    soon("its rate again", own, status(200)).await;
    change(json!({"config": {"monthly_message_quota": 0}})).await.expect(200);
    soon(
        "its quota",
        || async { there.user("alice").post(&messages, json!({"content": "x"})).await },
        |answer| answer.body["error"] == "quota_exceeded",
    )
    .await;
    change(json!({"config": {"monthly_message_quota": null}})).await.expect(200);
    webhooks_within_a_second(&tenant, &there, &messages).await;
    change(json!({"status": "suspended"})).await.expect(200);
    soon("suspended", own, status(403)).await;
    change(json!({"status": "active"})).await.expect(200);
    soon("resumed", own, status(200)).await;

    let second = tenant.backend().post("/tenant/keys", json!({})).await.expect(201);
    let second = there.with_key(&second.text_of("api_key"));
    second.backend().get("/tenant").await.expect(200);
    tenant.backend().delete(&format!("/tenant/keys/key_{}", &second.key[3..15])).await.expect(204);
    soon("revoked", || async { second.backend().get("/tenant").await }, status(401)).await;
    let rotate = format!("{path}/keys/key_{}/rotate", &tenant.key[3..15]);
    let third = one.admin("POST", &rotate, Some(json!({"grace_seconds": 0}))).await.expect(201);
    let third = there.with_key(&third.text_of("api_key"));
    third.backend().get("/tenant").await.expect(200);
    soon("rotated", own, status(401)).await;
    one.admin("DELETE", &path, None).await.expect(202);
    soon("deleted", || async { third.backend().get("/tenant").await }, status(401)).await;
    let log = two.admin("GET", "/admin/audit-log", None).await.expect(200);
    assert_eq!(log.body["entries"][0]["action"], "tenant.delete");
}

/// An endpoint, its secret and its events, set on one node, hold for what the other stores.
async fn webhooks_within_a_second(here: &Tenant<'_>, there: &Tenant<'_>, messages: &str) {
    let receiver = Receiver::start().await;
    let say_until = async |what: &str, told: bool, right: fn(&Call) -> bool| {
        let start = Instant::now();
        loop {
            let (user, asked_at) = (there.user("alice"), start.elapsed());
            let sent = user.post(messages, json!({"content": "x"})).await;
            // A quota that was lifted a moment ago may stand in its way.
            if sent.status == 201 {
                let call = receiver.within(Duration::from_millis(400)).await;
                if call.as_ref().is_some_and(right) || (call.is_none() && !told) {
                    return;
                }
            }
            assert!(asked_at < Duration::from_secs(1), "{what}");
        }
    };
    let set = async |config: Value| {
        here.backend().patch("/tenant", json!({ "config": config })).await.expect(200);
    };

    set(json!({"webhook_url": receiver.url(), "webhook_events": ["message.sent"]})).await;
    say_until("an endpoint", true, |_| true).await;
    set(json!({"webhook_secret": "secret"})).await;
    say_until("its secret", true, |call| !call.header("webhook-signature").is_empty()).await;
    set(json!({"webhook_events": ["room.deleted"]})).await;
    say_until("its events", false, |_| false).await;
    set(json!({"webhook_url": null})).await;
}

/// Asks over and over until `stop`, with the key of the moment; how often it was answered.
async fn ask_on(tenant: &Tenant<'_>, room: &str, key: &std::sync::Mutex<String>, stop: &AtomicBool) -> u32 {
    let mut answers = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = key.lock().expect("not poisoned").clone();
        let user = tenant.with_key(&key).user("alice");
        let (path, body) = (format!("/rooms/{room}/messages"), json!({"content": "x"}));
        let answer = if answers % 2 == 0 { user.post(&path, body).await } else { user.get(&path).await };
        assert!(answer.status < 300, "{} {}", answer.status, answer.text);
        answers += 1;
    }
    answers
}

#[tokio::test]
async fn rotation_under_load_fails_no_request_of_a_client_that_changes_keys_within_the_grace() {
    let one = App::start().await;
    let two = one.second_node().await;
    two.ready().await;
    let tenant = one.tenant("t").await;
    let (there, room) = (tenant.through(&two), tenant.room("group", &["alice"]).await);
    let (key, stop) = (std::sync::Mutex::new(tenant.key.clone()), AtomicBool::new(false));

    let rotating = async {
        for _ in 0..4 {
            sleep(Duration::from_millis(300)).await;
            let old = key.lock().expect("not poisoned").clone();
            let path = format!("/tenant/keys/key_{}/rotate", &old[3..15]);
            let made = tenant.with_key(&old).backend().post(&path, json!({"grace_seconds": 2})).await.expect(201);
            // The client learns of it a while later, well within the grace.
            sleep(Duration::from_millis(500)).await;
            *key.lock().expect("not poisoned") = made.text_of("api_key");
        }
        // The first keys are over by now.
        tenant.backend().get("/tenant").await.expect_error(401, "unauthorized", "Invalid API key");
        stop.store(true, Ordering::Relaxed);
    };
    let asking = (0..8).map(|n| ask_on(if n % 2 == 0 { &tenant } else { &there }, &room, &key, &stop));
    let (answers, ()) = tokio::join!(futures_util::future::join_all(asking), rotating);

    assert!(answers.iter().all(|answers| *answers > 20), "{answers:?}");
}
