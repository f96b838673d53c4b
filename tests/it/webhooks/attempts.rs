//! What fails is tried again, given up, and tried again by hand; nobody else notices.

use std::collections::BTreeSet;
use std::time::Duration;

use chatapi_testkit::{Behaviour, Receiver};
use chatapi_tests::{Answer, App, Tenant};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{server, tenant_of, until};

/// Dead letters of the tenant, once there are as many.
async fn letters(tenant: &Tenant<'_>, many: usize) -> Answer {
    let ask = || async { tenant.backend().get("/admin/dead-letters").await.expect(200) };
    until("dead letters", ask, |answer| answer.body["dead_letters"].as_array().is_some_and(|all| all.len() == many))
        .await
}

#[tokio::test]
async fn a_call_that_fails_is_made_again_after_five_seconds_and_counted() {
    let (app, receiver) = (server().start().await, Receiver::start().await);
    let tenant = tenant_of(&app, &receiver).await;
    let room = tenant.room("group", &["alice"]).await;

    receiver.behave(Behaviour::Answer(503));
    tenant.user("alice").say(&room, "again and again").await;
    let first = receiver.next().await;
    let start = Instant::now();
    receiver.behave(Behaviour::Answer(204));
    let second = receiver.next().await;

    let pause = start.elapsed().as_secs_f64();
    assert!((4.4..7.5).contains(&pause), "{pause}");
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    assert_eq!(first.bytes, second.bytes);
    assert!(receiver.within(Duration::from_millis(1500)).await.is_none());
    let usage = || async { tenant.backend().get("/tenant/usage").await.expect(200) };
    until("usage", usage, |answer| {
        answer.body["usage"]
            .as_array()
            .is_some_and(|hours| hours.iter().filter_map(|hour| hour["webhook_attempts"].as_i64()).sum::<i64>() == 2)
    })
    .await;
    let metrics = app.get("/metrics").await.text;
    for line in ["chatapi_webhook_attempts_total 2", "chatapi_webhook_failures_total 1", "chatapi_webhooks_under_way 0"]
    {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let json = app.send("GET", "/metrics", &[("Accept", "application/json")], None).await.body;
    assert_eq!((&json["delivery_attempts"], &json["delivery_failures"]), (&json!(2), &json!(1)));
    letters(&tenant, 0).await;
}

#[tokio::test]
async fn what_cannot_be_told_is_a_dead_letter_that_can_be_tried_again() {
    let app = server().set("RETRY_MAX_ATTEMPTS", "0").start().await;
    let receiver = Receiver::start().await;
    let (tenant, other) = (tenant_of(&app, &receiver).await, tenant_of(&app, &receiver).await);
    let (room, foreign) = (tenant.room("group", &["alice"]).await, other.room("group", &["alice"]).await);

    receiver.behave(Behaviour::Answer(500));
    // What JSON can say and few can read goes through to the letter, in a list too.
    let odd = r#"{"content": "zero", "meta": {"z": 1e999, "a": 1.10, "z": "\ud800"}}"#;
    tenant.user("alice").post_raw(&format!("/rooms/{room}/messages"), "application/json", odd).await.expect(201);
    assert!(
        String::from_utf8_lossy(&receiver.next().await.bytes).contains(r#"{"z": 1e999, "a": 1.10, "z": "\ud800"}"#)
    );
    let listed = || async { tenant.backend().get("/admin/dead-letters").await };
    let to_the_letter = r#""meta":{"z": 1e999, "a": 1.10, "z": "\ud800"}"#;
    until("a dead letter", listed, |answer| answer.text.contains(to_the_letter)).await.expect(200);
    app.admin("GET", "/admin/dead-letters", None).await.expect(200);
    app.sql().await.execute("delete from deliveries", &[]).await.expect("seen enough of it");
    let mut said = Vec::new();
    for content in ["one", "two", "three"] {
        said.push(tenant.user("alice").say(&room, content).await);
        receiver.next().await;
    }
    other.user("alice").say(&foreign, "theirs").await;
    receiver.next().await;
    let own = letters(&tenant, 3).await;
    letters(&other, 1).await;

    // Newest first, in pages, one's own alone; the operator's all, or of one.
    let contents = |answer: &Answer| -> Vec<Value> {
        let letters = answer.body["dead_letters"].as_array().expect("a list");
        letters.iter().map(|letter| letter["body"]["message"]["content"].clone()).collect()
    };
    assert_eq!(contents(&own), ["three", "two", "one"]);
    let letter = &own.body["dead_letters"][0];
    assert_eq!(
        (&letter["attempts"], &letter["last_status"], &letter["event"]),
        (&json!(1), &json!(500), &json!("message.sent"))
    );
    assert_eq!((&letter["last_error"], &letter["tenant_id"]), (&json!("it answered 500"), &json!(tenant.id)));
    assert!(letter["at"].is_string() && letter["failed_at"].is_string());
    let page = tenant.backend().get("/admin/dead-letters?limit=2").await.expect(200);
    let next = format!("/admin/dead-letters?limit=2&cursor={}", page.text_of("next_cursor"));
    let last = tenant.backend().get(&next).await.expect(200);
    assert_eq!(
        (contents(&page).len(), contents(&last), &last.body["next_cursor"]),
        (2, vec![json!("one")], &Value::Null)
    );
    let all = app.admin("GET", "/admin/dead-letters", None).await.expect(200);
    assert_eq!(contents(&all), ["theirs", "three", "two", "one"]);
    let of_one = app.admin("GET", &format!("/admin/dead-letters?tenant_id={}", other.id), None).await.expect(200);
    assert_eq!(contents(&of_one), ["theirs"]);

    // Again, though it is old: it fails again, and comes back; then it arrives, and is gone.
    let old = "update deliveries set at = at - interval '3 days', due_at = due_at - interval '3 days'";
    app.sql().await.execute(old, &[]).await.expect("aged");
    let id = letter["id"].as_str().expect("an id").to_owned();
    let path = format!("/admin/dead-letters/{id}/retry");
    tenant.backend().post(&path, json!({})).await.expect(202);
    assert_eq!(receiver.next().await.header("webhook-id"), id);
    letters(&tenant, 3).await;
    receiver.behave(Behaviour::Answer(200));
    let retried = app.admin("POST", &path, Some(json!({}))).await.expect(202);
    assert_eq!((retried.text_of("id"), retried.text_of("tenant_id")), (id.clone(), tenant.id.clone()));
    assert_eq!(receiver.next().await.header("webhook-id"), id);
    letters(&tenant, 2).await;
    app.admin("POST", &path, Some(json!({}))).await.expect_error(404, "not_found", "Dead letter not found");

    // What is deleted is in no dead letter either, nor in any row of the database.
    let path = format!("/rooms/{room}/messages/{}", said[1]["message_id"].as_str().expect("an id"));
    tenant.user("alice").delete(&path).await.expect(204);
    assert_eq!(contents(&letters(&tenant, 2).await), ["", "one"]);
    let rows = app.sql().await.query("select to_jsonb(d)::text from deliveries d", &[]).await.expect("rows");
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| !row.get::<_, String>(0).contains("two")));
    tenant.user("alice").delete(&format!("/rooms/{room}")).await.expect(204);
    let gone = letters(&tenant, 2).await;
    assert!(gone.body["dead_letters"].as_array().expect("a list").iter().all(|letter| letter["body"].is_null()));

    // Trying again is in the audit log, refusals too.
    app.send("POST", &format!("/admin/dead-letters/{id}/retry"), &[("X-Master-Key", "wrong")], None).await.expect(401);
    app.send("GET", "/admin/dead-letters", &[], None).await.expect_error(
        401,
        "unauthorized",
        "Invalid or missing X-Master-Key header",
    );
    let log = app.admin("GET", "/admin/audit-log?limit=5", None).await.expect(200);
    let part = |field: &str| log.each("entries", field);
    assert_eq!(
        part("action")[..4],
        ["dead_letter.list", "dead_letter.retry", "dead_letter.retry", "dead_letter.retry"]
    );
    assert_eq!(part("outcome")[..5], ["unauthorized", "unauthorized", "not_found", "ok", "ok"]);
    assert_eq!(part("actor")[..4], ["unknown", "unknown", "master", "master"]);
    assert_eq!(part("actor")[4], format!("key_{}", &tenant.key[3..15]));
    assert!(part("target")[1..5].iter().all(|target| *target == id));
    assert_eq!(part("tenant_id")[3..5], [tenant.id.as_str(), &tenant.id]);
}

#[tokio::test]
async fn dead_letters_are_forgotten_after_a_week_and_with_their_tenant() {
    let (app, receiver) = (server().set("RETRY_MAX_ATTEMPTS", "0").start().await, Receiver::start().await);
    let tenant = tenant_of(&app, &receiver).await;
    let room = tenant.room("group", &["alice"]).await;
    receiver.behave(Behaviour::Answer(500));
    for content in ["old", "young"] {
        tenant.user("alice").say(&room, content).await;
        receiver.next().await;
    }
    letters(&tenant, 2).await;

    let sql = app.sql().await;
    let old = "update deliveries set failed_at = now() - interval '8 days'
                where event_id = (select min(event_id::text)::uuid from deliveries)";
    sql.execute(old, &[]).await.expect("aged");
    // An older server, which knows nothing of webhooks, erased a tenant and left this.
    let orphans = "
        insert into outbox (tenant_id, event_id, event, at) values (new_id(), new_id(), 'room.deleted', now());
        insert into deliveries (tenant_id, event_id, event, at, due_at)
        values (new_id(), new_id(), 'room.deleted', now(), now())";
    sql.batch_execute(orphans).await.expect("left behind");
    tenant.backend().patch("/tenant", json!({"name": "looked at"})).await.expect(200);

    let kept = letters(&tenant, 1).await;
    assert_eq!(kept.body["dead_letters"][0]["body"]["message"]["content"], "young");
    let left = "select (select count(*) from outbox) + (select count(*) from deliveries)";
    let start = Instant::now();
    while sql.query_one(left, &[]).await.expect("counted").get::<_, i64>(0) > 1 {
        assert!(start.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_told_nothing_until_it_is_set_again() {
    let (app, receiver) = (server().start().await, Receiver::start().await);
    let two = app.second_node().await;
    two.ready().await;
    let tenant = tenant_of(&app, &receiver).await;
    let there = tenant.through(&two);
    let room = tenant.room("group", &["alice"]).await;
    let own = || async { there.backend().get("/tenant").await.expect(200) };

    receiver.behave(Behaviour::Answer(410));
    tenant.user("alice").say(&room, "gone").await;
    receiver.next().await;
    let disabled = until("disabled", own, |answer| answer.body["config"]["webhook_disabled_at"].is_string()).await;
    letters(&tenant, 1).await;
    receiver.behave(Behaviour::Answer(200));
    let set = json!({"config": {"webhook_disabled_at": null, "webhook_events": ["message.sent", "room.updated"]}});
    tenant.backend().patch("/tenant", set).await.expect(200);
    for tenant in [&tenant, &there] {
        tenant.user("alice").say(&room, "nobody listens").await;
    }
    assert!(receiver.within(Duration::from_millis(1500)).await.is_none());
    let url = json!({"config": {"webhook_url": disabled.body["config"]["webhook_url"]}});
    let enabled = tenant.backend().patch("/tenant", url).await.expect(200);
    until("enabled", own, |answer| answer.body["config"]["webhook_disabled_at"].is_null()).await;
    there.user("alice").say(&room, "here again").await;

    assert_eq!(enabled.body["config"]["webhook_disabled_at"], Value::Null);
    assert_eq!(receiver.next().await.body["message"]["content"], "here again");
}

#[tokio::test]
async fn a_slow_endpoint_delays_no_other_and_what_waits_for_it_is_not_lost() {
    let app = server().set("SHUTDOWN_DRAIN_TIMEOUT", "1s").start().await;
    let (slow, quick) = (Receiver::start().await, Receiver::start().await);
    let (one, other) = (tenant_of(&app, &slow).await, tenant_of(&app, &quick).await);
    let (of_one, of_other) = (one.room("group", &["alice"]).await, other.room("group", &["alice"]).await);
    slow.behave(Behaviour::Hang);

    for n in 0..60 {
        one.user("alice").say(&of_one, &format!("{n}")).await;
    }
    slow.next().await;
    for _ in 0..5 {
        let start = Instant::now();
        other.user("alice").say(&of_other, "quick").await;
        quick.next().await;
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    // It stops in its time though calls hang, and tells the rest after the next start.
    let mut app = app;
    let start = Instant::now();
    assert_eq!(app.signal("TERM").await, Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let waiting = "select (select count(*) from outbox) + (select count(*) from deliveries)";
    let left: i64 = app.sql().await.query_one(waiting, &[]).await.expect("counted").get(0);
    assert_eq!(left, 60);
    slow.behave(Behaviour::Answer(200));
    app.sql().await.execute("update deliveries set due_at = now()", &[]).await.expect("the leases are over");
    let app = app.restart().await;
    app.ready().await;
    let mut told = BTreeSet::new();
    while told.len() < 60 {
        told.insert(slow.next().await.body["message"]["content"].to_string());
    }
    let sql = app.sql().await;
    let start = Instant::now();
    while sql.query_one(waiting, &[]).await.expect("counted").get::<_, i64>(0) > 0 {
        assert!(start.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_an_answer() {
    let (app, receiver) = (server().start().await, Receiver::start().await);
    let tenant = tenant_of(&app, &receiver).await;
    receiver.behave(Behaviour::Trickle);

    let room = tenant.room("group", &["alice"]).await;
    tenant.user("alice").say(&room, "told").await;
    let backend = tenant.backend();
    let test = || backend.post("/tenant/webhook/test", json!({}));
    let (answer, second) = tokio::join!(test(), async {
        receiver.several(2).await;
        test().await
    });

    for (field, value) in [("delivered", json!(true)), ("status", json!(200)), ("body", json!("the beginning"))] {
        assert_eq!(answer.body[field], value, "{}", answer.text);
    }
    second.expect_error(429, "rate_limit_exceeded", "The endpoint is being tried out already");
    let metrics = async || app.send("GET", "/metrics", &[("Accept", "application/json")], None).await;
    until("no failure", metrics, |answer| answer.body["delivery_attempts"] == 2).await;
    assert_eq!(metrics().await.body["delivery_failures"], 0);
    letters(&tenant, 0).await;
    assert!(receiver.within(Duration::from_secs(1)).await.is_none(), "it is not sent again");
}

#[tokio::test]
async fn an_endpoint_that_says_only_that_it_will_answer_is_cut_off() {
    let (app, receiver) = (server().set("RETRY_MAX_ATTEMPTS", "0").start().await, Receiver::start().await);
    let tenant = tenant_of(&app, &receiver).await;
    receiver.behave(Behaviour::Interim);

    let start = Instant::now();
    let answer = tenant.backend().post("/tenant/webhook/test", json!({})).await.expect(200);

    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!((&answer.body["delivered"], &answer.body["status"]), (&json!(false), &Value::Null));
    assert!(answer.text.contains("the answer is too long"), "{}", answer.text);
}

#[tokio::test]
async fn a_late_410_says_nothing_of_an_endpoint_that_was_set_meanwhile() {
    let (app, receiver) = (server().start().await, Receiver::start().await);
    let tenant = tenant_of(&app, &receiver).await;
    let (room, late) = (tenant.room("group", &["alice"]).await, Duration::from_secs(1));
    receiver.behave(Behaviour::Late(late, 410));
    let failed = async || app.send("GET", "/metrics", &[("Accept", "application/json")], None).await;

    tenant.user("alice").say(&room, "an old call").await;
    receiver.next().await;
    let set = json!({"config": {"webhook_url": receiver.url()}});
    tenant.backend().patch("/tenant", set).await.expect(200);
    until("the late answer", failed, |answer| answer.body["delivery_failures"] == 1).await;
    receiver.behave(Behaviour::Answer(200));
    app.sql().await.execute("update deliveries set due_at = now()", &[]).await.expect("again at once");

    assert_eq!(receiver.next().await.body["message"]["content"], "an old call", "it was but a failure");
    let own = tenant.backend().get("/tenant").await.expect(200);
    assert_eq!(own.body["config"]["webhook_disabled_at"], Value::Null);
    letters(&tenant, 0).await;
}

/// What is still to be told was due days ago, as far as the server knows that begins now.
async fn days_later(mut app: App) -> App {
    app.signal("TERM").await;
    let days = "update deliveries set at = at - interval '3 days', due_at = now() - interval '3 days'";
    app.sql().await.execute(days, &[]).await.expect("aged");
    let app = app.restart().await;
    app.ready().await;
    app
}

#[tokio::test]
async fn what_waits_for_days_for_an_endpoint_that_fails_is_given_up_unasked() {
    let (app, receiver) = (server().start().await, Receiver::start().await);
    let tenant = tenant_of(&app, &receiver).await;
    let room = tenant.room("group", &["alice"]).await;
    receiver.behave(Behaviour::Answer(500));
    for n in 0..12 {
        tenant.user("alice").say(&room, &n.to_string()).await;
    }
    receiver.several(12).await;
    let failed = async || app.send("GET", "/metrics", &[("Accept", "application/json")], None).await;
    until("failures", failed, |answer| answer.body["delivery_failures"] == 12).await;
    let id = tenant.id.clone();

    let app = days_later(app).await;

    // A few are tried until it is known that it fails still.
    let path = format!("/admin/dead-letters?tenant_id={id}");
    let listed = || async { app.admin("GET", &path, None).await.expect(200) };
    let given_up = until("dead letters", listed, |answer| answer.each("dead_letters", "id").len() >= 8).await;
    assert!(given_up.each("dead_letters", "last_error").iter().all(|why| *why == "it waited too long for its turn"));
    let mut tried = 0;
    while receiver.within(Duration::from_millis(200)).await.is_some() {
        tried += 1;
    }
    assert!((1..=4).contains(&tried), "{tried}");
}

#[tokio::test]
async fn a_suspended_tenants_endpoint_is_told_when_it_is_active_again() {
    let (app, receiver) = (server().start().await, Receiver::start().await);
    let tenant = tenant_of(&app, &receiver).await;
    let room = tenant.room("group", &["alice"]).await;
    let path = format!("/admin/tenants/{}", tenant.id);
    let status =
        async |app: &App, word: &str| app.admin("PATCH", &path, Some(json!({"status": word}))).await.expect(200);

    receiver.behave(Behaviour::Answer(500));
    tenant.user("alice").say(&room, "told later").await;
    receiver.next().await;
    status(&app, "suspended").await;
    receiver.behave(Behaviour::Answer(200));
    // However long it lasts.
    let app = days_later(app).await;
    assert!(receiver.within(Duration::from_millis(1500)).await.is_none());
    status(&app, "active").await;

    assert_eq!(receiver.next().await.body["message"]["content"], "told later");
}
