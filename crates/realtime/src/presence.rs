//! Who of those connected here is noted as online, and until when.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chatapi_domain::{Fact, TenantId, UserId};
use chatapi_storage::{Result, Store, TenantUser};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// A user without a connection for this long is offline.
const GRACE: Duration = Duration::from_secs(5);

/// Who comes within this time is noted in one statement.
const GATHER: Duration = Duration::from_millis(50);

/// How often those are looked for who have gone.
const SWEEP: Duration = Duration::from_millis(500);

/// After a failure the next try follows this much later.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Presence {
    users: Mutex<HashMap<TenantUser, State>>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    connections: usize,
    /// The database has the user as online here, as far as is known.
    noted: bool,
    /// It was noted at least once: so it must be noted when the user goes.
    ever_noted: bool,
    /// What the database has of the last connection's end, while the user may come back.
    left: Left,
    /// When the last connection went.
    gone_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Left {
    /// It was not told.
    #[default]
    Untold,
    /// It is being told, or was and did not answer.
    Telling,
    /// It has it.
    Noted,
    /// It was told, and that is of use to nobody.
    OfNoUse,
}

/// What the database is to be told.
#[derive(Debug, Default)]
struct Due {
    came: Vec<TenantUser>,
    left: Vec<TenantUser>,
    went: Vec<TenantUser>,
}

impl Presence {
    fn lock(&self) -> MutexGuard<'_, HashMap<TenantUser, State>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn came(&self, tenant: TenantId, user: &UserId) {
        let mut users = self.lock();
        let state = users.entry((tenant, user.clone())).or_default();
        state.connections += 1;
        state.gone_at = None;
        if matches!(std::mem::take(&mut state.left), Left::Telling | Left::Noted) {
            state.noted = false;
        }
        if !state.noted {
            self.wake.notify_one();
        }
    }

    pub(crate) fn went(&self, tenant: TenantId, user: &UserId) {
        let mut users = self.lock();
        // One whose tenant shows no presence was never noted.
        let Some(state) = users.get_mut(&(tenant, user.clone())) else { return };
        state.connections = state.connections.saturating_sub(1);
        if state.connections == 0 {
            state.gone_at = Some(Instant::now());
            state.left = Left::Untold;
            self.wake.notify_one();
        }
    }

    /// Notes everybody again who is here.
    pub(crate) fn announce_again(&self) {
        self.lock().values_mut().for_each(|state| state.noted = false);
        self.wake.notify_one();
    }

    /// Keeps the database up to date, for ever.
    pub(crate) async fn keep(&self, store: &Store) {
        loop {
            let _ = timeout(SWEEP, self.wake.notified()).await;
            sleep(GATHER).await;
            let due = self.due(Instant::now());
            if let Err(error) = self.note(store, &due).await {
                tracing::debug!(%error, "Presence will be noted later");
                sleep(PAUSE).await;
            }
        }
    }

    fn due(&self, now: Instant) -> Due {
        let mut due = Due::default();
        let mut users = self.lock();
        // Who was gone before it was noted that he came.
        users.retain(|_, state| state.connections > 0 || state.ever_noted);
        for (user, state) in users.iter_mut() {
            if state.connections > 0 && !state.noted {
                due.came.push(user.clone());
            } else if state.connections == 0 && state.gone_at.is_some_and(|at| now >= at + GRACE) {
                due.went.push(user.clone());
            } else if state.connections == 0 && state.ever_noted && matches!(state.left, Left::Untold | Left::Telling) {
                state.left = Left::Telling;
                due.left.push(user.clone());
            }
        }
        due
    }

    async fn note(&self, store: &Store, due: &Due) -> Result<()> {
        // Who goes first: until that is noted he is taken to be there.
        let left = self.note_left(store, &due.left).await;
        let came = self.note_came(store, &due.came).await;
        let went = self.note_went(store, &due.went).await;
        left.and(came).and(went)
    }

    async fn note_left(&self, store: &Store, left: &[TenantUser]) -> Result<()> {
        if left.is_empty() {
            return Ok(());
        }
        let noted = store.node().leave_for_now(left).await?;
        let mut users = self.lock();
        for user in left {
            if let Some(state) = users.get_mut(user).filter(|state| state.left == Left::Telling) {
                state.left = Left::OfNoUse;
            }
        }
        for user in &noted {
            // One who is back in the meantime is to be noted again, and is.
            if let Some(state) = users.get_mut(user).filter(|state| state.left == Left::OfNoUse) {
                state.left = Left::Noted;
            }
        }
        Ok(())
    }

    async fn note_came(&self, store: &Store, came: &[TenantUser]) -> Result<()> {
        if came.is_empty() {
            return Ok(());
        }
        let facts = store.node().arrive(came).await?;
        let mut users = self.lock();
        for user in came {
            if let Some(state) = users.get_mut(user) {
                (state.noted, state.ever_noted) = (true, true);
            }
        }
        drop(users);
        tell(store, facts);
        Ok(())
    }

    async fn note_went(&self, store: &Store, went: &[TenantUser]) -> Result<()> {
        if went.is_empty() {
            return Ok(());
        }
        let facts = store.node().go(went).await?;
        let mut users = self.lock();
        for user in went {
            match users.get_mut(user) {
                Some(state) if state.connections == 0 => _ = users.remove(user),
                // Back in the meantime: to be noted again.
                Some(state) => state.noted = false,
                None => {}
            }
        }
        drop(users);
        tell(store, facts);
        Ok(())
    }
}

fn tell(store: &Store, facts: Vec<(TenantId, Fact)>) {
    for (tenant, fact) in facts {
        store.feed().tell(tenant, fact);
    }
}
