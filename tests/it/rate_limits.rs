//! api.md 3: a bucket per tenant, its headers, honest waiting times.

use std::time::{Duration, Instant};

use chatapi_tests::App;
use serde_json::json;
use tokio::time::sleep;

#[tokio::test]
async fn a_tenant_over_its_limit_is_told_when_to_come_back_and_then_passes() {
    let app = App::start().await;
    let tenant = app.tenant_with("t", json!({"rate_limit": 1, "rate_burst": 3})).await;
    let backend = tenant.backend();

    let first = backend.get("/tenant").await.expect(200);
    assert_eq!(first.header("ratelimit-policy"), "\"tenant\";q=3;w=3");
    assert_eq!(first.header("ratelimit"), "\"tenant\";r=2;t=1");
    assert_eq!(first.header("x-ratelimit-limit"), "3");
    assert_eq!(first.header("x-ratelimit-remaining"), "2");
    let reset: u64 = first.header("x-ratelimit-reset").parse().expect("Unix seconds");
    assert!(reset > 1_700_000_000);
    for _ in 0..2 {
        backend.get("/tenant").await.expect(200);
    }
    let limited = backend.get("/tenant").await;
    limited.expect_error(429, "rate_limit_exceeded", "The tenant is over its rate limit");
    assert_eq!(limited.header("retry-after"), "1");
    assert_eq!(limited.header("x-ratelimit-remaining"), "0");
    assert!(limited.header("ratelimit").starts_with("\"tenant\";r=0;t="));

    let start = Instant::now();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(backend.get("/tenant").await.status, 200, "after {:?}", start.elapsed());
}

#[tokio::test]
async fn the_limit_is_the_tenants_and_nobody_elses() {
    let app = App::builder().set("DEFAULT_RATE_LIMIT", "2").start().await;
    let (ours, theirs) = (app.tenant("ours").await, app.tenant("theirs").await);

    let mut statuses = Vec::new();
    for user in ["a", "b", "c", "d", "e", "f"] {
        statuses.push(ours.user(user).get("/tenant").await.status);
    }

    assert!(statuses.contains(&429), "its users share one bucket: {statuses:?}");
    assert_eq!(theirs.backend().get("/tenant").await.status, 200);
    assert_eq!(app.get("/health").await.status, 200);
    for _ in 0..5 {
        assert_eq!(app.admin("GET", "/admin/tenants", None).await.status, 200, "the operator is free");
    }
}

#[tokio::test]
async fn a_request_that_fails_to_authenticate_is_not_charged() {
    let app = App::start().await;
    let tenant = app.tenant_with("t", json!({"rate_limit": 1, "rate_burst": 2})).await;
    let wrong = format!("{}{}", &tenant.key[..15], "x".repeat(33));

    for _ in 0..5 {
        let answer = app.send("GET", "/tenant", &[("X-API-Key", &wrong)], None).await;
        assert_eq!((answer.status, answer.header("ratelimit")), (401, ""));
    }

    assert_eq!(tenant.backend().get("/tenant").await.header("x-ratelimit-remaining"), "1");
}

#[tokio::test]
async fn two_nodes_share_a_tenants_limit() {
    let one = App::start().await;
    let two = one.second_node().await;
    two.ready().await;
    let tenant = one.tenant_with("t", json!({"rate_limit": 20, "rate_burst": 20})).await;
    let there = tenant.through(&two);
    // Each knows of the other with its next sign of life.
    let start = Instant::now();
    loop {
        let metrics = [one.get("/metrics").await.text, two.get("/metrics").await.text];
        if metrics.iter().all(|text| text.contains("chatapi_nodes 2")) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(100)).await;
    }

    let (start, mut passed) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(3) {
        for node in [&tenant, &there] {
            passed += u32::from(node.backend().get("/tenant").await.status == 200);
        }
    }

    // A full bucket, and what flowed in; the time is a little longer than what we count.
    assert!((60..=95).contains(&passed), "{passed} of 80 passed");
}
