//! The message writer when things go wrong.

use std::time::{Duration, Instant};

use chatapi_domain::access::Actor;
use chatapi_domain::{HistoryQuery, Order, RoomId, RoomType};
use chatapi_storage::{Appended, Connector, Error, Options, Store, TenantStore};
use chatapi_testkit::Database;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::chat::{message, named, room, send, tenant};

/// Fails unless the room's numbers are 1, 2, 3 … and every acknowledged message is there once.
async fn check(chat: TenantStore<'_>, room: RoomId, results: &[Result<Appended, Error>]) {
    let (mut stored, mut after) = (Vec::new(), 0);
    loop {
        let query = HistoryQuery { after_seq: Some(after), before_seq: None, order: Order::Ascending, limit: 100 };
        let page = chat.messages().history(room, &Actor::Tenant, &query).await.expect("readable");
        for message in &page.messages {
            assert_eq!(message.seq, after + 1, "no gap");
            after += 1;
        }
        stored.extend(page.messages);
        if !page.has_more {
            break;
        }
    }
    for acknowledged in results.iter().flatten().map(|appended| &appended.message) {
        let found = stored.iter().filter(|message| message.message_id == acknowledged.message_id);
        assert_eq!(found.map(|message| message.seq).collect::<Vec<_>>(), [acknowledged.seq]);
    }
    let rooms = chat.rooms().get(room, &Actor::Tenant).await.expect("there");
    assert_eq!(rooms.last_seq, after);
}

#[tokio::test]
async fn each_caller_of_a_batch_gets_its_own_result_and_refusals_cost_no_number() {
    let database = Database::new().await;
    let store = database.store();
    let tenant = tenant(&store).await;
    let chat = store.tenant(tenant);
    let (group, channel) = (
        room(chat, RoomType::Group, &["alice"]).await.room_id,
        room(chat, RoomType::Channel, &["alice"]).await.room_id,
    );
    let send = |n: usize| {
        let mut new = match n % 6 {
            0 => message(group, "alice", "fine"),
            1 => message(group, "stranger", "not a member"),
            2 => message(channel, "stranger", "not a member, but may read"),
            3 => message(RoomId::from_uuid(uuid::Uuid::nil()), "alice", "no such room"),
            4 => named(message(group, "alice", "again and again"), "same"),
            _ => message(group, "alice", "an answer to nothing"),
        };
        if n % 6 == 5 {
            new.reply_to = Some(new.message_id);
        }
        async move { chat.messages().append(new).await }
    };

    let results = join_all((0..600).map(send)).await;

    for (n, result) in results.iter().enumerate() {
        let right = match n % 6 {
            0 => matches!(result, Ok(Appended { created: true, .. })),
            1 | 3 => matches!(result, Err(Error::NotFound("Room"))),
            2 => matches!(result, Err(Error::Forbidden(_))),
            4 => result.is_ok(),
            _ => matches!(result, Err(Error::Invalid(_))),
        };
        assert!(right, "{n}: {result:?}");
    }
    check(chat, group, &results).await;
    assert_eq!(chat.rooms().get(group, &Actor::Tenant).await.expect("there").last_seq, 101);
}

#[tokio::test]
async fn a_connection_cut_under_load_is_answered_honestly_and_made_anew() {
    let database = Database::new().await;
    let (cutter, url) = database.cutter().await;
    let store = Store::connect(Connector::parse(&url).expect("a URL"), Options::default()).expect("a store");
    let tenant = tenant(&store).await;
    let chat = store.tenant(tenant);
    let group = room(chat, RoomType::Group, &["alice"]).await.room_id;
    let sender = |n: usize| async move {
        let mut results = Vec::new();
        for m in 0..100 {
            sleep(Duration::from_millis(2)).await;
            results.push(chat.messages().append(named(message(group, "alice", "x"), &format!("{n}-{m}"))).await);
        }
        results
    };
    let cutting = async {
        for _ in 0..3 {
            sleep(Duration::from_millis(30)).await;
            cutter.cut();
            sleep(Duration::from_millis(30)).await;
            cutter.mend();
        }
    };

    let (results, ()) = tokio::join!(join_all((0..32).map(sender)), cutting);
    let results: Vec<_> = results.into_iter().flatten().collect();

    assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(Error::Unavailable(_)))));
    assert!(results.iter().any(Result::is_err) && results.iter().any(Result::is_ok));
    check(chat, group, &results).await;
    // Who sends again under the same client_message_id learns what became of it.
    let again = join_all(
        (0..32 * 100).map(|n| send(chat, named(message(group, "alice", "x"), &format!("{}-{}", n / 100, n % 100)))),
    );
    assert!(again.await.iter().all(Result::is_ok));
    assert_eq!(chat.rooms().get(group, &Actor::Tenant).await.expect("there").last_seq, 32 * 100);
}

#[tokio::test]
async fn a_room_somebody_holds_keeps_no_other_and_a_full_queue_answers_at_once() {
    let database = Database::new().await;
    let url = Connector::parse(database.url()).expect("a URL");
    let store = Store::connect(url, Options { pool_size: 8, writers: 1 }).expect("a store");
    let (flooding, quiet) = (tenant(&store).await, tenant(&store).await);
    let held = room(store.tenant(flooding), RoomType::Group, &["alice"]).await.room_id;
    let free = room(store.tenant(quiet), RoomType::Group, &["bob"]).await.room_id;
    let mut client = database.client().await;
    let lock = client.transaction().await.expect("begun");
    lock.execute("select from rooms where room_id = $1 for update", &[held.as_uuid()]).await.expect("locked");

    let flood = join_all((0..6000).map(|_| send(store.tenant(flooding), message(held, "alice", "x"))));
    let sending = async {
        sleep(Duration::from_millis(50)).await;
        let start = Instant::now();
        let sent = store.tenant(quiet).messages().append(message(free, "bob", "x")).await;
        (sent, start.elapsed())
    };
    let both = async { tokio::join!(flood, sending) };
    let (results, (sent, waited)) = timeout(Duration::from_mins(2), both).await.expect("nobody waits for ever");

    assert!(sent.is_ok_and(|sent| sent.created));
    assert!(waited < Duration::from_secs(8), "{waited:?}");
    let refused = results.iter().filter(|result| matches!(result, Err(Error::Unavailable(_)))).count();
    assert_eq!(refused, 6000, "nobody was told that a message is stored");
    assert!(store.queue_status().refused > 1000, "{:?}", store.queue_status());
    lock.rollback().await.expect("released");
    let after = store.tenant(flooding).messages().append(message(held, "alice", "x")).await.expect("sent");
    assert_eq!(after.message.seq, 1);
}

#[tokio::test]
async fn closing_lets_what_was_accepted_finish() {
    let database = Database::new().await;
    let store = database.store();
    let tenant = tenant(&store).await;
    let chat = store.tenant(tenant);
    let group = room(chat, RoomType::Group, &["alice"]).await.room_id;

    let sending = join_all((0..500).map(|_| send(chat, message(group, "alice", "x"))));
    let (results, ()) = tokio::join!(sending, store.close());

    assert!(results.iter().all(Result::is_ok));
    let late = chat.messages().append(message(group, "alice", "x")).await;
    assert!(matches!(late, Err(Error::Unavailable(_))), "{late:?}");
}

#[tokio::test]
async fn nodes_that_write_into_the_same_rooms_at_once_never_wait_for_each_other_in_a_circle() {
    let database = Database::new().await;
    // A circle is to be found before the writer gives up waiting.
    let url = format!("{}&options=-c%20deadlock_timeout%3D20ms", database.url());
    let node = || Store::connect(Connector::parse(&url).expect("a URL"), Options::default()).expect("a store");
    let (first, second) = (node(), node());
    let tenant = tenant(&first).await;
    let mut rooms = Vec::new();
    for _ in 0..30 {
        rooms.push(room(first.tenant(tenant), RoomType::Group, &["alice"]).await.room_id);
    }

    // Each batch has most of the rooms, in the order in which they came.
    for round in 0..20 {
        let mut turned = rooms.clone();
        turned.rotate_left(round);
        let back: Vec<RoomId> = turned.iter().rev().copied().collect();
        let send = async |store: &Store, rooms: &[RoomId]| {
            let news = rooms.iter().map(|room| message(*room, "alice", "x")).collect();
            for result in store.tenant(tenant).messages().append_all(news).await {
                result.expect("stored");
            }
        };
        tokio::join!(send(&first, &turned), send(&second, &back));
    }

    for room in rooms {
        assert_eq!(first.tenant(tenant).rooms().get(room, &Actor::Tenant).await.expect("there").last_seq, 40);
    }
    // What a connection counts is there for others at the latest when it ends.
    tokio::join!(first.close(), second.close());
    let sql = database.client().await;
    let own =
        "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'chatapi'";
    while sql.query_one(own, &[]).await.expect("a row").get::<_, i64>(0) > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(sql.query_one(deadlocks, &[]).await.expect("a row").get::<_, i64>(0), 0);
}
