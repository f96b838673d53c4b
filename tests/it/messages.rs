//! api.md 5: messages.

use std::collections::HashSet;

use chatapi_tests::App;
use futures_util::future::join_all;
use serde_json::{Value, json};

#[tokio::test]
async fn a_message_is_shown_as_the_contract_says() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let first = tenant.user("alice").say(&room, "first").await;
    let meta = r#"{"b":1,  "a":[1.0]}"#;
    let reply_to = first["message_id"].as_str().expect("an id");
    let body = format!(
        r#"{{"content": "zwölf \u00e9 😀", "meta": {meta}, "client_message_id": "c-1", "reply_to": "{reply_to}"}}"#
    );

    let path = format!("/rooms/{room}/messages");
    let sent = tenant.user("bob").post_raw(&path, "application/json; charset=utf-8", body).await.expect(201);

    let fields: HashSet<&str> = sent.body.as_object().expect("an object").keys().map(String::as_str).collect();
    let expected = [
        "message_id",
        "room_id",
        "sender_id",
        "seq",
        "content",
        "meta",
        "client_message_id",
        "created_at",
        "edited_at",
        "deleted_at",
        "reply_to",
    ];
    assert_eq!(fields, HashSet::from(expected));
    assert!(sent.text_of("message_id").starts_with("msg_"));
    assert_eq!((&sent.body["seq"], &sent.body["content"]), (&json!(2), &json!("zwölf é 😀")));
    assert_eq!((&sent.body["sender_id"], &sent.body["reply_to"]), (&json!("bob"), &json!(reply_to)));
    assert!(sent.text.contains(meta), "{}", sent.text);
    let created = sent.text_of("created_at");
    assert!(created.len() == 27 && created.ends_with('Z'), "{created}");
    let one = tenant.user("alice").get(&format!("{path}/{}", sent.text_of("message_id"))).await.expect(200);
    assert_eq!(one.text, sent.text);
}

#[tokio::test]
async fn fifty_senders_at_once_leave_neither_gap_nor_double() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let users: Vec<String> = (0..50).map(|n| format!("user{n}")).collect();
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let room = tenant.room("group", &names).await;

    let sender = |user: &str| {
        let (caller, room, user) = (tenant.user(user), room.clone(), user.to_owned());
        async move {
            let mut sent = Vec::new();
            for n in 0..20 {
                let message = caller.say(&room, &format!("{user} {n}")).await;
                sent.push((message["seq"].as_i64().expect("a seq"), format!("{user} {n}")));
            }
            assert!(sent.is_sorted(), "one after the other they keep their order");
            sent
        }
    };
    let mut acknowledged: Vec<_> = join_all(names.iter().map(|user| sender(user))).await.concat();

    acknowledged.sort();
    assert_eq!(acknowledged.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), (1..=1000).collect::<Vec<_>>());
    let mut stored = Vec::new();
    let mut times = Vec::new();
    while stored.len() < 1000 {
        let path = format!("/rooms/{room}/messages?limit=100&after_seq={}", stored.len());
        let page = tenant.user("user0").get(&path).await.expect(200);
        assert_eq!(page.body["has_more"], stored.len() < 900);
        times.extend(page.each("messages", "created_at").into_iter().map(|time| time.to_string()));
        let (seqs, contents) = (page.each("messages", "seq"), page.each("messages", "content"));
        stored.extend(
            seqs.iter()
                .zip(&contents)
                .map(|(seq, content)| (seq.as_i64().expect("a seq"), content.as_str().expect("a text").to_owned())),
        );
    }
    assert_eq!(stored, acknowledged);
    assert!(times.is_sorted(), "times follow seq");
}

#[tokio::test]
async fn twenty_equal_client_message_ids_at_once_are_one_message() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let path = format!("/rooms/{room}/messages");
    let send = |n: usize| {
        let (caller, path) = (tenant.user("alice"), path.clone());
        async move { caller.post(&path, json!({"content": n.to_string(), "client_message_id": "same"})).await }
    };

    let answers = join_all((0..20).map(send)).await;

    assert_eq!(answers.iter().map(|answer| &answer.text).collect::<HashSet<_>>().len(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 19);
    let bobs = tenant.user("bob").post(&path, json!({"content": "x", "client_message_id": "same"})).await;
    assert_eq!((bobs.status, &bobs.body["seq"]), (201, &json!(2)), "another sender's is another");
    let other = tenant.room("group", &["alice"]).await;
    let elsewhere = json!({"content": "x", "client_message_id": "same"});
    assert_eq!(tenant.user("alice").post(&format!("/rooms/{other}/messages"), elsewhere).await.status, 201);

    let id = answers[0].text_of("message_id");
    tenant.user("alice").delete(&format!("{path}/{id}")).await.expect(204);
    let after = send(99).await.expect(200);
    assert_eq!((&after.body["message_id"], &after.body["content"]), (&json!(id), &json!("")), "its trace stays");
}

#[tokio::test]
async fn two_nodes_on_one_database_leave_neither_gap_nor_double() {
    let app = App::start().await;
    let other = app.second_node().await;
    other.ready().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    let send = |n: usize| {
        let caller = if n.is_multiple_of(2) { tenant.user("alice") } else { tenant.through(&other).user("alice") };
        let path = format!("/rooms/{room}/messages");
        // Half of the ids come twice, once through each node.
        let body = json!({"content": "x", "client_message_id": format!("id-{}", n / 2)});
        async move { caller.post(&path, body).await }
    };

    let answers = join_all((0..200).map(send)).await;

    assert!(answers.iter().all(|answer| [200, 201].contains(&answer.status)), "{answers:?}");
    let made: Vec<_> = answers.iter().filter(|answer| answer.status == 201).collect();
    let mut seqs: Vec<i64> = made.iter().map(|answer| answer.body["seq"].as_i64().expect("a seq")).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=100).collect::<Vec<_>>());
    for pair in answers.chunks(2) {
        assert_eq!(pair[0].text, pair[1].text);
    }
}

#[tokio::test]
async fn history_is_read_from_both_ends_and_between_bounds() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    let alice = tenant.user("alice");
    for n in 1..=10 {
        alice.say(&room, &n.to_string()).await;
    }
    let cases = [
        ("", (1..=10).collect::<Vec<i64>>(), false),
        ("limit=3", vec![1, 2, 3], true),
        ("limit=3&order=desc", vec![10, 9, 8], true),
        ("limit=3&order=desc&before_seq=8", vec![7, 6, 5], true),
        ("limit=3&order=desc&before_seq=4", vec![3, 2, 1], false),
        ("after_seq=8", vec![9, 10], false),
        ("after_seq=2&before_seq=6", vec![3, 4, 5], false),
        ("after_seq=2&before_seq=6&limit=2", vec![3, 4], true),
        ("after_seq=10", vec![], false),
        ("before_seq=0", vec![], false),
    ];
    for (query, expected, more) in cases {
        for caller in [alice.clone(), tenant.backend()] {
            let page = caller.get(&format!("/rooms/{room}/messages?{query}")).await.expect(200);
            let expected: Vec<Value> = expected.iter().map(|seq| json!(seq)).collect();
            assert_eq!((page.each("messages", "seq"), &page.body["has_more"]), (expected, &json!(more)), "{query}");
        }
    }
    for (query, message) in [
        ("after_seq=x", "after_seq: expected a whole number of at least 0"),
        ("before_seq=-1", "before_seq: expected a whole number of at least 0"),
        ("order=up", "order: expected 'asc' or 'desc'"),
        ("limit=0", "limit: expected a whole number from 1 to 100"),
        ("limit=101", "limit: expected a whole number from 1 to 100"),
        ("limit=ten", "limit: expected a whole number from 1 to 100"),
    ] {
        let answer = alice.get(&format!("/rooms/{room}/messages?{query}")).await;
        answer.expect_error(400, "invalid_request", message);
    }
}

#[tokio::test]
async fn what_is_sent_is_checked() {
    let app = App::start().await;
    let tenant = app.tenant_with("t", json!({"max_message_bytes": 10})).await;
    let (room, other) = (tenant.room("group", &["alice"]).await, tenant.room("group", &["alice"]).await);
    let foreign = tenant.user("alice").say(&other, "x").await["message_id"].clone();
    let (alice, path) = (tenant.user("alice"), format!("/rooms/{room}/messages"));
    let cases = [
        (json!({}), 400, "content: is missing"),
        (json!({"content": 5}), 400, "content: expected a string"),
        (json!({"content": ""}), 400, "content: may not be empty"),
        (json!({"content": "a\0"}), 400, "content: may not contain the character U+0000"),
        (json!({"content": "äääääx"}), 413, "content: expected at most 10 bytes"),
        (json!({"content": "x", "meta": "x".repeat(8200)}), 400, "meta: expected at most 8192 bytes of JSON"),
        (json!({"content": "x", "meta": "\0"}), 400, "meta: may not contain the character U+0000"),
        (
            json!({"content": "x", "client_message_id": ""}),
            400,
            "client_message_id: expected 1 to 128 visible ASCII characters",
        ),
        (
            json!({"content": "x", "client_message_id": "a b"}),
            400,
            "client_message_id: expected 1 to 128 visible ASCII characters",
        ),
        (
            json!({"content": "x", "reply_to": "msg_x"}),
            400,
            "reply_to: expected the message_id of a message of this room",
        ),
        (
            json!({"content": "x", "reply_to": foreign}),
            400,
            "reply_to: expected the message_id of a message of this room",
        ),
    ];
    for (body, status, message) in cases {
        let code = if status == 413 { "payload_too_large" } else { "invalid_request" };
        alice.post(&path, body).await.expect_error(status, code, message);
    }
    let next = alice.say(&room, "fine").await;
    assert_eq!(next["seq"], 1, "what was refused cost no number");
}

#[tokio::test]
async fn a_message_is_edited_by_its_sender_alone() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let body = json!({"content": "old", "meta": {"k": 1}});
    let sent = tenant.user("bob").post(&format!("/rooms/{room}/messages"), body).await.expect(201);
    let path = format!("/rooms/{room}/messages/{}", sent.text_of("message_id"));
    let bob = tenant.user("bob");

    let edited = bob.put(&path, json!({"content": "new"})).await.expect(200);
    assert_eq!((&edited.body["content"], &edited.body["meta"]), (&json!("new"), &json!({"k": 1})));
    assert!(edited.body["edited_at"].is_string());
    assert_eq!(edited.body["seq"], 1);
    let cleared = bob.put(&path, json!({"content": "new", "meta": null})).await.expect(200);
    assert_eq!(cleared.body["meta"], Value::Null);
    let refused = tenant.user("alice").put(&path, json!({"content": "x"})).await;
    refused.expect_error(403, "forbidden", "Only its sender may edit a message");
    assert_eq!(tenant.user("eve").put(&path, json!({"content": "x"})).await.status, 404);
    assert_eq!(bob.put(&path, json!({"meta": 1})).await.status, 400);
    assert_eq!(bob.put(&path, json!({"content": "x".repeat(20_000)})).await.status, 413);
    let absent = format!("/rooms/{room}/messages/msg_01m85d22b8egmve8x781kkwrfj");
    bob.put(&absent, json!({"content": "x"})).await.expect_error(404, "not_found", "Message not found");

    assert_eq!(bob.delete(&path).await.status, 204);
    let late = bob.put(&path, json!({"content": "x"})).await;
    late.expect_error(409, "conflict", "A deleted message cannot be edited");
}

#[tokio::test]
async fn a_deleted_message_is_erased_from_every_table_and_leaves_a_trace() {
    let app = App::builder().set("WEBHOOK_ALLOW_PRIVATE", "true").start().await;
    // What cannot be told waits to be told again.
    let nowhere = json!({"webhook_url": "http://127.0.0.1:1/", "webhook_events": ["message.sent"]});
    let tenant = app.tenant_with("t", nowhere).await;
    let room = tenant.room("group", &["alice", "bob", "carol"]).await;
    let (alice, bob, path) = (tenant.user("alice"), tenant.user("bob"), format!("/rooms/{room}/messages"));
    let body = json!({"content": "very-secret-text", "meta": {"k": "very-secret-meta"}});
    let sent = bob.post_once("key-1", &path, &body).await.expect(201);
    let one = format!("{path}/{}", sent.text_of("message_id"));

    let refused = tenant.user("carol").delete(&one).await;
    refused.expect_error(403, "forbidden", "Only its sender or an admin of the room may delete a message");
    assert_eq!(alice.delete(&one).await.status, 204, "an admin may");
    assert_eq!(alice.delete(&one).await.status, 204);
    assert_eq!(bob.delete(&one).await.status, 204);

    let listed = bob.get(&path).await.expect(200).body["messages"][0].clone();
    assert_eq!((&listed["content"], &listed["meta"], &listed["seq"]), (&json!(""), &Value::Null, &json!(1)));
    assert!(listed["deleted_at"].is_string());
    let sql = app.sql().await;
    let untold = "select (select count(*) from outbox) + (select count(*) from deliveries)";
    assert_eq!(sql.query_one(untold, &[]).await.expect("counted").get::<_, i64>(0), 1);
    let tables = sql
        .query(
            "select format('%I', relname) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace",
            &[],
        )
        .await
        .expect("tables");
    assert!(tables.len() >= 7);
    for table in tables {
        let table: String = table.get(0);
        for what in ["very-secret", "766572792d736563726574"] {
            let query = format!("select count(*) from {table} t where t::text like '%{what}%'");
            let found: i64 = sql.query_one(&query, &[]).await.expect("counted").get(0);
            assert_eq!(found, 0, "{what} is still in {table}");
        }
    }
    let replayed = bob.post_once("key-1", &path, &body).await.expect(201);
    assert_eq!(replayed.header("idempotent-replayed"), "true");
    assert_eq!(replayed.body, listed, "nothing is sent twice, and the stored answer knows no more");
}

#[tokio::test]
async fn the_changes_feed_lists_each_changed_message_once_in_its_present_state() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    let alice = tenant.user("alice");
    let mut ids = Vec::new();
    for n in 1..=4 {
        ids.push(alice.say(&room, &n.to_string()).await["message_id"].as_str().expect("an id").to_owned());
    }
    let at = |n: usize| format!("/rooms/{room}/messages/{}", ids[n - 1]);
    let feed = |query: String| {
        let (alice, room) = (alice.clone(), room.clone());
        async move {
            let page = alice.get(&format!("/rooms/{room}/changes?{query}")).await.expect(200);
            let (seqs, changes) = (page.each("messages", "seq"), page.each("messages", "change"));
            (json!(seqs), json!(changes), page.body["next_after"].clone(), page.body["has_more"].clone())
        }
    };
    assert_eq!(feed(String::new()).await, (json!([]), json!([]), json!(0), json!(false)));

    alice.put(&at(2), json!({"content": "two"})).await.expect(200);
    alice.put(&at(1), json!({"content": "one"})).await.expect(200);
    alice.delete(&at(3)).await.expect(204);
    alice.put(&at(2), json!({"content": "zwei"})).await.expect(200);

    assert_eq!(feed(String::new()).await, (json!([1, 3, 2]), json!([2, 3, 4]), json!(4), json!(false)));
    assert_eq!(feed("limit=2".into()).await, (json!([1, 3]), json!([2, 3]), json!(3), json!(true)));
    assert_eq!(feed("after=3".into()).await, (json!([2]), json!([4]), json!(4), json!(false)));
    assert_eq!(feed("after=4".into()).await, (json!([]), json!([]), json!(4), json!(false)));
    let page = alice.get(&format!("/rooms/{room}/changes")).await.expect(200);
    assert_eq!(page.each("messages", "content"), ["one", "", "zwei"]);
    assert_eq!(alice.get(&format!("/rooms/{room}")).await.body["last_change"], 4);

    // What is refused, or done already, is no change; also when many try at once.
    alice.put(&at(3), json!({"content": "x"})).await.expect(409);
    let tries = (0..12_u32).map(|n| {
        let (alice, path) = (alice.clone(), at(4));
        async move {
            if n.is_multiple_of(2) {
                alice.delete(&path).await.status
            } else {
                alice.put(&path, json!({"content": "x"})).await.status
            }
        }
    });
    let statuses = join_all(tries).await;
    let edits = i64::try_from(statuses.iter().filter(|status| **status == 200).count()).expect("few");
    assert_eq!(statuses.iter().filter(|status| **status == 204).count(), 6);
    let room_now = alice.get(&format!("/rooms/{room}")).await;
    assert_eq!(room_now.body["last_change"], 4 + edits + 1);
    let last = alice.get(&format!("/rooms/{room}/changes")).await.expect(200);
    assert_eq!(last.body["next_after"], room_now.body["last_change"]);
}

#[tokio::test]
async fn sending_costs_one_round_trip_and_a_known_key_none() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    let send = |id: &'static str| {
        let request = tenant.user("alice").request("POST", &format!("/rooms/{room}/messages"));
        let body = json!({"content": "x", "client_message_id": id});
        async move { request.header("X-Request-Id", id).json(&body).send().await.expect("an answer").status() }
    };
    assert_eq!(send("warm-up").await, 201);

    assert_eq!(send("counted").await, 201);
    let own = tenant.backend().request("GET", "/tenant").header("X-Request-Id", "known-key");
    assert_eq!(own.send().await.expect("an answer").status(), 200);

    let line = app.wait_for_log("\"request_id\":\"counted\",\"target\":\"chatapi::access\"").await;
    assert_eq!((line["queries"].as_i64(), line["status"].as_i64()), (Some(1), Some(201)), "{line}");
    let line = app.wait_for_log("\"request_id\":\"known-key\",\"target\":\"chatapi::access\"").await;
    assert_eq!(line["queries"].as_i64(), Some(0), "{line}");
}

#[tokio::test]
async fn a_page_that_was_read_before_is_right_at_once_on_every_node() {
    let one = App::start().await;
    let two = one.second_node().await;
    two.ready().await;
    let tenant = one.tenant("t").await;
    let (there, room) = (tenant.through(&two), tenant.room("group", &["alice", "bob"]).await);
    let (alice, bob) = (tenant.user("alice"), there.user("bob"));
    let path = |query: &str| format!("/rooms/{room}/messages?{query}");
    let queries = ["", "order=desc", "order=desc&limit=2", "after_seq=1&limit=2", "order=desc&before_seq=4", "limit=1"];
    let mut expected: Vec<(i64, String)> = Vec::new();
    let (mut ids, mut first) = (Vec::new(), true);
    for n in 1..=20_i64 {
        let said = alice.say(&room, &n.to_string()).await;
        ids.push(said["message_id"].as_str().expect("an id").to_owned());
        expected.push((n, n.to_string()));
        if n % 3 == 0 {
            let at = usize::try_from(n / 2).expect("small");
            let path = format!("/rooms/{room}/messages/{}", ids[at]);
            alice.put(&path, json!({"content": format!("edited {n}")})).await.expect(200);
            expected[at].1 = format!("edited {n}");
        }
        if n % 5 == 0 {
            let at = usize::try_from(n / 3).expect("small");
            alice.delete(&format!("/rooms/{room}/messages/{}", ids[at])).await.expect(204);
            expected[at].1 = String::new();
        }
        for query in queries {
            // Twice: read, and found.
            for caller in [&bob, &bob, &alice] {
                let page = caller.get(&path(query)).await.expect(200);
                let found: Vec<(i64, String)> = page.body["messages"]
                    .as_array()
                    .expect("messages")
                    .iter()
                    .map(|message| {
                        (
                            message["seq"].as_i64().expect("a seq"),
                            message["content"].as_str().expect("a text").to_owned(),
                        )
                    })
                    .collect();
                assert_eq!((found, page.body["has_more"] == true), model(&expected, query), "{query} after {n}");
            }
        }
        if first {
            assert_eq!(there.user("eve").get(&path("")).await.status, 404, "what is in memory is not for everybody");
            first = false;
        }
    }
    tenant.user("alice").delete(&format!("/rooms/{room}/members/bob")).await.expect(204);
    assert_eq!(bob.get(&path("")).await.status, 404, "at once");
    alice.delete(&format!("/rooms/{room}")).await.expect(204);
    assert_eq!(there.user("alice").get(&path("")).await.status, 404);
}

/// What a page holds, and whether there is more.
fn model(all: &[(i64, String)], query: &str) -> (Vec<(i64, String)>, bool) {
    let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
    let number = |name: &str, usual: i64| parameter(name).map_or(usual, |text| text.parse().expect("a number"));
    let (after, before) = (number("after_seq", 0), number("before_seq", i64::MAX));
    let mut page: Vec<_> = all.iter().filter(|(seq, _)| *seq > after && *seq < before).cloned().collect();
    if parameter("order") == Some("desc") {
        page.reverse();
    }
    let limit = usize::try_from(number("limit", 50)).expect("small");
    let more = page.len() > limit;
    page.truncate(limit);
    (page, more)
}
