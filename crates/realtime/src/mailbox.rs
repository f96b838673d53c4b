//! Where one session's events wait, and which rooms it is in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chatapi_domain::{ConnectionId, RoomId, TenantId, UserId};
use tokio::sync::{Notify, mpsc};

use crate::event::Outgoing;
use crate::tail::Tail;

/// Events that wait for a session. A full queue ends it: it has fallen too far behind.
pub(crate) const QUEUE: usize = if cfg!(test) { 12 } else { 1024 };

/// Why the hub ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Its queue is full.
    TooSlow,
}

#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) connection_id: ConnectionId,
    pub(crate) tenant_id: TenantId,
    pub(crate) user_id: UserId,
    queue: mpsc::Sender<Arc<Outgoing>>,
    too_slow: AtomicBool,
    /// How many were too slow, of all.
    all_too_slow: Arc<AtomicU64>,
    stopped: Notify,
    rooms: Mutex<Entered>,
}

/// The rooms a session is in.
#[derive(Debug, Default)]
pub(crate) struct Entered {
    pub(crate) rooms: HashMap<RoomId, Place>,
    /// Rooms the user was taken out of while the session was still being registered.
    pub(crate) removed: Option<Vec<RoomId>>,
    /// The session has ended: it enters no room any more.
    pub(crate) closed: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) tail: Arc<Tail>,
    /// Whether the user is a member; else the session has subscribed to a channel.
    pub(crate) member: bool,
}

impl Mailbox {
    pub(crate) fn new(
        connection_id: ConnectionId,
        tenant_id: TenantId,
        user_id: UserId,
        all_too_slow: Arc<AtomicU64>,
    ) -> (Arc<Self>, mpsc::Receiver<Arc<Outgoing>>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let rooms = Mutex::new(Entered { removed: Some(Vec::new()), ..Entered::default() });
        let (too_slow, stopped) = (AtomicBool::new(false), Notify::new());
        (Arc::new(Self { connection_id, tenant_id, user_id, queue, too_slow, all_too_slow, stopped, rooms }), receiver)
    }

    /// Puts an event into the queue; false if it did not go there.
    pub(crate) fn offer(&self, outgoing: &Arc<Outgoing>) -> bool {
        if self.too_slow.load(Relaxed) {
            return false;
        }
        match self.queue.try_send(outgoing.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                if !self.too_slow.swap(true, Relaxed) {
                    self.all_too_slow.fetch_add(1, Relaxed);
                }
                self.stopped.notify_one();
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    pub(crate) fn is_too_slow(&self) -> bool {
        self.too_slow.load(Relaxed)
    }

    pub(crate) async fn stopped(&self) -> Stop {
        while !self.is_too_slow() {
            self.stopped.notified().await;
        }
        Stop::TooSlow
    }

    pub(crate) fn entered(&self) -> MutexGuard<'_, Entered> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
