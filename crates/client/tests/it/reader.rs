//! Who reads a stream in tests, with a deadline.

use std::time::Duration;

use chatapi_client::{Backoff, Client, ConnectOptions, Credentials, Error, Event, Live};
use tokio::time::timeout;

use crate::server::Server;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn client(server: &Server) -> Client {
    let credentials = Credentials::ApiKey { key: "sk_test".into(), user: Some("alice".to_owned()) };
    Client::new(&server.base, credentials).expect("an address")
}

/// As usual, but without long waits.
pub(crate) fn options() -> ConnectOptions {
    let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(10));
    ConnectOptions { backoff, ..ConnectOptions::default() }
}

/// Connects, and waits until it is.
pub(crate) async fn connected(server: &Server) -> Live {
    let live = client(server).connect(options());
    until_connected(&live).await;
    live
}

/// Waits for something, but not for ever.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("it should have happened by now")
}

/// The next event that is none of the connection's own.
pub(crate) async fn next(live: &Live) -> Event {
    loop {
        match soon(live.next()).await.expect("not the end").expect("no error") {
            Event::Connected { .. } | Event::Disconnected { .. } => {}
            event => return event,
        }
    }
}

/// The next `count` numbered events: `a4` is message 4 of room a, `a!2` its change 2.
pub(crate) async fn numbered(live: &Live, count: usize) -> String {
    let mut names = Vec::new();
    while names.len() < count {
        names.extend(name(&next(live).await));
    }
    names.join(" ")
}

pub(crate) fn name(event: &Event) -> Option<String> {
    let short = |room: &str| room.trim_start_matches("room_").to_owned();
    match event {
        Event::Message(message) => Some(format!("{}{}", short(&message.room_id), message.seq)),
        Event::Edited(edited) => Some(format!("{}!{}", short(&edited.message.room_id), edited.change)),
        Event::Deleted { room_id, change, .. } => Some(format!("{}!{change}", short(room_id))),
        _ => None,
    }
}

pub(crate) async fn until_connected(live: &Live) {
    until(live, |event| matches!(event, Event::Connected { .. })).await;
}

/// Waits for a loss of the connection: its code, and the wait after it.
pub(crate) async fn until_disconnected(live: &Live) -> (Option<u16>, Duration) {
    match until(live, |event| matches!(event, Event::Disconnected { .. })).await {
        Event::Disconnected { code, retry_in, .. } => (code, retry_in),
        other => unreachable!("{other:?}"),
    }
}

pub(crate) async fn until(live: &Live, wanted: impl Fn(&Event) -> bool) -> Event {
    loop {
        let event = soon(live.next()).await.expect("not the end").expect("no error");
        if wanted(&event) {
            return event;
        }
    }
}

/// The error that a stream ends with, after which there is nothing.
pub(crate) async fn ending(live: &Live) -> Error {
    loop {
        if let Err(error) = soon(live.next()).await.expect("an error before the end") {
            assert!(soon(live.next()).await.is_none(), "nothing comes after the end");
            return error;
        }
    }
}

/// Waits until something is true of the server.
pub(crate) async fn eventually(mut is_true: impl FnMut() -> bool) {
    soon(async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
