//! `GET /ws`: from a request to a session on a task of its own.
//!
//! Start at [`open`]. `session.rs` is the loop of one connection, `command.rs` what it may be
//! asked, `close.rs` how it may end.

mod close;
mod command;
mod frame;
mod session;

use std::time::Duration;

use chatapi_domain::ConnectionId;
use chatapi_realtime::Limits;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Version};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use self::close::Close;
use self::session::Connection;
use crate::call::Call;
use crate::error::{ApiError, Kind};
use crate::reply::Reply;

/// Within this time of our answer the connection must be handed over.
const HANDOVER: Duration = Duration::from_secs(10);

/// The most bytes of one frame, and of one message, that a client may send.
const MAX_FRAME: usize = 256 * 1024;

/// Buffers of one connection: there are thousands that mostly wait.
fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(1024)
        .write_buffer_size(16 * 1024)
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME))
}

/// What answers a handshake, if the request is one.
pub(crate) fn accept_key(parts: &Parts) -> Result<HeaderValue, ApiError> {
    let headers = &parts.headers;
    let has = |name: header::HeaderName, word: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    if parts.method != Method::GET || parts.version != Version::HTTP_11 {
        return Err(ApiError::new(Kind::UpgradeRequired, "A WebSocket handshake is a GET over HTTP/1.1"));
    }
    let length = headers.get(header::CONTENT_LENGTH);
    if headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0") {
        return Err(ApiError::new(Kind::InvalidRequest, "A WebSocket handshake has no body"));
    }
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        return Err(ApiError::new(Kind::UpgradeRequired, "Expected a WebSocket handshake"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(ApiError::new(Kind::UpgradeRequired, "Expected Sec-WebSocket-Version: 13"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let key = key.ok_or_else(|| ApiError::invalid("Sec-WebSocket-Key", "expected 16 bytes in base64"))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(ApiError::internal)
}

/// `GET /ws`
pub(crate) async fn open(mut call: Call) -> Result<Reply, ApiError> {
    let accept = call.accept.take().ok_or_else(|| ApiError::internal("a socket without a handshake"))?;
    let upgrade = call.upgrade.take().ok_or_else(|| ApiError::internal("a handshake without a connection"))?;
    let (user, caller) = (call.user()?, call.caller()?.clone());
    let settings = &caller.settings;
    if let Some(origin) = call.headers.get(header::ORIGIN)
        && !crate::cors::allows_header(&settings.allowed_origins, origin)
    {
        return Err(ApiError::new(Kind::Forbidden, "This origin is not one of the tenant's allowed_origins"));
    }
    let limits = Limits {
        connections: settings.max_connections as usize,
        connections_of_user: settings.max_connections_per_user as usize,
    };
    let id = ConnectionId::new(call.now());
    let (hub, tenant) = (&call.api.hub, caller.tenant.tenant_id);
    let registered = hub.register(id, tenant, user, limits, settings.presence).await?;
    let (api, peer) = (call.api.clone(), call.peer);
    let serving = async move {
        let Some(mut socket) = hand_over(upgrade).await else { return };
        match registered {
            Ok(session) => {
                let _open = caller.meter().connection();
                api.metrics.sockets.inc();
                Connection::new(api.clone(), caller, session, socket, peer).run().await;
                api.metrics.sockets.dec();
            }
            Err(_) => Close::Limit.send(&mut socket).await,
        }
    };
    call.api.sockets.spawn(Box::pin(serving));
    Ok(Reply::switching(accept))
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn hand_over(upgrade: OnUpgrade) -> Option<Socket> {
    let upgraded = timeout(HANDOVER, upgrade).await.ok()?.ok()?;
    Some(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config())).await)
}
