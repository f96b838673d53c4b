//! The end of one room, for all sessions here that follow it.
//!
//! A tail knows how far it has sent, and how far the room is at least. What is handed over in
//! order is sent on at once; anything else only says that there is more, and it is read from the
//! table, once however many sessions there are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chatapi_domain::{Change, ConnectionId, Message, RoomId, TenantId, Timestamp};

use crate::event::{self, Outgoing};
use crate::mailbox::Mailbox;

/// Names a room of all tenants.
pub(crate) type RoomKey = (TenantId, RoomId);

#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) key: RoomKey,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    /// The newest message and change that were sent on.
    pub(crate) seq: i64,
    pub(crate) change: i64,
    /// The newest that are known to exist.
    wanted_seq: i64,
    wanted_change: i64,
    /// The newest that were known when what is being read was asked for.
    asked_seq: i64,
    asked_change: i64,
    /// Somebody is reading what is wanted.
    reading: bool,
    /// When the room itself last changed, as far as this node knows.
    pub(crate) updated_at: Timestamp,
    pub(crate) listeners: HashMap<ConnectionId, Arc<Mailbox>>,
    /// No longer in the hub: whoever comes must look for another.
    pub(crate) closed: bool,
}

/// What is missing between what was sent and what is known to exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Messages behind this seq, if there are.
    pub(crate) after_seq: Option<i64>,
    /// Changes behind this number, if there are.
    pub(crate) after_change: Option<i64>,
}

/// Whether somebody must read.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing to do, or somebody is at it.
    Nothing,
    /// Whoever called must begin to read.
    Read,
}

impl Tail {
    pub(crate) fn new(key: RoomKey, seq: i64, change: i64, updated_at: Timestamp) -> Self {
        let state = State {
            seq,
            change,
            wanted_seq: seq,
            wanted_change: change,
            asked_seq: seq,
            asked_change: change,
            reading: false,
            updated_at,
            listeners: HashMap::new(),
            closed: false,
        };
        Self { key, state: Mutex::new(state) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A message was stored.
    pub(crate) fn stored(&mut self, message: &Message) -> Next {
        if message.seq == self.seq + 1 {
            self.send(message);
        }
        self.reached(message.seq, 0)
    }

    /// A message was edited or deleted.
    pub(crate) fn changed(&mut self, change: &Change) -> Next {
        if change.change == self.change + 1 && change.message.seq <= self.seq {
            self.send_change(change);
        }
        self.reached(change.message.seq, change.change)
    }

    /// The room is at least here.
    pub(crate) fn reached(&mut self, seq: i64, change: i64) -> Next {
        self.wanted_seq = self.wanted_seq.max(seq);
        self.wanted_change = self.wanted_change.max(change);
        if self.reading || self.missing().is_none() {
            return Next::Nothing;
        }
        self.reading = true;
        Next::Read
    }

    /// What the reader is to read next; nothing if it is done.
    pub(crate) fn next_read(&mut self) -> Option<Missing> {
        let missing = self.missing().filter(|_| !self.listeners.is_empty() && !self.closed);
        self.reading = missing.is_some();
        (self.asked_seq, self.asked_change) = (self.wanted_seq, self.wanted_change);
        missing
    }

    fn missing(&self) -> Option<Missing> {
        let after_seq = (self.wanted_seq > self.seq).then_some(self.seq);
        // Messages first: a change may be of one that was not sent yet.
        let after_change = (after_seq.is_none() && self.wanted_change > self.change).then_some(self.change);
        (after_seq.is_some() || after_change.is_some()).then_some(Missing { after_seq, after_change })
    }

    /// The messages behind what was sent, as the table has them; `more` if the page was full.
    pub(crate) fn read_messages(&mut self, messages: &[Message], more: bool) {
        for message in messages {
            if message.seq > self.seq {
                self.send(message);
            }
        }
        if more {
            self.wanted_seq = self.wanted_seq.max(self.seq + 1);
        } else if self.wanted_seq == self.asked_seq {
            // What is not in the table is not there: the room is gone, say.
            self.wanted_seq = self.seq;
        }
    }

    /// The changes behind what was sent, as the table has them.
    pub(crate) fn read_changes(&mut self, changes: &[Change], more: bool) {
        for change in changes {
            if change.message.seq > self.seq {
                // Its message comes first.
                self.wanted_seq = self.wanted_seq.max(change.message.seq);
                self.wanted_change = self.wanted_change.max(change.change);
                return;
            }
            if change.change > self.change {
                self.send_change(change);
            }
        }
        if more {
            self.wanted_change = self.wanted_change.max(self.change + 1);
        } else if self.wanted_change == self.asked_change {
            self.wanted_change = self.change;
        }
    }

    fn send(&mut self, message: &Message) {
        self.seq = message.seq;
        let (room_id, seq, text) = (message.room_id, message.seq, event::message(message));
        self.offer(&Arc::new(Outgoing::Message { room_id, seq, text }));
    }

    fn send_change(&mut self, change: &Change) {
        self.change = change.change;
        let (room_id, number, text) = (change.message.room_id, change.change, event::change(change));
        self.offer(&Arc::new(Outgoing::Change { room_id, change: number, text }));
    }

    /// Puts an event into the queue of everybody here.
    pub(crate) fn offer(&self, outgoing: &Arc<Outgoing>) {
        for listener in self.listeners.values() {
            listener.offer(outgoing);
        }
    }
}
