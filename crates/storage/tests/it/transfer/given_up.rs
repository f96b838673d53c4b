//! What is given up, and how many at once.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use chatapi_domain::{RoomType, TenantId};
use chatapi_storage::Error;
use chatapi_testkit::Database;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout};

use super::{assert_only, export, full_tenant, import, key, refused, until_free};
use crate::chat::{message, now, room, send, tenant};

#[tokio::test]
async fn an_import_that_is_given_up_leaves_nothing_and_until_then_nobody_sees_it_or_waits_for_it() {
    let database = Database::new().await;
    let (store, sql) = (database.store(), database.client().await);
    let original = full_tenant(&store, &sql).await;
    let file = export(&store, original).await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(1);
    let source =
        Box::pin(stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|item| (item, receiver))));
    let copy = TenantId::new(now());
    let key = key("ABCDEFGHIJKL");
    let mut importing = Box::pin(store.transfer().import(source, Some(copy), &key, now()));
    let feeding = async {
        sender.send(Ok(Bytes::copy_from_slice(&file[..file.len() / 2]))).await.expect("taken");
        // Until the transaction has made the tenant, and waits for the rest.
        let waits = "select count(*) from pg_stat_activity where datname = current_database()
                        and state = 'idle in transaction' and query like '%delete from last_seen%'";
        let start = Instant::now();
        while sql.query_one(waits, &[]).await.expect("asked").get::<_, i64>(0) == 0 {
            assert!(start.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        result = importing.as_mut() => panic!("{result:?}"),
        () = feeding => {}
    }

    assert!(matches!(store.tenants().get(copy).await, Err(Error::NotFound(_))));
    assert!(store.keys().find(&key.key_id).await.expect("asked").is_none());
    let twice = import(&store, &file, Some(copy)).await;
    assert!(matches!(twice, Err(Error::Conflict("A tenant of this id is being imported at this moment"))), "{twice:?}");
    let chat = store.tenant(original);
    let group = room(chat, RoomType::Group, &["alice"]).await.room_id;
    send(chat, message(group, "alice", "not kept waiting")).await.expect("sent");
    drop(importing);

    until_free(&store, &file, Some(copy)).await;
    assert_only(&sql, &[original, copy]).await;
    store.close().await;
}

#[tokio::test]
async fn few_at_once_and_who_stands_still_is_given_up() {
    let database = Database::new().await;
    let store = database.store();
    let id = tenant(&store).await;
    let chat = store.tenant(id);
    let large = room(chat, RoomType::Group, &["alice"]).await.room_id;
    let content = "x".repeat(9000);
    futures_util::future::join_all((0..200).map(|_| send(chat, message(large, "alice", &content)))).await;
    let file = export(&store, id).await;
    assert!(file.len() > 1_500_000, "more than waits for a reader");
    let soon = store.transfer().with_patience(Duration::from_millis(300));

    // Exports that nobody reads.
    let (mut first, second) =
        (soon.export(id, now()).await.expect("begun"), soon.export(id, now()).await.expect("begun"));
    assert!(matches!(soon.export(id, now()).await, Err(Error::Unavailable(_))), "no third at once");
    drop(second);
    let third = timeout(Duration::from_secs(20), async {
        loop {
            match store.transfer().export(id, now()).await {
                Err(Error::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                other => return other,
            }
        }
    });
    drop(third.await.expect("one that goes makes room").expect("begun"));
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut read = Vec::new();
    let end = loop {
        match first.next().await {
            Some(Ok(chunk)) => read.extend(chunk),
            other => break other,
        }
    };
    assert!(matches!(end, Some(Err(Error::Unavailable(_)))) && read.len() < file.len(), "it was given up: {end:?}");
    assert!(first.next().await.is_none());
    assert!(refused(&import(&store, &read, Some(TenantId::new(now()))).await).contains("line "));

    // Imports to which nothing comes.
    let idle = stream::iter([Ok(Bytes::copy_from_slice(&file[..100_000]))]).chain(stream::pending());
    let result = soon.import(Box::pin(idle), Some(TenantId::new(now())), &key("abcdefghijkl"), now()).await;
    assert!(refused(&result).contains("nothing arrived for 0 seconds"), "{result:?}");
    let waiting = || store.transfer();
    let (a, b) = (key("abcdefghijkm"), key("abcdefghijkn"));
    let pending = || Box::pin(stream::pending());
    let (mut one, mut two) = (
        Box::pin(waiting().import(pending(), None, &a, now())),
        Box::pin(waiting().import(pending(), None, &b, now())),
    );
    assert!(futures_util::poll!(&mut one).is_pending() && futures_util::poll!(&mut two).is_pending());
    assert!(matches!(import(&store, &file, Some(TenantId::new(now()))).await, Err(Error::Unavailable(_))));
    drop((one, two));
    import(&store, &file, Some(TenantId::new(now()))).await.expect("imported");

    // What stands still does not keep the store from closing.
    let open = store.transfer().export(id, now()).await.expect("begun");
    timeout(Duration::from_secs(10), store.close()).await.expect("it closes");
    let ends: Vec<_> = open.collect().await;
    assert!(matches!(ends.last(), Some(Err(Error::Unavailable(_)))), "what was not the whole has no clean end");
    assert!(matches!(store.transfer().export(id, now()).await, Err(Error::Unavailable(_))));
}
