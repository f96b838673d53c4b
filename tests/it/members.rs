//! api.md 4: members, roles, joining and leaving.

use chatapi_tests::App;
use futures_util::future::join_all;
use serde_json::json;

#[tokio::test]
async fn admins_add_members_and_adding_again_changes_nothing() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice"]).await;
    let path = format!("/rooms/{room}/members");
    let alice = tenant.user("alice");

    let added = alice.post(&path, json!({"user_ids": ["carol", "bob", "bob"], "role": "member"})).await.expect(200);
    assert_eq!(added.each("members", "user_id"), ["alice", "bob", "carol"]);
    let again = alice.post(&path, json!({"user_ids": ["bob"], "role": "admin"})).await.expect(200);
    assert_eq!(again.each("members", "role"), ["admin", "member", "member"], "who is there stays as he is");
    assert_eq!(alice.get(&format!("/rooms/{room}")).await.body["member_count"], 3);

    let refused = tenant.user("bob").post(&path, json!({"user_ids": ["eve"]})).await;
    refused.expect_error(403, "forbidden", "Only an admin of the room may do this");
    assert_eq!(tenant.user("eve").post(&path, json!({"user_ids": ["eve"]})).await.status, 404);
    assert_eq!(tenant.backend().post(&path, json!({"user_ids": ["dave"]})).await.status, 200);
    for (body, message) in [
        (json!({"user_ids": []}), "user_ids: expected 1 to 10000 users"),
        (json!({"user_ids": ["a", 7]}), "user_ids[1]: expected a string"),
        (json!({"user_ids": ["a"], "role": "king"}), "role: expected 'admin' or 'member'"),
    ] {
        alice.post(&path, body).await.expect_error(400, "invalid_request", message);
    }
}

#[tokio::test]
async fn members_are_listed_in_pages_each_once() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let users: Vec<String> = (0..23).map(|n| format!("user|{n:02}")).collect();
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let room = tenant.room("group", &names).await;

    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = tenant.user("user|00").get(&format!("/rooms/{room}/members?limit=5{cursor}")).await.expect(200);
        seen.extend(page.each("members", "user_id"));
        let Some(next) = page.body["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }

    assert_eq!(seen, users);
}

#[tokio::test]
async fn the_members_of_a_dm_are_fixed() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("dm", &["alice", "bob"]).await;
    let fixed = "The members of a dm are fixed";

    for caller in [tenant.user("alice"), tenant.backend()] {
        let add = caller.post(&format!("/rooms/{room}/members"), json!({"user_ids": ["eve"]})).await;
        add.expect_error(409, "conflict", fixed);
        let role = caller.patch(&format!("/rooms/{room}/members/bob"), json!({"role": "admin"})).await;
        role.expect_error(409, "conflict", fixed);
        caller.delete(&format!("/rooms/{room}/members/bob")).await.expect_error(409, "conflict", fixed);
    }
    let leave = tenant.user("alice").post(&format!("/rooms/{room}/leave"), json!({})).await;
    leave.expect_error(409, "conflict", fixed);
    assert_eq!(tenant.user("eve").post(&format!("/rooms/{room}/join"), json!({})).await.status, 404);
}

#[tokio::test]
async fn channels_are_read_by_all_joined_by_anybody_and_posted_to_by_members() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let channel = tenant.room("channel", &["alice"]).await;
    let (alice, bob) = (tenant.user("alice"), tenant.user("bob"));
    alice.say(&channel, "welcome").await;

    let read = bob.get(&format!("/rooms/{channel}/messages")).await.expect(200);
    assert_eq!(read.each("messages", "content"), ["welcome"]);
    let refused = bob.post(&format!("/rooms/{channel}/messages"), json!({"content": "hi"})).await;
    refused.expect_error(403, "forbidden", "Only members of the room may do this");
    assert_eq!(bob.get("/rooms").await.expect(200).each("rooms", "room_id").len(), 0);

    let joined = bob.post(&format!("/rooms/{channel}/join"), json!({})).await.expect(200);
    assert_eq!(joined.body["member_count"], 2);
    let again = bob.post(&format!("/rooms/{channel}/join"), json!({})).await.expect(200);
    assert_eq!(again.body["member_count"], 2);
    let listed = bob.get("/rooms").await.expect(200).body["rooms"][0].clone();
    assert_eq!(listed["unread_count"], 0, "what came before one joined is not unread");
    bob.say(&channel, "hi").await;

    assert_eq!(bob.post(&format!("/rooms/{channel}/leave"), json!({})).await.status, 204);
    assert_eq!(bob.post(&format!("/rooms/{channel}/leave"), json!({})).await.status, 404);
    let group = tenant.room("group", &["alice"]).await;
    let join = alice.post(&format!("/rooms/{group}/join"), json!({})).await;
    join.expect_error(409, "conflict", "Only a channel can be joined; a group is by invitation");
    assert_eq!(bob.post(&format!("/rooms/{group}/join"), json!({})).await.status, 404);
}

#[tokio::test]
async fn a_full_room_takes_nobody_also_when_many_join_at_once() {
    let app = App::start().await;
    let tenant = app.tenant_with("t", json!({"max_room_members": 3})).await;
    let channel = tenant.room("channel", &["alice"]).await;

    let join = |n| {
        let (caller, path) = (tenant.user(&format!("user{n}")), format!("/rooms/{channel}/join"));
        async move { caller.post(&path, json!({})).await.status }
    };
    let mut statuses = join_all((0..8).map(join)).await;

    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 409, 409, 409, 409, 409, 409]);
    let full = tenant.backend().post(&format!("/rooms/{channel}/members"), json!({"user_ids": ["zed"]})).await;
    full.expect_error(409, "conflict", "The room is full");
    assert_eq!(tenant.backend().get(&format!("/rooms/{channel}")).await.body["member_count"], 3);
}

#[tokio::test]
async fn the_last_admin_stays_while_others_are_there() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "bob"]).await;
    let (alice, bob) = (tenant.user("alice"), tenant.user("bob"));
    let member = |user: &str| format!("/rooms/{room}/members/{user}");
    let last = "The last admin cannot leave a room that has other members";

    alice.post(&format!("/rooms/{room}/leave"), json!({})).await.expect_error(409, "conflict", last);
    tenant.backend().delete(&member("alice")).await.expect_error(409, "conflict", last);
    let promoted = alice.patch(&member("bob"), json!({"role": "admin"})).await.expect(200);
    assert_eq!((&promoted.body["user_id"], &promoted.body["role"]), (&json!("bob"), &json!("admin")));
    assert_eq!(alice.patch(&member("alice"), json!({"role": "member"})).await.status, 200);
    assert_eq!(bob.delete(&member("alice")).await.status, 204);
    bob.delete(&member("alice")).await.expect_error(404, "not_found", "Member not found");
    assert_eq!(bob.post(&format!("/rooms/{room}/leave"), json!({})).await.status, 204, "alone he may go");
    assert_eq!(tenant.backend().get(&format!("/rooms/{room}")).await.body["member_count"], 0);
}

#[tokio::test]
async fn a_member_may_leave_but_not_put_out_others_and_ids_are_percent_encoded() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let room = tenant.room("group", &["alice", "auth0|42", "a/b"]).await;
    let odd = tenant.user("auth0|42");

    assert_eq!(odd.delete(&format!("/rooms/{room}/members/a%2Fb")).await.status, 403);
    assert_eq!(odd.delete(&format!("/rooms/{room}/members/auth0%7C42")).await.status, 204);
    assert_eq!(tenant.user("alice").delete(&format!("/rooms/{room}/members/a%2Fb")).await.status, 204);
    assert_eq!(tenant.user("alice").delete(&format!("/rooms/{room}/members/%FF%00")).await.status, 404);
}
