//! api.md 3: a tenant's export, and its import.

mod cut;

use std::time::Duration;

use chatapi_tests::{App, Tenant};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const USERS: [&str; 4] = ["alice", "bob", "100%", "a:b"];

/// Rooms with two members and so many messages, straight into the tables.
pub(crate) async fn fill(app: &App, tenant: &str, rooms: i64, messages: i64) {
    let sql = app.sql().await;
    let id: uuid::Uuid =
        sql.query_one("select tenant_id from tenants where name = $1", &[&tenant]).await.expect("a tenant").get(0);
    let made = "
        insert into rooms (tenant_id, room_id, type, member_count, last_seq, created_at, updated_at, active_at, active_hour)
        select $1, ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'group', 2, $3, now(), now(), now(),
               floor(extract(epoch from now()) / 3600)::int from generate_series(1, $2::bigint) n";
    sql.execute(made, &[&id, &rooms, &messages]).await.expect("rooms");
    let joined = "
        insert into room_members (tenant_id, user_id, room_id, role, joined_at, receipt_at)
        select tenant_id, u, room_id, 'member', now(), now() from rooms, unnest('{alice,bob}'::text[]) u
         where tenant_id = $1";
    sql.execute(joined, &[&id]).await.expect("members");
    let sent = "
        insert into messages (tenant_id, room_id, seq, message_id, sender_id, content, created_at)
        select $1, ('00000000-0000-7000-8000-' || lpad(to_hex(r), 12, '0'))::uuid, n,
               ('00000000-0000-7000-9000-' || lpad(to_hex(r * $3 + n), 12, '0'))::uuid, 'alice',
               'Some words of a message, as long as messages are: ' || n, now()
          from generate_series(1, $2::bigint) r, generate_series(1, $3::bigint) n";
    sql.execute(sent, &[&id, &rooms, &messages]).await.expect("messages");
}

/// How many rows of these tenants are left in any table.
async fn rows_but_of(app: &App, kept: &[&Tenant<'_>]) -> i64 {
    let sql = app.sql().await;
    let mut rows = 0;
    for table in ["tenants", "tenant_keys", "rooms", "room_members", "messages", "last_seen"] {
        let count = format!(
            "select count(*) from {table} where tenant_id not in (
                select tenant_id from tenant_keys where 'key_' || key_id = any ($1))"
        );
        let keys: Vec<_> = kept.iter().map(|tenant| format!("key_{}", &tenant.key[3..15])).collect();
        rows += sql.query_one(&count, &[&keys]).await.expect("counted").get::<_, i64>(0);
    }
    rows
}

/// A tenant with one of everything.
async fn lively(app: &App) -> Tenant<'_> {
    let config = json!({"rate_burst": 2_000_000, "webhook_url": "https://a.example/", "webhook_secret": "hush-hush"});
    let tenant = app.tenant_with("lively", config).await;
    let dm = tenant.room("dm", &["a:b", "100%"]).await;
    let group = tenant.room("group", &["alice", "bob", "a:b"]).await;
    let channel = tenant.room("channel", &["bob"]).await;
    let deleted = tenant.room("group", &["alice"]).await;
    tenant.user("alice").say(&deleted, "gone").await;
    tenant.backend().delete(&format!("/rooms/{deleted}")).await.expect(204);
    let renamed = json!({"name": "Grüße \u{2028}", "metadata": {"z": [1.50], "a": "\n"}});
    tenant.user("alice").patch(&format!("/rooms/{group}"), renamed).await.expect(200);
    let raw = "{\"metadata\": {\"b\" : 1,\n\r\"a\":1e3}}";
    let request = tenant.user("bob").request("PATCH", &format!("/rooms/{channel}"));
    let answer = request.header("Content-Type", "application/json").body(raw).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let mut first = Value::Null;
    for n in 0..23 {
        let sender = tenant.user(["alice", "bob", "a:b"][n % 3]);
        let body = json!({
            "content": format!("{n} \u{7}\"\\ 🎉"), "meta": {"n": n, "a": [null]}, "reply_to": first,
            "client_message_id": format!("c-{}", n / 3),
        });
        let sent = sender.post(&format!("/rooms/{group}/messages"), body).await.expect(201).body;
        first = sent["message_id"].clone();
        let path = format!("/rooms/{group}/messages/{}", first.as_str().expect("an id"));
        match n % 5 {
            1 => _ = sender.put(&path, json!({"content": "edited", "meta": null})).await.expect(200),
            3 => _ = sender.delete(&path).await.expect(204),
            _ => {}
        }
    }
    tenant.user("100%").say(&dm, "hello").await;
    tenant.user("alice").post("/acks", json!({"room_id": group, "seq": 7, "type": "read"})).await;
    tenant.user("bob").post("/acks", json!({"room_id": group, "seq": 23})).await.expect(200);
    let seen = "insert into last_seen (tenant_id, user_id, seen_at) select tenant_id, 'bob', now() from tenants";
    app.sql().await.execute(seen, &[]).await.expect("seen");
    tenant
}

/// All pages of a list, as they stand.
async fn pages(caller: &chatapi_tests::Caller<'_>, path: &str) -> Vec<String> {
    let mut pages = Vec::new();
    let mut next = path.to_owned();
    loop {
        let page = caller.get(&next).await.expect(200);
        pages.push(page.text.clone());
        match page.body["next_cursor"].as_str() {
            Some(cursor) => next = format!("{path}&cursor={cursor}"),
            None => return pages,
        }
    }
}

/// Everything a tenant can be asked, and how it answers.
async fn answers(tenant: &Tenant<'_>) -> Vec<String> {
    let backend = tenant.backend();
    let mut own = backend.get("/tenant").await.expect(200).body;
    own.as_object_mut().expect("a tenant").remove("tenant_id");
    own["config"].as_object_mut().expect("a config").remove("webhook_secret_set");
    let mut all = vec![own.to_string(), backend.get("/presence?user_ids=alice,bob").await.expect(200).text];
    for user in USERS {
        all.extend(pages(&tenant.user(user), "/rooms?limit=2").await);
    }
    all.extend(pages(&backend, "/rooms?limit=1").await);
    let rooms = backend.get("/rooms?limit=100").await.expect(200);
    for room in rooms.each("rooms", "room_id") {
        let path = format!("/rooms/{}", room.as_str().expect("an id"));
        all.push(backend.get(&path).await.expect(200).text);
        all.extend(pages(&backend, &format!("{path}/members?limit=2")).await);
        all.extend(pages(&backend, &format!("{path}/receipts?limit=2")).await);
        all.push(backend.get(&format!("{path}/changes?limit=100")).await.expect(200).text);
        for page in ["?limit=10", "?limit=100", "?limit=7&order=desc", "?after_seq=3&before_seq=9"] {
            all.push(backend.get(&format!("{path}/messages{page}")).await.expect(200).text);
        }
        let messages = backend.get(&format!("{path}/messages?limit=100")).await.expect(200);
        for message in messages.each("messages", "message_id") {
            let path = format!("{path}/messages/{}", message.as_str().expect("an id"));
            all.push(backend.get(&path).await.expect(200).text);
        }
    }
    all
}

#[tokio::test]
async fn an_imported_tenant_answers_everything_as_the_original_does() {
    let app = App::start().await;
    let original = lively(&app).await;
    let before = answers(&original).await;
    assert!(before.len() > 50, "{}", before.len());
    assert!(before.iter().any(|text| text.contains("{\"b\" : 1,\n\r\"a\":1e3}")), "{before:#?}");

    let file = app.export(&original.id).await;
    let copy_id = "tenant_01m85d2282fwpbhy8gt3navx71";
    let made = app.import(&format!("?tenant_id={copy_id}"), file.clone()).await.expect(201);

    assert_eq!(made.body["imported"], json!({"rooms": 3, "members": 6, "messages": 24, "last_seen": 1}));
    assert_eq!((made.text_of("tenant_id").as_str(), made.text_of("name").as_str()), (copy_id, "lively"));
    assert_eq!((&made.body["status"], &made.body["config"]["webhook_secret_set"]), (&json!("active"), &json!(false)));
    let key = made.text_of("api_key");
    assert_eq!(made.text_of("key_id"), format!("key_{}", &key[3..15]));
    let copy = original.with_key(&key);
    assert_eq!(copy.backend().get("/tenant").await.expect(200).text_of("tenant_id"), copy_id);
    assert_eq!(answers(&copy).await, before);
    let text = String::from_utf8(file.clone()).expect("UTF-8");
    assert!(!text.contains("hush") && !text.contains(&original.key[3..15]) && !text.contains("argon2"));
    // It lives on as any other, and beside the original.
    let room = copy.user("alice").get("/rooms?type=group").await.expect(200).each("rooms", "room_id")[0].clone();
    let room = room.as_str().expect("an id");
    assert_eq!(copy.user("alice").say(room, "on").await["seq"], 24);
    let again = json!({"content": "x", "client_message_id": "c-0"});
    assert_eq!(copy.user("bob").post(&format!("/rooms/{room}/messages"), again).await.expect(200).body["seq"], 2);
    assert_eq!(answers(&original).await, before);
    let log = app.admin("GET", &format!("/admin/audit-log?tenant_id={copy_id}"), None).await.expect(200);
    assert_eq!(log.each("entries", "action"), ["tenant.import"]);
    assert_eq!(log.each("entries", "target"), [made.text_of("key_id")]);

    // In the place of the original, once that is gone.
    app.admin("DELETE", &format!("/admin/tenants/{}", original.id), None).await.expect(202);
    let start = Instant::now();
    let back = loop {
        let answer = app.import("", file.clone()).await;
        if answer.status == 201 {
            break answer;
        }
        assert!(answer.status == 409 && start.elapsed() < Duration::from_secs(30), "{}", answer.text);
        sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(back.text_of("tenant_id"), original.id);
    let back = original.with_key(&back.text_of("api_key"));
    assert_eq!(answers(&back).await, before);
    original.backend().get("/tenant").await.expect_error(401, "unauthorized", "Invalid API key");
}

#[tokio::test]
async fn who_may_not_what_is_not_there_and_what_is_there_already() {
    let app = App::start().await;
    let tenant = lively(&app).await;
    let file = app.export(&tenant.id).await;
    let path = format!("/admin/tenants/{}/export", tenant.id);
    let absent = "/admin/tenants/tenant_01m85d2282fwpbhy8gt3navx72/export";

    let master = "Invalid or missing X-Master-Key header";
    app.get(&path).await.expect_error(401, "unauthorized", master);
    app.send("POST", "/admin/tenants/import", &[("X-API-Key", &tenant.key)], None).await.expect_error(
        401,
        "unauthorized",
        master,
    );
    for gone in [absent, "/admin/tenants/x/export"] {
        app.admin("GET", gone, None).await.expect_error(404, "not_found", "Tenant not found");
        assert_eq!(app.admin("HEAD", gone, None).await.status, 404);
    }
    let head = app.admin("HEAD", &path, None).await.expect(200);
    assert_eq!((head.header("content-type"), head.header("content-length")), ("application/x-ndjson", ""));
    app.import("", file.clone()).await.expect_error(409, "conflict", "There is a tenant of this id");
    let request = app.admin_request("POST", "/admin/tenants/import").json(&json!({}));
    let answer = app.read(request).await;
    answer.expect_error(415, "unsupported_media_type", "The body must be application/x-ndjson");
    let wrong = app.import("?tenant_id=x", file.clone()).await;
    wrong.expect_error(400, "invalid_request", "tenant_id: expected the id of a tenant");
    let copy = "?tenant_id=tenant_01m85d2282fwpbhy8gt3navx71";
    let untyped = app.admin_request("POST", &format!("/admin/tenants/import{copy}")).header("Idempotency-Key", "k");
    let untyped = app.read(untyped.body(file.clone())).await.expect(201);
    let repeated = app.admin_request("POST", &format!("/admin/tenants/import{copy}")).header("Idempotency-Key", "k");
    app.read(repeated.body(file)).await.expect_error(409, "conflict", "There is a tenant of this id");

    let log = app.admin("GET", "/admin/audit-log", None).await.expect(200);
    let rows = |field: &str| {
        log.each("entries", field).into_iter().rev().map(|value| value.as_str().unwrap_or("-").to_owned())
    };
    let rows: Vec<String> =
        rows("actor").zip(rows("action")).zip(rows("outcome")).map(|((a, b), c)| format!("{a} {b} {c}")).collect();
    let expected = [
        "master tenant.create ok",
        "master tenant.export ok",
        "unknown tenant.export unauthorized",
        "unknown tenant.import unauthorized",
        "master tenant.export not_found",
        "master tenant.export not_found",
        "master tenant.import conflict",
        "master tenant.import unsupported_media_type",
        "master tenant.import invalid_request",
        "master tenant.import ok",
        "master tenant.import conflict",
    ];
    assert_eq!(rows, expected);
    assert_eq!(log.each("entries", "tenant_id")[0], copy["?tenant_id=".len()..]);
    assert!(!untyped.text_of("api_key").is_empty());
}

#[tokio::test]
async fn what_is_damaged_is_refused_with_the_number_of_its_line_and_leaves_nothing() {
    let app = App::start().await;
    let tenant = lively(&app).await;
    let file = app.export(&tenant.id).await;
    let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
    let last = lines.len();
    let without = |from: usize, to: usize| [lines[..from].concat(), lines[to..].concat()].concat();
    let mut flipped = file.clone();
    let sum_at = file.len() - 10;
    flipped[sum_at] ^= 1;
    let long = [lines[0], &vec![b'x'; 100 << 20]].concat();

    let cases = [
        (Vec::new(), "line 1: "),
        (vec![0x1f, 0x8b, 8, 0], "line 1: export: is compressed: unpack it first"),
        (b"{\"hello\": 1}\n".to_vec(), "line 1: export: expected the first line of an export of a tenant"),
        (b"\xff\xfe\n".to_vec(), "line 1: the line: is not valid UTF-8"),
        (without(2, 3), "line 4: member: expected 2 members of room_"),
        (without(last - 1, last), &format!("line {last}: the file: ends here")),
        (file[..file.len() - 1].to_vec(), &format!("line {last}: the line: is cut")),
        (flipped, &format!("line {last}: end.sha256: is not that of the lines before")),
        (long, "line 2: has more than 2097152 bytes"),
        (file[..file.len() / 2].to_vec(), "line "),
    ];
    for (file, expected) in cases {
        let answer = app.import("?tenant_id=tenant_01m85d2282fwpbhy8gt3navx71", file).await;
        let message = answer.text_of("message");
        assert_eq!((answer.status, answer.body["error"].as_str()), (400, Some("invalid_request")), "{}", answer.text);
        assert!(message.starts_with(expected), "{message}, not {expected}");
    }
    assert_eq!(rows_but_of(&app, &[&tenant]).await, 0);
}
