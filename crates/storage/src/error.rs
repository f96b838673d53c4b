//! Why a call to the store failed.

use std::error::Error as StdError;

use chatapi_domain::access::Refusal;
use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

type Source = Box<dyn StdError + Send + Sync>;

/// Why a call to the store failed. Nothing was half done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there, or it is another tenant's, or the actor may not know of it.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// It is there, but not for this actor to do.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The present state forbids it.
    #[error("{0}")]
    Conflict(&'static str),
    /// A value does not fit what is stored.
    #[error(transparent)]
    Invalid(#[from] chatapi_domain::Invalid),
    /// The tenant has sent as many messages as it may in this month.
    #[error("the monthly message quota is used up")]
    QuotaExceeded {
        /// Whole seconds until the next month begins.
        retry_seconds: u64,
    },
    /// No connection within the wait, a broken connection, a full queue, a time-out: the caller
    /// may try again. A write may have been done all the same if its connection broke.
    #[error("the database is unavailable")]
    Unavailable(#[source] Source),
    /// A row holds what the schema should have prevented.
    #[error("column {column} holds an invalid value")]
    Corrupt {
        /// The column.
        column: &'static str,
        /// What is wrong with it.
        #[source]
        source: Source,
    },
    /// The database refused a statement: a mistake of ours.
    #[error("the database refused a statement")]
    Database(#[source] Source),
}

impl Error {
    /// The tenant will soon be gone.
    pub const BEING_DELETED: Self = Self::Conflict("The tenant is being deleted");

    /// Something on the way is full or gone.
    pub(crate) fn unavailable(why: &'static str) -> Self {
        Self::Unavailable(why.into())
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound(what) => Self::NotFound(what),
            Refusal::Forbidden(why) => Self::Forbidden(why),
            Refusal::Conflict(why) => Self::Conflict(why),
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        // Without a code the statement never got an answer: the connection broke or timed out.
        let passing = match error.code() {
            None => error.is_closed() || is_io(&error),
            Some(code) => is_passing(code),
        };
        if passing { Self::Unavailable(error.into()) } else { Self::Database(error.into()) }
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<std::io::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether the same statement may work in a moment: connection lost (08), resources (53), operator
/// intervention and time-outs (57), system error (58), rollback (40), locks (55P03), read-only.
fn is_passing(code: &SqlState) -> bool {
    let class = code.code().get(..2).unwrap_or_default();
    matches!(class, "08" | "53" | "57" | "58" | "40")
        || *code == SqlState::LOCK_NOT_AVAILABLE
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::Unavailable(error.into()),
            other => Self::Unavailable(other.into()),
        }
    }
}
