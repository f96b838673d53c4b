//! api.md 1: what holds for every route.

use std::time::Duration;

use chatapi_http::{Access, ROUTES};
use chatapi_tests::App;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Sends bytes as they stand and reads what comes until the connection closes.
async fn raw(app: &App, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(app.url.trim_start_matches("http://")).await.expect("it listens");
    stream.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    timeout(Duration::from_secs(20), reading).await.expect("the connection closes").expect("read");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn every_answer_has_the_request_id_and_every_line_of_the_log_too() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let ask = |id: &str| {
        let request = tenant.backend().request("GET", "/rooms").header("X-Request-Id", id);
        async move {
            let answer = request.send().await.expect("an answer");
            answer.headers()["x-request-id"].to_str().expect("a text").to_owned()
        }
    };

    assert_eq!(ask("my-request/1").await, "my-request/1");
    for bad in ["", "a b", &"x".repeat(65)] {
        assert!(ask(bad).await.starts_with("req_"), "{bad}");
    }
    for path in ["/health", "/nowhere", "/rooms"] {
        assert!(app.get(path).await.header("x-request-id").starts_with("req_"), "{path}");
    }
    app.wait_for_log("\"request_id\":\"my-request/1\",\"target\":\"chatapi::access\"").await;
    assert!(app.logged("my-request/1").len() >= 2, "the line of the key, and the line of the answer");
}

#[tokio::test]
async fn a_body_is_json_whatever_the_route() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    let alice = tenant.user("alice");
    let messages = format!("/rooms/{room}/messages");
    let json_type = "application/json";
    let deep = format!(r#"{{"content": "x", "other": {}{}}}"#, "[".repeat(100), "]".repeat(100));

    for path in ["/rooms", &messages, "/acks"] {
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "json"] {
            let answer = alice.post_raw(path, kind, "{}").await;
            answer.expect_error(415, "unsupported_media_type", "The body must be application/json");
        }
        for body in ["", "{", "nul", "[]", "7", "\"text\"", "{}{}", deep.as_str(), "{\"a\": \"\\ud800\"}"] {
            let answer = alice.post_raw(path, json_type, body.to_owned()).await;
            assert_eq!((answer.status, answer.body["error"].as_str()), (400, Some("invalid_request")), "{path} {body}");
        }
        let broken = alice.post_raw(path, json_type, &b"{\"content\": \"\xff\xfe\", \"type\": \"\xff\"}"[..]).await;
        assert_eq!(broken.status, 400, "invalid UTF-8");
    }
    let unknown = alice.post(&messages, json!({"content": "x", "unknown": {"deep": [1]}})).await;
    assert_eq!(unknown.status, 201, "unknown fields are ignored");
    let untyped = alice.request("POST", &messages).body(r#"{"content": "x"}"#).send().await.expect("an answer");
    assert_eq!(untyped.status(), 201, "a body without a type is JSON");
}

#[tokio::test]
async fn a_body_that_is_too_long_is_not_read_to_its_end() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    let head = |path: &str, length: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nX-User-Id: alice\r\n\
             Content-Type: application/json\r\n{length}\r\n\r\n",
            tenant.key
        )
    };
    let messages = format!("/rooms/{room}/messages");

    let announced = raw(&app, head("/rooms", "Content-Length: 1048577").as_bytes()).await;
    assert!(announced.starts_with("HTTP/1.1 413") && announced.contains("payload_too_large"), "{announced}");
    let message = raw(&app, head(&messages, "Content-Length: 262145").as_bytes()).await;
    assert!(message.starts_with("HTTP/1.1 413"), "{message}");
    let mut endless = head(&messages, "Transfer-Encoding: chunked").into_bytes();
    for _ in 0..5 {
        endless.extend_from_slice(b"10000\r\n");
        endless.extend(std::iter::repeat_n(b' ', 0x10000));
        endless.extend_from_slice(b"\r\n");
    }
    let answered = raw(&app, &endless).await;
    assert!(answered.starts_with("HTTP/1.1 413"), "{answered}");
    let fits = format!(r#"{{"content": "x", "pad": "{}"}}"#, "x".repeat(262_144 - 30));
    assert_eq!(tenant.user("alice").post_raw(&messages, "application/json", fits).await.status, 201);
}

#[tokio::test]
async fn what_is_no_http_takes_nothing_down() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    for junk in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /rooms HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ] {
        let answer = raw(&app, junk).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let cut = format!("POST /rooms HTTP/1.1\r\nX-API-Key: {}\r\nContent-Length: 100\r\n\r\n{{", tenant.key);
    let mut stream = TcpStream::connect(app.url.trim_start_matches("http://")).await.expect("it listens");
    stream.write_all(cut.as_bytes()).await.expect("sent");
    stream.shutdown().await.expect("closed");
    drop(stream);

    assert_eq!(tenant.backend().get("/rooms").await.status, 200);
    assert!(app.logged("panicked").is_empty());
}

#[tokio::test]
async fn ids_and_paths_of_any_kind_are_answered() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let alice = tenant.user("alice");
    for id in
        ["x", "room_", "%00", "%FF", "room_01m85d2282fwpbhy8gt3navx7!", "..%2F..", "%F0%9F%98%80", &"x".repeat(5000)]
    {
        for path in [format!("/rooms/{id}"), format!("/rooms/{id}/messages"), format!("/admin/tenants/{id}")] {
            let answer =
                if path.starts_with("/admin") { app.admin("GET", &path, None).await } else { alice.get(&path).await };
            assert_eq!((answer.status, answer.body["error"].as_str()), (404, Some("not_found")), "{path}");
        }
    }
}

#[tokio::test]
async fn a_cursor_that_is_not_of_this_list_is_refused() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    for _ in 0..3 {
        app.tenant("more").await;
        tenant.room("group", &["alice", "bob"]).await;
    }
    let tenants = app.admin("GET", "/admin/tenants?limit=1", None).await.expect(200).text_of("next_cursor");
    let rooms = tenant.user("alice").get("/rooms?limit=1").await.expect(200).text_of("next_cursor");
    let message = "cursor: expected the next_cursor of a page of this list";

    for bad in ["", "x", "AAAA", &tenants] {
        let answer = tenant.user("alice").get(&format!("/rooms?cursor={bad}")).await;
        answer.expect_error(400, "invalid_request", message);
    }
    app.admin("GET", &format!("/admin/tenants?cursor={rooms}"), None).await.expect_error(
        400,
        "invalid_request",
        message,
    );
    for limit in ["0", "101", "-1", "+5", "1.5", "x"] {
        let answer = app.admin("GET", &format!("/admin/tenants?limit={limit}"), None).await;
        answer.expect_error(400, "invalid_request", "limit: expected a whole number from 1 to 100");
    }
}

#[tokio::test]
async fn head_is_get_without_a_body_and_wrong_methods_are_told_the_right_ones() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;

    for spec in ROUTES.iter().filter(|spec| spec.method == "GET" && !spec.path.contains('{')) {
        let get = app.send("GET", spec.path, &[("X-API-Key", &tenant.key)], None).await;
        let head = app.send("HEAD", spec.path, &[("X-API-Key", &tenant.key)], None).await;
        assert_eq!((head.status, head.text.as_str()), (get.status, ""), "{}", spec.path);
        assert_eq!(head.header("content-type"), get.header("content-type"));
    }
    for spec in ROUTES.iter().filter(|spec| spec.access != Access::Public) {
        let answer = app.send("TRACE", spec.path, &[], None).await;
        assert_eq!((answer.status, answer.body["error"].as_str()), (405, Some("method_not_allowed")));
        assert!(answer.header("allow").contains(spec.method), "{spec:?}");
    }
}

#[tokio::test]
async fn pages_of_allowed_origins_may_call_and_others_may_not_read() {
    let app = App::builder().set("ALLOWED_ORIGINS", "https://server.example").start().await;
    let own = app.tenant_with("own", json!({"allowed_origins": ["https://own.example"]})).await;
    let default = app.tenant("default").await;
    let preflight = |origin: &'static str| {
        let headers = [("Origin", origin), ("Access-Control-Request-Method", "POST")];
        let app = &app;
        async move { app.send("OPTIONS", "/rooms", &headers, None).await.expect(204) }
    };
    let asked = |key: String, origin: &'static str| {
        let app = &app;
        async move {
            let answer = app.send("GET", "/rooms", &[("X-API-Key", &key), ("Origin", origin)], None).await.expect(200);
            assert_eq!(answer.header("vary"), "Origin");
            answer.header("access-control-allow-origin").to_owned()
        }
    };

    for origin in ["https://server.example", "https://own.example"] {
        let granted = preflight(origin).await;
        assert_eq!(granted.header("access-control-allow-origin"), origin);
        assert_eq!(granted.header("access-control-allow-methods"), "GET, POST, HEAD, OPTIONS");
        assert!(granted.header("access-control-allow-headers").contains("X-User-Id"));
    }
    assert_eq!(preflight("https://evil.example").await.header("access-control-allow-origin"), "");
    assert_eq!(asked(own.key.clone(), "https://own.example").await, "https://own.example");
    assert_eq!(asked(own.key.clone(), "https://server.example").await, "", "the tenant's list replaces the server's");
    assert_eq!(asked(default.key.clone(), "https://server.example").await, "https://server.example");
    assert_eq!(asked(default.key.clone(), "https://own.example").await, "");
    let exposed = app.send("GET", "/rooms", &[("Origin", "https://server.example")], None).await.expect(401);
    assert!(exposed.header("access-control-expose-headers").contains("X-Request-Id"), "errors can be read too");
    app.send("OPTIONS", "/nowhere", &[], None).await.expect_error(404, "not_found", "Path not found");
}

#[tokio::test]
async fn tenants_are_made_listed_and_found() {
    let app = App::start().await;
    let config = json!({"rate_limit": 7, "webhook_secret": "hush-hush", "unknown": 1});
    let body = json!({"name": "MyCompany", "config": config});
    let made = app.admin("POST", "/admin/tenants", Some(body)).await.expect(201);
    for field in ["tenant_id", "name", "api_key", "created_at", "key_id", "status"] {
        assert!(made.body[field].is_string(), "{field}");
    }
    assert_eq!((&made.body["config"]["rate_limit"], &made.body["config"]["rate_burst"]), (&json!(7), &json!(7)));
    assert_eq!(made.body["config"]["webhook_secret_set"], true);
    assert!(!made.text.contains("hush-hush"));
    for _ in 0..3 {
        app.tenant("MyCompany").await;
        app.tenant("Other").await;
    }

    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = app.admin("GET", &format!("/admin/tenants?limit=2{cursor}"), None).await.expect(200);
        names.extend(page.each("tenants", "name"));
        assert!(!page.text.contains("api_key") && !page.text.contains("hush-hush"));
        let Some(next) = page.body["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(names, ["Other", "MyCompany", "Other", "MyCompany", "Other", "MyCompany", "MyCompany"]);
    let filtered = app.admin("GET", "/admin/tenants?name=Other&status=active", None).await.expect(200);
    assert_eq!(filtered.each("tenants", "name").len(), 3);
    let one = app.admin("GET", &format!("/admin/tenants/{}", made.text_of("tenant_id")), None).await.expect(200);
    assert_eq!(one.body["config"], made.body["config"]);
    for (body, message) in [
        (json!({}), "name: is missing"),
        (json!({"name": ""}), "name: expected 1 to 200 characters, none of them a control character"),
        (json!({"name": "a\0"}), "name: expected 1 to 200 characters, none of them a control character"),
        (json!({"name": "x", "config": 5}), "config: expected an object"),
        (
            json!({"name": "x", "config": {"max_message_bytes": 196_609}}),
            "config.max_message_bytes: expected a whole number from 1 to 196608",
        ),
    ] {
        app.admin("POST", "/admin/tenants", Some(body)).await.expect_error(400, "invalid_request", message);
    }
}
