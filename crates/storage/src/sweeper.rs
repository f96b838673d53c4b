//! Finishes in the background what was begun, and does what time brings: on one node of several, for
//! the others would only stand in its way. Each kind of work has a task of its own, so that a tenant
//! whose deletion takes hours keeps no room, no retention and no bill waiting.

use std::time::Duration;

use chatapi_domain::{Fact, NodeId};
use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::feed::{Signal, Told};
use crate::{Result, deliveries, erasure, idempotency, nodes, retention, tokens, usage};

/// How often what an earlier run left is looked for.
const PAUSE: Duration = Duration::from_secs(10);

/// How often what has become too old is looked for.
const BY_AGE: Duration = Duration::from_mins(10);

/// How long more may happen before one sweep looks at it all.
const GATHER: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// The messages of rooms that are gone.
    Rooms,
    /// Tenants that are being deleted.
    Tenants,
    /// Messages that are older than their tenant keeps them, hours of the bill, dead letters.
    Age,
    /// Tokens, tickets and first answers that have had their time.
    Leftovers,
}

impl Work {
    pub(crate) const ALL: [Self; 4] = [Self::Rooms, Self::Tenants, Self::Age, Self::Leftovers];

    const fn pause(self) -> Duration {
        match self {
            Self::Rooms | Self::Tenants | Self::Leftovers => PAUSE,
            Self::Age => BY_AGE,
        }
    }

    /// Whether there may be something to do at once.
    fn begins_with(self, signal: &Signal) -> bool {
        match signal {
            Signal::Fact { fact: Fact::RoomDeleted { .. }, .. } => matches!(self, Self::Rooms),
            // It may be going, or keep its messages for a shorter time.
            Signal::Fact { fact: Fact::TenantChanged, .. } => matches!(self, Self::Tenants | Self::Age),
            Signal::Missed => !matches!(self, Self::Leftovers),
            _ => false,
        }
    }

    async fn sweep(self, db: &Db) -> Result<()> {
        match self {
            Self::Rooms => erasure::erase_rooms(db).await,
            Self::Tenants => erasure::erase_tenants(db).await,
            Self::Age => {
                let (swept, closed) = (retention::sweep(db).await, usage::close_hours(db).await);
                deliveries::forget_old(db).await.and(swept).and(closed)
            }
            Self::Leftovers => {
                tokens::forget_old(db).await?;
                idempotency::forget_old(db).await
            }
        }
    }
}

/// Does one kind of work again and again until `stop`.
pub(crate) async fn sweep(work: Work, db: Db, node: NodeId, mut told: Told, stop: CancellationToken) {
    let sweeping = async {
        let mut pause = PAUSE;
        loop {
            if tokio::time::timeout(pause, cause(work, &mut told)).await.is_ok() {
                tokio::time::sleep(GATHER).await;
                // The sweep that begins now sees what these tell of.
                while told.try_next().is_some() {}
            }
            pause = match sweep_if_leading(work, &db, node).await {
                Ok(()) => work.pause(),
                Err(error) => {
                    tracing::debug!(?work, %error, "It will be tried again");
                    PAUSE
                }
            };
        }
    };
    stop.run_until_cancelled(sweeping).await;
}

async fn sweep_if_leading(work: Work, db: &Db, node: NodeId) -> Result<()> {
    if nodes::leads(db, node).await? { work.sweep(db).await } else { Ok(()) }
}

async fn cause(work: Work, told: &mut Told) {
    while let Some(signal) = told.next().await {
        if work.begins_with(&signal) {
            return;
        }
    }
    // The store is going.
    std::future::pending::<()>().await;
}
