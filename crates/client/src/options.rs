//! How a socket is to be kept.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::error::BoxError;
use crate::{Backoff, Position};

type Fetch = dyn Fn() -> Pin<Box<dyn Future<Output = Result<SecretString, BoxError>> + Send>> + Send + Sync;

/// Where a new user token comes from when the old one has expired or was revoked.
#[derive(Clone)]
pub struct TokenSource(Arc<Fetch>);

impl TokenSource {
    /// Asks `fetch`. If it fails the stream ends; a source that wants to try again does so itself.
    pub fn new<F, T>(fetch: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<SecretString, BoxError>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(fetch())))
    }

    pub(crate) async fn fetch(self) -> Result<SecretString, BoxError> {
        (self.0)().await
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenSource").finish_non_exhaustive()
    }
}

/// How a [`Live`](crate::Live) connection is to be kept.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Rooms that the caller has followed before, and up to where: their events go on there.
    pub positions: HashMap<String, Position>,
    /// Begins the other rooms after what the server holds as delivered to the user. Otherwise
    /// they begin where they are at the first [`Event::Connected`](crate::Event::Connected).
    pub from_delivered: bool,
    /// Where a new token comes from; without it an expired token ends the stream.
    pub token_source: Option<TokenSource>,
    /// The waits between attempts to connect.
    pub backoff: Backoff,
    /// How many events are kept for a caller who is slow; then the server's queue fills too.
    pub queue: usize,
    /// How long a command waits for its answer, times without a connection included.
    pub answer_within: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            positions: HashMap::new(),
            from_delivered: false,
            token_source: None,
            backoff: Backoff::default(),
            queue: 1024,
            answer_within: Duration::from_secs(30),
        }
    }
}
