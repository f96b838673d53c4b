//! What one connection was sent of each room, so that nothing is sent twice and nothing is left
//! out.

use std::collections::HashMap;

use chatapi_domain::RoomId;

use crate::event::Outgoing;

/// What one connection was sent, room by room. A room nothing was sent of takes no memory.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    rooms: HashMap<RoomId, Cursor>,
}

/// What one connection was sent of one room.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Cursor {
    /// Messages sent; the changes sent.
    pub(crate) messages: Stretch,
    pub(crate) changes: Stretch,
    /// Whether the room is being synced: then its live events are left out, and read again.
    pub(crate) held: bool,
    /// The highest that was left out.
    pub(crate) left_out_seq: i64,
    pub(crate) left_out_change: i64,
}

/// Numbers from `first` to `last`; nothing yet if `first` is 0.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) first: i64,
    pub(crate) last: i64,
}

impl Stretch {
    /// Takes the next number; false if it was taken before.
    fn take(&mut self, number: i64) -> bool {
        if self.first != 0 && number <= self.last {
            return false;
        }
        // A room that was left and entered again begins anew.
        if self.first == 0 {
            self.first = number;
        }
        self.last = number;
        true
    }

    pub(crate) fn contains(self, number: i64) -> bool {
        self.first != 0 && (self.first..=self.last).contains(&number)
    }

    /// Notes that everything from behind `after` up to `last` was sent.
    pub(crate) fn join(&mut self, after: i64, last: i64) {
        self.first = if self.first == 0 { after + 1 } else { self.first.min(after + 1) };
        self.last = self.last.max(last);
    }
}

impl Cursors {
    /// Whether this is to be sent now.
    pub(crate) fn pass(&mut self, outgoing: &Outgoing) -> bool {
        match outgoing {
            Outgoing::Message { room_id, seq, .. } => {
                let cursor = self.rooms.entry(*room_id).or_default();
                if cursor.held {
                    cursor.left_out_seq = cursor.left_out_seq.max(*seq);
                    return false;
                }
                cursor.messages.take(*seq)
            }
            Outgoing::Change { room_id, change, .. } => {
                let cursor = self.rooms.entry(*room_id).or_default();
                if cursor.held {
                    cursor.left_out_change = cursor.left_out_change.max(*change);
                    return false;
                }
                cursor.changes.take(*change)
            }
            Outgoing::Other(_) => true,
            Outgoing::CatchUp { .. } | Outgoing::Recheck { .. } => false,
        }
    }

    /// Leaves the room's live events out from now on.
    pub(crate) fn hold(&mut self, room: RoomId) {
        self.rooms.entry(room).or_default().held = true;
    }

    pub(crate) fn forget(&mut self, room: RoomId) {
        self.rooms.remove(&room);
    }

    pub(crate) fn of(&mut self, room: RoomId) -> &mut Cursor {
        self.rooms.entry(room).or_default()
    }
}
