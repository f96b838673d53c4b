//! Health and metrics.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{ACCEPT, AUTHORIZATION};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::call::Call;
use crate::error::{ApiError, Kind};
use crate::reply::Reply;

#[derive(Serialize)]
struct HealthView {
    status: &'static str,
    service: &'static str,
    version: &'static str,
    uptime: String,
    db_writable: bool,
}

/// `GET /health`
pub(crate) async fn health(call: Call) -> Result<Reply, ApiError> {
    let writable = call.api.health.database_is_writable(&call.api.store).await;
    let (status, word) = if writable { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "error") };
    let body = HealthView {
        status: word,
        service: "chatapi",
        version: env!("CARGO_PKG_VERSION"),
        uptime: uptime(call.api.started.elapsed()),
        db_writable: writable,
    };
    Reply::json(status, &body)
}

/// `GET /livez`
pub(crate) fn live() -> Result<Reply, ApiError> {
    Reply::ok(&json!({ "status": "ok" }))
}

/// `GET /readyz`
pub(crate) async fn ready(call: Call) -> Result<Reply, ApiError> {
    let ready = call.api.is_ready() && call.api.health.database_is_writable(&call.api.store).await;
    if ready {
        Reply::ok(&json!({ "status": "ok" }))
    } else {
        Reply::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "error" }))
    }
}

/// `GET /metrics`
pub(crate) fn metrics(call: &Call) -> Result<Reply, ApiError> {
    if let Some(token) = &call.api.options.metrics_token {
        let presented = call.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let presented = presented.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        // Digests are compared, so that the time says nothing of the token.
        if Sha256::digest(presented) != Sha256::digest(token.expose_secret()) {
            return Err(ApiError::new(Kind::Unauthorized, "Invalid or missing metrics token"));
        }
    }
    let wants_json = call.headers.get(ACCEPT).is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if wants_json {
        Reply::ok(&call.api.metrics.to_json(&call.api))
    } else {
        call.api.metrics.to_text(&call.api).map(Reply::metrics).map_err(ApiError::internal)
    }
}

/// `2h30m45s`
fn uptime(since: Duration) -> String {
    let seconds = since.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_reads_as_people_say_it() {
        let cases = [(0, "0s"), (59, "59s"), (60, "1m0s"), (9045, "2h30m45s"), (360_000, "100h0m0s")];
        for (seconds, expected) in cases {
            assert_eq!(uptime(Duration::from_secs(seconds)), expected);
        }
    }
}
