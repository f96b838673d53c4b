//! Who is typing. A start lapses by itself, and then the room is told as of a stop.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chatapi_domain::{Fact, RoomId, TenantId, UserId};
use tokio::time::{Instant, sleep};

/// A start that is not renewed lapses after this time.
const LAPSE: Duration = Duration::from_secs(6);

/// How often lapsed ones are looked for.
const SWEEP: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(crate) struct Typing {
    lapses_at: Mutex<HashMap<(TenantId, RoomId, UserId), Instant>>,
}

impl Typing {
    fn lock(&self) -> MutexGuard<'_, HashMap<(TenantId, RoomId, UserId), Instant>> {
        self.lapses_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a start or stop; `tell` is called if it changes anything.
    pub(crate) fn set(&self, tenant: TenantId, room_id: RoomId, user: &UserId, started: bool, tell: impl FnOnce(Fact)) {
        let key = (tenant, room_id, user.clone());
        let changed = if started {
            self.lock().insert(key, Instant::now() + LAPSE).is_none()
        } else {
            self.lock().remove(&key).is_some()
        };
        if changed {
            tell(Fact::Typing { room_id, user_id: user.clone(), started });
        }
    }

    /// Ends what lapses, for ever.
    pub(crate) async fn keep(&self, tell: impl Fn(TenantId, Fact)) {
        loop {
            sleep(SWEEP).await;
            let now = Instant::now();
            let lapsed: Vec<_> = {
                let mut lapses_at = self.lock();
                lapses_at.extract_if(|_, at| *at <= now).map(|(key, _)| key).collect()
            };
            for (tenant, room_id, user_id) in lapsed {
                tell(tenant, Fact::Typing { room_id, user_id, started: false });
            }
        }
    }
}
