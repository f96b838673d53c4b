//! Pure code on the way of every message: routing, parsing a body, encoding a message.
//!
//! `make bench-pure` measures; `make bench-once`, which CI runs, only shows that they work.

use std::hint::black_box;

use chatapi_domain::{Message, MessageId, RoomId, Timestamp, UserId};
use chatapi_http::bench::{MessageView, Router, SendBody, exceeds_depth, parse};
use criterion::{Criterion, criterion_group, criterion_main};
use hyper::Method;

fn routing(criterion: &mut Criterion) {
    let router = Router::new();
    let path = "/rooms/room_01m85d22b8egmve8x781kkwrfj/messages";
    criterion.bench_function("route of a send", |bench| {
        bench.iter(|| black_box(router.find(black_box(&Method::POST), black_box(path))));
    });
}

fn parsing(criterion: &mut Criterion) {
    let small = format!(r#"{{"content": "{}"}}"#, "x".repeat(100));
    let large = format!(r#"{{"content": "{}", "meta": {{"k": [1, 2, 3]}}}}"#, "x".repeat(16_000));
    for (name, body) in [("body of 100 bytes", small), ("body of 16 KB", large)] {
        criterion.bench_function(name, |bench| {
            bench.iter(|| parse::<SendBody>(black_box(body.as_bytes())).expect("right"));
        });
        criterion.bench_function(&format!("depth of a {name}"), |bench| {
            bench.iter(|| exceeds_depth(black_box(body.as_bytes())));
        });
    }
}

fn encoding(criterion: &mut Criterion) {
    let now = Timestamp::from_micros(1_800_000_000_000_000);
    let message = Message {
        message_id: MessageId::new(now),
        room_id: RoomId::new(now),
        sender_id: UserId::parse("user", "alice").expect("a user id"),
        seq: 42,
        content: "x".repeat(100),
        meta: None,
        client_message_id: None,
        created_at: now,
        edited_at: None,
        deleted_at: None,
        reply_to: None,
    };
    criterion.bench_function("a message as JSON", |bench| {
        bench.iter(|| serde_json::to_vec(&MessageView::from(black_box(&message))).expect("JSON"));
    });
}

criterion_group!(benches, routing, parsing, encoding);
criterion_main!(benches);
