//! An endpoint can tell who calls, and is where it may be called.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chatapi_testkit::{Behaviour, Call, Receiver};
use chatapi_tests::App;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::time::Duration;

use super::{server, tenant_of};

fn hmac(secret: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length");
    parts.iter().copied().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

/// The signatures a call should have, by these secrets.
fn standard(call: &Call, secrets: &[&[u8]]) -> String {
    let (id, timestamp) = (call.header("webhook-id"), call.header("webhook-timestamp"));
    let head = format!("{id}.{timestamp}.");
    let one = |secret: &&[u8]| format!("v1,{}", STANDARD.encode(hmac(secret, &[head.as_bytes(), &call.bytes])));
    secrets.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn short(call: &Call, secret: &[u8]) -> String {
    hmac(secret, &[&call.bytes]).iter().fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

#[tokio::test]
async fn a_call_is_signed_twice_and_a_replaced_secret_signs_on() {
    let (app, receiver) = (server().start().await, Receiver::start().await);
    let tenant = tenant_of(&app, &receiver).await;
    let room = tenant.room("group", &["alice"]).await;
    let backend = tenant.backend();
    let set = |secret: Value| backend.patch("/tenant", json!({"config": {"webhook_secret": secret}}));
    let (first, second) = ("plain-secret-0001", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let decoded = STANDARD.decode(&second[6..]).expect("base64");

    let shown = set(json!(first)).await.expect(200);
    tenant.user("alice").say(&room, "one").await;
    let one = receiver.next().await;
    set(json!(second)).await.expect(200);
    tenant.user("alice").say(&room, "two").await;
    let two = receiver.next().await;
    // The old secret has had its day.
    let yesterday =
        "update tenants set config = jsonb_set(config, '{webhook_old_secrets,0,until}', '\"2026-01-01T00:00:00Z\"')";
    app.sql().await.execute(yesterday, &[]).await.expect("updated");
    tenant.user("alice").say(&room, "three").await;
    let three = receiver.next().await;

    assert_eq!(shown.body["config"]["webhook_secret_set"], true);
    assert_eq!(one.header("webhook-signature"), standard(&one, &[first.as_bytes()]));
    assert_eq!(one.header("x-chatapi-signature"), short(&one, first.as_bytes()));
    assert_eq!(two.header("webhook-signature"), standard(&two, &[&decoded, first.as_bytes()]));
    assert_eq!(two.header("x-chatapi-signature"), short(&two, &decoded));
    assert_eq!(three.header("webhook-signature"), standard(&three, &[&decoded]));
    let said = one.header("webhook-timestamp").parse::<f64>().expect("seconds");
    let now = app.sql().await.query_one("select extract(epoch from now())::float8", &[]).await.expect("asked");
    assert!((now.get::<_, f64>(0) - said).abs() < 60.0);
    let exported = String::from_utf8(app.export(&tenant.id).await).expect("UTF-8");
    assert!(exported.contains("webhook_url") && !exported.contains(first) && !exported.contains(second));
    assert!(app.logged(first).is_empty() && app.logged(second).is_empty() && app.logged("/hook").is_empty());
}

#[tokio::test]
async fn an_endpoint_must_be_public_and_can_be_tried_out() {
    let (app, receiver) = (App::start().await, Receiver::start().await);
    let tenant = app.tenant("t").await;
    let backend = tenant.backend();
    let set = |url: &str| backend.patch("/tenant", json!({"config": {"webhook_url": url}}));

    tenant.backend().post("/tenant/webhook/test", json!({})).await.expect_error(
        409,
        "conflict",
        "The tenant has no webhook_url",
    );
    let refused = [
        ("http://hooks.example/", "config.webhook_url: expected an https URL"),
        ("https://10.0.0.1/", "config.webhook_url: expected a public address"),
        ("https://[::ffff:127.0.0.1]/", "config.webhook_url: expected a public address"),
        ("https://localhost/", "config.webhook_url: expected a public address"),
    ];
    for (url, message) in refused {
        set(url).await.expect_error(400, "invalid_request", message);
        let body = json!({"name": "x", "config": {"webhook_url": url}});
        app.admin("POST", "/admin/tenants", Some(body)).await.expect_error(400, "invalid_request", message);
    }
    // One that was let in by another rule is checked again when it is called.
    let sneak = "update tenants set config = config || jsonb_build_object('webhook_url', $1::text)";
    app.sql().await.execute(sneak, &[&receiver.url()]).await.expect("updated");
    let test = tenant.backend().post("/tenant/webhook/test", json!({})).await.expect(200);
    assert_eq!((&test.body["delivered"], &test.body["status"]), (&json!(false), &Value::Null));
    assert_eq!(test.body["error"], "config.webhook_url: expected an https URL");

    let app = server().set("RETRY_MAX_ATTEMPTS", "0").start().await;
    let tenant = tenant_of(&app, &receiver).await;
    let backend = tenant.backend();
    let test = || backend.post("/tenant/webhook/test", json!({}));
    let answer = test().await.expect(200);
    let call = receiver.next().await;
    assert_eq!((&call.body["event"], &call.body["tenant_id"]), (&json!("ping"), &json!(tenant.id)));
    let expected = json!({"delivered": true, "status": 200, "body": "the endpoint's answer", "error": null});
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(answer.body[field], *value, "{field}");
    }
    assert!(answer.body["elapsed_ms"].is_u64());
    // A URL is called as it was understood: `127.1` is an address, a space is written as it must be.
    let odd = format!(" {}", receiver.url().replace("127.0.0.1", "127.1").replace("/hook", "/a b?ü"));
    tenant.backend().patch("/tenant", json!({"config": {"webhook_url": odd}})).await.expect(200);
    assert_eq!(test().await.expect(200).body["delivered"], true);
    receiver.next().await;
    // A redirect is no answer, and is not followed.
    let elsewhere = Receiver::start().await;
    receiver.behave(Behaviour::Redirect(elsewhere.url()));
    let answer = test().await.expect(200);
    assert_eq!((&answer.body["delivered"], &answer.body["status"]), (&json!(false), &json!(302)));
    assert!(elsewhere.within(Duration::from_millis(300)).await.is_none());
    tenant.backend().patch("/tenant", json!({"config": {"webhook_url": "http://127.0.0.1:1/"}})).await.expect(200);
    let answer = test().await.expect(200);
    assert!(answer.text.contains("Connection refused"), "{}", answer.text);
    // A tenant that wants no webhooks any more.
    tenant.backend().patch("/tenant", json!({"config": {"webhook_url": null}})).await.expect(200);
    test().await.expect(409);
}

#[tokio::test]
async fn an_endpoint_over_tls_must_be_the_one_it_says_it_is() {
    let (receiver, authority) = Receiver::start_tls().await;
    let folder = tempfile::tempdir().expect("a folder");
    let known = folder.path().join("roots.pem");
    std::fs::write(&known, authority).expect("written");
    let known = known.to_str().expect("a path");
    let wrong_name = receiver.url().replace("localhost", "127.0.0.1");
    let cases = [(Some(known), receiver.url(), true), (Some(known), wrong_name, false), (None, receiver.url(), false)];

    for (roots, url, trusted) in cases {
        let app = roots.iter().fold(server(), |server, roots| server.set("SSL_CERT_FILE", roots)).start().await;
        let tenant = app.tenant_with("t", json!({"webhook_url": url, "webhook_events": ["message.sent"]})).await;
        let test = tenant.backend().post("/tenant/webhook/test", json!({})).await.expect(200);
        assert_eq!(test.body["delivered"], trusted, "{url}: {}", test.text);
        assert_eq!(test.text.contains("certificate"), !trusted, "{}", test.text);
        if trusted {
            assert_eq!(receiver.next().await.body["event"], "ping");
            let room = tenant.room("group", &["alice"]).await;
            for n in 0..5 {
                tenant.user("alice").say(&room, &n.to_string()).await;
                receiver.next().await;
            }
        }
    }
    assert!(receiver.within(Duration::from_millis(300)).await.is_none());
}
