//! What is said over the socket is answered, also when the connection breaks before the answer.

use std::time::Duration;

use chatapi_client::{ConnectOptions, Error, NewMessage, ReceiptKind, Typing};
use serde_json::value::RawValue;

use crate::reader::{client, connected, eventually, numbered, options, soon, until_connected, until_disconnected};
use crate::server::{Loss, Server, Way};

#[tokio::test]
async fn a_message_is_answered_and_comes_once_whether_or_not_it_is_echoed() {
    for echoes in [true, false] {
        let server = Server::start().await;
        server.state().echoes = echoes;
        let live = connected(&server).await;
        let meta = RawValue::from_string(r#"{"z":1,"a":2}"#.to_owned()).expect("JSON");

        let sent = soon(live.send("room_a", NewMessage::new("hi").meta(meta))).await.expect("it is sent");
        server.say("room_a", "and hello", Way::Once);

        assert_eq!((sent.seq, sent.content.as_str()), (4, "hi"));
        assert_eq!(numbered(&live, 2).await, "a4 a5");
    }
}

#[tokio::test]
async fn a_message_whose_way_breaks_is_sent_again_and_is_there_once() {
    for loss in [Loss::Request, Loss::Answer] {
        let server = Server::start().await;
        let live = connected(&server).await;
        server.state().losses.extend([loss, loss]);

        let sent = soon(live.send("room_a", "hi")).await.expect("it is sent in the end");

        assert_eq!(sent.seq, 4);
        assert_eq!(server.state().world.log("room_a").last_seq(), 4);
        let frames = server.state().frames.clone();
        let mut ids: Vec<_> = frames.iter().filter_map(|frame| frame["client_message_id"].as_str()).collect();
        assert_eq!(ids.len(), 3);
        ids.dedup();
        assert_eq!(ids.len(), 1);
        assert_eq!(numbered(&live, 1).await, "a4");
    }
}

#[tokio::test]
async fn messages_that_wait_for_a_connection_are_sent_in_order() {
    let server = Server::start().await;
    let live = connected(&server).await;
    server.state().refusals.extend([503; 3]);

    server.cut();
    until_disconnected(&live).await;
    let (first, second) = soon(async { tokio::join!(live.send("room_a", "1"), live.send("room_a", "2")) }).await;

    assert_eq!((first.expect("it is sent").seq, second.expect("it is sent").seq), (4, 5));
}

#[tokio::test]
async fn a_message_the_server_has_no_time_for_is_sent_again_and_one_it_refuses_is_not() {
    let server = Server::start().await;
    let live = connected(&server).await;

    server.state().errors.extend([("send_message", "unavailable"), ("send_message", "rate_limit_exceeded")]);
    assert_eq!(soon(live.send("room_a", "hi")).await.expect("it is sent").seq, 4);
    server.state().errors.push_back(("send_message", "forbidden"));
    let error = soon(live.send("room_a", "hi")).await.expect_err("it is refused");

    assert!(matches!(&error, Error::Api { status: 403, code, .. } if code == "forbidden"), "{error}");
    assert_eq!(server.state().kinds().iter().filter(|kind| **kind == "send_message").count(), 4);
}

#[tokio::test]
async fn acks_and_typing_are_answered_and_typing_does_not_wait_for_a_connection() {
    let server = Server::start().await;
    let live = connected(&server).await;

    let acked = soon(live.ack("room_a", 3, ReceiptKind::Read)).await.expect("it is taken");
    soon(live.typing("room_a", Typing::Start)).await.expect("it is taken");
    assert_eq!(acked.delivered_seq, 3);
    assert_eq!(server.state().kinds().iter().filter(|kind| **kind != "sync").count(), 2);

    server.state().refusals.extend([503; 200]);
    server.cut();
    until_disconnected(&live).await;
    assert!(matches!(soon(live.typing("room_a", Typing::Stop)).await, Err(Error::Disconnected)));
}

#[tokio::test]
async fn a_command_that_is_not_answered_in_time_fails() {
    let server = Server::start().await;
    server.state().refusals.extend([503; 1000]);
    let live = client(&server).connect(ConnectOptions { answer_within: Duration::from_millis(20), ..options() });

    let answer = soon(live.ack("room_a", 3, ReceiptKind::Read)).await;

    assert!(matches!(answer, Err(Error::Timeout(_))));
}

#[tokio::test]
async fn a_channel_is_followed_over_connections_until_it_is_not() {
    let server = Server::start().await;
    server.state().world.add("room_c").foreign = true;
    server.say("room_c", "before", Way::Never);
    let live = connected(&server).await;

    soon(live.subscribe("room_c")).await.expect("it is followed");
    server.say("room_c", "text", Way::Once);
    assert_eq!(numbered(&live, 1).await, "c2");
    server.cut();
    server.say("room_c", "missed", Way::Never);
    assert_eq!(numbered(&live, 1).await, "c3");
    assert_eq!(server.state().kinds().iter().filter(|kind| **kind == "subscribe").count(), 2);

    soon(live.unsubscribe("room_c")).await.expect("it is not followed");
    server.cut();
    until_connected(&live).await;
    eventually(|| server.state().frames.last().is_some_and(|frame| frame["type"] == "sync")).await;
    assert!(server.state().frames.last().is_some_and(|frame| frame["rooms"].get("room_c").is_none()));
    assert_eq!(server.state().kinds().iter().filter(|kind| **kind == "subscribe").count(), 2);
}
