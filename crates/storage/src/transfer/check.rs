//! What the lines of an export must be to each other. Pure: lines in, lines out, or what is wrong.
//!
//! The order makes one pass enough: rooms by their ids, after each its members by theirs, then its
//! messages by `seq`; users last seen by their ids. So one room is all that must be remembered, and
//! whatever is missing, doubled or out of its place shows at once.

use bytes::Bytes;
use chatapi_domain::{Config, Invalid, Name, RoomId, RoomType, UserId, direct_message_key};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::line::{
    AnyHeader, Counts, EndLine, FORMAT, HeaderLine, LastSeenLine, Line, MemberLine, MessageLine, RoomLine, VERSION,
};

/// How far the lines have come.
pub(super) struct Check {
    place: Place,
    counts: Counts,
    digest: Sha256,
}

enum Place {
    /// Among the rooms, in this one.
    Rooms(Option<OpenRoom>),
    /// After the line of this user.
    LastSeen(UserId),
    /// After the last line.
    End,
}

/// A room whose lines are not all there yet.
struct OpenRoom {
    room_id: RoomId,
    kind: RoomType,
    unique_key: Option<String>,
    member_count: i32,
    last_seq: i64,
    last_change: i64,
    /// Its members so far; the first and the last of them.
    members: i32,
    first_member: Option<UserId>,
    last_member: Option<UserId>,
    next_seq: i64,
    in_messages: bool,
}

/// A first line that has been checked.
pub(super) struct Header {
    pub(super) line: HeaderLine,
    pub(super) name: Name,
    pub(super) config: Config,
}

impl Check {
    /// Begins with the first line.
    pub(super) fn begin(line: &[u8]) -> Result<(Self, Header), Invalid> {
        if line.starts_with(&[0x1f, 0x8b]) {
            return Err(Invalid::new("export", "is compressed: unpack it first"));
        }
        let no_export = || Invalid::new("export", "expected the first line of an export of a tenant");
        let text = text(line)?;
        let any: Any = serde_json::from_str(text).map_err(|_| no_export())?;
        if any.export.format != FORMAT {
            return Err(no_export());
        }
        if any.export.version != VERSION {
            let reason = format!("{} is not known: this server reads {VERSION}", any.export.version);
            return Err(Invalid::new("export.version", reason));
        }
        let Line::Export(header) = parse(text)? else { return Err(no_export()) };
        let inside = |wrong: Invalid| Invalid::new(format!("export.tenant.{}", wrong.field), wrong.reason);
        let name = Name::parse("name", header.tenant.name.clone()).map_err(inside)?;
        let config = Config::from_stored(&header.tenant.config).map_err(inside)?;
        let check =
            Self { place: Place::Rooms(None), counts: Counts::default(), digest: Sha256::new_with_prefix(line) };
        Ok((check, Header { line: header, name, config }))
    }

    /// The next line.
    pub(super) fn next<'l>(&mut self, line: &'l [u8]) -> Result<Line<'l>, Invalid> {
        let text = text(line)?;
        let parsed = parse(text)?;
        match &parsed {
            Line::Export(_) => return Err(Invalid::new("export", "is there twice")),
            Line::Room(room) => self.room(room)?,
            Line::Member(member) => self.member(member)?,
            Line::Message(message) => self.message(message)?,
            Line::LastSeen(seen) => self.last_seen(seen)?,
            Line::End(end) => {
                self.end(end, line)?;
                return Ok(parsed);
            }
        }
        self.digest.update(line);
        Ok(parsed)
    }

    /// What there was.
    pub(super) const fn counts(&self) -> Counts {
        self.counts
    }

    fn room(&mut self, line: &RoomLine<'_>) -> Result<(), Invalid> {
        let Place::Rooms(before) = &mut self.place else { return Err(out_of_place("room")) };
        if let Some(before) = before.take() {
            before.close()?;
            if before.room_id >= line.room_id {
                return Err(not_after("room.room_id", &before.room_id));
            }
        }
        *before = Some(OpenRoom::open(line)?);
        self.counts.rooms += 1;
        Ok(())
    }

    fn member(&mut self, line: &MemberLine) -> Result<(), Invalid> {
        let Place::Rooms(Some(room)) = &mut self.place else { return Err(out_of_place("member")) };
        room.member(line)?;
        self.counts.members += 1;
        Ok(())
    }

    fn message(&mut self, line: &MessageLine<'_>) -> Result<(), Invalid> {
        let Place::Rooms(Some(room)) = &mut self.place else { return Err(out_of_place("message")) };
        room.message(line)?;
        self.counts.messages += 1;
        Ok(())
    }

    fn last_seen(&mut self, line: &LastSeenLine) -> Result<(), Invalid> {
        match &mut self.place {
            Place::Rooms(room) => room.take().map_or(Ok(()), |room| room.close())?,
            Place::LastSeen(before) if *before >= line.user_id => return Err(not_after("last_seen.user_id", before)),
            Place::LastSeen(_) => {}
            Place::End => return Err(out_of_place("last_seen")),
        }
        self.place = Place::LastSeen(line.user_id.clone());
        self.counts.last_seen += 1;
        Ok(())
    }

    fn end(&mut self, end: &EndLine<'_>, line: &[u8]) -> Result<(), Invalid> {
        match std::mem::replace(&mut self.place, Place::End) {
            Place::Rooms(Some(room)) => room.close()?,
            Place::Rooms(None) | Place::LastSeen(_) => {}
            Place::End => return Err(out_of_place("end")),
        }
        if end.counts != self.counts {
            let Counts { rooms, members, messages, last_seen } = self.counts;
            let found = format!("{rooms} rooms, {members} members, {messages} messages, {last_seen} last seen");
            return Err(Invalid::new("end.counts", format!("there are {found} before it")));
        }
        if end.sha256 != hex(&mut self.digest) {
            return Err(Invalid::new("end.sha256", "is not that of the lines before: they were changed or damaged"));
        }
        // So that no byte of the file can be another one.
        let exact = serde_json::to_vec(&Line::End(EndLine { counts: end.counts, sha256: end.sha256.as_ref().into() }));
        let exact = exact.is_ok_and(|exact| line.strip_suffix(b"\n") == Some(&exact));
        exact.then_some(()).ok_or_else(|| Invalid::new("end", "is not as it was written"))
    }
}

impl OpenRoom {
    fn open(line: &RoomLine<'_>) -> Result<Self, Invalid> {
        let at_least = |field: &str, least: i64| Invalid::new(field, format!("expected at least {least}"));
        if line.first_seq < 1 {
            return Err(at_least("room.first_seq", 1));
        }
        if line.last_seq < line.first_seq - 1 || line.last_seq == i64::MAX {
            return Err(at_least("room.last_seq", line.first_seq - 1));
        }
        if line.last_change < 0 || line.member_count < 0 {
            return Err(at_least(if line.last_change < 0 { "room.last_change" } else { "room.member_count" }, 0));
        }
        if line.room_type != RoomType::Dm && line.unique_key.is_some() {
            return Err(Invalid::new("room.unique_key", "expected none: only a dm has one"));
        }
        Ok(Self {
            room_id: line.room_id,
            kind: line.room_type,
            unique_key: line.unique_key.as_deref().map(str::to_owned),
            member_count: line.member_count,
            last_seq: line.last_seq,
            last_change: line.last_change,
            members: 0,
            first_member: None,
            last_member: None,
            next_seq: line.first_seq,
            in_messages: false,
        })
    }

    fn member(&mut self, line: &MemberLine) -> Result<(), Invalid> {
        self.is_of("member.room_id", line.room_id)?;
        if self.in_messages {
            return Err(out_of_place("member"));
        }
        if self.members == self.member_count {
            return Err(Invalid::new("member", format!("{} has {} members", self.room_id, self.member_count)));
        }
        if let Some(before) = self.last_member.as_ref().filter(|before| **before >= line.user_id) {
            return Err(not_after("member.user_id", before));
        }
        let between = |field: &str, least: i64| {
            Invalid::new(field, format!("expected {least} to {}, the room's last_seq", self.last_seq))
        };
        if line.read_seq < 0 || line.read_seq > self.last_seq {
            return Err(between("member.read_seq", 0));
        }
        if line.delivered_seq < line.read_seq || line.delivered_seq > self.last_seq {
            return Err(between("member.delivered_seq", line.read_seq));
        }
        self.members += 1;
        self.first_member.get_or_insert_with(|| line.user_id.clone());
        self.last_member = Some(line.user_id.clone());
        Ok(())
    }

    fn message(&mut self, line: &MessageLine<'_>) -> Result<(), Invalid> {
        self.is_of("message.room_id", line.room_id)?;
        if !self.in_messages {
            self.close_members()?;
            self.in_messages = true;
        }
        if line.seq != self.next_seq || line.seq > self.last_seq {
            let expected = if self.next_seq > self.last_seq { "no more".into() } else { self.next_seq.to_string() };
            return Err(Invalid::new("message.seq", format!("expected {expected} in {}", self.room_id)));
        }
        if line.change.is_some_and(|change| change < 1 || change > self.last_change) {
            let reason = format!("expected 1 to {}, the room's last_change", self.last_change);
            return Err(Invalid::new("message.change", reason));
        }
        line.check_texts()?;
        self.next_seq += 1;
        Ok(())
    }

    fn is_of(&self, field: &str, room_id: RoomId) -> Result<(), Invalid> {
        let right = room_id == self.room_id;
        right
            .then_some(())
            .ok_or_else(|| Invalid::new(field, format!("expected {}, whose lines these are", self.room_id)))
    }

    /// Fails unless all members are there.
    fn close_members(&self) -> Result<(), Invalid> {
        if self.members != self.member_count {
            let (found, expected) = (self.members, self.member_count);
            let reason = format!("expected {expected} members of {} before this line, not {found}", self.room_id);
            return Err(Invalid::new("member", reason));
        }
        if self.kind != RoomType::Dm {
            return Ok(());
        }
        let key = match (self.members, &self.first_member, &self.last_member) {
            (2, Some(first), Some(last)) => Some(direct_message_key(first, last)),
            _ => None,
        };
        let right = key.is_some() && key == self.unique_key;
        right.then_some(()).ok_or_else(|| {
            Invalid::new("room.unique_key", format!("does not fit the members of {}, a dm", self.room_id))
        })
    }

    /// Fails unless everything is there.
    fn close(&self) -> Result<(), Invalid> {
        self.close_members()?;
        if self.next_seq <= self.last_seq {
            let reason = format!("expected {} of {} before this line", self.next_seq, self.room_id);
            return Err(Invalid::new("message.seq", reason));
        }
        Ok(())
    }
}

/// A first line of any version.
#[derive(Deserialize)]
struct Any {
    export: AnyHeader,
}

fn out_of_place(field: &str) -> Invalid {
    Invalid::new(field, "is out of its place")
}

fn not_after(field: &str, before: &impl std::fmt::Display) -> Invalid {
    Invalid::new(field, format!("expected one after {before}: they come in order, each once"))
}

/// A whole line as text.
fn text(line: &[u8]) -> Result<&str, Invalid> {
    let cut = || Invalid::new("the line", "is cut: its line feed is missing");
    let line = line.strip_suffix(b"\n").ok_or_else(cut)?;
    std::str::from_utf8(line).map_err(|_| Invalid::new("the line", "is not valid UTF-8"))
}

fn parse(text: &str) -> Result<Line<'_>, Invalid> {
    // Only if it fails it is worth keeping track of the path.
    serde_json::from_str(text).map_err(|error| explain(text, &error))
}

/// The field's path, if the error is in a field, and what would be right.
fn explain(text: &str, error: &serde_json::Error) -> Invalid {
    let without_place = |text: &str| text.rsplit_once(" at line ").map_or(text, |(reason, _)| reason).to_owned();
    if !error.is_data() {
        return Invalid::new("the line", format!("is not valid JSON: {}", without_place(&error.to_string())));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, Line<'_>>(&mut deserializer) {
        Err(located) if located.path().iter().next().is_some() => {
            Invalid::new(located.path().to_string(), without_place(&located.inner().to_string()))
        }
        _ => Invalid::new("the line", without_place(&error.to_string())),
    }
}

/// The sum of what was put in, in hexadecimal.
pub(super) fn hex(digest: &mut Sha256) -> String {
    format!("{:x}", Bytes::copy_from_slice(&digest.finalize_reset()))
}
