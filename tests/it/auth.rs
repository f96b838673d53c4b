//! api.md 2: who is let in.

use chatapi_tests::App;
use serde_json::json;

const MASTER: &str = "Invalid or missing X-Master-Key header";

#[tokio::test]
async fn only_the_master_key_opens_admin() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;

    for headers in [&[][..], &[("X-Master-Key", "")], &[("X-Master-Key", "wrong")], &[("X-API-Key", &tenant.key)]] {
        let answer = app.send("GET", "/admin/tenants", headers, None).await;
        answer.expect_error(401, "unauthorized", MASTER);
    }
    let query = app.get("/admin/tenants?master_key=the-master-key-of-the-end-to-end-tests").await;
    query.expect_error(401, "unauthorized", MASTER);
}

#[tokio::test]
async fn either_master_key_opens_during_a_rotation_and_the_hash_suffices_alone() {
    // argon2id of the key below, at a small setting.
    let hash = "$argon2id$v=19$m=256,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$OO7ftSrrSIfZafZ/tLfRAwlYMaqNqMCY+QLX3XqC6QE";
    let other = [("X-Master-Key", "another-master-key-that-is-long-enough")];

    let both = App::builder().set("MASTER_API_KEY_HASH", hash).start().await;
    assert_eq!(both.admin("GET", "/admin/tenants", None).await.status, 200);
    for _ in 0..2 {
        assert_eq!(both.send("GET", "/admin/tenants", &other, None).await.status, 200);
    }

    let alone = App::builder().set("MASTER_API_KEY_HASH", hash).unset("MASTER_API_KEY").start().await;
    assert_eq!(alone.send("GET", "/admin/tenants", &other, None).await.status, 200);
    assert_eq!(alone.admin("GET", "/admin/tenants", None).await.status, 401);
}

#[tokio::test]
async fn a_tenants_key_has_the_form_of_the_contract_and_is_shown_once() {
    let app = App::start().await;
    let tenant = app.tenant("MyCompany").await;

    assert_eq!(tenant.key.len(), 48);
    assert!(tenant.key.starts_with("sk_") && tenant.key[3..].bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let secret = &tenant.key[15..];
    let one = app.admin("GET", &format!("/admin/tenants/{}", tenant.id), None).await.expect(200);
    let list = app.admin("GET", "/admin/tenants", None).await.expect(200);
    assert!(!one.text.contains(secret) && !list.text.contains(secret));
    let sql = app.sql().await;
    let row = sql.query_one("select key_id, secret_hash from tenant_keys", &[]).await.expect("one key");
    assert_eq!(row.get::<_, &str>(0), &tenant.key[3..15]);
    assert!(row.get::<_, &str>(1).starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
}

#[tokio::test]
async fn what_is_no_key_of_ours_is_refused_and_the_log_says_why() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let wrong_secret = format!("{}{}", &tenant.key[..15], "x".repeat(33));
    let unknown = format!("sk_{}", "0".repeat(45));

    app.get("/rooms").await.expect_error(401, "unauthorized", "Missing X-API-Key header");
    for key in ["", "sk_abc", &unknown, &wrong_secret, &tenant.key.to_lowercase()] {
        let answer = app.send("GET", "/rooms", &[("X-API-Key", key)], None).await;
        answer.expect_error(401, "unauthorized", "Invalid API key");
    }
    app.get(&format!("/rooms?api_key={}", tenant.key)).await.expect_error(
        401,
        "unauthorized",
        "Missing X-API-Key header",
    );

    let line = app.wait_for_log("\"error\":\"wrong secret\"").await;
    assert_eq!((line["level"].as_str(), line["msg"].as_str()), (Some("error"), Some("Invalid API key")));
    assert_eq!(line["key_id"].as_str(), Some(&*format!("key_{}", &tenant.key[3..15])));
    let start = r#"{"level":"error","msg":"Invalid API key","error":"tenant not found""#;
    app.wait_for_log(start).await;
    let log = app.logged("").concat();
    for secret in [&tenant.key[15..], &wrong_secret[15..], "the-master-key-of-the-end-to-end-tests"] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}

#[tokio::test]
async fn a_known_tenant_is_logged_as_the_guide_shows_it_only_when_debugging() {
    let debugging = App::start().await;
    let tenant = debugging.tenant("t").await;
    let quiet = App::builder().set("LOG_LEVEL", "info").start().await;

    tenant.backend().get("/rooms").await.expect(200);
    quiet.tenant("t").await.backend().get("/rooms").await.expect(200);

    let start = format!(r#"{{"level":"info","msg":"Tenant validated","tenant_id":"{}""#, tenant.id);
    debugging.wait_for_log(&start).await;
    assert!(quiet.logged("Tenant validated").is_empty());
}

#[tokio::test]
async fn a_key_or_tenant_that_is_switched_off_is_refused() {
    let app = App::start().await;
    let sql = app.sql().await;
    let state = [
        ("update tenant_keys set revoked_at = now()", 401, "unauthorized", "Invalid API key", "key revoked"),
        ("update tenant_keys set expires_at = now()", 401, "unauthorized", "Invalid API key", "key expired"),
        (
            "update tenants set status = 'suspended'",
            403,
            "tenant_suspended",
            "The tenant is suspended",
            "tenant suspended",
        ),
        ("update tenants set status = 'deleting'", 401, "unauthorized", "Invalid API key", "tenant not found"),
    ];
    for (change, status, code, message, reason) in state {
        let tenant = app.tenant("t").await;
        sql.execute(&format!("{change} where tenant_id = (select max(tenant_id::text)::uuid from tenants)"), &[])
            .await
            .expect("changed");

        tenant.backend().get("/rooms").await.expect_error(status, code, message);

        app.wait_for_log(&format!("\"error\":\"{reason}\"")).await;
    }
}

#[tokio::test]
async fn failed_attempts_are_limited_per_address_and_never_stop_a_known_key() {
    let app = App::builder().set("TRUSTED_PROXIES", "127.0.0.1").start().await;
    let tenant = app.tenant("t").await;
    tenant.backend().get("/rooms").await.expect(200);
    let wrong = |n: u32, from: &'static str| {
        let key = format!("sk_{n:045}");
        let app = &app;
        async move { app.send("GET", "/rooms", &[("X-API-Key", &key), ("X-Forwarded-For", from)], None).await }
    };

    let mut limited = None;
    for n in 0..200 {
        let answer = wrong(n, "192.0.2.1").await;
        if answer.status == 429 {
            limited = Some((n, answer));
            break;
        }
        assert_eq!(answer.status, 401);
    }

    let (n, answer) = limited.expect("limited within 200 attempts");
    assert!(n >= 20, "{n}");
    assert_eq!((answer.body["error"].as_str(), answer.header("retry-after")), (Some("rate_limit_exceeded"), "1"));
    let known = tenant.backend().request("GET", "/rooms").header("X-Forwarded-For", "192.0.2.1");
    assert_eq!(known.send().await.expect("an answer").status(), 200, "a known key always passes");
    assert_eq!(wrong(0, "192.0.2.2").await.status, 401, "another address is another matter");
    let master = [("X-Master-Key", "wrong"), ("X-Forwarded-For", "192.0.2.1")];
    let mut statuses = Vec::new();
    for _ in 0..30 {
        statuses.push(app.send("GET", "/admin/tenants", &master, None).await.status);
    }
    assert!(statuses.contains(&429), "the master key's attempts count too: {statuses:?}");
}

#[tokio::test]
async fn a_route_that_needs_a_user_says_so() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    let backend = tenant.backend();

    for (path, body) in [
        (format!("/rooms/{room}/messages"), json!({"content": "x"})),
        (format!("/rooms/{room}/join"), json!({})),
        (format!("/rooms/{room}/leave"), json!({})),
        ("/acks".to_owned(), json!({"room_id": room, "seq": 0})),
    ] {
        backend.post(&path, body).await.expect_error(400, "invalid_request", "Missing X-User-Id header");
    }
    let odd = tenant.user("..").get("/rooms").await;
    assert_eq!(odd.status, 400);
    assert!(odd.text_of("message").starts_with("X-User-Id: expected a user id"), "{}", odd.text);
}
