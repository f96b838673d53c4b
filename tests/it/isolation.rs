//! A tenant never sees another's data: not by body, headers or status.

use std::time::Duration;

use chatapi_http::{Access, ROUTES, Route};
use chatapi_tests::{App, Tenant};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// What there is of one tenant, or what there is not.
struct Ids {
    tenant: String,
    room: String,
    message: String,
    user: &'static str,
    key: String,
    letter: String,
}

async fn ids_of(tenant: &Tenant<'_>) -> Ids {
    let room = tenant.room("group", &["alice", "bob"]).await;
    let message = tenant.user("alice").say(&room, "secret").await;
    let message = message["message_id"].as_str().expect("an id").to_owned();
    Ids {
        tenant: tenant.id.clone(),
        room,
        message,
        user: "bob",
        key: format!("key_{}", &tenant.key[3..15]),
        letter: String::new(),
    }
}

/// A dead letter of the tenant, whose endpoint is where nobody listens.
async fn dead_letter(tenant: &Tenant<'_>) -> String {
    let start = Instant::now();
    loop {
        let letters = tenant.backend().get("/admin/dead-letters").await.expect(200);
        if let Some(id) = letters.body["dead_letters"][0]["id"].as_str() {
            return id.to_owned();
        }
        assert!(start.elapsed() < Duration::from_secs(20), "no dead letter");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A body with which the route would do its work, if the ids were the caller's own. Every route
/// needs an entry here: a new one does not compile without.
fn body(route: Route, ids: &Ids) -> Option<Value> {
    match route {
        Route::Health
        | Route::Live
        | Route::Ready
        | Route::Metrics
        | Route::TenantsList
        | Route::TenantsGet
        | Route::TenantGet
        | Route::TenantsDelete
        | Route::TenantsExport
        | Route::TenantsImport
        | Route::KeysList
        | Route::AuditList
        | Route::DeadLettersList
        | Route::UsageTotals
        | Route::UsageList
        | Route::OwnUsageList
        | Route::KeysRevoke
        | Route::OwnKeysList
        | Route::OwnKeysRevoke
        | Route::RoomsList
        | Route::RoomsGet
        | Route::RoomsDelete
        | Route::MembersList
        | Route::MembersRemove
        | Route::MessagesList
        | Route::MessagesGet
        | Route::MessagesDelete
        | Route::ChangesList
        | Route::ReceiptsList
        | Route::PresenceGet
        | Route::Socket => None,
        Route::TokensCreate | Route::TokensRevoke => Some(json!({"user_id": ids.user})),
        Route::TenantsCreate | Route::TenantsUpdate | Route::TenantUpdate => Some(json!({"name": "x"})),
        Route::RoomsCreate => Some(json!({"type": "group", "members": [ids.user]})),
        Route::RoomsUpdate => Some(json!({"name": "taken"})),
        Route::SocketTicket
        | Route::DeadLettersRetry
        | Route::WebhookTest
        | Route::KeysCreate
        | Route::KeysRotate
        | Route::OwnKeysCreate
        | Route::OwnKeysRotate
        | Route::RoomsJoin
        | Route::RoomsLeave => Some(json!({})),
        Route::MembersAdd => Some(json!({"user_ids": ["eve"]})),
        Route::MembersUpdate => Some(json!({"role": "admin"})),
        Route::MessagesSend => Some(json!({"content": "x", "reply_to": ids.message})),
        Route::MessagesEdit => Some(json!({"content": "taken"})),
        Route::Ack => Some(json!({"room_id": ids.room, "seq": 1, "type": "read"})),
    }
}

/// Whether the route is asked with an id of the tenant's.
fn names_something(route: Route) -> bool {
    [Access::Tenant, Access::Backend, Access::OperatorOrBackend].contains(&route.spec().access)
        && (route.spec().path.contains('{') || route == Route::Ack)
}

#[tokio::test]
async fn another_tenants_ids_cannot_be_told_from_ids_that_do_not_exist() {
    let app = App::builder().set("RETRY_MAX_ATTEMPTS", "0").set("WEBHOOK_ALLOW_PRIVATE", "true").start().await;
    let nowhere = json!({"webhook_url": "http://127.0.0.1:1/", "webhook_events": ["message.sent"]});
    let (ours, theirs) = (app.tenant_with("ours", nowhere.clone()).await, app.tenant_with("theirs", nowhere).await);
    let foreign = ids_of(&theirs).await;
    let foreign = Ids { letter: dead_letter(&theirs).await, ..foreign };
    let letter = || "event_01m85d22b8egmve8x781kkwrfj".to_owned();
    let gone = Ids { key: "key_BBBBBBBBBBBB".into(), letter: letter(), ..ids_of(&ours).await };
    dead_letter(&ours).await;
    ours.backend().delete(&format!("/rooms/{}", gone.room)).await.expect(204);
    let made_up = Ids {
        tenant: "tenant_01m85d2282fwpbhy8gt3navx71".into(),
        room: "room_01m85d22b8egmve8x781kkwrfj".into(),
        message: "msg_01m85d22b8egmve8x781kkwrfj".into(),
        user: "bob",
        key: "key_AAAAAAAAAAAA".into(),
        letter: letter(),
    };
    let no_id = Ids {
        tenant: "x".into(),
        room: "room_abc123".into(),
        message: "msg_abc".into(),
        user: "bob",
        key: "x".into(),
        letter: "event_x".into(),
    };

    let mut asked = 0;
    for spec in ROUTES.iter().filter(|spec| names_something(spec.route)) {
        for caller in [ours.user("alice"), ours.backend()] {
            let mut answers = Vec::new();
            for ids in [&foreign, &gone, &made_up, &no_id] {
                let path = spec
                    .path
                    .replace("{room_id}", &ids.room)
                    .replace("{message_id}", &ids.message)
                    .replace("{user_id}", ids.user)
                    .replace("{key_id}", &ids.key)
                    .replace("{event_id}", &ids.letter)
                    .replace("{tenant_id}", &ids.tenant);
                assert!(!path.contains('{'), "{path}: say here what stands in its braces");
                answers.push(caller.send(spec.method, &path, body(spec.route, ids)).await);
            }
            // Without a user some routes refuse before they look; that is the same for all too.
            assert!([404, 400].contains(&answers[0].status), "{spec:?}: {}", answers[0].text);
            for answer in &answers[1..] {
                assert_eq!(answer.comparable(), answers[0].comparable(), "{spec:?}");
            }
            asked += 1;
        }
    }

    assert!(asked >= 30, "{asked}");
    let untouched = theirs.user("alice").get(&format!("/rooms/{}/messages", foreign.room)).await.expect(200);
    assert_eq!(untouched.each("messages", "content"), ["secret"]);
    let members = theirs.backend().get(&format!("/rooms/{}/members", foreign.room)).await.expect(200);
    assert_eq!(members.each("members", "user_id"), ["alice", "bob"]);
    assert_eq!(dead_letter(&theirs).await, foreign.letter);
    let own = ours.backend().get("/admin/dead-letters").await.expect(200);
    let owners = own.each("dead_letters", "tenant_id");
    assert!(!owners.is_empty() && owners.iter().all(|id| *id == ours.id), "{}", own.text);
}

#[tokio::test]
async fn lists_show_ones_own_and_equal_names_in_two_tenants_are_two() {
    let app = App::start().await;
    let (ours, theirs) = (app.tenant("ours").await, app.tenant("theirs").await);
    let body = json!({"type": "dm", "members": ["alice", "bob"]});
    let one = ours.user("alice").post("/rooms", body.clone()).await.expect(201).text_of("room_id");
    let two = theirs.user("alice").post("/rooms", body).await.expect(201).text_of("room_id");
    let sent = json!({"content": "x", "client_message_id": "same"});
    ours.user("alice").post(&format!("/rooms/{one}/messages"), sent.clone()).await.expect(201);

    assert_ne!(one, two);
    let second = theirs.user("alice").post(&format!("/rooms/{two}/messages"), sent).await.expect(201);
    assert_eq!(second.body["seq"], 1);
    for (tenant, room) in [(&ours, &one), (&theirs, &two)] {
        for caller in [tenant.user("alice"), tenant.backend()] {
            assert_eq!(caller.get("/rooms").await.expect(200).each("rooms", "room_id"), [room.as_str()]);
        }
    }
}

#[tokio::test]
async fn a_room_of_ones_own_tenant_that_one_may_not_see_looks_the_same_too() {
    let app = App::start().await;
    let tenant = app.tenant("t").await;
    let ids = ids_of(&tenant).await;
    let eve = tenant.user("eve");

    for path in ["", "/members", "/messages", "/changes", "/receipts", &format!("/messages/{}", ids.message)] {
        let hidden = eve.get(&format!("/rooms/{}{path}", ids.room)).await;
        let absent = eve.get(&format!("/rooms/room_01m85d22b8egmve8x781kkwrfj{path}")).await;
        assert_eq!(hidden.comparable(), absent.comparable(), "{path}");
    }
}
