//! The numbered events of one room, put in order.

use std::collections::BTreeMap;

use crate::{Event, Message, Position};

/// Answers in a row that left a gap before the connection is taken for broken.
const PATIENCE: u32 = 5;

/// Where events of a room go, in order.
pub(crate) type Out = Vec<Event>;

/// What a room needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    /// To ask the server what is missing.
    Sync,
    /// To read the messages between these two, both excluded, from the history: the server passed
    /// over them, and only the history says for sure that they are gone.
    History {
        after: i64,
        before: i64,
    },
    /// Another connection: this one does not give what is missing.
    Reconnect,
}

/// Whether the server was asked what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sync {
    Idle,
    /// Wanted, or asked and not answered yet.
    Asked,
    /// Answered; it is looked up whether what was passed over is really gone.
    Answered {
        reached: Position,
        has_more: bool,
    },
}

/// One room: what was handed out, and what came too early to be.
///
/// Live events and the answer to a sync come over one connection and cannot be told apart. So
/// whatever is next is handed out, whatever is later is held, and the end of a sync says up to
/// where nothing is missing any more.
#[derive(Debug)]
pub(crate) struct Track {
    /// What was handed out.
    at: Position,
    /// What was when the connection began, if the room was known then.
    began: Option<Position>,
    /// Whether the beginning is only a guess, for messages and for changes: what comes first may
    /// be before it, and then is the beginning.
    guess: (bool, bool),
    /// Up to here all that exists is here, handed out or held: what is not here is no gap.
    complete: Position,
    messages: BTreeMap<i64, Box<Message>>,
    /// Edits and deletions by number, each with the message it is about.
    changes: BTreeMap<i64, (i64, Event)>,
    sync: Sync,
    /// How far it was when it last asked, and how often in a row that led no further.
    asked_after: Position,
    in_vain: u32,
}

impl Track {
    pub(crate) const fn new(at: Position) -> Self {
        Self {
            at,
            began: None,
            guess: (false, false),
            complete: at,
            messages: BTreeMap::new(),
            changes: BTreeMap::new(),
            sync: Sync::Idle,
            asked_after: at,
            in_vain: 0,
        }
    }

    /// Begins here or before: what the server said of the room may have overtaken its events.
    pub(crate) fn new_about(at: Position) -> Self {
        Self { guess: (true, true), ..Self::new(at) }
    }

    /// Whether nothing has confirmed yet where the room begins.
    pub(crate) const fn is_guess(&self) -> bool {
        self.guess.0
    }

    pub(crate) const fn at(&self) -> Position {
        self.at
    }

    /// Whether the room was known when the connection began, and is no further than it was then.
    pub(crate) fn is_quiet(&self, last: Position) -> bool {
        self.began.is_some_and(|began| began.max(last) == began)
    }

    /// How many events are held.
    pub(crate) fn held(&self) -> usize {
        self.messages.len() + self.changes.len()
    }

    /// After what the server is to be asked.
    pub(crate) fn ask_after(&self) -> Position {
        self.at.max(self.complete)
    }

    /// Takes a message, live or from a sync.
    pub(crate) fn message(&mut self, message: Box<Message>, out: &mut Out) {
        if std::mem::take(&mut self.guess.0) {
            self.at.seq = self.at.seq.min(message.seq - 1);
            self.complete.seq = self.at.seq;
        }
        self.take(message, out);
    }

    /// Takes a message that answers its sender: it may have overtaken others.
    pub(crate) fn answer(&mut self, message: Box<Message>, out: &mut Out) {
        self.take(message, out);
    }

    fn take(&mut self, message: Box<Message>, out: &mut Out) {
        if message.seq > self.at.seq {
            self.messages.insert(message.seq, message);
            self.release(out);
        }
    }

    /// Takes an edit or deletion of message `seq`.
    pub(crate) fn change(&mut self, change: i64, seq: i64, event: Event, out: &mut Out) {
        if std::mem::take(&mut self.guess.1) {
            self.at.change = self.at.change.min(change - 1);
            self.complete.change = self.at.change;
        }
        if change > self.at.change {
            self.changes.insert(change, (seq, event));
            self.release(out);
        }
    }

    /// Whether a sync has to be started because something came too early.
    pub(crate) fn wants_sync(&mut self) -> bool {
        self.held() > 0 && self.ask()
    }

    /// Marks the room as asked about; false if it is already.
    pub(crate) fn ask(&mut self) -> bool {
        let idle = self.sync == Sync::Idle;
        if idle {
            (self.sync, self.asked_after) = (Sync::Asked, self.ask_after());
        }
        idle
    }

    /// The server has answered: it sent everything up to `reached` that it had not sent before.
    pub(crate) fn synced(&mut self, reached: Position, has_more: bool, out: &mut Out) -> Need {
        self.guess = (false, false);
        self.sync = Sync::Answered { reached, has_more };
        self.conclude(out)
    }

    /// The history has answered: these are all the messages before `before` that were missing.
    pub(crate) fn filled(&mut self, messages: Vec<Message>, before: i64, out: &mut Out) -> Need {
        let missing = messages.into_iter().filter(|message| message.seq > self.at.seq && message.seq < before);
        self.messages.extend(missing.map(|message| (message.seq, Box::new(message))));
        self.complete.seq = self.complete.seq.max(before - 1);
        self.release(out);
        self.conclude(out)
    }

    /// The connection is another one: what is held will be sent again.
    pub(crate) fn reconnected(&mut self) {
        *self = Self { began: Some(self.at), ..Self::new(self.at) };
    }

    fn conclude(&mut self, out: &mut Out) -> Need {
        let Sync::Answered { reached, has_more } = self.sync else { return Need::Nothing };
        if let Some((after, before)) = self.hole(reached.seq) {
            return Need::History { after, before };
        }
        self.complete = self.complete.max(reached);
        self.release(out);
        self.sync = Sync::Idle;
        if self.ask_after() != self.asked_after || (!has_more && self.held() == 0) {
            self.in_vain = 0;
        } else if !has_more {
            // Where there is more, it may be the turn of other rooms first.
            self.in_vain += 1;
        }
        if !has_more && self.held() == 0 {
            return Need::Nothing;
        }
        if self.in_vain > PATIENCE {
            return Need::Reconnect;
        }
        self.ask();
        Need::Sync
    }

    /// The first messages up to `last` that are not here: between which two.
    fn hole(&self, last: i64) -> Option<(i64, i64)> {
        let mut seq = self.at.seq;
        for &held in self.messages.keys().take_while(|&&held| held <= last) {
            if held > seq + 1 {
                return Some((seq, held));
            }
            seq = held;
        }
        (seq < last).then_some((seq, last + 1))
    }

    /// Hands out what is next.
    fn release(&mut self, out: &mut Out) {
        while let Some(first) = self.messages.first_entry() {
            let seq = *first.key();
            if seq > self.at.seq.max(self.complete.seq) + 1 {
                break;
            }
            let message = first.remove();
            if seq > self.at.seq {
                (self.at.seq, self.guess.0) = (seq, false);
                out.push(Event::Message(message));
            }
        }
        self.at.seq = self.at.seq.max(self.complete.seq);
        while let Some(first) = self.changes.first_entry() {
            let (change, about) = (*first.key(), first.get().0);
            let is_next = change <= self.at.change.max(self.complete.change) + 1;
            // An edit waits for its message: who sees it first would show the old text for ever.
            if !is_next || about > self.at.seq {
                return;
            }
            let (_, event) = first.remove();
            if change > self.at.change {
                self.at.change = change;
                out.push(event);
            }
        }
        self.at.change = self.at.change.max(self.complete.change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::tests::message;

    fn deleted(seq: i64, change: i64) -> Event {
        Event::Deleted { room_id: "room_1".to_owned(), message_id: format!("msg_{seq}"), seq, change }
    }

    /// A track and what came out of it: `m7` is message 7, `c2` change 2.
    struct Case {
        track: Track,
        out: Out,
    }

    impl Case {
        fn at(seq: i64, change: i64) -> Self {
            Self { track: Track::new(Position::new(seq, change)), out: Vec::new() }
        }

        fn message(&mut self, seq: i64) -> bool {
            self.track.message(Box::new(message("room_1", seq)), &mut self.out);
            self.track.wants_sync()
        }

        fn change(&mut self, seq: i64, change: i64) -> bool {
            self.track.change(change, seq, deleted(seq, change), &mut self.out);
            self.track.wants_sync()
        }

        fn synced(&mut self, seq: i64, change: i64, has_more: bool) -> Need {
            self.track.synced(Position::new(seq, change), has_more, &mut self.out)
        }

        fn filled(&mut self, seqs: &[i64], before: i64) -> Need {
            let messages = seqs.iter().map(|&seq| message("room_1", seq)).collect();
            self.track.filled(messages, before, &mut self.out)
        }

        fn taken(&mut self) -> String {
            let name = |event: &Event| match event {
                Event::Message(message) => format!("m{}", message.seq),
                Event::Deleted { change, .. } => format!("c{change}"),
                _ => "?".to_owned(),
            };
            let names: Vec<_> = self.out.drain(..).map(|event| name(&event)).collect();
            names.join(" ")
        }
    }

    #[test]
    fn what_comes_in_order_passes_and_what_was_seen_does_not() {
        let mut case = Case::at(5, 2);

        for seq in [6, 7, 6, 5, 8] {
            assert!(!case.message(seq));
        }
        assert!(!case.change(3, 3));
        assert!(!case.change(3, 2));

        assert_eq!(case.taken(), "m6 m7 m8 c3");
        assert_eq!(case.track.at(), Position::new(8, 3));
    }

    #[test]
    fn what_comes_too_early_waits_for_one_sync() {
        let mut case = Case::at(5, 0);

        assert!(case.message(8), "a gap");
        assert!(!case.message(9), "asked already");
        assert_eq!(case.taken(), "");
        case.message(6);
        case.message(7);

        // The server does not repeat 8 and 9, which the connection was sent before.
        assert_eq!(case.taken(), "m6 m7 m8 m9");
        assert_eq!(case.synced(9, 0, false), Need::Nothing);
        assert!(case.message(11), "the next gap asks again");
    }

    #[test]
    fn a_sync_in_pages_goes_on_where_it_stopped() {
        let mut case = Case::at(0, 0);

        case.track.ask();
        case.message(1);
        case.message(2);
        assert_eq!(case.synced(2, 0, true), Need::Sync);
        assert_eq!(case.track.ask_after(), Position::new(2, 0));
        case.message(3);
        assert_eq!(case.synced(3, 4, false), Need::Nothing);

        assert_eq!(case.taken(), "m1 m2 m3");
        assert_eq!(case.track.at(), Position::new(3, 4));
    }

    #[test]
    fn a_hole_in_an_answer_is_believed_only_after_the_history() {
        let mut case = Case::at(5, 0);

        case.track.ask();
        case.message(20);
        assert_eq!(case.synced(22, 0, false), Need::History { after: 5, before: 20 });
        assert_eq!(case.taken(), "");

        assert_eq!(case.filled(&[18, 19], 20), Need::History { after: 20, before: 23 });
        assert_eq!(case.taken(), "m18 m19 m20");
        assert_eq!(case.filled(&[], 23), Need::Nothing, "21 and 22 are gone");
        assert_eq!(case.track.at().seq, 22);
    }

    #[test]
    fn changes_of_a_sync_may_leave_numbers_out_and_those_of_live_events_not() {
        let mut case = Case::at(9, 2);

        assert!(case.change(4, 7), "3 to 6 are missing");
        case.change(5, 5);
        assert_eq!(case.taken(), "");
        assert_eq!(case.synced(9, 6, false), Need::Nothing);

        assert_eq!(case.taken(), "c5 c7", "3, 4 and 6 were superseded");
        assert_eq!(case.track.at(), Position::new(9, 7));
    }

    #[test]
    fn a_change_waits_for_its_message() {
        let mut case = Case::at(5, 0);

        assert!(case.change(8, 1));
        case.message(6);
        assert_eq!(case.synced(6, 1, true), Need::Sync);
        assert_eq!(case.taken(), "m6");
        assert_eq!(case.track.ask_after(), Position::new(6, 1), "it is here, only not handed out");
        case.message(7);
        case.message(8);

        assert_eq!(case.taken(), "m7 m8 c1");
    }

    #[test]
    fn a_guessed_beginning_moves_back_to_what_comes_first_and_then_stays() {
        let mut case = Case { track: Track::new_about(Position::new(12, 5)), out: Vec::new() };

        for seq in [11, 12, 10, 13] {
            assert!(!case.message(seq));
        }
        for change in [5, 4, 6] {
            assert!(!case.change(3, change));
        }

        assert_eq!(case.taken(), "m11 m12 m13 c5 c6");
        let mut case = Case { track: Track::new_about(Position::new(12, 5)), out: Vec::new() };
        case.track.answer(Box::new(message("room_1", 13)), &mut case.out);
        case.message(12);
        assert_eq!(case.taken(), "m13", "nothing may come after what is later");
    }

    #[test]
    fn a_new_connection_begins_after_what_was_handed_out() {
        let mut case = Case::at(5, 0);

        case.message(8);
        case.change(9, 1);
        case.track.reconnected();

        assert_eq!((case.track.held(), case.track.ask_after()), (0, Position::new(5, 0)));
    }

    #[test]
    fn a_server_that_never_gives_what_is_missing_is_left() {
        let mut case = Case::at(5, 0);

        assert!(case.message(8));
        for _ in 0..PATIENCE {
            assert_eq!(case.synced(5, 0, false), Need::Sync);
        }

        assert_eq!(case.synced(5, 0, false), Need::Reconnect);
        assert_eq!(case.taken(), "");
    }
}
