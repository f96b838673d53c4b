//! Which ends of a connection are followed by another, and which are the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chatapi_client::{Client, ConnectOptions, Credentials, Error, Live, TokenSource};
use serde_json::json;

use crate::reader::{
    client, connected, ending, eventually, numbered, options, soon, until_connected, until_disconnected,
};
use crate::server::{Server, Way};

/// A user with the token `first`, and a source of `next-1`, `next-2` …
fn with_tokens(server: &Server) -> (Client, ConnectOptions) {
    let count = Arc::new(AtomicU32::new(0));
    let source = TokenSource::new(move || {
        let next = count.fetch_add(1, Ordering::Relaxed) + 1;
        async move { Ok(format!("next-{next}").into()) }
    });
    let client = Client::new(&server.base, Credentials::UserToken("first".into())).expect("an address");
    (client, ConnectOptions { token_source: Some(source), ..options() })
}

/// The tokens of the sockets that were opened.
fn tokens(server: &Server) -> Vec<String> {
    let token = |head: &String| {
        let path = head.split(' ').nth(1)?;
        path.strip_prefix("/ws?token=").map(str::to_owned)
    };
    server.state().requests.iter().filter_map(token).collect()
}

#[tokio::test]
async fn codes_that_say_so_end_the_stream() {
    for code in [1008, 1009, 4501, 4505, 4506, 4003] {
        let server = Server::start().await;
        let live = connected(&server).await;

        server.close(code);

        let error = ending(&live).await;
        assert!(
            matches!(&error, Error::Closed { code: got, reason } if *got == code && reason == "because"),
            "{error}"
        );
        assert!(matches!(live.send("room_a", "too late").await, Err(Error::Ended)));
    }
}

#[tokio::test]
async fn other_codes_are_followed_by_another_connection() {
    let server = Server::start().await;
    let live = connected(&server).await;

    for code in [1001, 4001, 4009, 1011] {
        server.close(code);
        assert_eq!(until_disconnected(&live).await.0, Some(code));
        until_connected(&live).await;
    }

    server.say("room_a", "still there", Way::Once);
    assert_eq!(numbered(&live, 1).await, "a4");
    server.close(4008);
    assert!(until_disconnected(&live).await.1 >= Duration::from_secs(1), "commands came too fast");
}

#[tokio::test]
async fn a_server_that_stops_says_when_to_come_back() {
    let server = Server::start().await;
    let live = connected(&server).await;

    server.state().refusals.push_back(503);
    server.send(&json!({"type": "server.shutdown", "reconnect_after_ms": 321}));
    server.close(1001);

    assert_eq!(until_disconnected(&live).await, (Some(1001), Duration::from_millis(321)));
    assert!(until_disconnected(&live).await.1 < Duration::from_millis(321), "the next waits are the client's own");
}

#[tokio::test]
async fn a_refused_handshake_is_the_end_or_is_tried_again() {
    for status in [401, 403] {
        let server = Server::start().await;
        server.state().refusals.push_back(status);
        let error = ending(&client(&server).connect(options())).await;
        assert_eq!(error.status(), Some(status));
    }

    let server = Server::start().await;
    server.state().refusals.extend([503, 429, 500]);
    let live = client(&server).connect(options());
    for _ in 0..3 {
        until_disconnected(&live).await;
    }
    until_connected(&live).await;
}

#[tokio::test]
async fn an_expired_token_is_replaced_by_one_of_the_source() {
    let server = Server::start().await;
    let (client, options) = with_tokens(&server);
    let live = client.connect(options);
    until_connected(&live).await;

    server.close(4003);
    until_connected(&live).await;
    server.state().refusals.push_back(401);
    server.cut();
    until_connected(&live).await;

    assert_eq!(tokens(&server), ["first", "next-1", "next-1", "next-2"]);
    // REST goes on with it too.
    let is_list = |head: &String| head.starts_with("GET /rooms") && head.contains("authorization: Bearer next-2");
    eventually(|| server.state().requests.iter().any(is_list)).await;
}

#[tokio::test]
async fn a_new_token_that_is_refused_is_the_end() {
    let server = Server::start().await;
    server.state().refusals.extend([401, 401]);
    let (client, options) = with_tokens(&server);

    let error = ending(&client.connect(options)).await;

    assert_eq!((error.status(), tokens(&server).len()), (Some(401), 2));
}

#[tokio::test]
async fn a_token_source_that_fails_is_the_end() {
    let server = Server::start().await;
    let (client, options) = with_tokens(&server);
    let source = TokenSource::new(async || Err("logged out".into()));
    let live = client.connect(ConnectOptions { token_source: Some(source), ..options });
    until_connected(&live).await;

    server.close(4003);

    assert!(matches!(ending(&live).await, Error::Token(_)));
}

#[tokio::test]
async fn a_refreshed_token_is_used_from_then_on() {
    let server = Server::start().await;
    let client = Client::new(&server.base, Credentials::UserToken("first".into())).expect("an address");
    let live = client.connect(options());
    until_connected(&live).await;

    assert_eq!(soon(live.refresh("second".into())).await.expect("it is good").as_deref(), Some("later"));
    server.cut();
    until_connected(&live).await;
    server.state().errors.push_back(("refresh", "unauthorized"));
    assert_eq!(soon(live.refresh("bad".into())).await.expect_err("it is not").status(), Some(401));
    server.cut();
    until_connected(&live).await;

    assert_eq!(tokens(&server), ["first", "second", "second"]);
}

#[tokio::test]
async fn a_server_that_says_nothing_any_more_is_left() {
    let server = Server::start().await;
    server.state().heartbeat = 0.05;
    let live = connected(&server).await;

    server.hang();

    until_disconnected(&live).await;
    until_connected(&live).await;
}

#[tokio::test]
async fn a_server_that_has_nothing_to_say_is_not_left() {
    let server = Server::start().await;
    server.state().heartbeat = 0.05;
    let live = connected(&server).await;

    // Six times what a server that is gone is given.
    tokio::time::sleep(Duration::from_millis(900)).await;
    server.say("room_a", "hello", Way::Once);

    assert_eq!(numbered(&live, 1).await, "a4");
    assert_eq!(server.state().requests.iter().filter(|head| head.starts_with("GET /ws")).count(), 1);
}

#[tokio::test]
async fn a_user_may_end_it() {
    let server = Server::start().await;
    let live = connected(&server).await;
    soon(live.close()).await;

    let slow: Live = client(&server).connect(ConnectOptions { queue: 1, ..options() });
    until_connected(&slow).await;
    for _ in 0..20 {
        server.say("room_a", "nobody reads", Way::Once);
    }
    eventually(|| server.state().world.log("room_a").last_seq() == 23).await;
    soon(slow.close()).await;
}
