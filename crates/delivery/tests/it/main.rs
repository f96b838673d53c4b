//! A dispatcher over a store, as another service would embed the two, and an endpoint that is real.

mod slow;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chatapi_delivery::{Dispatcher, Options};
use chatapi_domain::{
    Content, KeyId, MessageId, NewMessage, NewRoom, RoomId, RoomType, Roster, Tenant, TenantId, TenantKey, Timestamp,
    UserId,
};
use chatapi_storage::{Connector, Floor, Store, TenantStore};
use chatapi_testkit::{Database, Receiver};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "a test is an edge")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Timestamp::from_micros(i64::try_from(since.as_micros()).expect("before the year 292277"))
}

/// A tenant that wants to be told of every message, and a room of alice's.
struct Chat {
    store: Store,
    tenant: Tenant,
    room: RoomId,
}

impl Chat {
    async fn new(store: &Store, endpoint: &Receiver) -> Self {
        let config = json!({"webhook_url": endpoint.url(), "webhook_events": ["message.sent"]});
        let tenant = Tenant::new(TenantId::new(now()), "t".into(), Some(&config), now()).expect("a tenant");
        let key_id = KeyId::parse("0123456789ab").expect("an id");
        let key = TenantKey { key_id, secret_hash: String::new(), expires_at: None, revoked_at: None };
        store.tenants().create(&tenant, &key).await.expect("made");
        let alice = UserId::parse("user", "alice").expect("a user id");
        let roster = Roster::new(RoomType::Group, Vec::new(), Some(&alice), 10).expect("a roster");
        let new = NewRoom { room_type: RoomType::Group, name: None, metadata: None, roster, created_by: Some(alice) };
        let (room, _) =
            store.tenant(tenant.tenant_id).rooms().create(RoomId::new(now()), &new, now()).await.expect("made");
        Self { store: store.clone(), tenant, room: room.room_id }
    }

    /// The tenant's store, which announces what the tenant wants to be told of.
    fn chat(&self) -> TenantStore<'_> {
        let events = self.tenant.config.settings(&chatapi_domain::Defaults::default()).webhook_events;
        self.store.tenant(self.tenant.tenant_id).announcing(events)
    }

    async fn say(&self, content: &str) {
        let new = NewMessage {
            message_id: MessageId::new(now()),
            room_id: self.room,
            sender_id: UserId::parse("user", "alice").expect("a user id"),
            content: Content::parse(content.to_owned(), 100).expect("content"),
            meta: None,
            client_message_id: None,
            reply_to: None,
        };
        self.chat().messages().append(new).await.expect("sent");
    }
}

/// A dispatcher, and what ends it.
struct Running {
    dispatcher: Dispatcher,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Running {
    fn start(store: &Store) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let options = Options { allow_private: true, ..Options::default() };
        let dispatcher = Dispatcher::start(store.clone(), options, now, &tasks, &stop);
        Self { dispatcher, tasks, stop }
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn until(what: &str, right: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !right().await {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_a_node_had_claimed_when_it_died_is_told_when_its_lease_is_over() {
    let (database, endpoint) = (Database::new().await, Receiver::start().await);
    let store = database.store();
    let chat = Chat::new(&store, &endpoint).await;
    chat.say("claimed").await;
    let deliveries = store.deliveries();
    let floor = &mut Floor::new();
    assert!(deliveries.take(chat.tenant.tenant_id, floor).await.expect("taken").any);
    let claimed = deliveries.claim(chat.tenant.tenant_id, 10, floor).await.expect("claimed");
    let [(claimed, _)] = &claimed.deliveries[..] else { panic!("one") };
    assert_eq!(claimed.attempts, 0);
    assert!(
        deliveries.claim(chat.tenant.tenant_id, 10, floor).await.expect("asked").deliveries.is_empty(),
        "it is taken"
    );

    let running = Running::start(&store);
    assert!(endpoint.within(Duration::from_millis(1500)).await.is_none(), "the lease holds");
    let lease = "select extract(epoch from due_at - now())::float8 from deliveries";
    let sql = database.client().await;
    let left: f64 = sql.query_one(lease, &[]).await.expect("asked").get(0);
    assert!((20.0..30.0).contains(&left), "{left}");
    sql.execute("update deliveries set due_at = now()", &[]).await.expect("it is over");

    assert_eq!(endpoint.next().await.header("webhook-id"), claimed.event_id.to_string());
    running.end().await;
    store.close().await;
}

#[tokio::test]
async fn a_database_that_goes_away_loses_nothing_that_is_to_be_told() {
    let (database, endpoint) = (Database::new().await, Receiver::start().await);
    let own = database.store();
    let chat = Chat::new(&own, &endpoint).await;
    let (cutter, url) = database.cutter().await;
    let shaky =
        Store::connect(Connector::parse(&url).expect("a URL"), chatapi_storage::Options::default()).expect("a store");
    let running = Running::start(&shaky);

    let mut told = BTreeSet::new();
    for round in 0..4 {
        for n in 0..25 {
            chat.say(&format!("{round}.{n}")).await;
        }
        sleep(Duration::from_millis(150)).await;
        cutter.cut();
        sleep(Duration::from_millis(300)).await;
        cutter.mend();
    }
    let sql = database.client().await;
    // What was told and could not be noted is told again, when its lease is over.
    sql.execute("update deliveries set due_at = now()", &[]).await.expect("over");
    while told.len() < 100 {
        told.insert(endpoint.next().await.body["message"]["content"].to_string());
        sql.execute("update deliveries set due_at = least(due_at, now() + interval '1 second')", &[])
            .await
            .expect("over");
    }
    let left = "select (select count(*) from outbox) + (select count(*) from deliveries) = 0";
    until("all is noted", async || {
        sql.execute("update deliveries set due_at = least(due_at, now() + interval '1 second')", &[])
            .await
            .expect("over");
        sql.query_one(left, &[]).await.expect("asked").get(0)
    })
    .await;
    running.end().await;
    shaky.close().await;
    own.close().await;
}
