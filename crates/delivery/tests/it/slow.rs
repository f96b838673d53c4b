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
    endpoint.behave(Behaviour::Hang);
    let running = Running::start(&store);

    for n in 0..40 {
        chat.say(&n.to_string()).await;
    }
    let under_way = || running.dispatcher.status().under_way;
    until("16 calls", async || under_way() == 16).await;
    sleep(Duration::from_millis(1500)).await;
    assert_eq!((under_way(), running.dispatcher.status().tenants), (16, 1));
    // After ten seconds they are given up, and two are made at once.
    until("they fail", async || running.dispatcher.status().failures >= 16).await;
    until("two calls", async || under_way() == 2).await;
    endpoint.behave(Behaviour::Answer(200));
    let told = "select count(*) = 0 from deliveries where attempts = 0";
    let sql = database.client().await;
    until("the rest is told", async || sql.query_one(told, &[]).await.expect("asked").get(0)).await;

    running.end().await;
    store.close().await;
}
