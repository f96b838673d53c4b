//! api.md 4: rooms.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use chatapi_tests::App;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::sleep;

#[tokio::test]
async fn a_room_is_shown_as_the_contract_says() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let metadata = r#"{"z": 1.50, "a": [1, {"b": null}]}"#;
    let body = format!(r#"{{"type": "group", "members": ["bob", "bob"], "name": "Team", "metadata": {metadata}}}"#);

    let room = tenant.user("alice").post_raw("/rooms", "application/json", body).await.expect(201);

    let fields: HashSet<&str> = room.body.as_object().expect("an object").keys().map(String::as_str).collect();
    let expected = [
        "room_id",
        "type",
        "unique_key",
        "name",
        "metadata",
        "first_seq",
        "last_seq",
        "last_change",
        "member_count",
        "created_by",
        "created_at",
        "updated_at",
    ];
    assert_eq!(fields, HashSet::from(expected));
    assert!(room.text_of("room_id").starts_with("room_"));
    assert_eq!(room.body["member_count"], 2, "repeated members count once, the creator is one");
    assert_eq!((&room.body["first_seq"], &room.body["last_seq"]), (&json!(1), &json!(0)));
    assert_eq!(room.body["created_by"], "alice");
    assert!(room.text.contains(metadata), "metadata comes back to the letter: {}", room.text);
    let again = tenant.user("bob").get(&format!("/rooms/{}", room.text_of("room_id"))).await.expect(200);
    assert_eq!(again.text, room.text);
}

#[tokio::test]
async fn a_dm_is_one_for_each_pair_also_when_many_open_it_at_once() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let open = |members: Value| {
        let caller = tenant.user("testuser");
        async move { caller.post("/rooms", json!({"type": "dm", "members": members})).await }
    };

    let at_once = (0..20).map(|n| open(if n % 2 == 0 { json!(["a:b", "100%"]) } else { json!(["100%", "a:b"]) }));
    let answers = join_all(at_once).await;

    let ids: HashSet<String> = answers.iter().map(|answer| answer.text_of("room_id")).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1, "one made it");
    assert!(answers.iter().all(|answer| [200, 201].contains(&answer.status)));
    assert_eq!(answers[0].body["unique_key"], "dm:100%25:a%3Ab");
    for wrong in [json!([]), json!(["a"]), json!(["a", "a"]), json!(["a", "b", "c"])] {
        let answer = open(wrong).await;
        answer.expect_error(400, "invalid_request", "members: a dm has exactly two different users");
    }
}

#[tokio::test]
async fn the_existing_dm_comes_back_unchanged() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let first = tenant
        .user("alice")
        .post("/rooms", json!({"type": "dm", "members": ["alice", "bob"], "name": "first", "metadata": "m"}))
        .await
        .expect(201);

    let second = json!({"type": "dm", "members": ["bob", "alice"], "name": "second", "metadata": 2});
    let second = tenant.user("bob").post("/rooms", second).await.expect(200);

    assert_eq!(second.text, first.text);
    assert_eq!(first.body["unique_key"], "dm:alice:bob");
}

#[tokio::test]
async fn what_a_room_is_made_of_is_checked_and_the_field_named() {
    let app = App::start().await;
    let tenant = app.tenant_with("t", json!({"max_room_members": 2})).await;
    let cases = [
        (json!({}), "type: is missing"),
        (json!({"type": "club"}), "type: expected 'dm', 'group' or 'channel'"),
        (json!({"type": "group", "members": []}), "members: a group has at least one user"),
        (json!({"type": "group", "members": ["a", 1]}), "members[1]: expected a string"),
        (json!({"type": "group", "members": ["a", "b", "c"]}), "members: expected at most 2 users"),
        (json!({"type": "group", "members": "a"}), "members: expected an array"),
        (
            json!({"type": "group", "members": ["a b"]}),
            "members[0]: expected a user id: 1 to 128 printable ASCII characters without spaces, not '.' or '..'",
        ),
        (
            json!({"type": "channel", "name": ""}),
            "name: expected 1 to 200 characters, none of them a control character",
        ),
        (json!({"type": "channel", "metadata": "x".repeat(9000)}), "metadata: expected at most 8192 bytes of JSON"),
        (json!({"type": "channel", "metadata": "a\0"}), "metadata: may not contain the character U+0000"),
    ];
    for (body, message) in cases {
        tenant.backend().post("/rooms", body).await.expect_error(400, "invalid_request", message);
    }
}

#[tokio::test]
async fn a_room_the_backend_makes_has_no_creator_and_no_admin() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;

    let room = tenant.backend().post("/rooms", json!({"type": "group", "members": ["bob"]})).await.expect(201);

    assert_eq!(room.body["created_by"], Value::Null);
    let id = room.text_of("room_id");
    let members = tenant.backend().get(&format!("/rooms/{id}/members")).await.expect(200);
    assert_eq!(members.each("members", "role"), ["member"]);
    assert_eq!(tenant.backend().patch(&format!("/rooms/{id}"), json!({"name": "x"})).await.status, 200);
    assert_eq!(tenant.backend().delete(&format!("/rooms/{id}")).await.status, 204);
}

#[tokio::test]
async fn name_and_metadata_change_by_those_who_may_absent_stays_and_null_clears() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let (alice, bob, eve) = (tenant.user("alice"), tenant.user("bob"), tenant.user("eve"));
    let made = json!({"type": "channel", "members": ["bob"], "name": "old", "metadata": {"k": 1}});
    let id = alice.post("/rooms", made).await.expect(201).text_of("room_id");
    let path = format!("/rooms/{id}");

    let renamed = alice.patch(&path, json!({"name": "new"})).await.expect(200);
    assert_eq!((&renamed.body["name"], &renamed.body["metadata"]), (&json!("new"), &json!({"k": 1})));
    let cleared = alice.patch(&path, json!({"metadata": null})).await.expect(200);
    assert_eq!((&cleared.body["name"], &cleared.body["metadata"]), (&json!("new"), &Value::Null));
    assert!(cleared.text_of("updated_at") > cleared.text_of("created_at"));
    for other in [&bob, &eve] {
        let refused = other.patch(&path, json!({"name": "x"})).await;
        refused.expect_error(403, "forbidden", "Only an admin of the room may do this");
    }
    let dm = tenant.room("dm", &["alice", "bob"]).await;
    assert_eq!(bob.patch(&format!("/rooms/{dm}"), json!({"name": "us"})).await.expect(200).body["name"], "us");
    assert_eq!(eve.patch(&format!("/rooms/{dm}"), json!({"name": "x"})).await.status, 404);
}

#[tokio::test]
async fn a_deleted_room_and_its_messages_are_gone() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let (alice, bob) = (tenant.user("alice"), tenant.user("bob"));
    let room = tenant.room("group", &["alice", "bob"]).await;
    let dm = tenant.room("dm", &["alice", "bob"]).await;
    alice.say(&room, "secret").await;

    assert_eq!(bob.delete(&format!("/rooms/{room}")).await.status, 403);
    assert_eq!(alice.delete(&format!("/rooms/{dm}")).await.status, 403, "only the backend deletes a dm");
    assert_eq!(alice.delete(&format!("/rooms/{room}")).await.status, 204);

    for path in ["", "/messages", "/members"] {
        assert_eq!(alice.get(&format!("/rooms/{room}{path}")).await.status, 404);
    }
    assert_eq!(alice.delete(&format!("/rooms/{room}")).await.status, 404);
    assert_eq!(alice.get("/rooms").await.expect(200).each("rooms", "room_id"), [dm.as_str()]);
    all_rows_go(&app).await;
    assert_eq!(tenant.backend().delete(&format!("/rooms/{dm}")).await.status, 204);
    let anew = tenant.room("dm", &["alice", "bob"]).await;
    assert_ne!(anew, dm);
}

#[tokio::test]
async fn many_rooms_deleted_at_once_all_go_at_once() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let rooms = join_all((0..230).map(|_| tenant.room("group", &["alice"]))).await;
    let say = async |room: &String| tenant.user("alice").say(room, "secret").await;
    join_all(rooms.iter().map(say)).await;
    let delete = async |room: &String| tenant.backend().delete(&format!("/rooms/{room}")).await.expect(204);
    join_all(rooms.iter().map(delete)).await;

    all_rows_go(&app).await;
}

/// Waits until what was deleted has gone in the background: at once, not with a sweep each 10 s.
async fn all_rows_go(app: &App) {
    let sql = app.sql().await;
    let left = "select (select count(*) from messages) + (select count(*) from erased_rooms)";
    let start = Instant::now();
    while sql.query_one(left, &[]).await.expect("counted").get::<_, i64>(0) > 0 {
        assert!(start.elapsed() < Duration::from_secs(8), "they go");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn lists_have_the_newest_activity_first_and_page_without_losing_any() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let mut rooms = Vec::new();
    for n in 0..7 {
        let members: &[&str] = if n == 6 { &["carol"] } else { &["alice", "bob"] };
        let kind = if n % 2 == 0 { "group" } else { "channel" };
        rooms.push(tenant.room(kind, members).await);
    }
    tenant.user("bob").say(&rooms[1], "hello").await;
    tenant.user("alice").say(&rooms[3], "hi").await;
    let alices = [&rooms[3], &rooms[1], &rooms[5], &rooms[4], &rooms[2], &rooms[0]];
    let all = [&rooms[3], &rooms[1], &rooms[6], &rooms[5], &rooms[4], &rooms[2], &rooms[0]];

    for (caller, expected) in [(tenant.user("alice"), &alices[..]), (tenant.backend(), &all[..])] {
        for limit in [1, 2, 3, 100] {
            let (mut seen, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = caller.get(&format!("/rooms?limit={limit}{cursor}")).await.expect(200);
                assert!(page.each("rooms", "room_id").len() <= limit);
                seen.extend(page.each("rooms", "room_id"));
                let Some(next) = page.body["next_cursor"].as_str() else { break };
                cursor = format!("&cursor={next}");
            }
            assert_eq!(seen, expected.iter().map(|id| json!(id)).collect::<Vec<_>>(), "limit {limit}");
        }
    }
    let channels = tenant.user("alice").get("/rooms?type=channel").await.expect(200);
    assert_eq!(channels.each("rooms", "type"), ["channel"; 3]);
    assert_eq!(tenant.user("alice").get("/rooms?type=club").await.status, 400);
}

#[tokio::test]
async fn ones_list_shows_ones_own_place_in_each_room() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    for text in ["one", "two", "three"] {
        tenant.user("alice").say(&room, text).await;
    }
    let ack = json!({"room_id": room, "seq": 1, "type": "read"});
    tenant.user("bob").post("/acks", ack).await.expect(200);

    let bobs = tenant.user("bob").get("/rooms").await.expect(200).body["rooms"][0].clone();
    assert_eq!(
        (&bobs["role"], &bobs["read_seq"], &bobs["unread_count"], &bobs["last_message"]["content"]),
        (&json!("member"), &json!(1), &json!(2), &json!("three"))
    );
    let alices = tenant.user("alice").get("/rooms").await.expect(200).body["rooms"][0].clone();
    assert_eq!((&alices["role"], &alices["unread_count"]), (&json!("admin"), &json!(0)));
    let backends = tenant.backend().get("/rooms").await.expect(200).body["rooms"][0].clone();
    assert_eq!(backends.get("unread_count"), None);
}
