//! `sync`: what a client missed, read from the table while the live events of its rooms are held.
//!
//! Pure: a [`Sync`] says what it wants to know next ([`Fetch`]), is given the [`Answer`], and says
//! what to send. The session was registered with its rooms before; so what is not yet in the
//! table when it is read comes live, and what comes live meanwhile is left out and read.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use chatapi_domain::{Change, Message, Place, RoomId};

use crate::cursor::{Cursor, Cursors};
use crate::event;

/// Messages, or changes, read at once. (In this crate's own tests the numbers are small, so that
/// each bound is met often.)
const PAGE: u32 = if cfg!(test) { 3 } else { 200 };

/// Messages and changes that one sync sends of one room, and of all. What remains is said to remain.
const MAX_OF_ROOM: usize = if cfg!(test) { 7 } else { 1000 };
const MAX_OF_ALL: usize = if cfg!(test) { 7 } else { 5000 };

/// From where a room is to be synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// From behind this message.
    pub after_seq: i64,
    /// From behind this change; absent, changes are not sent.
    pub after_change: Option<i64>,
}

/// Which rooms are to be synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// These; a name that is no room's is one the user may not see.
    Named(Vec<(String, Option<RoomId>, Since)>),
    /// All rooms of the user, from where messages have reached the user.
    All,
}

/// What a sync wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetch {
    /// How far the user's rooms are.
    AllPlaces,
    /// How far these rooms are.
    Places(Vec<RoomId>),
    /// Messages of a room between two others, oldest first.
    Messages {
        /// The room.
        room_id: RoomId,
        /// Behind this one.
        after: i64,
        /// Before this one, if given.
        before: Option<i64>,
        /// At most so many.
        limit: u32,
    },
    /// Changes of a room.
    Changes {
        /// The room.
        room_id: RoomId,
        /// Behind this one.
        after: i64,
        /// At most so many.
        limit: u32,
    },
}

/// The answer to a [`Fetch`].
#[derive(Debug, Clone)]
pub enum Answer {
    /// How far the rooms are; those the user may not see are missing.
    Places(Vec<Place>),
    /// A page of messages, and whether there are more.
    Messages(Vec<Message>, bool),
    /// A page of changes, and whether there are more.
    Changes(Vec<Change>, bool),
}

/// What follows from an answer.
#[derive(Debug)]
pub struct Step {
    /// To be sent now, in this order.
    pub events: Vec<Bytes>,
    /// What is wanted next; nothing once the sync is done.
    pub next: Option<Fetch>,
}

/// How far one room is synced.
#[derive(Debug, Clone, Copy)]
struct Progress {
    room_id: RoomId,
    /// What the room was known to have when the sync began.
    last_seq: i64,
    last_change: i64,
    /// The client has everything up to here.
    start_seq: i64,
    at_seq: i64,
    start_change: i64,
    at_change: i64,
    /// There is nothing more in the table behind it.
    seqs_done: bool,
    changes_done: bool,
    /// What was left out of the live events when the last page was asked for.
    asked_seq: i64,
    asked_change: i64,
    sent: usize,
}

/// One sync under way.
#[derive(Debug)]
pub struct Sync {
    since: BTreeMap<RoomId, Since>,
    /// Rooms of the user that were held when all were asked for.
    all: Option<Vec<RoomId>>,
    rooms: VecDeque<Progress>,
    results: BTreeMap<String, Option<Reached>>,
    sent: usize,
}

/// Where a sync has brought the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Reached {
    pub(crate) last_seq: i64,
    pub(crate) last_change: i64,
    pub(crate) has_more: bool,
}

impl Sync {
    /// Begins a sync; `entered` are the rooms the user is a member of, as far as the session knows.
    pub(crate) fn begin(wanted: Wanted, entered: Vec<RoomId>, cursors: &mut Cursors) -> (Self, Option<Fetch>) {
        let (mut since, mut results, mut all) = (BTreeMap::new(), BTreeMap::new(), None);
        let fetch = match wanted {
            Wanted::Named(rooms) => {
                for (name, room, from) in rooms {
                    results.insert(name, None);
                    if let Some(room) = room {
                        cursors.hold(room);
                        since.insert(room, from);
                    }
                }
                (!since.is_empty()).then(|| Fetch::Places(since.keys().copied().collect()))
            }
            Wanted::All => {
                for room in &entered {
                    cursors.hold(*room);
                }
                all = Some(entered);
                Some(Fetch::AllPlaces)
            }
        };
        (Self { since, all, rooms: VecDeque::new(), results, sent: 0 }, fetch)
    }

    /// Takes an answer in.
    pub(crate) fn answered(&mut self, answer: Answer, cursors: &mut Cursors) -> Step {
        let mut events = Vec::new();
        match answer {
            Answer::Places(places) => self.placed(&places, cursors),
            Answer::Messages(messages, more) => self.read_messages(&messages, more, cursors, &mut events),
            Answer::Changes(changes, more) => self.read_changes(&changes, more, cursors, &mut events),
        }
        Step { events, next: self.next(cursors) }
    }

    /// The event that ends it.
    pub(crate) fn done(&self, request_id: Option<&str>) -> Bytes {
        #[derive(serde::Serialize)]
        struct Done<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            request_id: Option<&'a str>,
            rooms: BTreeMap<&'a str, RoomDone>,
        }
        #[derive(serde::Serialize)]
        #[serde(untagged)]
        enum RoomDone {
            Reached(Reached),
            Hidden { error: &'static str },
        }
        let of = |reached: &Option<Reached>| reached.map_or(RoomDone::Hidden { error: "not_found" }, RoomDone::Reached);
        let rooms = self.results.iter().map(|(room, reached)| (room.as_str(), of(reached))).collect();
        event::encode("sync.done", &Done { request_id, rooms })
    }

    fn placed(&mut self, places: &[Place], cursors: &mut Cursors) {
        let held = self.all.take();
        for place in places {
            let since = match &held {
                // A room entered since then is live from where the user came to it.
                Some(held) if !held.contains(&place.room_id) => continue,
                Some(_) => Since { after_seq: place.delivered_seq, after_change: None },
                None => match self.since.get(&place.room_id) {
                    Some(since) => *since,
                    None => continue,
                },
            };
            self.rooms.push_back(Progress::new(place, since, cursors.of(place.room_id)));
        }
        let found = |room: &RoomId| places.iter().any(|place| place.room_id == *room);
        let asked = held.unwrap_or_default().into_iter().chain(self.since.keys().copied());
        asked.filter(|room| !found(room)).for_each(|room| cursors.release(room));
    }

    fn read_messages(&mut self, messages: &[Message], more: bool, cursors: &mut Cursors, events: &mut Vec<Bytes>) {
        let Some(room) = self.rooms.front_mut() else { return };
        let cursor = cursors.of(room.room_id);
        let gap_end = room.before(cursor);
        for message in messages {
            if !cursor.was_sent(message.seq) {
                events.push(event::message(message));
                room.sent += 1;
                self.sent += 1;
            }
            room.at_seq = message.seq;
        }
        match gap_end {
            // Behind the gap stands what was sent live.
            Some(first) if !more || room.at_seq >= first - 1 => room.at_seq = cursor.messages.last,
            Some(_) => {}
            None => {
                room.seqs_done = !more;
                if !more {
                    // What was told of and is not in the table has gone since: too old, say.
                    room.at_seq = room.at_seq.max(room.asked_seq);
                }
            }
        }
    }

    fn read_changes(&mut self, changes: &[Change], more: bool, cursors: &mut Cursors, events: &mut Vec<Bytes>) {
        let Some(room) = self.rooms.front_mut() else { return };
        let cursor = cursors.of(room.room_id);
        for change in changes {
            if change.message.seq > room.at_seq {
                // Its message comes live, and this after it; or both were left out, and are read.
                room.changes_done = true;
                return;
            }
            if !cursor.changes.contains(change.change) {
                events.push(event::change(change));
                room.sent += 1;
                self.sent += 1;
            }
            room.at_change = room.at_change.max(change.change);
        }
        room.changes_done = !more;
        if !more {
            room.at_change = room.at_change.max(room.asked_change);
        }
    }

    /// What is wanted next: of the first room that is not done.
    fn next(&mut self, cursors: &mut Cursors) -> Option<Fetch> {
        while let Some(room) = self.rooms.front_mut() {
            let cursor = cursors.of(room.room_id);
            let full = room.sent >= MAX_OF_ROOM || self.sent >= MAX_OF_ALL;
            let fetch = if full { None } else { room.next(cursor) };
            if fetch.is_some() {
                return fetch;
            }
            let has_more = full && room.next(cursor).is_some();
            cursor.messages.join(room.start_seq, room.at_seq);
            cursor.changes.join(room.start_change, room.at_change);
            cursor.held = has_more;
            let reached = Reached { last_seq: room.at_seq, last_change: room.at_change, has_more };
            self.results.insert(room.room_id.to_string(), Some(reached));
            self.rooms.pop_front();
        }
        None
    }
}

impl Progress {
    fn new(place: &Place, since: Since, cursor: &Cursor) -> Self {
        let start_seq = since.after_seq.min(place.last_seq);
        // Without a change to begin at, only what changes from now on is sent.
        let start_change = since.after_change.unwrap_or(place.last_change).min(place.last_change);
        let sent = cursor.messages;
        // Behind what was sent live already, unless there is a gap before that.
        let at_seq = if sent.first != 0 && start_seq + 1 >= sent.first { start_seq.max(sent.last) } else { start_seq };
        Self {
            room_id: place.room_id,
            last_seq: place.last_seq,
            last_change: place.last_change,
            start_seq,
            at_seq,
            start_change,
            at_change: start_change,
            seqs_done: false,
            changes_done: false,
            asked_seq: 0,
            asked_change: 0,
            sent: 0,
        }
    }

    /// The first message that was sent live, if what is to be read stands before it.
    fn before(&self, cursor: &Cursor) -> Option<i64> {
        (cursor.messages.first != 0 && self.at_seq + 1 < cursor.messages.first).then_some(cursor.messages.first)
    }

    fn next(&mut self, cursor: &Cursor) -> Option<Fetch> {
        let room_id = self.room_id;
        (self.asked_seq, self.asked_change) = (cursor.left_out_seq, cursor.left_out_change);
        let before = self.before(cursor);
        let known = self.last_seq.max(cursor.left_out_seq);
        if before.is_some() || (self.at_seq < known && !(self.seqs_done && self.at_seq >= cursor.left_out_seq)) {
            return Some(Fetch::Messages { room_id, after: self.at_seq, before, limit: PAGE });
        }
        let known = self.last_change.max(cursor.left_out_change);
        if self.at_change < known && !(self.changes_done && self.at_change >= cursor.left_out_change) {
            return Some(Fetch::Changes { room_id, after: self.at_change, limit: PAGE });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use chatapi_domain::{RoomType, Timestamp};
    use uuid::Uuid;

    use super::*;
    use crate::event::Outgoing;

    #[test]
    fn a_sync_does_not_wait_for_what_was_left_out_and_has_gone_since() {
        let (mut cursors, room_id) = (Cursors::default(), RoomId::from_uuid(Uuid::nil()));
        let since = Since { after_seq: 9, after_change: Some(4) };
        let (mut sync, fetch) =
            Sync::begin(Wanted::Named(vec![("r".into(), Some(room_id), since)]), vec![], &mut cursors);
        assert_eq!(fetch, Some(Fetch::Places(vec![room_id])));
        // Told of while the room was held; the message was too old and went before it could be read.
        cursors.pass(&Outgoing::Change { room_id, change: 5, text: Bytes::new() });
        cursors.pass(&Outgoing::Message { room_id, seq: 10, text: Bytes::new() });
        let place = Place {
            room_id,
            room_type: RoomType::Group,
            last_seq: 9,
            last_change: 4,
            updated_at: Timestamp::from_micros(0),
            role: None,
            delivered_seq: 0,
        };

        let read = sync.answered(Answer::Places(vec![place]), &mut cursors).next;
        assert!(matches!(read, Some(Fetch::Messages { after: 9, .. })), "{read:?}");
        let read = sync.answered(Answer::Messages(Vec::new(), false), &mut cursors).next;
        assert!(matches!(read, Some(Fetch::Changes { after: 4, .. })), "{read:?}");
        let end = sync.answered(Answer::Changes(Vec::new(), false), &mut cursors).next;

        assert_eq!(end, None, "else it would ask for ever");
        let reached = Reached { last_seq: 10, last_change: 5, has_more: false };
        assert_eq!(sync.results[&room_id.to_string()], Some(reached));
        assert!(cursors.pass(&Outgoing::Message { room_id, seq: 11, text: Bytes::new() }), "live again");
    }
}
