//! A tenant's monthly quota of messages, as one node sees it: a count read from the table, and the
//! messages of this node since, so that a message costs no query.
//!
//! Alone on its database a node is exact. Where several serve, each learns within [`REFRESH`] what
//! the others sent: so much more can be sent than the quota says.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chatapi_domain::{MessageId, Timestamp};

use crate::db::Db;
use crate::meter::Meter;
use crate::usage::{Granularity, sent};
use crate::{Error, Result};

/// How often the count is read again where several nodes serve, and where one does: for messages
/// whose connection broke, which may be there or not.
const REFRESH: Duration = Duration::from_secs(5);
const REFRESH_ALONE: Duration = Duration::from_mins(1);

/// No more than this part of the time is spent reading.
const REST: u32 = 20;

#[derive(Debug, Default)]
pub(crate) struct Quota {
    state: Mutex<State>,
    /// Held while the count is read; who sends meanwhile waits, or it would be counted twice.
    reading: tokio::sync::RwLock<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The month that is counted, by its first moment.
    month: Option<Timestamp>,
    /// Messages of its hours before `settled_until`, to which none comes any more.
    settled: i64,
    settled_until: Option<Timestamp>,
    /// Messages in the table when it was last read, and those of this node since, or on their way.
    read: i64,
    own: i64,
    in_flight: HashSet<MessageId>,
    next_read: Option<Instant>,
    /// It was the only node when the count was last read.
    alone: bool,
}

/// The right to send one message. Dropped, it is given back, unless the message was [stored](Reserved::stored).
#[derive(Debug)]
pub(crate) struct Reserved {
    meter: Arc<Meter>,
    id: MessageId,
    stored: bool,
}

impl Reserved {
    pub(crate) fn stored(mut self) {
        self.stored = true;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut state = self.meter.quota.lock();
        if state.in_flight.remove(&self.id) && !self.stored {
            state.own -= 1;
        }
    }
}

impl Quota {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_due(&self, month: Timestamp, nodes: usize) -> bool {
        let state = self.lock();
        state.month.is_none_or(|known| known < month)
            || state.next_read.is_none_or(|at| at <= Instant::now())
            || (state.alone && nodes > 1)
    }

    /// The count cannot be read at the moment: what is known of the month holds a while longer.
    fn go_on_without(&self, month: Timestamp, error: Error) -> Result<()> {
        let mut state = self.lock();
        if state.month != Some(month) {
            return Err(error);
        }
        tracing::debug!(%error, "A quota will be counted again later");
        state.next_read = Some(Instant::now() + REFRESH);
        state.alone = false;
        Ok(())
    }

    async fn read(&self, db: &Db, meter: &Meter, nodes: usize, now: Timestamp) -> Result<()> {
        let (begins, ends) = now.month();
        let _alone = self.reading.write().await;
        if !self.is_due(begins, nodes) {
            return Ok(());
        }
        let start = Instant::now();
        let (mut settled, mut settled_until, in_flight, before) = {
            let state = self.lock();
            let known = state.settled_until.filter(|_| state.month == Some(begins));
            let ids: Vec<MessageId> = state.in_flight.iter().copied().collect();
            let (settled, until) = known.map_or((0, begins), |until| (state.settled, until));
            (settled, until, ids, state.own)
        };
        // An hour ago is over, but for messages sent again under the id of a request that broke off.
        let over = Granularity::Hour.floor(now).plus_seconds(-Granularity::Hour.seconds());
        if over > settled_until {
            settled += sent(db, meter.tenant_id, settled_until, over, &[]).await?;
            settled_until = over;
        }
        let rest = sent(db, meter.tenant_id, settled_until, ends, &in_flight).await?;
        let pause = if nodes > 1 { REFRESH } else { REFRESH_ALONE };
        let mut state = self.lock();
        state.month = Some(begins);
        (state.settled, state.settled_until) = (settled, Some(settled_until));
        // Of those that were on their way some have been stored since: they were not read, and count on.
        // Others were given back meanwhile, which has changed `own` already.
        state.read = settled + rest;
        state.own += i64::try_from(in_flight.len()).unwrap_or(i64::MAX) - before;
        state.alone = nodes == 1;
        state.next_read = Some(Instant::now() + pause.max(start.elapsed() * REST));
        Ok(())
    }
}

/// The right to send the message of this id, if the quota allows one more.
///
/// # Errors
///
/// [`Error::QuotaExceeded`]; [`Error::Unavailable`] if the count cannot be read.
pub(crate) async fn reserve(db: &Db, meter: &Arc<Meter>, nodes: usize, quota: u64, id: MessageId) -> Result<Reserved> {
    let now = id.made_at();
    let (begins, ends) = now.month();
    if meter.quota.is_due(begins, nodes)
        && let Err(error) = meter.quota.read(db, meter, nodes, now).await
    {
        meter.quota.go_on_without(begins, error)?;
    }
    let _counted = meter.quota.reading.read().await;
    let mut state = meter.quota.lock();
    if i128::from(state.read) + i128::from(state.own) >= i128::from(quota) {
        let micros = ends.as_micros() - now.as_micros();
        return Err(Error::QuotaExceeded { retry_seconds: u64::try_from(micros).unwrap_or(0).div_ceil(1_000_000) });
    }
    if state.in_flight.insert(id) {
        state.own += 1;
    }
    Ok(Reserved { meter: meter.clone(), id, stored: false })
}
