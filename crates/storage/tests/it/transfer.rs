//! A tenant out and in again: to the letter, as of one moment, all or nothing.

mod damage;
mod given_up;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use chatapi_domain::access::Actor;
use chatapi_domain::{Content, Json, KeyId, RoomPatch, RoomType, TenantId, TenantKey};
use chatapi_storage::{Counts, Error, Imported, Store};
use chatapi_testkit::Database;
use futures_util::{Stream, StreamExt, stream};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::chat::{message, named, now, room, send, tenant, user};

/// What a tenant has, to the letter, without its id.
const ROWS: [&str; 4] = [
    "select to_jsonb(r) - 'tenant_id' - 'metadata' || jsonb_build_object('own', metadata::text)
       from rooms r where tenant_id = $1 order by room_id",
    "select to_jsonb(m) - 'tenant_id' from room_members m where tenant_id = $1 order by room_id, user_id",
    "select to_jsonb(m) - 'tenant_id' - 'meta' || jsonb_build_object('own', meta::text)
       from messages m where tenant_id = $1
        and exists (select from rooms r where r.tenant_id = $1 and r.room_id = m.room_id) order by room_id, seq",
    "select to_jsonb(s) - 'tenant_id' from last_seen s where tenant_id = $1 order by user_id",
];

pub(crate) fn key(id: &str) -> TenantKey {
    let key_id = KeyId::parse(id).expect("an id");
    TenantKey { key_id, secret_hash: "hash".into(), expires_at: None, revoked_at: None }
}

pub(crate) async fn export(store: &Store, tenant: TenantId) -> Vec<u8> {
    let mut export = store.transfer().export(tenant, now()).await.expect("begun");
    let (totals, mut file) = (export.totals(), Vec::new());
    while let Some(chunk) = export.next().await {
        file.extend(chunk.expect("a chunk"));
    }
    assert_eq!(file.split_inclusive(|byte| *byte == b'\n').count() as u64, totals.lines());
    file
}

/// A file in pieces of this size.
fn pieces(file: &[u8], size: usize) -> impl Stream<Item = io::Result<Bytes>> + Unpin + use<> {
    stream::iter(file.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect::<Vec<_>>())
}

pub(crate) async fn import(store: &Store, file: &[u8], into: Option<TenantId>) -> Result<Imported, Error> {
    store.transfer().import(pieces(file, 1000), into, &key("abcdefghijkl"), now()).await
}

async fn rows(sql: &Client, tenant: TenantId) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for statement in ROWS {
        let statement = format!("select row::text from ({statement}) as t (row)");
        let rows = sql.query(&statement, &[tenant.as_uuid()]).await.expect("rows");
        all.push(rows.iter().map(|row| row.get(0)).collect());
    }
    all
}

fn json(text: &str) -> Option<Json> {
    Json::parse("x", Some(RawValue::from_string(text.to_owned()).expect("JSON"))).expect("it fits")
}

/// A tenant that has one of everything.
async fn full_tenant(store: &Store, sql: &Client) -> TenantId {
    let id = tenant(store).await;
    let chat = store.tenant(id);
    let dm = room(chat, RoomType::Dm, &["al:ice", "100%"]).await;
    let group = room(chat, RoomType::Group, &["alice", "bob", "~"]).await;
    room(chat, RoomType::Channel, &["carl"]).await;
    let gone = room(chat, RoomType::Group, &["alice"]).await;
    for room in [dm.room_id, gone.room_id] {
        let sender = if room == dm.room_id { "100%" } else { "alice" };
        send(chat, message(room, sender, "hello")).await.expect("sent");
    }
    let mut ids = Vec::new();
    for (n, content) in ["\u{1}\"\\ \u{2028}\r\n\t", "Grüße 🎉", "x", "to be erased", "to be edited"].iter().enumerate()
    {
        let mut new = named(message(group.room_id, "bob", content), &format!("c-{n}"));
        new.meta = json(["{\"b\" : 1, \"a\":\n[1.50, 1e400],\"a\":null}", "\"\"", "false", "[\r]", "{}"][n]);
        new.reply_to = ids.first().copied();
        ids.push(send(chat, new).await.expect("sent").message.message_id);
    }
    let (bob, now) = (user("bob"), now());
    let edited = Content::parse("edited".into(), 100).expect("content");
    chat.messages().edit(group.room_id, &bob, ids[4], &edited, Some(&json("{ }")), now).await.expect("edited");
    chat.messages().erase(group.room_id, &bob, ids[3], now).await.expect("erased");
    let patch = RoomPatch { name: Some(None), metadata: Some(json("{\"z\": \"\\n\",\n \"a\": \"ü\"}")) };
    chat.rooms().update(group.room_id, &Actor::Tenant, &patch, now).await.expect("updated");
    store.node().arrive(&[(id, user("alice")), (id, user("eve"))]).await.expect("noted");
    // Retention has been at work; a room's rows are still being erased; a secret is set.
    let (tenant, group, gone) = (id.as_uuid(), group.room_id, gone.room_id);
    let retained = "with m as (delete from messages where tenant_id = $1 and room_id = $2 and seq = 1)
                    update rooms set first_seq = 2 where tenant_id = $1 and room_id = $2";
    sql.execute(retained, &[tenant, group.as_uuid()]).await.expect("retained");
    sql.execute("delete from rooms where tenant_id = $1 and room_id = $2", &[tenant, gone.as_uuid()])
        .await
        .expect("hidden");
    let config = r#"{"webhook_secret": "hush-hush", "webhook_url": "https://a.example/", "rate_limit": 7}"#;
    sql.execute("update tenants set config = $2::text::jsonb where tenant_id = $1", &[tenant, &config])
        .await
        .expect("set");
    id
}

/// Fails if any table has a row of another tenant than these.
async fn assert_only(sql: &Client, tenants: &[TenantId]) {
    let known: Vec<_> = tenants.iter().map(|id| *id.as_uuid()).collect();
    for table in ["tenants", "tenant_keys", "rooms", "room_members", "messages", "last_seen"] {
        let count = format!("select count(*) from {table} where tenant_id <> all ($1)");
        let rows: i64 = sql.query_one(&count, &[&known]).await.expect("counted").get(0);
        assert_eq!(rows, 0, "{table}");
    }
}

/// The lines of a file but the last, and the counts of that.
fn unsealed(file: &[u8]) -> (Vec<String>, Counts) {
    let mut lines: Vec<_> = std::str::from_utf8(file).expect("UTF-8").lines().map(str::to_owned).collect();
    let end: serde_json::Value = serde_json::from_str(&lines.pop().expect("a line")).expect("JSON");
    (lines, serde_json::from_value(end["end"]["counts"].clone()).expect("counts"))
}

#[track_caller]
fn refused(result: &Result<Imported, Error>) -> String {
    match result {
        Err(Error::Invalid(wrong)) if wrong.field.starts_with("line ") && !wrong.too_large => wrong.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Imports a file as soon as nobody has the id any more.
async fn until_free(store: &Store, file: &[u8], into: Option<TenantId>) -> Imported {
    let start = Instant::now();
    loop {
        match import(store, file, into).await {
            Err(Error::Conflict(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            other => return other.expect("imported"),
        }
        assert!(start.elapsed() < Duration::from_secs(30), "the id never became free");
    }
}

#[tokio::test]
async fn a_tenant_comes_back_to_the_letter_beside_the_original_and_in_its_place() {
    let database = Database::new().await;
    let (store, sql) = (database.store(), database.client().await);
    let original = full_tenant(&store, &sql).await;
    let before = rows(&sql, original).await;
    assert_eq!(before.iter().map(Vec::len).collect::<Vec<_>>(), [3, 6, 5, 2]);

    let file = export(&store, original).await;
    let copy = TenantId::new(now());
    let imported = import(&store, &file, Some(copy)).await.expect("imported");

    assert_eq!(imported.counts, Counts { rooms: 3, members: 6, messages: 5, last_seen: 2 });
    assert_eq!(imported.tenant.tenant_id, copy);
    assert_eq!(rows(&sql, copy).await, before);
    let text = String::from_utf8(file.clone()).expect("UTF-8");
    for secret in ["hush", "secret", "token", "hash", "0123456789ab"] {
        assert!(!text.contains(secret), "{secret} is in the file");
    }
    let (kept, given) =
        (store.tenants().get(original).await.expect("there"), store.tenants().get(copy).await.expect("there"));
    let mut config = kept.config.to_stored();
    config.as_object_mut().expect("fields").remove("webhook_secret").expect("it was set");
    assert_eq!((given.config.to_stored(), &given.name, given.created_at), (config, &kept.name, kept.created_at));
    let keys = store.keys().list(copy, None, 10).await.expect("listed");
    assert_eq!(keys.iter().map(|key| key.key_id.as_str()).collect::<Vec<_>>(), ["abcdefghijkl"]);
    let exported_again = unsealed(&export(&store, copy).await).0;
    assert_eq!(exported_again[1..], unsealed(&file).0[1..], "the copy's export is that of the original");

    // In the place of the original, once that is gone to the last row.
    assert!(matches!(import(&store, &file, None).await, Err(Error::Conflict("There is a tenant of this id"))));
    store.tenants().delete(original).await.expect("begun");
    assert!(matches!(store.transfer().export(original, now()).await, Err(Error::Conflict(_) | Error::NotFound(_))));
    let again = until_free(&store, &file, None).await;
    assert_eq!(again.tenant.tenant_id, original);
    assert_eq!(rows(&sql, original).await, before);
    store.close().await;
}

#[tokio::test]
async fn an_export_is_of_one_moment_while_many_write() {
    let database = Database::new().await;
    let store = database.store();
    let id = tenant(&store).await;
    let chat = store.tenant(id);
    let mut rooms = Vec::new();
    for _ in 0..6 {
        rooms.push(room(chat, RoomType::Group, &["alice", "bob"]).await.room_id);
    }
    let stop = tokio_util::sync::CancellationToken::new();
    let writing = async {
        for n in 0.. {
            if stop.is_cancelled() {
                return n;
            }
            let sends =
                rooms.iter().flat_map(|room| ["alice", "bob"].map(|user| message(*room, user, &"x".repeat(500))));
            let sent = futures_util::future::join_all(sends.map(|new| send(chat, new))).await;
            let first = sent[0].as_ref().expect("sent").message.clone();
            let content = Content::parse("edited".into(), 100).expect("content");
            chat.messages()
                .edit(rooms[0], &user("alice"), first.message_id, &content, None, now())
                .await
                .expect("edited");
            let another = room(chat, RoomType::Channel, &["carl"]).await;
            if n % 2 == 0 {
                chat.rooms().delete(another.room_id, &Actor::Tenant, now()).await.expect("deleted");
            }
        }
        0
    };
    let exporting = async {
        let (mut files, mut before) = (Vec::new(), 0);
        while files.len() < 5 {
            let mut export = store.transfer().export(id, now()).await.expect("begun");
            let (totals, mut file) = (export.totals(), Vec::new());
            assert!(totals.messages > before || files.is_empty());
            before = totals.messages;
            while let Some(chunk) = export.next().await {
                file.extend(chunk.expect("a chunk"));
                // The writers come first.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            files.push((totals, file));
            let last_seq = async || chat.rooms().get(rooms[0], &Actor::Tenant).await.expect("there").last_seq;
            let (start, reached) = (Instant::now(), last_seq().await);
            while last_seq().await < reached + 10 {
                assert!(start.elapsed() < Duration::from_secs(30));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        stop.cancel();
        files
    };

    let (rounds, files) = tokio::join!(writing, exporting);

    assert!(rounds > 20, "{rounds}");
    for (totals, file) in files {
        let copy = TenantId::new(now());
        // An import takes only what has no gap and fits together.
        let imported = import(&store, &file, Some(copy)).await.expect("imported");
        assert_eq!(imported.counts, totals);
    }
    store.close().await;
}

#[tokio::test]
async fn an_export_that_would_not_come_back_ends_with_an_error() {
    let database = Database::new().await;
    let (store, sql) = (database.store(), database.client().await);
    let id = tenant(&store).await;
    let chat = store.tenant(id);
    let group = room(chat, RoomType::Group, &["alice"]).await.room_id;
    send(chat, message(group, "alice", "x")).await.expect("sent");
    sql.execute("delete from messages where tenant_id = $1", &[id.as_uuid()]).await.expect("broken");

    let mut export = store.transfer().export(id, now()).await.expect("begun");

    assert!(matches!(export.next().await, Some(Err(Error::Corrupt { .. }))));
    assert!(export.next().await.is_none());
    assert!(matches!(store.transfer().export(TenantId::new(now()), now()).await, Err(Error::NotFound("Tenant"))));
    store.close().await;
}
