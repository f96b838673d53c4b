//! Dead letters: what an endpoint could not be told. Of one tenant, or for the operator of all.

use chatapi_domain::{EventId, TenantId, Timestamp};

use crate::db::Db;
use crate::deliveries::{Delivery, Failure, delivery, shown};
use crate::row::get;
use crate::{Error, Feed, Result};

/// Dead letters of one tenant, or of all.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetters<'a> {
    pub(crate) db: &'a Db,
    pub(crate) feed: &'a Feed,
    /// Whose; all of them if absent, for the operator alone.
    pub(crate) tenant: Option<TenantId>,
}

/// Something that was given up.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// What was to be told.
    pub delivery: Delivery,
    /// Why the last attempt failed.
    pub failure: Failure,
    /// When it was given up.
    pub failed_at: Timestamp,
}

const LIST_OF_TENANT: &str = concat!(
    shown!("deliveries"),
    " where d.tenant_id = $3 and d.failed_at is not null and ($1::uuid is null or d.event_id < $1)
      order by d.event_id desc limit $2"
);

const LIST: &str = concat!(
    shown!("deliveries"),
    " where d.failed_at is not null and ($1::uuid is null or d.event_id < $1) order by d.event_id desc limit $2"
);

const RETRY: &str = "
    update deliveries set failed_at = null, attempts = 0, due_at = now()
     where tenant_id = $1 and event_id = $2 and failed_at is not null returning tenant_id";

const RETRY_OF_ANY: &str = "
    update deliveries set failed_at = null, attempts = 0, due_at = now()
     where event_id = $1 and failed_at is not null returning tenant_id";

impl DeadLetters<'_> {
    /// Dead letters, the newest event first, at most `limit`, older than `before` if given.
    ///
    /// # Errors
    ///
    /// [`Error`] if the database fails.
    pub async fn list(&self, before: Option<EventId>, limit: i64) -> Result<Vec<DeadLetter>> {
        let rows = match self.tenant {
            Some(tenant) => self.db.query(LIST_OF_TENANT, &[&before, &limit, &tenant]).await?,
            None => self.db.query(LIST, &[&before, &limit]).await?,
        };
        let letter = |row| {
            let status: Option<i16> = get(row, "last_status")?;
            let error: Option<String> = get(row, "last_error")?;
            let failure = Failure {
                status: status.and_then(|status| u16::try_from(status).ok()),
                error: error.unwrap_or_default(),
            };
            Ok(DeadLetter { delivery: delivery(row)?, failure, failed_at: get(row, "failed_at")? })
        };
        rows.iter().map(letter).collect()
    }

    /// Tries one again, from the first attempt on: it leaves the list, and comes back if it fails
    /// again. The tenant whose it is.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is none of this id.
    pub async fn retry(&self, letter: EventId) -> Result<TenantId> {
        let row = match self.tenant {
            Some(tenant) => self.db.query_opt(RETRY, &[&tenant, &letter]).await?,
            None => self.db.query_opt(RETRY_OF_ANY, &[&letter]).await?,
        };
        let tenant = get(&row.ok_or(Error::NotFound("Dead letter"))?, "tenant_id")?;
        self.feed.outbox_filled(tenant);
        Ok(tenant)
    }
}
