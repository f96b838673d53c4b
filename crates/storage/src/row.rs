//! Rows of the database as values of the domain.

use chatapi_domain::{Json, Message, Role, Room, RoomType};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::{Error, Result};

/// The place of a column. What follows it in one of the lists below is read by place: finding
/// each column of each row by its name took a fifth of the time of a page of history.
fn place(row: &Row, column: &'static str) -> Result<usize> {
    let found = row.columns().iter().position(|found| found.name() == column);
    found.ok_or_else(|| Error::Corrupt { column, source: "no such column".into() })
}

/// The value of a column by its place.
pub(crate) fn at<'a, T: FromSql<'a>>(row: &'a Row, place: usize, column: &'static str) -> Result<T> {
    row.try_get(place).map_err(|error| Error::Corrupt { column, source: error.into() })
}

/// The value of a column; what the schema should have prevented is [`Error::Corrupt`].
pub(crate) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: &'static str) -> Result<T> {
    row.try_get(column).map_err(|error| Error::Corrupt { column, source: error.into() })
}

/// A word of ours that must be one of a few.
pub(crate) fn word<T>(row: &Row, column: &'static str, parse: fn(&str) -> Option<T>) -> Result<T> {
    let text: &str = get(row, column)?;
    parse(text).ok_or_else(|| Error::Corrupt { column, source: format!("unknown word {text}").into() })
}

/// The role in a column that is null for those who are no members.
pub(crate) fn role(row: &Row) -> Result<Option<Role>> {
    match get::<Option<&str>>(row, "role")? {
        Some(_) => word(row, "role", Role::from_word).map(Some),
        None => Ok(None),
    }
}

fn json(row: &Row, place: usize, column: &'static str) -> Result<Option<Json>> {
    let text: Option<String> = at(row, place, column)?;
    let json = text.map(Json::from_stored).transpose();
    json.map_err(|error| Error::Corrupt { column, source: error.into() })
}

/// The columns that [`room`] reads, in its order, of the table or subquery `r`.
macro_rules! room_columns {
    () => {
        "r.room_id, r.type, r.unique_key, r.name, r.metadata::text as metadata, r.first_seq, r.last_seq, \
         r.last_change, r.member_count, r.created_by, r.created_at, r.updated_at, r.active_at"
    };
}
pub(crate) use room_columns;

pub(crate) fn room(row: &Row) -> Result<Room> {
    let first = place(row, "room_id")?;
    let room_type: &str = at(row, first + 1, "type")?;
    let room_type = RoomType::from_word(room_type);
    Ok(Room {
        room_id: at(row, first, "room_id")?,
        room_type: room_type.ok_or_else(|| Error::Corrupt { column: "type", source: "unknown word".into() })?,
        unique_key: at(row, first + 2, "unique_key")?,
        name: at(row, first + 3, "name")?,
        metadata: json(row, first + 4, "metadata")?,
        first_seq: at(row, first + 5, "first_seq")?,
        last_seq: at(row, first + 6, "last_seq")?,
        last_change: at(row, first + 7, "last_change")?,
        member_count: at(row, first + 8, "member_count")?,
        created_by: at(row, first + 9, "created_by")?,
        created_at: at(row, first + 10, "created_at")?,
        updated_at: at(row, first + 11, "updated_at")?,
    })
}

/// The columns that [`message`] reads, in its order, of the table `m`; named so that a room's columns may stand
/// beside them.
macro_rules! message_columns {
    () => {
        "m.message_id, m.room_id as message_room, m.sender_id, m.seq, m.content, m.meta::text as meta, \
         m.client_message_id, m.created_at as sent_at, m.edited_at, m.deleted_at, m.reply_to"
    };
}
pub(crate) use message_columns;

pub(crate) fn message(row: &Row) -> Result<Message> {
    let first = place(row, "message_id")?;
    Ok(Message {
        message_id: at(row, first, "message_id")?,
        room_id: at(row, first + 1, "message_room")?,
        sender_id: at(row, first + 2, "sender_id")?,
        seq: at(row, first + 3, "seq")?,
        content: at(row, first + 4, "content")?,
        meta: json(row, first + 5, "meta")?,
        client_message_id: at(row, first + 6, "client_message_id")?,
        created_at: at(row, first + 7, "sent_at")?,
        edited_at: at(row, first + 8, "edited_at")?,
        deleted_at: at(row, first + 9, "deleted_at")?,
        reply_to: at(row, first + 10, "reply_to")?,
    })
}

/// The message in a row of an outer join, if there is one.
pub(crate) fn optional_message(row: &Row) -> Result<Option<Message>> {
    if get::<Option<i64>>(row, "seq")?.is_some() { message(row).map(Some) } else { Ok(None) }
}

/// Whether the actor may know of the room `r`, joined with the actor's membership `own`; `$3` is
/// the user, null for the backend. The same rule as [`Standing::see`], for statements that must
/// do no work, and take no time, for a room that is not to be seen.
///
/// [`Standing::see`]: chatapi_domain::access::Standing::see
macro_rules! visible_room {
    () => {
        "rooms r left join room_members own \
           on own.tenant_id = r.tenant_id and own.room_id = r.room_id and own.user_id = $3 \
         where r.tenant_id = $1 and r.room_id = $2 \
           and ($3::text is null or own.user_id is not null or r.type = 'channel')"
    };
}
pub(crate) use visible_room;
