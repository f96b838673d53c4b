//! What can go wrong, and whether trying again helps.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;

/// What calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The longest wait for a server that says when to come back; beyond it the caller decides.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Why a call failed, or a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the caller gave cannot be sent.
    #[error("{0}")]
    Invalid(String),
    /// The server refused.
    #[error("{code} ({status}): {message}")]
    Api {
        /// The HTTP status; for a refusal over the socket the one that its code has in REST.
        status: u16,
        /// The word for programs, such as `not_found`.
        code: String,
        /// The sentence for people.
        message: String,
        /// Under which the server logged it.
        request_id: Option<String>,
        /// When trying again makes sense.
        retry_after: Option<Duration>,
    },
    /// The server could not be reached, or the connection broke.
    #[error("the server could not be reached")]
    Transport(#[source] BoxError),
    /// The server's answer is not what the contract says.
    #[error("the answer of the server was not understood")]
    Decode(#[source] serde_json::Error),
    /// The server closed the socket, and asked not to come back.
    #[error("the server closed the connection for good: {code} {reason}")]
    Closed {
        /// The WebSocket close code.
        code: u16,
        /// The server's words.
        reason: String,
    },
    /// The token source failed, so there is nothing to connect with.
    #[error("no new token could be had")]
    Token(#[source] BoxError),
    /// There is no connection at the moment, and what was to be said does not keep.
    #[error("not connected")]
    Disconnected,
    /// No answer came in time; whether it was done is unknown.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The stream has ended, and its socket with it.
    #[error("the connection has ended")]
    Ended,
}

/// The body of every refusal.
#[derive(Deserialize)]
struct Body {
    error: String,
    message: String,
    request_id: Option<String>,
}

impl Error {
    /// A failed HTTP request. The address is left out: what is secret in it stays so.
    pub(crate) fn transport(error: reqwest::Error) -> Self {
        Self::Transport(Box::new(error.without_url()))
    }

    /// What an HTTP answer that is no success means.
    pub(crate) fn from_answer(status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let seconds = text(RETRY_AFTER.as_str()).and_then(|seconds| seconds.parse().ok());
        // Something between may answer for the server, and a refused handshake may lack its body.
        let body = serde_json::from_slice(body).unwrap_or_else(|_| Body {
            error: code(status).to_owned(),
            message: "No message".to_owned(),
            request_id: None,
        });
        Self::Api {
            status,
            code: body.error,
            message: body.message,
            request_id: body.request_id.or_else(|| text("x-request-id").map(str::to_owned)),
            retry_after: seconds.map(Duration::from_secs),
        }
    }

    /// A refusal over the socket, which has the code but no status.
    pub(crate) fn from_frame(code: String, message: String) -> Self {
        let status = match code.as_str() {
            "unauthorized" => 401,
            "forbidden" | "tenant_suspended" => 403,
            "not_found" => 404,
            "conflict" => 409,
            "payload_too_large" => 413,
            "rate_limit_exceeded" | "quota_exceeded" => 429,
            "internal_error" => 500,
            "unavailable" => 503,
            _ => 400,
        };
        Self::Api { status, code, message, request_id: None, retry_after: None }
    }

    /// The status, if it is the server that refused.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Api { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// When the server would have it tried again.
    pub(crate) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Api { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the thing asked for is not there, or not for this caller.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.status(), Some(403 | 404))
    }

    /// How long to wait before the same call may do better; nothing if it will not.
    pub(crate) fn worth_repeating(&self, otherwise: Duration) -> Option<Duration> {
        match self {
            Self::Api { status: 429, code, .. } if code == "quota_exceeded" => None,
            Self::Api { status: 429 | 503, retry_after, .. } => {
                Some(retry_after.unwrap_or(otherwise)).filter(|wait| *wait <= LONGEST_WAIT)
            }
            Self::Transport(_) => Some(otherwise),
            _ => None,
        }
    }
}

/// The usual code of a status.
const fn code(status: u16) -> &'static str {
    match status {
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        429 => "rate_limit_exceeded",
        500 => "internal_error",
        503 => "unavailable",
        _ => "unknown",
    }
}

/// An error with what caused it, in one line; some errors name their cause themselves.
pub(crate) fn in_words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes
        .map(ToString::to_string)
        .fold(error.to_string(), |text, cause| if text.ends_with(&cause) { text } else { format!("{text}: {cause}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_what_the_server_said() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "7".parse().expect("a header"));
        let body = br#"{"error": "rate_limit_exceeded", "message": "Too fast", "request_id": "req_1"}"#;

        let error = Error::from_answer(429, &headers, body);

        assert_eq!(error.to_string(), "rate_limit_exceeded (429): Too fast");
        assert_eq!(error.worth_repeating(Duration::ZERO), Some(Duration::from_secs(7)));
        assert!(matches!(error, Error::Api { request_id: Some(id), .. } if id == "req_1"));
    }

    #[test]
    fn an_answer_of_something_else_is_still_an_answer() {
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", "req_2".parse().expect("a header"));

        let error = Error::from_answer(502, &headers, b"<html>");

        assert!(matches!(&error, Error::Api { status: 502, request_id: Some(id), .. } if id == "req_2"));
        assert_eq!(error.worth_repeating(Duration::ZERO), None);
    }

    #[test]
    fn what_would_fail_again_is_not_repeated() {
        let refused = |status, code: &str, seconds: Option<u64>| Error::Api {
            status,
            code: code.to_owned(),
            message: String::new(),
            request_id: None,
            retry_after: seconds.map(Duration::from_secs),
        };
        let wait = |error: Error| error.worth_repeating(Duration::from_secs(1)).map(|wait| wait.as_secs());

        assert_eq!(wait(refused(503, "unavailable", None)), Some(1));
        assert_eq!(wait(refused(503, "unavailable", Some(31))), None);
        assert_eq!(wait(refused(429, "quota_exceeded", Some(2))), None);
        assert_eq!(wait(refused(400, "invalid_request", None)), None);
        assert_eq!(wait(Error::Transport("reset".into())), Some(1));
    }
}
