//! Whether the database can be written: really tried, at most once a second.

use std::time::Duration;

use chatapi_storage::Store;
use moka::future::Cache;
use tokio::time::timeout;

use crate::clock;

/// A database that does not answer within this time counts as away.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Health {
    /// One entry; those who ask at the same time share one try.
    writable: Cache<(), bool>,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self { writable: Cache::builder().max_capacity(1).time_to_live(Duration::from_secs(1)).build() }
    }

    pub(crate) async fn database_is_writable(&self, store: &Store) -> bool {
        let attempt = async {
            match timeout(PATIENCE, store.probe(clock::now().wall)).await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    tracing::warn!(%error, source = ?std::error::Error::source(&error), "The database cannot be written");
                    false
                }
                Err(_) => {
                    tracing::warn!("The database does not answer");
                    false
                }
            }
        };
        self.writable.get_with((), attempt).await
    }
}
