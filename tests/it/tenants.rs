//! api.md 3: tenants over their life, and their keys.

use std::time::Duration;

use chatapi_tests::App;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

#[tokio::test]
async fn a_patch_changes_what_it_names_and_takes_effect_at_once() {
    let app = App::start().await;
    let tenant = app.tenant_with("old", json!({"rate_burst": 7, "max_message_bytes": 3})).await;
    let path = format!("/admin/tenants/{}", tenant.id);
    let room = tenant.room("group", &["alice"]).await;

    let body = json!({"name": "new", "config": {"max_message_bytes": null, "presence": false, "unknown": 1}});
    let changed = app.admin("PATCH", &path, Some(body)).await.expect(200).body;

    assert_eq!((&changed["name"], &changed["status"]), (&json!("new"), &json!("active")));
    let config = &changed["config"];
    assert_eq!((&config["rate_burst"], &config["max_message_bytes"]), (&json!(7), &json!(16384)));
    assert_eq!(config["presence"], false);
    assert_eq!(app.admin("GET", &path, None).await.expect(200).body, changed);
    tenant.user("alice").say(&room, "longer than three").await;
    let cases = [
        (json!({"config": {"rate_limit": 0}}), "config.rate_limit: expected a whole number from 1 to 1000000"),
        (json!({"config": []}), "config: expected an object"),
        (json!({"status": "deleting"}), "status: expected 'active' or 'suspended'"),
        (json!({"name": ""}), "name: expected 1 to 200 characters, none of them a control character"),
    ];
    for (body, message) in cases {
        app.admin("PATCH", &path, Some(body)).await.expect_error(400, "invalid_request", message);
    }
    assert_eq!(app.admin("GET", &path, None).await.expect(200).body, changed, "what is refused changes nothing");
    let absent = "/admin/tenants/tenant_01m85d2282fwpbhy8gt3navx71";
    app.admin("PATCH", absent, Some(json!({"name": "x"}))).await.expect_error(404, "not_found", "Tenant not found");
    assert_eq!(app.admin("DELETE", absent, None).await.status, 404);
}

#[tokio::test]
async fn a_tenant_changes_what_is_its_own_to_change() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let backend = tenant.backend();

    let changed =
        backend.patch("/tenant", json!({"name": "mine", "config": {"max_message_bytes": 100}})).await.expect(200);
    assert_eq!((&changed.body["name"], &changed.body["config"]["max_message_bytes"]), (&json!("mine"), &json!(100)));
    for (body, field) in [
        (json!({"status": "suspended"}), "status"),
        (json!({"name": "x", "config": {"presence": true, "rate_limit": 5}}), "config.rate_limit"),
        (json!({"config": {"monthly_message_quota": null}}), "config.monthly_message_quota"),
    ] {
        let refused = backend.patch("/tenant", body).await;
        refused.expect_error(403, "forbidden", &format!("{field} is the operator's to change"));
    }
    assert_eq!(backend.get("/tenant").await.expect(200).body, changed.body);
}

#[tokio::test]
async fn keys_are_made_listed_used_and_revoked_and_the_last_one_stays() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let (backend, own) = (tenant.backend(), format!("key_{}", &tenant.key[3..15]));

    let last = backend.delete(&format!("/tenant/keys/{own}")).await;
    last.expect_error(409, "conflict", "This is the last key in force: make another one first");
    let made = backend.post("/tenant/keys", json!({"name": "CI"})).await.expect(201);
    let (id, key) = (made.text_of("key_id"), made.text_of("api_key"));
    assert_eq!(id, format!("key_{}", &key[3..15]));
    assert_eq!((&made.body["name"], &made.body["last_used_at"]), (&json!("CI"), &Value::Null));
    tenant.with_key(&key).backend().get("/tenant").await.expect(200);
    let start = Instant::now();
    let keys = loop {
        let keys = backend.get("/tenant/keys").await.expect(200);
        let used = keys.body["keys"].as_array().expect("keys").iter().all(|key| key["last_used_at"].is_string());
        if used {
            break keys;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{}", keys.text);
        sleep(Duration::from_millis(200)).await;
    };
    assert!(!keys.text.contains("sk_") && !keys.text.contains("argon2"), "{}", keys.text);
    assert_eq!(keys.each("keys", "key_id").len(), 2);
    let page = backend.get("/tenant/keys?limit=1").await.expect(200);
    let rest = backend.get(&format!("/tenant/keys?cursor={}", page.text_of("next_cursor"))).await.expect(200);
    assert_eq!([page.each("keys", "key_id"), rest.each("keys", "key_id")].concat(), keys.each("keys", "key_id"));

    assert_eq!(backend.delete(&format!("/tenant/keys/{id}")).await.status, 204);
    assert_eq!(backend.delete(&format!("/tenant/keys/{id}")).await.status, 204);
    tenant.with_key(&key).backend().get("/tenant").await.expect_error(401, "unauthorized", "Invalid API key");
    app.wait_for_log("\"error\":\"key revoked\"").await;
    assert_eq!(backend.delete(&format!("/tenant/keys/{own}")).await.status, 409, "it is the last one again");
    let by_operator = format!("/admin/tenants/{}/keys/{own}", tenant.id);
    assert_eq!(app.admin("DELETE", &by_operator, None).await.status, 204, "the operator may");
    let body = json!({"expires_at": "2020-01-01T00:00:00Z"});
    let past = app.admin("POST", &format!("/admin/tenants/{}/keys", tenant.id), Some(body)).await;
    past.expect_error(400, "invalid_request", "expires_at: expected a time in the future");
}

#[tokio::test]
async fn a_rotated_key_goes_on_for_its_grace_and_no_secret_is_given_twice() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let path = |key: &str| format!("/tenant/keys/key_{}/rotate", &key[3..15]);

    let second = tenant.backend().post_once("rotate", &path(&tenant.key), &json!({})).await.expect(201);
    let again = tenant.backend().post_once("rotate", &path(&tenant.key), &json!({})).await.expect(201);
    assert_eq!((again.header("idempotent-replayed"), &again.body["api_key"]), ("true", &Value::Null));
    assert_eq!(again.body["key_id"], second.body["key_id"]);
    let second = tenant.with_key(&second.text_of("api_key"));
    tenant.backend().get("/tenant").await.expect(200);
    second.backend().get("/tenant").await.expect(200);

    // Without a grace the old one ends at once.
    let third = second.backend().post(&path(&second.key), json!({"grace_seconds": 0})).await.expect(201);
    second.backend().get("/tenant").await.expect_error(401, "unauthorized", "Invalid API key");
    app.wait_for_log("\"error\":\"key expired\"").await;
    let third = tenant.with_key(&third.text_of("api_key"));
    let over = third.backend().post(&path(&second.key), json!({})).await;
    over.expect_error(409, "conflict", "The key is not in force any more");
    let wrong = third.backend().post(&path(&third.key), json!({"grace_seconds": 604_801})).await;
    wrong.expect_error(400, "invalid_request", "grace_seconds: expected 0 to 604800 seconds");
}

#[tokio::test]
async fn a_socket_ends_with_the_grace_of_its_key() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let mut alice = tenant.user("alice").socket().await;
    let path = format!("/tenant/keys/key_{}/rotate", &tenant.key[3..15]);

    tenant.backend().post(&path, json!({"grace_seconds": 1})).await.expect(201);

    assert_eq!(alice.ask(json!({"type": "ping"})).await["type"], "pong");
    assert_eq!(alice.closed().await, (4501, "key revoked or expired".to_owned()));
}

#[tokio::test]
async fn a_tenant_is_deleted_to_the_last_row_and_its_neighbour_keeps_everything() {
    let app = App::builder().set("WEBHOOK_ALLOW_PRIVATE", "true").start().await;
    // What cannot be told is there too.
    let nowhere = json!({"webhook_url": "http://127.0.0.1:1/", "webhook_events": ["message.sent"]});
    let gone = app.tenant_with("gone", nowhere.clone()).await;
    let stays = app.tenant_with("stays", nowhere).await;
    for tenant in [&gone, &stays] {
        for _ in 0..3 {
            let room = tenant.room("group", &["alice", "bob"]).await;
            for n in 0..20 {
                tenant.user("alice").say(&room, &n.to_string()).await;
            }
        }
        tenant.backend().post("/tokens/revoke", json!({"user_id": "bob"})).await.expect(204);
        tenant.user("alice").post("/ws/token", json!({})).await.expect(200);
        drop(tenant.user("alice").socket().await);
    }
    let path = format!("/admin/tenants/{}", gone.id);
    let sql = app.sql().await;
    let untold = "select count(distinct tenant_id) from deliveries";
    let start = Instant::now();
    while sql.query_one(untold, &[]).await.expect("counted").get::<_, i64>(0) < 2 {
        assert!(start.elapsed() < Duration::from_secs(30));
        sleep(Duration::from_millis(20)).await;
    }

    app.admin("DELETE", &path, None).await.expect(202);

    let start = Instant::now();
    while app.admin("GET", &path, None).await.status != 404 {
        assert!(start.elapsed() < Duration::from_secs(30));
        sleep(Duration::from_millis(50)).await;
    }
    let tables = "select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid
                   where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace and a.attname = 'tenant_id'";
    let tables = sql.query(tables, &[]).await.expect("tables");
    assert!(tables.len() >= 11, "{}", tables.len());
    for table in tables {
        let table: String = table.get(0);
        // The presence of a connection that was open goes a few seconds after it.
        let ids = format!("select count(distinct tenant_id) from {table} where tenant_id <> '{}'", uuid::Uuid::nil());
        let tenants: i64 = sql.query_one(&ids, &[]).await.expect("counted").get(0);
        // What it used stays for the bill.
        let lasting = ["presence", "last_seen", "audit_log", "usage", "messages_sent"].contains(&table.as_str());
        assert!(tenants <= 1 || lasting, "{table} has rows of {tenants} tenants");
    }
    let rooms = stays.user("alice").get("/rooms").await.expect(200);
    assert_eq!(rooms.each("rooms", "last_seq"), [20, 20, 20]);
}

#[tokio::test]
async fn every_operation_on_tenants_and_keys_is_in_the_audit_log_the_refused_ones_too() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let (path, own) = (format!("/admin/tenants/{}", tenant.id), format!("key_{}", &tenant.key[3..15]));
    let wrong = [("X-Master-Key", "wrong")];

    app.admin("PATCH", &path, Some(json!({"config": {"rate_limit": 0}}))).await.expect(400);
    app.send("DELETE", &path, &wrong, None).await.expect(401);
    app.send("GET", "/admin/tenants", &wrong, None).await.expect(401);
    let made = tenant.backend().post("/tenant/keys", json!({})).await.expect(201).text_of("key_id");
    tenant.backend().delete(&format!("/tenant/keys/{made}")).await.expect(204);
    tenant.backend().delete(&format!("/tenant/keys/{own}")).await.expect(409);
    app.admin("GET", &path, None).await.expect(200);
    app.admin("DELETE", &path, None).await.expect(202);

    let log = app.admin("GET", "/admin/audit-log", None).await.expect(200);
    let rows: Vec<[String; 4]> = log.body["entries"]
        .as_array()
        .expect("entries")
        .iter()
        .rev()
        .map(|entry| {
            assert_eq!(entry["address"], "127.0.0.1");
            assert!(entry["at"].is_string() && entry["request_id"].is_string());
            ["actor", "action", "target", "outcome"].map(|field| entry[field].as_str().unwrap_or("-").to_owned())
        })
        .collect();
    let expected = [
        ["master", "tenant.create", &own, "ok"],
        ["master", "tenant.update", "-", "invalid_request"],
        ["unknown", "tenant.delete", "-", "unauthorized"],
        ["unknown", "tenant.list", "-", "unauthorized"],
        [&own, "key.create", &made, "ok"],
        [&own, "key.revoke", &made, "ok"],
        [&own, "key.revoke", &own, "conflict"],
        ["master", "tenant.delete", "-", "ok"],
    ];
    assert_eq!(rows, expected.map(|row| row.map(str::to_owned)));
    // It outlives its tenant, comes in pages, and nobody changes it.
    while app.admin("GET", &path, None).await.status != 404 {
        sleep(Duration::from_millis(50)).await;
    }
    let of_tenant = format!("/admin/audit-log?tenant_id={}&limit=5", tenant.id);
    let first = app.admin("GET", &of_tenant, None).await.expect(200);
    let cursor = first.text_of("next_cursor");
    let second = app.admin("GET", &format!("{of_tenant}&cursor={cursor}"), None).await.expect(200);
    assert_eq!((first.each("entries", "at").len(), second.each("entries", "at").len()), (5, 2));
    assert_eq!(second.body["next_cursor"], Value::Null);
    let sql = app.sql().await;
    for change in ["update audit_log set outcome = 'x'", "delete from audit_log", "truncate audit_log"] {
        assert!(sql.execute(change, &[]).await.is_err(), "{change}");
    }
}
