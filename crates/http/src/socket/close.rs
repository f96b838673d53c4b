//! How a connection may end; the code tells the client what to do.

use std::time::Duration;

use chatapi_auth::{Credential, Denied};
use futures_util::StreamExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::Socket;

/// So long we wait for a client to take what was sent, and the close with it.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// So long we wait for a client to close too: else what it has not read yet might be lost.
const LINGER: Duration = Duration::from_secs(2);

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// The server stops.
    Shutdown,
    /// The client fell too far behind.
    TooSlow,
    /// Its user token is over, or was revoked.
    Token,
    /// It went on over its tenant's rate limit.
    OverLimit,
    /// It did not answer.
    NoPong,
    /// There are as many connections as may be.
    Limit,
    /// A frame was too big.
    TooBig,
    /// A text was not UTF-8.
    NotText,
    /// A frame was none.
    Protocol,
    /// Its key was revoked, or is over.
    Key,
    /// Its tenant is switched off.
    Suspended,
    /// Its tenant is gone.
    Deleted,
}

impl Close {
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::Shutdown => 1001,
            Self::Protocol => 1002,
            Self::NotText => 1007,
            Self::Limit => 1008,
            Self::TooBig => 1009,
            Self::TooSlow => 4001,
            Self::Token => 4003,
            Self::OverLimit => 4008,
            Self::NoPong => 4009,
            Self::Key => 4501,
            Self::Suspended => 4505,
            Self::Deleted => 4506,
        }
    }

    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Protocol => "protocol error",
            Self::NotText => "not UTF-8",
            Self::Limit => "connection limit reached",
            Self::TooBig => "frame too big",
            Self::TooSlow => "too slow",
            Self::Token => "token expired or revoked",
            Self::OverLimit => "over the rate limit",
            Self::NoPong => "no pong",
            Self::Key => "key revoked or expired",
            Self::Suspended => "tenant suspended",
            Self::Deleted => "tenant deleted",
        }
    }

    /// What becomes of a connection that was let in by this credential, which is denied now;
    /// nothing if nobody can say at the moment.
    pub(super) const fn of(denied: &Denied, credential: &Credential) -> Option<Self> {
        match (denied, credential) {
            (Denied::Suspended, _) => Some(Self::Suspended),
            (Denied::Gone, _) => Some(Self::Deleted),
            (Denied::Invalid(_) | Denied::Missing | Denied::Token, Credential::Key { .. }) => Some(Self::Key),
            (Denied::Invalid(_) | Denied::Missing | Denied::Token, Credential::Token { .. }) => Some(Self::Token),
            (Denied::TooManyFailures { .. } | Denied::Unavailable(_), _) => None,
        }
    }

    /// Tells the client and waits a little for it to go.
    pub(super) async fn send(self, socket: &mut Socket) {
        let frame = CloseFrame { code: CloseCode::from(self.code()), reason: self.reason().into() };
        if matches!(timeout(WRITE_PATIENCE, socket.close(Some(frame))).await, Ok(Ok(()))) {
            let _ = timeout(LINGER, async { while let Some(Ok(_)) = socket.next().await {} }).await;
        }
    }
}
