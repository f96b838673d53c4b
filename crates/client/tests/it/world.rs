//! What the fake server knows: rooms, their messages, their changes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The time of everything that is there when a test begins.
pub(crate) const EARLY: u32 = 0;

#[derive(Default)]
pub(crate) struct World {
    pub(crate) rooms: BTreeMap<String, Log>,
    clock: u32,
}

#[derive(Default)]
pub(crate) struct Log {
    pub(crate) messages: Vec<Stored>,
    /// The `seq` of what was changed, by number of the change.
    pub(crate) changes: Vec<i64>,
    /// Messages before this one are gone.
    pub(crate) first_seq: i64,
    pub(crate) delivered_seq: i64,
    pub(crate) created: u32,
    /// Whether the user sees it, and is in it.
    pub(crate) hidden: bool,
    pub(crate) foreign: bool,
}

pub(crate) struct Stored {
    pub(crate) content: String,
    client_message_id: Option<String>,
    deleted: bool,
    at: u32,
}

fn time(at: u32) -> String {
    format!("2026-01-31T12:00:00.{at:06}Z")
}

impl Log {
    pub(crate) fn last_seq(&self) -> i64 {
        number(self.messages.len())
    }

    pub(crate) fn last_change(&self) -> i64 {
        number(self.changes.len())
    }

    fn index(seq: i64) -> usize {
        usize::try_from(seq - 1).expect("messages count from 1")
    }
}

pub(crate) fn number(count: usize) -> i64 {
    i64::try_from(count).expect("few")
}

impl World {
    pub(crate) fn add(&mut self, room: &str) -> &mut Log {
        let log = Log { first_seq: 1, created: self.clock, ..Log::default() };
        self.rooms.entry(room.to_owned()).or_insert(log)
    }

    pub(crate) fn log(&self, room: &str) -> &Log {
        &self.rooms[room]
    }

    pub(crate) fn log_mut(&mut self, room: &str) -> &mut Log {
        self.rooms.get_mut(room).expect("a room of this world")
    }

    /// Stores a message, or finds it by its id; returns its `seq`.
    pub(crate) fn say(&mut self, room: &str, content: &str, client_message_id: Option<&str>) -> i64 {
        self.clock += 1;
        let at = self.clock;
        let log = self.log_mut(room);
        let same =
            |stored: &Stored| client_message_id.is_some() && stored.client_message_id.as_deref() == client_message_id;
        if let Some(index) = log.messages.iter().position(same) {
            return number(index) + 1;
        }
        let client_message_id = client_message_id.map(str::to_owned);
        log.messages.push(Stored { content: content.to_owned(), client_message_id, deleted: false, at });
        log.last_seq()
    }

    /// Edits or deletes a message, and returns the event.
    pub(crate) fn change(&mut self, room: &str, seq: i64, content: Option<&str>) -> Value {
        let log = self.log_mut(room);
        log.changes.push(seq);
        let change = log.last_change();
        let stored = &mut log.messages[Log::index(seq)];
        stored.deleted |= content.is_none();
        content.unwrap_or_default().clone_into(&mut stored.content);
        self.change_event(room, seq, change)
    }

    pub(crate) fn is_deleted(&self, room: &str, seq: i64) -> bool {
        self.log(room).messages[Log::index(seq)].deleted
    }

    pub(crate) fn message(&self, room: &str, seq: i64) -> Value {
        let stored = &self.log(room).messages[Log::index(seq)];
        json!({
            "message_id": format!("msg_{room}_{seq}"), "room_id": room, "sender_id": "bob", "seq": seq,
            "content": stored.content, "meta": null, "client_message_id": stored.client_message_id,
            "created_at": time(stored.at), "edited_at": null,
            "deleted_at": stored.deleted.then(|| time(stored.at)), "reply_to": null,
        })
    }

    pub(crate) fn message_event(&self, room: &str, seq: i64) -> Value {
        let mut event = self.message(room, seq);
        event["type"] = "message".into();
        event
    }

    fn change_event(&self, room: &str, seq: i64, change: i64) -> Value {
        if self.is_deleted(room, seq) {
            let id = format!("msg_{room}_{seq}");
            return json!({"type": "message.deleted", "room_id": room, "message_id": id, "seq": seq, "change": change});
        }
        let mut event = self.message(room, seq);
        event["type"] = "message.edited".into();
        event["change"] = change.into();
        event
    }

    pub(crate) fn room(&self, room: &str) -> Value {
        let log = self.log(room);
        json!({
            "room_id": room, "type": "group", "unique_key": null, "name": null, "metadata": null,
            "first_seq": log.first_seq, "last_seq": log.last_seq(), "last_change": log.last_change(),
            "member_count": 2, "created_by": null, "created_at": time(log.created), "updated_at": time(log.created),
        })
    }

    /// The user's rooms, the newest activity first.
    pub(crate) fn list(&self) -> Vec<Value> {
        let active = |log: &Log| log.messages.last().map_or(log.created, |last| last.at);
        let mut rooms: Vec<_> = self.rooms.iter().filter(|(_, log)| !log.hidden && !log.foreign).collect();
        rooms.sort_by_key(|(_, log)| std::cmp::Reverse(active(log)));
        let listed = rooms.into_iter().map(|(room, log)| {
            let mut listed = self.room(room);
            listed["role"] = "member".into();
            listed["delivered_seq"] = log.delivered_seq.into();
            listed["read_seq"] = 0.into();
            listed["unread_count"] = 0.into();
            listed["last_message"] = Value::Null;
            listed
        });
        listed.collect()
    }

    pub(crate) fn history(&self, room: &str, after: i64, before: i64, limit: usize) -> Value {
        let log = self.log(room);
        let seqs: Vec<_> = (log.first_seq.max(after + 1)..=log.last_seq().min(before - 1)).collect();
        let messages: Vec<_> = seqs.iter().take(limit).map(|&seq| self.message(room, seq)).collect();
        json!({"messages": messages, "has_more": seqs.len() > limit})
    }

    /// What a sync answers for a room: events, and how far they go.
    pub(crate) fn missed(&self, room: &str, after_seq: i64, after_change: i64, page: usize) -> (Vec<Value>, Value) {
        let log = self.log(room);
        let seqs: Vec<_> = (log.first_seq.max(after_seq + 1)..=log.last_seq()).collect();
        let reached = if seqs.len() > page { seqs[page - 1] } else { log.last_seq() };
        let mut events: Vec<_> = seqs.iter().take(page).map(|&seq| self.message_event(room, seq)).collect();
        if seqs.len() > page {
            // Changes last: one of a message that this connection has in its old state may not be passed over.
            return (events, json!({"last_seq": reached, "last_change": after_change, "has_more": true}));
        }
        // Only the latest change of a message is listed.
        let latest = |change: i64, seq: i64| !log.changes[usize::try_from(change).expect("few")..].contains(&seq);
        let changed = (1..).zip(&log.changes).filter(|&(change, &seq)| change > after_change && latest(change, seq));
        let changed: Vec<_> = changed.filter(|&(_, &seq)| seq >= log.first_seq).collect();
        let has_more = changed.len() > page;
        let reached_change = if has_more { changed[page - 1].0 } else { log.last_change() };
        events.extend(changed.iter().take(page).map(|&(change, &seq)| self.change_event(room, seq, change)));
        (events, json!({"last_seq": reached, "last_change": reached_change, "has_more": has_more}))
    }
}
