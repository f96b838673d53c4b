//! All rooms of one user: which are known, where their events begin, what is to be asked.

use std::collections::{HashMap, HashSet};
use std::mem;

use crate::track::{Need, Out, Track};
use crate::{Event, ListedRoom, Message, Position, Room};

/// Events held for one room, or for all unknown ones, before the connection is given up. Held is
/// what came in the moment between a connection and its sync, so this is far away.
const MAX_HELD: usize = 10_000;

/// What goes to the user of a [`Live`](crate::Live), in order.
#[derive(Debug)]
pub(crate) enum Item {
    /// Something that happened.
    Event(Event),
    /// A room is now at this position, whatever was handed out.
    Position(String, Position),
    /// A room is no longer followed.
    Forgotten(String),
    /// The stream ends here, for this reason.
    End(crate::Error),
}

/// A part of a history that is to be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) room_id: String,
    pub(crate) after: i64,
    pub(crate) before: i64,
}

/// What the tracker wants done.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// To be handed to the user.
    pub(crate) items: Vec<Item>,
    /// Rooms to ask the server about.
    pub(crate) syncs: Vec<String>,
    /// Histories to read.
    pub(crate) holes: Vec<Hole>,
    /// Rooms to look up: something happened in them, and they are not known.
    pub(crate) lookups: Vec<String>,
    /// The connection does not give what is missing.
    pub(crate) reconnect: bool,
}

/// A numbered event of a room that is not known yet.
#[derive(Debug)]
enum Waiting {
    Message(Box<Message>),
    Change { change: i64, seq: i64, event: Event },
}

impl Waiting {
    /// Messages first, for changes may be about them.
    fn place(&self) -> (bool, i64) {
        match self {
            Self::Message(message) => (false, message.seq),
            Self::Change { change, .. } => (true, *change),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Tracker {
    rooms: HashMap<String, Track>,
    /// Rooms that the user came to on this connection, where nothing has happened since.
    joined: HashSet<String>,
    /// Whether a rooms list is on its way, and one has come before.
    listing: bool,
    listed: bool,
    looked_up: HashSet<String>,
    waiting: HashMap<String, Vec<Waiting>>,
    waiting_count: usize,
    /// The newest time the server has named, and what that was when it was last known that all
    /// rooms are. An unknown room that was made later was made while nobody was listening.
    newest: String,
    horizon: String,
    work: Work,
}

impl Tracker {
    pub(crate) fn new(positions: HashMap<String, Position>) -> Self {
        Self {
            rooms: positions.into_iter().map(|(room_id, at)| (room_id, Track::new(at))).collect(),
            joined: HashSet::new(),
            listing: false,
            listed: false,
            looked_up: HashSet::new(),
            waiting: HashMap::new(),
            waiting_count: 0,
            newest: String::new(),
            horizon: String::new(),
            work: Work::default(),
        }
    }

    /// What has to be done now; told once.
    pub(crate) fn take_work(&mut self) -> Work {
        mem::take(&mut self.work)
    }

    pub(crate) fn is_known(&self, room_id: &str) -> bool {
        self.rooms.contains_key(room_id)
    }

    /// Whether the list of rooms has to be read on after these. Rooms come by activity, so after
    /// a whole page in which nothing happened since the last connection there is nothing new.
    pub(crate) fn reads_on(&self, page: &[ListedRoom]) -> bool {
        let is_quiet = |room: &Room| {
            let last = Position::new(room.last_seq, room.last_change);
            self.rooms.get(&room.room_id).is_some_and(|track| track.is_quiet(last))
        };
        !self.listed || !page.iter().all(|listed| is_quiet(&listed.room))
    }

    /// After what the server is to be asked about a room.
    pub(crate) fn ask_after(&self, room_id: &str) -> Option<Position> {
        self.rooms.get(room_id).map(Track::ask_after)
    }

    /// A connection begins: all known rooms are asked about, and the list of rooms will come.
    pub(crate) fn connected(&mut self) {
        self.work = Work { items: mem::take(&mut self.work.items), ..Work::default() };
        if !self.listing {
            self.horizon.clone_from(&self.newest);
        }
        // The list of rooms says better where those begin.
        for room_id in mem::take(&mut self.joined) {
            if self.rooms.get(&room_id).is_some_and(Track::is_guess) {
                self.forget(&room_id);
            }
        }
        (self.listing, self.waiting_count) = (true, 0);
        self.looked_up.clear();
        self.waiting.clear();
        for (room_id, track) in &mut self.rooms {
            track.reconnected();
            track.ask();
            self.work.syncs.push(room_id.clone());
        }
    }

    /// Takes a message. One that answers its sender comes out of line, so it makes no gap.
    pub(crate) fn message(&mut self, message: Box<Message>, is_answer: bool) {
        note(&mut self.newest, &message.created_at);
        if !self.is_known(&message.room_id) {
            let room_id = message.room_id.clone();
            return self.wait(&room_id, Waiting::Message(message));
        }
        let room_id = message.room_id.clone();
        let is_guess = self.rooms.get(&room_id).is_some_and(Track::is_guess);
        self.with(&room_id, |track, out| {
            if is_answer {
                track.answer(message, out);
                return Need::Nothing;
            }
            track.message(message, out);
            if track.wants_sync() { Need::Sync } else { Need::Nothing }
        });
        if is_guess {
            self.tell_position(&room_id);
        }
    }

    /// Takes an edit or deletion of message `seq`.
    pub(crate) fn change(&mut self, room_id: &str, change: i64, seq: i64, event: Event) {
        if !self.is_known(room_id) {
            return self.wait(room_id, Waiting::Change { change, seq, event });
        }
        self.with(room_id, |track, out| {
            track.change(change, seq, event, out);
            if track.wants_sync() { Need::Sync } else { Need::Nothing }
        });
    }

    /// The answer to a sync has ended for this room.
    pub(crate) fn synced(&mut self, room_id: &str, reached: Position, has_more: bool) {
        self.with(room_id, |track, out| track.synced(reached, has_more, out));
        self.tell_position(room_id);
    }

    /// A hole has been looked up.
    pub(crate) fn filled(&mut self, hole: &Hole, messages: Vec<Message>) {
        self.with(&hole.room_id, |track, out| track.filled(messages, hole.before, out));
        self.tell_position(&hole.room_id);
    }

    /// A sync that did not succeed is to be asked again.
    pub(crate) fn ask_again(&mut self, room_id: &str) {
        if self.is_known(room_id) {
            self.work.syncs.push(room_id.to_owned());
        }
    }

    /// Whether or not something is missing, the server is asked about this room.
    pub(crate) fn ask(&mut self, room_id: &str) {
        self.with(room_id, |track, _| if track.ask() { Need::Sync } else { Need::Nothing });
    }

    /// A room was made, and the user is in it: its events begin at the first. What the server says
    /// of it is later.
    pub(crate) fn created(&mut self, room: &Room) {
        note(&mut self.newest, &room.created_at);
        if !self.is_known(&room.room_id) {
            self.start(room, Track::new(Position::default()));
        }
    }

    /// The user has come to a room: its events begin about here.
    pub(crate) fn joined(&mut self, room: &Room) {
        if !self.is_known(&room.room_id) {
            self.joined.insert(room.room_id.clone());
            self.start(room, Track::new_about(Position::new(room.last_seq, room.last_change)));
        }
    }

    /// The list of rooms has come. Unknown rooms begin where they are, or where the server says
    /// that the user is, if that is wanted or the user joined without the connection; rooms made
    /// meanwhile begin at their beginning.
    pub(crate) fn listed(&mut self, rooms: &[ListedRoom], from_delivered: bool) {
        for ListedRoom { room, own } in rooms {
            note(&mut self.newest, &room.updated_at);
            if self.is_known(&room.room_id) {
                continue;
            }
            let delivered = own.as_ref().map_or(room.last_seq, |own| own.delivered_seq);
            let seq = match (self.listed, from_delivered) {
                (false, false) => room.last_seq,
                (true, _) if room.created_at > self.horizon => 0,
                _ => delivered,
            };
            // The list may have overtaken events that are on their way.
            self.start(room, Track::new_about(Position::new(seq, room.last_change)));
        }
        (self.listing, self.listed) = (false, true);
        let unknown: Vec<_> = self.waiting.keys().cloned().collect();
        for room_id in unknown {
            self.look_up(&room_id);
        }
    }

    /// A room is to be followed though the user is not in it, or nobody said so.
    pub(crate) fn look_up(&mut self, room_id: &str) {
        if !self.is_known(room_id) && self.looked_up.insert(room_id.to_owned()) {
            self.work.lookups.push(room_id.to_owned());
        }
    }

    /// A room that was looked up; nothing if the user may not see it.
    pub(crate) fn found(&mut self, room_id: &str, room: Option<&Room>) {
        self.looked_up.remove(room_id);
        match room {
            Some(room) if self.is_known(room_id) => note(&mut self.newest, &room.updated_at),
            Some(room) => self.start(room, Track::new_about(Position::new(room.last_seq, room.last_change))),
            None => self.waiting_count -= self.waiting.remove(room_id).map_or(0, |events| events.len()),
        }
    }

    /// A room is no longer the user's.
    pub(crate) fn forget(&mut self, room_id: &str) {
        self.waiting_count -= self.waiting.remove(room_id).map_or(0, |events| events.len());
        if self.rooms.remove(room_id).is_some() {
            self.work.items.push(Item::Forgotten(room_id.to_owned()));
        }
    }

    /// Passes on an event that is not numbered.
    pub(crate) fn pass(&mut self, event: Event) {
        self.work.items.push(Item::Event(event));
    }

    /// Begins to follow a room, with the events of it that are here already.
    fn start(&mut self, room: &Room, track: Track) {
        let mut waiting = self.waiting.remove(&room.room_id).unwrap_or_default();
        self.waiting_count -= waiting.len();
        // An answer to a sender may have overtaken others.
        waiting.sort_by_key(Waiting::place);
        self.rooms.insert(room.room_id.clone(), track);
        self.tell_position(&room.room_id);
        for event in waiting {
            match event {
                Waiting::Message(message) => self.message(message, false),
                Waiting::Change { change, seq, event } => self.change(&room.room_id, change, seq, event),
            }
        }
        let is_behind = |at: Position| at.seq < room.last_seq || at.change < room.last_change;
        if self.rooms.get(&room.room_id).is_some_and(|track| is_behind(track.at())) {
            self.ask(&room.room_id);
        }
    }

    /// Holds an event of a room that is not known until it is.
    fn wait(&mut self, room_id: &str, event: Waiting) {
        self.waiting.entry(room_id.to_owned()).or_default().push(event);
        self.waiting_count += 1;
        self.work.reconnect |= self.waiting_count > MAX_HELD;
        if !self.listing {
            self.look_up(room_id);
        }
    }

    /// Lets one room take something, and notes what comes of it.
    fn with(&mut self, room_id: &str, take: impl FnOnce(&mut Track, &mut Out) -> Need) {
        let Some(track) = self.rooms.get_mut(room_id) else { return };
        let mut out = Out::new();
        let need = take(track, &mut out);
        self.work.items.extend(out.into_iter().map(Item::Event));
        self.work.reconnect |= track.held() > MAX_HELD;
        match need {
            Need::Nothing => {}
            Need::Sync => self.work.syncs.push(room_id.to_owned()),
            Need::History { after, before } => {
                self.work.holes.push(Hole { room_id: room_id.to_owned(), after, before });
            }
            Need::Reconnect => self.work.reconnect = true,
        }
    }

    fn tell_position(&mut self, room_id: &str) {
        if let Some(track) = self.rooms.get(room_id) {
            self.work.items.push(Item::Position(room_id.to_owned(), track.at()));
        }
    }
}

/// Keeps the later of two times; as texts, for the server writes all of them alike.
fn note(newest: &mut String, time: &str) {
    if time > newest.as_str() {
        time.clone_into(newest);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::messages::tests::message;
    use crate::rooms::tests::room_json;

    fn room(room_id: &str, last_seq: i64) -> Room {
        serde_json::from_value(room_json(room_id, last_seq, 0)).expect("a room")
    }

    fn listed(room_id: &str, last_seq: i64, delivered_seq: i64) -> ListedRoom {
        let mut json = room_json(room_id, last_seq, 0);
        let own = json!({"role": "member", "delivered_seq": delivered_seq, "read_seq": 0, "unread_count": 0,
            "last_message": null});
        json.as_object_mut().expect("an object").extend(own.as_object().expect("an object").clone());
        serde_json::from_value(json).expect("a room")
    }

    fn connected(positions: &[(&str, i64)]) -> Tracker {
        let positions = positions.iter().map(|&(room_id, seq)| (room_id.to_owned(), Position::new(seq, 0)));
        let mut tracker = Tracker::new(positions.collect());
        tracker.connected();
        tracker
    }

    fn live(tracker: &mut Tracker, room_id: &str, seq: i64) {
        tracker.message(Box::new(message(room_id, seq)), false);
    }

    /// The messages that were handed out, and the rooms to ask about.
    fn done(tracker: &mut Tracker) -> (Vec<i64>, Vec<String>) {
        let work = tracker.take_work();
        let seq = |item| match item {
            Item::Event(Event::Message(message)) => Some(message.seq),
            _ => None,
        };
        (work.items.into_iter().filter_map(seq).collect(), work.syncs)
    }

    #[test]
    fn an_unknown_room_waits_for_the_list_and_loses_nothing_that_came_before_it() {
        let mut tracker = connected(&[]);

        live(&mut tracker, "room_1", 11);
        assert_eq!(done(&mut tracker), (vec![], vec![]));
        tracker.listed(&[listed("room_1", 12, 3)], false);

        assert_eq!(done(&mut tracker), (vec![11], vec!["room_1".to_owned()]), "12 is on its way, or is not");
        assert_eq!(tracker.ask_after("room_1"), Some(Position::new(11, 0)));
    }

    #[test]
    fn rooms_begin_where_they_are_or_where_the_user_is() {
        for (from_delivered, seq) in [(false, 12), (true, 3)] {
            let mut tracker = connected(&[]);

            tracker.listed(&[listed("room_1", 12, 3)], from_delivered);

            assert_eq!(tracker.ask_after("room_1"), Some(Position::new(seq, 0)));
            assert_eq!(done(&mut tracker).1.len(), usize::from(from_delivered), "what is missing is asked for");
        }
    }

    #[test]
    fn a_room_joined_while_away_begins_at_the_join_and_a_new_one_at_its_beginning() {
        let mut tracker = connected(&[]);
        tracker.listed(&[listed("room_1", 5, 5)], false);
        tracker.connected();
        let mut new = listed("room_3", 2, 2);
        new.room.created_at = "2026-01-31T12:00:00.000001Z".to_owned();

        tracker.listed(&[new, listed("room_1", 5, 5), listed("room_2", 9, 7)], false);

        assert_eq!(tracker.ask_after("room_2"), Some(Position::new(7, 0)));
        assert_eq!(tracker.ask_after("room_3"), Some(Position::new(0, 0)));
        assert_eq!(done(&mut tracker).1, ["room_1", "room_3", "room_2"]);
    }

    #[test]
    fn a_room_that_nobody_announced_is_looked_up() {
        let mut tracker = connected(&[]);
        tracker.listed(&[], false);

        live(&mut tracker, "room_1", 7);
        live(&mut tracker, "room_1", 8);
        assert_eq!(tracker.take_work().lookups, ["room_1"]);
        tracker.found("room_1", Some(&room("room_1", 8)));

        assert_eq!(done(&mut tracker), (vec![7, 8], vec![]));
        live(&mut tracker, "room_2", 1);
        tracker.found("room_2", None);
        assert_eq!(tracker.waiting_count, 0);
    }

    #[test]
    fn a_room_that_was_just_made_begins_at_its_first_message_however_late_the_news() {
        let mut tracker = connected(&[]);
        tracker.listed(&[], false);

        tracker.created(&room("room_1", 2));
        live(&mut tracker, "room_1", 1);
        live(&mut tracker, "room_1", 2);

        assert_eq!(done(&mut tracker), (vec![1, 2], vec!["room_1".to_owned()]));
    }

    #[test]
    fn a_room_the_user_came_to_begins_with_what_comes_or_where_the_list_says() {
        let mut tracker = connected(&[]);
        tracker.listed(&[], false);

        tracker.joined(&room("room_1", 9));
        tracker.joined(&room("room_2", 9));
        live(&mut tracker, "room_1", 8);
        live(&mut tracker, "room_1", 9);
        assert_eq!(done(&mut tracker), (vec![8, 9], vec![]));

        tracker.connected();
        assert!(tracker.is_known("room_1") && !tracker.is_known("room_2"));
        tracker.listed(&[listed("room_2", 9, 7)], false);
        assert_eq!(tracker.ask_after("room_2"), Some(Position::new(7, 0)));
    }

    #[test]
    fn the_answer_to_a_sender_is_a_message_but_makes_no_gap() {
        let mut tracker = connected(&[("room_1", 5)]);
        tracker.synced("room_1", Position::new(5, 0), false);
        tracker.take_work();

        tracker.message(Box::new(message("room_1", 7)), true);
        assert_eq!(done(&mut tracker), (vec![], vec![]));
        live(&mut tracker, "room_1", 6);
        live(&mut tracker, "room_1", 7);

        assert_eq!(done(&mut tracker), (vec![6, 7], vec![]));
    }

    #[test]
    fn a_forgotten_room_begins_anew_when_the_user_comes_back() {
        let mut tracker = connected(&[("room_1", 5)]);

        tracker.forget("room_1");
        tracker.synced("room_1", Position::new(9, 0), false);
        tracker.joined(&room("room_1", 20));

        assert_eq!(tracker.ask_after("room_1"), Some(Position::new(20, 0)));
    }

    #[test]
    fn a_flood_before_the_list_ends_the_connection_instead_of_the_memory() {
        let mut tracker = connected(&[]);

        for seq in 0..=10_000 {
            live(&mut tracker, "room_1", seq);
        }

        assert!(tracker.take_work().reconnect);
    }
}
