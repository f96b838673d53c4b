//! What waits for an endpoint's time to be over. `make test-slow`.

use std::time::Duration;

use chatapi_testkit::{Behaviour, Database, Receiver};
use tokio::time::sleep;

use crate::{Chat, Running, until};

#[tokio::test]
async fn calls_to_one_endpoint_are_bounded_and_fewer_where_they_fail() {
    let (database, endpoint) = (Database::new().await, Receiver::start().await);
    let store = database.store();
    let chat = Chat::new(&store, &endpoint).await;
    let running = Running::start(&store);
    let under_way = || running.dispatcher.status().under_way;

    endpoint.behave(Behaviour::Hang);
    for n in 0..60 {
        chat.say(&n.to_string()).await;
    }
    until("a few to begin with", async || under_way() == 4).await;
    sleep(Duration::from_millis(1500)).await;
    assert_eq!((under_way(), running.dispatcher.status().tenants), (4, 1));
    // After ten seconds they are given up, and one is made at once.
    until("they fail", async || running.dispatcher.status().failures >= 4).await;
    until("one call", async || under_way() == 1).await;
    endpoint.behave(Behaviour::Answer(200));
    let told = "select count(*) = 0 from deliveries where attempts = 0";
    let sql = database.client().await;
    until("the rest is told", async || sql.query_one(told, &[]).await.expect("asked").get(0)).await;
    // It is well, so there may be many now.
    endpoint.behave(Behaviour::Hang);
    for n in 0..60 {
        chat.say(&n.to_string()).await;
    }
    until("as many as may be", async || under_way() == 16).await;
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(under_way(), 16);

    running.end().await;
    store.close().await;
}
