//! Frames that the connection itself sends: its first and its last.

use std::time::Duration;

use bytes::Bytes;
use chatapi_domain::{ConnectionId, UserId};
use serde::Serialize;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Clients come back within this time after a shutdown, each at a moment of its own.
const SPREAD_MS: u128 = 5000;

pub(super) fn text_frame(text: Bytes) -> Message {
    Message::Text(Utf8Bytes::try_from(text).unwrap_or_default())
}

/// `connected`: the first frame.
pub(super) fn connected(connection_id: ConnectionId, user_id: &UserId, heartbeat: Duration) -> Bytes {
    #[derive(Serialize)]
    struct Connected<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        connection_id: ConnectionId,
        user_id: &'a UserId,
        heartbeat_seconds: u64,
    }
    let connected = Connected { kind: "connected", connection_id, user_id, heartbeat_seconds: heartbeat.as_secs() };
    serde_json::to_vec(&connected).unwrap_or_default().into()
}

/// `server.shutdown`: the last frame before the close.
pub(super) fn goodbye(connection_id: ConnectionId) -> Bytes {
    #[derive(Serialize)]
    struct Goodbye {
        #[serde(rename = "type")]
        kind: &'static str,
        reconnect_after_ms: u64,
    }
    let own = connection_id.as_uuid().as_u128() % SPREAD_MS;
    let reconnect_after_ms = u64::try_from(own).unwrap_or(0);
    serde_json::to_vec(&Goodbye { kind: "server.shutdown", reconnect_after_ms }).unwrap_or_default().into()
}
