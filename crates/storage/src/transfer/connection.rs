//! A connection for one export or import.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::task::AbortOnDropHandle;

use crate::{Connector, Error, Result};

/// A connection that ends, and its transaction with it, when it is dropped.
pub(super) struct Connection {
    pub(super) client: Client,
    _driver: AbortOnDropHandle<()>,
}

impl Connection {
    pub(super) async fn open(connector: &Connector) -> Result<Self> {
        let (config, tls) = connector.for_transfer();
        let connecting = timeout(Duration::from_secs(5), config.connect(tls)).await;
        let (client, connection) = connecting.map_err(|_| Error::unavailable("connecting timed out"))??;
        let driver = async move {
            if let Err(error) = connection.await {
                tracing::warn!(%error, "The connection of an export or import broke");
            }
        };
        #[expect(clippy::disallowed_methods, reason = "owned by the handle, ends with the connection")]
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(Self { client, _driver: driver })
    }
}
