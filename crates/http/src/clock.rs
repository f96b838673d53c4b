//! The clocks: here time enters.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use chatapi_auth::Moment;
use chatapi_domain::Timestamp;

/// The present, by the clocks that all requests are timed with.
#[must_use]
pub fn now() -> Moment {
    #[expect(clippy::disallowed_methods, reason = "the edge")]
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    Moment {
        wall: Timestamp::from_micros(i64::try_from(wall).unwrap_or(i64::MAX)),
        monotonic: monotonic(Instant::now()),
    }
}

/// An instant as [`Moment::monotonic`] has it.
pub(crate) fn monotonic(instant: Instant) -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    // One second more than the process has run: an age of zero is never the beginning of time.
    let since_start = instant.saturating_duration_since(*START.get_or_init(Instant::now)).as_nanos() + 1_000_000_000;
    u64::try_from(since_start).unwrap_or(u64::MAX)
}
