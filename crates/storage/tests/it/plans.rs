//! Every statement runs on an index, with a million messages as with none.

use std::collections::BTreeSet;

use chatapi_domain::access::Actor;
use chatapi_domain::{
    Content, HistoryQuery, MessageId, Order, ReceiptKind, Role, RoomId, RoomPatch, RoomType, WebhookEvent,
};
use chatapi_storage::{Connector, Failure, Floor, Granularity, Options, Reservation, Store};
use chatapi_testkit::Server;
use futures_util::future::join_all;
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::chat::{message, named, now, room, send, tenant, user};
use crate::transfer::{export, import};

/// A million messages in 1000 rooms of one user, and 20 000 rooms of others.
const FILL: &str = "
    insert into rooms (tenant_id, room_id, type, member_count, last_seq, last_change, created_at, updated_at, active_at, active_hour)
    select $1, gen_random_uuid(), 'group', 1, 1000, 10, now(), now(), now() - n * interval '1 second',
           floor(extract(epoch from now() - n * interval '1 second') / 3600)::int
      from generate_series(1, 21000) n";

const MEMBERS: &str = "
    insert into room_members (tenant_id, user_id, room_id, role, joined_at, receipt_at)
    select tenant_id, case when row_number() over (order by room_id) <= 1000 then 'alice' else 'user' || room_id end,
           room_id, 'member', now(), now()
      from rooms where tenant_id = $1";

const MESSAGES: &str = "
    insert into messages (tenant_id, room_id, seq, message_id, sender_id, content, created_at, change, deleted_at)
    select m.tenant_id, m.room_id, n, gen_random_uuid(), 'alice', 'some words of a message', now(),
           case when n % 100 = 0 then n / 100 end, case when n % 200 = 0 then now() end
      from room_members m, generate_series(1, 1000) n
     where m.tenant_id = $1 and m.user_id = 'alice'";

/// What one tenant's endpoint is still to be told, and could not be told; and what a thousand others' is.
const DELIVERIES: &str = "
    insert into deliveries (tenant_id, event_id, event, room_id, message_id, at, due_at, failed_at)
    select case when n > 30000 then gen_random_uuid() else $1 end, new_id(), 'message.sent', m.room_id, m.message_id,
           now(), now() + (n % 3 - 1) * interval '1 hour', case when n <= 15000 then now() end
      from generate_series(1, 31000) n, lateral (
        select room_id, message_id from messages where tenant_id = $1 and n > 0 limit 1) m";

const OUTBOX: &str = "
    insert into outbox (tenant_id, event_id, event, room_id, message_id, at)
    select $1, new_id(), 'message.sent', m.room_id, m.message_id, now()
      from generate_series(1, 10000) n, lateral (
        select room_id, message_id from messages where tenant_id = $1 and n > 0 limit 1) m";

/// More rows than this under one node of a plan means that it does not know where to look. The
/// list of all rooms sorts the rooms of an hour: there are 3600 here.
const MANY_ROWS: u64 = 4000;

/// Asks everything a store can be asked.
async fn ask_everything(store: &Store, tenant_id: chatapi_domain::TenantId, large: RoomId, pass: &str) {
    let chat = store.tenant(tenant_id);
    let (alice, actor) = (user("alice"), Actor::User(user("alice")));
    let group = room(chat, RoomType::Channel, &["alice", "bob"]).await;
    let dm = room(chat, RoomType::Dm, &["alice", "bob"]).await;
    assert_eq!(room(chat, RoomType::Dm, &["bob", "alice"]).await.room_id, dm.room_id);
    for actor in [&actor, &Actor::Tenant] {
        let first = chat.rooms().list(actor, None, None, 50).await.expect("listed");
        let last = first.last().expect("a room");
        let cursor = chatapi_storage::RoomCursor { active_at: last.active_at, room_id: last.room.room_id };
        chat.rooms().list(actor, Some(RoomType::Group), Some(cursor), 50).await.expect("listed");
        chat.rooms().get(large, actor).await.expect("found");
        chat.members().list(large, actor, Some(&user("aaa")), 50).await.expect("listed");
        chat.receipts().list(large, actor, None, 50).await.expect("listed");
        chat.messages().changes(large, actor, 3, 50).await.expect("listed");
        let looks = join_all((0..50).map(|_| async { chat.rooms().extent(large, actor).await })).await;
        assert!(looks.iter().all(|extent| extent.as_ref().is_ok_and(|extent| extent.last_seq >= 1000)));
        for order in [Order::Ascending, Order::Descending] {
            let query = HistoryQuery { after_seq: Some(400), before_seq: Some(800), order, limit: 50 };
            let history = chat.messages().history(large, actor, &query).await.expect("read");
            assert_eq!(history.messages.len(), 50);
        }
    }
    let now = now();
    chat.rooms().update(group.room_id, &actor, &RoomPatch::default(), now).await.expect("updated");
    chat.members().add(group.room_id, &actor, &[user("carl")], Role::Member, 100, now).await.expect("added");
    chat.members().join(group.room_id, &user("dora"), 100, now).await.expect("joined");
    chat.members().join(group.room_id, &user("dora"), 100, now).await.expect("joined");
    chat.members().set_role(group.room_id, &actor, &user("carl"), Role::Admin).await.expect("promoted");
    chat.members().remove(group.room_id, &actor, &user("bob"), now).await.expect("removed");
    // One at a time, and many in one batch.
    let one = chat.messages().append(named(message(large, "alice", "x"), pass)).await.expect("sent").message;
    let again = chat.messages().append(named(message(large, "alice", "x"), pass)).await.expect("found");
    assert!(!again.created && again.message.message_id == one.message_id);
    let mut batch: Vec<_> = (0..200).map(|n| named(message(large, "alice", "x"), &format!("{pass}{n}"))).collect();
    for new in &mut batch {
        new.reply_to = Some(one.message_id);
    }
    let sent = join_all(batch.into_iter().map(|new| send(chat, new))).await;
    assert!(sent.iter().all(Result::is_ok));
    let content = Content::parse("y".into(), 10).expect("content");
    chat.messages().edit(large, &alice, one.message_id, &content, None, now).await.expect("edited");
    chat.messages().get(large, &actor, one.message_id).await.expect("found");
    assert!(chat.messages().get(large, &actor, MessageId::new(now)).await.is_err());
    chat.messages().erase(large, &alice, one.message_id, now).await.expect("erased");
    chat.receipts().advance(large, &alice, 900, ReceiptKind::Read, now).await.expect("moved");
    assert!(chat.rooms().places(&alice).await.expect("read").len() >= 1000);
    chat.rooms().places_in(&[large, dm.room_id, group.room_id], &alice).await.expect("read");
    store.feed().positions(&[(tenant_id, large), (tenant_id, dm.room_id)]).await.expect("read");
    let users: Vec<_> = (0..20).map(|n| user(&format!("user{n}"))).chain([alice.clone()]).collect();
    let here: Vec<_> = users.iter().map(|user| (tenant_id, user.clone())).collect();
    store.node().arrive(&here).await.expect("noted");
    chat.presence().of(&users).await.expect("read");
    chat.presence().rooms_of(&users, 500).await.expect("read");
    store.node().go(&here).await.expect("noted");
    chat.tokens().revoke(Some(&alice), now).await.expect("revoked");
    chat.tokens().revoked_at(&alice).await.expect("read");
    assert!(chat.tokens().use_ticket([0; 32], now).await.is_err());
    store.tenants().find(tenant_id).await.expect("found");
    chat.rooms().delete(group.room_id, &actor, now).await.expect("deleted");
    let request = Reservation { caller: String::new(), path: "/p".into(), key: "k".into(), fingerprint: [0; 32] };
    chat.idempotency().begin(&request, Uuid::nil(), now).await.expect("begun");
    chat.idempotency().begin(&request, Uuid::nil(), now).await.expect("busy");
    chat.idempotency().release(&request).await.expect("released");
    store.tenants().get(tenant_id).await.expect("found");
    store.tenants().list(None, None, None, 50).await.expect("listed");
    let quota = Some(1_000_000_000);
    let metered = store.meter(tenant_id);
    chat.messages().metered(&metered, quota).append(message(large, "alice", "x")).await.expect("sent");
    for granularity in [Granularity::Hour, Granularity::Day] {
        store.usage().list(tenant_id, now.plus_seconds(-86_400), now, granularity).await.expect("listed");
    }
    store.usage().totals(now.plus_seconds(-86_400), now, None, 50).await.expect("listed");
    store.keys().find(&chatapi_domain::KeyId::parse("0123456789ab").expect("an id")).await.expect("asked");
    what_is_to_be_told(store, tenant_id, large).await;
    // Of a small tenant beside a large one.
    let small = tenant(store).await;
    let own = room(store.tenant(small), RoomType::Group, &["alice"]).await.room_id;
    send(store.tenant(small), message(own, "alice", "x")).await.expect("sent");
    let file = export(store, small).await;
    import(store, &file, Some(chatapi_domain::TenantId::new(now))).await.expect("imported");
}

async fn what_is_to_be_told(store: &Store, tenant_id: chatapi_domain::TenantId, large: RoomId) {
    let chat = store.tenant(tenant_id).announcing(WebhookEvent::ALL.into_iter().collect());
    let (alice, actor, now) = (user("alice"), Actor::User(user("alice")), now());
    let group = room(chat, RoomType::Channel, &["alice", "bob"]).await.room_id;
    let sent = send(chat, message(group, "alice", "x")).await.expect("sent").message.message_id;
    let many = (0..200).map(|_| send(chat, message(large, "alice", "x")));
    assert!(join_all(many).await.iter().all(Result::is_ok));
    let content = Content::parse("y".into(), 10).expect("content");
    chat.messages().edit(group, &alice, sent, &content, None, now).await.expect("edited");
    chat.messages().erase(group, &alice, sent, now).await.expect("erased");
    chat.members().join(group, &user("dora"), 100, now).await.expect("joined");
    chat.members().remove(group, &actor, &user("bob"), now).await.expect("removed");
    chat.rooms().update(group, &actor, &RoomPatch::default(), now).await.expect("updated");
    chat.rooms().delete(group, &actor, now).await.expect("deleted");
    let (deliveries, floor) = (store.deliveries(), &mut Floor::new());
    assert!(deliveries.due().await.expect("asked").iter().any(|(due, _)| *due == tenant_id));
    while deliveries.take(tenant_id, floor).await.expect("taken").any {}
    let claimed = deliveries.claim(tenant_id, 16, floor).await.expect("claimed");
    let failure = Failure { status: None, error: "x".into() };
    let claimed: Vec<_> = claimed.deliveries.into_iter().map(|(delivery, _)| delivery).collect();
    deliveries.delivered(tenant_id, &[claimed[0].event_id]).await.expect("done");
    deliveries.retry(&claimed[1], std::time::Duration::from_secs(5), &failure).await.expect("later");
    deliveries.give_up(&claimed[2], true, &failure).await.expect("given up");
    let letters = chat.dead_letters().list(None, 50).await.expect("listed");
    chat.dead_letters().list(Some(letters[49].delivery.event_id), 50).await.expect("listed");
    store.dead_letters().list(Some(letters[49].delivery.event_id), 50).await.expect("listed");
    chat.dead_letters().retry(letters[0].delivery.event_id).await.expect("again");
    store.dead_letters().retry(letters[1].delivery.event_id).await.expect("again");
}

#[tokio::test]
async fn no_statement_scans_a_table_or_reads_far_more_than_it_returns() {
    let explain = ["shared_preload_libraries=auto_explain", "auto_explain.log_min_duration=0"];
    let more = ["auto_explain.log_analyze=on", "auto_explain.log_timing=off", "auto_explain.log_nested_statements=off"];
    let settings = explain.into_iter().chain(more).map(str::to_owned).collect();
    let server = Server::start_with(false, settings).await;
    let connector = Connector::parse(server.url()).expect("our own URL");
    let store = Store::connect(connector, Options { pool_size: 4, writers: 1 }).expect("a store");
    store.migrate().await.expect("migrated");
    let tenant_id = tenant(&store).await;
    let url = format!("{}&options=-c%20auto_explain.log_min_duration%3D-1", server.url());
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("connected");
    #[expect(clippy::disallowed_methods, reason = "ends with the client")]
    tokio::spawn(connection);
    for fill in [FILL, MEMBERS, MESSAGES, DELIVERIES] {
        client.execute(fill, &[tenant_id.as_uuid()]).await.expect("filled");
    }
    let large = "select room_id from room_members where user_id = 'alice' limit 1";
    let large = RoomId::from_uuid(client.query_one(large, &[]).await.expect("a room").get(0));

    // Without statistics, as on a server just filled; then much to be told, by the plans that were made
    // while there was little; then with statistics.
    ask_everything(&store, tenant_id, large, "first").await;
    client.execute(OUTBOX, &[tenant_id.as_uuid()]).await.expect("filled");
    ask_everything(&store, tenant_id, large, "between").await;
    client.batch_execute("analyze").await.expect("analyzed");
    ask_everything(&store, tenant_id, large, "second").await;

    let log = std::fs::read_to_string(server.folder().join("data/postgres.log")).expect("a log");
    let plans: Vec<&str> = log.split("LOG:  duration:").skip(1).collect();
    assert!(plans.len() > 80, "{} plans are in the log", plans.len());
    let bad: BTreeSet<&str> = plans.into_iter().filter(|plan| plan.lines().any(is_bad)).collect();
    assert!(bad.is_empty(), "{} plans: {}", bad.len(), bad.into_iter().collect::<String>());
    store.close().await;
}

/// Whether a line of a plan tells of a scan of a whole table, or of far too many rows.
fn is_bad(line: &str) -> bool {
    let tables = [
        "messages",
        "rooms",
        "room_members",
        "tenant_keys",
        "presence",
        "last_seen",
        "token_revocations",
        "deliveries",
        "outbox",
    ];
    let number_after = |mark: &str| -> u64 {
        let rest = line.split(mark).nth(1).unwrap_or_default();
        rest.split(' ').next().and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    tables.iter().any(|table| line.contains(&format!("Seq Scan on {table}")))
        || number_after("(actual rows=") > MANY_ROWS
        || number_after("Rows Removed by Filter: ") > MANY_ROWS
}
