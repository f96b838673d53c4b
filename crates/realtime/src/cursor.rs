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
#[derive(Debug, Default, Clone)]
pub(crate) struct Cursor {
    /// Messages sent while the user was in the room before; then it was left and entered again.
    past: Vec<Stretch>,
    /// Messages sent since; the changes sent since.
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

/// Times a room was left and entered again that are remembered; before, messages may come twice.
const MAX_PAST: usize = 64;

impl Cursor {
    /// Whether a message was sent before.
    pub(crate) fn was_sent(&self, seq: i64) -> bool {
        self.messages.contains(seq) || self.past.iter().any(|past| past.contains(seq))
    }

    /// The room was entered again: there may be a hole behind what was sent.
    fn begin_anew(&mut self) {
        let past = std::mem::take(&mut self.messages);
        self.changes = Stretch::default();
        if past.first != 0 && past.last >= past.first {
            if self.past.len() >= MAX_PAST {
                self.past.remove(0);
            }
            self.past.push(past);
        }
    }

    fn take(&mut self, seq: i64) -> bool {
        let new = !self.was_sent(seq);
        self.messages.take(seq) && new
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
                cursor.take(*seq)
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
            Outgoing::Entered(room_id) => {
                if let Some(cursor) = self.rooms.get_mut(room_id) {
                    cursor.begin_anew();
                }
                false
            }
            Outgoing::CatchUp { room_id, .. } => {
                // From here on, not only once it is its turn: what follows in the queue comes after it.
                self.hold(*room_id);
                false
            }
            Outgoing::Recheck { .. } => false,
        }
    }

    /// Leaves the room's live events out from now on.
    pub(crate) fn hold(&mut self, room: RoomId) {
        self.rooms.entry(room).or_default().held = true;
    }

    /// Lets the room's live events through again: there are none, or none were left out.
    pub(crate) fn release(&mut self, room: RoomId) {
        if let Some(cursor) = self.rooms.get_mut(&room) {
            cursor.held = false;
        }
    }

    pub(crate) fn of(&mut self, room: RoomId) -> &mut Cursor {
        self.rooms.entry(room).or_default()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_follows_a_catch_up_in_the_queue_waits_for_it() {
        let (mut cursors, room_id) = (Cursors::default(), RoomId::from_uuid(Uuid::nil()));
        cursors.pass(&Outgoing::CatchUp { room_id, after_seq: 3, after_change: 0 });

        assert!(!cursors.pass(&Outgoing::Message { room_id, seq: 7, text: Bytes::new() }));

        assert_eq!(cursors.of(room_id).left_out_seq, 7, "it is read again");
    }

    #[test]
    fn a_room_that_is_entered_again_begins_anew_and_what_was_sent_before_is_not_sent_again() {
        let (mut cursors, room_id) = (Cursors::default(), RoomId::from_uuid(Uuid::nil()));
        let message = |seq| Outgoing::Message { room_id, seq, text: Bytes::new() };
        let sent: Vec<bool> = [1, 2, 2].into_iter().map(|seq| cursors.pass(&message(seq))).collect();
        assert_eq!(sent, [true, true, false]);

        cursors.pass(&Outgoing::Entered(room_id));
        assert!(cursors.pass(&message(5)));

        let cursor = cursors.of(room_id);
        assert_eq!((cursor.messages.first, cursor.messages.last), (5, 5), "from 3 to 4 there is a hole");
        assert_eq!([1, 2, 3, 4, 5].map(|seq| cursor.was_sent(seq)), [true, true, false, false, true]);
    }
}
