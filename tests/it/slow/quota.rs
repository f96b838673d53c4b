//! A quota is exact on the node where it is used, also while its count is read anew.

use std::time::Duration;

use chatapi_tests::App;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep};

const QUOTA: i64 = 6000;

#[tokio::test]
async fn as_many_as_the_quota_pass_however_often_it_is_counted_meanwhile() {
    let one = App::start().await;
    // With another node the count is read every 5 seconds.
    let two = one.second_node().await;
    two.ready().await;
    let tenant = one.tenant_with("t", json!({"monthly_message_quota": QUOTA})).await;
    let mut rooms = Vec::new();
    for _ in 0..32 {
        rooms.push(tenant.room("group", &["alice"]).await);
    }
    while !one.get("/metrics").await.text.contains("chatapi_nodes 2") {
        sleep(Duration::from_millis(50)).await;
    }

    let start = Instant::now();
    let send = |room: &String| {
        let (alice, path) = (tenant.user("alice"), format!("/rooms/{room}/messages"));
        async move {
            let mut stored = 0;
            loop {
                match alice.post(&path, json!({"content": "x"})).await.status {
                    201 => stored += 1,
                    429 => return stored,
                    other => panic!("{other}"),
                }
                // So that it lasts over several counts.
                sleep(Duration::from_millis(60)).await;
            }
        }
    };
    let stored: i64 = join_all(rooms.iter().map(send)).await.into_iter().sum();

    assert!(start.elapsed() > Duration::from_secs(10), "it was counted anew at least once");
    let rows: i64 = one.sql().await.query_one("select count(*) from messages", &[]).await.expect("counted").get(0);
    assert_eq!((stored, rows), (QUOTA, QUOTA));
}
