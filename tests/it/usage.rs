//! api.md 3 and 8: usage, the monthly quota, and how long messages are kept.

use std::time::Duration;

use chatapi_tests::{App, MASTER_KEY, Tenant};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// The last period of a tenant's own usage.
async fn last_hour(tenant: &Tenant<'_>) -> Value {
    let usage = tenant.backend().get("/tenant/usage").await.expect(200);
    usage.body["usage"].as_array().and_then(|usage| usage.last()).expect("this hour").clone()
}

/// Messages of all hours: a test may run while one turns.
async fn sent(tenant: &Tenant<'_>) -> i64 {
    let usage = tenant.backend().get("/tenant/usage?granularity=day").await.expect(200);
    usage.each("usage", "messages_sent").iter().filter_map(Value::as_i64).sum()
}

async fn until<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn messages_sent_is_exact_at_once_whatever_is_deleted_and_the_rest_follows() {
    let app = App::start().await;
    let (tenant, other) = (app.tenant("t").await, app.tenant("other").await);
    let (alice, bob) = (tenant.user("alice"), tenant.user("bob"));
    let room = tenant.room("group", &["alice", "bob"]).await;
    let mut socket = bob.socket().await;
    for n in 0..20 {
        alice.say(&room, "four").await;
        assert_eq!(sent(&tenant).await, n + 1);
    }
    let batch = (0..30).map(|_| alice.say(&room, "four"));
    let messages = futures_util::future::join_all(batch).await;
    // Refused ones, and one that was there before, are none.
    assert_eq!(tenant.user("eve").post(&format!("/rooms/{room}/messages"), json!({"content": "x"})).await.status, 404);
    let named = json!({"content": "four", "client_message_id": "c"});
    bob.post(&format!("/rooms/{room}/messages"), named.clone()).await.expect(201);
    bob.post(&format!("/rooms/{room}/messages"), named).await.expect(200);
    assert_eq!((sent(&tenant).await, sent(&other).await), (51, 0));

    let id = messages[0]["message_id"].as_str().expect("an id");
    alice.delete(&format!("/rooms/{room}/messages/{id}")).await.expect(204);
    alice.delete(&format!("/rooms/{room}")).await.expect(204);
    let sql = app.sql().await;
    until("the room's messages go", async || {
        let left = sql.query_one("select count(*) from messages", &[]).await.expect("counted");
        assert_eq!(sent(&tenant).await, 51, "at every moment");
        left.get::<_, i64>(0) == 0
    })
    .await;
    socket.until("room.deleted").await;
    until("the rest within ten seconds", async || {
        let hour = last_hour(&tenant).await;
        hour["message_bytes"] == 204 && hour["active_users"] == 3 && hour["peak_connections"] == 1
    })
    .await;
    let hour = last_hour(&tenant).await;
    assert!(hour["events_delivered"].as_i64() >= Some(51) && hour["requests"].as_i64() >= Some(70), "{hour}");
    assert_eq!((&hour["rate_limited"], &hour["tenant_id"]), (&json!(0), &json!(tenant.id)));
    let idle = last_hour(&other).await;
    assert_eq!(
        (&idle["message_bytes"], &idle["active_users"], &idle["events_delivered"]),
        (&json!(0), &json!(0), &json!(0))
    );
}

#[tokio::test]
async fn usage_comes_by_hour_and_day_for_one_and_for_all_as_json_and_csv() {
    let app = App::start().await;
    let (first, second) =
        (app.tenant("a").await, app.tenant_with("b", json!({"rate_burst": 1, "rate_limit": 1})).await);
    let room = first.room("group", &["alice"]).await;
    first.user("alice").say(&room, "x").await;
    for _ in 0..5 {
        second.backend().get("/tenant").await;
    }
    let path = format!("/admin/tenants/{}/usage", first.id);

    let hours =
        app.admin("GET", &format!("{path}?from=2026-01-01T10:30:00Z&to=2026-01-01T12:00:00.000001Z"), None).await;
    let from: Vec<Value> = hours.expect(200).each("usage", "from");
    let hour = |text: &str| json!(format!("2026-01-01T{text}:00:00.000000Z"));
    assert_eq!(from, [hour("10"), hour("11"), hour("12")], "whole hours");
    let days = app.admin("GET", &format!("{path}?granularity=day"), None).await.expect(200);
    assert_eq!(days.each("usage", "messages_sent").len(), 30);
    assert_eq!(days.each("usage", "messages_sent").iter().filter_map(Value::as_i64).sum::<i64>(), 1);
    let csv = |path: &str| app.request("GET", path).header("X-Master-Key", MASTER_KEY).header("Accept", "text/csv");
    until("the rest is added", async || {
        let all = app.admin("GET", "/admin/usage", None).await.expect(200);
        all.each("usage", "rate_limited").iter().any(|limited| limited.as_i64() > Some(0))
    })
    .await;
    let all = app.admin("GET", "/admin/usage", None).await.expect(200);
    assert_eq!(all.each("usage", "tenant_id"), [json!(first.id), json!(second.id)]);
    assert_eq!(
        (all.each("usage", "messages_sent"), &all.body["next_cursor"]),
        (vec![json!(1), json!(0)], &Value::Null)
    );
    let page = app.admin("GET", "/admin/usage?limit=1", None).await.expect(200);
    let next = format!("/admin/usage?limit=1&cursor={}", page.text_of("next_cursor"));
    assert_eq!(app.admin("GET", &next, None).await.expect(200).each("usage", "tenant_id"), [json!(second.id)]);

    let answer = csv("/admin/usage").send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.headers()["content-type"].to_str().expect("a text").starts_with("text/csv"));
    let table = answer.text().await.expect("a table");
    let lines: Vec<&str> = table.split_terminator("\r\n").collect();
    let header = "tenant_id,from,to,requests,rate_limited,messages_sent,message_bytes,events_delivered,\
                  peak_connections,active_users,webhook_attempts";
    assert_eq!((lines.len(), lines[0]), (3, header));
    for (line, usage) in lines[1..].iter().zip(all.body["usage"].as_array().expect("usage")) {
        let cells: Vec<String> = header.split(',').map(|name| usage[name].to_string().replace('"', "")).collect();
        assert_eq!(cells[..3], line.split(',').collect::<Vec<_>>()[..3]);
        assert_eq!(line.split(',').count(), cells.len());
    }
    let own = first.backend().request("GET", "/tenant/usage").header("Accept", "text/csv").send().await;
    assert_eq!(own.expect("an answer").text().await.expect("a table").lines().count(), 25);
}

#[tokio::test]
async fn what_is_wrong_with_a_question_for_usage_is_said() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let path = format!("/admin/tenants/{}/usage", tenant.id);
    for (query, message) in [
        ("granularity=month", "granularity: expected 'hour' or 'day'"),
        ("from=yesterday", "from: expected a time like 2026-01-31T12:00:00Z"),
        ("from=-000001-12-31T23:59:59Z", "from: expected a time like 2026-01-31T12:00:00Z"),
        ("to=2026-01-01", "to: expected a time like 2026-01-31T12:00:00Z"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from: expected a time before to"),
        ("from=2020-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "from: expected at most 745 periods before to"),
    ] {
        let wrong = app.admin("GET", &format!("{path}?{query}"), None).await;
        wrong.expect_error(400, "invalid_request", message);
    }
    let absent = "/admin/tenants/tenant_01m85d2282fwpbhy8gt3navx71/usage";
    app.admin("GET", absent, None).await.expect_error(404, "not_found", "Tenant not found");
    let cursor = app.admin("GET", "/admin/usage?cursor=x", None).await;
    cursor.expect_error(400, "invalid_request", "cursor: expected the next_cursor of a page of this list");
    let refused = app.get("/admin/usage").await;
    refused.expect_error(401, "unauthorized", "Invalid or missing X-Master-Key header");
    let log = app.admin("GET", "/admin/audit-log?limit=1", None).await.expect(200);
    let entry = &log.body["entries"][0];
    assert_eq!((&entry["action"], &entry["outcome"]), (&json!("usage.list"), &json!("unauthorized")));
}

#[tokio::test]
async fn closed_hours_keep_their_count_and_a_deleted_tenant_its_bill() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    for n in 0..10 {
        tenant.user("alice").say(&room, &n.to_string()).await;
    }
    // As if it had been three days ago.
    let sql = app.sql().await;
    let shift = "
        update messages set message_id = (lpad(to_hex(('x' || left(replace(message_id::text, '-', ''), 12))::bit(48)::bigint
            - 3 * 86400000), 12, '0') || right(replace(message_id::text, '-', ''), 20))::uuid;
        update tenants set created_at = created_at - interval '4 days'";
    sql.batch_execute(shift).await.expect("shifted");
    assert_eq!(sent(&tenant).await, 10);
    let path = format!("/admin/tenants/{}", tenant.id);

    // Any change wakes the sweeper.
    app.admin("PATCH", &path, Some(json!({"name": "new"}))).await.expect(200);
    until("the hours are closed", async || {
        let closed = "select coalesce(sum(total), 0)::bigint from messages_sent";
        sql.query_one(closed, &[]).await.expect("summed").get::<_, i64>(0) == 10
    })
    .await;
    assert_eq!(sent(&tenant).await, 10);
    tenant.user("alice").delete(&format!("/rooms/{room}")).await.expect(204);
    let second = tenant.room("group", &["alice"]).await;
    tenant.user("alice").say(&second, "today").await;
    until("the messages are gone", async || {
        let left = sql.query_one("select count(*) from messages", &[]).await.expect("counted");
        left.get::<_, i64>(0) == 1
    })
    .await;
    assert_eq!(sent(&tenant).await, 11);

    app.admin("DELETE", &path, None).await.expect(202);
    until("the tenant is gone", async || app.admin("GET", &path, None).await.status == 404).await;
    let from = "/admin/usage?from=2026-01-01T00:00:00Z";
    let bill = app.admin("GET", from, None).await.expect(200);
    assert_eq!(
        (bill.each("usage", "tenant_id"), bill.each("usage", "messages_sent")),
        (vec![json!(tenant.id)], vec![json!(11)])
    );
}

#[tokio::test]
async fn a_quota_ends_sending_until_the_month_does_and_nothing_else() {
    let app = App::start().await;
    let (tenant, other) = (app.tenant_with("t", json!({"monthly_message_quota": 5})).await, app.tenant("other").await);
    let (room, free) = (tenant.room("group", &["alice", "bob"]).await, other.room("group", &["alice"]).await);
    let (alice, path) = (tenant.user("alice"), format!("/rooms/{room}/messages"));
    let named = json!({"content": "x", "client_message_id": "first"});
    let first = alice.post(&path, named.clone()).await.expect(201);
    assert_eq!(alice.post(&path, json!({"content": ""})).await.status, 400, "what is refused is not counted");

    // Many at once: exactly as many as there is room for.
    let answers = futures_util::future::join_all((0..12).map(|_| alice.post(&path, json!({"content": "x"})))).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![201; 4], vec![429; 8]].concat());
    let refused = answers.iter().find(|answer| answer.status == 429).expect("one");
    refused.expect_error(429, "quota_exceeded", "The tenant's monthly message quota is used up");
    let left: i64 = app
        .sql()
        .await
        .query_one(
            "select extract(epoch from date_trunc('month', now() at time zone 'UTC') + interval '1 month'
                                   - now() at time zone 'UTC')::bigint",
            &[],
        )
        .await
        .expect("a time")
        .get(0);
    let retry: i64 = refused.header("retry-after").parse().expect("seconds");
    assert!((retry - left).abs() <= 5, "{retry} of {left}");

    assert_eq!(alice.post(&path, named).await.expect(200).body, first.body, "a repetition is answered");
    assert_eq!(tenant.user("eve").post(&path, json!({"content": "x"})).await.status, 404);
    let mut socket = alice.socket().await;
    let failed = socket.ask(json!({"type": "send_message", "room_id": room, "content": "x"})).await;
    assert_eq!((&failed["type"], &failed["code"]), (&json!("error"), &json!("quota_exceeded")));
    alice.get(&path).await.expect(200);
    other.user("alice").say(&free, "x").await;
    assert_eq!(sent(&tenant).await, 5);

    // A restart forgets nothing, a higher quota counts at once, none at all too.
    let admin = format!("/admin/tenants/{}", tenant.id);
    app.admin("PATCH", &admin, Some(json!({"config": {"monthly_message_quota": 6}}))).await.expect(200);
    alice.say(&room, "sixth").await;
    assert_eq!(alice.post(&path, json!({"content": "x"})).await.status, 429);
    let second = app.second_node().await;
    second.ready().await;
    let there = tenant.through(&second);
    assert_eq!(there.user("bob").post(&path, json!({"content": "x"})).await.status, 429, "another node counts too");
    app.admin("PATCH", &admin, Some(json!({"config": {"monthly_message_quota": null}}))).await.expect(200);
    alice.say(&room, "seventh").await;
    until("the other node hears of it", async || {
        there.user("bob").post(&path, json!({"content": "x"})).await.status == 201
    })
    .await;
}

#[tokio::test]
async fn what_is_older_than_the_retention_goes_and_seq_goes_on() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let (alice, bob) = (tenant.user("alice"), tenant.user("bob"));
    let (room, young) = (tenant.room("group", &["alice", "bob"]).await, tenant.room("group", &["alice"]).await);
    for n in 1..=30 {
        alice.say(&room, &n.to_string()).await;
    }
    alice.say(&young, "stays").await;
    let sql = app.sql().await;
    let age = "update messages set created_at = now() - interval '49 hours' where seq <= 20 and content <> 'stays'";
    assert_eq!(sql.execute(age, &[]).await.expect("aged"), 20);

    tenant.backend().patch("/tenant", json!({"config": {"retention_days": 2}})).await.expect(200);

    until("the room begins later", async || alice.get(&format!("/rooms/{room}")).await.body["first_seq"] == 21).await;
    until("the rows are gone", async || {
        sql.query_one("select count(*) from messages", &[]).await.expect("counted").get::<_, i64>(0) == 11
    })
    .await;
    let history = bob.get(&format!("/rooms/{room}/messages?limit=100")).await.expect(200);
    assert_eq!(history.each("messages", "seq"), (21..=30).map(Value::from).collect::<Vec<_>>());
    let rooms = bob.get("/rooms").await.expect(200);
    assert_eq!(
        (rooms.each("rooms", "unread_count"), rooms.each("rooms", "first_seq")),
        (vec![json!(10)], vec![json!(21)])
    );
    assert_eq!(alice.say(&room, "on").await["seq"], 31);
    assert_eq!(sent(&tenant).await, 32, "they were sent all the same");
    // Who was away longer than that is told what there is.
    let mut socket = bob.socket().await;
    let done = socket.ask(json!({"type": "sync", "rooms": {room.clone(): {"after_seq": 3}}})).await;
    assert_eq!(done["rooms"][&room], json!({"last_seq": 31, "last_change": 0, "has_more": false}));

    sql.execute("update messages set created_at = now() - interval '3 days' where content <> 'stays'", &[])
        .await
        .expect("aged");
    tenant.backend().patch("/tenant", json!({"config": {"retention_days": 1}})).await.expect(200);
    until("all of it goes", async || alice.get(&format!("/rooms/{room}")).await.body["first_seq"] == 32).await;
    let list = alice.get("/rooms").await.expect(200);
    let empty = list.body["rooms"].as_array().expect("rooms").iter().find(|found| found["room_id"] == json!(room));
    let empty = empty.expect("the room stays");
    assert_eq!(
        (&empty["last_message"], &empty["unread_count"], &empty["last_seq"]),
        (&Value::Null, &json!(0), &json!(31))
    );
    assert_eq!(alice.say(&room, "again").await["seq"], 32);
    let other = alice.get(&format!("/rooms/{young}")).await.expect(200);
    assert_eq!(other.body["first_seq"], 1);
}

#[tokio::test]
async fn what_is_about_to_be_erased_is_gone_already_and_is_not_kept_in_memory() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let (alice, room) = (tenant.user("alice"), tenant.room("group", &["alice"]).await);
    let mut ids = Vec::new();
    for n in 1..=20 {
        ids.push(alice.say(&room, &n.to_string()).await["message_id"].as_str().expect("an id").to_owned());
    }
    let path = format!("/rooms/{room}/messages?limit=5");
    alice.put(&format!("/rooms/{room}/messages/{}", ids[2]), json!({"content": "edited"})).await.expect(200);
    assert_eq!(alice.get(&path).await.expect(200).each("messages", "seq"), [1, 2, 3, 4, 5]);

    // As a sweeper leaves it that is cut off between the two.
    app.sql().await.execute("update rooms set first_seq = 11", &[]).await.expect("moved");

    for _ in 0..2 {
        assert_eq!(alice.get(&path).await.expect(200).each("messages", "seq"), [11, 12, 13, 14, 15]);
    }
    assert_eq!(alice.get(&format!("/rooms/{room}/messages/{}", ids[2])).await.status, 404);
    assert_eq!(alice.get(&format!("/rooms/{room}/changes")).await.expect(200).each("messages", "seq").len(), 0);
}

#[tokio::test]
async fn a_tenant_that_is_deleted_and_imported_again_has_its_own_history_and_counts_nothing_twice() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    let say = async |tenant: &Tenant<'_>, word: &str| {
        for n in 0..4 {
            tenant.user("alice").say(&room, &format!("{word} {n}")).await;
        }
    };
    say(&tenant, "kept").await;
    let file = app.export(&tenant.id).await;
    say(&tenant, "lost").await;
    let path = format!("/rooms/{room}/messages?after_seq=4&limit=2");
    for _ in 0..2 {
        assert_eq!(tenant.user("alice").get(&path).await.expect(200).each("messages", "content"), ["lost 0", "lost 1"]);
    }
    app.admin("DELETE", &format!("/admin/tenants/{}", tenant.id), None).await.expect(202);
    until("it is gone", async || app.admin("GET", &format!("/admin/tenants/{}", tenant.id), None).await.status == 404)
        .await;

    let back = app.import("", file).await.expect(201);

    let back = tenant.with_key(&back.text_of("api_key"));
    assert_eq!(sent(&back).await, 8, "what was sent, of which half is back");
    say(&back, "new").await;
    assert_eq!(back.user("alice").get(&path).await.expect(200).each("messages", "content"), ["new 0", "new 1"]);
    assert_eq!(sent(&back).await, 12);
}
