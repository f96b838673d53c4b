//! Every repository method, asked with another tenant's ids, finds nothing.

use std::collections::BTreeSet;

use chatapi_domain::access::Actor;
use chatapi_domain::{
    Content, HistoryQuery, Order, ReceiptKind, Role, RoomId, RoomPatch, RoomType, TenantId, WebhookEvent,
};
use chatapi_storage::{Answer, Begun, Error, Failure, Floor, FoundTenant, Issuer, Reservation, Store, Ticket};
use chatapi_testkit::Database;
use secrecy::ExposeSecret;
use uuid::Uuid;

use crate::chat::{message, named, now, room, tenant, user};
use crate::transfer::{export, import};

/// The methods of a tenant's repositories, read from their sources.
fn methods() -> BTreeSet<String> {
    let sources = [
        ("rooms", include_str!("../../src/rooms.rs")),
        ("members", include_str!("../../src/members.rs")),
        ("messages", include_str!("../../src/messages.rs")),
        ("receipts", include_str!("../../src/receipts.rs")),
        ("idempotency", include_str!("../../src/idempotency.rs")),
        ("presence", include_str!("../../src/presence.rs")),
        ("dead_letters", include_str!("../../src/dead_letters.rs")),
        ("tokens", include_str!("../../src/tokens.rs")),
        ("transfer", include_str!("../../src/transfer.rs")),
    ];
    let of = |(noun, source): (&str, &str)| -> Vec<String> {
        let lines = source.lines().filter_map(|line| line.trim().strip_prefix("pub async fn "));
        lines.map(|line| format!("{noun}.{}", line.split('(').next().unwrap_or_default())).collect()
    };
    sources.into_iter().flat_map(of).collect()
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "reads better at the calls")]
fn not_found<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::NotFound(_))), "{result:?}");
}

#[tokio::test]
async fn no_method_finds_what_is_another_tenants() {
    let database = Database::new().await;
    let store = database.store();
    let (theirs, ours) = (tenant(&store).await, tenant(&store).await);
    let (them, us) = (store.tenant(theirs), store.tenant(ours));
    let foreign = room(them, RoomType::Channel, &["alice", "bob"]).await;
    let id = foreign.room_id;
    let sent = them.messages().append(named(message(id, "alice", "secret"), "c-1")).await.expect("sent").message;
    let dm = room(them, RoomType::Dm, &["alice", "bob"]).await;
    let mut asked = BTreeSet::new();

    for actor in [Actor::Tenant, Actor::User(user("alice"))] {
        let mut ask = |method: &str| _ = asked.insert(method.to_owned());
        ask("rooms.get");
        not_found(us.rooms().get(id, &actor).await);
        ask("rooms.list");
        assert!(us.rooms().list(&actor, None, None, 100).await.expect("an empty list").is_empty());
        ask("rooms.update");
        not_found(us.rooms().update(id, &actor, &RoomPatch::default(), now()).await);
        ask("rooms.delete");
        not_found(us.rooms().delete(id, &actor, now()).await);
        ask("members.list");
        not_found(us.members().list(id, &actor, None, 100).await);
        ask("members.add");
        not_found(us.members().add(id, &actor, &[user("eve")], Role::Admin, 100, now()).await);
        ask("members.set_role");
        not_found(us.members().set_role(id, &actor, &user("bob"), Role::Admin).await);
        ask("members.remove");
        not_found(us.members().remove(id, &actor, &user("bob"), now()).await);
        ask("messages.history");
        let all = HistoryQuery { after_seq: None, before_seq: None, order: Order::Ascending, limit: 100 };
        not_found(us.messages().history(id, &actor, &all).await);
        ask("messages.history_at");
        not_found(us.messages().history_at(id, &actor, &all).await);
        ask("rooms.extent");
        not_found(us.rooms().extent(id, &actor).await);
        ask("messages.changes");
        not_found(us.messages().changes(id, &actor, 0, 100).await);
        ask("messages.get");
        not_found(us.messages().get(id, &actor, sent.message_id).await);
        ask("receipts.list");
        not_found(us.receipts().list(id, &actor, None, 100).await);
    }
    let (alice, content) = (user("alice"), Content::parse("x".into(), 10).expect("content"));
    let mut ask = |method: &str| _ = asked.insert(method.to_owned());
    ask("members.join");
    not_found(us.members().join(id, &alice, 100, now()).await);
    ask("messages.append");
    not_found(us.messages().append(message(id, "alice", "x")).await);
    not_found(us.messages().append(named(message(id, "alice", "x"), "c-1")).await);
    ask("messages.append_all");
    for result in us.messages().append_all(vec![message(id, "alice", "x"), message(id, "alice", "y")]).await {
        not_found(result);
    }
    ask("messages.edit");
    not_found(us.messages().edit(id, &alice, sent.message_id, &content, None, now()).await);
    ask("messages.erase");
    not_found(us.messages().erase(id, &alice, sent.message_id, now()).await);
    ask("receipts.advance");
    not_found(us.receipts().advance(id, &alice, 1, ReceiptKind::Read, now()).await);
    ask("rooms.places");
    assert!(us.rooms().places(&alice).await.expect("none").is_empty());
    ask("rooms.places_in");
    assert!(us.rooms().places_in(&[id], &alice).await.expect("none").is_empty(), "though it is a channel");
    ask("rooms.create");
    let own = room(us, RoomType::Dm, &["alice", "bob"]).await;
    assert_ne!(own.room_id, dm.room_id, "the dm of the same pair is another tenant's");
    // A message of another tenant cannot be answered either.
    let mut reply = message(own.room_id, "alice", "x");
    reply.reply_to = Some(sent.message_id);
    assert!(matches!(us.messages().append(reply).await, Err(Error::Invalid(_))));

    let announcing = them.announcing([WebhookEvent::MessageSent].into_iter().collect());
    announcing.messages().append(message(dm.room_id, "alice", "to be told")).await.expect("sent");
    let floor = &mut Floor::new();
    assert!(store.deliveries().take(theirs, floor).await.expect("taken").any);
    assert!(!store.deliveries().take(ours, floor).await.expect("nothing").any);
    assert!(store.deliveries().claim(ours, 10, floor).await.expect("nothing").deliveries.is_empty());
    let claimed = store.deliveries().claim(theirs, 10, floor).await.expect("claimed");
    let [(delivery, _)] = &claimed.deliveries[..] else { panic!("one") };
    let failure = Failure { status: Some(500), error: "it answered 500".into() };
    store.deliveries().give_up(delivery, true, &failure).await.expect("given up");
    ask("dead_letters.list");
    assert!(us.dead_letters().list(None, 10).await.expect("none").is_empty());
    assert_eq!(them.dead_letters().list(None, 10).await.expect("theirs").len(), 1);
    assert_eq!(store.dead_letters().list(None, 10).await.expect("all").len(), 1);
    ask("dead_letters.retry");
    not_found(us.dead_letters().retry(delivery.event_id).await);

    let request = Reservation { caller: String::new(), path: "/p".into(), key: "k".into(), fingerprint: [0; 32] };
    let answer = Answer { status: 200, body: Some(b"secret".to_vec()), shows: None };
    ask("idempotency.begin");
    assert!(matches!(them.idempotency().begin(&request, Uuid::nil(), now()).await, Ok(Begun::Run(_))));
    ask("idempotency.keep");
    them.idempotency().keep(&request, &answer).await.expect("kept");
    ask("idempotency.release");
    us.idempotency().release(&request).await.expect("nothing there");
    assert!(matches!(us.idempotency().begin(&request, Uuid::nil(), now()).await, Ok(Begun::Run(_))));
    assert!(matches!(them.idempotency().begin(&request, Uuid::nil(), now()).await, Ok(Begun::Replay(_))));

    presence_and_tokens(&store, theirs, ours, own.room_id, &mut asked).await;
    transfer(&store, theirs, ours, &mut asked).await;

    assert_eq!(asked, methods(), "a method without a line here, or a line without a method");
    let untouched = them.rooms().get(id, &Actor::Tenant).await.expect("still there");
    assert_eq!((untouched.member_count, untouched.last_seq, untouched.name), (2, 1, None));
}

async fn transfer(store: &Store, theirs: TenantId, ours: TenantId, asked: &mut BTreeSet<String>) {
    let before = [export(store, theirs).await, export(store, ours).await];
    let mut ask = |method: &str| _ = asked.insert(method.to_owned());
    ask("transfer.export");
    let text = String::from_utf8(before[1].clone()).expect("UTF-8");
    assert!(!text.contains("secret") && !text.contains(&theirs.to_string()), "{text}");
    ask("transfer.import");
    assert!(matches!(import(store, &before[1], Some(theirs)).await, Err(Error::Conflict(_))));
    let copy = TenantId::new(now());
    import(store, &before[0], Some(copy)).await.expect("the ids of a tenant may be another's too");
    // But for the moment, which is in the first line and the sum.
    let rows = |file: &[u8]| {
        let lines: Vec<_> = String::from_utf8_lossy(file).lines().map(str::to_owned).collect();
        lines[1..lines.len() - 1].to_vec()
    };
    assert_eq!(rows(&export(store, theirs).await), rows(&before[0]));
    assert_eq!(rows(&export(store, ours).await), rows(&before[1]));
    store.tenant(copy).rooms().list(&Actor::Tenant, None, None, 100).await.expect("listed");
}

async fn presence_and_tokens(
    store: &Store,
    theirs: TenantId,
    ours: TenantId,
    own_room: RoomId,
    asked: &mut BTreeSet<String>,
) {
    let (them, us, alice) = (store.tenant(theirs), store.tenant(ours), user("alice"));
    let mut ask = |method: &str| _ = asked.insert(method.to_owned());
    store.node().arrive(&[(theirs, alice.clone())]).await.expect("noted");
    ask("presence.of");
    let seen = us.presence().of(std::slice::from_ref(&alice)).await.expect("asked");
    assert_eq!((seen[0].online, seen[0].last_seen_at), (false, None));
    assert!(them.presence().of(std::slice::from_ref(&alice)).await.expect("asked")[0].online);
    ask("presence.rooms_of");
    let shared = us.presence().rooms_of(std::slice::from_ref(&alice), 500).await.expect("asked");
    assert!(shared.iter().all(|(_, room)| *room == own_room));
    ask("tokens.revoke");
    them.tokens().revoke(Some(&alice), now()).await.expect("revoked");
    us.tokens().revoke(None, now()).await.expect("revoked");
    let secret = |found: Option<FoundTenant>| found.expect("there").token_secret.expose_secret().to_vec();
    let (ours_found, theirs_found) = (store.tenants().find(ours).await, store.tenants().find(theirs).await);
    let (ours_found, theirs_found) = (ours_found.expect("asked"), theirs_found.expect("asked"));
    assert!(theirs_found.as_ref().is_some_and(|found| found.tokens_revoked_at.is_none()));
    assert_ne!(secret(ours_found), secret(theirs_found), "a token of ours is none of theirs");
    ask("tokens.revoked_at");
    assert_eq!(us.tokens().revoked_at(&alice).await.expect("asked"), None);
    assert!(them.tokens().revoked_at(&alice).await.expect("asked").is_some());
    let key_id = chatapi_domain::KeyId::parse("0123456789ab").expect("an id");
    let ticket = Ticket { user_id: alice.clone(), issuer: Issuer::Key(key_id) };
    ask("tokens.keep_ticket");
    them.tokens().keep_ticket([7; 32], &ticket, now().plus_seconds(60)).await.expect("kept");
    ask("tokens.use_ticket");
    not_found(us.tokens().use_ticket([7; 32], now()).await);
    assert_eq!(them.tokens().use_ticket([7; 32], now()).await.expect("there"), ticket);
    not_found(them.tokens().use_ticket([7; 32], now()).await);
}
