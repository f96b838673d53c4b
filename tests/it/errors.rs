//! api.md 1: every error of the table, in the one form. `429` is in `rate_limits`, `503` in
//! `slow::durability`, `422` in `idempotency`, the others of `401` and `403` in `auth`.

use chatapi_tests::App;
use serde_json::json;

#[tokio::test]
async fn every_error_of_the_table_has_its_status_code_and_message() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let (alice, bob) = (tenant.user("alice"), tenant.user("bob"));
    let room = tenant.room("group", &["alice", "bob"]).await;
    let messages = format!("/rooms/{room}/messages");

    let invalid = alice.post(&messages, json!({"content": ""})).await;
    invalid.expect_error(400, "invalid_request", "content: may not be empty");
    app.get("/rooms").await.expect_error(401, "unauthorized", "Missing X-API-Key header");
    let forbidden = bob.patch(&format!("/rooms/{room}"), json!({"name": "x"})).await;
    forbidden.expect_error(403, "forbidden", "Only an admin of the room may do this");
    tenant.user("eve").get(&messages).await.expect_error(404, "not_found", "Room not found");
    app.get("/nowhere").await.expect_error(404, "not_found", "Path not found");
    alice.get("/nowhere").await.expect_error(404, "not_found", "Path not found");

    let method = alice.put("/rooms", json!({})).await;
    method.expect_error(405, "method_not_allowed", "This path allows GET, POST, HEAD, OPTIONS");
    assert_eq!(method.header("allow"), "GET, POST, HEAD, OPTIONS");

    let demoted = alice.patch(&format!("/rooms/{room}/members/alice"), json!({"role": "member"})).await;
    demoted.expect_error(409, "conflict", "The last admin of a room cannot be demoted");
    let long = alice.post(&messages, json!({"content": "x".repeat(16_385)})).await;
    long.expect_error(413, "payload_too_large", "content: expected at most 16384 bytes");
    let text = alice.post_raw(&messages, "text/plain", "hello").await;
    text.expect_error(415, "unsupported_media_type", "The body must be application/json");
}

#[tokio::test]
async fn a_fault_of_ours_shows_nothing_inner_and_logs_all_of_it() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    app.sql().await.batch_execute("alter table messages rename to hidden").await.expect("renamed");

    let answer = tenant.user("alice").get(&format!("/rooms/{room}/messages")).await;

    answer.expect_error(500, "internal_error", "Something went wrong on our side");
    let line = app.wait_for_log("\"A request failed\"").await;
    assert!(line["error"].as_str().is_some_and(|text| text.contains("relation \"messages\" does not exist")), "{line}");
    assert_eq!(line["request_id"].as_str(), Some(answer.header("x-request-id")));
}
