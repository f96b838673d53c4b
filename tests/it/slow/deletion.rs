//! A tenant that is being deleted goes to its last row, whatever is killed meanwhile.

use std::time::Duration;

use chatapi_tests::App;
use serde_json::json;
use tokio::time::{Instant, sleep};

/// 200 000 messages in 100 rooms, with ids of this moment: by them they are counted.
const FILL: &str = "
    with new as (
        insert into rooms (tenant_id, room_id, type, member_count, last_seq, created_at, updated_at, active_at, active_hour)
        select $1::text::uuid, gen_random_uuid(), 'group', 1, 2000, now(), now(), now(), 0 from generate_series(1, 100)
        returning tenant_id, room_id),
    members as (
        insert into room_members (tenant_id, user_id, room_id, role, joined_at, receipt_at)
        select tenant_id, 'alice', room_id, 'member', now(), now() from new)
    insert into messages (tenant_id, room_id, seq, message_id, sender_id, content, created_at)
    select tenant_id, room_id, n, (left(first_id(now())::text, 13) || right(gen_random_uuid()::text, 23))::uuid,
           'alice', 'some words of a message', now()
      from new, generate_series(1, 2000) n";

#[tokio::test]
async fn the_deletion_of_200_000_messages_ends_though_the_server_is_killed_in_the_middle() {
    let mut app = App::start().await;
    let (id, other) = (app.tenant("gone").await.id, app.tenant("stays").await);
    let room = other.room("group", &["alice"]).await;
    other.user("alice").say(&room, "stays").await;
    let other_key = other.key.clone();
    let sql = app.sql().await;
    let uuid: String = sql
        .query_one("select tenant_id::text from tenants where name = 'gone'", &[])
        .await
        .expect("it is there")
        .get(0);
    assert_eq!(sql.execute(FILL, &[&uuid]).await.expect("filled"), 200_000);
    let left = async || -> i64 { sql.query_one("select count(*) from messages", &[]).await.expect("counted").get(0) };
    let path = format!("/admin/tenants/{id}");

    app.admin("DELETE", &path, None).await.expect(202);
    let start = Instant::now();
    while left().await > 150_000 {
        assert!(start.elapsed() < Duration::from_mins(1), "it goes");
        sleep(Duration::from_millis(20)).await;
    }
    let shown = app.admin("GET", &path, None).await.expect(200).body;
    assert_eq!(shown["status"], "deleting");
    assert!(shown["rooms_left"].is_i64(), "{shown}");
    app.signal("KILL").await;
    let middle = left().await;
    assert!(middle > 1000, "it was killed in the middle: {middle}");
    let app = app.restart().await;
    app.ready().await;

    let start = Instant::now();
    while app.admin("GET", &path, None).await.status != 404 {
        assert!(start.elapsed() < Duration::from_secs(90), "{} messages left", left().await);
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(left().await, 1);
    // Its use is known still, and exact, though it went in many steps and two processes.
    let bill = app.admin("GET", "/admin/usage?limit=1&from=2026-01-01T00:00:00Z", None).await.expect(200);
    assert_eq!(bill.each("usage", "tenant_id"), [json!(id)]);
    assert_eq!(bill.each("usage", "messages_sent"), [json!(200_000)]);
    let headers = [("X-API-Key", &*other_key), ("X-User-Id", "alice")];
    let history = app.send("GET", &format!("/rooms/{room}/messages"), &headers, None).await.expect(200);
    assert_eq!(history.each("messages", "content"), ["stays"]);
}

#[tokio::test]
async fn a_retention_that_is_taken_back_stops_the_sweep_that_it_began() {
    let app = App::start().await;
    let tenant = app.tenant("gone").await;
    let sql = app.sql().await;
    let uuid: String = sql.query_one("select tenant_id::text from tenants", &[]).await.expect("it is there").get(0);
    assert_eq!(sql.execute(FILL, &[&uuid]).await.expect("filled"), 200_000);
    sql.execute("update messages set created_at = now() - interval '3 days'", &[]).await.expect("aged");
    let left = async || -> i64 { sql.query_one("select count(*) from messages", &[]).await.expect("counted").get(0) };
    let keep = async |days: serde_json::Value| {
        tenant.backend().patch("/tenant", json!({"config": {"retention_days": days}})).await.expect(200)
    };

    keep(json!(1)).await;
    let start = Instant::now();
    while left().await > 190_000 {
        assert!(start.elapsed() < Duration::from_secs(30), "it goes");
        sleep(Duration::from_millis(10)).await;
    }
    keep(json!(null)).await;

    // The step under way ends; then nothing more goes.
    sleep(Duration::from_secs(1)).await;
    let then = left().await;
    assert!(then > 100_000, "{then}");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(left().await, then);
}
