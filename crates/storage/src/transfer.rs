//! A whole tenant as lines of JSON, out and in again. One of the few files that see more than one
//! tenant.
//!
//! What a line looks like stands in [`line`]; what the lines must be to each other in [`check`].
//! Both directions take one pass in constant memory, each in one transaction on a connection of its
//! own: however slow the other end is, nobody else waits for it.
//!
//! To export one more kind of row: a line in [`line`], its order in [`check`], its rows in
//! [`export`] and [`import`], and a new [`VERSION`].
//!
//! [`VERSION`]: line::VERSION

mod check;
mod connection;
mod copy;
mod cursor;
mod export;
mod import;
mod line;
mod lines;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chatapi_domain::{Tenant, TenantId, TenantKey, Timestamp};
use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use self::export::Export;
pub use self::line::Counts;
use crate::{Connector, Error, Result, Store};

/// Exports, and imports, at once on one node.
const AT_ONCE: usize = 2;

/// So long the other end may neither send nor take anything.
const PATIENCE: Duration = Duration::from_mins(1);

/// How many are at it.
#[derive(Debug, Clone)]
pub(crate) struct Gates {
    exports: Arc<Semaphore>,
    imports: Arc<Semaphore>,
}

impl Gates {
    pub(crate) fn new() -> Self {
        Self { exports: Arc::new(Semaphore::new(AT_ONCE)), imports: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

fn enter(gate: &Arc<Semaphore>, full: &'static str) -> Result<OwnedSemaphorePermit> {
    gate.clone().try_acquire_owned().map_err(|_| Error::unavailable(full))
}

/// Whole tenants, out and in: for the operator.
#[derive(Debug, Clone, Copy)]
pub struct Transfer<'a> {
    pub(crate) store: &'a Store,
    pub(crate) connector: &'a Connector,
    pub(crate) gates: &'a Gates,
    patience: Duration,
}

/// A tenant that was imported, and how much of what.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The tenant, under the id it has here.
    pub tenant: Tenant,
    /// What it brought.
    pub counts: Counts,
}

impl<'a> Transfer<'a> {
    pub(crate) const fn new(store: &'a Store, connector: &'a Connector, gates: &'a Gates) -> Self {
        Self { store, connector, gates, patience: PATIENCE }
    }

    /// The same, with so much time between two chunks instead of a minute.
    #[must_use]
    pub const fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Begins to export a tenant as it is at this moment, whatever is written meanwhile.
    ///
    /// It goes as fast as the [`Export`] is read, on a task of its own that ends with it. Of who
    /// reads nothing for a minute the export is given up.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no tenant of this id; [`Error::Conflict`] if it is being
    /// deleted; [`Error::Unavailable`] if too many are exported already.
    pub async fn export(self, tenant: TenantId, now: Timestamp) -> Result<Export> {
        let permit = enter(&self.gates.exports, "too many exports at once")?;
        let order = export::Order { tenant, now, patience: self.patience, connector: self.connector.clone() };
        Export::begin(order, permit, self.store).await
    }

    /// Imports what was exported, under the id it had or another, with one new key. All of it or
    /// nothing, and nothing of it is seen before the end. If this future is dropped, nothing.
    ///
    /// `source` may bring it in pieces of any size. Of one that brings nothing for a minute the
    /// import is given up.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], which names the line, if what comes is not a whole export to the letter;
    /// [`Error::Conflict`] if there is a tenant of this id, also one that is being deleted;
    /// [`Error::Unavailable`] if too many are imported already, or the store is closed meanwhile.
    pub async fn import(
        self,
        source: impl Stream<Item = io::Result<Bytes>> + Unpin,
        into: Option<TenantId>,
        key: &TenantKey,
        now: Timestamp,
    ) -> Result<Imported> {
        let _permit = enter(&self.gates.imports, "too many imports at once")?;
        let order = import::Order { into, key, now, patience: self.patience, connector: self.connector };
        let imported = self.store.until_closed(Box::pin(import::run(order, source))).await;
        imported.unwrap_or_else(|| Err(Error::unavailable("the store is being closed")))
    }
}
