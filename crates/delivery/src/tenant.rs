//! What a node remembers of a tenant between its deliveries.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chatapi_storage::Floor;
use futures_util::FutureExt;
use tokio::sync::{Mutex as AsyncMutex, Notify};

/// How long a tenant is remembered for whom nothing is done.
const REMEMBER: Duration = Duration::from_mins(10);

/// Calls to one endpoint at once: at most, to one that is slow, and before it is known how that comes out.
const WIDTH: usize = 16;
const WIDTH_SLOW: usize = 4;
const WIDTH_AT_FIRST: usize = 4;

/// How a call came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Called {
    Well,
    Slowly,
    Badly,
}

/// What is known of a tenant for whom something was done lately.
#[derive(Debug)]
pub(crate) struct OfTenant {
    /// Says that there is more.
    woken: Notify,
    /// Calls that may be made at once.
    width: AtomicUsize,
    /// Whether the last call came out well.
    is_well: AtomicBool,
    pub(crate) floor: AsyncMutex<Floor>,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    AtWork,
    IdleSince(Instant),
}

impl Default for OfTenant {
    /// One of whom nothing is known.
    fn default() -> Self {
        Self {
            woken: Notify::new(),
            width: AtomicUsize::new(WIDTH_AT_FIRST),
            is_well: AtomicBool::new(true),
            floor: AsyncMutex::default(),
            state: Mutex::new(State::IdleSince(Instant::now())),
        }
    }
}

impl OfTenant {
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Whether it was woken and nobody has waited for that.
    pub(crate) fn is_woken(&self) -> bool {
        self.woken.notified().now_or_never().is_some()
    }

    /// Calls that may be made at once.
    pub(crate) fn width(&self) -> usize {
        self.width.load(Relaxed)
    }

    /// Whether it is neither slow nor failing, as far as is known.
    pub(crate) fn is_well(&self) -> bool {
        self.is_well.load(Relaxed)
    }

    /// A call has come out. The better it did, the more may be made at once; of those that come out badly
    /// only one.
    pub(crate) fn called(&self, called: Called) {
        let width = match called {
            Called::Well => (self.width() + 1).min(WIDTH),
            Called::Slowly => (self.width() + 1).min(WIDTH_SLOW),
            Called::Badly => 1,
        };
        self.width.store(width, Relaxed);
        self.is_well.store(called == Called::Well, Relaxed);
    }

    /// Begins to work; if somebody is at it, tells him that there is more.
    pub(crate) fn begin_work(&self) -> bool {
        let mut state = self.state();
        if matches!(*state, State::AtWork) {
            self.woken.notify_one();
            return false;
        }
        *state = State::AtWork;
        true
    }

    pub(crate) fn end_work(&self) {
        *self.state() = State::IdleSince(Instant::now());
    }

    pub(crate) fn is_at_work(&self) -> bool {
        matches!(*self.state(), State::AtWork)
    }

    /// Whether it is at work, or was lately.
    pub(crate) fn is_to_be_remembered(&self) -> bool {
        match *self.state() {
            State::AtWork => true,
            State::IdleSince(since) => since.elapsed() < REMEMBER,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
