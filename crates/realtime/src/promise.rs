//! The promise under any interleaving: a model of a room, its tail, and clients that come and go.
//!
//! Nothing here waits: a table, a tail and connections are driven step by step in an order that
//! proptest chooses. Signals are lost, doubled and late; reads see the table as it was; clients
//! are slow, go away in the middle of a sync and come back with what they have.

use std::collections::BTreeMap;
use std::sync::Arc;

use chatapi_domain::{
    Change, ConnectionId, Message, MessageId, Place, Role, RoomId, RoomType, TenantId, Timestamp, UserId,
};
use proptest::prelude::*;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::cursor::Cursors;
use crate::event::Outgoing;
use crate::mailbox::Mailbox;
use crate::sync::{Answer, Fetch, Since, Sync, Wanted};
use crate::tail::{Missing, Next, Tail};

const ROOM: RoomId = RoomId::from_uuid(Uuid::nil());
const TENANT: TenantId = TenantId::from_uuid(Uuid::nil());

fn user() -> UserId {
    UserId::parse("user", "u").expect("a user id")
}

/// What the database holds.
#[derive(Debug, Default)]
struct Table {
    messages: Vec<Message>,
    /// By message: the number of its latest change.
    changed: BTreeMap<i64, i64>,
    last_change: i64,
}

impl Table {
    fn last_seq(&self) -> i64 {
        i64::try_from(self.messages.len()).expect("few")
    }

    fn append(&mut self) -> Message {
        let message = Message {
            message_id: MessageId::from_uuid(Uuid::nil()),
            room_id: ROOM,
            sender_id: user(),
            seq: self.last_seq() + 1,
            content: "0".into(),
            meta: None,
            client_message_id: None,
            created_at: Timestamp::from_micros(0),
            edited_at: None,
            deleted_at: None,
            reply_to: None,
        };
        self.messages.push(message.clone());
        message
    }

    /// Edits a message, or deletes it; its content says by which change.
    fn change(&mut self, seq: i64) -> Option<Change> {
        let at = usize::try_from(seq - 1).ok()?;
        let message = self.messages.get_mut(at).filter(|message| message.deleted_at.is_none())?;
        self.last_change += 1;
        message.content = self.last_change.to_string();
        if self.last_change % 5 == 0 {
            message.deleted_at = Some(Timestamp::from_micros(1));
        }
        self.changed.insert(seq, self.last_change);
        Some(Change { change: self.last_change, message: message.clone() })
    }

    fn messages(&self, after: i64, before: Option<i64>, limit: usize) -> (Vec<Message>, bool) {
        let before = before.unwrap_or(i64::MAX);
        let found: Vec<_> = self.messages.iter().filter(|m| m.seq > after && m.seq < before).cloned().collect();
        (found.iter().take(limit).cloned().collect(), found.len() > limit)
    }

    fn changes(&self, after: i64, limit: usize) -> (Vec<Change>, bool) {
        let mut found: Vec<(i64, i64)> = self.changed.iter().map(|(seq, change)| (*change, *seq)).collect();
        found.sort_unstable();
        found.retain(|(change, _)| *change > after);
        let read = |(change, seq): &(i64, i64)| Change {
            change: *change,
            message: self.messages[usize::try_from(seq - 1).expect("a seq")].clone(),
        };
        (found.iter().take(limit).map(read).collect(), found.len() > limit)
    }

    fn answer(&self, fetch: &Fetch, has: i64) -> Answer {
        let limit = |limit: &u32| usize::try_from(*limit).expect("small");
        match fetch {
            Fetch::AllPlaces | Fetch::Places(_) => Answer::Places(vec![Place {
                room_id: ROOM,
                room_type: RoomType::Group,
                last_seq: self.last_seq(),
                last_change: self.last_change,
                updated_at: Timestamp::from_micros(0),
                role: Some(Role::Member),
                delivered_seq: has,
            }]),
            Fetch::Messages { after, before, limit: most, .. } => {
                let (messages, more) = self.messages(*after, *before, limit(most));
                Answer::Messages(messages, more)
            }
            Fetch::Changes { after, limit: most, .. } => {
                let (changes, more) = self.changes(*after, limit(most));
                Answer::Changes(changes, more)
            }
        }
    }
}

/// Rows, and whether there are more.
type Page<T> = (Vec<T>, bool);

/// What the tail is told, some time.
#[derive(Debug, Clone)]
enum Signal {
    Stored(Message),
    Changed(Change),
    Position(i64, i64),
}

/// A connection, and the client at its other end.
#[derive(Debug)]
struct Connection {
    mailbox: Arc<Mailbox>,
    queue: mpsc::Receiver<Arc<Outgoing>>,
    cursors: Cursors,
    sync: Option<(Sync, Option<Fetch>, Option<Answer>)>,
    /// Whether the client asked for a sync before anything live was sent to it.
    synced_first: bool,
    /// Seqs of the message events, as they came.
    seqs: Vec<i64>,
}

/// A client: what it has, over all its connections.
#[derive(Debug)]
struct Client {
    syncs: bool,
    began_at: i64,
    has_seq: i64,
    has_change: i64,
    copy: BTreeMap<i64, String>,
    connection: Option<Connection>,
}

struct World {
    table: Table,
    tail: Tail,
    under_way: Vec<Signal>,
    reading: bool,
    /// What a reader has seen of the table, on its way back.
    read: Option<(Missing, Page<Message>, Page<Change>)>,
    clients: Vec<Client>,
    connections: u128,
}

impl World {
    fn new() -> Self {
        let client =
            |syncs| Client { syncs, began_at: 0, has_seq: 0, has_change: 0, copy: BTreeMap::new(), connection: None };
        Self {
            table: Table::default(),
            tail: Tail::new((TENANT, ROOM), 0, 0, Timestamp::from_micros(0)),
            under_way: Vec::new(),
            reading: false,
            read: None,
            clients: vec![client(true), client(true), client(false)],
            connections: 0,
        }
    }

    fn step(&mut self, action: u8, choice: usize) {
        match action {
            0..=2 => {
                let message = self.table.append();
                self.under_way.push(Signal::Stored(message));
            }
            3 => {
                let seq = i64::try_from(choice).expect("small") % (self.table.last_seq() + 1);
                if let Some(change) = self.table.change(seq) {
                    self.under_way.push(Signal::Changed(change));
                }
            }
            4..=6 if !self.under_way.is_empty() => {
                let signal = self.under_way.remove(choice % self.under_way.len());
                if action == 5 {
                    self.under_way.push(signal.clone());
                }
                self.tell(&signal);
            }
            7 if !self.under_way.is_empty() => _ = self.under_way.remove(choice % self.under_way.len()),
            8 => self.tell(&Signal::Position(self.table.last_seq(), self.table.last_change)),
            9 => self.look(),
            10 => self.come_back(),
            11..=13 => self.deliver(choice),
            14 => self.ask(choice),
            15 => self.answer(choice),
            16 if choice.is_multiple_of(4) => self.cut(choice),
            _ => self.connect(choice),
        }
    }

    fn tell(&mut self, signal: &Signal) {
        let mut state = self.tail.lock();
        let next = match signal {
            Signal::Stored(message) => state.stored(message),
            Signal::Changed(change) => state.changed(change),
            Signal::Position(seq, change) => state.reached(*seq, *change),
        };
        self.reading |= next == Next::Read;
    }

    /// The reader reads the table.
    fn look(&mut self) {
        if !self.reading || self.read.is_some() {
            return;
        }
        match self.tail.lock().next_read() {
            Some(missing) => {
                let messages = missing.after_seq.map(|after| self.table.messages(after, None, 4));
                let changes = missing.after_change.map(|after| self.table.changes(after, 4));
                self.read = Some((missing, messages.unwrap_or_default(), changes.unwrap_or_default()));
            }
            None => self.reading = false,
        }
    }

    /// The reader brings what it saw, which may be old by now.
    fn come_back(&mut self) {
        let Some((missing, messages, changes)) = self.read.take() else { return };
        let mut state = self.tail.lock();
        if missing.after_seq.is_some() {
            state.read_messages(&messages.0, messages.1);
        }
        if missing.after_change.is_some() {
            state.read_changes(&changes.0, changes.1);
        }
    }

    fn connect(&mut self, choice: usize) {
        let at = choice % self.clients.len();
        if self.clients[at].connection.is_some() {
            return;
        }
        self.connections += 1;
        let id = ConnectionId::from_uuid(Uuid::from_u128(self.connections));
        let (mailbox, queue) = Mailbox::new(id, TENANT, user(), Arc::default());
        let mut state = self.tail.lock();
        state.listeners.insert(id, mailbox.clone());
        let live_from = (state.seq, state.change);
        drop(state);
        let client = &mut self.clients[at];
        client.connection = Some(Connection {
            mailbox,
            queue,
            cursors: Cursors::default(),
            sync: None,
            synced_first: false,
            seqs: Vec::new(),
        });
        if client.syncs {
            self.ask(at);
        } else {
            // One that never syncs begins with what comes live.
            (client.began_at, client.has_change) = live_from;
            client.has_seq = client.began_at;
            client.copy.clear();
        }
    }

    /// A client asks for a sync from where it is.
    fn ask(&mut self, choice: usize) {
        let at = choice % self.clients.len();
        let client = &mut self.clients[at];
        let since = Since { after_seq: client.has_seq, after_change: Some(client.has_change) };
        let Some(connection) = client.connection.as_mut().filter(|connection| connection.sync.is_none()) else {
            return;
        };
        if !client.syncs {
            return;
        }
        connection.synced_first |= connection.seqs.is_empty();
        let wanted = Wanted::Named(vec![("room".into(), Some(ROOM), since)]);
        let (sync, fetch) = Sync::begin(wanted, Vec::new(), &mut connection.cursors);
        connection.sync = Some((sync, fetch, None));
    }

    /// A sync's question is answered, or its answer arrives.
    fn answer(&mut self, choice: usize) {
        let at = choice % self.clients.len();
        let client = &mut self.clients[at];
        let Some(connection) = &mut client.connection else { return };
        let Some((mut sync, fetch, answer)) = connection.sync.take() else { return };
        let (Some(fetch), answer) = (fetch, answer) else { return };
        let Some(answer) = answer else {
            let answer = self.table.answer(&fetch, client.has_seq);
            connection.sync = Some((sync, Some(fetch), Some(answer)));
            return;
        };
        let step = sync.answered(answer, &mut connection.cursors);
        if let Some(next) = &step.next {
            connection.sync = Some((sync, Some(next.clone()), None));
            step.events.iter().for_each(|event| client.hear(event));
            return;
        }
        step.events.iter().for_each(|event| client.hear(event));
        let done: serde_json::Value = serde_json::from_slice(&sync.done(None)).expect("JSON");
        let (_, reached) = done["rooms"].as_object().expect("rooms").iter().next_back().expect("a room");
        client.has_seq = client.has_seq.max(reached["last_seq"].as_i64().expect("a seq"));
        client.has_change = client.has_change.max(reached["last_change"].as_i64().expect("a change"));
        if reached["has_more"] == true {
            self.ask(at);
        }
    }

    /// A connection takes the next event out of its queue, or is closed if it was too slow.
    fn deliver(&mut self, choice: usize) {
        let at = choice % self.clients.len();
        let client = &mut self.clients[at];
        let Some(connection) = &mut client.connection else { return };
        if connection.mailbox.is_too_slow() {
            self.cut(at);
            return;
        }
        if let Ok(outgoing) = connection.queue.try_recv()
            && connection.cursors.pass(&outgoing)
        {
            match &*outgoing {
                Outgoing::Message { text, .. } | Outgoing::Change { text, .. } => client.hear(text),
                _ => {}
            }
        }
    }

    fn cut(&mut self, choice: usize) {
        let at = choice % self.clients.len();
        if let Some(connection) = self.clients[at].connection.take() {
            self.tail.lock().listeners.remove(&connection.mailbox.connection_id);
        }
    }

    /// Lets everything come to rest: the tail compares, every queue is emptied, every sync ends.
    fn rest(&mut self) {
        for turn in 0..4000 {
            // As often as the tails are compared: a reader stops when nobody listens any more.
            if turn % 50 == 0 {
                self.tell(&Signal::Position(self.table.last_seq(), self.table.last_change));
            }
            for at in 0..self.clients.len() {
                self.connect(at);
                self.answer(at);
                self.deliver(at);
            }
            self.look();
            self.come_back();
        }
    }

    fn check(&self) {
        for client in &self.clients {
            let expected: BTreeMap<i64, String> = self
                .table
                .messages
                .iter()
                .filter(|message| message.seq > client.began_at)
                .map(|message| {
                    let gone = message.deleted_at.is_some();
                    (message.seq, if gone { "deleted".to_owned() } else { message.content.clone() })
                })
                .collect();
            assert_eq!(client.copy, expected, "what a client has is what there is");
        }
    }
}

impl Client {
    /// Takes an event as a client does, and checks what is promised of its order.
    fn hear(&mut self, event: &[u8]) {
        let event: serde_json::Value = serde_json::from_slice(event).expect("JSON");
        let seq = event["seq"].as_i64().expect("a seq");
        let content = event["content"].as_str().unwrap_or_default().to_owned();
        let content = if event["deleted_at"].is_string() { "deleted".to_owned() } else { content };
        let connection = self.connection.as_mut().expect("an open connection");
        match event["type"].as_str() {
            Some("message") => {
                assert!(!connection.seqs.contains(&seq), "{seq} twice in {:?}", connection.seqs);
                if connection.synced_first || !self.syncs {
                    assert_eq!(seq, self.has_seq + 1, "in order, no gap, after {:?}", connection.seqs);
                }
                connection.seqs.push(seq);
                self.has_seq = self.has_seq.max(seq);
                self.copy.insert(seq, content);
            }
            Some("message.edited") => {
                let change = event["change"].as_i64().expect("a change");
                self.has_change = self.has_change.max(change);
                // A client that began later does not have what came before.
                if seq > self.began_at {
                    assert!(self.copy.contains_key(&seq), "a change of {seq} before its message");
                    self.copy.insert(seq, content);
                }
            }
            Some("message.deleted") => {
                self.has_change = self.has_change.max(event["change"].as_i64().expect("a change"));
                if seq > self.began_at {
                    self.copy.insert(seq, "deleted".into());
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A message, and its edit, that come while the changes are read: both are in the queue already.
#[test]
fn an_edit_of_a_message_that_the_sync_has_not_seen_is_left_to_its_live_event() {
    let mut world = World::new();
    let tell_last = |world: &mut World| {
        let signal = world.under_way.pop().expect("a signal");
        world.tell(&signal);
    };
    world.step(0, 0);
    tell_last(&mut world);
    world.step(3, 1);
    tell_last(&mut world);
    world.connect(0);
    // How far the room is; the messages.
    (0..4).for_each(|_| world.answer(0));
    world.step(0, 0);
    tell_last(&mut world);
    world.step(3, 2);
    tell_last(&mut world);
    // The changes: the sync is done, and only then the queue is emptied.
    (0..2).for_each(|_| world.answer(0));

    world.rest();

    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_client_has_everything_once_and_in_order_whatever_happens_in_between(
        steps in prop::collection::vec((0..18_u8, 0..64_usize), 0..400),
    ) {
        let mut world = World::new();
        for (action, choice) in steps {
            world.step(action, choice);
        }
        world.rest();
        world.check();
    }
}
